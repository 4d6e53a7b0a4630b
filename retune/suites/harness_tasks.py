"""Tasks of lm-eval as its YAML files describe them: found by name, groups unfolded, metrics examined.

For child processes; imports lm_eval where it is used. Without `resolve` no function that a file names
is imported: its name stands in the place.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retune.errors import RetuneError
from retune.recipe.harness import HarnessTask
from retune.recipe.section import hint

DEEPEST = 20  # groups in groups
OF_ONE_EXAMPLE = ("mean", "nanmean")  # aggregations of numbers that each example has
NO_FILTER = "none"  # as lm-eval calls what does nothing to an answer
NOT_OURS = {  # keys of a task, and why it is not asked
    "class": "is written in Python, and does not say by itself how it is graded; use a task in YAML",
    "doc_to_image": "shows images, which no model here is asked by; use a task of texts",
    "doc_to_audio": "plays sounds, which no model here is asked by; use a task of texts",
    "custom_dataset": "reads its data by a function, which nobody can pin; name a dataset or its files",
    "unsafe_code": "runs code that the model writes; use a task that does not",
}


class TaskRefused(RetuneError):
    """A task of lm-eval that cannot be asked, with what was seen and what to change."""


class DescribedTask(NamedTuple):
    """One task: its name, the file that describes it (None: the group's own), and what a group sets
    otherwise."""

    name: str
    path: Path | None
    overrides: Mapping[str, Any]

    def config(self, resolve: bool) -> dict[str, Any]:
        """Return its configuration as lm-eval takes it; `resolve` imports its functions."""
        from lm_eval.tasks._yaml_loader import load_yaml

        read = load_yaml(self.path, resolve_func=resolve) if self.path else {}
        config = {**read, **self.overrides, "task": self.name}
        return {
            key: value for key, value in config.items() if key not in ("tag", "group", "task_list")
        }


def root_of(folder: str | None) -> Path:
    """Return where tasks are described: the folder, or lm-eval's own."""
    import lm_eval.tasks

    return Path(folder or Path(lm_eval.tasks.__file__).parent)


def manager(folder: str | None, places: Sequence[str] = ()) -> Any:
    """Return lm-eval's TaskManager of a folder, or of its own tasks; `places` are the folders in there
    that are looked into: all of lm-eval's take ten seconds."""
    from lm_eval.tasks import TaskManager

    root = root_of(folder)
    paths = [str(root / place) for place in places] or [str(root)]
    return TaskManager(include_path=paths, include_defaults=False)


class Unfolding:
    """What is behind a task's, group's or tag's name in an index of lm-eval's: the `tasks` by their
    names, as lm-eval's factory builds them, and the `files` that describe these and their groups.

    With `resolve` the functions that groups name are imported. Raises TaskRefused.
    """

    def __init__(self, index: Mapping[str, Any], name: str, resolve: bool) -> None:
        if name not in index:
            raise TaskRefused(f"lm-eval has no task {name!r} there{hint(name, sorted(index))}")
        self._index, self._resolve = index, resolve
        self.files: set[Path] = set()
        self.tasks = {task.name: task for task in self._member(name, {}, ())}
        self.files |= {task.path for task in self.tasks.values() if task.path}
        if not self.tasks:
            raise TaskRefused(f"{name!r} has no task; name another")

    def _member(
        self, item: Any, inherited: Mapping[str, Any], groups: tuple[str, ...]
    ) -> Iterator[DescribedTask]:
        """Yield the tasks of a member of the innermost of `groups`; `inherited` are their settings."""
        own = item if isinstance(item, dict) else {}
        name = (own.get("group") or own.get("task")) if own else item
        if not isinstance(name, str):
            raise TaskRefused(f"a member of the group {groups[-1]!r} has no name; write one")
        if len(groups) > DEEPEST:
            raise TaskRefused(f"the group {groups[0]!r} holds itself; take it out")
        settings = {**inherited, **{k: v for k, v in own.items() if k not in ("group", "task")}}
        entry = self._index.get(name)
        if entry is None and "group" in own:
            yield from self._group({**own, "group": f"{groups[-1]}::{name}"}, inherited, groups)
        elif entry is None and own:
            yield DescribedTask(f"{groups[-1]}::{name}", None, settings)
        elif entry is None:
            raise TaskRefused(f"the group {groups[-1]!r} has {name!r}, and there is no such task")
        elif entry.kind.name == "GROUP":
            from lm_eval.tasks._yaml_loader import load_yaml

            self.files.add(entry.yaml_path)
            config = load_yaml(entry.yaml_path, resolve_func=self._resolve)
            yield from self._group(config, settings, groups)
        elif entry.kind.name == "TAG":
            for tagged in sorted(entry.tags):
                yield from self._member(tagged, settings, (*groups, name))
        else:
            yield DescribedTask(name, entry.yaml_path, settings)

    def _group(
        self, config: Mapping[str, Any], inherited: Mapping[str, Any], groups: tuple[str, ...]
    ) -> Iterator[DescribedTask]:
        from dataclasses import fields

        from lm_eval.config.group import GroupConfig

        of_group = {field.name for field in fields(GroupConfig)}
        settings = {key: value for key, value in config.items() if key not in of_group}
        members = config.get("task")
        for member in members if isinstance(members, list) else [members]:
            around = (*groups, config["group"])
            yield from self._member(member, {**settings, **inherited}, around)


def described_leaf(
    described_task: DescribedTask, wanted: str | None, few_shot: int | None
) -> dict[str, Any]:
    """Return `name`, `version`, `config`, `metric` and `filter` of a task, as it is to be asked.

    Raises TaskRefused for one that is not asked here, and for a metric that grades no single example.
    """
    name, config = described_task.name, described_task.config(resolve=False)
    for key, reason in NOT_OURS.items():
        if config.get(key):
            raise TaskRefused(f"{name} {reason}")
    if few_shot and config.get("num_fewshot") == 0:
        raise TaskRefused(
            f"{name} is never asked with examples (num_fewshot: 0); leave few_shot out"
        )
    metric, chosen = _grader(name, config, wanted)
    metadata = config.get("metadata")
    version = metadata.get("version", "none") if isinstance(metadata, dict) else "none"
    return {
        "name": name,
        "version": str(version),
        "config": config,
        "metric": metric,
        "filter": chosen,
    }


def _grader(name: str, config: Mapping[str, Any], wanted: str | None) -> tuple[str, str]:
    """Return the metric and the filter that a task is graded by."""
    metrics, filters = dict(_metrics(config)), _filters(config)
    useful = [metric for metric, problem in metrics.items() if not problem]
    use = f"use {', '.join(useful)}" if useful else "it has no metric that does; name another task"
    metric, _, chosen = (wanted or (useful or [""])[0]).partition(",")
    if not metric:
        told = "; ".join(f"{one} {problem}" for one, problem in metrics.items())
        raise TaskRefused(f"{name} cannot be graded example by example: {told}; name another task")
    if metric not in metrics:
        raise TaskRefused(f"{name} has no metric {metric!r}; {use}")
    if metrics[metric]:
        raise TaskRefused(f"{name}: {metric} {metrics[metric]}; {use}")
    if chosen and chosen not in filters:
        raise TaskRefused(f"{name} has no filter {chosen!r}; use {', '.join(filters)}")
    return metric, chosen or filters[0]


def _filters(config: Mapping[str, Any]) -> list[str]:
    listed = config.get("filter_list")
    return [one["name"] for one in listed] if listed else [NO_FILTER]


def _metrics(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each metric of a task, and why no example is graded by it: "" if it is."""
    import lm_eval.api.metrics  # which registers them  # noqa: F401
    from lm_eval.api.registry import (
        DEFAULT_METRIC_REGISTRY,
        METRIC_REGISTRY,
        get_aggregation,
        get_metric_aggregation,
        is_higher_better,
    )

    kind = config.get("output_type", "generate_until")
    listed = config.get("metric_list")
    for entry in listed or [{"metric": name} for name in DEFAULT_METRIC_REGISTRY[kind]]:
        name = str(entry["metric"])
        is_function = "/" in name or bool(config.get("process_results"))
        name = name.rpartition("/")[2].rpartition(".")[2] if "/" in name else name
        known = name in METRIC_REGISTRY
        by = entry.get("aggregation")
        if by is None and known:
            by = "mean" if get_metric_aggregation(name) is get_aggregation("mean") else "its own"
        better = entry.get("higher_is_better", is_higher_better(name) if known else None)
        if by not in OF_ONE_EXAMPLE:
            yield name, "exists for all examples together alone"
        elif better is False:
            yield name, "is the lower the better, where a grade is the share of what is right"
        elif not is_function and (entry.get("hf_evaluate") or not known):
            yield name, "is none of lm-eval's own, but code on the Hub"
        else:
            yield name, ""


def described_suite(task: HarnessTask) -> dict[str, Any]:
    """Return `leaves` as `described_leaf` gives them, and the `places` where they are described."""
    root = root_of(task.folder)
    found = Unfolding(manager(task.folder).task_index, task.task, resolve=False)
    leaves = [described_leaf(one, task.metric, task.few_shot) for one in found.tasks.values()]
    places = {path.parent.relative_to(root).as_posix() for path in found.files}
    return {"leaves": [_portable(leaf, root) for leaf in leaves], "places": sorted(places)}


def _portable(value: Any, root: Path) -> Any:
    """Return a configuration without the place on this machine: functions by their names below it."""
    if isinstance(value, dict):
        return {str(key): _portable(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner, root) for inner in value]
    if isinstance(value, str):
        return value.replace(f"{root.resolve()}/", "").replace(f"{root}/", "")
    return value if isinstance(value, int | float | bool | None) else str(value)
