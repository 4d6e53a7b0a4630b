"""What stages hand to each other: small records that name files below the stage's output folder.

Every row file is Parquet. `messages` is a list of structs `role` (system, user, assistant, tool or,
before the gate, whatever the source said) and `content`.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from retune.workspace import Output


class Pins(BaseModel):
    """The exact versions of what a run starts from: a Hub commit, or `sha256:` of local files.

    `benchmarks` stands for the evaluation prompts' files, `accepted` is the MLflow run whose scores
    the dataset's are compared with, if there is one.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    model: str
    benchmarks: tuple[str, ...] = ()
    accepted: str | None = None

    def commit(self, pin: str) -> str | None:
        """Return the Hub commit that `pin` names; None for local files."""
        return None if pin.startswith("sha256:") else pin


class Rows(Output):
    """fetch, validate: `rows.parquet` with columns `row` (number of the row in its source),
    `messages`, `source` (text), `score` (float64, the classifier's), `format` (sharegpt, openai,
    alpaca, prompt_completion; null: none of them) and `problem` (why the row cannot be read; null:
    it can). validate adds `twin` (the earlier row that a kept duplicate is like, else null)."""

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
    """evaluate: metrics of base and tuned model, and `samples.json`."""


class Merged(Output):
    """merge: a 16-bit checkpoint with its tokenizer in `model/`."""

    @property
    def path(self) -> Path:
        return self.folder / "model"


class Gguf(Output):
    """quantize: one GGUF file. `ships` is False when it failed its gate, with the `reason`."""

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
    """publish: the commit URL of each Hub repository."""

    commits: dict[str, str]
