"""A tiny random Llama with a ChatML tokenizer, and the folder that the format stage leaves."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.probe import save_llama, train_tokenizer
from retune.child import ChildFailed
from retune.outputs import Step
from retune.recipe import Model, Recipe, Training
from retune.records import Adapter, Chats, Pins
from retune.sources import pin
from retune.tracking import Run, start_run
from tasks.train.task import train
from tests.databases import furnish_mlflow, working_in

COLOURS = ("red", "green", "blue", "white", "black", "amber", "cyan", "pink")


def conversation(number: int) -> tuple[str, list[dict[str, str]]]:
    """Return the family and the messages of row `number`: easy to learn, four rows alike."""
    first, second = COLOURS[number % 8], COLOURS[(number + 3) % 8]
    if number % 2:
        question, answer, family = f"say {first}", first, "copy"
    else:
        question, answer, family = f"after {first}", second, "next/word"
    return family, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def make_tokenizer(folder: Path):
    """Train and save a byte-level BPE tokenizer with ChatML's tokens; pad is not eos."""
    texts = [m["content"] for n in range(16) for m in conversation(n)[1]] + [
        "user assistant system"
    ]
    tokenizer = train_tokenizer(texts, vocabulary=320)
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_base(folder: Path, hidden: int = 64, **settings: bool) -> None:
    """Save a Llama with 2 layers and random weights, and its tokenizer; `settings` are LlamaConfig's."""
    save_llama(folder, make_tokenizer(folder), hidden, **settings)


def write_chats(step: Step, train_rows: int, held_out_rows: int) -> Chats:
    """Write the format stage's output folder for `step` by hand and return its record."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tokenizer = make_tokenizer(step.folder / "tokenizer")
    # As for any base without a pad token: training must still learn to end a turn.
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(step.folder / "tokenizer")

    def table(numbers: range) -> pa.Table:
        rows = []
        for number in numbers:
            source, messages = conversation(number)
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False).input_ids
            row = {"row": number, "source": source, "messages": messages}
            rows.append(row | {"text": text, "input_ids": ids})
        return pa.Table.from_pylist(rows)

    pq.write_table(table(range(train_rows)), step.folder / "train.parquet")
    pq.write_table(table(range(held_out_rows)), step.folder / "held_out.parquet")
    chats = Chats(step=step, started=datetime.now(UTC), seconds=0)
    (step.folder / "output.json").write_text(chats.model_dump_json())
    return chats


def sharpen(folder: Path) -> None:
    """Scale the output layer of a random model, so that an adapter alone can make it certain."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.lm_head.weight.data *= 20
    model.save_pretrained(folder)


class Project:
    """A home folder with a base model and formatted chats; it is `home()` inside `at_home`."""

    def __init__(self, folder: Path) -> None:
        self.folder = furnish_mlflow(folder)
        make_base(folder / "base")
        sharpen(folder / "base")
        self.model = Model(base=str(folder / "base"), load_in_4bit=False, max_length=64)
        version = pin(self.model.base, None, "model", "model.base")
        self.pins = Pins(dataset="d", model=version)
        with self.at_home():
            step = Step(stage="format", key={"test": 1})
            self.chats = write_chats(step, train_rows=320, held_out_rows=16)

    def recipe(self, **sections: Any) -> Recipe:
        """Return a recipe on the base model, with its own `sections` where these are named."""
        return Recipe(**{"name": "r", "model": self.model, "dataset": {"source": "s"}} | sections)

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """Point RETUNE_HOME and MLflow at the folder, and keep Prefect's part of a task silent."""
        from prefect.logging import disable_run_logger

        with pytest.MonkeyPatch.context() as patch, disable_run_logger():
            patch.setattr("tasks.train.task.create_progress_artifact", lambda *_, **__: None)
            patch.setattr("tasks.train.task.update_progress_artifact", lambda *_, **__: None)
            patch.setattr("tasks.evaluate.task.create_table_artifact", lambda *_, **__: None)
            with working_in(patch, self.folder):
                yield


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def at_home(project: Project) -> Iterator[Project]:
    with project.at_home():
        yield project


class Trained:
    """An adapter whose training was killed in step `killed_at` and then went on."""

    epochs = 5
    killed_at = 12
    settings = Training(
        backend="trl",
        r=32,
        alpha=32,
        learning_rate=3e-3,
        warmup_steps=2,
        batch_size=8,
        gradient_accumulation=1,
        epochs=epochs,
        optimizer="adamw_torch",
        packing=False,
        checkpoint_steps=5,
    )

    def __init__(self, project: Project) -> None:
        self.step = Step(stage="train", key={"test": 1})
        with start_run(project.recipe(training=self.settings), "training", {}) as self.run:
            with pytest.raises(ChildFailed, match="SIGKILL"):
                self._train(project, KilledRun(**dict(self.run), at=self.killed_at))
            self.first_log = read_json_lines(self.log(".partial"))
            self.adapter = self._train(project, self.run)

    def log(self, suffix: str = "") -> Path:
        """Return the training log, or the one in the `.partial` folder."""
        return self.step.folder.with_name(self.step.folder.name + suffix) / "training_log.jsonl"

    def _train(self, project: Project, run: Run) -> Adapter:
        recipe = project.recipe(training=self.settings)
        return train.fn(project.chats, run, recipe, project.pins, self.step)


def running_child() -> psutil.Process:
    """Return the child that trains: of this process, or of its fork server."""
    started = psutil.Process().children(recursive=True)
    return next(one for one in started if os.getpgid(one.pid) == one.pid and not is_server(one))


def is_server(process: psutil.Process) -> bool:
    return "retune.forkserver" in process.cmdline() and not process.name().startswith("retune-")


class KilledRun(Run):
    """A run in which the training child is killed once it has reported step `at`."""

    at: int

    def log_rows(self, rows: Sequence[Mapping[str, float]]) -> None:
        super().log_rows(rows)
        if rows[-1]["step"] >= self.at:
            running_child().kill()


@pytest.fixture(scope="session")
def trained(project: Project) -> Trained:
    with project.at_home():
        return Trained(project)


@pytest.fixture(scope="session")
def never_killed(project: Project, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the training that crashes and losses of hosts disturb, in one process."""
    from tasks.train.task import run_training
    from tests.tasks.test_train import CRASHED, job_in, losses

    with project.at_home():
        job = job_in(tmp_path_factory.mktemp("whole"), project, **CRASHED)
        run_training(job, lambda event: None)
        return losses(job)


def read_json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
