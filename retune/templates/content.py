"""Where a chat template depends on what a message says, rather than on who says it.

A template may ask whether a question names a certain word and then write a sentence of its own. The
syntax tree tells where content is looked at or changed, and with which texts: see `differences.py`
for conversations that hold these.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jinja2 import nodes

if TYPE_CHECKING:
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

CLEAN, MESSAGE, CONTENT = range(3)  # what a value is made of: a message has content inside it

# Tests that tell what kind of value it is, not what it says.
KINDS = frozenset(
    [
        "defined",
        "undefined",
        "none",
        "string",
        "mapping",
        "iterable",
        "sequence",
        "number",
        "boolean",
        "callable",
    ]
)
VERBATIM = frozenset(
    ["string", "default", "d", "safe", "list", "first", "last", "join", "format"]
)  # filters: as it was
TRIMMING = frozenset(["trim", "strip", "lstrip", "rstrip"])
PARTS = frozenset(
    ["list", "first", "last", "reverse", "sort", "batch", "slice"]
)  # of messages: messages
COUNTS = frozenset(["length", "count"])
STRENGTH = ("condition", "change", "trim")
# Unions, since what is found by a tuple of types is otherwise of no type in particular.
DECIDING: tuple[type[nodes.If | nodes.CondExpr | nodes.For], ...]
DECIDING = (nodes.If, nodes.CondExpr, nodes.For)
NAMING: tuple[type[nodes.Assign | nodes.AssignBlock | nodes.For | nodes.Call], ...]
NAMING = (nodes.Assign, nodes.AssignBlock, nodes.For, nodes.Call)
ARITHMETIC = (nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.Sub)
LOOKED_AT = (nodes.Filter, nodes.Call, nodes.Getitem, nodes.For, nodes.FilterBlock, *ARITHMETIC)
MOST_LITERALS = 32
MOST_LITERAL_CHARACTERS = 1_000
MOST_SITES = 64
EXCERPT = 160


def sites(template: str) -> list[dict[str, Any]]:
    """Return each line that depends on content: its number, an excerpt, what it does and with what.

    `kind` is "condition" (it decides what is written), "change" (content is written otherwise than it
    is) or "trim" (white space at its ends goes). `literals` are texts and numbers it is compared with;
    `is_opaque` says that a condition computes something of content without any.
    Raises whatever Jinja does for a template that it cannot read.
    """
    tree = _environment().parse(template)
    by_line: dict[int, dict[str, Any]] = {}
    lines = template.split("\n")
    for line, kind, expression, flow in _Flow(tree).sites():
        literals = flow.literals(expression)
        site = by_line.setdefault(
            line,
            {
                "line": line,
                "excerpt": _excerpt(lines[line - 1], literals),
                "kind": kind,
                "literals": [],
                "is_opaque": False,
            },
        )
        site["kind"] = min(site["kind"], kind, key=STRENGTH.index)
        site["is_opaque"] |= kind == "condition" and flow.is_opaque(expression)
        new = [literal for literal in literals if literal not in site["literals"]]
        site["literals"] += new[: MOST_LITERALS - len(site["literals"])]
    return [by_line[line] for line in sorted(by_line)][:MOST_SITES]


def _excerpt(line: str, literals: list[Any]) -> str:
    """Return a line of a template, of a long one what is around the first literal in it."""
    line = line.strip()
    places = [line.find(text) for text in literals if isinstance(text, str)]
    first = min((place for place in places if place >= 0), default=line.find("content"))
    start = min(max(first - EXCERPT // 2, 0), max(len(line) - EXCERPT, 0))
    return line[start : start + EXCERPT]


def _environment() -> "ImmutableSandboxedEnvironment":
    """Return an environment that parses as transformers' does."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  (jinja2 has a set there)

        def parse(self, parser: "Parser") -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )


