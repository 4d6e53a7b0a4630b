"""The doors of other libraries that we use and that nobody promises to keep open, one test each.

Private names, patched functions, undocumented variables, texts that we look for in what they print.
When the lock is renewed, run this first: a door that is gone fails here with the name of our file behind
it, rather than in the middle of a run. Importing Unsloth changes the others, so its files are read.
"""

import ast
import inspect
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from retune.outline import MAMBA_LAYERS, MAMBA_TYPES
from tests.test_house import ROOT


def door(ours: str, library: str, is_open: Any, what: str) -> None:
    """Fail, unless the door is open, with a sentence on what our file relies on.

    One of the names in `what`, or of the words in backticks there, must stand in that file.
    """
    text = (ROOT / ours).read_text(encoding="utf-8")
    names = re.findall(r"`([^`]+)`|(\w*_\w+|[A-Za-z]*[a-z][A-Z]\w*|[A-Z]{2}\w+)", what)
    assert any("".join(name) in text for name in names), f"{ours} has nothing of `{what}`"
    version = metadata.version(library)
    assert is_open, f"{ours} relies on {what}; {library} {version} has it no longer: look at both"


def takes(function: Any, *names: str) -> bool:
    """Tell whether a function has parameters of these names."""
    return set(names) <= inspect.signature(function).parameters.keys()


@cache
def source(package: str, *path: str) -> str:
    """Return the text of a file of a package, empty if it is not there; nothing is imported."""
    found = find_spec(package)
    assert found, package
    assert found.submodule_search_locations
    file = Path(found.submodule_search_locations[0], *path)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def says(package: str, words: str, files: Iterable[str]) -> bool:
    return any(words in source(package, *file.split("/")) for file in files)


def parameters(text: str, function: str) -> set[str]:
    """Return the parameters of all functions of that name in a Python source."""
    return {
        argument.arg
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == function
        for argument in (*node.args.args, *node.args.kwonlyargs)
    }


