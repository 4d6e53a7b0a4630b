"""publish against the loopback Hub: whole sets, verified, private, patient, silent on tokens."""

import hashlib
import time
from datetime import UTC, datetime
from pathlib import Path

import cloudpickle
import pytest
import yaml
from huggingface_hub import HfApi, ModelCard
from prefect.logging import disable_run_logger

from retune.config import Publishing, Recipe
from retune.records import Adapter, Gguf, Merged, Pins, Published, Scores
from retune.workspace import Output, Step
from tasks.publish import (
    HubUnavailable,
    NoAccess,
    PublishError,
    UploadNotVerified,
    check_access,
    publish,
)
from tasks.publish.access import ATTEMPTS, LONGEST_WAIT
from tasks.publish.cards import Release, card, recommended
from tasks.publish.upload import Bundle, publish_bundles
from tests.hub import Hub

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


def output(kind: type[Output], stage: str, files: dict[str, bytes], **fields) -> Output:
    made = kind(step=Step(stage=stage, key=fields), started=datetime.now(UTC), seconds=1, **fields)
    for name, content in files.items():
        path = made.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return made


def quant(method: str, ships: bool = True, content: bytes = b"") -> Gguf:
    content = content or b"GGUF" + method.encode() * 5000
    fields = {
        "method": method,
        "file": f"finellama-{method.upper()}.gguf",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "ships": ships,
        "metrics": {"perplexity": 3.5, "kl_divergence": 0.01},
    }
    return output(Gguf, "quantize", {fields["file"]: content}, **fields)


