"""The way of one delivery: whose it is, whether it is theirs, and its place in the inbox."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime as dt
import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
import structlog

from samband.adapters.hearing import Heard, Hearing
from samband.adapters.registry import Registry
from samband.contract import WebhookRequest
from samband.errors import (
    AccessError,
    InvalidError,
    NotFoundError,
    NotReadyError,
    RejectedError,
    SambandError,
    SignatureError,
)
from samband.gathering import Gathering
from samband.receiving.addresses import Addresses, Known, nothing_here
from samband.receiving.handing_over import HandingOver
from samband.receiving.parcels import Parcel, Received, ReceivingLimits, Rehearsal
from samband.store import Store
from samband.store.arrivals import UNNUMBERED, Arrival, Tally
from samband.store.models import Integration
from samband.store.webhooks import Address, key_hash
from samband.webhooks import REASONS, sampling

__all__ = ["Receiving"]

log = structlog.stdlib.get_logger("samband.receiving")

_STANDARD_ID: Final = "webhook-id"
_REFUSALS: Final = frozenset(f"signature_{reason}" for reason in (*REASONS, "retired_secret"))
_TRIES: Final = 3
"""How often a delivery is heard again because its address was changed between the look and the commit."""


class Receiving:
    """Takes deliveries in.

    Args:
        store: Where they are kept.
        registry: The plugins that prove them.
        handing_over: Told which integrations have news.
        limits: How much may come in.
        now: The clock, aware UTC.
    """

    def __init__(
        self, *, store: Store, registry: Registry, handing_over: HandingOver, limits: ReceivingLimits | None = None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:  # fmt: skip
        self.limits = limits or ReceivingLimits()
        self._store = store
        self._registry = registry
        self._handing_over = handing_over
        self._now = now
        self._addresses = Addresses(store=store, registry=registry)
        self._hearing: dict[str, Gathering[Hearing, Heard]] = {}
        self._storing: Gathering[Arrival | None, bool | None] = Gathering(self._take_in)
        self._tallies: Counter[Tally] = Counter()
        self._heard_at: dict[str, dt.datetime] = {}
        self._on_their_way: Counter[str] = Counter()
        self._bytes_on_their_way = 0
        self._bytes_of: Counter[str] = Counter()
        self._loose: set[asyncio.Task[None]] = set()

    # ── one delivery ─────────────────────────────────────────────────────────

    async def knock(self, type: str, key: str) -> None:
        """Passes when there is such an address. Asked before anything is read or held: strangers get no room at all.

        Raises:
            NotFoundError: There is none.
            NotReadyError: Its plugin cannot be asked now.
        """
        known = self._addresses.known(key) or await self._addresses.find(key)
        if known.address.plugin != type:
            raise nothing_here()

    @contextlib.contextmanager
    def room_for(self, key: str, size: int) -> Iterator[None]:
        """Holds a place for a delivery of so many bytes, before they are read.

        Raises:
            NotReadyError: There is no place now: ``deliveries_waiting`` (503), or ``too_many_deliveries`` (429) when it
                is this address that has too many.
        """
        limits, name = self.limits, key_hash(key)
        is_full = self._on_their_way.total() >= limits.max_waiting
        if is_full or self._bytes_on_their_way + size > limits.max_waiting_bytes:
            raise NotReadyError("Too many deliveries wait.", code="deliveries_waiting", hint="Send it again.")
        has_too_many = self._on_their_way[name] >= max(1, limits.max_waiting // 2)
        has_too_much = self._bytes_of[name] + size > limits.max_waiting_bytes // 2 and self._bytes_of[name] > 0
        if has_too_many or has_too_much:
            raise NotReadyError(
                "Too many deliveries of this address wait.", code="too_many_deliveries", hint="Send it again, slower."
            )
        self._on_their_way[name] += 1
        self._bytes_on_their_way += size
        self._bytes_of[name] += size
        try:
            yield
        finally:
            self._bytes_on_their_way -= size
            self._bytes_of[name] -= size
            self._on_their_way[name] -= 1
            if not self._on_their_way[name]:
                del self._on_their_way[name], self._bytes_of[name]

    async def take(self, type: str, key: str, parcel: Parcel) -> Received:
        """Verifies a delivery and takes it in; when it returns, nothing can make it undone.

        What is remembered of the address serves to begin with. Whether it still holds is asked before anybody is refused
        or turned away because of it, and is asked again by the transaction that stores.

        Raises:
            NotFoundError: There is no such address.
            AccessError: Its proof does not hold.
            InvalidError: Its proof holds, and its content makes no sense to the plugin.
            NotReadyError: It could not be heard or stored now. The sender should send it again.
        """
        received_at = self._now()
        known, is_sure = self._addresses.known(key), False
        for _ in range(_TRIES):
            if known is None:
                known, is_sure = await self._addresses.find(key), True
            if known.address.plugin != type:
                raise nothing_here()
            heard = await self._hear(known, parcel, received_at)
            if isinstance(heard, Heard) and known.found.state == "enabled" and not _is_handshake(heard):
                received = await self._store_it(known, parcel, heard, received_at)
                if received is not None:
                    return received
            elif is_sure or await self._addresses.find(key) is known:
                return self._conclude(known, heard, received_at)
            known = None
        raise NotReadyError("This address is being changed just now.", hint="Send it again.")

    async def rehearse(self, integration: Integration) -> Rehearsal:
        """Sends ourselves a signed sample through the verification that deliveries go through; stores nothing."""
        address = await self._store.webhooks.of(integration.id)
        if address is None:
            raise NotFoundError("The integration has no webhook.", code="webhook_not_found")
        known = self._addresses.opened(address, integration)
        adapter = self._registry.adapter(address.plugin)
        blank = Parcel(headers={"content-type": "application/json"}, body=b'{"samband":"test"}')
        with sampling() as sample:
            await adapter.handle_webhook([_hearing_of(known, blank, self._now())])
        if not sample.is_signed:
            return Rehearsal(is_signed=False)
        signed = replace(blank, headers={**blank.headers, **sample.headers}, query=sample.query)
        (said,) = await adapter.handle_webhook([_hearing_of(known, signed, self._now())])
        # What the plugin makes of a made-up body is no matter: it got past the proof.
        is_refused = isinstance(said, SambandError) and not isinstance(said, RejectedError)
        return Rehearsal(is_signed=True, refusal=said if is_refused and isinstance(said, SambandError) else None)

    async def settle(self) -> None:
        """Writes the counts that are still on their way. For the end of a host."""
        if self._tallies:
            await self._flush()
        while self._loose:
            await asyncio.wait(self._loose)

    # ── whether it is theirs ─────────────────────────────────────────────────

    async def _hear(self, known: Known, parcel: Parcel, received_at: dt.datetime) -> Heard | SambandError:
        plugin = known.address.plugin
        if plugin not in self._hearing:
            # Two rounds, so that a delivery the plugin thinks about for too long does not hold up the others.
            self._hearing[plugin] = Gathering(lambda asked: self._hear_all(plugin, asked), at_most=100, side_by_side=2)
        try:
            return await self._hearing[plugin].ask(_hearing_of(known, parcel, received_at))
        except SambandError as error:
            return error

    async def _hear_all(self, plugin: str, hearings: Sequence[Hearing]) -> Sequence[Heard | Exception]:
        return await self._registry.adapter(plugin).handle_webhook(hearings)

    def _conclude(self, known: Known, heard: Heard | SambandError, received_at: dt.datetime) -> Received:
        """Ends the way of a delivery that is not stored: counts it, and says why."""
        address = known.address
        about = {"plugin": address.plugin, "integration": address.integration_id}
        if isinstance(heard, Heard):
            self._heard_at[address.integration_id] = received_at
            self._note_secret(address, heard)
            # Nothing may run for it; what changed meanwhile is read when it is enabled, from where its cursor stands.
            outcome: Final = "handshake" if _is_handshake(heard) else "ignored"
            self._count(address, outcome)
            return Received(outcome=outcome, answer=heard.answer)
        if isinstance(heard, SignatureError):
            reason = heard.code.removeprefix("signature_") if heard.code in _REFUSALS else "refused"
            self._count(address, reason)
            log.warning("webhook_refused", reason=reason, **about)
            raise AccessError(
                "The proof of this delivery does not hold.",
                code="signature_refused",
                hint="Whoever runs samband sees the reason under the integration's webhook.",
            )
        if isinstance(heard, RejectedError):
            self._count(address, "malformed_content")
            log.warning("webhook_not_understood", **about)
            raise InvalidError(
                "The delivery's proof holds, but its content is not what is sent here.", code="delivery_refused"
            )
        # The plugin's fault, or ours: the sender sends it again.
        self._count(address, "unavailable")
        log.error("webhook_unavailable", code=heard.code, **about)
        raise NotReadyError("This delivery cannot be taken in now.", hint="Send it again later.", retry_after_s=30)

    def _note_secret(self, address: Address, heard: Heard) -> None:
        if heard.used_older:
            self._count(address, "old_secret")
            log.warning("webhook_old_secret_used", plugin=address.plugin, integration=address.integration_id)

    # ── storing it ───────────────────────────────────────────────────────────

    async def _store_it(self, known: Known, parcel: Parcel, heard: Heard, received_at: dt.datetime) -> Received | None:
        """Gives what became of a delivery that was stored; None, and nothing stored, when the address has changed."""
        is_news = await self._storing.ask(self._arrival(known, parcel, heard, received_at))
        if is_news is None:
            return None
        self._note_secret(known.address, heard)
        return Received(outcome="accepted" if is_news else "repeated", answer=heard.answer)

    def _arrival(self, known: Known, parcel: Parcel, heard: Heard, received_at: dt.datetime) -> Arrival:
        address = known.address
        digest = hashlib.sha256(parcel.body).hexdigest()
        named = self._delivery_id(address, parcel, heard)
        told = named or f"body\0{parcel.method}\0{orjson.dumps(sorted(parcel.query.items())).decode()}\0{digest}"
        content = _packed(address, parcel)
        return Arrival(
            organization_id=address.organization_id, integration_id=address.integration_id,
            revisions=known.found.revisions,
            delivery_key=hmac.digest(address.dedupe_key, told.encode("utf-8", "surrogatepass"), "sha256").hex(),
            content=self._store.arrivals.seal(address.organization_id, address.integration_id, content),
            size=len(parcel.body), digest=digest,
            triggers=[{"stream": t.stream, "keys": list(t.keys)} for t in heard.triggers],
            reason=("old_secret" if heard.used_older else "") if named else UNNUMBERED, received_at=received_at,
        )  # fmt: skip

    def _delivery_id(self, address: Address, parcel: Parcel, heard: Heard) -> str | None:
        """Gives what the sender calls this delivery, as far as the proof covers it; None when they do not say."""
        ids = sorted({t.delivery_id for t in heard.triggers if t.delivery_id is not None})
        if ids:
            return "id\0" + "\0".join(ids)
        if self._registry.adapter(address.plugin).manifest.webhook == "standard-webhooks":
            return f"id\0{parcel.headers.get(_STANDARD_ID, '').strip()}"
        return None

    async def _take_in(self, asked: Sequence[Arrival | None]) -> list[bool | Exception | None]:
        """Stores a round of deliveries in one transaction, with the counts that have come together meanwhile."""
        arrivals = [arrival for arrival in asked if arrival is not None]
        tallies, self._tallies = self._tallies, Counter()
        heard_at, self._heard_at = self._heard_at, {}
        heard_at |= {arrival.integration_id: arrival.received_at for arrival in arrivals}
        try:
            stored = await self._store.arrivals.take_in(arrivals, tallies, heard_at)
        except NotReadyError as error:
            self._tallies.update(tallies)
            return [error if arrival is not None else False for arrival in asked]
        except Exception:
            # What cannot be stored must not take the others down with it, nor may a count.
            log.exception("webhook_round_failed", deliveries=len(arrivals), counts=len(tallies))
            if len(arrivals) > 1 or (arrivals and tallies):
                return [await self._take_in_alone(arrival) for arrival in asked]
            return [_not_stored() if arrival is not None else False for arrival in asked]
        for integration_id in {a.integration_id for a, is_news in zip(arrivals, stored, strict=True) if is_news}:
            self._handing_over.hint(integration_id)
        told = iter(stored)
        return [next(told) if arrival is not None else False for arrival in asked]

    async def _take_in_alone(self, arrival: Arrival | None) -> bool | Exception | None:
        if arrival is None:
            return False
        (result,) = await self._take_in([arrival])
        return result

    def _count(self, address: Address, outcome: str) -> None:
        """Counts a delivery that is not stored. The count is written with the next round; nobody waits for it."""
        self._tallies[Tally.of(address.organization_id, address.integration_id, outcome, self._now())] += 1
        if self._storing.depth == 0:
            self._aside(self._flush())

    async def _flush(self) -> None:
        with contextlib.suppress(SambandError):  # the counts wait for the next round
            await self._storing.ask(None)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Lets something go on that nobody waits for; it acts for nobody in particular."""
        task = asyncio.create_task(work, name="samband-receiving", context=contextvars.Context())
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)


