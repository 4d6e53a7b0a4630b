"""What code a stage's output is made with: our own modules by their syntax, packages by version.

It is found by following imports from the stage's task, also those inside functions, and scripts that
are run as children. So a new module or package counts from the day it is imported, and what does not
count stands below with the reason. A module counts by its syntax tree without docstrings: comments
and formatting make nothing anew. A file next to a module that it names, such as a template, counts by
its bytes.
"""

import ast
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

from retune.files import digest, sha256
from retune.version import installed, public

ROOT = Path(__file__).resolve().parents[1]
OURS = ("retune", "expectations", "tasks")


class Exemption(NamedTuple):
    """Why a module or package changes no output, and the stages in which it does."""

    reason: str
    counts_in: tuple[str, ...] = ()


EXEMPT = {
    # Declarations: a key holds the values that its stage reads.
    "retune.recipe": Exemption("declares settings"),
    "retune.recipe.methods": Exemption("declares quantization methods", ("publish",)),
    "retune.recipe.*": Exemption("declares settings, flaws, expectations and methods"),
    "retune.errors": Exemption("names what may go wrong"),
    "retune.measures": Exemption("names measures", ("publish",)),  # its cards show them
    "retune.records": Exemption("declares outputs"),
    # Files and processes.
    "retune.building": Exemption("moves outputs to their places"),
    "retune.disk_space": Exemption("looks for room"),
    "retune.files": Exemption("writes and hashes files"),
    "retune.home": Exemption("names, marks and removes folders"),
    "retune.manifest": Exemption("hashes what was made"),
    "retune.outputs": Exemption("declares outputs"),
    "retune.store": Exemption("keeps outputs"),
    "retune.store.*": Exemption("keeps outputs; each is verified by its manifest"),
    "retune.child": Exemption("starts children and passes on their events"),
    "retune.confined": Exemption("starts children with limits"),
    "retune.environment": Exemption("chooses the variables that children see"),
    "retune.processes": Exemption("tells processes apart"),
    "retune.moved_home": Exemption("names folders"),
    "retune.machine": Exemption("counts cores and memory"),
    "retune.overlap": Exemption("does work ahead of its use"),
    "retune.parent": Exemption("ends a child with its parent"),
    "retune.temporary": Exemption("makes and removes temporary folders"),
    "retune.time_limit": Exemption("ends what takes too long"),
    "tasks.stage": Exemption("skips what is done"),
    "tasks.validate.spread": Exemption("hands rows to other machines, to the same child's work"),
    "tasks.validate.spread_scores": Exemption("hands rows to other machines, as well"),
    # What refuses inputs, and makes nothing of those that it lets pass.
    "retune.inspection": Exemption("refuses models"),
    "retune.folders": Exemption("refuses folders", ("publish",)),
    "retune.sources": Exemption("pins inputs; the pins are in the keys", ("fetch",)),
    "retune.judging": Exemption("reads labels; they are in the keys", ("judge",)),
    "retune.judging.*": Exemption("reads labels; they are in the keys", ("judge",)),
    "retune.pinning": Exemption("pins inputs; the pins are in the keys", ("fetch",)),
    "retune.downloads": Exemption("copies files that are then pinned by their content"),
    "retune.stores": Exemption("copies files that are then pinned by their content"),
    "retune.web": Exemption("copies files that are then pinned by their content"),
    "retune.writing": Exemption("writes files that are then pinned by their content"),
    "retune.documents": Exemption("reads recipes", ("publish",)),
    # What shows and logs.
    "tasks.train.news": Exemption("says how far a training is"),
    "retune.escaping": Exemption("shows foreign text", ("publish",)),
    "retune.plots": Exemption("draws"),
    "retune.suites": Exemption("grades answers", ("evaluate", "champion", "judge")),
    "retune.suites.*": Exemption("grades answers", ("evaluate", "champion", "judge")),
    "retune.registry": Exemption("registers versions"),
    "retune.registry.*": Exemption("registers versions; the champion is in the pins"),
    "retune.tracking": Exemption("logs"),
    "retune.tracking_client": Exemption("asks MLflow again"),
    "retune.delivery": Exemption("logs"),
    "expectations": Exemption("says what is below it"),
    "expectations.training": Exemption("puts a verdict into words"),
    "expectations.verdicts": Exemption("puts verdicts into words"),
}
EXEMPT_PACKAGES = {
    "conversion": "llama.cpp's own; its build is in the keys",
    "filelock": "locks",
    "httpx": "moves bytes",
    "lm_eval": "asks its tasks; its version is in their pins, which are in the keys",
    "matplotlib": "draws",
    "mlflow": "logs",
    "prefect": "runs and shows",
    "psutil": "tells processes apart",
    "pydantic": "declares",
    "pynvml": "looks at GPUs",
    "ray": "places work and moves bytes",
    "rich": "shows",
    "tenacity": "tries again",
    "triton": "comes with torch's CUDA build, and by its version",
    "typer": "shows",
    "yaml": "reads recipes and cards",
}
# Of packages that compute inside others, which no module of ours imports.
COMPANIONS = {
    "datasets": ("fsspec",),
    "peft": ("accelerate", "bitsandbytes"),
    "torch": ("accelerate", "bitsandbytes"),
    "transformers": ("safetensors", "tokenizers"),
    "trl": ("accelerate", "liger_kernel"),
    "unsloth": ("unsloth_zoo", "bitsandbytes", "trl", "peft"),
}


