"""Has a plugin say what it thinks of deliveries: whose they are, and what they say should be fetched.

Many deliveries cross into the plugin's lane together and are heard there side by side, each under its own time limit
and with its own outcome: one that the plugin chokes on spoils nothing for the others.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from samband.adapters.answers import broken_promise
from samband.adapters.containment import Containment
from samband.adapters.pluginlog import PluginLog
from samband.adapters.wire import HookCaller
from samband.contract import Context, HttpResponse, Manifest, Trigger, WebhookAnswer, WebhookRequest
from samband.errors import AdapterError, RemoteError, SambandError, SignatureError
from samband.redaction import Redactor

__all__ = ["HEARING_TIMEOUT_S", "HOOK", "Ear", "Heard", "Hearing", "hear_all"]

HEARING_TIMEOUT_S: Final = 2.0
"""How long a plugin may think about one delivery: its sender is waiting."""

HOOK: Final = "handle_webhook"
_MAX_TRIGGERS: Final = 1_000
_MAX_KEYS: Final = 1_000
_MAX_KEY: Final = 400
_MAX_ANSWER_BYTES: Final = 64 * 1024
_CONTENT_TYPE: Final = re.compile(r"[a-z]+/[a-z0-9.+-]+(; ?charset=[a-z0-9-]+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """One delivery on its way into the plugin.

    Attributes:
        organization_id: Whose.
        integration_id: Which integration it was sent to.
        settings: The plugin's own model.
        request: As it came in; its secrets are set for each look.
        secrets: The newest secret, alone; empty when the sender proves nothing.
        older: Secrets that still count for a while.
        retired: Secrets that count no more, and are only recognised.
    """

    organization_id: str
    integration_id: str
    settings: BaseModel
    request: WebhookRequest
    secrets: Sequence[SecretStr] = field(default=(), repr=False)
    older: Sequence[SecretStr] = field(default=(), repr=False)
    retired: Sequence[SecretStr] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What the plugin said of a delivery whose proof held.

    Attributes:
        triggers: Checked, with storable keys.
        answer: For the sender, instead of the plain 202.
        used_older: The proof held only with a secret that is being replaced.
    """

    triggers: tuple[Trigger, ...] = ()
    answer: WebhookAnswer | None = None
    used_older: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ear:
    """What `hear_all` needs of an adapter."""

    manifest: Manifest
    call_hook: HookCaller
    contained: Containment
    redactor: Redactor
    now: Callable[[], datetime]
    account: Callable[[str, str, float], None]


async def hear_all(ear: Ear, hearings: Sequence[Hearing]) -> list[Heard | SambandError]:
    """Gives for each delivery what the plugin said, or the error it was refused with. To be called in the lane."""
    if len(hearings) == 1:
        return [await _hear_safely(ear, hearings[0])]
    return list(await asyncio.gather(*(_hear_safely(ear, hearing) for hearing in hearings)))


async def _hear_safely(ear: Ear, hearing: Hearing) -> Heard | SambandError:
    started, outcome = time.perf_counter(), "ok"
    try:
        with ear.contained.around(HOOK):
            async with asyncio.timeout(HEARING_TIMEOUT_S):
                return await _hear(ear, hearing)
    except SambandError as error:
        outcome = error.code
        return error
    finally:
        ear.account(HOOK, outcome, time.perf_counter() - started)


async def _hear(ear: Ear, hearing: Hearing) -> Heard:
    context = _context(ear, hearing)
    for secret in (*hearing.secrets, *hearing.older):
        ear.redactor.add(secret)  # before the plugin, which is given them, can write a line
    try:
        return await _asked(ear, context, hearing.request, hearing.secrets)
    except SignatureError as refusal:
        if hearing.older and _could_be_older(refusal):
            heard = await _with_older(ear, context, hearing)
            if heard is not None:
                return heard
        if hearing.retired and _could_be_older(refusal) and await _is_retired(ear, context, hearing):
            raise SignatureError(
                "The delivery is signed with a secret that was replaced.", code="signature_retired_secret"
            ) from None
        raise


async def _with_older(ear: Ear, context: Context, hearing: Hearing) -> Heard | None:
    try:
        return replace(await _asked(ear, context, hearing.request, hearing.older), used_older=True)
    except SignatureError:
        return None


async def _is_retired(ear: Ear, context: Context, hearing: Hearing) -> bool:
    try:
        await _asked(ear, context, hearing.request, hearing.retired)
    except SignatureError:
        return False
    except AdapterError:
        return True  # it got past the proof
    return True


