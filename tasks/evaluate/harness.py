"""Tasks of lm-eval asked of a model: what it makes of each example, kept as each task ends.

For the child; lm-eval is imported where it is used, for only some recipes ask for it.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.child import emit
from retune.journal import Journal
from retune.models import device
from retune.outcomes import example_name
from retune.records import HarnessLeaf
from retune.suites.harness import AskedTask, data_of, folder_of
from retune.suites.harness_tasks import TaskRefused, Unfolding, manager
from retune.templates import TemplateRefused, render, rendering
from tasks.evaluate.answering import SECONDS, room_for_tokens
from tasks.evaluate.harness_outcomes import HarnessSample, sample_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEED, OTHER_SEED = 0, 1234  # as lm-eval's command line sets them: of Python, and of all else
CPU_BATCH = 16  # prompts; there "auto" would try batches that take all memory
LARGEST_BATCH = 64  # prompts, that "auto" begins with


def ask(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    tasks: Sequence[AskedTask],
    batch_size: int | None,
    side: str,
    log: Path,
) -> None:
    """Ask a model the tasks that are not in the journal `log` yet, and keep each there.

    Raises TaskRefused for a metric that is no number from 0 to 1, and what lm-eval raises.
    """
    journal = Journal(log)
    for task in tasks:
        waiting = [
            leaf for leaf in task.pin.leaves if sample_key(side, task, leaf) not in journal.known
        ]
        loader = Loader(task) if waiting else None
        for number, leaf in enumerate(waiting, start=len(task.pin.leaves) - len(waiting) + 1):
            assert loader
            place = f"task {number} of {len(task.pin.leaves)}, " if task.pin.leaves[1:] else ""
            emit("state", text=f"{side}: {task.task.name}: {place}{leaf.name}")
            samples = asked(model, tokenizer, loader, leaf, batch_size, side)
            journal.add((sample_key(side, task, leaf), [one.model_dump() for one in samples]))


class Loader:
    """The tasks of a suite, loaded one by one from what was pinned."""

    def __init__(self, task: AskedTask) -> None:
        sys.dont_write_bytecode = True  # a folder stays as it is when its functions are imported
        self.task = task
        self._folder = str(folder_of(task.task)) if task.task.folder else None
        self.manager = manager(self._folder, task.pin.places)
        found = Unfolding(self.manager.task_index, task.task.task, resolve=True)
        self._tasks = found.tasks

    def load(self, leaf: HarnessLeaf) -> Any:
        """Return lm-eval's task, with its data."""
        from lm_eval.api.task import ConfigurableTask

        config = self._tasks[leaf.name].config(resolve=True)
        plain = self._tasks[leaf.name].config(resolve=False)
        return ConfigurableTask(config=config | data_of(plain, self._folder, leaf.commit))


class _Renderings:
    """The chat template as lm-eval asks for it, and the messages behind each text that it made.

    It is a stranger's program: it is rendered as everywhere else here, not in this process.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._messages: dict[str, list[dict[str, Any]]] = {}

    def __call__(self, messages: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        # An answer that is to be gone on with.
        begun = [] if add_generation_prompt else messages[-1:]
        asked = messages[: len(messages) - len(begun)]
        text = self._rendered(asked) + "".join(message["content"] for message in begun)
        self._messages[text] = messages
        return text

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        try:
            return render(self._tokenizer, [messages], add_generation_prompt=True)[0]
        except TemplateRefused:
            plain = [message for message in messages if message["role"] != "system"]
            if len(plain) == len(messages):
                raise
            # As lm-eval does.
            return render(self._tokenizer, [plain], add_generation_prompt=True)[0]

    def messages(self, text: str) -> list[dict[str, Any]]:
        """Return the messages that a text was rendered of."""
        return self._messages.get(text) or [{"role": "user", "content": text}]


class _Progress:
    """Told of every answer, in the place of lm-eval's cache: how far one `side` is."""

    def __init__(self, side: str) -> None:
        self._side, self._done = side, 0
        self._began = self._told = time.monotonic()

    def add_partial(self, *_: Any) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._told >= SECONDS:
            self._told = now
            speed = self._done / (now - self._began)
            emit("state", text=f"{self._side}: {self._done:,} requests, {speed:,.1f} per second")


def asked(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    loader: Loader,
    leaf: HarnessLeaf,
    batch_size: int | None,
    side: str,
) -> list[HarnessSample]:
    """Return what a model makes of the examples of one task."""
    from lm_eval.models.huggingface import HFLM

    task, settings = loader.load(leaf), loader.task.task
    size = _batch_size(model, task.OUTPUT_TYPE, batch_size)
    wrapped = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=size, max_batch_size=LARGEST_BATCH
    )
    wrapped.apply_chat_template = chats = _Renderings(tokenizer)
    wrapped.set_cache_hook(_Progress(side))
    prepare(task, settings.few_shot)
    with rendering():
        logged = evaluated(wrapped, task, leaf, settings.rows, chat=True)
    return list(samples(logged, leaf, chats.messages))


