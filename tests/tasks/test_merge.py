"""The merged checkpoint is what was evaluated, and a merge that is not is refused."""

import json
import math
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import merge as benchmark
from expectations import merging as judge
from expectations.verdicts import Rejected, require
from retune.chat import chatml_tokenizer, new_tokens
from retune.comparison import CHECK_TOKENS
from retune.embeddings import lora_settings
from retune.errors import RetuneError
from retune.files import size
from retune.folders import ModelRefused
from retune.models import AdapterMismatch, load_base, token_ids
from retune.outline import architecture
from retune.outputs import Step
from retune.recipe import Merging, Model, Recipe, Training
from retune.records import Adapter, Merged, Pins, Selection
from retune.row_losses import held_out
from retune.sources import pin
from retune.tracking import start_run
from tasks.evaluate import child as evaluating
from tasks.evaluate.answering import AskedPrompt
from tasks.evaluate.child import EvaluateJob
from tasks.merge import child, four_bit_child, trained_child
from tasks.merge import task as stage
from tasks.merge.checkpoint import Checkpoint, CheckpointError
from tasks.merge.sources import Base, open_source
from tasks.merge.task import CheckpointDamaged, merge
from tasks.merge.writing import Written, write_model
from tasks.train.task import train
from tests.architectures import SETTINGS, save_base
from tests.tasks.conftest import make_base

PINS = Pins(dataset="sha256:0", model="sha256:0", base_16bit="sha256:0")
ROUNDING = 1e-5  # nats: what sums of some thousand values of float32 may be off by
CHILDREN = {"child": child.merge, "four_bit_child": four_bit_child.quantize}
CHILDREN["trained_child"] = trained_child.ask
ATTENTION = ["q_proj", "v_proj", "down_proj"]
TOKENS = {"model.embed_tokens": [3, 9], "lm_head": [3, 9]}


@pytest.fixture
def in_process(monkeypatch):
    """Do the children's work here: each process would import torch for as long as it works."""
    monkeypatch.setattr(
        stage, "run_child", lambda script, job, log, **_: CHILDREN[script.stem](job)
    )


def recipe_of(project, model: Model | None = None, **merging) -> Recipe:
    return project.recipe(model=model or project.model, merging=Merging(**merging))


def merged_by(project, adapter: Adapter, name: str, model=None, **merging) -> Merged:
    """Merge, and require that what comes out is let pass."""
    recipe = recipe_of(project, model, **merging)
    merged = unjudged(project, adapter, name, recipe)
    require(judge.judgement(merged, recipe))
    return merged


def unjudged(project, adapter: Adapter, name: str, recipe: Recipe) -> Merged:
    pins = Pins(dataset="d", model=pin(recipe.model.base, None, "model", "model.base"))
    if other := recipe.merging.base_16bit:
        pins = pins.model_copy(
            update={"base_16bit": pin(other, None, "model", "merging.base_16bit")}
        )
    onto_original = recipe.merging.onto == "16bit"
    selection = chosen("16bit") if onto_original else None
    step = Step(stage="merge", key={"test": name})
    return merge.fn(adapter, selection, project.chats, recipe, pins, step)


def chosen(onto: str) -> Selection:
    """What select leaves."""
    step = Step(stage="select", key={"test": onto})
    return Selection(step=step, started=datetime.now(UTC), seconds=0, onto=onto)


@pytest.fixture(scope="module")
def merged(project, trained):
    with project.at_home():
        return merged_by(project, trained.adapter, "plain", max_shard_gb=0.0001)


def joined_logits(model, rows):
    """Return what `model` says to each of `rows` (token ids), joined: (tokens, vocabulary)."""
    import torch

    with torch.inference_mode():
        return torch.cat([model(torch.tensor([ids])).logits[0].float() for ids in rows])


