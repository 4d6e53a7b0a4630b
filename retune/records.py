"""What stages hand to each other: small records that name files below the stage's output folder.

Every row file is Parquet. `messages` is a list of structs `role` (system, user, assistant, tool or,
before the gate, whatever the source said), `content` and `learn` (false: must not be learnt, whoever
says it; null, or absent in older files: as `training.train_on` says).
"""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from retune.architecture import Architecture
from retune.original import Original
from retune.outcomes import FILE as OUTCOMES
from retune.outputs import Output
from retune.recipe.flaws import Severity


class HarnessLeaf(BaseModel):
    """One task of lm-eval: its own `version`, a digest of its configuration with the prompt's template,
    its dataset on the Hub with the `commit` (None: its data are in the folder),
    and by which `metric`, of what lm-eval's `filter` leaves of an answer, an example is graded."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    config: str
    dataset: str | None
    commit: str | None
    metric: str
    filter: str


class HarnessPin(BaseModel):
    """What a suite of lm-eval is: the `harness`' version, `sha256:` of a `folder` of somebody's own, and
    the tasks. `places` are the folders of lm-eval's own files that describe them."""

    model_config = ConfigDict(frozen=True)

    harness: str
    folder: str | None
    places: tuple[str, ...]
    leaves: tuple[HarnessLeaf, ...]

    @property
    def version(self) -> str:
        """What identifies all of it: `sha256:` and a digest."""
        return f"sha256:{hashlib.sha256(self.model_dump_json().encode()).hexdigest()}"

    @property
    def commits(self) -> dict[str, str]:
        """The commits of the datasets on the Hub that it takes to ask it, by their ids."""
        return {leaf.dataset: leaf.commit for leaf in self.leaves if leaf.dataset and leaf.commit}


class Pins(BaseModel):
    """The exact versions of what a run starts from: a Hub commit, or `sha256:` of local files.

    Of a mix, `mix` has the versions of its parts, and `dataset` stands for all of them. `base_16bit`
    are the 16-bit weights of a base stored in 4 bits, if the recipe names them; `benchmarks` identifies
    the evaluation prompts' files, `suites` those of the recipe's suites and incidents, `cases` what
    these ask, `tasks` the suites of lm-eval; `classifier` is None where the
    rows decide whether it is asked at all, and only the Hub could say its commit. `accepted` is the
    MLflow run whose scores the dataset's are compared with, if there is one, `reference` the file of a
    profile that takes the place of that run's, `champion` the version that serves, which the tuned
    model is compared with; `judge` is the GGUF of the LLM judge, `judge_labels` the file with people's
    verdicts.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    model: str
    mix: tuple[str, ...] = ()
    base_16bit: str | None = None
    benchmarks: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    cases: str | None = None
    tasks: tuple[HarnessPin, ...] = ()
    classifier: str | None = None
    reference: str | None = None
    accepted: str | None = None
    champion: "Champion | None" = None
    judge: str | None = None
    judge_labels: str | None = None

    def named(self) -> dict[str, str]:
        """Return each pin that there is by its name; `mix`, `benchmarks`, `suites` and `tasks` are
        numbered."""
        several = {f"mix.{number}": pin for number, pin in enumerate(self.mix)}
        several |= {f"benchmark.{number}": pin for number, pin in enumerate(self.benchmarks)}
        several |= {f"suite.{number}": pin for number, pin in enumerate(self.suites)}
        several |= {f"task.{number}": pin.version for number, pin in enumerate(self.tasks)}
        single = {
            "dataset": self.dataset,
            "model": self.model,
            "base_16bit": self.base_16bit,
            "classifier": self.classifier,
            "reference": self.reference,
            "judge": self.judge,
            "judge_labels": self.judge_labels,
        }
        return {name: pin for name, pin in single.items() if pin} | several

    def commit(self, pin: str) -> str | None:
        """Return the Hub commit that `pin` names; None for local files."""
        return None if pin.startswith("sha256:") else pin


class Champion(BaseModel):
    """The registered version that serves: what it takes to load it again and to compare with it.

    `adapter` is the fingerprint of its training, `<home>/work/train/<adapter>`; `base` at `model_pin`
    is what it was trained on, `original` the 16-bit weights that it was put on instead, if so. `anchor`
    are the rows that its successors are judged by, None for a version of before they were kept.
    """

    model_config = ConfigDict(frozen=True)

    version: int
    run_id: str
    adapter: str
    base: str
    model_pin: str
    original: Original | None = None
    load_in_4bit: bool
    anchor: "AnchorFile | None" = None


class AnchorFile(BaseModel):
    """A file of anchor rows (see `retune.anchors`): an artifact of the MLflow run `run_id`."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    sha256: str
    rows: int


class Check(BaseModel):
    """One thing that should hold of a base model: what was expected and seen, and what to change."""

    name: str
    passed: bool
    seen: str
    fix: str = ""
    severity: Severity = "critical"


class Conformance(Output):
    """conform: `report.json`, what was checked of tokenizer, chat template and their GGUF,
    `tiny.gguf`, a random model with the tokenizer, if there will be GGUF files, and unless the base
    brings code `twin/`: a tiny base of its architecture (`base/`), the `tokenizer/` that is trained
    with, and `rows.parquet`."""

    @property
    def gguf(self) -> Path:
        return self.folder / "tiny.gguf"

    @property
    def twin(self) -> Path:
        return self.folder / "twin"

    def report(self) -> "Checked":
        return Checked.model_validate_json((self.folder / "report.json").read_text())


