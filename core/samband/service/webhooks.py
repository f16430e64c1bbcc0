"""Webhooks in: the address of an integration, its secrets, what came to it, and replays."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from samband.adapters.adapter import Adapter
from samband.contract import WebhookProof
from samband.errors import ConflictError, FieldProblem, InvalidError, NotFoundError
from samband.receiving import HandingOver, Parcel, Received, Receiving, ReceivingLimits
from samband.rules.incoming import NOTES, VERIFIED, DeliveryFigures
from samband.service.parts import Parts
from samband.store.webhooks import Address
from samband.views import FeedPage
from samband.views.webhooks import (
    DeliveryReplayView,
    ReceivedDeliveryView,
    TriggerView,
    WebhookTestView,
    WebhookView,
)
from samband.webhooks import make_secret, secret_problem

MAX_OVERLAP_S = 7 * 24 * 3600
"""The longest that a replaced secret may go on counting."""


class Webhooks:
    """What deliveries come to, and what became of them.

    Attributes:
        limits: How much may come in.
    """

    def __init__(self, parts: Parts, limits: ReceivingLimits | None = None) -> None:
        self._parts = parts
        self._handing_over = HandingOver(store=parts.store, registry=parts.registry, bell=parts.bell)
        self._receiving = Receiving(
            store=parts.store, registry=parts.registry, handing_over=self._handing_over, limits=limits
        )
        self.limits = self._receiving.limits

    # ── deliveries on their way in ───────────────────────────────────────────

    def room_for(self, key: str, size: int) -> AbstractContextManager[None]:
        """Holds a place for a delivery before it is read; see `Receiving.room_for`."""
        return self._receiving.room_for(key, size)

    async def knock(self, type: str, key: str) -> None:
        """Passes when there is such an address; see `Receiving.knock`."""
        await self._receiving.knock(type, key)

    async def receive(self, type: str, key: str, parcel: Parcel) -> Received:
        """Verifies a delivery and takes it in; see `Receiving.take`."""
        return await self._receiving.take(type, key, parcel)

    async def close(self) -> None:
        """Lets what nobody waits for come to its end; before the store and the bell are closed."""
        await self._receiving.settle()
        await self._handing_over.settle()

    # ── the address ──────────────────────────────────────────────────────────

    async def get(self, org: str, type: str, *, with_address: bool = True) -> WebhookView:
        """Gives the integration's webhook; `NotFoundError` when it has none."""
        integration = await self._parts.integration(org, type)
        address = await self._parts.store.webhooks.of(integration.id)
        if address is None:
            raise _no_webhook()
        return await self._view(address, with_address=with_address)

    async def put(
        self, org: str, type: str, *, secret: str | None = None, new_address: bool = False,
        if_revision: int | None = None,
    ) -> WebhookView:  # fmt: skip
        """Makes the integration's address, or changes it. Everything works at once, and what it replaces no longer does.

        Args:
            secret: The sender's. At the first time one is made, and given in this answer alone, when none is given.
            new_address: Makes the old address unknown.
            if_revision: Only if nobody changed it since this revision.
        """
        integration = await self._parts.integration(org, type)
        proof = self._proof(type)
        _check_secret(proof, secret)
        first = None if proof == "none" else make_secret(proof)
        address = await self._parts.store.webhooks.put(
            integration, secret=secret, first_secret=first, new_address=new_address, if_revision=if_revision
        )
        is_first = bool(address.secrets) and address.secrets[0].value.get_secret_value() == first
        return await self._view(address, made=first if is_first else None)

    async def replace_secret(
        self, org: str, type: str, *, secret: str | None = None, overlap_s: int = 0, if_revision: int | None = None
    ) -> WebhookView:
        """Puts a new secret in place of the present one.

        Args:
            secret: The sender's; None makes one, which is given in this answer alone.
            overlap_s: How long the present one goes on counting beside it. Each use of it is noted.
            if_revision: Only if nobody changed the webhook since this revision.
        """
        integration = await self._parts.integration(org, type)
        proof = self._proof(type)
        if proof == "none":
            raise _no_secret_here("Deliveries of this type carry no proof, so there is no secret.")
        _check_secret(proof, secret)
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            message = f"Use 0 to {MAX_OVERLAP_S} seconds."
            problem = FieldProblem(field="overlap_s", code="out_of_range", message=message)
            raise InvalidError("The secret cannot be replaced.", problems=[problem])
        made = None if secret is not None else make_secret(proof)
        address = await self._parts.store.webhooks.replace_secret(
            integration, secret or made or "", overlap_s=overlap_s, if_revision=if_revision
        )
        if address is None:
            raise _no_webhook()
        return await self._view(address, made=made)

    async def remove(self, org: str, type: str, *, if_revision: int | None = None) -> WebhookView:
        """Takes the address away and gives the webhook as it last was. Deliveries that were taken in stay."""
        integration = await self._parts.integration(org, type)
        last = await self.get(org, type, with_address=False)
        if not await self._parts.store.webhooks.remove(integration, if_revision=if_revision):
            raise _no_webhook()
        return last

    async def test(self, org: str, type: str) -> WebhookTestView:
        """Has a sample, signed with the newest secret, go through the verification that deliveries go through."""
        integration = await self._parts.integration(org, type)
        proof = self._proof(type)
        rehearsal = await self._receiving.rehearse(integration)
        if not rehearsal.is_signed:
            raise ConflictError(
                "A sample cannot be signed here: this plugin proves its deliveries in a way of its own."
                if proof != "none"
                else "A sample cannot be signed here: deliveries of this type carry no proof.",
                code="webhook_untestable",
                hint="Have the other system send a test delivery, and look at the counts.",
            )
        refusal = rehearsal.refusal
        if refusal is None:
            return WebhookTestView(ok=True, proof=proof, message="A signed sample was believed.")
        reason = refusal.code.removeprefix("signature_")
        return WebhookTestView(ok=False, proof=proof, reason=reason, message=refusal.message)

    # ── what came ────────────────────────────────────────────────────────────

    async def deliveries(
        self, org: str, type: str, *, state: str | None = None, after: int | None = None, limit: int = 50
    ) -> FeedPage:
        """Gives deliveries, newest first: what they ask for and what became of them, never what they held.

        Args:
            state: ``received``, ``processed``, or ``failed`` for those whose run did not succeed.
            after: Goes on with those before this id.
        """
        integration = await self._parts.integration(org, type)
        rows = await self._parts.store.inbox.page(integration.id, state=state, before=after, limit=limit + 1)
        items = [
            ReceivedDeliveryView(
                id=row.id, state=row.state, note=row.reason, run=row.run_id, run_state=row.run_state,
                triggers=[TriggerView(stream=t["stream"], keys=t["keys"]) for t in row.triggers],
                size=row.size, digest=row.digest, has_content=row.has_content, replay_of=row.replay_of,
                replayed_by=row.replayed_by, received_at=row.received_at, processed_at=row.processed_at,
            )
            for row in rows[:limit]
        ]  # fmt: skip
        return FeedPage(items=items, next=str(items[-1].id) if len(rows) > limit else None)

    async def replay(
        self, org: str, type: str, *, ids: Sequence[int] = (), since: dt.datetime | None = None,
        until: dt.datetime | None = None, state: str | None = None,
    ) -> DeliveryReplayView:  # fmt: skip
        """Lets chosen deliveries count once more, by their ids or by a window and state. They are marked as replays."""
        integration = await self._parts.integration(org, type)
        if not ids and since is None and until is None and state is None:
            message = "Say which deliveries: by ids, or by since, until and state."
            raise InvalidError(
                "Nothing was chosen.", problems=[FieldProblem(field="ids", code="missing", message=message)]
            )
        made = await self._parts.store.inbox.replay(
            integration, ids=ids, since=since, until=until, state=state, make_key=lambda: secrets.token_hex(32)
        )
        if made:
            self._handing_over.hint(integration.id, is_urgent=True)
        return DeliveryReplayView(count=len(made), first=made[0] if made else None, last=made[-1] if made else None)

    # ── pieces ───────────────────────────────────────────────────────────────

    def _proof(self, type: str) -> WebhookProof:
        adapter: Adapter = self._parts.registry.adapter(type)
        proof = adapter.manifest.webhook
        if proof is None or "webhook" not in adapter.manifest.capabilities:
            raise ConflictError(
                f"{adapter.manifest.title} takes no webhooks.",
                code="webhook_unsupported",
                hint="Its changes are read by schedule.",
            )
        return proof

    async def _view(self, address: Address, *, made: str | None = None, with_address: bool = True) -> WebhookView:
        now = dt.datetime.now(dt.UTC)
        found = await self._parts.store.inbox.figures(now, integration_id=address.integration_id)
        figures = found[0] if found else _no_figures(address)  # taken away a moment ago
        path = f"/webhooks/{address.plugin}/{address.key}"
        counts, refused, old = _last_day(figures, now)
        return WebhookView(
            type=address.plugin, address=f"{self._parts.public_url}{path}" if with_address else None,
            hint="" if self._parts.public_url or not with_address else _SET_PUBLIC_URL,
            proof=self._parts.registry.adapter(address.plugin).manifest.webhook or "none", secret=made,
            secret_hint=address.hint, older_secret_until=_older_until(address, now), revision=address.revision,
            created_at=address.created_at, updated_at=address.updated_at,
            last_received_at=await self._parts.store.inbox.newest_at(address.integration_id),
            last_healthy_at=figures.healthy_at, waiting=figures.waiting, counts=counts, refused=refused,
            old_secret_used=old,
        )  # fmt: skip