def test_merged_and_adapter_model_agree(at_home, trained, merged):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert merged.metrics["changed_share"] == 1
    assert 0.1 < merged.metrics["write_memory_gib"] < 2
    rows = token_ids(at_home.chats.held_out, Merging().check_rows, CHECK_TOKENS)
    base = AutoModelForCausalLM.from_pretrained(at_home.model.base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, trained.adapter.path).eval()
    plain = AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.float32)
    kept, near = joined_logits(tuned, rows), joined_logits(plain, rows)
    with tuned.disable_adapter():
        far = joined_logits(tuned, rows)
    assert (near - kept).abs().max() < 0.02 * (far - kept).abs().max()  # one rounding to bf16
    # Logits that differ by values within a range of r diverge by r² / 8 at most (Hoeffding's lemma),
    # and a first place that leads by more than r keeps it.
    spread = (near - kept).max(-1).values - (near - kept).min(-1).values
    lead = kept.topk(2).values.diff(dim=-1).abs().squeeze(-1)
    metrics = merged.metrics
    assert 0 <= metrics["kl_divergence"] <= (spread**2 / 8).mean() + ROUNDING
    assert metrics["same_top_token"] >= (lead > spread).float().mean()
    assert abs(math.log(metrics["perplexity_ratio"])) <= spread.max() + ROUNDING


