"""``samband export again|resolve``: a person decides what nobody else can know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from samband.cli.asking import Yes, confirm, demand_terminal
from samband.cli.client import At, HostClient
from samband.cli.following import demand_success, follow
from samband.cli.options import DataDir, Json, Org, Url, Wait
from samband.cli.output import facts, show
from samband.client import Client
from samband.client.client import claim_path, organization_path
from samband.errors import ConflictError
from samband.rules.selecting import LIVE_STATES

__all__ = ["add_to"]

Why = Annotated[
    str, typer.Option("--reason", help="Why; it is kept for ever in the audit trail, so name no person in it.")
]
_UNCERTAIN: Final = ("sent", "unknown")
_OF_ONE_CLAIM: Final = 1_000
_SHOWN: Final = 10


def add_to(app: typer.Typer) -> None:
    """Adds the commands to ``samband export``."""
    app.command("again")(again)
    app.command("resolve")(resolve)


def again(
    org: Org,
    id: Annotated[str, typer.Argument(help="The claim's id, as the platform has it.")],
    reason: Why,
    type: Annotated[str | None, typer.Option("--type", help="The integration, where several take claims.")] = None,
    yes: Yes = False,
    wait: Wait = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Exports a claim once more under a new key and number. If the first one is booked after all, it is booked twice."""
    at = At(url, data_dir)
    if not yes:
        demand_terminal()
        confirm(
            at.ask(lambda host: _given_up(host, org, id)), "The claim is sent again and may be booked twice; continue?"
        )
    told = at.order(lambda client: client.export_again(org, id, reason=reason, type=type))
    if wait:
        told["run"] = follow(at, told["run"])
    show(told, lambda: _again_lines(told), as_json=json)
    if wait:
        demand_success(told["run"])


def resolve(
    org: Org,
    outcome: Annotated[str, typer.Option("--outcome", help="booked, or not_booked: then the claim is free again.")],
    reason: Why,
    key: Annotated[
        str | None, typer.Argument(help="The item's key, from 'samband export items'; or give --claim.")
    ] = None,
    claim: Annotated[
        str | None, typer.Option("--claim", help="In place of the key: the claim whose one uncertain item is meant.")
    ] = None,
    reference: Annotated[str | None, typer.Option("--reference", help="The number it is booked under.")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Settles an item of which nobody knows whether it arrived. Look into the other system's books first."""
    if (key is None) == (claim is None):
        raise typer.BadParameter("Give the item's key, or the claim with --claim; one of the two.", param_hint="KEY")

    async def settle(host: HostClient) -> dict[str, Any]:
        meant = key if claim is None else await _uncertain_key(host, org, claim)
        view = await Client.over(host).resolve_export(
            org, meant or "", outcome=outcome, reason=reason, reference=reference
        )
        return view.model_dump(mode="json")

    item = At(url, data_dir).ask(settle)
    show(item, lambda: _item_lines(item), as_json=json)


async def _items(host: HostClient, org: str, claim: str) -> list[Mapping[str, Any]]:
    """Gives a claim's items in the order of its exports."""
    found = await host.items(organization_path(org) + "/exports", limit=_OF_ONE_CLAIM, reimbursement=claim)
    return sorted(found, key=lambda item: (item["number"], item["key"]))


async def _given_up(host: HostClient, org: str, id: str) -> Sequence[str]:
    """Tells what an order to export a claim once more would give up."""
    claim = await host.get(claim_path(org, id))
    bookings = [item for item in await _items(host, org, id) if item["purpose"] == "booking"]
    live = next((item for item in bookings if item["state"] in LIVE_STATES), None)
    if live is None:
        raise ConflictError(
            "The reimbursement has no export that could be repeated.", code="not_exported",
            hint="Order one with 'samband export order'; see 'samband claims timeline'.",
        )  # fmt: skip
    sent = claim
    if live["version"] != claim["version"]:
        (sent,) = await host.items(claim_path(org, id) + "/versions", limit=1, after=live["version"] + 1)
    return list(
        facts(
            ("Claim", f"{org}/{id}"), ("Given up", live["key"]), ("State", live["state"]), ("Type", live["type"]),
            ("Voucher", live["voucher_number"] or "none"), ("Way", live["route"] or "none"),
            ("Reference", live["reference"]), ("They said", live["message"]),
            ("Amount", f"{sent['total']} {sent['currency']}"),
            ("Amount sent instead", f"{claim['total']} {claim['currency']}"),
        )
    )  # fmt: skip


async def _uncertain_key(host: HostClient, org: str, claim: str) -> str:
    """Gives the key of a claim's one item of which nobody knows what became."""
    await host.get(claim_path(org, claim))
    items = await _items(host, org, claim)
    uncertain = [str(item["key"]) for item in items if item["state"] in _UNCERTAIN]
    if len(uncertain) == 1:
        return uncertain[0]
    if uncertain:
        named = [item for item in items if item["key"] in uncertain]
        raise ConflictError(
            f"Claim {claim} has {len(uncertain)} uncertain items.", code="ambiguous_claim",
            hint=f"Give the key of one instead of --claim: {_named(named)}.",
        )  # fmt: skip
    hint = f"Its items: {_named(items)}. One that was accepted or refused can be settled as booked with --reference, by key."
    if not items:
        hint = "It was never sent; send it with 'samband export order'."
    raise ConflictError(f"Claim {claim} has no uncertain item.", code="not_uncertain", hint=hint)


def _named(items: Sequence[Mapping[str, Any]]) -> str:
    kept = items[-_SHOWN:]
    return ", ".join(f"{item['key']} ({item['purpose']}, {item['state']})" for item in kept)


def _again_lines(told: Mapping[str, Any]) -> Iterable[str]:
    run = told["run"]
    return facts(
        ("Claim", told["reimbursement"]), ("Item", told["item"]),
        ("Run", f"{run['organization']}/{run['id']}, {run['state']}"),
    )  # fmt: skip


def _item_lines(item: Mapping[str, Any]) -> Iterable[str]:
    return facts(
        ("Item", item["key"]), ("Claim", item["reimbursement"]), ("State", item["state"]),
        ("Reference", item["reference"]), ("Reason", item["reason"]),
    )  # fmt: skip
