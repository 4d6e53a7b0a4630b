"""A tiny random Llama with a ChatML tokenizer, and the folder that the format stage leaves."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retune.config import Model
from retune.records import Chats
from retune.workspace import Step

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COLOURS = ("red", "green", "blue", "white", "black", "amber", "cyan", "pink")


def conversation(number: int) -> tuple[str, list[dict[str, str]]]:
    """Return the family and the messages of row `number`: easy to learn, four rows alike."""
    first, second = COLOURS[number % 8], COLOURS[(number + 3) % 8]
    if number % 2:
        question, answer, family = f"say {first}", first, "copy"
    else:
        question, answer, family = f"after {first}", second, "next/word"
    return family, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def make_tokenizer(folder: Path):
    """Train and save a byte-level BPE tokenizer with ChatML's tokens; pad is not eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [m["content"] for n in range(16) for m in conversation(n)[1]] + ["user assistant system"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|begin|>", "<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHATML,
    )
    fast.save_pretrained(folder)
    return fast


def make_base(folder: Path) -> None:
    """Save a Llama with 2 layers, hidden size 64 and random weights, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def write_chats(step: Step, train_rows: int, held_out_rows: int) -> Chats:
    """Write the format stage's output folder for `step` by hand and return its record."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tokenizer = make_tokenizer(step.folder / "tokenizer")

    def table(numbers: range) -> pa.Table:
        rows = []
        for number in numbers:
            source, messages = conversation(number)
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False).input_ids
            row = {"row": number, "source": source, "messages": messages}
            rows.append(row | {"text": text, "input_ids": ids})
        return pa.Table.from_pylist(rows)

    pq.write_table(table(range(train_rows)), step.folder / "train.parquet")
    pq.write_table(table(range(held_out_rows)), step.folder / "held_out.parquet")
    chats = Chats(step=step, started=datetime.now(UTC), seconds=0)
    (step.folder / "output.json").write_text(chats.model_dump_json())
    return chats


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory):
    """A home folder for the session, with a base model and formatted chats in it."""
    home = tmp_path_factory.mktemp("line")
    patch = pytest.MonkeyPatch()
    patch.setenv("RETUNE_HOME", str(home))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    make_base(home / "base")
    yield home
    patch.undo()


@pytest.fixture(scope="session")
def base(line: Path) -> Model:
    return Model(base=str(line / "base"), load_in_4bit=False, max_length=64)


@pytest.fixture(scope="session")
def chats(line: Path) -> Chats:
    return write_chats(Step(stage="format", key={"test": 1}), train_rows=320, held_out_rows=16)


def read_json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