def test_the_checkpoint_is_complete(at_home, merged):
    from transformers import AutoTokenizer

    config = json.loads((merged.path / "config.json").read_text())
    generation = json.loads((merged.path / "generation_config.json").read_text())
    index = json.loads((merged.path / "model.safetensors.index.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(merged.path)
    assert config["dtype"] == "bfloat16"
    assert config["vocab_size"] == len(tokenizer)
    assert "quantization_config" not in config
    assert generation["eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.chat_template
    files = {path.name: path.stat().st_size for path in merged.path.glob("*.safetensors")}
    assert set(index["weight_map"].values()) == files.keys()
    assert max(files.values()) < 102_000 < sum(files.values())
    assert {path.name for path in merged.folder.iterdir()} == {
        *("model", "merge.log", "merge.job.json", "output.json")
    }


def forget_chatml(base: Path) -> None:
    """Give the tokens of ChatML in a base's tokenizer other names."""
    for file in base.glob("tokenizer*.json"):
        file.write_text(file.read_text().replace("<|im_", "<|other_"))


class Made:
    """A base model and an adapter of one kind on it, with random weights, in `folder`."""

    def __init__(
        self,
        folder: Path,
        tied: bool = False,
        with_bias: bool = False,
        chat_tokens: str = "map_eos",
        config: str | None = None,
        **lora,
    ) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        self.base, self.adapter = folder / "base", folder / "adapter"
        if config:
            save_base(config, self.base)
        else:
            make_base(self.base, tie_word_embeddings=tied, attention_bias=with_bias)
        if chat_tokens == "add":
            forget_chatml(self.base)
        self.model = Model(base=str(self.base), load_in_4bit=False, chat_tokens=chat_tokens)
        self.tokenizer = chatml_tokenizer(self.model.base, None, chat_tokens)
        self.tokenizer.save_pretrained(self.adapter)
        model = load_base(self.model, None, self.adapter)
        new = new_tokens(self.model.base, None, self.tokenizer, chat_tokens)
        if lora.get("target_modules") == "auto":
            lora["target_modules"] = architecture(model).modules("auto")
        settings = lora_settings(model, new) | lora
        self.tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **settings))
        torch.manual_seed(1)
        for parameter in self.tuned.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        self.tuned.eval().save_pretrained(self.adapter)

    def write(self, folder: Path, base: Path | None = None) -> Written:
        """Merge onto `base`, or what was trained on, into `folder/merged`."""
        onto = Base(name=str(base or self.base), revision=None, setting="model.base")
        source = open_source(self.adapter, onto, self.model, None, self.adapter)
        return write_model(source, self.adapter, folder / "merged", max_bytes=100_000)

    def distances(self, merged: Path) -> tuple[float, float]:
        """Return how far the adapter's probabilities are from the merged model's, and the base's."""
        import torch
        from transformers import AutoModelForCausalLM

        plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
        ids = torch.arange(5, len(self.tokenizer), 5)[None]
        with torch.inference_mode():
            expected, seen = self.tuned(ids).logits.softmax(-1), plain(ids).logits.softmax(-1)
            with self.tuned.disable_adapter():
                base = self.tuned(ids).logits.softmax(-1)
        return (seen - expected).abs().max().item(), (base - expected).abs().max().item()


@pytest.mark.parametrize(
    ("kind", "keeps_tie"),
    [
        ({"use_rslora": True}, None),
        ({"use_dora": True}, None),
        ({"bias": "all", "with_bias": True}, None),
        ({"modules_to_save": ["lm_head", "norm", "mlp"], "target_modules": ["q_proj"]}, None),
        ({"trainable_token_indices": TOKENS}, None),
        ({"target_modules": ["embed_tokens", "lm_head"]}, None),
        ({}, True),
        ({"trainable_token_indices": TOKENS}, True),
        ({"target_modules": ["embed_tokens"]}, False),
        ({"target_modules": ["lm_head"]}, False),
        ({"modules_to_save": ["lm_head"]}, False),
    ],
    ids=str,
)
def test_whatever_peft_trains_is_merged(tmp_path, kind, keeps_tie):
    """`keeps_tie`: the base's embeddings are tied, and whether the merged model's still are."""
    kind = {"target_modules": ATTENTION} | kind
    made = Made(
        tmp_path, tied=keeps_tie is not None, with_bias=kind.pop("with_bias", False), **kind
    )
    written = made.write(tmp_path)
    assert all(written.changed.values())
    near, far = made.distances(tmp_path / "merged")
    assert near < 0.02 * far
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is bool(keeps_tie)
    assert ("lm_head.weight" in written.sums) is not bool(keeps_tie)


@pytest.mark.parametrize("config", SETTINGS)
def test_a_base_keeps_the_names_of_its_files(tmp_path, config):
    """Also where the model in memory has others: experts are one tensor there."""
    made = Made(tmp_path, config=config, target_modules="auto")
    written = made.write(tmp_path)
    assert all(is_other for name, is_other in written.changed.items() if name.endswith(".weight"))
    near, far = made.distances(tmp_path / "merged")
    assert near < 0.03 * far
    assert written.sums.keys() == Checkpoint(str(made.base), None, "model.base").names


def test_experts_that_were_trained_are_not_left_out_without_a_word(tmp_path):
    made = Made(
        tmp_path, config="Qwen3MoeConfig", target_modules=["q_proj"], modules_to_save=["mlp"]
    )
    with pytest.raises(
        CheckpointError, match=r"changes model\.layers\.0\.mlp\.experts\.down_proj"
    ) as error:
        made.write(tmp_path)
    assert error.match("target_modules=auto")


@pytest.mark.parametrize("precision", ["float16", "float32", "4bit"])
def test_bases_stored_in_other_ways(tmp_path, precision):
    import torch
    from transformers import AutoModelForCausalLM

    from retune.models import nf4

    made = Made(tmp_path, target_modules=ATTENTION)
    dtype = torch.bfloat16 if precision == "4bit" else getattr(torch, precision)
    settings = {"quantization_config": nf4(dtype)} if precision == "4bit" else {}
    stored = AutoModelForCausalLM.from_pretrained(made.base, dtype=dtype, **settings)
    stored.save_pretrained(tmp_path / "stored", max_shard_size="40KB")
    made.write(tmp_path, base=tmp_path / "stored")
    near, far = made.distances(tmp_path / "merged")
    assert near < (0.3 if precision == "4bit" else 0.02) * far
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["dtype"] == ("float16" if precision == "float16" else "bfloat16")
    assert "quantization_config" not in config


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_come_with_their_rows(tmp_path, tied):
    """`model.chat_tokens: add`: what was trained has two rows more than the base's files."""
    made = Made(tmp_path, tied, chat_tokens="add", target_modules=ATTENTION)
    written = made.write(tmp_path)
    near, far = made.distances(tmp_path / "merged")
    assert near < 0.02 * far
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["vocab_size"] == len(made.tokenizer) == made.tuned.config.vocab_size
    assert config["tie_word_embeddings"] is tied
    assert all(written.changed.values())


def test_pickled_weights_are_refused(tmp_path):
    made = Made(tmp_path, target_modules=ATTENTION)
    (made.base / "model.safetensors").rename(made.base / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"^model\.base: .*pickled weights \(\.bin\)"):
        made.write(tmp_path)


def test_what_a_base_says_of_code_and_class_is_not_passed_on(tmp_path):
    """llama.cpp's converter chooses by the class what to do, and conform has tried the true one."""
    made = Made(tmp_path, target_modules=ATTENTION)
    file = made.base / "config.json"
    said = {"architectures": ["ChatGLMModel"], "auto_map": {"AutoConfig": "odd.Config"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    made.write(tmp_path)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "auto_map" not in config


def test_an_index_leads_to_no_file_outside_the_base(tmp_path):
    made = Made(tmp_path, target_modules=ATTENTION)
    (made.base / "model.safetensors").rename(tmp_path / "secret.safetensors")
    index = {"weight_map": {"lm_head.weight": "../secret.safetensors"}}
    (made.base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelRefused, match=r"names a file outside its folder \('\.\./secret"):
        made.write(tmp_path)


def test_an_adapter_in_a_pickle_is_not_loaded(tmp_path):
    made = Made(tmp_path, target_modules=ATTENTION)
    (made.adapter / "adapter_model.safetensors").rename(made.adapter / "adapter_model.bin")
    with pytest.raises(AdapterMismatch, match=r"has no adapter_model\.safetensors"):
        made.write(tmp_path)


def test_a_base_whose_files_name_tensors_otherwise_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    made = Made(tmp_path, target_modules=ATTENTION)
    file = made.base / "model.safetensors"
    save_file({f"transformer.{name}": one for name, one in load_file(file).items()}, file)
    with pytest.raises(CheckpointError, match=r"hold no tensor lm_head\.weight \(21 of 21"):
        made.write(tmp_path)


def test_values_beyond_the_precision_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    made = Made(tmp_path, target_modules=ATTENTION)
    file = made.adapter / "adapter_model.safetensors"
    save_file({name: one * 1e25 for name, one in load_file(file).items()}, file)
    with pytest.raises(RetuneError, match=r"^model.layers.0.*values beyond torch\.bfloat16"):
        made.write(tmp_path)


@pytest.mark.proof
def test_memory_grows_with_the_shards_size_not_with_their_number(tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 8000}
    peaks, written = {}, {}
    for layers in (2, 10):
        folder = tmp_path / str(layers)
        benchmark.make(layers, folder, sizes)
        peaks[layers] = benchmark.watched("ours", layers, 9, folder)["peak"]
        written[layers] = [size(file) for file in (folder / "ours").glob("*.safetensors")]
        assert peaks[layers] < 1.3 * max(written[layers]) + 2 * 2**30
    assert len(written[10]) > 2 * len(written[2])
    assert max(written[10]) <= 9_010_000
    assert peaks[10] - peaks[2] < 0.25 * (sum(written[10]) - sum(written[2]))


def altered(trained, name: str, change) -> Adapter:
    """Return a copy of the trained adapter's output with `change` made to its tensors (a dict)."""
    from safetensors.torch import load_file, save_file

    step = Step(stage="train", key={"test": name})
    shutil.copytree(trained.adapter.folder, step.folder)
    adapter = trained.adapter.model_copy(update={"step": step})
    file = adapter.path / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    return adapter


def test_a_checkpoint_that_is_only_the_base_is_refused(at_home, trained, in_process):
    zeroed = altered(
        trained, "zeroed", lambda w: {k: v * ("lora_B" not in k) for k, v in w.items()}
    )
    recipe = recipe_of(at_home)
    merged = unjudged(at_home, zeroed, "zeroed", recipe)
    require_unchanged_is_refused(merged, recipe)


def require_unchanged_is_refused(merged: Merged, recipe: Recipe) -> None:
    """Nothing but that it is the base model speaks against a checkpoint, which is there."""
    assert merged.step.done
    assert (merged.path / "model.safetensors").exists()
    judgement = judge.judgement(merged, recipe)
    assert [verdict.name for verdict in judgement.failed] == ["changed_share"]
    with pytest.raises(Rejected, match="What was trained changes nothing at 16 bits"):
        require(judgement)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("half", lambda w: dict(sorted(w.items())[::2]), r"14 of its 28 tensors are missing"),
        (
            "elsewhere",
            lambda w: {k.replace(".layers.", ".blocks."): v for k, v in w.items()},
            r"28 of its 28 tensors are missing, 28 have no place",
        ),
    ],
)
def test_an_adapter_that_peft_would_only_warn_of_is_refused(
    at_home, trained, in_process, name, change, message
):
    with pytest.raises(AdapterMismatch, match=message):
        merged_by(at_home, altered(trained, name, change), name)


def test_a_tensor_that_is_corrupted_on_the_disk_is_named(at_home, trained, in_process, monkeypatch):
    def write_then_corrupt(source, tokenizer, folder, most):
        written = write_model(source, tokenizer, folder, most)
        file = folder / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-3] ^= 4  # one bit of the last tensor
        file.write_bytes(content)
        return written

    monkeypatch.setattr(child, "write_model", write_then_corrupt)
    with pytest.raises(CheckpointDamaged, match=r"^model\.norm\.weight .*not on the disk as it"):
        merged_by(at_home, trained.adapter, "corrupted")
    assert not Step(stage="merge", key={"test": "corrupted"}).done