def _could_be_older(refusal: SignatureError) -> bool:
    # What carries no proof, or one from another time, is no better with another secret. A plugin's own codes are.
    beyond = {f"signature_{reason}" for reason in ("missing", "malformed", "too_old", "too_new")}
    return refusal.code not in beyond


async def _asked(ear: Ear, context: Context, request: WebhookRequest, secrets: Sequence[SecretStr]) -> Heard:
    name = ear.manifest.name
    given = ear.call_hook(HOOK, ctx=context, request=replace(request, secrets=tuple(secrets)))
    if not hasattr(given, "__await__"):
        raise broken_promise(name, HOOK, f"gave {type(given).__name__}", "write it as async def.")
    said = await given
    if isinstance(said, WebhookAnswer):
        return Heard(triggers=_checked_triggers(ear.manifest, said.triggers), answer=_checked_answer(name, said))
    return Heard(triggers=_checked_triggers(ear.manifest, said))


def _context(ear: Ear, hearing: Hearing) -> Context:
    bound = {
        "plugin": ear.manifest.name, "organization": hearing.organization_id, "integration": hearing.integration_id,
    }  # fmt: skip
    return Context(
        organization_id=hearing.organization_id, integration_id=hearing.integration_id, run_id=None,
        settings=hearing.settings, http=_NoWayOut(), now=ear.now, log=PluginLog(ear.redactor, bound),
    )  # fmt: skip


class _NoWayOut:
    """The session of a hook whose sender is waiting for an answer: it refuses everything."""

    async def request(self, method: str, url: str, **options: Any) -> HttpResponse:
        raise self._refusal()

    async def renew_token(self) -> None:
        raise self._refusal()

    async def fill_names(self) -> frozenset[str]:
        raise self._refusal()

    @staticmethod
    def _refusal() -> RemoteError:
        return RemoteError(
            "handle_webhook must not call anybody.",
            code="webhook_calls_nobody",
            hint="Return a Trigger; what it names is read by sync or fetch, after the sender has its answer.",
        )


# ── what came back ───────────────────────────────────────────────────────────


def _checked_triggers(manifest: Manifest, said: object) -> tuple[Trigger, ...]:
    name = manifest.name
    if not isinstance(said, list | tuple) or not all(isinstance(trigger, Trigger) for trigger in said):
        what = f"gave {type(said).__name__}" if not isinstance(said, list | tuple) else "gave what is no Trigger"
        raise broken_promise(name, HOOK, what, "return a list of samband.Trigger, or a WebhookAnswer.")
    if len(said) > _MAX_TRIGGERS:
        raise broken_promise(name, HOOK, f"gave {len(said)} triggers", f"name at most {_MAX_TRIGGERS} in one delivery.")
    readable = {stream.name for stream in manifest.streams if stream.direction != "push"}
    return tuple(_checked_trigger(name, trigger, readable) for trigger in said)


def _checked_trigger(name: str, trigger: Trigger, readable: Iterable[str]) -> Trigger:
    if trigger.stream not in readable:
        raise broken_promise(name, HOOK, "named a stream that is not read", "use the names of Manifest.streams.")
    if not isinstance(trigger.delivery_id, str | None) or trigger.delivery_id == "":
        raise broken_promise(name, HOOK, "gave a delivery id that is no text", "give None where they send none.")
    keys = trigger.keys
    if isinstance(keys, str) or not isinstance(keys, Sequence) or not all(isinstance(key, str) for key in keys):
        raise broken_promise(name, HOOK, "gave keys that are no list of texts", "give [] for 'read the changes'.")
    # Keys come out of somebody's body. What cannot be one is no reason to lose the news: the changes are read instead.
    if len(keys) > _MAX_KEYS or not all(_is_key(key) for key in keys):
        return replace(trigger, keys=())
    return replace(trigger, keys=tuple(keys))


def _is_key(key: str) -> bool:
    return 0 < len(key) <= _MAX_KEY and key.isprintable()


def _checked_answer(name: str, answer: WebhookAnswer) -> WebhookAnswer:
    if not isinstance(answer.body, bytes) or len(answer.body) > _MAX_ANSWER_BYTES:
        raise broken_promise(name, HOOK, "gave an answer that is too large or no bytes", "keep it within 64 KiB.")
    if type(answer.status) is not int or not 200 <= answer.status <= 299:
        raise broken_promise(name, HOOK, "answered with a status that is no success", "raise SignatureError to refuse.")
    if not isinstance(answer.content_type, str) or _CONTENT_TYPE.fullmatch(answer.content_type) is None:
        raise broken_promise(name, HOOK, "gave no content type", "write one such as text/plain.")
    return answer
