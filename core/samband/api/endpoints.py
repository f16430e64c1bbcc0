"""The typed-endpoint layer: a handler's signature is its contract, for parsing as well as for the OpenAPI document.

A handler takes a `Call`, then parameters found in the path by name, in a header when marked `InHeader`, otherwise in
the query, and ``body`` when it takes one. It returns a view or an `Answer` of one; a `web.Response` passes unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web
from pydantic import ValidationError

from samband.acting import EVERYWHERE, act_for, acting
from samband.api.access import admit
from samband.api.answers import Answer
from samband.api.bodies import BodyLimits, read_bytes, read_json
from samband.api.parameters import Input
from samband.api.repeats import IDEMPOTENCY_KEY, answer_once
from samband.api.signatures import Handler, Signature, read_signature
from samband.errors import FieldProblem, InvalidError
from samband.kinds import field_problems

if TYPE_CHECKING:
    from samband.access import Caller, Verb
    from samband.service import Service

__all__ = ["Call", "Endpoint", "Endpoints"]

H = TypeVar("H", bound=Handler)
# A name the client made up is repeated only when it looks like a name; it could be a value gone astray.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request on its way to the service. Asking a public endpoint's call for its `caller` is a defect and fails."""

    request: web.Request
    service: Service
    admitted: Caller | None
    body_timeout_s: float = 30.0
    content: bytes = field(default=b"", repr=False)

    @property
    def caller(self) -> Caller:
        if self.admitted is None:
            raise RuntimeError("a public endpoint has no caller")
        return self.admitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address and method: who may use it, what it takes, what it answers, which problems it can end in.

    Attributes:
        verb: What the key must allow; None makes it public.
        problems: The codes it can end in besides those its shape implies (see `samband.api.openapi.problem_codes`).
        headers: Header → description, of the answer.
        also: Another status that it can answer with, in the same shape → what that means.
        takes_bytes: The body is no JSON; the handler finds it in the call's ``content``.
        takes_raw: The handler reads query and body itself, whatever they are; parameters of the path come as they are.
    """

    method: str
    path: str
    handler: Handler
    signature: Signature
    verb: Verb | None
    tag: str
    status: int
    problems: tuple[str, ...]
    headers: Mapping[str, str]
    media_type: str
    takes_raw: bool = False
    takes_bytes: bool = False
    also: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.handler.__name__

    @property
    def reads_body(self) -> bool:
        return self.method != "GET"

    @property
    def keeps_answers(self) -> bool:
        """Says whether a repeat with the same Idempotency-Key gets the first one's answer.

        So it is for every POST, except one that takes the key itself: there the service binds it to what it makes.
        """
        takes_it_itself = any(p.where == "header" and p.wire == "Idempotency-Key" for p in self.signature.parameters)
        return self.method == "POST" and self.verb is not None and not takes_it_itself

    async def serve(self, request: web.Request, service: Service, limits: BodyLimits) -> web.StreamResponse:
        """Answers one request: admits the caller, reads what was sent, calls the handler, writes what it gives."""
        if self.takes_raw:
            call = Call(request=request, service=service, admitted=None, body_timeout_s=limits.timeout_s)
            return self._write(await self.handler(call, **request.match_info))
        caller = None if self.verb is None else await admit(request, service, self.verb)
        with act_for(organization=_confinement(request, caller), actor=_actor(caller)):
            return await self._serve(request, service, limits, caller)

    async def _serve(
        self, request: web.Request, service: Service, limits: BodyLimits, caller: Caller | None
    ) -> web.StreamResponse:
        arguments, content = self._read_parameters(request), b""
        if self.takes_bytes:
            content = await read_bytes(request, limits)
        elif self.reads_body:
            body = self._check_body(await read_json(request, limits))
            if self.signature.body is not None:
                arguments["body"] = body

        async def handle() -> web.StreamResponse:
            call = Call(request=request, service=service, admitted=caller, content=content)
            return self._write(await self.handler(call, **arguments))

        if caller is None or not self.keeps_answers or IDEMPOTENCY_KEY not in request.headers:
            return await handle()
        return await answer_once(
            request, service.repeats, caller=caller.key_id, route=self.name, organization=acting().organization,
            handle=handle,
        )  # fmt: skip

    def _read_parameters(self, request: web.Request) -> dict[str, Any]:
        values: dict[str, Any] = {}
        problems = self._unknown_parameters(request)
        for parameter in self.signature.parameters:
            try:
                values[parameter.name] = parameter.read(request)
            except ValidationError as error:
                wrong = field_problems(error)
                problems += [FieldProblem(field=parameter.wire, code=p.code, message=p.message) for p in wrong]
            except InvalidError as error:
                problems += error.problems
        if problems:
            raise InvalidError("The parameters are not valid.", problems=problems)
        return values

    def _unknown_parameters(self, request: web.Request) -> list[FieldProblem]:
        if not request.query_string:
            return []
        known = [p.wire for p in self.signature.parameters if p.where == "query"]
        text = f"There is no such parameter. Known here: {', '.join(known) or 'none'}."
        unknown = dict.fromkeys(_speakable(name) for name in request.query if name not in known)
        return [FieldProblem(field=name, code="unknown_parameter", message=text) for name in unknown]

    def _check_body(self, decoded: Any) -> Input | None:
        if decoded is None and not self.signature.body_is_required:
            return None
        model = self.signature.body or _NoBody
        try:
            return model.model_validate({} if decoded is None else decoded)
        except ValidationError as error:
            known = ", ".join(model.model_fields) or "none"
            problems = [_explained(problem, known) for problem in field_problems(error)]
        raise InvalidError("The body is not valid.", problems=problems)

    def _write(self, given: Any) -> web.StreamResponse:
        if self.signature.answer is None:
            assert isinstance(given, web.StreamResponse)
            return given
        answer = given if isinstance(given, Answer) else Answer(value=given)
        content = self.signature.answer.dump_json(answer.value)
        status = answer.status or self.status
        return web.Response(body=content, status=status, content_type=self.media_type, headers=answer.headers)


def _confinement(request: web.Request, caller: Caller | None) -> str:
    """Gives the one organisation that the request may touch: that of its address, or the only one its key reaches."""
    named = request.match_info.get("org")
    if named is not None and caller is not None:
        return named
    if caller is not None and caller.organizations is not None and len(caller.organizations) == 1:
        return next(iter(caller.organizations))
    return EVERYWHERE


def _actor(caller: Caller | None) -> str:
    return "nobody" if caller is None else f"key:{caller.key_id} {caller.name}"


class Endpoints(list[Endpoint]):
    """The endpoints of one area; each handler is added by decoration and stays a plain function."""

    def __init__(self, tag: str) -> None:
        super().__init__()
        self._tag = tag

    def add(
        self,
        method: str,
        path: str,
        *,
        verb: Verb | None,
        status: int = 200,
        problems: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        media_type: str = "application/json",
        takes_raw: bool = False,
        takes_bytes: bool = False,
        also: Mapping[int, str] | None = None,
    ) -> Callable[[H], H]:
        """Adds the decorated handler; the arguments are those of `Endpoint`."""

        def decorate(handler: H) -> H:
            signature = read_signature(handler, path)
            self.append(
                Endpoint(
                    method=method, path=path, handler=handler, signature=signature, verb=verb, tag=self._tag,
                    status=status, problems=problems, headers=headers or {}, media_type=media_type,
                    takes_raw=takes_raw, takes_bytes=takes_bytes, also=also or {},
                )
            )  # fmt: skip
            return handler

        return decorate


class _NoBody(Input):
    """The body of an endpoint that takes none: absent or an empty object, so that nothing sent is ignored."""


def _explained(problem: FieldProblem, known: str) -> FieldProblem:
    if problem.code != "unknown_key":
        return problem
    message = f"There is no such field. Known here: {known}."
    return FieldProblem(field=_speakable(problem.field), code=problem.code, message=message)


def _speakable(name: str) -> str:
    return name if _NAME.fullmatch(name) else "(unnamed)"