def test_a_checkpoint_that_computes_no_number_is_refused_also_when_it_is_read_back(
    at_home, trained, in_process, monkeypatch
):
    nan = {"kl_divergence": math.nan, "perplexity_ratio": math.nan}
    seen = {"child": child.merge, "trained_child": trained_child.ask}

    def run(script, job, log, **_):
        said = seen[script.stem](job)
        return said | {"metrics": said["metrics"] | nan} if script.stem == "child" else said

    monkeypatch.setattr(stage, "run_child", run)
    recipe = recipe_of(at_home)
    merged = unjudged(at_home, trained.adapter, "nan", recipe)
    again = unjudged(at_home, trained.adapter, "nan", recipe)
    assert again.name == "Cached"
    for output in (merged, again.data):
        failed = judge.judgement(output, recipe).failed
        assert [verdict.name for verdict in failed] == ["kl_divergence", "perplexity_ratio"]
        assert (output.path / "model.safetensors").exists()


def test_a_limit_is_no_reason_to_merge_again(at_home, merged):
    stricter = recipe_of(at_home, max_kl_divergence=1e-9, max_shard_gb=0.0001)
    again = merge.fn(None, None, at_home.chats, stricter, PINS, merged.step)
    assert again.data == merged
    failed = judge.judgement(again.data, stricter).failed
    assert [verdict.setting for verdict in failed] == ["merging.max_kl_divergence"]


