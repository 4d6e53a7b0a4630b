"""What a model's files say is judged before any of them is loaded: in a folder, and on the Hub."""

import json
import os
import re
from pathlib import Path

import pytest

from retune.folders import ModelRefused
from retune.inspection import inspect_base, inspect_inputs, inspect_model, require_file_names
from retune.recipe import Model, Recipe, RecipeError
from retune.records import Pins
from retune.sources import pin

LOCAL = "sha256:" + "0" * 64
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128_256}
TOKENIZER = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
CODE = {
    "AutoConfig": "configuration_odd.OddConfig",
    "AutoModelForCausalLM": "modeling_odd.OddForCausalLM",
}
INDEX = "model.safetensors.index.json"


def files(
    config: dict = CONFIG, tokenizer: dict = TOKENIZER, **more: bytes | None
) -> dict[str, bytes]:
    """Return the files of a small model; `more` by their names, None for one that is missing."""
    made = {
        "config.json": json.dumps(config).encode(),
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": b"weights",
    }
    return {name: content for name, content in {**made, **more}.items() if content is not None}


def written(folder: Path, made: dict[str, bytes]) -> Path:
    for name, content in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def index(file: str) -> dict[str, bytes | None]:
    named = json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors", "b": file}})
    return {"model.safetensors": None, INDEX: named.encode()}


def nested(levels: int) -> bytes:
    return b'{"model_type": "llama", "a": ' + b"[" * levels + b"]" * levels + b"}"