def evaluated(
    model: Any, task: Any, leaf: HarnessLeaf, rows: int | None, chat: bool
) -> list[dict[str, Any]]:
    """Return the samples that lm-eval logs of a task; `chat` applies the model's template.

    Not by `simple_evaluate`: around the same it asks pip and the machine what there is, for each task.
    """
    from lm_eval import evaluate

    results = evaluate(
        model,
        task_dict={"tasks": {leaf.name: task}},
        limit=rows,
        log_samples=True,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        bootstrap_iters=0,
    )
    logged: list[dict[str, Any]] = results["samples"][leaf.name]
    return logged


def prepare(task: Any, few_shot: int | None) -> None:
    """Set what lm-eval sets before it asks a task: seeds, and how many examples come with a question."""
    import random

    import numpy as np
    import torch

    random.seed(SEED)
    np.random.seed(OTHER_SEED)
    torch.manual_seed(OTHER_SEED)
    if few_shot is not None and task.get_config("num_fewshot") != 0:
        task.set_config("num_fewshot", few_shot)
    elif task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(OTHER_SEED)


def _batch_size(model: Any, kind: str, wanted: int | None) -> int | str:
    """Return how many prompts are asked together. On a GPU lm-eval tries what fits for choices, by the
    longest there is; for answers it would try the longest that the model could take."""
    if wanted or device() != "cuda":
        return wanted or CPU_BATCH
    if kind != "generate_until":
        return "auto"
    return max(1, min(LARGEST_BATCH, room_for_tokens(model) // 4096))


def samples(
    logged: Sequence[Mapping[str, Any]],
    leaf: HarnessLeaf,
    messages: Callable[[str], list[dict[str, Any]]],
) -> Iterator[HarnessSample]:
    """Yield the examples of one task, as lm-eval logged them, in the order of its dataset.

    `messages` tells those behind a rendered prompt: an example's name depends on them, not on their
    rendering, which may be another one for the champion. Raises TaskRefused.
    """
    for sample in logged:
        if sample["filter"] != leaf.filter:
            continue
        asked = messages(sample["arguments"][0][0])
        of_task = [leaf.name, leaf.metric, leaf.filter, sample["doc_hash"], sample["target_hash"]]
        yield HarnessSample(
            example=example_name(asked, of_task),
            messages=asked,
            expected=_expected(sample),
            answer=_answer(sample, leaf.metric),
            grade=_grade(sample, leaf),
        )


def _grade(sample: Mapping[str, Any], leaf: HarnessLeaf) -> float | None:
    """Return the grade of an example, 0 to 1. Raises TaskRefused for any other value."""
    metrics = sample["metrics"]
    if leaf.metric not in metrics:
        raise TaskRefused(
            f"{leaf.name} gave no {leaf.metric} for an example; it gives {', '.join(metrics)}"
        )
    try:
        value = float(sample[leaf.metric])
    except (TypeError, ValueError):
        value = -1.0
    if isnan(value):
        return None
    if not 0 <= value <= 1:
        others = [name for name in metrics if _is_share(sample[name])]
        use = f"use {', '.join(others)}" if others else "name another task"
        raise TaskRefused(
            f"{leaf.name}: {leaf.metric} of an example is {sample[leaf.metric]!r:.60}, and a grade is a "
            f"number from 0 to 1; {use}"
        )
    return value


def _is_share(value: Any) -> bool:
    try:
        return 0 <= float(value) <= 1
    except (TypeError, ValueError):
        return False


def _is_choice(sample: Mapping[str, Any]) -> bool:
    """Tell whether an example asks how likely given answers are."""
    answer = sample["filtered_resps"][0]
    return isinstance(answer, tuple | list) and len(answer) == 2 and isinstance(answer[1], bool)


def _choices(sample: Mapping[str, Any]) -> list[str]:
    """Return the answers of which one is chosen; where they are the beginnings of one text, these."""
    ends = [str(arguments[1]).strip() for arguments in sample["arguments"]]
    if len(set(ends)) > 1 or len(ends) == 1:
        return ends
    return [f"choice {number}" for number in range(1, len(ends) + 1)]


def _expected(sample: Mapping[str, Any]) -> str:
    target = sample["target"]
    if _is_choice(sample) and isinstance(target, int) and 0 <= target < len(_choices(sample)):
        return _choices(sample)[target]
    return " | ".join(map(str, target)) if isinstance(target, list) else str(target).strip()


def _answer(sample: Mapping[str, Any], metric: str) -> str:
    """Return what a model said, before filters; of choices the likeliest, of a single one how likely."""
    if not _is_choice(sample):
        return str(sample["resps"][0][0])
    likely = [float(answer[0]) for answer in sample["filtered_resps"]]
    choices = _choices(sample)
    if len(choices) == 1:
        return f"({likely[0]:.2f} nats)"
    if metric == "acc_norm":
        likely = [one / max(1, len(choice)) for one, choice in zip(likely, choices, strict=True)]
    return choices[likely.index(max(likely))]
