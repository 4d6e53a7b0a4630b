"""publish against the loopback Hub: whole sets, verified, private, patient, silent on tokens."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import cloudpickle
import pytest
import yaml
from huggingface_hub import ModelCard
from jinja2 import Environment
from jinja2.meta import find_undeclared_variables
from prefect.logging import disable_run_logger

from retune.escaping import visible
from retune.measures import format_bytes
from retune.outputs import Output, Step, mark_rejected
from retune.recipe import Recipe, RecipeError
from retune.records import Adapter, Gguf, Merged, Pins, Published, Scores
from tasks.publish import access
from tasks.publish.access import ATTEMPTS, LONGEST_WAIT, connect
from tasks.publish.cards import TEMPLATE, Release, card, facts, recommended
from tasks.publish.files import LICENCES, is_local_path, is_text, outputs_in
from tasks.publish.task import (
    HubUnavailable,
    NoAccess,
    PublishError,
    UploadNotVerified,
    check_access,
    check_terms,
    publish,
)
from tasks.publish.terms import TEXT_LIMIT, Terms, terms_of
from tasks.publish.upload import Bundle, publish_bundles
from tests.hub import Hub, Repo
from tests.nasty import HOST, MARK, NASTY, unseen_in
from tests.rendered import Page, rendered

RECIPE = Recipe.parse(
    {
        "name": "finellama",
        "model": {"base": "org/base"},
        "dataset": {"source": "org/data", "split": "train[:100]"},
        "publishing": {"enabled": True, "repo": "you/FineLlama"},
    }
)
PINS = Pins(dataset="d" * 40, model="b" * 40)
METRICS = {"loss/base": 2.5, "loss/tuned": 1.25, "perplexity/tuned": 3.49, "perplexity/base": 12.18}
BASE = {
    "README.md": b"---\nlicense: other\nlicense_name: base-community\nlicense_link: LICENSE\n---\n",
    "LICENSE": b"You may.",
    "USE_POLICY.md": b"Be good.",
    "licences/third.txt": b"below a folder",
}
DATA = {"README.md": b"---\nlicense: [mit, cc-by-4.0]\n---\n", "LICENSE": b"The data's own."}


@pytest.fixture
def hub(hub: Hub) -> Hub:
    """The Hub with what the recipe starts from."""
    for kind, name, pin, files in (
        ("model", "org/base", PINS.model, BASE),
        ("dataset", "org/data", PINS.dataset, DATA),
    ):
        hub.repos[kind, name] = Repo(kind, name, commits={pin: dict(files)})
    return hub


def yours(hub: Hub) -> dict[str, Repo]:
    return {name: repo for (_, name), repo in hub.repos.items() if name.startswith("you/")}


def recipe(**sections: dict) -> Recipe:
    """RECIPE with some settings changed, section by section."""
    values = RECIPE.model_dump(mode="json")
    return Recipe.parse(
        {
            key: value | sections.get(key, {}) if isinstance(value, dict) else value
            for key, value in values.items()
        }
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_write")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been slept; nothing waits."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def output(kind: type[Output], stage: str, contents: dict[str, bytes], **fields) -> Output:
    made = kind(step=Step(stage=stage, key=fields), started=datetime.now(UTC), seconds=1, **fields)
    for name, content in contents.items():
        path = made.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return made


def quant(method: str, content: bytes = b"") -> Gguf:
    content = content or b"GGUF" + method.encode() * 5000
    fields = {
        "method": method,
        "file": f"finellama-{method.upper()}.gguf",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "metrics": {
            "perplexity": 3.5,
            "kl_divergence": 0.01,
            "same_top_token": 0.97,
            "bits_per_weight": 4.89,
        },
        "files": (f"finellama-{method.upper()}.Modelfile",),
    }
    files = {fields["file"]: content, fields["files"][0]: modelfile(fields["file"])}
    return output(Gguf, "quantize", files, **fields)


def modelfile(name: str) -> bytes:
    return (
        f'FROM ./{name}\nTEMPLATE """{{{{ .Role }}}}\n"""\nPARAMETER stop "<|im_end|>"\n'.encode()
    )


def line(weights: bytes = b"w") -> dict:
    """The arguments of `publish`, with files on disk as the stages before leave them."""
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a" * 20_000}
    model = {"config.json": b"{}", "model-00001-of-00002.safetensors": weights * 30_000}
    four_bit = {"model-4bit/config.json": b"{}", "model-4bit/model.safetensors": b"4" * 20_000}
    extra = {"model-00002-of-00002.safetensors": b"z" * 30_000, ".cache/junk": b"x"}
    return {
        "adapter": output(Adapter, "train", {f"adapter/{n}": c for n, c in adapter.items()}),
        "merged": output(
            Merged, "merge", {f"model/{n}": c for n, c in (model | extra).items()} | four_bit
        ),
        "ggufs": [quant("q4_k_m"), quant("q8_0")],
        "scores": output(Scores, "evaluate", {}, metrics=METRICS),
        "recipe": RECIPE,
        "pins": PINS,
        "step": Step(stage="publish", key={"weights": weights.decode()}),
    }


def run(**changes) -> Published:
    with disable_run_logger():
        return publish.fn(**line() | changes)


def one_file(path: Path, name: str = "model.safetensors") -> Bundle:
    path.write_bytes(b"w" * 20_000)
    return Bundle("you/one", {name: path}, {})


def send(hub: Hub, bundle: Bundle, private: bool = True) -> dict[str, str]:
    return publish_bundles(connect("hf_write"), [bundle], private, "test")


@pytest.mark.usefixtures("home", "signed_in")
class TestPublish:
    def test_each_repository_gets_its_files_in_one_commit(self, hub: Hub) -> None:
        published = run()
        merged, gguf = hub.model("you/FineLlama"), hub.model("you/FineLlama-GGUF")
        assert set(hub.model("you/FineLlama-lora").files) == {
            ".gitattributes",
            "LICENSE",
            "README.md",
            "USE_POLICY.md",
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        assert merged.files["model-00001-of-00002.safetensors"] == b"w" * 30_000
        assert ".cache/junk" not in merged.files
        assert all(repo.private and len(repo.commits) == 2 for repo in yours(hub).values())
        assert published.commits["you/FineLlama"].endswith(f"you/FineLlama/commit/{merged.head}")
        assert (
            published.folder.joinpath("cards/gguf/README.md").read_bytes()
            == gguf.files["README.md"]
        )

    def test_a_quant_that_failed_its_gate_stays_here(self, hub: Hub) -> None:
        failed = quant("q2_k")
        mark_rejected(failed.step, ["expected: a sound file; seen: a broken one"])
        with pytest.raises(PublishError, match=r"finellama-Q2_K\.gguf failed its gate"):
            run(ggufs=[failed, quant("q4_k_m")])
        assert yours(hub) == {}
        run()
        files = hub.model("you/FineLlama-GGUF").files
        assert {"finellama-Q4_K_M.gguf", "finellama-Q8_0.gguf"} == {f for f in files if "gguf" in f}

    def test_without_a_quant_that_ships_there_is_no_gguf_repository(self, hub: Hub) -> None:
        run(ggufs=[])
        assert ("model", "you/FineLlama-GGUF") not in hub.repos
        assert "FineLlama-GGUF" not in hub.model("you/FineLlama").files["README.md"].decode()

    @pytest.mark.parametrize(
        ("sections", "merging", "expected"),
        [
            ({"publishing": {"artifacts": ["adapter"]}}, True, {"-lora"}),
            ({"merging": {"save_method": "lora"}}, False, {"-lora"}),
            (
                {"merging": {"save_method": "merged_4bit"}},
                True,
                {"-lora", "", "-bnb-4bit", "-GGUF"},
            ),
        ],
    )
    def test_what_is_made_or_named_is_published(
        self, hub: Hub, sections: dict, merging: bool, expected: set[str]
    ) -> None:
        run(recipe=recipe(**sections), **({} if merging else {"merged": None, "ggufs": []}))
        assert set(yours(hub)) == {f"you/FineLlama{suffix}" for suffix in expected}
        if "-bnb-4bit" in expected:
            files = hub.model("you/FineLlama-bnb-4bit").files
            assert files["model.safetensors"] == b"4" * 20_000
            assert b"base_model: you/FineLlama\n" in files["README.md"]

    def test_of_full_fine_tuning_there_is_no_adapter(self, hub: Hub) -> None:
        run(recipe=recipe(model={"load_in_4bit": False}, training={"method": "full"}))
        assert set(yours(hub)) == {"you/FineLlama", "you/FineLlama-GGUF"}
        assert (
            "| method | full fine-tuning |"
            in hub.model("you/FineLlama").files["README.md"].decode()
        )

    def test_ollama_finds_the_template_by_modelfile_and_by_repository(self, hub: Hub) -> None:
        run()
        files = hub.model("you/FineLlama-GGUF").files
        assert {name for name in files if name.endswith(".Modelfile")} == {
            "finellama-Q4_K_M.Modelfile",
            "finellama-Q8_0.Modelfile",
        }
        assert files["finellama-Q8_0.Modelfile"].startswith(b"FROM ./finellama-Q8_0.gguf\n")
        assert files["template"] == b"{{ .Role }}\n"
        assert json.loads(files["params"]) == {"stop": ["<|im_end|>"]}

    def test_publishing_the_same_again_changes_nothing(self, hub: Hub) -> None:
        first = run()
        again = Step(stage="publish", key={"again": True})
        assert run(step=again).commits == first.commits

    def test_weights_of_an_earlier_version_go_and_other_files_stay(self, hub: Hub) -> None:
        old = {"model-00001-of-00003.safetensors": b"old", "picture.png": b"mine"}
        hub.add_model("you/FineLlama", old, private=True)
        run()
        files = hub.model("you/FineLlama").files
        assert "picture.png" in files
        assert "model-00001-of-00003.safetensors" not in files

    def test_nothing_is_committed_before_all_large_files_are_there(self, hub: Hub) -> None:
        run()
        kinds = [request.split("/")[1:] for request in hub.requests]
        last_upload = max(n for n, parts in enumerate(kinds) if parts[0] == "lfs")
        first_commit = min(n for n, parts in enumerate(kinds) if "commit" in parts)
        assert last_upload < first_commit

    def test_nothing_to_publish_is_an_error(self, hub: Hub) -> None:
        with pytest.raises(PublishError, match="none passed its gate"):
            run(
                recipe=recipe(publishing={"artifacts": ["gguf"]}),
                ggufs=[],
            )

    def test_the_merged_model_stands_for_the_release(self, hub: Hub) -> None:
        published = run()
        assert published.model == published.commits["you/FineLlama"]
        assert published.params["recommended"] == "finellama-Q4_K_M.gguf"
        assert published.params["sha256"] == quant("q4_k_m").sha256

    def test_a_file_that_changed_since_it_was_made_is_not_committed(self, hub: Hub) -> None:
        changed = quant("q4_k_m", content=b"as quantized" * 2000)
        changed.path.write_bytes(b"rotten" * 5000)
        with pytest.raises(PublishError, match=r"Q4_K_M\.gguf has changed since it was made"):
            run(ggufs=[changed])
        assert all(len(repo.commits) == 1 for repo in yours(hub).values())

    def test_a_public_repository_is_no_place_for_a_private_model(self, hub: Hub) -> None:
        hub.add_model("you/FineLlama", {"README.md": b""})
        with pytest.raises(PublishError, match=r"private is true but you/FineLlama is public"):
            run()
        assert len(hub.model("you/FineLlama").commits) == 1

    def test_no_token(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(NoAccess, match=r"set HF_TOKEN or run `hf auth login`"):
            run()
        assert not yours(hub)


class TestSet:
    """Several repositories are one release: all of it, or a clear word on what is missing."""

    @pytest.fixture
    def bundles(self, tmp_path: Path) -> list[Bundle]:
        """Two repositories of one large file each; `you/two` comes last."""
        made = []
        for name in ("one", "two"):
            path = tmp_path / f"{name}.safetensors"
            path.write_bytes(name.encode() * 10_000)
            made.append(Bundle(f"you/{name}", {"model.safetensors": path}, {}))
        return made

    def release(self, bundles: list[Bundle]) -> dict[str, str]:
        return publish_bundles(connect("hf_write"), bundles, True, "test")

    def test_if_one_upload_fails_nothing_is_committed(
        self, hub: Hub, bundles: list[Bundle], waits: list
    ) -> None:
        oid = hashlib.sha256(bundles[1].files["model.safetensors"].read_bytes()).hexdigest()
        hub.fail("PUT", oid, 500, times=1000)
        with pytest.raises(HubUnavailable, match="you/two"):
            self.release(bundles)
        assert all(len(repo.commits) == 1 for repo in yours(hub).values())

    @pytest.mark.parametrize(
        ("status", "kind"), [(500, HubUnavailable), (403, NoAccess), (412, PublishError)]
    )
    def test_if_a_later_commit_fails_the_error_says_what_is_there_and_a_rerun_completes_it(
        self, hub: Hub, bundles: list[Bundle], waits: list, status: int, kind: type
    ) -> None:
        hub.fail("POST", "/models/you/two/commit/", status, times=ATTEMPTS)
        with pytest.raises(kind, match=r"you/one has this version already, you/two not: run again"):
            self.release(bundles)
        hub.faults.clear()
        head, received = hub.model("you/one").head, hub.received
        assert set(self.release(bundles)) == {"you/one", "you/two"}
        assert hub.model("you/one").head == head
        assert hub.received == received
        assert "model.safetensors" in hub.model("you/two").files

    def test_a_bad_commit_stops_the_set(self, hub: Hub, bundles: list[Bundle]) -> None:
        hub.tampered.add("model.safetensors")
        with pytest.raises(
            UploadNotVerified, match=r"you/one at .* go back to the commit before it"
        ):
            self.release(bundles)
        assert len(hub.model("you/two").commits) == 1


class TestResuming:
    def test_a_killed_upload_sends_only_what_is_missing(self, hub: Hub, tmp_path: Path) -> None:
        """A process dies by SIGKILL when three of four files are there."""
        contents = {f"{n}.safetensors": bytes([n]) * (100_000 + n) for n in range(4)}
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        last = hashlib.sha256(contents["3.safetensors"]).hexdigest()
        hub.fail("PUT", last, 0, slow=60)
        code = (
            "from pathlib import Path; from tasks.publish.access import connect; "
            "from tasks.publish.upload import Bundle, publish_bundles; "
            f"files = {{p.name: p for p in sorted(Path({str(tmp_path)!r}).iterdir())}}; "
            "publish_bundles(connect('hf_write'), [Bundle('you/one', files, {})], True, 'test')"
        )
        child = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 60
        while not (len(hub.objects) == 3 and any(last in request for request in hub.requests)):
            assert child.poll() is None
            assert time.monotonic() < deadline, hub.requests
            time.sleep(0.05)
        child.kill()
        child.wait()
        assert len(hub.model("you/one").commits) == 1
        hub.received = 0
        files = {name: tmp_path / name for name in contents}
        publish_bundles(connect("hf_write"), [Bundle("you/one", files, {})], True, "test")
        assert hub.received == len(contents["3.safetensors"])
        assert contents.items() <= hub.model("you/one").files.items()

    @pytest.mark.parametrize("status", [500, 0])
    def test_of_a_file_in_parts_only_the_part_that_failed_is_sent_again(
        self, hub: Hub, tmp_path: Path, waits: list, status: int
    ) -> None:
        hub.chunk_size = 6000
        bundle = one_file(tmp_path / "w")
        hub.fail("PUT", "/2", status)
        send(hub, bundle)
        assert hub.model("you/one").files["model.safetensors"] == b"w" * 20_000
        assert hub.received == 20_000
        assert sum(request.startswith("PUT") for request in hub.requests) == 5

    def test_an_address_of_the_storage_that_expired_is_asked_for_anew(
        self, hub: Hub, tmp_path: Path, waits: list
    ) -> None:
        hub.fail("PUT", "/lfs/", 403)
        send(hub, one_file(tmp_path / "w"))
        assert sum("objects/batch" in request for request in hub.requests) == 2
        assert "model.safetensors" in hub.model("you/one").files

    def test_a_storage_that_keeps_refusing_is_given_up(
        self, hub: Hub, tmp_path: Path, waits: list
    ) -> None:
        hub.fail("PUT", "/lfs/", 403, times=1000)
        with pytest.raises(HubUnavailable, match="HTTP 403"):
            send(hub, one_file(tmp_path / "w"))
        assert sum(request.startswith("PUT") for request in hub.requests) == ATTEMPTS


class TestVerification:
    @pytest.mark.parametrize("name", ["model.safetensors", "small.json"])
    def test_a_wrong_hash_is_found(self, hub: Hub, tmp_path: Path, name: str) -> None:
        hub.tampered.add(name)
        bundle = one_file(tmp_path / name, name)
        if name == "small.json":
            (tmp_path / name).write_bytes(b"{}")
        with pytest.raises(
            UploadNotVerified, match=rf"{name} has 000000000000 instead of \w{{12}}"
        ):
            send(hub, bundle)


class TestPatience:
    REQUESTS = (
        ("POST", "/repos/create"),
        ("GET", "/api/models/you/one"),
        ("POST", "/preupload/"),
        ("POST", "/objects/batch"),
        ("PUT", "/lfs/"),
        ("POST", "/verify"),
        ("GET", "/tree/"),
        ("POST", "/validate-yaml"),
        ("POST", "/commit/"),
        ("POST", "/paths-info/"),
    )

    @pytest.mark.parametrize("status", [500, 429, 0])
    @pytest.mark.parametrize(("method", "path"), REQUESTS)
    def test_one_bad_answer_anywhere_is_survived(
        self, hub: Hub, tmp_path: Path, waits: list, method: str, path: str, status: int
    ) -> None:
        hub.fail(method, path, status)
        card_file = tmp_path / "README.md"
        card_file.write_text("---\ntags: [a]\n---\n")
        bundle = one_file(tmp_path / "w")
        send(hub, Bundle(bundle.repo, {**bundle.files, "README.md": card_file}, {}))
        assert len(waits) == 1
        assert len(hub.model("you/one").commits) == 2

    @pytest.mark.parametrize("status", [0, 502])
    def test_a_commit_whose_answer_was_lost_is_not_made_twice(
        self, hub: Hub, tmp_path: Path, waits: list, status: int
    ) -> None:
        hub.fail("POST", "/commit/", status, after=True)
        urls = send(hub, one_file(tmp_path / "w"))
        assert urls == {"you/one": f"{hub.endpoint}/you/one/commit/{hub.model('you/one').head}"}
        assert len(hub.model("you/one").commits) == 2

    @pytest.mark.parametrize(("header", "wait"), [("7", 7), ("9999", LONGEST_WAIT)])
    def test_retry_after_is_honoured_within_reason(
        self, hub: Hub, tmp_path: Path, waits: list, header: str, wait: int
    ) -> None:
        hub.fail("POST", "/commit/", 429, Retry_After=header)
        send(hub, one_file(tmp_path / "w"))
        assert waits == [wait]

    @pytest.mark.parametrize("header", ["soon", "", "²"])
    def test_otherwise_each_wait_is_twice_as_long_and_a_bit(
        self, hub: Hub, tmp_path: Path, waits: list, header: str
    ) -> None:
        hub.fail("POST", "/commit/", 429, times=ATTEMPTS - 1, Retry_After=header)
        send(hub, one_file(tmp_path / "w"))
        assert [int(wait) for wait in waits] == [1, 2, 4, 8]
        assert len({wait % 1 for wait in waits}) == 4

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/api/models/you/one"), ("POST", "/commit/"), ("POST", "/batch")],
    )
    @pytest.mark.parametrize("fault", [{"truncated": True}, {"slow": 30}])
    def test_half_an_answer_and_none_at_all_are_survived(
        self,
        hub: Hub,
        tmp_path: Path,
        waits: list,
        monkeypatch: pytest.MonkeyPatch,
        method: str,
        path: str,
        fault: dict,
    ) -> None:
        monkeypatch.setattr(access, "SILENCE", 0.3)
        hub.fail(method, path, 0, **fault)
        send(hub, one_file(tmp_path / "w"))
        assert len(waits) == 1
        assert len(hub.model("you/one").commits) == 2

    def test_an_outage_ends_after_a_bounded_number_of_attempts(
        self, hub: Hub, tmp_path: Path, waits: list
    ) -> None:
        hub.fail("POST", "/repos/create", 503, times=1000)
        with pytest.raises(HubUnavailable, match=r"HTTP 503.*run again"):
            send(hub, one_file(tmp_path / "w"))
        assert len(hub.requests) == ATTEMPTS

    def test_storage_that_stays_down_is_an_outage_too(
        self, hub: Hub, tmp_path: Path, waits: list
    ) -> None:
        hub.fail("PUT", "/lfs/", 500, times=1000)
        with pytest.raises(HubUnavailable, match="HTTP 500"):
            send(hub, one_file(tmp_path / "w"))

    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize("path", ["/repos/create", "/preupload/", "/commit/"])
    def test_a_missing_permission_is_not_asked_for_twice(
        self, hub: Hub, tmp_path: Path, waits: list, path: str, status: int
    ) -> None:
        hub.fail("POST", path, status, times=1000)
        with pytest.raises(NoAccess, match=r"you/one.*huggingface.co/settings/tokens"):
            send(hub, one_file(tmp_path / "w"))
        assert not waits
        assert sum(path in request for request in hub.requests) == 1

    @pytest.mark.parametrize("status", [409, 412])
    def test_somebody_elses_commit_is_not_overwritten(
        self, hub: Hub, tmp_path: Path, status: int
    ) -> None:
        hub.fail("POST", "/commit/", status)
        with pytest.raises(PublishError, match=rf"another commit .* \({status}\); run again"):
            send(hub, one_file(tmp_path / "w"))

    def test_a_server_that_echoes_the_token_is_not_quoted(self, hub: Hub, tmp_path: Path) -> None:
        hub.fail("POST", "/commit/", 400, X_Error_Message="what is hf_write?")
        with pytest.raises(PublishError, match=r"what is …\?"):
            send(hub, one_file(tmp_path / "w"))


class TestXet:
    """Large files go by the Xet protocol where hf_xet is installed; its errors are Python's own."""

    @pytest.fixture(autouse=True)
    def xet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
        # It tries again for minutes by itself.
        monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "1ms")

    @pytest.mark.parametrize(
        ("status", "kind", "sentence"),
        [
            (503, HubUnavailable, "did not take you/one (HTTP 503): check the network"),
            (429, HubUnavailable, "did not take you/one (HTTP 429): check the network"),
            (0, HubUnavailable, "did not take you/one (ConnectionError): check the network"),
            (401, NoAccess, "does not accept the token for you/one (401)"),
            (403, NoAccess, "the token may not write to you/one (403)"),
            (404, PublishError, "you/one was not published: Network error: Request error: HTTP"),
        ],
    )
    def test_its_errors_are_told_as_those_of_the_hub(
        self, hub: Hub, tmp_path: Path, waits: list, status: int, kind: type, sentence: str
    ) -> None:
        hub.fail("GET", "/xet-write-token/", status, times=1000)
        with pytest.raises(kind, match=re.escape(sentence)) as caught:
            send(hub, one_file(tmp_path / "w"))
        assert type(caught.value) is kind
        assert "hf_write" not in str(caught.value)
        assert not waits  # once more is not tried what hf_xet has tried again
        assert len(hub.model("you/one").commits) == 1

    def test_connecting_leaves_the_protocol_to_the_environment(self) -> None:
        from huggingface_hub import constants

        connect("hf_write")
        assert constants.HF_HUB_DISABLE_XET is False


