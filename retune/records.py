"""What stages hand to each other: small records that name files below the stage's output folder.

Every row file is Parquet. `messages` is a list of structs `role` (system, user, assistant, tool or,
before the gate, whatever the source said) and `content`.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from retune.workspace import Output


class Pins(BaseModel):
    """The exact versions of what a run starts from: a Hub commit, or `sha256:` of local files.

    `base_16bit` is the 16-bit twin of a base stored in 4 bits, if the recipe names one; `benchmarks`
    stands for the evaluation prompts' files, `accepted` is the MLflow run whose scores the dataset's
    are compared with, if there is one.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    model: str
    base_16bit: str | None = None
    benchmarks: tuple[str, ...] = ()
    accepted: str | None = None

    def commit(self, pin: str) -> str | None:
        """Return the Hub commit that `pin` names; None for local files."""
        return None if pin.startswith("sha256:") else pin


class Conformance(Output):
    """conform: `report.json`, what was checked of tokenizer, chat template and their GGUF."""


class Rows(Output):
    """fetch, validate: `rows.parquet` with columns `row` (number of the row in its source),
    `messages`, `source` (text), `score` (float64, the classifier's), `format` (sharegpt, openai,
    alpaca, prompt_completion; null: none of them) and `problem` (why the row cannot be read, with
    retune.flaws.OVERSIZED in front where it is over the dataset's budget; null: it can). validate
    adds `twin` (the earlier row that a kept duplicate is like, else null)."""

    @property
    def path(self) -> Path:
        return self.folder / "rows.parquet"


class Chats(Output):
    """format: `train.parquet` and `held_out.parquet` with columns `row`, `source`, `messages`,
    `text` (ChatML) and `input_ids` (of `text`, not cut), and `tokenizer/`, as trained with."""

    @property
    def train(self) -> Path:
        return self.folder / "train.parquet"

    @property
    def held_out(self) -> Path:
        return self.folder / "held_out.parquet"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer"


class Adapter(Output):
    """train: a PEFT adapter in `adapter/`, and the training log."""

    @property
    def path(self) -> Path:
        return self.folder / "adapter"


class Scores(Output):
    """evaluate: metrics of base and tuned model, `samples.json`, and in `answers.json` the tuned
    model's answer to every question asked (a list of `row`, `text`, `stopped`, in their order)."""

    @property
    def answers(self) -> Path:
        return self.folder / "answers.json"


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
    """convert, quantize: one GGUF file, and the `Modelfile` by which Ollama runs it. `ships` is False
    when it failed its gate, with the `reason`."""

    method: str
    file: str
    bytes: int
    sha256: str
    ships: bool = True
    reason: str = ""

    @property
    def path(self) -> Path:
        return self.folder / self.file


class Published(Output):
    """publish: the commit URL of each Hub repository; `model` is the one that stands for them all."""

    commits: dict[str, str]
    model: str
