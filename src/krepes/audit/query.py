"""Conditions on a table, such as `age > 30 and sex == "Female"`: read and evaluated here, so that none can run code.

A query may stand in a stranger's configuration. It holds columns, constants, comparisons, `and`, `or`, `not` and
arithmetic, and `isna(column)`; there is no call, attribute or index that could reach anything but the table.
"""

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from krepes.audit.query_values import Column, Constant, column_of, compare, is_numeric, member_of, numbers_of
from krepes.errors import ConfigError

LONGEST = 10_000  # characters of a query
DEEPEST = 50  # levels of nesting
LISTED = 50  # columns that a message lists
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Mod: np.mod,
}  # fmt: skip
COMPARISONS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
ALONE = re.compile(r"(?<![=!<>])=(?!=)")  # an assignment, which a comparison was meant to be
ALLOWED = "columns, constants, comparisons, in, and, or, not, + - * / %, isna(column) and notna(column)"


class QueryError(ValueError):
    """A part of a query that is not understood, or does not fit the table."""


@dataclass(frozen=True)
class Condition:
    """Truth of each row.

    Attributes:
        true: where the condition holds (n,).
        known: where missing cells leave it open whether it does, False (n,). A row is never both true and unknown.
    """

    true: np.ndarray
    known: np.ndarray

    def negated(self) -> "Condition":
        """`not`: what is unknown stays so."""
        return Condition(self.known & ~self.true, self.known)


def condition(table: pd.DataFrame, query: str, what: str) -> np.ndarray:
    """Rows for which a query holds, (n,).

    A comparison with a missing cell is neither true nor false, as in SQL: neither `x == 1` nor `x != 1` selects such a
    row, `isna(x)` does. `&`, `|` are `and`, `or`; names that are no identifiers stand between backticks. Arithmetic is
    in float64. Ordered categories compare in their order, dates with quoted dates, text by its characters.

    Args:
        table: (n rows).
        query: such as `age > 30 and job in ["a", "b"]`.
        what: the thing that is selected, for messages.

    Raises:
        ConfigError: the query holds something else, a column that does not exist, or values that cannot be compared;
            names the part.
    """
    try:
        found = _Reader(table, *_parsed(query)).condition()
    except QueryError as error:
        names = [str(name) for name in table.columns]
        listed = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
        shown = query if len(query) <= 200 else query[:200] + "…"
        raise ConfigError(f"{what}={shown!r} is no query on this table: {error}. Its columns: {listed}") from error
    return found.true


def _parsed(query: str) -> tuple[str, ast.expr, dict[str, str]]:
    """Python's spelling of a query, its syntax tree, and the names that stand for those between backticks."""
    if len(query) > LONGEST:
        raise QueryError(f"it has {len(query):,} characters; expected at most {LONGEST:,}")
    if not query.strip():
        raise QueryError("it is empty")
    text, quoted = _unquoted(query)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of constants that are called: refused below
            return text, ast.parse(text, mode="eval").body, quoted
    except SyntaxError as error:
        hint = "; equality is ==" if ALONE.search(text) else "; names that are no identifiers stand between backticks"
        raise QueryError(f"{error.msg or 'it cannot be read'}{hint}") from error
    except (ValueError, RecursionError, MemoryError) as error:  # numbers of thousands of digits; thousands of levels
        raise QueryError(f"it cannot be read: {str(error) or 'too many levels of nesting'}") from error


def _unquoted(query: str) -> tuple[str, dict[str, str]]:
    """Names between backticks replaced by identifiers, and & | by `and` `or`, outside of quotes."""
    prefix = "column_"
    while prefix in query:
        prefix += "_"
    out: list[str] = []
    quoted: dict[str, str] = {}
    i, query = 0, query.strip()
    while i < len(query):
        c = query[i]
        if c in "'\"":
            end = i + 1
            while end < len(query) and query[end] != c:
                end += 2 if query[end] == "\\" else 1
            out.append(query[i : end + 1])
            i = end
        elif c == "`":
            end = query.find("`", i + 1)
            if end < 0:
                raise QueryError("a backtick is not closed")
            name = f"{prefix}{len(quoted)}"
            quoted[name] = query[i + 1 : end]
            out.append(f" {name} ")
            i = end
        elif c in "#@;\\":
            raise QueryError(f"{c!r} is not allowed; expected {ALLOWED}")
        else:
            out.append({"&": " and ", "|": " or ", "\n": " ", "\r": " "}.get(c, c))
        i += 1
    return "".join(out).strip(), quoted