def assigned(text: str) -> set[str]:
    """Return the names that a Python source binds at its top."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


class TestTransformers:
    def test_templates_are_compiled_by_one_private_function(self):
        """Of a file that is loaded beside stand-ins for its neighbours."""
        code = (
            "from retune.templates.child import transformers_compiler as c;"
            "print(c()('{{ messages[0] }}{% generation %}b{% endgeneration %}').render(messages='a'))"
        )
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        what = "transformers/utils/chat_template_utils.py with _compile_jinja_template and no more "
        what += f"neighbours than it stands in for ({done.stderr[-300:]})"
        door("retune/templates/child.py", "transformers", done.stdout == "ab\n", what)

    def test_a_models_code_runs_through_three_functions(self):
        from transformers import dynamic_module_utils as dynamic

        from retune.loaders import RESOLVER, RUNNERS

        for name in (*RUNNERS, RESOLVER):
            what = f"transformers.dynamic_module_utils.{name}, which it replaces"
            door("retune/loaders.py", "transformers", hasattr(dynamic, name), what)
        first = list(
            inspect.signature(inspect.unwrap(dynamic.resolve_trust_remote_code)).parameters
        )
        wanted = ["trust_remote_code", "model_name", "has_local_code", "has_remote_code"]
        what = f"{RESOLVER}{(*wanted,)}, in this order"
        door("retune/loaders.py", "transformers", first[:4] == wanted, what)

    def test_nothing_else_runs_a_models_code(self):
        """Where `exec_module` stands in transformers' loading of code, one of ours is before it."""
        tree = ast.parse(source("transformers", "dynamic_module_utils.py"))
        runners = {
            function.name
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Attribute) and node.attr == "exec_module"
        }
        what = "get_class_in_module as the one place where transformers runs a model's code"
        door("retune/loaders.py", "transformers", runners == {"get_class_in_module"}, what)

    def test_allowed_code_is_registered_as_transformers_own(self):
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
        from transformers.models.auto import auto_factory
        from transformers.utils import hub

        mixin = "add_generation_mixin_to_remote_model"
        door("retune/loaders.py", "transformers", hasattr(auto_factory, mixin), mixin)
        for kind in (AutoConfig, AutoModelForCausalLM, AutoTokenizer):
            what = f"{kind.__name__}.register(…, exist_ok)"
            door("retune/loaders.py", "transformers", takes(kind.register, "exist_ok"), what)
        seen = getattr(hub, "TRANSFORMERS_DYNAMIC_MODULE_NAME", "transformers_modules")
        what = "transformers_modules as the package of foreign code"
        door("retune/loaders.py", "transformers", seen == "transformers_modules", what)

    def test_what_it_knows_is_in_its_tables(self):
        from transformers.models.auto import tokenization_auto
        from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

        known = "llama" in CONFIG_MAPPING_NAMES and "llama" in CONFIG_MAPPING
        door("retune/inspection.py", "transformers", known, "CONFIG_MAPPING_NAMES, CONFIG_MAPPING")
        known = {"gptq", "awq"} <= set(AUTO_QUANTIZATION_CONFIG_MAPPING)
        door("retune/inspection.py", "transformers", known, "AUTO_QUANTIZATION_CONFIG_MAPPING")
        for name in (
            *("MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", "TOKENIZER_MAPPING_NAMES"),
            "tokenizer_class_from_name",
        ):
            is_open = hasattr(tokenization_auto, name)
            door("retune/inspection.py", "transformers", is_open, f"tokenization_auto.{name}")

    def test_a_loaded_configuration_tells_its_commit(self):
        from transformers import PretrainedConfig

        is_open = hasattr(PretrainedConfig(), "_commit_hash")
        door("tasks/validate/scoring_child.py", "transformers", is_open, "config._commit_hash")

    def test_a_hub_that_is_not_reached_is_told_in_these_words(self):
        is_open = says("transformers", "couldn't connect", ["utils/hub.py"])
        what = "the words `couldn't connect` in the error"
        door("tasks/validate/scoring_child.py", "transformers", is_open, what)

    def test_a_missing_file_may_be_none(self):
        """`cached_file` passes a private option on."""
        from transformers.utils import hub

        is_open = takes(hub.cached_files, "_raise_exceptions_for_missing_entries")
        what = "cached_file(…, _raise_exceptions_for_missing_entries)"
        door("retune/loaders.py", "transformers", is_open, what)

    def test_a_tokenizers_file_is_read_by_a_modules_json(self):
        """What it has read is not read again; without this door it would be, slower and no worse."""
        file = "tokenization_utils_tokenizers.py"
        is_open = says("transformers", "json.load(tokenizer_handle)", [file])
        door("retune/loaders.py", "transformers", is_open, "tokenization_utils_tokenizers.json")

    def test_patterns_of_weights_are_compiled_once(self):
        """Of the fork server's children each would do it otherwise, slower and no worse."""
        from transformers import conversion_mapping

        conversion_mapping.get_checkpoint_conversion_mapping("llama")
        is_open = bool(conversion_mapping._checkpoint_conversion_mapping_cache)
        what = "get_checkpoint_conversion_mapping"
        door("retune/forkserver.py", "transformers", is_open, what)

    def test_tensors_get_the_names_of_files(self):
        import torch
        from transformers.core_model_loading import revert_weight_conversion

        from tests.architectures import model_of

        with torch.device("meta"):
            model, same, joined = model_of("MixtralConfig"), torch.empty(4), torch.empty(4, 256, 64)
        layer = "model.layers.0.mlp"
        tensors = {f"{layer}.gate.weight": same, f"{layer}.experts.gate_up_proj": joined}
        saved = revert_weight_conversion(model, tensors)
        is_open = saved["model.layers.0.block_sparse_moe.gate.weight"] is same and len(saved) == 9
        door("retune/storage.py", "transformers", is_open, "revert_weight_conversion")
        what = "`_weight_conversions`, by which a model remembers how it was read"
        is_open = "_weight_conversions" in inspect.getsource(revert_weight_conversion)
        door("retune/storage.py", "transformers", is_open, what)

    def test_attention_says_what_is_special_of_it(self):
        import transformers.models.gemma2.modeling_gemma2 as gemma
        import transformers.models.gpt_oss.modeling_gpt_oss as gpt_oss

        is_open = "s_aux=self.sinks" in inspect.getsource(gpt_oss.GptOssAttention)
        door("tasks/train/varlen.py", "transformers", is_open, "`s_aux`")
        is_open = "softcap=self.attn_logit_softcapping" in inspect.getsource(gemma.Gemma2Attention)
        door("tasks/train/varlen.py", "transformers", is_open, "`softcap`")

    def test_a_model_names_its_tied_weights(self):
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
        sizes |= {"vocab_size": 8, "num_hidden_layers": 1}
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
        tied = getattr(model, "all_tied_weights_keys", {})
        is_open = dict(tied) == {"lm_head.weight": "model.embed_tokens.weight"}
        what = "model.all_tied_weights_keys, {the tied: the first}"
        door("tasks/merge/sources.py", "transformers", is_open, what)

    def test_the_trainers_steps(self):
        from transformers import Trainer

        for ours, name, names in (
            ("watcher", "_save_checkpoint", ("model", "trial")),
            ("objective", "_prepare_inputs", ("inputs",)),
            ("objective", "compute_loss_context_manager", ()),
            ("trainer", "get_optimizer_cls_and_kwargs", ("args", "model")),
        ):
            is_open = hasattr(Trainer, name) and takes(getattr(Trainer, name), *names)
            door(f"tasks/train/{ours}.py", "transformers", is_open, f"Trainer.{name}{names}")

    def test_a_step_is_logged_before_its_checkpoint_is_written(self):
        from transformers import Trainer

        text = inspect.getsource(Trainer._maybe_log_save_evaluate)
        places = [text.find(part) for part in ("self.log(", "self._save_checkpoint(", "on_save(")]
        what = "a step's log, checkpoint and `on_save` in this order (_maybe_log_save_evaluate)"
        door("tasks/train/watcher.py", "transformers", 0 < places[0] < places[1] < places[2], what)

    def test_attention_takes_the_conversations_borders(self):
        from transformers.modeling_flash_attention_utils import FlashAttentionKwargs

        wanted = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
        is_open = wanted <= FlashAttentionKwargs.__annotations__.keys()
        door("tasks/train/data.py", "transformers", is_open, f"{sorted(wanted)} of a batch")

    def test_liger_is_applied_by_names_of_layers(self):
        from transformers.integrations.liger import apply_liger_kernel

        is_open = len(inspect.signature(apply_liger_kernel).parameters) == 2
        what = "apply_liger_kernel(model, settings)"
        door("tasks/train/fused.py", "transformers", is_open, what)


