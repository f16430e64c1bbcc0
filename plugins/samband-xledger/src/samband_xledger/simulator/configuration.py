"""What `POST /__sim/config` changes: switches, limits, periods, accounts, dimensions, tokens, users, import codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from .access import ApiToken, WebServiceUser
from .seed import CLOSED, OPEN
from .state import SimulatorState
from .tables import Row
from .world import World


def configure(state: SimulatorState, order: dict[str, Any]) -> dict[str, Any]:
    """Carries out every part of an order; raises ValueError with a sentence for one that makes no sense."""
    name = str(order.get("environment", "demo"))
    if name not in state.worlds:
        raise ValueError("environment is demo or live")
    parts = {key: value for key, value in order.items() if key != "environment"}
    known = {"switches", "limits", *_PARTS}
    unknown = sorted(set(parts) - known)
    if unknown:
        raise ValueError(f"unknown setting {unknown[0][:60]}; known are {', '.join(sorted(known))}")
    for key, value in parts.items():
        if key == "switches":
            _set_fields(state.switches, value)
        elif key == "limits":
            _set_fields(state.limits, value)
            state.meters.clear()
        else:
            _PARTS[key](state.worlds[name], value)
    return {"changed": sorted(parts)}


def _set_fields(target: Any, values: dict[str, Any]) -> None:
    kinds = {item.name: type(getattr(target, item.name)) for item in fields(target)}
    for name, value in values.items():
        kind = kinds.get(name)
        if kind is None:
            raise ValueError(f"unknown setting {name[:60]}; known are {', '.join(sorted(kinds))}")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind:
            raise ValueError(f"{name} must be of type {kind.__name__}")
        setattr(target, name, value)


def _periods(world: World, value: dict[str, str]) -> None:
    """``{"2026-03": "closed"}`` for the entity above all; ``"23601/2026-03"`` for one entity alone."""
    for name, wanted in value.items():
        if wanted not in {"open", "closed"}:
            raise ValueError("a period is open or closed")
        code, _, month = name.rpartition("/")
        period = world.period_of(f"{month}-01")
        if period is None:
            raise ValueError(f"there is no period {month[:20]}")
        owner = period["ownerDbId"] if not code else _entity(world, code)["dbId"]
        status = dict(OPEN if wanted == "open" else CLOSED)
        items = world["periodStatusItems"]
        row = next((each for each in items if each["period"] is period and each["ownerDbId"] == owner), None)
        if row is None:
            entity = world["entities"].rows[owner]
            world.put(
                "periodStatusItems", ownerDbId=owner, owner=entity, period=period, periodDbId=period["dbId"],
                status=status,
            )  # fmt: skip
        else:
            items.change(row, status=status, modifiedAt=world.clock.local())


def _entity(world: World, code: str) -> Row:
    found = world.entity(code)
    if found is None:
        raise ValueError(f"there is no entity {code[:20]}")
    return found


def _states(table: str) -> Callable[[World, dict[str, str]], None]:
    def change(world: World, value: dict[str, str]) -> None:
        for code, wanted in value.items():
            found = world[table].having("code", [code])
            if not found:
                raise ValueError(f"there is no {code[:20]} in {table}")
            if wanted == "removed":
                world[table].remove(found[0]["dbId"])
            elif wanted in {"open", "closed"}:
                world[table].change(found[0], posting=wanted == "open", modifiedAt=world.clock.local())
            else:
                raise ValueError("give open, closed or removed")

    return change


def _added(table: str) -> Callable[[World, dict[str, str]], None]:
    def add(world: World, value: dict[str, str]) -> None:
        owner = world["entities"].having("code", ["23600"])[0]["dbId"]
        for code, text in value.items():
            world.put(table, code=code, description=text, ownerDbId=owner, posting=True)

    return add


def _employees(world: World, value: dict[str, str]) -> None:
    owner = _entity(world, "23601")["dbId"]
    for code, text in value.items():
        subledger = world.put("subledgers", code=code, description=text, ownerDbId=owner)
        world.put("employees", code=code, description=text, ownerDbId=owner, subledger=subledger)


def _tokens(world: World, value: list[dict[str, Any]]) -> None:
    for item in value:
        text = str(item["token"])
        if item.get("remove"):
            world.tokens.pop(text, None)
            continue
        entity = _entity(world, str(item.get("entity", "23601")))["dbId"]
        token = world.tokens.setdefault(text, ApiToken(text=text, entity=entity, name=str(item.get("name", "samband"))))
        token.entity = entity
        token.read = set(item.get("read", token.read)) - set(item.get("without_read", ()))
        token.write = set(item.get("write", token.write)) - set(item.get("without_write", ()))


def _users(world: World, value: list[dict[str, Any]]) -> None:
    for item in value:
        name = str(item["name"])
        if item.get("remove"):
            world.users.pop(name, None)
            continue
        user = world.users.setdefault(name, WebServiceUser(name=name, password=str(item.get("password", ""))))
        user.password = str(item.get("password", user.password))
        user.roles = set(item.get("roles", user.roles))
        user.entities = set(item.get("entities", user.entities))


def _import_codes(world: World, value: dict[str, str]) -> None:
    world.import_codes = {str(code): str(kind) for code, kind in value.items()}


def _keys(world: World, value: str) -> None:
    if value != "expire":
        raise ValueError('logon_keys is "expire"')
    world.keys.clear()


_PARTS: dict[str, Callable[[World, Any], None]] = {
    "periods": _periods,
    "accounts": _states("accounts"),
    "object_values": _states("objectValues"),
    "projects": _states("projects"),
    "subledgers": _states("subledgers"),
    "new_accounts": _added("accounts"),
    "new_subledgers": _added("subledgers"),
    "new_employees": _employees,
    "tokens": _tokens,
    "users": _users,
    "import_codes": _import_codes,
    "logon_keys": _keys,
}