class Checked(BaseModel):
    """What a report of conform says for the judge."""

    base: str
    checks: list[Check]
    architecture: Architecture


class Screened(Output):
    """screen: `features.parquet`, a line for every row of a dataset with all that it is judged by,
    `examples.parquet`, masked excerpts of some rows with each flaw, `repairs.json`, what was repaired
    and what could be, `ignored.json` (see `retune.ignored`) and, if the recipe asks for repairs, all
    rows repaired: `repaired.parquet`."""

    @property
    def features(self) -> Path:
        return self.folder / "features.parquet"

    @property
    def examples(self) -> Path:
        return self.folder / "examples.parquet"

    def rows(self, fetched: "Rows") -> Path:
        """Return the rows that were looked at: the repaired ones if there are any, else as fetched."""
        repaired = self.folder / "repaired.parquet"
        return repaired if repaired.exists() else fetched.path


class Rows(Screened):
    """fetch, validate: `rows.parquet` with columns `row` (number of the row in its source),
    `messages`, `source` (text), `score` (float64, the classifier's), `format` (sharegpt, openai,
    alpaca, prompt_completion; null: none of them) and `problem` (why the row cannot be read, with
    retune.recipe.flaws.OVERSIZED in front where it is over the dataset's budget; null: it can), and
    `split_group` (a digest of the group that goes to one side of the split, null: of none). validate
    adds `duplicate_of` (the earlier row that a kept duplicate is like, else null), and leaves what
    screen does, of all rows; fetch does not."""

    @property
    def path(self) -> Path:
        return self.folder / "rows.parquet"


class Chats(Output):
    """format: `train.parquet` and `held_out.parquet` with columns `row`, `source`, `messages`,
    `text` (ChatML), `input_ids` (of `text`, not cut) and `unlearned` (spans of these that must not be
    learnt, see `retune.labels.TokenRow`), and `tokenizer/`, as trained with."""

    @property
    def train(self) -> Path:
        return self.folder / "train.parquet"

    @property
    def held_out(self) -> Path:
        return self.folder / "held_out.parquet"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer"


class TokenParity(Output):
    """parity: how many rows llama.cpp reads otherwise than training does, and `differing.json`,
    some of them, masked."""


class Rehearsal(Output):
    """rehearse: the `parts` of the line that the base's tiny twin came to, and why it came no further,
    "" if it came to the end."""

    parts: tuple[str, ...]
    failure: str = ""


class Adapter(Output):
    """train: a PEFT adapter in `adapter/`, and the training log."""

    @property
    def path(self) -> Path:
        return self.folder / "adapter"


Onto = Literal["16bit", "trained"]


class Selection(Output):
    """select: the weights that an adapter trained on 4-bit ones is evaluated and merged on, the base's
    `16bit` ones or the `trained` on. Its metrics are of both, where both were measured."""

    onto: Onto


class Evaluated(Output):
    """What models did with each example (see `retune.outcomes`)."""

    @property
    def outcomes(self) -> Path:
        return self.folder / OUTCOMES


ANSWERS_FILE = "answers.json"  # of Scores and Gguf


class Scores(Evaluated):
    """evaluate: metrics of base and tuned model, `samples.json`, in `outcomes.parquet` what either did
    with each example (see `retune.outcomes`), and in `answers.json` the tuned model's answer to every
    question asked (a list of `row`, `text`, `stopped`, in their order)."""

    @property
    def answers(self) -> Path:
        return self.folder / ANSWERS_FILE


ASKED = "asked"  # of a contender: where its outcomes come from


class Contender(Evaluated):
    """champion: in `outcomes.parquet` what the champion did with each example that base and tuned model
    are evaluated by, or some of them. `missing` says why there are none, "" if there are."""

    missing: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the champion itself was asked; else the next run tries again."""
        return self.params.get("source") == ASKED


class Anchored(Evaluated):
    """anchor: in `outcomes.parquet` the losses of the tuned model and the champion on the anchor, the
    rows that the champion was judged by, and in `anchor.parquet` these rows, see `retune.anchors`.
    `missing` says why there are none, "" if there are."""

    missing: str = ""

    @property
    def rows(self) -> Path:
        return self.folder / "anchor.parquet"


class JudgedAnswers(Evaluated):
    """judge: in `outcomes.parquet` the outcomes of all sides with the grades of the LLM judge besides,
    and in `votes.parquet` each of its votes."""


class Merged(Output):
    """merge: a 16-bit checkpoint with its tokenizer in `model/`, and an NF4 one in `model-4bit/` if
    the recipe wants it."""

    @property
    def path(self) -> Path:
        return self.folder / "model"

    @property
    def four_bit(self) -> Path:
        return self.folder / "model-4bit"


class Imatrix(Output):
    """calibrate: llama.cpp's importance matrix of the 16-bit GGUF, `imatrix.gguf`."""

    @property
    def path(self) -> Path:
        return self.folder / "imatrix.gguf"


class Gguf(Output):
    """convert, quantize: one GGUF file, the `Modelfile` by which Ollama runs it, and in
    `answers.json` its answers to held-out questions (a list of `row`, `prompt`, `expected`, `rendered`
    as the template writes that, `text`, `stopped`). `failure` says why llama.cpp cannot load it or
    compute with it, if so."""

    method: str
    file: str
    bytes: int
    sha256: str
    failure: str = ""

    @property
    def path(self) -> Path:
        return self.folder / self.file

    @property
    def answers(self) -> Path:
        return self.folder / ANSWERS_FILE


class Published(Output):
    """publish: the commit URL of each Hub repository; `model` is the one that represents them all."""

    commits: dict[str, str]
    model: str