class TestTraining:
    """PyTorch, accelerate, PEFT, TRL, bitsandbytes."""

    @pytest.mark.parametrize(
        ("name", "wanted"),
        [
            ("_flash_attention_forward", "query key value cum_seq_q cum_seq_k max_q max_k dropout_p "
             "is_causal return_debug_mask"),
            ("_flash_attention_backward", "grad_out query key value out logsumexp cum_seq_q "
             "cum_seq_k max_q max_k dropout_p is_causal rng_state unused"),
        ],
    )  # fmt: skip
    def test_torchs_flash_kernel(self, name, wanted):
        import torch

        arguments = [one.name for one in getattr(torch.ops.aten, name).default._schema.arguments]
        count = len(wanted.split())
        window = {"scale", "window_size_left", "window_size_right"}
        is_open = arguments[:count] == wanted.split() and window <= set(arguments)
        door("tasks/train/varlen.py", "torch", is_open, f"aten::{name}({wanted} …); is {arguments}")

    def test_a_modules_weights_can_be_replaced(self):
        import torch

        is_open = "weight" in torch.nn.Linear(1, 1)._parameters
        door("tasks/merge/sources.py", "torch", is_open, "module._parameters")

    def test_imports_can_be_kept_from_starting_cuda(self):
        from torch._inductor import config
        from torch.utils import _triton

        name = "triton_disable_device_detection"
        door("retune/forkserver.py", "torch", hasattr(config, name), f"`{name}` of its inductor")
        is_open = hasattr(_triton.has_triton, "cache_clear")
        door("retune/forkserver.py", "torch", is_open, "the cache of `has_triton`")

    def test_torch_load_may_learn_a_device(self):
        import torch

        function = torch.serialization.register_package
        is_open = takes(function, "priority", "tagger", "deserializer")
        door("tasks/train/trl_child.py", "torch", is_open, "torch.serialization.register_package")

    def test_processes_may_meet_in_a_store_that_is_there(self):
        name = "TORCHELASTIC_USE_AGENT_STORE"
        is_open = says("torch", name, ["distributed/rendezvous.py"])
        door("tasks/train/trl_child.py", "torch", is_open, f"{name} in the environment")

    def test_accelerates_plugin_for_split_models(self):
        from accelerate.utils import FullyShardedDataParallelPlugin as Plugin

        is_open = "mixed_precision_policy" in Plugin.__dataclass_fields__
        door("tasks/train/trainer.py", "accelerate", is_open, "fsdp_plugin.mixed_precision_policy")
        is_open = hasattr(Plugin, "set_state_dict_type")
        door("tasks/train/saving.py", "accelerate", is_open, "fsdp_plugin.set_state_dict_type")

    def test_pefts_layers(self):
        import torch
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        model = torch.nn.Sequential(torch.nn.Linear(2, 2))
        layer = inject_adapter_in_model(LoraConfig(r=1, target_modules=["0"]), model)[0]
        is_open = isinstance(layer, BaseTunerLayer) and layer.merged_adapters == []
        is_open = is_open and hasattr(layer, "merge") and hasattr(layer, "get_base_layer")
        what = "a BaseTunerLayer's merge, merged_adapters and get_base_layer"
        door("tasks/merge/sources.py", "peft", is_open, what)
        function = AuxiliaryTrainingWrapper.unload_and_optionally_merge_module
        is_open = takes(function, "merge", "safe_merge", "adapter_names")
        what = "AuxiliaryTrainingWrapper.unload_and_optionally_merge_module"
        door("tasks/merge/sources.py", "peft", is_open, what)

    def test_peft_takes_names_for_those_of_experts(self):
        from peft.utils import transformers_weight_conversion as conversion

        is_open = conversion._MODEL_TO_CONVERSION_PATTERN["deepseek_v3"] == "qwen2_moe"
        door("retune/outline.py", "peft", is_open, "_MODEL_TO_CONVERSION_PATTERN")
        is_open = {"gate_proj", "down_proj"} <= conversion._MOE_TARGET_MODULE_MAPPING[
            "qwen2_moe"
        ].keys()
        door("retune/outline.py", "peft", is_open, "_MOE_TARGET_MODULE_MAPPING")

    def test_peft_names_where_mamba_bars_an_adapter(self):
        from peft.tuners import tuners_utils

        code = inspect.getsource(tuners_utils._check_lora_target_modules_mamba)
        is_open = all(f'"{name}"' in code for name in (*MAMBA_LAYERS, *MAMBA_TYPES))
        door("retune/outline.py", "peft", is_open, "MAMBA_TYPES and MAMBA_LAYERS")

    def test_pefts_trained_rows(self):
        import torch
        from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
        from peft.utils.other import TrainableTokensWrapper

        what = "a wrapper's token_adapter, its trainable_tokens_delta and trainable_tokens_original"
        wrapper = TrainableTokensWrapper(torch.nn.Embedding(4, 2), "default", token_indices=[1])
        inner = dict(wrapper.named_modules()).get("token_adapter")
        is_open = isinstance(inner, TrainableTokensLayer) and (
            "default" in inner.trainable_tokens_delta
            and "default" in inner.trainable_tokens_original
        )
        door("retune/embeddings.py", "peft", is_open, what)

    def test_an_adapter_is_loaded_without_filling_the_base(self):
        from peft import PeftModel, get_peft_model_state_dict

        is_open = takes(PeftModel.from_pretrained, "torch_device", "low_cpu_mem_usage") or (
            takes(PeftModel.from_pretrained, "low_cpu_mem_usage", "kwargs")
            and takes(PeftModel.load_adapter, "torch_device", "low_cpu_mem_usage")
        )
        door("tasks/merge/sources.py", "peft", is_open, "low_cpu_mem_usage and torch_device")
        is_open = takes(get_peft_model_state_dict, "save_embedding_layers")
        door(
            "retune/models.py", "peft", is_open, "get_peft_model_state_dict(save_embedding_layers)"
        )

    def test_trls_collator(self):
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as Collator

        is_open = takes(Collator, "pad_token_id", "padding_free", "pad_to_multiple_of")
        door("tasks/train/data.py", "trl", is_open, "DataCollatorForLanguageModeling's settings")
        rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3], "seq_lengths": [1, 2]}]
        batch = Collator(0, padding_free=True, pad_to_multiple_of=4).torch_call(rows)
        is_open = batch["position_ids"].shape == batch["input_ids"].shape == (1, 4) and (
            batch["position_ids"][0, :3].tolist() == [0, 0, 1]
        )
        what = "torch_call of rows with seq_lengths, laid into one row with positions"
        door("tasks/train/data.py", "trl", is_open, what)

    def test_trls_fused_head(self):
        from trl.trainer import utils

        what = "trl.trainer.utils._ChunkedLogProbFunction, None where there is no Triton"
        door("tasks/train/trl_child.py", "trl", hasattr(utils, "_ChunkedLogProbFunction"), what)
        text = inspect.getsource(utils.add_fused_lm_head)
        is_open = "fused_lm_head=False" in text
        what = "add_fused_lm_head, by which a model takes fused_lm_head=True"
        door("tasks/train/trl_child.py", "trl", is_open, what)

    def test_trl_leaves_rows_as_they_are(self):
        from trl import SFTTrainer

        is_open = "skip_prepare_dataset" in inspect.getsource(SFTTrainer.__init__)
        door("tasks/train/objective.py", "trl", is_open, "dataset_kwargs skip_prepare_dataset")

    def test_what_bitsandbytes_stores_beside_a_weight(self):
        import torch
        from bitsandbytes.functional import QuantState, quantize_4bit

        from tasks.merge.checkpoint import STATE

        _, state = quantize_4bit(torch.ones(64, 64), quant_type="nf4", compress_statistics=True)
        stored = state.as_dict(packed=True)
        is_open = any(f".{name}".startswith(STATE) for name in stored)
        what = f"the name {STATE}<type> of a stored state"
        door("tasks/merge/checkpoint.py", "bitsandbytes", is_open, what)
        is_open = QuantState.from_dict(stored, device=torch.device("cpu")).quant_type == "nf4"
        door("tasks/merge/checkpoint.py", "bitsandbytes", is_open, "QuantState.from_dict")


