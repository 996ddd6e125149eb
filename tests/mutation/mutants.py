"""The small wrong changes that a test should notice, one at a time, made on the syntax tree.

Not mutated: annotations, decorators, strings (so messages and reason codes: tests name those), f-strings, and
``strict=`` of ``zip``, whose two sides have one length by construction wherever it is used.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
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
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "ge": "gt"}
_SKIPPED_FIELDS = frozenset({"annotation", "returns", "decorator_list", "type_comment"})
_JUDGED_ALREADY = (ast.Compare, ast.BoolOp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change.

    Attributes:
        line: where, counted from 1.
        before, after: the changed expression or statement.
        source: of the whole module, changed; comments are lost.
    """

    line: int
    before: str
    after: str
    source: str


def mutants_of(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, from its first line to its last."""
    tree = ast.parse(source)
    for holder, field, index, early in list(_places(tree)):
        value = getattr(holder, field)
        node = value if index is None else value[index]
        for changed in _variants(node, early=early):
            _put(holder, field, index, changed)
            yield Mutant(
                line=node.lineno,
                before=ast.unparse(node),
                after=ast.unparse(changed),
                source=ast.unparse(tree),
            )
            _put(holder, field, index, node)


def _put(holder: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(holder, field, node)
    else:
        getattr(holder, field)[index] = node


def _places(holder: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, bool]]:
    """Yield where each node hangs, and whether something of its function follows it (so it leaves early)."""
    is_function = isinstance(holder, ast.FunctionDef)
    for field, value in ast.iter_fields(holder):
        if field in _SKIPPED_FIELDS:
            continue
        items = value if isinstance(value, list) else [value]
        for index, node in enumerate(items):
            if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr):
                continue
            if isinstance(node, ast.keyword) and node.arg == "strict":
                continue
            tail = is_function and field == "body" and index == len(items) - 1
            if hasattr(node, "lineno"):
                yield holder, field, index if isinstance(value, list) else None, not tail
            yield from _places(node)


def _variants(node: ast.AST, *, early: bool) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[operator]):
            for other in _COMPARISONS[type(operator)]:
                yield ast.Compare(left=node.left, ops=[other()], comparators=node.comparators)
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                for other in _COMPARISONS[type(operator)]:
                    ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
                    yield ast.Compare(left=node.left, ops=ops, comparators=node.comparators)
        case ast.BoolOp():
            yield ast.BoolOp(op=ast.Or() if isinstance(node.op, ast.And) else ast.And(), values=node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            yield ast.BinOp(left=node.left, op=_ARITHMETIC[type(node.op)](), right=node.right)
        case ast.Constant(value=bool()):
            yield ast.Constant(value=not node.value)
        case ast.Constant(value=int(number)):
            yield ast.Constant(value=number + 1)
            yield ast.Constant(value=number - 1)
        case ast.Name(id=name, ctx=ast.Load()) if name in _NAMES:
            yield ast.Name(id=_NAMES[name], ctx=ast.Load())
        case ast.Raise() | ast.Continue() | ast.Expr(value=ast.Call() | ast.Await()):
            yield ast.Pass()
        case ast.Return() if early:
            yield ast.Pass()
        case ast.If(test=test) if not _is_judged(test):
            yield ast.If(test=_negated(test), body=node.body, orelse=node.orelse)
        case ast.IfExp(test=test) if not _is_judged(test):
            yield ast.IfExp(test=_negated(test), body=node.body, orelse=node.orelse)


def _is_judged(test: ast.expr) -> bool:
    """True if the condition is mutated by itself."""
    return isinstance(test, _JUDGED_ALREADY) or (
        isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    )


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(op=ast.Not(), operand=test)
