"""What the API token may do, asked with the light reads that posting itself needs and nothing beyond."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from samband import Check, Context
from samband_xledger.graphql import Xledger
from samband_xledger.postings import to_text
from samband_xledger.settings import XledgerSettings

# Connection → the right it takes, in the words of Xledger's form for tokens.
_POSTING: Final = {
    "glImportItems": "Read General Ledger: GLImportItem",
    "journalEntries": "Read General Ledger: JournalEntry",
    "accounts": "Read General Ledger: Account",
}
_CHECKING: Final = {
    "periodStatusItems": "Read General Ledger: PeriodStatusItem",
    "taxTableSetups": "Read General Ledger: TaxTableSetup",
    "transactions": "Read General Ledger: Transaction",
}
_WRITING: Final = "Write General Ledger: GLImportItem"
_EMPTY: Final = "mutation { addGLImportItems(inputs: []) { edges { clientId } } }"


async def examine(ctx: Context) -> Check:
    """Gives what the token reaches: the entity's name, the rights that are missing, and the month's requests.

    Rights that only help (the entity's name, periods, tax rules, the stream of bookings) are told as facts. Nothing is
    changed: the right to write is tried with an empty list.
    """
    settings: XledgerSettings = ctx.settings
    wire = Xledger(ctx)
    needed = _needed(settings)
    refused = await _refused(wire, {**needed, **_CHECKING})
    missing = [right for connection, right in needed.items() if connection in refused]
    if not await _may_write(wire):
        missing.append(_WRITING)
    name, reaches = await _entity(wire, settings)
    if reaches is False:
        missing.append(f"Entity {settings.entity_code}: the token was made in another one")
    facts = {
        "Environment": settings.environment,
        "Entity": f"{settings.entity_code} {name}".strip(),
        "Requests this month, counted by this process": _budget(wire, settings),
    }
    if lacking := [right for connection, right in _CHECKING.items() if connection in refused]:
        facts["Not readable, and not needed for posting"] = ", ".join(lacking)
    where = f"{name or f'entity {settings.entity_code}'} ({settings.environment})"
    said = "vouchers can be posted over GraphQL" if not missing else "something is missing"
    return Check(summary=f"Connected to {where}: {said}.", facts=facts, missing=missing)


def without_token(settings: XledgerSettings) -> Check:
    """Gives what there is to say when no API token is set: what went out can then be looked up by people only."""
    is_needed = settings.ways != ("file",)
    return Check(
        summary="There is no API token, so Xledger is not asked what it has booked.",
        facts={"Environment": settings.environment, "Entity": settings.entity_code},
        missing=("API token: without it nothing that was sent can be looked up",) if is_needed else (),
    )


async def probe(ctx: Context) -> None:
    """Passes when GraphQL answers now, and the staged lines may be read. Changes nothing.

    Raises:
        AuthError: The token, or a right to post.
        RetryableError: They are away, or limit us.
    """
    await Xledger(ctx).read("query { glImportItems(first: 1) { edges { node { dbId } } pageInfo { hasNextPage } } }")


def _needed(settings: XledgerSettings) -> dict[str, str]:
    found = dict(_POSTING)
    if "project" in settings.dimension_fields.values():
        found["projects"] = "Read Project: Project"
    if settings.dimension_kinds:
        found |= {"objectKinds": "Read Common: ObjectKind", "objectValues": "Read Common: ObjectValue"}
    return found


async def _refused(wire: Xledger, connections: Mapping[str, str]) -> set[str]:
    """Gives the connections that may not be read, asked all at once; one by one where the answer does not say which."""
    answer, refusals = await wire.partial(_light(connections))
    told = {str(refusal.path[0]) for refusal in refusals if refusal.path and refusal.is_of_right}
    if answer and told <= connections.keys() and all(refusal.path for refusal in refusals):
        return told | {name for name in connections if answer.get(name) is None}
    if not refusals and answer:
        return {name for name in connections if answer.get(name) is None}
    return {name for name in connections if not await _may_read(wire, name)}


async def _may_read(wire: Xledger, connection: str) -> bool:
    answer, refusals = await wire.partial(_light([connection]))
    return not refusals and answer.get(connection) is not None


def _light(connections: Mapping[str, str] | list[str]) -> str:
    asked = (f"{name}(first: 1) {{ edges {{ node {{ dbId }} }} pageInfo {{ hasNextPage }} }}" for name in connections)
    return "query { " + " ".join(asked) + " }"


async def _may_write(wire: Xledger) -> bool:
    _, refusals = await wire.partial(_EMPTY)
    # Whatever else they think of an empty list, they would have said first that writing is not allowed.
    return not any(refusal.is_of_right for refusal in refusals)


async def _entity(wire: Xledger, settings: XledgerSettings) -> tuple[str, bool | None]:
    """Gives the entity's name, empty when it may not be read, and whether the token reaches it, None when unknown."""
    document = """
query ($code: String!) {
  entities(first: 1, filter: {code: $code}) { edges { node { code description } } pageInfo { hasNextPage } }
}"""
    answer, refusals = await wire.partial(document, {"code": settings.entity_code})
    entities = answer.get("entities")
    edges = entities.get("edges") if isinstance(entities, Mapping) else None
    if refusals or not isinstance(edges, list):
        return "", None
    nodes = [edge.get("node") for edge in edges if isinstance(edge, Mapping)]
    first = next((node for node in nodes if isinstance(node, Mapping)), None)
    return ((to_text(first.get("description")) or "") if first else ""), first is not None


def _budget(wire: Xledger, settings: XledgerSettings) -> str:
    used = wire.requests_this_month
    return f"{used} of {settings.monthly_requests}" if settings.monthly_requests else str(used)
