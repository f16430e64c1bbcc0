"""Mutations: lines into the staging table, changed or taken out again; webhooks made and removed."""

from __future__ import annotations

import secrets
from typing import Any

from .calls import Call
from .errors import Refusal, forbidden, invalid
from .lookups import TABLES, Lookups
from .staging import enqueue, settle_amounts, stage, withdraw
from .subscriptions import checked

# "Nodes in one mass mutation: 500" (the vendor's help pages).
NODE_CAP = 500


def resolvers() -> dict[str, Any]:
    """Returns the mutation fields with what answers them."""
    return {
        "addGLImportItems": _add_items,
        "updateGLImportItems": _update_items,
        "removeGLImportItems": _remove_items,
        "addWebhooks": _add_webhooks,
        "removeWebhooks": _remove_webhooks,
    }


def _enter(call: Call, thing: str, size: int) -> None:
    if thing not in call.token.write:
        raise forbidden("write", thing)
    if size > NODE_CAP:
        raise invalid(f"At most {NODE_CAP} nodes are allowed in one mutation; {size} were given.")
    call.nodes += size


def _add_items(root: Any, info: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    call: Call = info.context
    _enter(call, "GLImportItem", len(inputs))
    lookups: dict[int, Lookups] = {}
    ready = []
    # The whole mutation is refused when one node is wrong: nothing has been staged yet.
    for given in inputs:
        owner = _owner(call, given["node"].get("owner"))
        if owner not in lookups:
            lookups[owner] = Lookups(call.world, owner)
        ready.append((owner, _line(call, lookups[owner], given["node"]), given.get("clientId")))
    delivery = f"g{secrets.token_hex(8)}"
    edges = []
    for owner, line, client_id in ready:
        row = stage(call.world, owner, [line], door="graphql", delivery=delivery)[0]
        edges.append({"clientId": client_id, "node": row})
    return {"edges": edges}


def _owner(call: Call, given: dict[str, Any] | None) -> int:
    if given is None:
        return call.token.entity
    entities = call.world["entities"]
    by = next((name for name in ("dbId", "code", "ownerCode", "description") if given.get(name) is not None), None)
    if by is not None:
        field = "code" if by == "ownerCode" else by
        for row in entities:
            if row.get(field) == given[by] and row["dbId"] in call.reach:
                return int(row["dbId"])
    raise invalid(f"owner.{by or 'code'}: No value matching owner {call.token.entity}, {by} '{given.get(by or '')}'.")


def _line(call: Call, lookups: Lookups, node: dict[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for name, value in node.items():
        if value is None or name in {"owner", "dbId"}:
            continue
        if not isinstance(value, dict):
            line[name] = value
            continue
        try:
            line[name] = lookups.resolve(name, value)
        except Refusal as refusal:
            if call.switches.lookups == "at_once" or name not in TABLES or "showAlternatives" in value:
                raise
            line.setdefault("_unknown", []).append(refusal.message)
    return line


def _update_items(root: Any, info: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    call: Call = info.context
    _enter(call, "GLImportItem", len(inputs))
    items = call.world["glImportItems"]
    ready = []
    for given in inputs:
        row = items.rows.get(given["node"]["dbId"])
        if row is None or row["ownerDbId"] not in call.reach or "_header" in row:
            raise invalid(f"dbId: No value matching owner {call.token.entity}, dbId '{given['node']['dbId']}'.")
        ready.append((row, _line(call, Lookups(call.world, row["ownerDbId"]), given["node"]), given.get("clientId")))
    edges = []
    for row, line, client_id in ready:
        withdraw(call.world, row)
        if "amount" in line or "invoiceAmount" in line:
            row["amount"] = row["invoiceAmount"] = None
        row.pop("_unknown", None)
        row.update(line, modifiedAt=call.world.clock.local(), _failed=False)
        settle_amounts(row)
        items.add(row)
        enqueue(call.world, row)
        edges.append({"clientId": client_id, "node": row})
    return {"edges": edges}


def _remove_items(root: Any, info: Any, dbIds: list[int]) -> dict[str, Any]:
    call: Call = info.context
    _enter(call, "GLImportItem", len(dbIds))
    skipped = []
    for key in dbIds:
        row = call.world["glImportItems"].rows.get(key)
        if row is None or row["ownerDbId"] not in call.reach or "_header" in row:
            skipped.append(key)
        else:
            withdraw(call.world, row)
    return {"numAffected": len(dbIds) - len(skipped), "skippedDbIds": skipped}


def _add_webhooks(root: Any, info: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    call: Call = info.context
    _enter(call, "Webhook", len(inputs))
    ready = [(checked(given["node"]), given) for given in inputs]
    edges = []
    for query, given in ready:
        node = given["node"]
        row = call.world.put(
            "webhooks", ownerDbId=_owner(call, node.get("owner")), description=node.get("description"),
            url=node["url"], serializedPayload=node["serializedPayload"], state={"dbId": 3, "code": "RUNNING"},
            _query=query, _token=call.token.text, _failures=0,
        )  # fmt: skip
        edges.append({"clientId": given.get("clientId"), "node": row})
    return {"edges": edges}


def _remove_webhooks(root: Any, info: Any, dbIds: list[int]) -> dict[str, Any]:
    call: Call = info.context
    _enter(call, "Webhook", len(dbIds))
    hooks = call.world["webhooks"]
    known = [key for key in dbIds if key in hooks.rows and hooks.rows[key]["ownerDbId"] in call.reach]
    for key in known:
        hooks.remove(key)
    return {"numAffected": len(known), "skippedDbIds": [key for key in dbIds if key not in known]}