class TestCheckAccess:
    @pytest.mark.parametrize("repo", ["you/model", "team/model"])
    def test_may_write(self, hub: Hub, signed_in: None, repo: str) -> None:
        check_access(recipe(publishing={"repo": repo}))
        assert not any(request.startswith(("POST", "PUT")) for request in hub.requests)

    @pytest.mark.parametrize("repo", ["others/model", "strangers/model"])
    def test_not_ones_own_namespace(self, hub: Hub, signed_in: None, repo: str) -> None:
        with pytest.raises(NoAccess, match=f"'you' may not write to {repo}.*settings/tokens"):
            check_access(recipe(publishing={"repo": repo}))

    @pytest.mark.parametrize(
        ("token", "complaint"),
        [(None, "no Hugging Face token"), ("hf_read", "may not write"), ("hf_old", "not accept")],
    )
    def test_token(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None, complaint: str
    ) -> None:
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(NoAccess, match=complaint):
            check_access(recipe(publishing={"repo": "you/model"}))

    @pytest.mark.parametrize(
        ("entities", "allowed"),
        [
            (["you"], True),
            (["you/model", "you/model-lora", "you/model-GGUF"], True),
            (["you/model"], False),
            (["team"], False),
        ],
    )
    def test_fine_grained_token(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, entities: list[str], allowed: bool
    ) -> None:
        scoped = [{"entity": {"name": e}, "permissions": ["repo.write"]} for e in entities]
        hub.tokens["hf_fine"] = {"role": "fineGrained", "fineGrained": {"scoped": scoped}}
        monkeypatch.setenv("HF_TOKEN", "hf_fine")
        wanted = recipe(publishing={"repo": "you/model"})
        if allowed:
            check_access(wanted)
        else:
            with pytest.raises(NoAccess):
                check_access(wanted)

    def test_a_public_repository_is_found_before_the_training(
        self, hub: Hub, signed_in: None
    ) -> None:
        hub.add_model("you/model-GGUF", {"README.md": b""})
        with pytest.raises(PublishError, match="you/model-GGUF is public"):
            check_access(recipe(publishing={"repo": "you/model"}))