def made_with(stage: str, task: str) -> dict[str, str]:
    """Return what `stage` is made with: hashes of modules and public versions of packages, by name.

    `task` is the module of its task, such as `tasks.train.task`.
    """
    modules, packages = closure(stage, task)
    code = {name: syntax(path) for name, path in modules.items()}
    files = [file for path in modules.values() for file in data_files(path)]
    code |= {str(file.relative_to(ROOT)): sha256(file) for file in files}
    counting = packages - EXEMPT_PACKAGES.keys()
    counted = counting.union(*(COMPANIONS.get(name, ()) for name in counting))
    return code | {name: public(installed(name)) for name in sorted(counted)}


def is_module(name: str) -> bool:
    """Tell whether a name in `made_with` is of a module of ours, or a file beside one
    (`retune/suites/battery/facts.jsonl`); else it is of a package."""
    return re.split(r"[./]", name, maxsplit=1)[0] in OURS


def counts(module: str, stage: str) -> bool:
    """Tell whether the syntax of one of our modules is part of the stage's key."""
    exemption = exemption_of(module)
    return exemption is None or stage in exemption.counts_in


def exemption_of(module: str) -> Exemption | None:
    """Return the module's own exemption, or that of all modules of its package."""
    return EXEMPT.get(module) or EXEMPT.get(f"{module.rpartition('.')[0]}.*")


def closure(stage: str, task: str) -> tuple[dict[str, Path], set[str]]:
    """Return our modules (name to file) and the packages that `task` imports, directly or not.

    What only modules import that do not count does not count either.
    """
    modules: dict[str, Path] = {}
    packages: set[str] = set()
    waiting = [task]
    while waiting:
        name = waiting.pop()
        if not is_module(name):
            packages.add(name.partition(".")[0])
        elif name not in modules and counts(name, stage) and (path := file_of(name)):
            modules[name] = path
            waiting += [".".join(name.split(".")[:n]) for n in range(1, name.count(".") + 1)]
            waiting += imported(path)
    return dict(sorted(modules.items())), packages - set(sys.stdlib_module_names)


def file_of(module: str) -> Path | None:
    """Return the file of one of our modules; None if the name is of something inside a module."""
    return _file_below(ROOT, module)


@cache
def _file_below(root: Path, module: str) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next(
        (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None
    )


class ModuleSource(NamedTuple):
    """What a file of ours says, read and parsed once.

    `imports` are the names that it imports, `siblings` the files in its folder that it names with
    `with_name`, and `syntax` 16 hex digits that identify it without comments and docstrings.
    """

    imports: tuple[str, ...]
    siblings: tuple[Path, ...]
    syntax: str


@cache
def source(path: Path) -> ModuleSource:
    """Return what is to be known of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports: dict[str, None] = {}
    patterns: list[str] = []
    for node in _running(tree):
        if isinstance(node, ast.Import):
            imports |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            imports |= dict.fromkeys((node.module, *inside))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "with_name":
            patterns += [_pattern(argument) for argument in node.args[:1]]
    siblings = tuple(
        file
        for file in (sorted(path.parent.iterdir()) if patterns else ())
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in patterns)
    )
    return ModuleSource(tuple(imports), siblings, _digest(tree))


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Return the names that a file imports, and the scripts next to it that it starts as children."""
    folder = path.parent.relative_to(ROOT)
    found = source(path)
    scripts = (file.stem for file in found.siblings if file.suffix == ".py")
    return (*found.imports, *(".".join((*folder.parts, script)) for script in scripts))


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the files next to a module that it names with `with_name` and that are no scripts."""
    return tuple(file for file in source(path).siblings if file.suffix != ".py")


def syntax(path: Path) -> str:
    """Return 16 hex digits that identify what a file says, without comments and docstrings."""
    return source(path).syntax


def _digest(tree: ast.AST) -> str:
    """Return the digest of a syntax tree; its docstrings are removed."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return digest(ast.dump(tree))


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those that only type checkers read."""
    waiting = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            yield node
            waiting.append(node)


def _pattern(argument: ast.expr) -> str:
    """Return a file name as it is written in a call; `*` represents what is not known."""
    if isinstance(argument, ast.Constant):
        return str(argument.value)
    if isinstance(argument, ast.JoinedStr):
        return "".join(_pattern(part) for part in argument.values)
    return "*" if isinstance(argument, ast.FormattedValue) else ""