class TestTrainedOn4Bits:
    """On a CPU nothing trains in 4 bits; an adapter on a base that is loaded so stands for one."""

    @pytest.fixture
    def model(self, project):
        return project.model.model_copy(update={"load_in_4bit": True})

    def test_it_is_merged_on_what_its_weights_stand_for(self, at_home, trained, in_process, model):
        merged = merged_by(at_home, trained.adapter, "4bit", model, save_method="merged_4bit")
        seen = merged.metrics
        assert merged.params == {"merged_onto": "dequantized"}
        assert {path.name for path in merged.folder.iterdir()} == {
            *("model", "model-4bit", "output.json")
        }
        assert merged.models == ("model", "model-4bit")
        stored = json.loads((merged.four_bit / "config.json").read_text())
        assert stored["quantization_config"]["bnb_4bit_quant_type"] == "nf4"
        # Rounding costs less than quantizing.
        assert seen["kl_divergence"] < seen["kl_divergence/4bit"]
        assert seen["same_top_token/4bit"] <= 1 < seen["perplexity/4bit"]

    def test_it_is_merged_on_the_original_that_it_was_evaluated_on(
        self, at_home, trained, in_process, model
    ):
        merged = merged_by(at_home, trained.adapter, "16bit", model, onto="16bit")
        assert merged.params == {"merged_onto": "16bit"}
        plain = merged_by(at_home, trained.adapter, "trained on 16 bits")
        weights = [(made.path / "model.safetensors").read_bytes() for made in (merged, plain)]
        assert weights[0] == weights[1]
        assert merged.metrics["kl_divergence"] == plain.metrics["kl_divergence"]

    def test_a_base_that_is_stored_in_4_bits_is_not_rounded_again(self, at_home, trained, tmp_path):
        model = at_home.model.model_copy(update={"base": "stored", "load_in_4bit": True})
        recipe = recipe_of(at_home, model)
        work = stage.MergeSession(trained.adapter, None, at_home.chats, recipe, PINS, tmp_path)
        told = {"in_4bit": ["a"], "stored": True}
        assert work.base(told) == Base(
            name="stored", revision=None, setting="model.base", weights="dequantized"
        )
        assert work.base(told | {"stored": False}).rounded == ("a",)


