"""The demo's base model: a small Llama and its tokenizer, pretrained on the spot.

It exists so that the whole line can be tried in minutes without a GPU or a download. It is a real
Llama with a byte-level BPE tokenizer, so every tool downstream treats it like an 8B one.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from demo import dataset, text

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] }}\n{{ m['content'] }}{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Llama 3's own pattern: llama.cpp knows it as `llama-bpe`.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Merges are learned from finer pieces, so that digits and punctuation always stay single tokens:
# place values can then be compared, and `lemon` is the same token after a dash as after a new line.
LEARNING_PATTERN = r"\p{N}|[^\s\p{L}\p{N}]| ?\p{L}+|\s"


@dataclass(frozen=True)
class Size:
    """What is trained, and for how long; the defaults take two minutes on two cores."""

    vocabulary: int = 1024
    layers: int = 5
    steps: int = 480
    sequences: int = 16
    tokens: int = 64
    learning_rate: float = 3e-3
    seed: int = 0


def pretrain(into: Path, size: Size = Size(), progress: Callable[[str], None] = print) -> None:
    """Train tokenizer and model, and save both to the folder `into`."""
    import torch

    torch.manual_seed(size.seed)
    tokenizer = train_tokenizer(size.vocabulary, size.seed)
    model = _new_model(tokenizer, size)
    _train(model, _packed(tokenizer, size), size, progress)
    model.save_pretrained(into)
    save_tokenizer(tokenizer, into)


def train_tokenizer(vocabulary: int, seed: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer with ChatML's two tokens; it never adds a BOS."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def cut(pattern: str) -> pre_tokenizers.PreTokenizer:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, as_bytes])

    core = Tokenizer(models.BPE(ignore_merges=True))
    core.pre_tokenizer = cut(LEARNING_PATTERN)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    statements = itertools.islice(text.documents(seed), 8000)
    questions = (m["value"] for row in dataset.make(seed, 3000) for m in row["conversations"])
    roles = ["system\nuser\nassistant"] * 50
    core.train_from_iterator(itertools.chain(statements, questions, roles), trainer)
    core.pre_tokenizer = cut(LLAMA3_PATTERN)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, model_max_length=1024
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [START]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: "PreTrainedTokenizerFast", into: Path) -> None:
    """Save it, with what transformers 5 leaves out and llama.cpp's converter reads: which tokens
    are special, and that none is added."""
    tokenizer.save_pretrained(into)
    path = into / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["add_bos_token"] = settings["add_eos_token"] = False
    settings["added_tokens_decoder"] = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in json.loads((into / "tokenizer.json").read_text())["added_tokens"]
    }
    path.write_text(json.dumps(settings, indent=2))


def _new_model(tokenizer: "PreTrainedTokenizerFast", size: Size) -> "LlamaForCausalLM":
    from transformers import LlamaConfig, LlamaForCausalLM

    # Every row is a multiple of 256 long: k-quants fall back silently on anything else.
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=size.layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    _initialise(model)
    return model


def _initialise(model: "LlamaForCausalLM") -> None:
    """Start with larger weights than transformers does (0.02): at this width attention would begin
    so flat that copying is not found in a few hundred steps."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_tokens" in name:
                weight.normal_(0, 0.1)
            elif weight.ndim == 2:
                writes_to_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
                weight.normal_(0, (0.3 if writes_to_stream else 1.0) * weight.shape[1] ** -0.5)


def _packed(tokenizer: "PreTrainedTokenizerFast", size: Size) -> "Tensor":
    """All training tokens, `steps x sequences x tokens`; documents run on across sequences."""
    import torch

    wanted = size.steps * size.sequences * size.tokens
    ids: list[int] = []
    for document in text.documents(size.seed + 1):
        if len(ids) >= wanted:
            break
        ids += tokenizer.encode(f"{START}{document}{END}\n")
    return torch.tensor(ids[:wanted]).view(size.steps, size.sequences, size.tokens)


def _train(
    model: "LlamaForCausalLM", batches: "Tensor", size: Size, progress: Callable[[str], None]
) -> None:
    """AdamW with a short warm-up and a cosine to nothing, in fp32: on a CPU without AMX, bf16 is
    slower, and torch.compile takes half as long as the whole training."""
    import math

    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=size.learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    warm_up = max(1, size.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / size.steps)),
    )
    model.train()
    for step, batch in enumerate(batches, start=1):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress(f"step {step} of {size.steps}, loss {loss.item():.3f}")