META = b"IQ== 0\nIg== 1\nIw== 2\n"  # how Llama 3's tokenizer.model begins
BAD = {
    "Meta's own format": (
        {"params.json": b"{}", "consolidated.00.pth": b"p", "tokenizer.model": META},
        "is in its maker's own format (params.json, consolidated.00.pth), which transformers does not",
    ),
    "Mistral's own format": (
        {"params.json": b"{}", "consolidated.safetensors": b"w", "tekken.json": b"{}"},
        "is in its maker's own format (params.json, consolidated.safetensors)",
    ),
    "tiktoken's ranks": (
        files(**{"tokenizer.json": None, "tokenizer.model": META}),
        "has no tokenizer.json, and its tokenizer.model is tiktoken's list of ranks, without the control",
    ),
    "tekken alone": (
        files(**{"tokenizer.json": None, "tekken.json": b"{}"}),
        "its vocabulary is in tekken.json alone, which Mistral's own library reads; name a copy of it",
    ),
    "SentencePiece by Mistral's name": (
        files(**{"tokenizer.json": None, "tokenizer.model.v7m1": b"\n\x0e"}),
        "its vocabulary is in tokenizer.model.v7m1, a name that Mistral's own library reads",
    ),
    "a pickle": (
        files(**{"model.safetensors": None, "pytorch_model.bin": b"p"}),
        "has its weights in pytorch_model.bin and not in model.safetensors: a pickle is a program",
    ),
    "a pickle of the consolidated kind": (
        files(**{"model.safetensors": None, "consolidated.00.pth": b"p"}),
        "has its weights in consolidated.00.pth",
    ),
    "another library's weights": (
        files(**{"model.safetensors": None, "tf_model.h5": b"p"}),
        "has its weights in tf_model.h5",
    ),
    "no weights": (files(**{"model.safetensors": None}), "has no weights, where model.safetensors"),
    "GGUF alone": (files(**{"model.safetensors": None, "a.gguf": b"p"}), "has only a.gguf"),
    "an adapter": (files(**{"adapter_config.json": b"{}"}), "holds an adapter"),
    "an adapter alone": (
        {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w"},
        "holds an adapter",
    ),
    "no configuration": (files(**{"config.json": None}), "has no config.json"),
    "its own code": (
        files({"model_type": "odd", "auto_map": CODE}),
        "does not know, and brings its own code (configuration_odd.OddConfig), which is not run",
    ),
    "its own code in a list": (
        files({"model_type": "odd"}, TOKENIZER | {"auto_map": ["a.Slow", None]}),
        "brings its own code (a.Slow)",
    ),
    "a tokenizer's own code": (
        files(CONFIG, {"tokenizer_class": "Odd", "auto_map": {"AutoTokenizer": ["a.Odd", None]}}),
        "has a tokenizer of tokenizer_class 'Odd', which transformers",
    ),
    "an unknown architecture": (files({"model_type": "odd"}), "which transformers"),
    "no architecture": (files({"hidden_size": 1}), "is of model_type None"),
    "code that is no name": (
        files(CONFIG | {"auto_map": {"AutoConfig": "../../evil.Class"}}),
        "names '../../evil.Class' as its code in config.json",
    ),
    "code that is a number": (files(CONFIG | {"auto_map": 7}), "names 7 as its code"),
    "a kernel": (
        files(CONFIG | {"attn_implementation": "someone/kernel"}),
        "sets attn_implementation='someone/kernel' in config.json, code that would be fetched",
    ),
    "a kernel of a part": (
        files(CONFIG | {"text_config": {"_attn_implementation": "x", "experts_implementation": "a/b"}}),
        "sets experts_implementation='a/b'",
    ),
    "weights elsewhere": (
        files(CONFIG | {"transformers_weights": "../x.safetensors"}),
        "sets transformers_weights='../x.safetensors'",
    ),
    "an odd quantization": (
        files(CONFIG | {"quantization_config": {"quant_method": "evil"}}),
        "is quantized by 'evil'",
    ),
    "a quantization that is no method": (
        files(CONFIG | {"quantization_config": {"quant_method": ["gptq"]}}),
        "is quantized by ['gptq']",
    ),
    "an endless vocabulary": (
        files(CONFIG | {"vocab_size": 10**12}),
        "sets vocab_size=1000000000000 in config.json, 8,388,608 at most",
    ),
    "no heads": (
        files(CONFIG | {"num_attention_heads": 0}),
        "sets num_attention_heads=0 in config.json, 1 is the least",
    ),
    "endless layers in a part": (
        files(CONFIG | {"text_config": {"num_hidden_layers": 10**9}}),
        "sets num_hidden_layers=1000000000",
    ),
    "a vocabulary of this machine": (
        files(CONFIG, TOKENIZER | {"vocab_file": "/etc/passwd"}),
        "sets vocab_file='/etc/passwd' in tokenizer_config.json, a file outside",
    ),
    "a vocabulary above": (
        files(CONFIG, TOKENIZER | {"merges_file": "../../merges.txt"}),
        "sets merges_file='../../merges.txt'",
    ),
    "a shard above": (files(**index("../../x.safetensors")), "'../../x.safetensors'"),
    "a shard of this machine": (files(**index("/etc/shadow")), "'/etc/shadow'"),
    "a shard that is a number": (
        files(**{"model.safetensors": None, INDEX: b'{"weight_map": {"a": 3}}'}),
        "names a file outside its folder (3)",
    ),
    "an index of nothing": (
        files(**{"model.safetensors": None, INDEX: b"{}"}),
        "has no weight_map",
    ),
    "no JSON": (files(**{"config.json": b"{'a': 1}"}), "has a config.json that is not JSON"),
    "no text": (files(**{"config.json": b"\xff\xfe{"}), "has a config.json that is not JSON"),
    "a list": (files(**{"config.json": b"[]"}), "holds no settings ([])"),
    "deep settings": (files(**{"config.json": nested(100)}), "nested deeper than 64 levels"),
    "endlessly deep settings": (files(**{"config.json": nested(100_000)}), "nested too deep"),
    "a huge number": (
        files(**{"config.json": b'{"model_type": "llama", "x": ' + b"9" * 5000 + b"}"}),
        "that is not JSON",
    ),
    "large settings": (files(**{"config.json": b" " * (17 << 20)}), "a config.json of 17,825,792 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_folder_is_refused_in_one_sentence(tmp_path, case):
    made, words = BAD[case]
    folder = written(tmp_path / "base", made)
    with pytest.raises(ModelRefused) as error:
        inspect_model(str(folder), LOCAL, "model.base")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("model.base: ")


@pytest.mark.parametrize("case", [case for case in BAD if case != "large settings"])
def test_a_repository_is_refused_as_a_folder_is(hub, case):
    made, words = BAD[case]
    commit = hub.add_model("them/base", made)
    with pytest.raises(ModelRefused, match=re.escape(words)):
        inspect_model("them/base", commit, "model.base")
    # Nothing of it was loaded, and no weights were asked for.
    assert not [path for path in hub.requests if path.endswith((".safetensors", ".bin", ".py"))]


GOOD = {
    "as saved": files(),
    "in shards": files(**index("model-00001-of-00001.safetensors")),
    "with code that transformers does not need": files(CONFIG | {"auto_map": CODE}),
    "of a nested kind": files({"model_type": "gemma3", "text_config": {"vocab_size": 262_208}}),
    "with a tokenizer that transformers knows": files(
        tokenizer=TOKENIZER | {"auto_map": {"AutoTokenizer": ["a.B", None]}}
    ),
    "with a tokenizer that transformers takes otherwise": files(
        {"model_type": "deepseek_v3"}, {"auto_map": {"AutoTokenizer": ["a.B", None]}}
    ),
    "with the publisher's other formats": files(
        **{"original/consolidated.00.pth": b"p", "pytorch_model.bin": b"p", "onnx/model.onnx": b"o"}
    ),
    "in 4 bits": files(CONFIG | {"quantization_config": {"quant_method": "bitsandbytes"}}),
    "in 4 bits, long ago": files(CONFIG | {"quantization_config": {"load_in_4bit": True}}),
    "with paths of another machine": files(
        CONFIG | {"_name_or_path": "/home/them/model"},
        {"special_tokens_map_file": "/root/.cache/huggingface/transformers/dd8bd9", "vocab_file": None},
    ),
    # Looking there is an error (as in /root for others), not an answer.
    "with paths that may not be looked at": files(
        tokenizer={"vocab_file": f"/root/{'a' * 300}/vocab.json", "merges_file": "~nobody-here/m"}
    ),
    "with SentencePiece's file alone": files(
        **{"tokenizer.json": None, "tokenizer.model": b"\n\x0e\n\x05<unk>\x15"}
    ),
    "with its maker's vocabulary beside": files(
        **{"tokenizer.model": META, "tekken.json": b"{}", "params.json": b"{}"}
    ),
    "with an attention of transformers": files(
        CONFIG | {"_attn_implementation": "flash_attention_2", "quantization_config": None}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_what_people_use_passes(hub, tmp_path, case):
    inspect_model(str(written(tmp_path / "base", GOOD[case])), LOCAL, "model.base")
    commit = hub.add_model("them/base", GOOD[case])
    inspect_model("them/base", commit, "model.base")


def test_a_link_leads_no_further_than_the_hubs_cache(tmp_path):
    blobs = tmp_path / "models--them--base" / "blobs"
    snapshot = tmp_path / "models--them--base" / "snapshots" / ("a" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, (name, content) in enumerate(files().items()):
        (blobs / str(number)).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    inspect_model(str(snapshot), LOCAL, "model.base")
    (tmp_path / "current").symlink_to(snapshot)  # a link to the folder itself is the user's own
    inspect_model(str(tmp_path / "current"), LOCAL, "model.base")

    (snapshot / "LICENSE").symlink_to("/proc/self/environ")
    for look in (lambda: inspect_model(str(snapshot), LOCAL, "model.base"),
                 lambda: pin(str(snapshot), None, "model", "model.base")):  # fmt: skip
        with pytest.raises(
            ModelRefused, match=r"LICENSE of .* is a link to .*, outside the folder"
        ):
            look()


def test_a_pipe_is_not_waited_for(tmp_path):
    folder = written(tmp_path / "base", files(**{"config.json": None}))
    os.mkfifo(folder / "config.json")
    with pytest.raises(ModelRefused, match=r"config\.json of .* is no file"):
        pin(str(folder), None, "model", "model.base")


def test_code_is_allowed_for_one_version_of_the_base_alone(hub, tmp_path):
    made = files({"model_type": "odd", "auto_map": CODE})
    made |= {"configuration_odd.py": b"", "modeling_odd.py": b""}
    folder = written(tmp_path / "base", made)
    version = pin(str(folder), None, "model", "model.base")
    with pytest.raises(ModelRefused, match=f"read it and set model.trust_remote_code={version}"):
        inspect_base(Model(base=str(folder)), version)
    inspect_base(Model(base=str(folder), trust_remote_code=version), version)
    (folder / "modeling_odd.py").write_text("changed = True")
    changed = pin(str(folder), None, "model", "model.base")
    with pytest.raises(ModelRefused, match=f"allows the code of {version}, but .* is at {changed}"):
        inspect_base(Model(base=str(folder), trust_remote_code=version), changed)

    commit = hub.add_model("them/odd", made)
    inspect_base(Model(base="them/odd", trust_remote_code=commit), commit)
    newer = hub.add_model("them/odd", {"modeling_odd.py": b"changed = True"})
    with pytest.raises(ModelRefused, match=f"or go back to .*model.revision={commit}"):
        inspect_base(Model(base="them/odd", trust_remote_code=commit), newer)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("others/code--modeling_odd.Odd", "takes its code from others/code, which"),
        ("modeling_missing.Odd", "names code in modeling_missing.py and has no such file"),
    ],
)
def test_allowed_code_lies_in_the_base_itself(hub, reference, words):
    made = files({"model_type": "odd", "auto_map": {"AutoModelForCausalLM": reference}})
    commit = hub.add_model("them/odd", made)
    with pytest.raises(ModelRefused, match=words):
        inspect_base(Model(base="them/odd", trust_remote_code=commit), commit)


def recipe(tmp_path: Path, **changes) -> Recipe:
    base = written(tmp_path / "good", files())
    values = {"name": "r", "dataset": {"source": "c/d"}, "model": {"base": str(base)}}
    return Recipe.parse(values | changes)


def test_every_model_of_a_recipe_is_looked_at(tmp_path, hub):
    pickled = str(written(tmp_path / "pickled", BAD["a pickle"][0]))
    pins = Pins(dataset="d", model=LOCAL, base_16bit=LOCAL)
    inspect_inputs(recipe(tmp_path), pins)
    with pytest.raises(
        ModelRefused, match=r"merging.base_16bit: .*has its weights in pytorch_model"
    ):
        inspect_inputs(recipe(tmp_path, merging={"base_16bit": pickled}), pins)
    scored = {"classifier": {"model": pickled}}
    with pytest.raises(ModelRefused, match=r"validation.classifier.model: .*pytorch_model.bin"):
        inspect_inputs(recipe(tmp_path, validation=scored), pins)
    # Not needed where all rows have scores: one that cannot be had is no reason to stop.
    elsewhere = {"classifier": {"model": "nobody/nothing"}}
    inspect_inputs(recipe(tmp_path, validation=elsewhere), pins)


@pytest.mark.parametrize("stored", [{"load_in_4bit": True}, None])
def test_16_bit_weights_that_are_not_there_are_not_asked_for_after_the_training(tmp_path, stored):
    settings = {"model_type": "llama", "quantization_config": stored}
    base = str(written(tmp_path / "base", files(settings)))
    version = pin(base, None, "model", "model.base")
    original = str(written(tmp_path / "original", files({"model_type": "llama"})))

    def inspect(**merging) -> None:
        values = {"name": "r", "model": {"base": base}, "dataset": {"source": "d.jsonl"}}
        recipe = Recipe.parse(values | {"merging": merging})
        pins = Pins(
            dataset="d",
            model=version,
            base_16bit=merging.get("base_16bit")
            and pin(original, None, "model", "merging.base_16bit"),
        )
        inspect_inputs(recipe, pins)

    inspect(onto="best")
    inspect(onto="16bit", base_16bit=original)
    inspect(onto="16bit", save_method="lora")  # nothing is merged
    if stored:
        with pytest.raises(RecipeError, match=r"onto=16bit: .*name its 16-bit weights in merging"):
            inspect(onto="16bit")
    else:
        inspect(onto="16bit")


def test_the_hub_may_be_away(hub):
    commit = hub.add_model("them/base", files())
    hub.fail("GET", "/api/models/them/base", 0, times=9)
    with pytest.raises(ConnectionError, match=r"model\.base: the Hub did not answer"):
        inspect_model("them/base", commit, "model.base")


def test_what_was_downloaded_serves_where_the_hub_is_away(hub):
    from huggingface_hub import snapshot_download

    for name, made in (("them/cached", files()), ("them/pickled", BAD["a pickle"][0])):
        commit = hub.add_model(name, made)
        snapshot_download(name, revision=commit)
        hub.fail("GET", f"/api/models/{name}", 0, times=9)
        if name == "them/cached":
            inspect_model(name, commit, "model.base")
        else:
            with pytest.raises(ModelRefused, match=r"has its weights in pytorch_model\.bin"):
                inspect_model(name, commit, "model.base")


def test_a_plain_file_name_may_hold_dots():
    named = {"a": "model-00001-of-00002.safetensors", "b": "pytorch.v2.safetensors"}
    assert require_file_names(named, "m", "s") == named