def _is_handshake(heard: Heard) -> bool:
    return heard.answer is not None and not heard.triggers


def _hearing_of(known: Known, parcel: Parcel, received_at: dt.datetime) -> Hearing:
    address = known.address
    counting = address.counting(received_at)
    return Hearing(
        organization_id=address.organization_id, integration_id=address.integration_id, settings=known.settings,
        request=WebhookRequest(
            method=parcel.method, headers=parcel.headers, query=parcel.query, body=parcel.body, received_at=received_at
        ),
        secrets=counting[:1], older=counting[1:], retired=address.retired(received_at),
    )  # fmt: skip


def _packed(address: Address, parcel: Parcel) -> bytes:
    """Gives a delivery as it is kept: one line of JSON, then the raw body. Secrets in headers and query are left out."""
    values = [secret.value.get_secret_value() for secret in address.secrets]

    def without_secret(pairs: Mapping[str, str]) -> dict[str, str]:
        return {
            name: "***" if any(value in text for value in values) else text.encode("utf-8", "replace").decode()
            for name, text in pairs.items()
        }

    told = {"method": parcel.method, "headers": without_secret(parcel.headers), "query": without_secret(parcel.query)}
    return orjson.dumps(told) + b"\n" + parcel.body


def _not_stored() -> NotReadyError:
    return NotReadyError("This delivery could not be stored.", hint="Send it again later.", retry_after_s=30)