class _Flow:
    """Which names hold content, found by reading the assignments until nothing more is learnt.

    A name counts as content wherever it is used, if it is anywhere: better one site too many.
    """

    def __init__(self, tree: nodes.Template) -> None:
        self._tree = tree
        self._levels: dict[Any, int] = {"messages": MESSAGE}
        self._constants: dict[str, list[Any]] = {}
        self._macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        for assigned in tree.find_all(nodes.Assign):
            if isinstance(assigned.target, nodes.Name):
                self._constants.setdefault(assigned.target.name, []).extend(_values(assigned.node))
        while self._learnt():
            pass

    def sites(self) -> "Iterator[tuple[int, str, Any, _Flow]]":
        """Yield line, kind, expression and this, for each place that depends on content."""
        for deciding in self._tree.find_all(DECIDING):
            test = deciding.test
            if test is not None and self._level(test) == CONTENT:
                yield test.lineno, "condition", test, self
        for node in self._tree.find_all(LOOKED_AT):
            kind = self._change(node)
            if kind:
                looked_at = node.iter if isinstance(node, nodes.For) else node
                yield node.lineno, kind, looked_at, self

    def is_opaque(self, test: nodes.Expr) -> bool:
        """Tell whether a condition computes something of content, and holds nothing to try it with."""
        computing = (nodes.Compare, nodes.Test, nodes.Call, nodes.Filter, *ARITHMETIC)
        computed = [part for part in test.find_all(computing) if self._level(part) == CONTENT]
        if isinstance(test, computing):
            computed.append(test)
        strong = [part for part in computed if getattr(part, "name", "") not in TRIMMING]
        return bool(strong) and not self.literals(test)

    def literals(self, expression: nodes.Expr) -> list[Any]:
        """Return the texts and numbers in an expression, and those of the names in it."""
        values = _values(expression)
        for name in expression.find_all(nodes.Name):
            values += self._constants.get(name.name, [])
        return list(dict.fromkeys(values))

    def _learnt(self) -> bool:
        before = dict(self._levels)
        for node in self._tree.find_all(NAMING):
            if isinstance(node, nodes.Assign):
                self._assign(node.target, node.node)
            elif isinstance(node, nodes.AssignBlock):
                parts = [part for out in node.find_all(nodes.Output) for part in out.nodes]
                self._raise(node.target, self._highest(parts))
            elif isinstance(node, nodes.For):
                self._raise(node.target, self._level(node.iter))
            elif isinstance(node.node, nodes.Name) and node.node.name in self._macros:
                self._pass(self._macros[node.node.name], node)
        return self._levels != before

    def _assign(self, target: nodes.Node, value: nodes.Node) -> None:
        if (
            isinstance(target, nodes.Name)
            and isinstance(value, nodes.Call)
            and isinstance(value.node, nodes.Name)
            and value.node.name == "namespace"
        ):
            for pair in value.kwargs:
                self._learn((target.name, pair.key), self._level(pair.value))
        else:
            self._raise(target, self._level(value))

    def _pass(self, macro: nodes.Macro, call: nodes.Call) -> None:
        for parameter, argument in zip(macro.args, call.args, strict=False):
            self._learn(parameter.name, self._level(argument))
        for pair in call.kwargs:
            self._learn(pair.key, self._level(pair.value))

    def _raise(self, target: nodes.Node, level: int) -> None:
        if isinstance(target, nodes.Tuple):
            for item in target.items:
                self._raise(item, CONTENT if level == MESSAGE else level)
        elif isinstance(target, nodes.NSRef):
            self._learn((target.name, target.attr), level)
        elif isinstance(target, nodes.Name):
            self._learn(target.name, level)

    def _learn(self, name: Any, level: int) -> None:
        self._levels[name] = max(level, self._levels.get(name, CLEAN))

    def _highest(self, expressions: Any) -> int:
        return max((self._level(expression) for expression in expressions), default=CLEAN)

    def _level(self, node: Any) -> int:
        """Return what an expression's value is made of."""
        if isinstance(node, nodes.Name):
            return self._levels.get(node.name, CLEAN)
        if isinstance(node, (nodes.Getattr, nodes.Getitem)):
            return self._of_part(node)
        if isinstance(node, nodes.Call):
            return self._of_call(node)
        if isinstance(node, nodes.Filter):
            return self._of_filter(node)
        if isinstance(node, nodes.Test):
            operand_level = max(self._level(node.node), self._highest(node.args))
            return CONTENT if operand_level and node.name not in KINDS else CLEAN
        if isinstance(node, nodes.Compare):
            return self._of_comparison(node)
        inner = [child for child in node.iter_child_nodes() if isinstance(child, nodes.Node)]
        if isinstance(node, nodes.CondExpr):
            inner = [part for part in (node.expr1, node.expr2) if part is not None]
        level = self._highest(inner)
        is_written = isinstance(node, (nodes.Concat, nodes.TemplateData, nodes.Output))
        return CONTENT if is_written and level else level

    def _of_part(self, node: Any) -> int:
        level = self._level(node.node)
        if isinstance(node, nodes.Getattr):
            if isinstance(node.node, nodes.Name):
                part_level = self._levels.get((node.node.name, node.attr))
                if part_level is not None:
                    return part_level
            return _of_key(level, node.attr)
        if isinstance(node.arg, nodes.Const):
            return _of_key(level, node.arg.value)
        return max(level, self._level(node.arg) if level == CLEAN else level)

    def _of_call(self, node: nodes.Call) -> int:
        argument_level = self._highest([*node.args, *(pair.value for pair in node.kwargs)])
        if isinstance(node.node, nodes.Getattr):
            owner = self._level(node.node.node)
            if owner == MESSAGE:  # .get('role'), .items()
                first = node.args[0] if node.args else None
                if isinstance(first, nodes.Const) and node.node.attr == "get":
                    return _of_key(MESSAGE, first.value)
                return CONTENT
            return CONTENT if owner or argument_level else CLEAN
        return CONTENT if argument_level else CLEAN

    def _of_filter(self, node: nodes.Filter) -> int:
        level = self._level(node.node) if node.node else CLEAN
        if level == MESSAGE:
            if node.name in COUNTS:
                return CLEAN
            if node.name in PARTS:
                return MESSAGE
            if node.name in ("selectattr", "rejectattr", "groupby", "map"):
                attributes = [
                    *node.args[:1],
                    *(p.value for p in node.kwargs if p.key == "attribute"),
                ]
                clean = [
                    n for n in attributes if isinstance(n, nodes.Const) and n.value != "content"
                ]
                if clean:
                    return CLEAN if node.name == "map" else MESSAGE
            return CONTENT
        return CONTENT if level or self._highest(node.args) else CLEAN

    def _of_comparison(self, node: nodes.Compare) -> int:
        right = [operand.expr for operand in node.ops]
        if any(isinstance(e, nodes.Const) and e.value is None for e in (node.expr, *right)):
            return CLEAN  # whether there is any
        levels = [self._level(expression) for expression in (node.expr, *right)]
        if CONTENT in levels:
            return CONTENT
        is_key = node.ops[0].op in ("in", "notin") and levels[0] == CLEAN
        return CONTENT if MESSAGE in levels and not is_key else CLEAN

    def _change(self, node: Any) -> str | None:
        """Return how content is changed here, if it is."""
        if isinstance(node, nodes.For):
            return "change" if self._level(node.iter) == CONTENT else None
        if isinstance(node, nodes.FilterBlock):
            parts = [part for out in node.find_all(nodes.Output) for part in out.nodes]
            return "change" if self._highest(parts) else None
        if isinstance(node, ARITHMETIC):
            return "change" if self._level(node) == CONTENT else None
        if isinstance(node, nodes.Getitem):
            is_key = isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str)
            is_part = self._level(node.node) == CONTENT and not is_key
            return "change" if is_part or self._level(node.arg) == CONTENT else None
        if isinstance(node, nodes.Filter):
            if node.node is None or node.name in COUNTS:
                return None
            name, owner = node.name, self._level(node.node)
            if owner == MESSAGE:
                return "change" if self._of_filter(node) == CONTENT else None
        else:
            if not isinstance(node.node, nodes.Getattr):
                return None
            name, owner = node.node.attr, self._level(node.node.node)
        if CONTENT not in (owner, self._highest(node.args)) or name in VERBATIM:
            return None
        return "trim" if name in TRIMMING and not node.args else "change"


