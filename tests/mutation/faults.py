"""The faults that can be inserted into a module.

- Changed: comparisons (and their limits), `and` and `or`, `not`, signs, arithmetic, numbers, True and False,
  the text of a comparison, `min` and `max`, `any` and `all`, branches of `if`, comprehension conditions.
- Removed: keyword arguments, and the statements call, early return, raise, and assignment in a block.
- Not changed: annotations and docstrings; decorators and class options, because they only affect speed; texts
  that are shown.
"""

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Any, NamedTuple, TypeVar

LEFT_OUT = {"annotation", "returns", "decorator_list"}
#: The length of a fault's name: the longest text that is shown whole, and the characters around a change.
LONG, BESIDE = 60, 20
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
BLOCKS = (ast.If, ast.For, ast.While, ast.match_case, ast.Try, ast.ExceptHandler, ast.With)


class Site(NamedTuple):
    """A node of a module, with its parent and its place."""

    node: ast.AST
    parent: ast.AST
    put: Callable[[ast.AST], None]
    where: str
    statement: ast.stmt | None
    is_last: bool


class Fault(NamedTuple):
    """A fault; `tree` has it until the next fault is requested.

    Args:
        name: unique in its module, and independent of line numbers.
        first, last: the lines that reach it.
        is_outside: whether it is outside of all functions, so that the import of the module reaches it.
    """

    name: str
    first: int
    last: int
    is_outside: bool
    tree: ast.Module


def faults(source: str) -> Iterator[Fault]:
    """Yield every fault of `source`, always in the same order."""
    tree = ast.parse(source)
    names: Counter[str] = Counter()
    for site in list(_sites(tree, "", None)):
        shown = site.parent if isinstance(site.node, ast.Constant | ast.comprehension) else site.node
        before = _text(shown)
        for changed in _changes(site):
            site.put(ast.fix_missing_locations(ast.copy_location(changed, site.node)))
            name = f"{site.where or 'module'}: " + _difference(
                before, _text(changed if shown is site.node else shown)
            )
            names[name] += 1
            name += f" ({names[name]})" if names[name] > 1 else ""
            yield Fault(name, *_lines(site), "(" not in site.where, tree)
            site.put(site.node)


def _text(node: ast.AST) -> str:
    """Return the first line of a node's source text."""
    return ast.unparse(node).partition("\n")[0]


def _difference(before: str, after: str) -> str:
    """Return the text before and after a change; of a long text only the part around the change."""
    if max(len(before), len(after)) > LONG:
        same = _same(before, after)
        tail = _same(before[:same:-1], after[:same:-1])
        begin = max(same - BESIDE, 0)
        before, after = (
            ("…" if begin else "") + text[begin : len(text) - tail + BESIDE] for text in (before, after)
        )
    return f"{before} -> {after}"


def _same(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _lines(site: Site) -> tuple[int, int]:
    """Return the first and last line of a fault, from the start of its statement."""
    first = site.statement.lineno if site.statement else 1
    is_whole = site.node is site.statement
    return first, first if is_whole else max(first, getattr(site.node, "end_lineno", first))


def _sites(node: ast.AST, where: str, statement: ast.stmt | None) -> Iterator[Site]:
    for field, value in ast.iter_fields(node):
        if field in LEFT_OUT or (field == "keywords" and isinstance(node, ast.ClassDef)):
            continue
        children = value if isinstance(value, list) else [value]
        for place, child in enumerate(children):
            if isinstance(child, ast.AST) and not _is_no_code(child):
                put = _putter(node, field, place if isinstance(value, list) else None)
                inner = child if isinstance(child, ast.stmt) else statement
                yield Site(child, node, put, where, inner, is_last=child is children[-1])
                yield from _sites(child, _within(where, child), inner)


def _within(where: str, node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        return f"{where}{node.name}."
    return f"{where}{node.name}()" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else where


def _is_no_code(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, ast.Import | ast.ImportFrom)


def _putter(parent: ast.AST, field: str, place: int | None) -> Callable[[ast.AST], None]:
    def put(node: ast.AST) -> None:
        if place is None:
            setattr(parent, field, node)
        else:
            getattr(parent, field)[place] = node

    return put


def _changes(site: Site) -> Iterator[ast.AST]:
    """Yield the replacements of a node."""
    node = site.node
    if isinstance(node, ast.Constant):
        yield from _changed_constants(node, site.parent)
    elif isinstance(node, ast.stmt) and not isinstance(node, ast.If):
        yield from _changed_statements(node, site)
    else:
        for kind, change in CHANGES:
            if isinstance(node, kind):
                yield from change(node)


def _changed_comparisons(node: ast.Compare) -> Iterator[ast.AST]:
    for place, operator in enumerate(node.ops):
        for other in COMPARISONS[type(operator)]:
            yield _with(node, ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])


def _changed_joints(node: ast.BoolOp) -> Iterator[ast.AST]:
    yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())


def _changed_signs(node: ast.UnaryOp) -> Iterator[ast.AST]:
    yield node.operand


def _changed_arithmetic(node: ast.BinOp) -> Iterator[ast.AST]:
    if type(node.op) in ARITHMETIC:
        yield _with(node, op=ARITHMETIC[type(node.op)]())


def _changed_branches(node: ast.If | ast.IfExp) -> Iterator[ast.AST]:
    if not isinstance(node.test, ast.Compare | ast.UnaryOp):  # these have changes of their writer
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))


def _changed_conditions(node: ast.comprehension) -> Iterator[ast.AST]:
    for place in range(len(node.ifs)):
        yield _with(node, ifs=[*node.ifs[:place], *node.ifs[place + 1 :]])


def _changed_calls(node: ast.Call) -> Iterator[ast.AST]:
    if isinstance(node.func, ast.Name) and node.func.id in CALLS:
        yield _with(node, func=ast.Name(CALLS[node.func.id], ast.Load()))
    for place, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield _with(node, keywords=[*node.keywords[:place], *node.keywords[place + 1 :]])


def _changed_constants(node: ast.Constant, parent: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
        if node.value == 1:
            yield ast.Constant(node.value - 1)
    elif isinstance(node.value, str) and node.value and isinstance(parent, ast.Compare | ast.MatchValue):
        yield ast.Constant("")


def _changed_statements(node: ast.stmt, site: Site) -> Iterator[ast.AST]:
    if isinstance(node, ast.AugAssign):
        yield ast.Pass()
        if type(node.op) in ARITHMETIC:
            yield _with(node, op=ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.Break):
        yield ast.Continue()
    elif isinstance(node, ast.Continue):
        yield ast.Break()
    elif (
        isinstance(node, ast.Expr | ast.Raise | ast.Delete)
        or (isinstance(node, ast.Return) and not (isinstance(site.parent, ast.FunctionDef) and site.is_last))
        or (
            isinstance(node, ast.Assign)
            and (isinstance(site.parent, BLOCKS) or not isinstance(node.targets[0], ast.Name | ast.Tuple))
        )
    ):
        yield ast.Pass()


N = TypeVar("N", bound=ast.AST)


def _with(node: N, **fields: object) -> N:
    """Return a copy of a node with changed fields."""
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


CHANGES: tuple[tuple[type[ast.AST] | UnionType, Callable[[Any], Iterator[ast.AST]]], ...] = (
    (ast.Compare, _changed_comparisons),
    (ast.BoolOp, _changed_joints),
    (ast.UnaryOp, _changed_signs),
    (ast.BinOp, _changed_arithmetic),
    (ast.If | ast.IfExp, _changed_branches),
    (ast.comprehension, _changed_conditions),
    (ast.Call, _changed_calls),
)