@pytest.fixture(scope="module")
def full(project):
    """What train leaves of a full fine-tuning, as `Adapter`."""
    settings = Training(
        **{"backend": "trl", "method": "full", "learning_rate": 1e-3, "optimizer": "adamw_torch"},
        **{"max_steps": 12, "warmup_steps": 0, "batch_size": 8, "gradient_accumulation": 1},
        packing=False,
    )
    recipe = project.recipe(name="full", training=settings)
    with project.at_home(), start_run(recipe, "full", {}) as run:
        step = Step(stage="train", key={"test": "full"})
        return train.fn(project.chats, run, recipe, project.pins, step)


class TestFullFineTuning:
    def test_it_is_evaluated_beside_its_base(self, at_home, full, tmp_path):
        job = EvaluateJob(
            held_out=held_out(at_home.chats, at_home.recipe()),
            tokenizer=at_home.chats.tokenizer,
            adapter=full.path,
            model=at_home.model,
            revision=None,
            original=None,
            batch_size=None,
            prompts=[
                AskedPrompt(messages=[{"role": "user", "content": "say red"}], max_new_tokens=4)
            ],
            log=tmp_path / "answers",
        )
        seen = evaluating.evaluate(job)
        base, tuned = (sum(row.nats for row in seen["losses"][side]) for side in ("base", "tuned"))
        assert tuned < 0.8 * base
        assert seen["answers"]["base"] != seen["answers"]["tuned"]

    def test_its_merge_is_what_was_trained(self, at_home, full, in_process):
        import torch
        from transformers import AutoModelForCausalLM

        merged = merged_by(at_home, full, "full")
        assert merged.metrics["kl_divergence"] <= ROUNDING  # not a weight is another
        assert merged.metrics["changed_share"] == 1
        trained = AutoModelForCausalLM.from_pretrained(full.path, dtype=torch.bfloat16)
        stored = AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.bfloat16)
        for name, tensor in trained.state_dict().items():
            assert torch.equal(tensor, stored.state_dict()[name])

    def test_a_base_that_was_not_trained_is_refused(self, at_home, full, in_process):
        step = Step(stage="train", key={"test": "untrained"})
        shutil.copytree(at_home.model.base, step.folder / "adapter")
        untrained = full.model_copy(update={"step": step})
        recipe = recipe_of(at_home)
        require_unchanged_is_refused(unjudged(at_home, untrained, "untrained", recipe), recipe)