class TestUnsloth:
    def test_its_attention_is_replaced_by_two_names(self):
        text = source("unsloth", "utils", "attention_dispatch.py")
        wanted = {"_TORCH_VARLEN_ATTN", "_varlen_attn_call"}
        is_open = wanted <= assigned(text) and "HAS_FLASH_ATTENTION" in text
        what = f"unsloth.utils.attention_dispatch.{sorted(wanted)} and HAS_FLASH_ATTENTION"
        door("tasks/train/varlen.py", "unsloth", is_open, what)
        is_open = {"scale", "window_size", "enable_gqa"} <= parameters(text, "_varlen_attn_call")
        what = "_varlen_attn_call(query, key, value, borders, longest, *, scale, window_size, "
        door("tasks/train/varlen.py", "unsloth", is_open, what + "enable_gqa)")

    def test_it_takes_our_packs(self):
        text = source("unsloth", "utils", "packing.py")
        is_open = {"mark_allow_overlength", "enable_sample_packing"} <= assigned(text)
        what = "unsloth.utils.packing.mark_allow_overlength and enable_sample_packing"
        door("tasks/train/unsloth_child.py", "unsloth", is_open, what)
        is_open = '"_unsloth_packing_wrapped"' in text and '"packed_seq_lengths"' in text
        what = "a collator's _unsloth_packing_wrapped and a batch's packed_seq_lengths"
        door("tasks/train/data.py", "unsloth", is_open, what)

    def test_a_model_knows_how_it_recomputes(self):
        text = source("unsloth", "models", "llama.py")
        is_open = "._unsloth_gradient_checkpointing" in text
        what = "model._unsloth_gradient_checkpointing"
        door("tasks/train/unsloth_child.py", "unsloth", is_open, what)
        is_open = "use_gradient_checkpointing" in parameters(text, "for_training")
        what = "FastLanguageModel.for_training(use_gradient_checkpointing)"
        door("tasks/train/unsloth_child.py", "unsloth", is_open, what)

    def test_a_model_is_loaded_as_it_is_named(self):
        seen = parameters(source("unsloth", "models", "loader.py"), "from_pretrained")
        for name in ("use_exact_model_name", "float32_mixed_precision", "full_finetuning"):
            what = f"FastLanguageModel.from_pretrained({name})"
            door("tasks/train/unsloth_child.py", "unsloth", name in seen, what)

    def test_its_variables(self):
        is_open = says("unsloth_zoo", '"UNSLOTH_COMPILE_LOCATION"', ["compiler.py"])
        door("tasks/train/task.py", "unsloth-zoo", is_open, "UNSLOTH_COMPILE_LOCATION")
        is_open = says("unsloth", '"UNSLOTH_DISABLE_STATISTICS"', ["models/_utils.py"])
        door("retune/child.py", "unsloth", is_open, "UNSLOTH_DISABLE_STATISTICS")


