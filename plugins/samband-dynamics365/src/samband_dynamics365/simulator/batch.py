"""``$batch``: many requests in one multipart body, some of them in changesets that succeed or fail together.

Source: "Execute batch operations using the Web API". Clients differ in boundary quotes, line endings, a leading blank
line, and absolute or relative URLs; all are taken.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from . import errors
from .exchange import Answer, Call, Preferences
from .multipart import Part, boundary_of, parse_request, split_parts
from .state import SimulatorState
from .urls import relative_path

MAX_REQUESTS = 1_000
Handler = Callable[[Call], Answer]


@dataclass(slots=True)
class _Outcome:
    """Response parts so far and the status of the failure that ended the batch, if one did."""

    chunks: list[str] = field(default_factory=list)
    failed: int | None = None


class _ChangesetFailedError(Exception):
    def __init__(self, answer: Answer, content_id: str | None) -> None:
        super().__init__("changeset failed")
        self.answer = answer
        self.content_id = content_id


def execute(state: SimulatorState, call: Call, handler: Handler) -> Answer:
    """Answers a batch; ``handler`` answers each single request in it."""
    boundary = boundary_of(call.headers.get("content-type", ""))
    if boundary is None:
        raise errors.bad_url("The batch request must be multipart/mixed and name its boundary.")
    parts = split_parts(_text(call.body), boundary)
    _check_size(parts)
    outcome = _Outcome()
    for part in parts:
        if part.boundary is not None:
            _changeset(state, call, handler, part, outcome)
        else:
            answer = _single(call, handler, part, {})
            outcome.chunks.append(_shown(answer, part.content_id))
            if answer.status >= 400:
                outcome.failed = answer.status
        if outcome.failed is not None and not call.prefer.continue_on_error:
            break
    return _assembled(state, call, outcome)


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise errors.bad_url("The batch body is not UTF-8.") from None


def _check_size(parts: list[Part]) -> None:
    total = sum(len(split_parts(part.body, part.boundary)) if part.boundary is not None else 1 for part in parts)
    if total > MAX_REQUESTS:
        raise errors.bad_url(f"The batch holds {total} requests; the maximum is {MAX_REQUESTS}.")
    if not parts:
        raise errors.bad_url("The batch request holds no part with the boundary its header names.")


def _single(call: Call, handler: Handler, part: Part, references: dict[str, str]) -> Answer:
    request = parse_request(part)
    url = request.url
    if url.startswith("$"):
        head, slash, rest = url.partition("/")
        name, question, query = head.partition("?")
        known = references.get(name)
        if known is None:
            raise _unknown_reference(name)
        url = f"{known}{slash}{rest}{question}{query}"
    path, _, query = relative_path(url, call.root).partition("?")
    if path.strip("/").startswith("$batch"):
        raise errors.bad_url("A batch cannot hold another batch.")
    return handler(
        replace(
            call,
            method=request.method,
            path=path,
            query=query,
            headers=request.headers,
            body=request.body,
            prefer=Preferences.parse(request.headers.get("prefer")),
            references=references,
        )
    )


def _unknown_reference(name: str) -> errors.ApiError:
    return errors.ApiError(
        400, "0x80060888", f"Content-ID Reference: '{name[:40]}' does not exist in the batch context."
    )


def _changeset(state: SimulatorState, call: Call, handler: Handler, part: Part, outcome: _Outcome) -> None:
    boundary = f"changesetresponse_{uuid.uuid4()}"
    try:
        with state.organization.transaction():
            shown = _changeset_parts(state, call, handler, part)
    except _ChangesetFailedError as failure:
        outcome.failed = failure.answer.status
        chunk = _shown(failure.answer, failure.content_id)
        if state.switches.changeset_failure != "wrapped":
            outcome.chunks.append(chunk)
            return
        shown = [chunk]
    inner = "".join(f"--{boundary}\r\n{chunk}" for chunk in shown)
    outcome.chunks.append(
        f"Content-Type: multipart/mixed; boundary={boundary}\r\n\r\n{inner}--{boundary}--\r\n",
    )


def _changeset_parts(state: SimulatorState, call: Call, handler: Handler, part: Part) -> list[str]:
    references: dict[str, str] = {}
    shown = []
    for inner in split_parts(part.body, part.boundary or ""):
        request = parse_request(inner)
        content_id = inner.content_id or request.headers.get("content-id")
        if inner.boundary is not None or request.method == "GET":
            raise errors.bad_url("A changeset holds single write requests only.")
        if content_id is None and state.switches.changeset_needs_content_id:
            raise errors.bad_url("The Content-ID header is missing in a part of the changeset.")
        try:
            answer = _single(call, handler, inner, references)
        except errors.ApiError as error:
            raise _ChangesetFailedError(refusal(error), content_id) from None
        if answer.status >= 400:
            raise _ChangesetFailedError(answer, content_id)
        if content_id is not None:
            made = _made(answer)
            references[f"${content_id}"] = made or relative_path(request.url, call.root)
        shown.append(_shown(answer, content_id))
    return shown


def refusal(error: errors.ApiError) -> Answer:
    """Returns a refusal as an answer."""
    payload = {"error": {"code": error.code, "message": error.message}}
    return Answer(status=error.status, payload=payload, headers=error.headers)


def _made(answer: Answer) -> str | None:
    """Returns the row an answer is about, as a path below the service root."""
    url = answer.headers.get("OData-EntityId")
    if url is not None:
        return relative_path(url, "")
    where = str((answer.payload or {}).get("@odata.context", ""))
    entity_set = where.partition("$metadata#")[2].partition("(")[0].partition("/")[0]
    for name, value in (answer.payload or {}).items():
        if entity_set.startswith(name.removesuffix("id")) and name.endswith("id"):
            return f"{entity_set}({value})"
    return None


def _shown(answer: Answer, content_id: str | None) -> str:
    lines = ["Content-Type: application/http", "Content-Transfer-Encoding: binary"]
    if content_id is not None:
        lines.append(f"Content-ID: {content_id}")
    reason = HTTPStatus(answer.status).phrase
    lines += ["", f"HTTP/1.1 {answer.status} {reason}"]
    body = answer.body().decode("utf-8")
    if body:
        lines.append(f"Content-Type: {answer.content_type}")
    lines.append("OData-Version: 4.0")
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines.append(f"REQ_ID: {uuid.uuid4()}")
    return "\r\n".join([*lines, "", body, ""])


def _assembled(state: SimulatorState, call: Call, outcome: _Outcome) -> Answer:
    boundary = f"batchresponse_{uuid.uuid4()}"
    body = "".join(f"--{boundary}\r\n{chunk}" for chunk in outcome.chunks) + f"--{boundary}--\r\n"
    status = 200
    if outcome.failed is not None and not call.prefer.continue_on_error:
        status = outcome.failed if state.switches.batch_failure == "part" else 400
    headers = {"Preference-Applied": "odata.continue-on-error"} if call.prefer.continue_on_error else {}
    return Answer(
        status=status,
        raw=body.encode("utf-8"),
        content_type=f"multipart/mixed; boundary={boundary}",
        headers=headers,
    )
