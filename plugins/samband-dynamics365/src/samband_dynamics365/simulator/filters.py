"""Reads ``$filter`` expressions into functions over rows.

Strings compare without case and ``%``, ``_`` and ``[]`` are wildcards in the string functions ("Filter rows").
A comparison with ``ne`` keeps rows whose column is null (assumed, as the older query language does).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from . import errors
from .filter_values import COMPARISONS, Literal, among, comparison, literal_of, pattern

Test = Callable[[Any], bool]
Getter = Callable[[Any], Any]
MAX_DEPTH = 60
_MIRRORED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>'(?:[^']|'')*')
    | (?P<guid>[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})
    | (?P<moment>\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d)?)
    | (?P<date>\d{4}-\d\d-\d\d)
    | (?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<array>\[[^\]]*\])
    | (?P<alias>@\w+)
    | (?P<name>[A-Za-z_$][\w.]*(?:/[A-Za-z_$][\w.]*)*)
    | (?P<mark>[(),:=])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Operand:
    """One side of a comparison: a getter over rows with its wire type."""

    get: Getter
    edm: str


class Scope(Protocol):
    """What names in an expression mean."""

    def column(self, path: str) -> Operand:
        """Returns the column a path leads to, or refuses the name."""
        ...

    def collection(self, path: str) -> tuple[Callable[[Any], Iterable[Any]], Scope]:
        """Returns the related rows a path leads to and the scope inside them, or refuses the name."""
        ...


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the expression."""

    kind: str
    text: str
    position: int


def tokenize(text: str) -> list[Token]:
    """Cuts an expression into tokens, or refuses a character that belongs nowhere."""
    tokens, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise errors.bad_url(f"Syntax error: character '{text[position]}' is not valid at position {position}.")
        tokens.append(Token(match.lastgroup, match[match.lastgroup], position))
        position = match.end()
    return tokens


def compile_filter(text: str, scope: Scope, aliases: dict[str, str] | None = None) -> Test:
    """Returns the test an expression stands for."""
    parser = _Parser(tokenize(text), scope, aliases or {}, text)
    test = parser.either()
    parser.expect_end()
    return test