class TestHub:
    """huggingface_hub and datasets."""

    def test_the_client_is_made_by_a_private_function(self):
        from huggingface_hub.utils._http import default_client_factory

        client = default_client_factory()
        what = "huggingface_hub.utils._http.default_client_factory, whose client has hooks"
        door("tasks/publish/access.py", "huggingface-hub", "request" in client.event_hooks, what)
        client.close()

    def test_a_file_to_be_sent_knows_its_hash(self):
        import hashlib

        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.utils.sha import git_hash

        added = CommitOperationAdd("name", b"content")
        is_open = added.upload_info.sha256 == hashlib.sha256(b"content").digest()
        door("tasks/publish/upload.py", "huggingface-hub", is_open, "upload_info.sha256")
        is_open = git_hash(b"content") == hashlib.sha1(b"blob 7\0content").hexdigest()
        door("tasks/publish/upload.py", "huggingface-hub", is_open, "utils.sha.git_hash")

    def test_a_child_without_the_hub_reads_no_token(self):
        text = source("huggingface_hub", "constants.py")
        for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_TOKEN_PATH"):
            door("retune/environment.py", "huggingface-hub", f'"{name}"' in text, name)

    def test_the_format_of_a_repository_is_the_module_that_reads_it(self):
        from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

        from tasks.fetch.hub import _SETTINGS

        for kind in _SETTINGS:
            module = _PACKAGED_DATASETS_MODULES.get(kind, ("",))[0]
            is_open = module.rpartition(".")[2] == kind
            door(
                "tasks/fetch/hub.py",
                "datasets",
                is_open,
                f"datasets.packaged_modules.{kind}.{kind}",
            )

    def test_which_cards_are_read(self):
        import datasets

        from tasks.fetch.hub import _CARDS

        is_open = datasets.config.REPOYAML_FILENAME in _CARDS
        door("tasks/fetch/hub.py", "datasets", is_open, f"no more cards than {_CARDS}")

    def test_a_slice_becomes_numbers(self):
        import datasets

        instruction = datasets.ReadInstruction.from_spec("train[10%:20%]")
        (absolute,) = instruction.to_absolute({"train": 50})
        is_open = (absolute.from_, absolute.to) == (5, 10)
        door("tasks/fetch/reading.py", "datasets", is_open, "ReadInstruction.to_absolute")

    def test_a_split_without_rows_is_told_in_these_words(self):
        is_open = says("datasets", "corresponds to no data", ["arrow_reader.py"])
        door("tasks/fetch/reading.py", "datasets", is_open, "the words `corresponds to no data`")


class TestTheGate:
    """detect-secrets, ftfy, py3langid, rensa, Great Expectations."""

    def test_every_detectors_pattern_can_be_read_by_a_linear_engine(self):
        from expectations.data.credentials import detectors

        detectors.cache_clear()
        what = "detectors with a `denylist`, and no look-around but those that it knows"
        door("expectations/data/credentials.py", "detect-secrets", len(detectors()) > 20, what)

    def test_what_judges_a_text(self):
        from ftfy.badness import is_bad
        from py3langid import classify

        is_open = is_bad("Ã¤Ã¶Ã¼") and not is_bad("äöü")
        door("expectations/data/messages.py", "ftfy", is_open, "ftfy.badness.is_bad")
        is_open = classify("This is a sentence in plain English.")[0] == "en"
        uses = "`classify`(plain)[0], a code"
        door("expectations/data/profile/languages.py", "py3langid", is_open, uses)

    def test_signatures_are_made_of_flat_hashes(self):
        import numpy as np
        from rensa import RMinHash

        hashes, offsets = np.arange(6, dtype=np.uint64), np.array([0, 3, 6], dtype=np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, 16, 1)
        is_open = np.asarray(matrix.to_rows()).shape == (2, 16)
        what = "RMinHash.digest_matrix_from_flat_token_hashes(…).to_rows()"
        door("expectations/data/similarity.py", "rensa", is_open, what)

    def test_great_expectations_is_quiet_and_calls_nobody(self):
        import great_expectations as gx
        from great_expectations.data_context.types import base

        suite, library = "expectations/data/validating.py", "great-expectations"
        door(
            suite,
            library,
            isinstance(base.logger, logging.Logger),
            "data_context.types.base.logger",
        )
        variables = type(gx.get_context(mode="ephemeral").variables)
        is_open = isinstance(getattr(variables, "progress_bars", None), property)
        door(suite, library, is_open, "context.variables.progress_bars")
        from great_expectations.expectations.expectation import Expectation

        is_open = isinstance(vars(Expectation).get("configuration"), property)
        door(suite, library, is_open, "the property `configuration` of its expectations")
        # If they come back: does GX_ANALYTICS_ENABLED, set before the import, still stop them?
        is_open = find_spec("great_expectations.analytics") is None
        door(
            "expectations/data/suite.py",
            library,
            is_open,
            "great_expectations without a module of analytics",
        )


