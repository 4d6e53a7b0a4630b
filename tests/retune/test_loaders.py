"""Code that comes with a model: it leaves a trace when it runs, and must not, unless it is allowed."""

import builtins
import copy
import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from retune import llamacpp
from retune.errors import RetuneError
from retune.loaders import (
    CustomCodeRefused,
    ModelUnreadable,
    admit,
    backends_uncopied,
    forbid_custom_code,
    load_config,
    load_model,
    load_tokenizer,
    strip_code,
)
from retune.recipe import Model
from retune.sources import pin
from tests.tasks.conftest import make_base

# Runs on import; the class behind it works, so that nothing else stops it.
TRACE = """
import os
from pathlib import Path
Path(os.environ.get("TMPDIR", "/tmp"), "ran").write_text(os.environ.get("HF_TOKEN", "no token"))
"""
CONFIGURATION = """
from transformers import LlamaConfig
class OddConfig(LlamaConfig):
    model_type = "odd"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_odd import OddConfig
class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig
"""
TOKENIZATION = """
from transformers import PreTrainedTokenizerFast
class OddTokenizer(PreTrainedTokenizerFast):
    pass
"""
CLASSES = {
    "AutoConfig": "configuration_odd.OddConfig",
    "AutoModelForCausalLM": "modeling_odd.OddForCausalLM",
}
TOKENIZER_CLASSES = {"AutoTokenizer": [None, "tokenization_odd.OddTokenizer"]}


def change(path: Path, **settings) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "plain"
    make_base(folder)
    return folder


@pytest.fixture
def trace(tmp_path, one_fork_server, monkeypatch) -> Path:
    """The file that a model's code leaves where it runs, here or in a child."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a question on the terminal"))
    return tmp_path / "ran"


def with_code(plain: Path, folder: Path, model_type: str) -> Path:
    shutil.copytree(plain, folder)
    change(folder / "config.json", model_type=model_type, auto_map=CLASSES)
    names = {"auto_map": TOKENIZER_CLASSES}
    if model_type == "odd":
        names["tokenizer_class"] = "OddTokenizer"
    change(folder / "tokenizer_config.json", **names)
    for name, code in (
        ("configuration_odd.py", CONFIGURATION),
        ("modeling_odd.py", MODELING),
        ("tokenization_odd.py", TOKENIZATION),
        ("custom_generate/generate.py", "def generate(model, **_): raise SystemExit('custom')"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(TRACE + code)
    return folder


def test_a_model_that_needs_its_own_code_is_refused(plain, tmp_path, trace):
    folder = with_code(plain, tmp_path / "base", "odd")
    for load in (load_config, load_tokenizer, lambda name: load_model(str(name))):
        with pytest.raises(
            CustomCodeRefused, match="brings Python code of its own, which is not run"
        ):
            load(folder)
    assert not trace.exists()


def test_what_transformers_knows_is_loaded_without_its_code(plain, tmp_path, trace):
    import torch

    folder = with_code(plain, tmp_path / "base", "llama")
    assert type(load_config(folder)).__module__.startswith("transformers.models.llama")
    assert load_tokenizer(folder)("say red").input_ids
    model = load_model(str(folder))
    model.generate(torch.tensor([[2, 3]]), max_new_tokens=2, pad_token_id=1)
    assert not trace.exists()


def test_no_library_can_be_talked_into_it(plain, tmp_path, trace):
    """As a library that says trust_remote_code=True by itself, or imports the function first."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.generation.utils import get_class_in_module

    forbid_custom_code()
    folder = with_code(plain, tmp_path / "base", "odd")
    for auto in (AutoConfig, AutoModelForCausalLM, AutoTokenizer):
        with pytest.raises(RetuneError, match="is not run"):
            auto.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(CustomCodeRefused):
        get_class_in_module("OddConfig", str(folder / "configuration_odd.py"))
    generating = load_model(str(plain))
    with pytest.raises(CustomCodeRefused):
        generating.generate(custom_generate=str(folder), trust_remote_code=True)
    assert not trace.exists()


def test_what_is_written_names_no_code(plain, tmp_path):
    folder = with_code(plain, tmp_path / "base", "llama")
    change(folder / "config.json", text_config={"auto_map": {"AutoConfig": "a.B"}, "kept": 1})
    (folder / "training_args.bin").write_bytes(b"a pickle")
    strip_code(folder)
    assert "auto_map" not in json.dumps([json.loads(p.read_text()) for p in folder.glob("*.json")])
    assert json.loads((folder / "config.json").read_text())["text_config"] == {"kept": 1}
    assert not [*folder.glob("*.py"), *folder.glob("*.bin")]
    assert load_tokenizer(folder)("say red").input_ids
    before = {path: path.read_bytes() for path in folder.glob("*.json")}
    strip_code(folder)
    assert {path: path.read_bytes() for path in folder.glob("*.json")} == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"0": 7}}'),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": 7}}'),
    ],
)
def test_an_unreadable_tokenizer_is_one_sentence(plain, tmp_path, name, content):
    folder = shutil.copytree(plain, tmp_path / "base")
    (folder / name).write_text(content)
    with pytest.raises(
        ModelUnreadable, match=rf"^the tokenizer of {folder} cannot be read \(.*\)"
    ) as e:
        load_tokenizer(folder)
    assert "\n" not in str(e.value)


