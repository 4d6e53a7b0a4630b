"""The merged checkpoint is what was trained, and a merge that is not is refused."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from retune.config import Merging
from retune.workspace import Step
from tasks.merge import MergeMismatch, merge, require_match


@pytest.fixture(scope="module")
def merged(project, trained):
    with project.at_home():
        config = Merging(max_shard_gb=0.0001)
        step = Step(stage="merge", key={"test": 1})
        return merge.fn(trained.adapter, project.chats, project.model, config, step, None)


def test_merged_and_adapter_model_agree(at_home, trained, merged):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert 0 <= merged.metrics["kl"] < 1e-3
    assert merged.metrics["top1_agreement"] > 0.98
    assert merged.metrics["changed_share"] == 1
    ids = torch.tensor([pq.read_table(at_home.chats.held_out)["input_ids"][0].as_py()])
    base = AutoModelForCausalLM.from_pretrained(at_home.model.base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, trained.adapter.path).eval()
    plain = AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.float32)
    with torch.inference_mode():
        expected, seen = tuned(ids).logits.softmax(-1), plain(ids).logits.softmax(-1)
        torch.testing.assert_close(seen, expected, atol=0.03, rtol=0)
        with tuned.disable_adapter():
            assert (tuned(ids).logits.softmax(-1) - expected).abs().max() > 0.5


def test_the_checkpoint_is_complete(at_home, merged):
    from transformers import AutoTokenizer

    config = json.loads((merged.path / "config.json").read_text())
    generation = json.loads((merged.path / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(merged.path)
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    assert generation["eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.chat_template
    assert len(list(merged.path.glob("*.safetensors"))) > 1
    assert not (merged.folder / "logits").exists()


def test_a_checkpoint_that_is_only_the_base_is_refused(at_home, trained, tmp_path):
    from safetensors.torch import load_file, save_file

    step = Step(stage="train", key={"test": "zeroed"})
    shutil.copytree(trained.adapter.folder, step.folder)
    zeroed = trained.adapter.model_copy(update={"step": step})
    file = zeroed.path / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({k: v * ("lora_B" not in k) for k, v in weights.items()}, file)
    merging = Step(stage="merge", key={"test": "zeroed"})
    with pytest.raises(MergeMismatch, match="holds the base model's weights"):
        merge.fn(zeroed, at_home.chats, at_home.model, Merging(), merging, None)
    assert not merging.folder.exists()


@pytest.mark.parametrize("kl", [0.2, float("nan")])
def test_a_divergence_beyond_the_tolerance_is_refused(kl):
    metrics = {"changed_share": 1.0, "kl": kl, "top1_agreement": 0.7}
    with pytest.raises(MergeMismatch, match=r"max_kl allows 0\.05.*70\.0%"):
        require_match(metrics, Merging())