_SET_PUBLIC_URL = (
    "Put the address of this host in front. Set SAMBAND_PUBLIC_URL, for instance to https://samband.example.org, to have "
    "it shown whole."
)


def _last_day(figures: DeliveryFigures, now: dt.datetime) -> tuple[Mapping[str, int], Mapping[str, int], int]:
    counts, refused, old = dict.fromkeys(VERIFIED, 0), dict[str, int](), 0
    for count in figures.counts:
        if count.hour <= now - dt.timedelta(hours=24):
            continue
        if count.outcome in VERIFIED:
            counts[count.outcome] += count.deliveries
        elif count.outcome in NOTES:
            old += count.deliveries
        else:
            refused[count.outcome] = refused.get(count.outcome, 0) + count.deliveries
    return counts, refused, old


def _older_until(address: Address, now: dt.datetime) -> dt.datetime | None:
    return max((s.until for s in address.secrets if s.until is not None and s.until > now), default=None)


def _no_figures(address: Address) -> DeliveryFigures:
    return DeliveryFigures(
        organization_id=address.organization_id, integration_id=address.integration_id, plugin=address.plugin,
        is_enabled=False, healthy_at=None, waiting=0,
    )  # fmt: skip


def _check_secret(proof: WebhookProof, secret: str | None) -> None:
    if secret is None:
        return
    if proof == "none":
        raise _no_secret_here("Deliveries of this type carry no proof; leave the secret out.")
    if (message := secret_problem(proof, secret)) is not None:
        problem = FieldProblem(field="secret", code="bad_secret", message=message)
        raise InvalidError("The secret cannot be used.", problems=[problem])


def _no_secret_here(message: str) -> InvalidError:
    problem = FieldProblem(field="secret", code="not_used", message=message)
    return InvalidError("There is no secret to set.", problems=[problem])


def _no_webhook() -> NotFoundError:
    return NotFoundError(
        "The integration has no webhook.", code="webhook_not_found", hint="Make one with PUT at this address."
    )