class TestMlflow:
    def test_its_apps_can_be_wrapped(self):
        from mlflow.server.fastapi_security import get_allowed_origins

        is_open = callable(get_allowed_origins)
        door("flows/mlflow_app.py", "mlflow", is_open, "fastapi_security.get_allowed_origins")
        is_open = "app" in assigned(source("mlflow", "server", "fastapi_app.py"))
        door("flows/mlflow_app.py", "mlflow", is_open, "mlflow.server.fastapi_app.app")
        is_open = "create_app" in assigned(source("mlflow", "server", "auth", "__init__.py"))
        door("flows/mlflow_app.py", "mlflow", is_open, "mlflow.server.auth.create_app")

    def test_apps_are_found_as_entry_points(self):
        is_open = says("mlflow", 'get_entry_points("mlflow.app")', ["server/__init__.py"])
        door("flows/mlflow_app.py", "mlflow", is_open, "the entry points `mlflow.app`")

    def test_local_pages_of_other_ports_are_let_in_by_itself(self):
        """The reason for the wrapping; without it, it may go."""
        is_open = says("mlflow", "LOCALHOST_ORIGIN_PATTERNS", ["server/fastapi_security.py"])
        door("flows/mlflow_app.py", "mlflow", is_open, "LOCALHOST_ORIGIN_PATTERNS, to be kept out")

    def test_the_servers_options(self):
        from mlflow.cli import server

        options = {name for one in server.params for name in one.opts}
        for name in ("--app-name", "--allowed-hosts", "--cors-allowed-origins", "--workers"):
            door("flows/ui.py", "mlflow", name in options, f"mlflow server `{name}`")

    @pytest.mark.parametrize(
        ("ours", "name"),
        [
            ("flows/ui.py", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"),
            ("flows/ui.py", "MLFLOW_AUTH_CONFIG_PATH"),
            ("flows/ui.py", "MLFLOW_AUTH_ADMIN_USERNAME"),
            ("flows/ui.py", "MLFLOW_AUTH_ADMIN_PASSWORD"),
            ("flows/ui.py", "MLFLOW_FLASK_SERVER_SECRET_KEY"),
            ("flows/local.py", "MLFLOW_DISABLE_TELEMETRY"),
        ],
    )
    def test_its_variables(self, ours, name):
        from mlflow import environment_variables

        door(ours, "mlflow", hasattr(environment_variables, name), f"the variable {name}")

    def test_metrics_of_the_machine_go_to_a_run(self):
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor as Monitor

        is_open = takes(Monitor, "run_id", "resume_logging", "tracking_uri")
        what = "SystemMetricsMonitor(run_id, resume_logging, tracking_uri)"
        door("retune/tracking.py", "mlflow", is_open, what)

    def test_a_child_run_names_its_parent(self):
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        is_open = MLFLOW_PARENT_RUN_ID == "mlflow.parentRunId"
        door("retune/tracking.py", "mlflow", is_open, "the tag mlflow.parentRunId")

    def test_what_a_datasets_source_is_written_as(self):
        from mlflow.data.huggingface_dataset_source import HuggingFaceDatasetSource as Source

        fields = {"path", "config_name", "split", "revision"}
        seen = Source.from_dict(dict.fromkeys(fields, "x")).to_dict()
        is_open = Source._get_source_type() == "hugging_face" and fields <= seen.keys()
        door("retune/tracking.py", "mlflow", is_open, f"a source hugging_face of {sorted(fields)}")


class TestMlflowsPatience:
    @pytest.mark.parametrize(
        "words",
        [
            "API request to {url} failed with timeout exception",
            "API request to {url} failed with exc",
        ],
    )
    def test_a_server_that_does_not_answer_is_told_in_these_words(self, words):
        is_open = says("mlflow", words, ["utils/rest_utils.py"])
        what = "the words of UNANSWERED"
        door("retune/tracking_client.py", "mlflow", is_open, what)

    def test_how_often_it_asks_again_is_read_at_each_request(self):
        words = "MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() if max_retries is None"
        is_open = says("mlflow", words, ["utils/rest_utils.py"])
        door("retune/tracking_client.py", "mlflow", is_open, "MLFLOW_HTTP_REQUEST_MAX_RETRIES")


class TestPrefect:
    def test_a_block_tells_its_document(self):
        from prefect.blocks.core import Block

        what = "the id of a saved block, `_block_document_id`"
        door(
            "flows/notifications.py",
            "prefect",
            "_block_document_id" in Block.__annotations__ or hasattr(Block, "_block_document_id"),
            what,
        )

    def test_its_settings_can_be_read_again(self):
        from prefect import context

        is_open = hasattr(context, "refresh_global_settings_context")
        door("flows/local.py", "prefect", is_open, "context.refresh_global_settings_context")

    @pytest.mark.parametrize(
        ("name", "value", "path"),
        [
            ("PREFECT_API_URL", "http://127.0.0.1:9/api", "api.url"),
            ("PREFECT_API_AUTH_STRING", "a:b", "api.auth_string"),
            ("PREFECT_CLIENT_CSRF_SUPPORT_ENABLED", "false", "client.csrf_support_enabled"),
            ("PREFECT_LOGGING_SERVER_LEVEL", "ERROR", "server.logging_level"),
            ("PREFECT_SERVER_ANALYTICS_ENABLED", "false", "server.analytics_enabled"),
            ("PREFECT_SERVER_API_AUTH_STRING", "a:b", "server.api.auth_string"),
            ("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", "here.there",
             "server.concurrency.lease_storage"),
            ("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "http://a", "server.api.cors_allowed_origins"),
            ("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "true", "server.api.csrf_protection_enabled"),
            ("PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION", "false",
             "server.memoize_block_auto_registration"),
            ("PREFECT_SERVER_REGISTER_BLOCKS_ON_START", "false", "server.register_blocks_on_start"),
            ("PREFECT_SERVER_UI_API_URL", "http://a/api", "server.ui.api_url"),
            ("PREFECT_SERVER_UI_ENABLED", "false", "server.ui.enabled"),
            ("PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT", "false",
             "server.ui.show_promotional_content"),
            ("PREFECT_UI_URL", "http://a", "ui_url"),
        ],
    )  # fmt: skip
    def test_each_variable_that_is_set_is_read(self, monkeypatch, tmp_path, name, value, path):
        from prefect.settings import Settings

        def read() -> str:
            found: Any = Settings()
            for part in path.split("."):
                found = getattr(found, part)
            found = getattr(found, "get_secret_value", lambda: found)()
            return str(found).lower().removesuffix(".0")

        for other in [other for other in os.environ if other.startswith("PREFECT_")]:
            monkeypatch.delenv(other)
        monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
        before = read()
        monkeypatch.setenv(name, value)
        is_open = read() == value.lower() and (before != value.lower() or value == "true")
        what = f"{name}, read as settings.{path} (was {before}, is {read()})"
        ours = "flows/local.py" if "_UI_" not in name or "PROMO" in name else "flows/ui.py"
        if "BLOCK" in name or name.endswith("UI_ENABLED"):
            ours = "flows/temporary_server.py"
        door(ours, "prefect", is_open, what)

    @pytest.mark.parametrize("name", ["PREFECT__SERVER_EPHEMERAL", "PREFECT__SERVER_FINAL"])
    def test_its_own_temporary_server_is_started_by(self, name):
        is_open = says("prefect", f'"{name}"', ["server/api/server.py"])
        door("flows/temporary_server.py", "prefect", is_open, name)

    def test_its_server_is_an_app(self):
        is_open = says("prefect", "def create_app(", ["server/api/server.py"])
        door("flows/prefect_app.py", "prefect", is_open, "prefect.server.api.server:create_app")

    def test_its_pages_show_the_detail_of_an_answer_and_its_server_has_another_name_for_it(self):
        import prefect

        pages = Path(prefect.__file__).parent / "server" / "ui-v2" / "assets"
        shown = any("throw Error(t.detail)" in file.read_text() for file in pages.glob("*.js"))
        is_open = shown and says(
            "prefect", '"exception_message": "Service Unavailable"', ["server/api/server.py"]
        )
        door("flows/prefect_pages.py", "prefect", is_open, "`detail` of an answer")

    def test_what_it_has_to_send_it_sends_before_atexit(self):
        is_open = says(
            "prefect", "threading._register_atexit", ["_internal/concurrency/services.py"]
        )
        door("flows/temporary_server.py", "prefect", is_open, "sending before `atexit`")

    def test_leases_may_lie_in_files(self):
        from flows.local import LEASES

        module = __import__(LEASES, fromlist=["x"])
        is_open = hasattr(module, "ConcurrencyLeaseStorage")
        door("flows/local.py", "prefect", is_open, f"{LEASES}.ConcurrencyLeaseStorage")

    @pytest.mark.parametrize(
        ("words", "files"),
        [
            ("Still processing items", ["_internal/concurrency/services.py"]),
            ("unning hook", ["flow_engine.py"]),
            ("Finished in state", ["flow_engine.py", "task_engine.py"]),
        ],
    )
    def test_what_is_left_out_on_the_terminal_is_still_said_so(self, words, files):
        door("flows/local.py", "prefect", says("prefect", words, files), f"the words `{words}`")

    def test_a_runs_process_is_known_by_a_variable(self):
        is_open = says("prefect", '"PREFECT__FLOW_RUN_ID"', ["runner/runner.py"])
        door("flows/dead_runs.py", "prefect", is_open, "PREFECT__FLOW_RUN_ID")

    def test_a_lease_is_kept_by_a_function_that_may_be_another(self):
        words = "maintain_concurrency_lease(\n                        lease_id, 300"
        is_open = says("prefect", words, ["flow_engine.py"])
        door("flows/leases.py", "prefect", is_open, "flow_engine.maintain_concurrency_lease")

    def test_why_a_run_is_told_to_end_is_known(self):
        from prefect._internal import control_listener

        is_open = hasattr(control_listener, "get_intent")
        door("flows/endings.py", "prefect", is_open, "control_listener.get_intent")
        # An interrupted run whose state is final keeps that state and its words.
        words = "if self.flow_run.state and self.flow_run.state.is_final():"
        is_open = says("prefect", words, ["flow_engine.py"])
        door("flows/endings.py", "prefect", is_open, "the state of FlowRunContext")

    def test_the_words_of_a_worker_on_a_cancelled_run_are_known(self):
        words = '"Flow run was cancelled successfully."'
        is_open = says("prefect", words, ["runner/_cancellation_manager.py"])
        door("flows/watchdog.py", "prefect", is_open, "watchdog.BY_WORKER")

    def test_the_limit_of_a_deployment_is_known_by_its_name(self):
        is_open = says("prefect", 'f"deployment:{', ["server/models/deployments.py"])
        door("flows/watchdog.py", "prefect", is_open, "a limit's name, `deployment:`")

    def test_a_run_carries_labels(self):
        from prefect.client.orchestration import SyncPrefectClient
        from prefect.client.schemas.objects import FlowRun

        is_open = hasattr(SyncPrefectClient, "update_flow_run_labels")
        door("flows/dead_runs.py", "prefect", is_open, "client.update_flow_run_labels")
        is_open = "labels" in FlowRun.model_fields
        door("flows/dead_runs.py", "prefect", is_open, "FlowRun.labels")

    def test_which_database_is_known(self):
        from prefect.settings import get_current_settings

        is_open = hasattr(get_current_settings().server.database, "connection_url")
        door("flows/dead_runs.py", "prefect", is_open, "settings.server.database.connection_url")

    def test_a_secret_is_loaded_without_a_loop(self):
        from prefect.blocks.system import Secret

        # Prefect's decorator takes `_sync` and gives the other way as `aio`.
        door("tasks/stage.py", "prefect", hasattr(Secret.load, "aio"), "load(…, _sync=True)")

    def test_a_finished_state_may_come_from_a_stages_body(self):
        """What a stage that was done returns instead of running; its data is what the flow gets."""
        from prefect.states import Completed

        state = Completed(name="Cached", data=7)
        is_open = state.result() == 7 and state.name == "Cached"
        door("tasks/stage.py", "prefect", is_open, "a `Completed` state whose result is its data")


@pytest.fixture(scope="module")
def root() -> Path:
    """The build of llama.cpp."""
    from retune.llamacpp import LlamaCppNotFound, locate

    try:
        return locate().root
    except LlamaCppNotFound:
        pytest.skip("llama.cpp is not built here")


class TestLlamaCpp:
    """Its converter, which is patched, and what its programs print and take."""

    def test_the_converter_names_a_pre_tokenizer_in_one_method(self, root):
        text = (root / "conversion" / "base.py").read_text(encoding="utf-8")
        methods = {
            method.name: ast.unparse(method)
            for node in ast.parse(text).body
            if isinstance(node, ast.ClassDef) and node.name == "TextModel"
            for method in node.body
            if isinstance(method, ast.FunctionDef)
        }
        seen = methods.get("get_vocab_base_pre", "")
        assert "(self, tokenizer)" in seen
        assert "raise NotImplementedError" in seen, (
            "retune/llamacpp/converter.py relies on TextModel.get_vocab_base_pre(self, tokenizer), "
            "which raises NotImplementedError for a vocabulary that it does not know"
        )

    def test_the_converters_options(self, root):
        text = (root / "convert_hf_to_gguf.py").read_text(encoding="utf-8")
        for option in ("--outfile", "--outtype", "--model-name"):
            assert f'"{option}"' in text, f"retune/llamacpp/conversion.py relies on {option}"

    @pytest.mark.parametrize(
        ("ours", "program", "words"),
        [
            ("measurement", "llama-perplexity", "Final estimate: PPL = "),
            ("measurement", "llama-perplexity", "Mean PPL(Q)/PPL(base) "),
            ("measurement", "llama-perplexity", "Mean    KLD: "),
            ("measurement", "llama-perplexity", "Same top p: "),
            ("measurement", "llama-perplexity", "tokenizes to only"),
            ("measurement", "llama-perplexity", "_logits_"),
            ("calibration", "llama-imatrix", "computing over %d chunks"),
            ("quantization", "llama-quantize", "quant size "),
            ("quantization", "llama-quantize", "tensor(s) required fallback"),
            ("answering", "llama-server", "--skip-chat-parsing"),
            ("answering", "llama-server", "--cache-ram"),
            ("answering", "llama-server", "--threads-http"),
            ("answering", "llama-server", "--fit"),
        ],
    )
    def test_its_programs_words(self, root, ours, program, words):
        there = words.encode() in (root / "bin" / program).read_bytes()
        assert there, f"retune/llamacpp/{ours}.py relies on `{words}` of {program}"

    def test_the_converter_writes_and_reads_by_names_that_are_replaced(self, root):
        writer, quants, vocabulary = (
            ast.parse((root / "gguf-py" / "gguf" / f"{name}.py").read_text(encoding="utf-8"))
            for name in ("gguf_writer", "quants", "vocab")
        )
        functions = {
            node.name: ast.unparse(node.args)
            for tree in (writer, quants, vocabulary)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
        }
        expected = {
            "_pack_val": "self, val: Any, vtype: GGUFValueType, add_vtype: bool",
            "_apply_over_grouped_rows": "func: Callable[[np.ndarray], np.ndarray], arr: np.ndarray",
            "_try_load_from_tokenizer_json": "self, path: Path",
        }
        for name, arguments in expected.items():
            assert functions.get(name, "").startswith(arguments), (
                f"retune/llamacpp/fast_conversion.py replaces {name}({arguments}, …)"
            )
        text = (root / "gguf-py" / "gguf" / "quants.py").read_text(encoding="utf-8")
        assert "class BF16(__Quant" in text, "retune/llamacpp/fast_conversion.py replaces BF16's"

    def test_a_server_tells_tokens(self, root):
        program = (root / "bin" / "llama-server").read_bytes()
        for word in (b"/tokenize", b"add_special", b"parse_special"):
            assert word in program, f"retune/llamacpp/answering.py relies on {word!r}"

    def test_ggufs_are_read_by_its_python_package(self):
        from gguf import GGUFReader
        from gguf.gguf_reader import ReaderField

        is_open = hasattr(ReaderField, "contents") and takes(GGUFReader, "path")
        door("retune/llamacpp/header.py", "gguf", is_open, "GGUFReader(path).fields[…].contents()")
        is_open = takes(GGUFReader._get_field_parts, "orig_offs", "raw_type")
        door("retune/llamacpp/header.py", "gguf", is_open, "_get_field_parts(orig_offs, raw_type)")


def test_yamls_scalars_are_read_one_by_one():
    import yaml

    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, "7", (True, False))
    is_open = tag.endswith(":int") and loader.construct_object(yaml.ScalarNode(tag, "7")) == 7
    door("retune/documents.py", "pyyaml", is_open, "SafeLoader's resolve and construct_object")


def test_a_forked_child_ends_as_python_does():
    import atexit
    import threading

    for module, name in ((threading, "_shutdown"), (atexit, "_run_exitfuncs")):
        assert callable(getattr(module, name)), (
            f"retune/forkserver.py calls {name}: Python has it no more"
        )


def test_every_private_name_that_we_use_is_looked_at_here():
    """A name with an underscore of somebody else's object, in our code, stands in this file."""
    here = Path(__file__).read_text(encoding="utf-8")
    own = {"_asdict", "_fields", "_replace", "_exit"}  # of named tuples and os, documented
    unseen = set()
    for folder in ("flows", "tasks", "expectations", "retune", "infra", "demo"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            ours = {
                getattr(node, "attr", getattr(node, "name", getattr(node, "id", "")))
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Name)
                or (isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"))
            }
            unseen |= {
                (str(path.relative_to(ROOT)), node.attr)
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
                and node.attr not in ours | own
                and node.attr not in here
            }
    assert unseen == set()


@pytest.mark.parametrize("test", range(4))
def test_tests_of_one_file_run_on_one_worker(test, worker_id, testrun_uid, tmp_path_factory):
    from xdist.scheduler import LoadScopeScheduling

    assert takes(LoadScopeScheduling._split_scope, "nodeid")
    common = tmp_path_factory.getbasetemp().parent / f"workers-{testrun_uid}"
    common.mkdir(exist_ok=True)
    (common / worker_id).touch()
    workers = [file.name for file in common.iterdir()]
    door(
        "tests/conftest.py",
        "pytest-xdist",
        workers == [worker_id],
        "the scheduler of `pytest_xdist_make_scheduler`, by whose `_split_scope` tests go to workers",
    )