def line(weights: bytes = b"w") -> dict:
    """The arguments of `publish`, with files on disk as the stages before leave them."""
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a" * 20_000}
    model = {"config.json": b"{}", "model-00001-of-00002.safetensors": weights * 30_000}
    extra = {"model-00002-of-00002.safetensors": b"z" * 30_000, ".cache/junk": b"x"}
    return {
        "adapter": output(Adapter, "train", {f"adapter/{n}": c for n, c in adapter.items()}),
        "merged": output(Merged, "merge", {f"model/{n}": c for n, c in (model | extra).items()}),
        "ggufs": [quant("q2_k", ships=False), quant("q4_k_m"), quant("q8_0")],
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
    return publish_bundles(HfApi(hub.endpoint, token="hf_write"), [bundle], private, "test")


@pytest.mark.usefixtures("home", "signed_in")
class TestPublish:
    def test_each_repository_gets_its_files_in_one_commit(self, hub: Hub) -> None:
        published = run()
        merged, gguf = hub.model("you/FineLlama"), hub.model("you/FineLlama-GGUF")
        assert set(hub.model("you/FineLlama-lora").files) == {
            ".gitattributes",
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        assert merged.files["model-00001-of-00002.safetensors"] == b"w" * 30_000
        assert ".cache/junk" not in merged.files
        assert all(repo.private and len(repo.commits) == 2 for repo in hub.repos.values())
        assert published.commits["you/FineLlama"].endswith(f"you/FineLlama/commit/{merged.head}")
        assert (
            published.folder.joinpath("cards/gguf/README.md").read_bytes()
            == gguf.files["README.md"]
        )

    def test_a_quant_that_failed_its_gate_stays_here(self, hub: Hub) -> None:
        run()
        files = hub.model("you/FineLlama-GGUF").files
        assert {"finellama-Q4_K_M.gguf", "finellama-Q8_0.gguf"} == {f for f in files if "gguf" in f}
        assert "Q2_K" not in files["README.md"].decode()

    def test_without_a_quant_that_ships_there_is_no_gguf_repository(self, hub: Hub) -> None:
        run(ggufs=[quant("q2_k", ships=False)])
        assert ("model", "you/FineLlama-GGUF") not in hub.repos
        assert "FineLlama-GGUF" not in hub.model("you/FineLlama").files["README.md"].decode()

    def test_only_what_the_recipe_names_is_published(self, hub: Hub) -> None:
        publishing = RECIPE.publishing.model_copy(update={"artifacts": ("adapter",)})
        run(recipe=RECIPE.model_copy(update={"publishing": publishing}))
        assert [name for _, name in hub.repos] == ["you/FineLlama-lora"]

    def test_publishing_the_same_again_changes_nothing(self, hub: Hub) -> None:
        first = run()
        assert run().commits == first.commits

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

    def test_a_file_that_changed_since_it_was_made_is_not_committed(self, hub: Hub) -> None:
        changed = quant("q4_k_m", content=b"as quantized" * 2000)
        changed.path.write_bytes(b"rotten" * 5000)
        with pytest.raises(PublishError, match=r"Q4_K_M\.gguf has changed since it was made"):
            run(ggufs=[changed])
        assert all(len(repo.commits) == 1 for repo in hub.repos.values())

    def test_a_public_repository_is_no_place_for_a_private_model(self, hub: Hub) -> None:
        hub.add_model("you/FineLlama", {"README.md": b""})
        with pytest.raises(PublishError, match=r"private is true but you/FineLlama is public"):
            run()
        assert len(hub.model("you/FineLlama").commits) == 1

    def test_no_token(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(NoAccess, match=r"set HF_TOKEN or run `hf auth login`"):
            run()
        assert not hub.requests


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

    @pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("9999", LONGEST_WAIT), ("soon", 1)])
    def test_retry_after_is_honoured_within_reason(
        self, hub: Hub, tmp_path: Path, waits: list, asked: str, waited: int
    ) -> None:
        hub.fail("POST", "/commit/", 429, Retry_After=asked)
        send(hub, one_file(tmp_path / "w"))
        assert waits == [waited]

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

    def test_somebody_elses_commit_is_not_overwritten(self, hub: Hub, tmp_path: Path) -> None:
        hub.fail("POST", "/commit/", 412)
        with pytest.raises(PublishError, match="another commit during the upload; run again"):
            send(hub, one_file(tmp_path / "w"))


class TestCheckAccess:
    @pytest.mark.parametrize("repo", ["you/model", "team/model"])
    def test_may_write(self, hub: Hub, signed_in: None, repo: str) -> None:
        check_access(Publishing(enabled=True, repo=repo))
        assert not any(request.startswith(("POST", "PUT")) for request in hub.requests)

    @pytest.mark.parametrize("repo", ["others/model", "strangers/model"])
    def test_not_ones_own_namespace(self, hub: Hub, signed_in: None, repo: str) -> None:
        with pytest.raises(NoAccess, match=f"'you' may not write to {repo}.*settings/tokens"):
            check_access(Publishing(enabled=True, repo=repo))

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
            check_access(Publishing(enabled=True, repo="you/model"))

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
        publishing = Publishing(enabled=True, repo="you/model")
        if allowed:
            check_access(publishing)
        else:
            with pytest.raises(NoAccess):
                check_access(publishing)

    def test_a_public_repository_is_found_before_the_training(
        self, hub: Hub, signed_in: None
    ) -> None:
        hub.add_model("you/model-GGUF", {"README.md": b""})
        with pytest.raises(PublishError, match="you/model-GGUF is public"):
            check_access(Publishing(enabled=True, repo="you/model"))


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


@pytest.mark.usefixtures("home")
class TestCards:
    @pytest.fixture
    def release(self) -> Release:
        return Release(
            RECIPE, PINS, METRICS, [quant("q4_k_m"), quant("q8_0", content=b"8" * 2**20)]
        )

    def test_metadata_links_the_family(self, release: Release) -> None:
        adapter, merged, gguf = (
            ModelCard(card(artifact, release)).data for artifact in ("adapter", "merged", "gguf")
        )
        assert (adapter.base_model, adapter.library_name) == ("org/base", "peft")
        assert (merged.base_model, merged.library_name) == ("org/base", "transformers")
        assert (gguf.base_model, gguf.library_name) == ("you/FineLlama", "gguf")
        assert merged.datasets == ["org/data"]
        assert merged.pipeline_tag == "text-generation"

    def test_the_tuned_scores_are_in_the_metadata(self, release: Release) -> None:
        results = ModelCard(card("merged", release)).data.eval_results
        assert {(r.metric_type, r.metric_value) for r in results} == {
            ("loss", 1.25),
            ("perplexity", 3.49),
        }
        assert {r.dataset_revision for r in results} == {PINS.dataset}

    def test_base_and_tuned_stand_side_by_side(self, release: Release) -> None:
        assert "| loss | 2.5 | 1.25 |" in card("adapter", release)

    def test_the_recipe_can_be_read_back(self, release: Release) -> None:
        text = card("merged", release).partition("```yaml\n")[2].partition("```")[0]
        assert Recipe.parse(yaml.safe_load(text)) == RECIPE

    def test_the_quants_are_listed_with_what_one_chooses_by(self, release: Release) -> None:
        text = card("gguf", release)
        digest = release.quants[0].sha256
        assert "| [finellama-Q4_K_M.gguf](./finellama-Q4_K_M.gguf) **recommended** |" in text
        assert f"| q8_0 | 0.00 GiB | 3.5 | 0.01 | `{release.quants[1].sha256}` |" in text
        assert digest in text
        assert "ollama run hf.co/you/FineLlama-GGUF:Q4_K_M" in text

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
        text = card("merged", Release(local, pins, {}, []))
        assert ModelCard(text).data.base_model is None
        assert ModelCard(text).data.datasets is None
        assert "`chats.jsonl` (sha256:111111111111)" in text
        assert "Not evaluated." in text