class _Parser:
    def __init__(self, tokens: list[Token], scope: Scope, aliases: dict[str, str], text: str) -> None:
        self.tokens = tokens
        self.scope = scope
        self.aliases = aliases
        self.text = text
        self.at = 0
        self.depth = 0

    def fail(self) -> errors.ApiError:
        where = self.tokens[self.at].position if self.at < len(self.tokens) else len(self.text)
        return errors.bad_url(f"Syntax error at position {where} in '{self.text[:200]}'.")

    def peek(self, *words: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at].text in words

    def take(self, kind: str | None = None, text: str | None = None) -> Token:
        if self.at >= len(self.tokens):
            raise self.fail()
        token = self.tokens[self.at]
        if (kind is not None and token.kind != kind) or (text is not None and token.text != text):
            raise self.fail()
        self.at += 1
        return token

    def expect_end(self) -> None:
        if self.at != len(self.tokens):
            raise self.fail()

    def either(self) -> Test:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise errors.bad_url("The node count limit of '100' for the query has been exceeded.")
        tests = [self.both()]
        while self.peek("or"):
            self.at += 1
            tests.append(self.both())
        self.depth -= 1
        return tests[0] if len(tests) == 1 else lambda row: any(test(row) for test in tests)

    def both(self) -> Test:
        tests = [self.negated()]
        while self.peek("and"):
            self.at += 1
            tests.append(self.negated())
        return tests[0] if len(tests) == 1 else lambda row: all(test(row) for test in tests)

    def negated(self) -> Test:
        if self.peek("not"):
            self.at += 1
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise errors.bad_url("The node count limit of '100' for the query has been exceeded.")
            test = self.negated()
            self.depth -= 1
            return lambda row: not test(row)
        return self.single()

    def single(self) -> Test:
        if self.peek("("):
            self.at += 1
            test = self.either()
            self.take(text=")")
            return test
        token = self.take()
        if token.kind == "name" and self.peek("("):
            return self.function(token.text)
        return self.comparison(self.operand(token))

    def operand(self, token: Token) -> Operand | Literal:
        if token.kind == "name" and token.text not in {"true", "false", "null"}:
            return self.scope.column(token.text)
        token = self._aliased(token)
        if token.kind in {"mark", "array"}:
            raise self.fail()
        return literal_of(token.kind, token.text)

    def _aliased(self, token: Token) -> Token:
        """Returns the one token a parameter alias stands for, and any other token as it is."""
        if token.kind != "alias":
            return token
        inner = tokenize(self.aliases.get(token.text, ""))
        if len(inner) != 1:
            raise self.fail()
        return inner[0]

    def comparison(self, left: Operand | Literal) -> Test:
        operator = self.tokens[self.at].text if self.at < len(self.tokens) else ""
        if operator not in COMPARISONS:
            if isinstance(left, Operand) and left.edm == "Edm.Boolean":
                flag = left.get
                return lambda row: flag(row) is True
            raise self.fail()
        self.at += 1
        right = self.operand(self.take())
        if isinstance(left, Literal) and isinstance(right, Operand):
            left, right, operator = right, left, _MIRRORED.get(operator, operator)
        if isinstance(left, Literal):
            raise errors.bad_url("A filter must compare a column with a value.")
        if isinstance(right, Operand):
            return self._columns(operator, left, right)
        test = comparison(operator, left.edm, right)
        get = left.get
        return lambda row: test(get(row))

    def _columns(self, operator: str, left: Operand, right: Operand) -> Test:
        if left.edm != right.edm:
            raise errors.bad_url(
                "A binary operator with incompatible types was detected. Found operand types "
                f"'{left.edm}' and '{right.edm}' for operator kind '{operator}'."
            )
        compare = COMPARISONS[operator]

        def test(row: Any) -> bool:
            one, other = left.get(row), right.get(row)
            return one is not None and other is not None and compare(one, other)

        return test

    def function(self, name: str) -> Test:
        path, _, last = name.rpartition("/")
        if last in {"any", "all"} and path:
            return self.quantified(path, last)
        self.take(text="(")
        if name in {"contains", "startswith", "endswith"}:
            return self.string_function(name)
        if name.startswith("Microsoft.Dynamics.CRM."):
            return self.query_function(name.removeprefix("Microsoft.Dynamics.CRM."))
        raise errors.bad_url(f"An unknown function with name '{name}' was found.")

    def string_function(self, name: str) -> Test:
        column = self.operand(self.take())
        self.take(text=",")
        value = self.operand(self.take())
        self.take(text=")")
        # The documented form may be followed by `eq true` or `eq false`.
        wanted = True
        if self.peek("eq") and self.at + 1 < len(self.tokens) and self.tokens[self.at + 1].text in {"true", "false"}:
            wanted = self.tokens[self.at + 1].text == "true"
            self.at += 2
        if not isinstance(column, Operand) or not isinstance(value, Literal) or value.kind != "string":
            raise self.fail()
        search = pattern(name, str(value.value))
        get = column.get

        def test(row: Any) -> bool:
            found = get(row)
            return (isinstance(found, str) and search(found)) is wanted

        return test

    def query_function(self, name: str) -> Test:
        arguments: dict[str, Token] = {}
        while not self.peek(")"):
            key = self.take("name").text
            self.take(text="=")
            arguments[key] = self._aliased(self.take())
            if self.peek(","):
                self.at += 1
        self.take(text=")")
        target = arguments.get("PropertyName")
        if target is None:
            raise self.fail()
        column = self.scope.column(target.text.strip("'"))
        if name in {"In", "NotIn"}:
            values = self._array(arguments.get("PropertyValues"))
            is_among, get = among(column.edm, values), column.get
            if name == "In":
                return lambda row: is_among(get(row))
            return lambda row: not is_among(get(row))
        return self._dated(name, column, arguments.get("PropertyValue"))

    def _array(self, token: Token | None) -> list[Literal]:
        try:
            found = orjson.loads(token.text if token is not None else "")
        except orjson.JSONDecodeError:
            raise self.fail() from None
        if not isinstance(found, list) or len(found) > 2000:
            raise self.fail()
        return [literal_of("string", "'" + str(item).replace("'", "''") + "'") for item in found]

    def _dated(self, name: str, column: Operand, token: Token | None) -> Test:
        operator = {"OnOrAfter": "ge", "OnOrBefore": "le", "On": "eq"}.get(name)
        if operator is None or token is None or column.edm not in {"Edm.Date", "Edm.DateTimeOffset"}:
            raise errors.bad_url(f"The query function 'Microsoft.Dynamics.CRM.{name}' is not known here.")
        test = comparison(operator, "Edm.Date", literal_of(token.kind, token.text))
        return lambda row: test((column.get(row) or "")[:10] or None)

    def quantified(self, path: str, word: str) -> Test:
        related, inner = self.scope.collection(path)
        self.take(text="(")
        if self.peek(")"):
            self.at += 1
            return lambda row: any(True for _ in related(row))
        variable = self.take("name").text
        self.take(text=":")
        outer, self.scope = self.scope, _Lambda(variable, inner, self.scope)
        test = self.either()
        self.scope = outer
        self.take(text=")")
        if word == "any":
            return lambda row: any(test(other) for other in related(row))
        return lambda row: all(test(other) for other in related(row))


@dataclass(frozen=True, slots=True)
class _Lambda:
    """The names inside ``any(o:o/name eq 'x')``: only those that start with the range variable."""

    variable: str
    inner: Scope
    outer: Scope

    def _behind(self, path: str) -> str:
        variable, _, rest = path.partition("/")
        if variable != self.variable or not rest:
            raise errors.bad_url(f"Could not find a property named '{path}' in the lambda expression.")
        return rest

    def column(self, path: str) -> Operand:
        return self.inner.column(self._behind(path))

    def collection(self, path: str) -> tuple[Callable[[Any], Iterable[Any]], Scope]:
        return self.inner.collection(self._behind(path))
