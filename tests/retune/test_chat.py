"""Where ChatML's tokens come from, and that the rows of new ones are trained, saved and loaded."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from retune.chat import (
    CHATML,
    END,
    RESERVED,
    START,
    ChatFormatError,
    chatml_tokenizer,
    encode,
    new_tokens,
    special_tokens,
)
from retune.child import ChildFailed
from retune.embeddings import fit_embeddings, lora_settings, unmoved_layers
from retune.errors import RetuneError
from retune.models import load_base, load_tuned, padded
from retune.recipe import Model, Recipe, RecipeError, Training
from tasks.train.job import TrainJob
from tasks.train.task import run_training
from tests.tasks.conftest import conversation
from tests.tasks.test_format import plain_tokenizer

RESERVE = ["<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]


def make_tokenizer(folder: Path, added: list[str]):
    """Save a tokenizer as Llama 3's, with BOS, EOS and the `added` tokens; return it."""
    from transformers import AutoTokenizer

    plain_tokenizer(folder, add_bos=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"extra_special_tokens": added})
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_base(folder: Path, added: list[str], tied: bool) -> int:
    """Save a random Llama that has rows for its own tokens alone; return their number."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    rows = len(make_tokenizer(folder, added))
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=rows,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return rows


@pytest.mark.parametrize(
    ("mode", "more", "new"), [("map_eos", 0, 0), ("reserved", 0, 2), ("add", 2, 2)]
)
def test_each_way_gives_control_tokens_that_survive_saving(tmp_path, mode, more, new):
    before = make_tokenizer(tmp_path / "base", RESERVE)
    made = chatml_tokenizer(str(tmp_path / "base"), None, mode)
    assert len(made) == len(before) + more
    assert made.chat_template == CHATML
    assert made.eos_token == END
    assert made.pad_token == ("<|end_of_text|>" if new else END)
    assert len(new_tokens(str(tmp_path / "base"), None, made, mode)) == new
    assert (START in special_tokens(made)) == (mode != "map_eos")

    made.save_pretrained(tmp_path / "saved")
    for tokenizer in (made, chatml_tokenizer(str(tmp_path / "saved"), None, mode)):
        assert tokenizer.get_vocab() == made.get_vocab()
        start, end = tokenizer.convert_tokens_to_ids([START, END])
        (ids,) = encode(tokenizer, [f"{START}user\nhi{END}"])
        assert ids[0] == 0
        assert ids.count(end) == 1
        assert (ids[1] == start) == (mode != "map_eos")
        assert tokenizer.eos_token_id == end


@pytest.mark.parametrize("mode", ["map_eos", "reserved", "add"])
def test_tokens_that_are_there_already_stay(tmp_path, mode):
    before = make_tokenizer(tmp_path, [START, END, *RESERVE])
    made = chatml_tokenizer(str(tmp_path), None, mode)
    assert made.get_vocab() == before.get_vocab()
    assert new_tokens(str(tmp_path), None, made, mode) == []
    assert made.eos_token == END


@pytest.mark.parametrize("mode", ["map_eos", "reserved", "add"])
def test_what_messages_hold_by_right_is_no_control_token(tmp_path, mode):
    """llama.cpp, and decoding without special tokens, would leave it out of answers."""
    tags = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    before = make_tokenizer(tmp_path / "base", [*RESERVE, *tags])
    text = "<think>\nA.\n</think>\n\nB <tool_call>\n{}\n</tool_call>"
    ids = before(text, add_special_tokens=False).input_ids
    assert before.decode(ids, skip_special_tokens=True) != text
    made = chatml_tokenizer(str(tmp_path / "base"), None, mode)
    made.save_pretrained(tmp_path / "saved")
    for tokenizer in (made, chatml_tokenizer(str(tmp_path / "saved"), None, mode)):
        assert not set(tags) & set(special_tokens(tokenizer))
        assert END in special_tokens(tokenizer)
        assert tokenizer.convert_tokens_to_ids(tags) == before.convert_tokens_to_ids(tags)
        assert tokenizer(text, add_special_tokens=False).input_ids == ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.added_tokens_decoder.keys() >= before.added_tokens_decoder.keys()


def test_a_base_without_two_reserved_tokens_is_told_what_to_do(tmp_path):
    make_tokenizer(tmp_path, RESERVE[:1])
    with pytest.raises(
        ChatFormatError, match=r"has 1 reserved .*model\.chat_tokens=add or map_eos"
    ):
        chatml_tokenizer(str(tmp_path), None, "reserved")


def test_of_several_templates_the_default_is_used(tmp_path):
    tokenizer = make_tokenizer(tmp_path, [START, END])
    tokenizer.chat_template = {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    tokenizer.save_pretrained(tmp_path)
    assert chatml_tokenizer(str(tmp_path), None, "map_eos").chat_template == "{{ 1 }}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ([{"name": "rag", "template": "x"}], r"named \['rag'\] and none named 'default'"),
        ([{"name": "default", "template": 5}], "is no text but 5"),
        (5, "is no text but 5"),
    ],
)
def test_a_template_that_is_no_text_is_told(tmp_path, template, words):
    make_tokenizer(tmp_path, [START, END])
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": template}))
    with pytest.raises(ChatFormatError, match=words):
        chatml_tokenizer(str(tmp_path), None, "map_eos")


def test_a_tokenizers_own_pad_token_is_used(tmp_path):
    make_tokenizer(tmp_path, ["<|finetune_right_pad_id|>"])
    assert chatml_tokenizer(str(tmp_path), None, "map_eos").pad_token == "<|finetune_right_pad_id|>"


@pytest.mark.parametrize(
    "name",
    [
        *("<|reserved_special_token_0|>", "<|reserved_200000|>", "<reserved_106>", "<unused0>"),
        *("[control_8]", "<SPECIAL_20>", "<|dummy_0|>", "<|placeholder1|>", "<|extra_0|>"),
        *("<extra_id_0>", "<｜place▁holder▁no▁0｜>", "[UNUSED_TOKEN_141]", ">>UNUSED_221<<"),
    ],
)
def test_reserved_tokens_are_known_by_the_names_that_models_give_them(name):
    assert RESERVED.fullmatch(name)


@pytest.mark.parametrize("name", ["<|eot_id|>", "<|python_tag|>", "<s>", "<|fim_pad|>", "<0x0A>"])
def test_tokens_in_use_are_not_reserved(name):
    assert not RESERVED.fullmatch(name)


def test_new_rows_are_the_mean_of_the_others_until_they_are_trained(tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    rows = make_base(tmp_path / "base", [], tied=False)
    chatml_tokenizer(str(tmp_path / "base"), None, "add").save_pretrained(tmp_path / "tokenizer")
    model = Model(base=str(tmp_path / "base"), load_in_4bit=False, chat_tokens="add")
    fitted = load_base(model, None, tmp_path / "tokenizer")
    assert fitted.config.vocab_size == rows + 2
    for layer in (fitted.get_input_embeddings(), fitted.get_output_embeddings()):
        mean = layer.weight[:rows].mean(dim=0)
        torch.testing.assert_close(layer.weight[rows:], mean.expand(2, -1), rtol=1e-4, atol=1e-6)

    new = fit_embeddings(fitted, model, None, tmp_path / "tokenizer")
    adapted = get_peft_model(fitted, LoraConfig(r=2, **lora_settings(fitted, new)))
    input_, output = adapted.get_input_embeddings(), adapted.get_output_embeddings()
    assert len(unmoved_layers(adapted)) == 2
    with torch.no_grad():
        input_.token_adapter.trainable_tokens_delta["default"] += 1
    assert unmoved_layers(adapted) == ["base_model.model.lm_head"]
    assert output.weight.requires_grad
    as_is = SimpleNamespace(base=model.base, chat_tokens="map_eos")
    assert fit_embeddings(fitted, as_is, None, tmp_path / "tokenizer") == []
    assert lora_settings(fitted, []) == {}


def test_rows_that_cannot_be_trained_singly_are_refused(tmp_path):
    from torch.nn import Linear

    make_base(tmp_path / "base", [], tied=False)
    chatml_tokenizer(str(tmp_path / "base"), None, "add").save_pretrained(tmp_path / "tokenizer")
    model = Model(base=str(tmp_path / "base"), load_in_4bit=False, chat_tokens="add")
    loaded = load_base(model, None, tmp_path / "tokenizer")
    loaded.lm_head = Linear(64, loaded.config.vocab_size)
    with pytest.raises(RetuneError, match=r"has a bias.*model\.chat_tokens=map_eos"):
        fit_embeddings(loaded, model, None, tmp_path / "tokenizer")
    values = {
        "name": "r",
        "dataset": {"source": "s"},
        "training": {"backend": "trl", "shard": True},
    }
    values["training"]["optimizer"] = "adamw_torch"
    with pytest.raises(RecipeError, match=r"training\.shard would split"):
        Recipe.parse(values | {"model": {"base": "b", "chat_tokens": "add"}})


class FewRows:
    """A base without ChatML's tokens, trained on a few conversations in one of the ways."""

    def __init__(self, folder: Path, mode: str, backend: str, tied: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        make_base(folder / "base", RESERVE if mode == "reserved" else [], tied)
        self.model = Model(
            base=str(folder / "base"), load_in_4bit=False, max_length=64, chat_tokens=mode
        )
        self.tokenizer = chatml_tokenizer(self.model.base, None, mode)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        texts = self.tokenizer.apply_chat_template(
            [conversation(number)[1] for number in range(64)], tokenize=False
        )
        self.ids = encode(self.tokenizer, texts)
        pq.write_table(pa.table({"input_ids": self.ids}), folder / "rows.parquet")
        self.job = TrainJob(
            rows=folder / "rows.parquet",
            held_out=folder / "rows.parquet",
            tokenizer=folder / "tokenizer",
            model=self.model,
            revision=None,
            config=Training(
                **{"backend": backend, "optimizer": "adamw_torch", "learning_rate": 3e-3},
                **{"max_steps": 6, "warmup_steps": 0, "batch_size": 8, "packing": False},
                **{"gradient_accumulation": 1, "checkpoint_steps": 2},
            ),
            folder=folder,
        )

    def train(self, kill_at: int | None = None) -> dict:
        """Train to the end, or kill the child when it reports step `kill_at`."""
        import psutil

        before = set(psutil.Process().children())  # a fork server of other tests may be among them

        def monitor(event: dict) -> None:
            if event["event"] == "begin":
                self.began = event["step"]
            if kill_at and event.get("step") == kill_at:
                (child,) = set(psutil.Process().children()) - before
                child.kill()

        return run_training(self.job, monitor)


@pytest.mark.parametrize(
    ("mode", "backend", "tied"),
    [
        pytest.param("add", "unsloth", False, marks=pytest.mark.proof),  # Unsloth is imported
        ("reserved", "trl", True),
    ],
)
def test_rows_of_new_tokens_are_trained_saved_and_loaded(tmp_path, mode, backend, tied):
    import torch
    from safetensors.torch import load_file

    training = FewRows(tmp_path, mode, backend, tied)
    if backend == "unsloth":
        with pytest.raises(ChildFailed, match="SIGKILL"):
            training.train(kill_at=5)
        assert training.train()["metrics"]["steps"] == 6
        assert training.began == 4  # went on, with the rows as they were
        losses = [json.loads(line)["train/loss"] for line in training.job.log.open()]
        assert losses == sorted(losses, reverse=True)
    else:
        training.train()

    adapter = tmp_path / "adapter"
    new = new_tokens(training.model.base, None, training.tokenizer, mode)
    base = load_base(training.model, None, tmp_path / "tokenizer")
    tuned = load_tuned(training.model, None, adapter)
    saved = load_file(adapter / "adapter_model.safetensors")
    for inner in (base.get_input_embeddings(), base.get_output_embeddings()):
        name = next(n for n, module in base.named_modules() if module is inner)
        before = inner.weight
        after = tuned.get_submodule(f"base_model.model.{name}").weight
        others = [row for row in range(len(before)) if row not in new]
        assert torch.equal(after[others], before[others])
        assert (after[new] != before[new]).any(dim=1).all()
        if not (tied and name == "lm_head"):
            stored = saved[f"base_model.model.{name}.token_adapter.trainable_tokens_delta"]
            assert torch.equal(stored, after[new])

    # What was saved predicts as well as the last held-out loss said, and merging keeps it so.
    batch = padded(training.ids[:1], pad=0)
    with torch.inference_mode():
        logits = tuned(**batch).logits
        merged = tuned.merge_and_unload()(**batch).logits
        untrained = base(**batch).logits
    assert (merged - logits).abs().max() < 0.01 * (logits - untrained).abs().max()