@pytest.mark.usefixtures("waits")
class TestToken:
    """Whatever happens, the token is in no file, log line or exception."""

    FAULTS = (
        None,
        ("POST", "/repos/create", 403),
        ("POST", "/preupload/", 401),
        ("POST", "/preupload/", 400),
        ("PUT", "/lfs/", 403),
        ("POST", "/commit/", 500),
        ("POST", "/paths-info/", 0),
    )

    @pytest.mark.parametrize("fault", FAULTS)
    @pytest.mark.parametrize("token", ["hf_canary", "hf_canary\x0b?", "hf_canary\u20ac"])
    def test_stays_secret(
        self,
        hub: Hub,
        home: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture,
        fault: tuple | None,
        token: str,
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", token)
        hub.tokens[token] = {"role": "write"}
        if fault:
            hub.fail(*fault, times=1000)
        said = b""
        try:
            run()
        except PublishError as error:
            said = cloudpickle.dumps(error) + str(error).encode()
        assert bool(said) == (fault is not None or token != "hf_canary")
        written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
        logged = "".join([caplog.text, *capfd.readouterr()]).encode()
        assert b"hf_canary" not in said + written + logged

    # Publishes four times over, in Prefect flows and MLflow runs: three times it fails.
    RUNS = """
import logging
import sys
from flows.local import configure
configure()
from prefect import flow
from prefect.blocks.system import Secret
from retune.tracking import start_run
from tasks.publish.task import NoAccess, check_access, publish
from tests.tasks.test_publish import line, recipe

for name in ("httpx", "httpcore"):
    logging.getLogger(name).setLevel("DEBUG")
Secret(value=sys.stdin.read()).save("hub-token")
secret = recipe(publishing={"token_secret": "hub-token"})

@flow
def release():
    with start_run(secret, "canary", {}, "digest") as run:
        check_access(secret)
        published = run.log(publish.with_options(retries=0)(**line() | {"recipe": secret}))

try:
    check_access(recipe(publishing={"token_secret": "nowhere"}))
except NoAccess as error:
    print(error)
for _ in range(4):
    print(release(return_state=True).type)
"""

    @pytest.mark.proof  # four Prefect runs under one server; above, the stage alone fails likewise
    def test_stays_secret_in_whole_runs_that_fail_midway(self, hub: Hub, home: Path) -> None:
        """Everything is logged, into Prefect's database too; the token is a Prefect secret."""
        del hub.tokens["hf_write"]
        hub.tokens["hf_canary"] = {"role": "write"}
        hub.fail("POST", "/repos/create", 401)
        hub.fail("POST", "/preupload/", 403)
        hub.fail("POST", "/commit/", 500, times=ATTEMPTS, Retry_After="0")
        ours = ("PREFECT", "MLFLOW", "HF_TOKEN")
        done = subprocess.run(
            [sys.executable, "-c", self.RUNS],
            env={name: value for name, value in os.environ.items() if not name.startswith(ours)}
            | {
                "PREFECT_LOGGING_LEVEL": "DEBUG",
                "PREFECT_LOGGING_EXTRA_LOGGERS": "huggingface_hub,retune,tasks",
            },
            input=b"hf_canary",
            capture_output=True,
            check=False,
        )
        complaint, *states = done.stdout.decode().splitlines()
        assert "Prefect has no Secret block 'nowhere' that holds a token" in complaint
        ended = [state.rpartition(".")[2] for state in states]
        assert ended == ["FAILED", "FAILED", "FAILED", "COMPLETED"]
        assert hub.model("you/FineLlama-GGUF").files["finellama-Q8_0.gguf"].startswith(b"GGUF")
        written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
        # What there would be to find it in:
        assert all(text in written for text in (b"Traceback", b"HTTP 500", b"mlflow.runName"))
        assert b"send_request_headers" in done.stderr
        assert b"hf_canary" not in written + done.stdout + done.stderr


@pytest.mark.usefixtures("home")
class TestCards:
    @pytest.fixture
    def release(self) -> Release:
        quants = [quant("q4_k_m"), quant("q8_0", content=b"8" * 2**20)]
        base = Terms("other", "base-community", "LICENSE", {"LICENSE": b"x"})
        return Release(RECIPE, PINS, METRICS, quants, base, Terms("mit"))

    def test_metadata_links_the_family(self, release: Release) -> None:
        adapter, merged, gguf = (
            ModelCard(card(artifact, release)).data for artifact in ("adapter", "merged", "gguf")
        )
        assert (adapter.base_model, adapter.library_name) == ("org/base", "peft")
        assert (merged.base_model, merged.library_name) == ("org/base", "transformers")
        assert (gguf.base_model, gguf.library_name) == ("you/FineLlama", "gguf")
        assert merged.datasets == ["org/data"]
        assert merged.pipeline_tag == "text-generation"

    def test_an_adapter_says_on_which_weights_its_scores_were_measured(
        self, release: Release
    ) -> None:
        on_16bit = replace(release, onto="16bit")
        assert "with the adapter on the base's 16-bit weights:" in card("adapter", on_16bit)
        assert "in 4 bits (NF4)" in card("adapter", replace(release, onto="dequantized"))
        assert "conversations of the dataset:" in card("adapter", release)
        assert "conversations of the dataset:" in card("merged", on_16bit)

    def test_the_tuned_scores_are_in_the_metadata(self, release: Release) -> None:
        results = ModelCard(card("merged", release)).data.eval_results
        assert {(r.metric_type, r.metric_value) for r in results} == {
            ("loss", 1.25),
            ("perplexity", 3.49),
        }
        assert {r.dataset_revision for r in results} == {PINS.dataset}

    @pytest.mark.parametrize("artifact", ["adapter", "merged", "gguf"])
    def test_the_template_says_what_there_is_and_nothing_else(
        self, release: Release, artifact: str
    ) -> None:
        """Jinja shows nothing, without a word, where a template misspells a name."""
        template = Environment().parse(TEMPLATE.read_text(encoding="utf-8"))
        names = find_undeclared_variables(template)
        assert names == facts(artifact, release).keys() | {"card_data"}

    def test_base_and_tuned_stand_side_by_side(self, release: Release) -> None:
        assert "| loss | 2.5000 | 1.2500 |" in card("adapter", release)

    def test_the_recipe_can_be_read_back(self, release: Release) -> None:
        text = card("merged", release).partition("```yaml\n")[2].partition("```")[0]
        assert Recipe.parse(yaml.safe_load(text)) == RECIPE

    def test_the_quants_are_listed_with_what_one_chooses_by(self, release: Release) -> None:
        text = card("gguf", release)
        digest = release.quants[0].sha256
        assert "| [finellama-Q4_K_M.gguf](./finellama-Q4_K_M.gguf) **recommended** |" in text
        size = format_bytes(release.quants[1].bytes)
        row = f"| q8_0 | {size} | 4.89 | 3.500 | 0.01 | 97.0% "
        assert f"{row}| `{release.quants[1].sha256}` |" in text
        assert digest in text
        assert "ollama run hf.co/you/FineLlama-GGUF:Q4_K_M" in text
        assert "ollama create finellama -f finellama-Q4_K_M.Modelfile" in text

    def test_without_the_usual_method_the_middle_size_is_recommended(self) -> None:
        quants = [quant(m, content=b"x" * n) for m, n in (("q8_0", 9), ("q2_k", 1), ("q6_k", 5))]
        assert recommended(quants).method == "q6_k"

    def test_local_inputs_are_named_but_not_linked(self, release: Release) -> None:
        local = RECIPE.model_copy(
            update={
                "model": RECIPE.model.model_copy(update={"base": "/models/base"}),
                "dataset": RECIPE.dataset.model_copy(update={"source": "/home/me/chats.jsonl"}),
            }
        )
        pins = Pins(dataset=f"sha256:{'1' * 64}", model=f"sha256:{'2' * 64}")
        text = card("merged", Release(local, pins, {}, [], Terms(), Terms()))
        assert ModelCard(text).data.base_model is None
        assert ModelCard(text).data.datasets is None
        assert "`chats.jsonl` (sha256:111111111111)" in text
        assert "Not evaluated." in text
        assert "licence not stated by `base`" in text
        assert ModelCard(text).data.license is None

    def test_the_licence_is_the_bases_and_the_datasets_is_named(self, release: Release) -> None:
        for artifact in ("adapter", "merged", "gguf"):
            text = card(artifact, release)
            data = ModelCard(text).data
            assert (data.license, data.license_name, data.license_link) == (
                "other",
                "base-community",
                "LICENSE",
            )
            assert "Base model: [base-community](LICENSE), as stated by [org/base]" in text
            assert "Its `LICENSE`: in this repository." in text
            assert "Dataset: mit, as stated by [org/data]" in text


@pytest.mark.usefixtures("signed_in")
class TestTerms:
    def test_of_the_hub_at_the_commit_that_was_used(self, hub: Hub) -> None:
        hub.model("org/base").commit({"README.md": b"---\nlicense: mit\n---\n"})  # since then
        base = terms_of(connect(), "org/base", PINS.model, "model", "model.base")
        data = terms_of(connect(), "org/data", PINS.dataset, "dataset", "dataset.source")
        assert (base.licence, base.name, base.link) == ("other", "base-community", "LICENSE")
        assert base.files == {
            "LICENSE": BASE["LICENSE"],
            "USE_POLICY.md": BASE["USE_POLICY.md"],
        }
        assert data == Terms("mit, cc-by-4.0")

    def test_a_link_into_a_repository_becomes_one_to_it(self, hub: Hub) -> None:
        del hub.model("org/base").commits[PINS.model]["LICENSE"]
        base = terms_of(connect(), "org/base", PINS.model, "model", "model.base")
        assert base.link == f"https://huggingface.co/org/base/blob/{PINS.model}/LICENSE"

    def test_of_a_folder(self, tmp_path: Path) -> None:
        for name, content in BASE.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        terms = terms_of(connect(), str(tmp_path), "sha256:1", "model", "model.base")
        assert (terms.licence, terms.name) == ("other", "base-community")
        assert set(terms.files) == {"LICENSE", "USE_POLICY.md"}

    def test_a_folder_that_says_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_text("{}")
        path = str(tmp_path / "rows.jsonl")
        assert terms_of(connect(), path, "sha256:1", "dataset", "dataset.source") == Terms()

    def test_an_outage_is_no_licence(self, hub: Hub, waits: list) -> None:
        hub.fail("GET", "/api/models/org/base", 503, times=1000)
        with pytest.raises(HubUnavailable, match=r"org/base.*HTTP 503"):
            terms_of(connect(), "org/base", PINS.model, "model", "model.base")


SECRET = b"HF_TOKEN=hf_canary\0"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A local base model's folder, beside a file that is nobody's business."""
    folder = tmp_path / "models" / "base"
    for name, content in BASE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (tmp_path / "secret").write_bytes(SECRET)
    return folder


def local(base: Path, **sections: dict) -> Recipe:
    """A recipe that starts from local files."""
    (base.parent / "chats.jsonl").write_text("{}")
    sources = {
        "model": {"base": str(base)},
        "dataset": {"source": str(base.parent / "chats.jsonl")},
    }
    return recipe(**sources, **sections)


LOCAL_PINS = Pins(dataset=f"sha256:{'1' * 64}", model=f"sha256:{'2' * 64}")


class TestTextsOfOthers:
    """What lies beside a base model goes out only if it is what its name says."""

    @pytest.mark.parametrize("name", ["LICENSE", "NOTICE.txt", "USE_POLICY.md", "README.md"])
    @pytest.mark.parametrize(
        "target", ["../../secret", "/proc/self/environ", "/dev/zero", "config"]
    )
    def test_a_link_is_refused_before_any_work(self, base: Path, name: str, target: str) -> None:
        (base / "config").write_text("inside the folder, and a link all the same")
        (base / name).unlink(missing_ok=True)
        (base / name).symlink_to(target)
        with pytest.raises(PublishError, match=f"{name} is a link to .*put the text itself there"):
            check_terms(local(base))
        with pytest.raises(PublishError, match=name):
            terms_of(connect(), str(base), "sha256:1", "model", "model.base")

    def test_neither_is_what_is_no_file_or_no_text_or_endless(self, base: Path) -> None:
        (base / "LICENSE").unlink()
        for make, complaint in (
            (lambda path: os.mkfifo(path), "is no file"),
            (
                lambda path: path.write_bytes(b"x" * (TEXT_LIMIT + 1)),
                "has more than 1,048,576 bytes",
            ),
            (lambda path: path.write_bytes(b"MZ\x90\0"), "is not text in UTF-8"),
            (lambda path: path.write_bytes("© 2026".encode("latin-1")), "is not text in UTF-8"),
        ):
            make(base / "LICENSE")
            with pytest.raises(PublishError, match=complaint):
                check_terms(local(base))
            (base / "LICENSE").unlink()
        check_terms(local(base))

    def test_a_card_that_is_no_yaml_is_not_quoted(self, base: Path) -> None:
        (base / "README.md").write_text("---\n\tlicense: [hf_canary\n---\n")
        with pytest.raises(PublishError, match="not YAML") as caught:
            check_terms(local(base))
        assert "hf_canary" not in str(caught.value)
        (base / "README.md").write_text(f"---\nlicense: {'[' * 20_000}\n---\n")
        with pytest.raises(PublishError, match="not YAML"):
            check_terms(local(base))

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize(
        "card",
        [
            "---\n" + "\n" * 1_000_000,
            "---\nlicense: " + "1:" * 400_000 + "1\n---\n",
            "---\na: &a0 {b: 1}\n"
            + "".join(f"k{n}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 9)}]}}\n" for n in range(12))
            + "---\n",
        ],
        ids=["empty lines", "minutes", "merges"],
    )
    def test_a_card_takes_no_more_time_than_its_length(self, base: Path, card: str) -> None:
        (base / "README.md").write_text(card)
        with suppress(PublishError):
            check_terms(local(base))

    def test_a_card_of_a_dataset_in_two_thousand_languages_is_read(self, base: Path) -> None:
        config = "- config_name: {n}\n  data_files:\n  - {{split: train, path: {n}/*.parquet}}\n"
        configs = "".join(config.format(n=number) for number in range(5_000))
        (base / "README.md").write_text(f"\n---\r\nlicense: odc-by\r\nconfigs:\n{configs}---\nText")
        pin = f"sha256:{'0' * 64}"
        assert terms_of(connect(), str(base), pin, "dataset", "dataset.source").licence == "odc-by"

    @pytest.mark.parametrize(
        "name",
        [
            *("LICENSE", "LICENSE.txt", "license.md", "LICENCE.rst", "Notice", "NOTICE.txt"),
            *("USE_POLICY.md", "COPYING", "LICENSE-MODEL", "LICENSE-CODE", "MODEL_LICENSE"),
            *("THIRD_PARTY_NOTICES.txt", "ACCEPTABLE_USE_POLICY.md", "TERMS_OF_USE.txt"),
        ],
    )
    def test_names_of_licences(self, name: str) -> None:
        assert LICENCES.fullmatch(name)

    @pytest.mark.parametrize(
        "name",
        [
            *("NOTICE.exe", "LICENSE.py", "LICENSE.txt.exe", "LICENSE.html", "license.safetensors"),
            *("LICENSE/../x", "licences/third.txt", "LICENSE\n", "noticed", "LICENSE .txt", ".env"),
        ],
    )
    def test_names_that_only_begin_so(self, name: str) -> None:
        assert not LICENCES.fullmatch(name)

    def test_texts_are_known_by_their_bytes(self) -> None:
        assert is_text("GNU GENERAL\x0c\r\n\tPUBLIC © é".encode())
        assert not is_text(b"\x7fELF")
        assert not is_text(b"\x1b[2J")

    def test_a_folder_of_licences_is_left_alone(self, base: Path) -> None:
        (base / "licenses").mkdir()
        terms = terms_of(connect(), str(base), "sha256:1", "model", "model.base")
        assert set(terms.files) == {"LICENSE", "USE_POLICY.md"}

    def test_a_snapshot_of_the_hub_is_made_of_links_and_its_licences_go_along(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        """As people name it in model.base, and as huggingface_hub leaves it."""
        from huggingface_hub import snapshot_download

        path = snapshot_download("org/base", revision=PINS.model, cache_dir=tmp_path / "cache")
        assert Path(path, "LICENSE").is_symlink()
        terms = terms_of(connect(), path, "sha256:1", "model", "model.base")
        assert terms.licence == "other"
        assert terms.files == {name: BASE[name] for name in ("LICENSE", "USE_POLICY.md")}

    def test_a_forged_snapshot_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(SECRET)
        snapshot = tmp_path / "models--a--b" / "snapshots" / "c1"
        snapshot.mkdir(parents=True)
        blobs = tmp_path / "models--a--b" / "blobs"
        blobs.mkdir()
        (blobs / "1").symlink_to(tmp_path / "secret")
        for target in (
            "../../blobs/1",
            "../../../secret",
            "../../blobs/../../secret",
            "../../blobs",
        ):
            (snapshot / "LICENSE").symlink_to(target)
            with pytest.raises(PublishError, match="LICENSE is a link"):
                terms_of(connect(), str(snapshot), "sha256:1", "model", "model.base")
            (snapshot / "LICENSE").unlink()
        blobs.joinpath("1").unlink()
        blobs.rmdir()
        blobs.symlink_to(tmp_path)
        (snapshot / "LICENSE").symlink_to("../../blobs/secret")
        with pytest.raises(PublishError, match="LICENSE is a link"):
            terms_of(connect(), str(snapshot), "sha256:1", "model", "model.base")

    @pytest.mark.usefixtures("home", "signed_in")
    def test_of_the_hub_only_texts_of_known_names_are_carried(self, hub: Hub) -> None:
        files = hub.model("org/base").commits[PINS.model]
        files |= {
            "NOTICE.exe": b"MZ",
            "LICENSE.txt": b"L" * (TEXT_LIMIT + 1),
            "NOTICE": b"\xff\xfe\0",
        }
        files["USE_POLICY.md"] = BASE["USE_POLICY.md"]
        run()
        for repo in yours(hub).values():
            assert {"LICENSE", "USE_POLICY.md"} <= set(repo.files)
            assert not {"NOTICE.exe", "LICENSE.txt", "NOTICE"} & set(repo.files)
            assert "Its `LICENSE.txt`, `NOTICE`: only there." in repo.files["README.md"].decode()


@pytest.mark.usefixtures("home", "signed_in")
class TestOutputs:
    """Of what was made, only what loads a model or an adapter leaves, and only as files."""

    def test_by_names_that_are_known(self, hub: Hub) -> None:
        made = line()
        for folder in (made["adapter"].path, made["merged"].path):
            for name in (
                *("training_args.bin", "pytorch_model.bin", "optimizer.pt", "rng_state.pth"),
                *("modeling_x.py", "train.log", "train.job.json", "output.json", "events.out"),
                *("model.safetensors.py", "x_model.safetensors", "notes.txt", ".env"),
            ):
                (folder / name).write_bytes(b"no")
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                (folder / name).write_bytes(b"{}")
        with disable_run_logger():
            publish.fn(**made)
        common = {".gitattributes", "LICENSE", "README.md", "USE_POLICY.md"}
        tokenizer = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
        assert set(hub.model("you/FineLlama-lora").files) == common | tokenizer | {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        assert set(hub.model("you/FineLlama").files) == common | tokenizer | {
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        }

    @pytest.mark.parametrize(
        "name", ["adapter/tokenizer.json", "adapter/adapter_model.safetensors", "adapter"]
    )
    def test_not_through_links(self, hub: Hub, tmp_path: Path, name: str) -> None:
        made = line()
        path = made["adapter"].folder / name
        secret = tmp_path / "secret"
        if path.is_dir():
            path.rename(secret)
        else:
            path.unlink(missing_ok=True)
            secret.write_bytes(SECRET)
        path.symlink_to(secret)
        with disable_run_logger(), pytest.raises(PublishError, match="is a link"):
            publish.fn(**made)
        assert not any("hf_canary" in str(repo.files) for repo in yours(hub).values())
        assert all(len(repo.commits) == 1 for repo in yours(hub).values())

    @pytest.mark.parametrize("which", ["path", "modelfile"])
    def test_nor_are_quants(self, hub: Hub, tmp_path: Path, which: str) -> None:
        made = line()
        quantized = made["ggufs"][1]
        path = quantized.path if which == "path" else quantized.folder / quantized.files[0]
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with disable_run_logger(), pytest.raises(PublishError, match="is a link"):
            publish.fn(**made)
        assert not yours(hub)

    def test_what_transformers_and_peft_save_is_known(self, tmp_path: Path) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        from tests.tasks.conftest import make_base

        make_base(tmp_path / "base")
        saved = {path.name for path in (tmp_path / "base").iterdir()}
        assert set(outputs_in(tmp_path / "base")) == saved
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(
            tmp_path / "adapter"
        )
        assert set(outputs_in(tmp_path / "adapter")) == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        kept = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert kept["base_model_name_or_path"] == str(tmp_path / "base")  # what must not leave

    def test_no_path_of_this_machine_leaves(self, hub: Hub, base: Path, tmp_path: Path) -> None:
        made = line()
        settings = {
            "base_model_name_or_path": str(base),
            "r": 8,
            "target_modules": ["q_proj"],
            "eva_config": {"path": str(tmp_path / "scratch" / "x.bin")},
        }
        (made["adapter"].path / "adapter_config.json").write_text(json.dumps(settings))
        (made["merged"].path / "config.json").write_text(
            json.dumps({"_name_or_path": str(base), "hidden_size": 64, "note": "a/b and/or /"})
        )
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text("{}")
        changed = local(
            base,
            validation={"decontamination": {"files": [str(prompts)]}},
            evaluation={"prompts": [f"What is in {prompts}?", "/etc or /usr?"]},
        )
        made |= {"recipe": changed, "pins": LOCAL_PINS}
        with disable_run_logger():
            published = publish.fn(**made)
        assert len(yours(hub)) == 3
        for repo in yours(hub).values():
            for name, content in repo.files.items():
                if name != "README.md":  # of which the recipe's own prompts are a part
                    assert str(tmp_path).encode() not in content, name
            text = repo.files["README.md"].decode()
            assert str(tmp_path) not in text.replace(f"What is in {prompts}?", "")
            assert "/etc or /usr?" in text
            assert "- prompts.jsonl" in text
        sent = json.loads(hub.model("you/FineLlama-lora").files["adapter_config.json"])
        assert sent == settings | {
            "base_model_name_or_path": "base",
            "eva_config": {"path": "x.bin"},
        }
        merged = json.loads(hub.model("you/FineLlama").files["config.json"])
        assert merged == {"_name_or_path": "base", "hidden_size": 64, "note": "a/b and/or /"}
        assert (made["adapter"].path / "adapter_config.json").read_text() == json.dumps(settings)
        assert str(tmp_path) not in json.dumps(published.params | published.commits)

    def test_what_cannot_be_looked_at_is_of_another_machine(self) -> None:
        assert not is_local_path(f"/there/is/{'no' * 200}")

    def test_settings_that_name_a_hub_id_go_as_they_are(self, hub: Hub) -> None:
        made = line()
        path = made["adapter"].path / "adapter_config.json"
        path.write_text('{"base_model_name_or_path":   "unsloth/base-bnb-4bit", "tokens": ["/"]}')
        with disable_run_logger():
            publish.fn(**made)
        assert hub.model("you/FineLlama-lora").files["adapter_config.json"] == path.read_bytes()


def in_a_recipe(text: str) -> bool:
    """Tell whether a recipe takes `text` as a name or a prompt: one line of characters to be seen."""
    return len(text) < 4_000 and not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]", text
    )


KINDS = ("licence", "measure", "dataset", "base", "prompt")


def texts_in_kinds() -> list:
    """Return every text in every kind of place, but for one kind each, in turn, marked as proofs."""
    return [
        pytest.param(text, kind, id=f"{name}-{kind}", marks=[] if light else [pytest.mark.proof])
        for number, (name, text) in enumerate(NASTY.items())
        for place, kind in enumerate(KINDS)
        for light in [place == number % len(KINDS)]
    ]


def quoting(text: str, kind: str) -> Release:
    """Return a release that holds `text` where a stranger may have chosen it."""
    base = Terms("other", visible(text), None)
    sections = {
        "dataset": {"dataset": {"source": f"/data/{text}".rstrip("/")}},
        "base": {"model": {"base": f"/models/{text}".rstrip("/")}},
        "prompt": {"evaluation": {"prompts": [text]}},
    }
    if kind in sections:
        changed = {"recipe": recipe(**sections[kind])}
    elif kind == "measure":
        family = f"exact_match/{text}"  # named after a row's source
        changed = {"metrics": {f"{family}/base": 0.5, f"{family}/tuned": 0.7}}
    else:
        changed = {"base_terms": base}
    values = {
            "recipe": RECIPE, "pins": LOCAL_PINS, "metrics": METRICS, "quants": [quant("q4_k_m")],
            "base_terms": Terms(), "data_terms": Terms(),
        }  # fmt: skip
    return Release(**values | changed)


@cache
def harmless_card(artifact: str, kind: str) -> tuple[set[str], Page]:
    """Return a card's metadata, by name, and its page, where a stranger chose nothing but a word."""
    made = card(artifact, quoting(MARK, kind))
    return set(ModelCard(made).data.to_dict()), Page(rendered(made.split("\n---\n", 1)[1]))


@pytest.mark.usefixtures("home")
class TestForeignWords:
    """A card of somebody else's is quoted in ours, and does nothing there."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "text", ["{{ 7 * 7 }}", '{% include "x" %}', "{{ recipe.__class__ }}", "{# 7 #}"]
    )
    def test_are_no_template(self, text: str, kind: str) -> None:
        for artifact in ("adapter", "merged", "gguf"):
            page = Page(rendered(card(artifact, quoting(text, kind)).split("\n---\n", 1)[1]))
            assert text in page.text

    @pytest.mark.parametrize(("text", "kind"), texts_in_kinds())
    def test_are_words(self, text: str, kind: str) -> None:
        if kind in ("dataset", "base", "prompt") and not in_a_recipe(text):
            with pytest.raises(RecipeError, match=r"unable to parse|holds the character|at most"):
                quoting(text, kind)
            return
        release = quoting(text, kind)
        for artifact in ("adapter", "merged", "gguf"):
            made = card(artifact, release)
            body = Page(rendered(made.split("\n---\n", 1)[1]))
            harmless, plain = harmless_card(artifact, kind)
            assert [tag for tag in body.tags if tag[0] != "code"] == [
                tag for tag in plain.tags if tag[0] != "code"
            ]
            assert HOST not in str(body.tags)
            assert unseen_in(made) == []
            data = yaml.safe_load(made.split("\n---\n")[0].removeprefix("---\n"))
            assert set(data) == harmless
            if kind == "licence":
                assert data["license_name"] == visible(text)

    @pytest.mark.parametrize(
        ("link", "kept"),
        [
            ("https://example.org/licence?v=1#2", "https://example.org/licence?v=1#2"),
            ("LICENSE", "LICENSE"),
            ("docs/terms.md", f"https://huggingface.co/org/base/blob/{PINS.model}/docs/terms.md"),
            ("a b](x)", f"https://huggingface.co/org/base/blob/{PINS.model}/a%20b%5D%28x%29"),
            ("javascript:alert(1)", None),
            ("data:text/html,x", None),
            ("https://x/) [sign in](https://evil", None),
            ("//evil.example/x", None),
            ("../../../other", None),
            ({"a": 1}, None),
        ],
    )
    def test_a_licence_links_to_the_web_or_into_its_repository(
        self, hub: Hub, signed_in: None, link: object, kept: str | None
    ) -> None:
        stated = {"license": "other", "license_name": ["no", "text"], "license_link": link}
        front = f"---\n{yaml.safe_dump(stated)}---\n"
        hub.model("org/base").commits[PINS.model]["README.md"] = front.encode()
        terms = terms_of(connect(), "org/base", PINS.model, "model", "model.base")
        assert (terms.licence, terms.name, terms.link) == ("other", None, kept)