# Each is a process that imports everything anew.
@pytest.mark.parametrize("where", [pytest.param("folder", marks=pytest.mark.proof), "hub"])
def test_allowed_code_runs_from_the_base_to_the_checkpoint(plain, tmp_path, trace, hub, where):
    """In a process of its own, since classes stay known; code is run there and nowhere later."""
    folder = with_code(plain, tmp_path / "base", "odd")
    base, revision = str(folder), None
    version = pin(base, None, "model", "model.base")
    if where == "hub":
        found = {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
        }
        base, revision = "them/odd", hub.add_model("them/odd", found)
        version = revision
        hub.tokens["hf_canary"] = {"role": "read"}
        hub.add_model("them/odd", {"modeling_odd.py": b"raise SystemExit('a later version')"})
    model = Model(base=base, trust_remote_code=version)
    script = tmp_path / "use.py"
    script.write_text(USE)
    done = subprocess.run(
        [sys.executable, script, model.model_dump_json(), revision or "", tmp_path / "saved"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["OddConfig", "OddForCausalLM", "OddTokenizer", "OddForCausalLM"]
    assert trace.exists()
    saved = tmp_path / "saved"
    assert not list(saved.glob("*.py"))
    assert "auto_map" not in (saved / "config.json").read_text()
    assert "auto_map" not in (saved / "tokenizer_config.json").read_text()


USE = """
import sys
from pathlib import Path
import torch
from retune.recipe import Model
from retune.loaders import load_config, load_model, load_tokenizer, new_model, strip_code, admit
model, revision, saved = Model.model_validate_json(sys.argv[1]), sys.argv[2] or None, Path(sys.argv[3])
admit(model, revision)
config = load_config(model.base, revision)
new_model(config, torch.float32)
loaded = load_model(model.base, revision)
loaded.generate(torch.tensor([[2, 3]]), max_new_tokens=2, pad_token_id=1)
tokenizer = load_tokenizer(model.base, revision)
print(type(config).__name__, type(loaded).__name__, type(tokenizer).__name__)
loaded.save_pretrained(saved)
tokenizer.save_pretrained(saved)
strip_code(saved)
print(type(load_model(str(saved))).__name__)
"""


def test_allowed_for_another_version_is_not_allowed(plain, tmp_path, trace):
    folder = with_code(plain, tmp_path / "base", "odd")
    for allowed, revision in (
        ("a" * 40, "b" * 40),
        ("a" * 40, None),
        (f"sha256:{'a' * 64}", "a" * 40),
    ):
        admit(Model(base=str(folder), trust_remote_code=allowed), revision)
    with pytest.raises(CustomCodeRefused):
        load_config(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    "architecture", ["LLaDAModelLM", pytest.param("DreamModel", marks=pytest.mark.proof)]
)
def test_llamacpps_converter_runs_no_code(plain, tmp_path, trace, architecture):
    """It chooses by `architectures`, and for eleven of them it trusts whatever the folder brings."""
    try:
        llamacpp.locate()
    except llamacpp.LlamaCppNotFound as missing:
        pytest.skip(str(missing))
    folder = with_code(plain, tmp_path / "base", "llama")
    change(folder / "config.json", architectures=[architecture])
    with suppress(llamacpp.ConversionFailed):
        llamacpp.convert(folder, tmp_path / "out.gguf")
    assert not trace.exists()


@pytest.mark.parametrize("file", ["tokenizer.model", "tekken.json"])
def test_a_tokenizer_in_mistrals_own_format_is_refused_with_what_helps(tmp_path, file):
    from transformers import MistralConfig

    MistralConfig().save_pretrained(tmp_path)
    (tmp_path / file).write_text("{}")
    with pytest.raises(
        ModelUnreadable, match=r"has no tokenizer\.json: name a copy of the model in"
    ):
        load_tokenizer(tmp_path)


def test_a_module_that_may_not_be_imported_is_no_obstacle(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "get_class_in_module", lambda *_: None)  # as it was before
    forbid_custom_code()
    assert dynamic.get_class_in_module.of_retune


def test_a_backend_is_copied_again_once_the_tokenizer_is_there(tmp_path):
    """It is not while transformers loads it: of 128,000 tokens a copy takes a core a second."""
    make_base(tmp_path)
    one = load_tokenizer(tmp_path).backend_tokenizer
    theirs = copy.deepcopy(one)
    theirs.add_tokens(["grey"])
    assert one.token_to_id("grey") is None
    with backends_uncopied():
        load_tokenizer(tmp_path)  # a block within a block
        assert copy.deepcopy(one) is one
    assert copy.deepcopy(one) is not one
