"""Reading a handler's signature: its parameters, its body and what it answers."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from aiohttp import web
from pydantic import TypeAdapter

from samband.api.answers import Answer
from samband.api.parameters import InHeader, Input
from samband.errors import FieldProblem, InvalidError

__all__ = ["Handler", "Parameter", "Signature", "read_signature"]

Handler = Callable[..., Awaitable[Any]]
_REQUIRED = inspect.Parameter.empty
_RESERVED = ("call", "body")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of an endpoint.

    Attributes:
        name: In the handler.
        wire: In the request.
        where: ``path``, ``query`` or ``header``.
        adapter: Its type.
        default: What the handler gets when it is not sent; `inspect.Parameter.empty` when it must be.
    """

    name: str
    wire: str
    where: str
    adapter: TypeAdapter[Any]
    default: Any

    @property
    def is_required(self) -> bool:
        return self.default is _REQUIRED

    def read(self, request: web.Request) -> Any:
        """Gives the value, validated. Raises `InvalidError` or pydantic's own error."""
        if self.where == "path":
            return self.adapter.validate_strings(request.match_info[self.wire])
        found = (request.query if self.where == "query" else request.headers).getall(self.wire, [])
        if not found and not self.is_required:
            return self.default
        if len(found) != 1:
            text = "Give it exactly once."
            raise InvalidError(text, problems=[FieldProblem(field=self.wire, code="not_once", message=text)])
        return self.adapter.validate_strings(found[0])


class Signature(NamedTuple):
    """What a handler takes and gives. ``body`` is None when it takes none, ``answer`` when it writes its own."""

    parameters: tuple[Parameter, ...]
    body: type[Input] | None
    body_is_required: bool
    answer: TypeAdapter[Any] | None


def read_signature(handler: Handler, path: str) -> Signature:
    """Gives the signature of a handler for an address."""
    hints = get_type_hints(handler, include_extras=True)
    drawn = inspect.signature(handler).parameters
    body = drawn.get("body")
    return Signature(
        parameters=tuple(_parameter(p, hints[name], path) for name, p in drawn.items() if name not in _RESERVED),
        body=None if body is None else _without_none(hints["body"]),
        body_is_required=body is not None and body.default is _REQUIRED,
        answer=_answer(hints["return"]),
    )


def _parameter(drawn: inspect.Parameter, hint: Any, path: str) -> Parameter:
    hint = _without_none(hint)
    header = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, InHeader)), None)
    where = "header" if header else "path" if f"{{{drawn.name}}}" in path else "query"
    adapter = TypeAdapter(hint)
    wire = header or drawn.name.rstrip("_")  # "from_", which may be called "from" only in the request
    return Parameter(name=drawn.name, wire=wire, where=where, adapter=adapter, default=drawn.default)


def _without_none(hint: Any) -> Any:
    if get_origin(hint) is Annotated or get_origin(hint) not in (Union, UnionType):
        return hint
    (inner,) = (arm for arm in get_args(hint) if arm is not type(None))
    return inner


def _answer(hint: Any) -> TypeAdapter[Any] | None:
    value = get_args(hint)[0] if get_origin(hint) is Answer else hint
    is_response = inspect.isclass(value) and issubclass(value, web.StreamResponse)
    return None if is_response else TypeAdapter(value)