class _Reader:
    """Evaluates a syntax tree on a table, and refuses every node that is not named here."""

    def __init__(self, table: pd.DataFrame, text: str, tree: ast.expr, quoted: dict[str, str]):
        self._table, self._text, self._tree, self._quoted = table, text, tree, quoted

    def condition(self) -> Condition:
        return self._condition(self._tree, 0)

    def _condition(self, node: ast.expr, depth: int) -> Condition:
        self._check_depth(depth)
        if isinstance(node, ast.BoolOp):
            parts = [self._condition(value, depth + 1) for value in node.values]
            both = isinstance(node.op, ast.And)
            return _all_of(parts) if both else _all_of([p.negated() for p in parts]).negated()
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            return self._condition(node.operand, depth + 1).negated()
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            return _all_of([
                self._comparison(left, op, right, depth + 1)
                for left, op, right in zip(sides, node.ops, sides[1:], strict=False)
            ])  # fmt: skip
        if isinstance(node, ast.Call):
            return self._missing(node)
        value = self._value(node, depth)
        if isinstance(value, Column) and value.kind in ("truth", "nothing"):
            return Condition(value.values.astype(bool) & ~value.missing, ~value.missing)
        found = "a constant" if isinstance(value, Constant) else f"{value.words} ({self._name_of(node)})"
        raise QueryError(f"expected a condition, true or false for each row; found {found}")

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> Condition:
        one = self._value(left, depth)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise QueryError(f"after in, expected a list such as ['a', 'b']; found {self._name_of(right)}")
            others = [self._value(item, depth) for item in right.elts]
            constants = [other for other in others if isinstance(other, Constant)]
            if len(constants) < len(others) or not isinstance(one, Column):
                raise QueryError(f"in asks whether a column's values are in a list of constants: {self._name_of(left)}")
            known = ~one.missing
            found = Condition(self._told(lambda: member_of(one, constants)) & known, known)
            return found if isinstance(op, ast.In) else found.negated()
        if type(op) not in COMPARISONS:
            raise QueryError("`is` is not allowed; write ==")
        other = self._value(right, depth)
        if isinstance(one, Constant) and isinstance(other, Constant):
            raise QueryError(f"{self._name_of(left)} and {self._name_of(right)} are constants; expected a column")
        known = ~np.asarray(one.missing | other.missing)
        return Condition(self._told(lambda: compare(one, COMPARISONS[type(op)], other)) & known, known)

    def _value(self, node: ast.expr, depth: int) -> Column | Constant:
        """A column or a constant, or what arithmetic makes of them."""
        self._check_depth(depth)
        if isinstance(node, ast.Name):
            return self._column(node.id)
        if isinstance(node, ast.Constant):
            if not isinstance(node.value, bool | int | float | str):
                hint = "; isna(column) finds missing cells" if node.value is None else ""
                raise QueryError(f"{self._name_of(node)} is no number, text or truth value{hint}")
            return Constant(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return self._arithmetic(operator.mul, -1 if isinstance(node.op, ast.USub) else 1, node.operand, node, depth)
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            return self._arithmetic(ARITHMETIC[type(node.op)], node.left, node.right, node, depth)
        if isinstance(node, ast.BoolOp | ast.Compare | ast.UnaryOp):
            raise QueryError(f"{self._name_of(node)} is a condition; expected a column or a constant in its place")
        raise QueryError(f"{self._name_of(node)} is not allowed ({type(node).__name__}); expected {ALLOWED}")

    def _arithmetic(
        self, apply: Callable[[Any, Any], Any], left: ast.expr | int, right: ast.expr, node: ast.expr, depth: int
    ) -> Column | Constant:
        nodes = [side for side in (left, right) if isinstance(side, ast.expr)]
        sides = [self._value(side, depth + 1) for side in nodes]
        for side, where in zip(sides, nodes, strict=True):
            if not is_numeric(side):
                raise QueryError(f"{self._name_of(where)} holds {side.words}; {self._name_of(node)} takes numbers")
        if isinstance(left, int) and isinstance(sides[0], Constant):  # the sign of a whole number keeps it whole
            return Constant(left * sides[0].value)
        a, b = self._told(
            lambda: ([np.float64(left)] if isinstance(left, int) else []) + [numbers_of(s) for s in sides]
        )
        with np.errstate(all="ignore"):
            result = apply(a, b)
        if all(isinstance(side, Constant) for side in sides):
            if not math.isfinite(result):
                raise QueryError(f"{self._name_of(node)} is no finite number")
            return Constant(float(result))
        missing = np.isnan(result)
        for side in sides:
            missing = missing | side.missing
        return Column("number", result, missing)

    def _missing(self, node: ast.Call) -> Condition:
        function = node.func.id if isinstance(node.func, ast.Name) else ""
        if function not in ("isna", "notna"):
            raise QueryError(f"{self._name_of(node)} is a call, which is not allowed; expected {ALLOWED}")
        if len(node.args) != 1 or node.keywords or not isinstance(node.args[0], ast.Name):
            raise QueryError(f"{self._name_of(node)}: expected {function}(column)")
        missing = self._cells(node.args[0].id).isna().to_numpy(bool)
        found = Condition(missing, np.ones_like(missing))
        return found if function == "isna" else found.negated()

    def _cells(self, name: str) -> pd.Series:
        wanted = self._quoted.get(name, name)
        names = list(self._table.columns)
        places = [i for i, n in enumerate(names) if isinstance(n, str) and n == wanted]
        places = places or [i for i, n in enumerate(names) if not isinstance(n, str) and str(n) == wanted]
        if len(places) > 1:
            raise QueryError(f"there are {len(places)} columns named {wanted!r}; rename them")
        if not places:
            raise QueryError(f"there is no column {wanted!r}")
        return self._table.iloc[:, places[0]].reset_index(drop=True)

    def _column(self, name: str) -> Column:
        return self._told(lambda: column_of(self._cells(name), self._quoted.get(name, name)))

    def _told(self, make: Callable[[], Any]) -> Any:
        """What does not fit together, as a part of a query that does not fit."""
        try:
            return make()
        except QueryError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise QueryError(str(error)) from error

    def _check_depth(self, depth: int) -> None:
        if depth > DEEPEST:
            raise QueryError(f"it is nested more than {DEEPEST} levels deep")

    def _name_of(self, node: ast.expr) -> str:
        """The part of the query that a node was read from."""
        text = ast.get_source_segment(self._text, node) or type(node).__name__
        for name, column in self._quoted.items():
            text = text.replace(f" {name} ", f"`{column}`").replace(name, f"`{column}`")
        return text if len(text) <= 80 else text[:80] + "…"


def _all_of(parts: Sequence[Condition]) -> Condition:
    """`and` of three-valued conditions: false where one is, unknown where one is and none is false."""
    true: np.ndarray = np.logical_and.reduce([p.true for p in parts])
    false: np.ndarray = np.logical_or.reduce([p.known & ~p.true for p in parts])
    return Condition(true, np.logical_or(true, false))