def _of_key(level: int, key: Any) -> int:
    """Return what a part of a value is made of; content may be a list of parts with texts."""
    if level == MESSAGE and isinstance(key, str):
        return CONTENT if key == "content" else CLEAN
    if level == CONTENT and isinstance(key, str):
        return CONTENT if key in ("text", "content") else CLEAN
    return level


def _values(expression: nodes.Node) -> list[Any]:
    """Return the texts and whole numbers that an expression holds, also those put together."""
    constants: list[Any] = []
    pending: list[Any] = [expression]
    while pending:
        node = pending.pop()
        try:
            value = node.as_const() if isinstance(node, nodes.Expr) else None
        except nodes.Impossible:
            value = None
        if not isinstance(value, (str, int, list, tuple, dict)):  # such as a dict's bound method
            # A key names what is looked at, and is no text to look for.
            skipped = node.arg if isinstance(node, nodes.Getitem) else None
            pending += [child for child in node.iter_child_nodes() if child is not skipped]
        elif isinstance(value, dict):
            constants += [*value, *value.values()]
        else:
            constants += value if isinstance(value, (list, tuple)) else [value]
        if isinstance(node, nodes.Keyword):
            constants.append(node.key)
    return [
        value
        for value in constants
        if (isinstance(value, str) and 0 < len(value) <= MOST_LITERAL_CHARACTERS)
        or (isinstance(value, int) and not isinstance(value, bool))
    ]
