"""What `POST /__sim/config` changes: tokens, limits, change tracking, users and rights, switches, the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from .access import DEPTHS, ApplicationUser
from .assertions import Certificate
from .state import SimulatorState
from .tables import Table
from .tokens import Application


def configure(state: SimulatorState, order: dict[str, Any]) -> dict[str, Any]:
    """Carries out every part of an order; raises ValueError with a sentence for one that makes no sense."""
    unknown = sorted(set(order) - set(_PARTS))
    if unknown:
        raise ValueError(f"unknown setting {unknown[0][:60]}; known are {', '.join(sorted(_PARTS))}")
    for name, value in order.items():
        try:
            _PARTS[name](state, value)
        except (AttributeError, TypeError):
            raise ValueError(f"the value of {name} has the wrong shape") from None
    return {"changed": sorted(order), "version": state.organization.version}


def _set_fields(target: Any, values: Any) -> None:
    if not isinstance(values, dict):
        raise ValueError("the value must be an object")
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


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("the value must be a number")
    return float(value)


def _token_lifetime(state: SimulatorState, value: Any) -> None:
    state.office.lifetime_s = _number(value)


def _limits(state: SimulatorState, value: Any) -> None:
    _set_fields(state.limits.rules, value)
    state.limits.usage.clear()


def _tracking(state: SimulatorState, value: Any) -> None:
    _set_fields(state.tracking, value)


def _switches(state: SimulatorState, value: Any) -> None:
    _set_fields(state.switches, value)


def _delta_expiry(state: SimulatorState, value: Any) -> None:
    if value == "now":
        state.expire_tokens()
    else:
        state.tracking.expiry_s = _number(value)


def _table(state: SimulatorState, name: str) -> Table:
    found = state.organization.table_of_set(name) or state.organization.tables.get(name)
    if found is None:
        raise ValueError(f"there is no table {name[:60]}")
    return found


def _schema_changed(state: SimulatorState, value: Any) -> None:
    for name in value:
        _table(state, str(name)).readable_since = state.organization.next_version()


def _tables(state: SimulatorState, value: Any) -> None:
    for name, settings in value.items():
        table = _table(state, name)
        table.tracked = bool(settings.get("tracked", table.tracked))
        table.optimistic = bool(settings.get("optimistic_concurrency", table.optimistic))
        if "pending_keys" in settings:
            table.pending_keys = {str(key) for key in settings["pending_keys"]}


def _relationships(state: SimulatorState, value: Any) -> None:
    for name, rule in value.items():
        if rule not in {"remove_link", "restrict", "cascade"}:
            raise ValueError("a relationship is remove_link, restrict or cascade")
        state.organization.on_delete[str(name)] = rule


def _applications(state: SimulatorState, value: Any) -> None:
    for item in value:
        client_id = str(item["client_id"])
        known = state.office.applications.get(client_id.lower()) or Application(client_id=client_id)
        if "secrets" in item:
            known.secrets = {str(secret): expires for secret, expires in item["secrets"].items()}
        if "certificates" in item:
            known.certificates = [Certificate.from_pem(str(pem)) for pem in item["certificates"]]
        known.consented = bool(item.get("consented", known.consented))
        state.office.register(known)


def _secret(state: SimulatorState, value: Any) -> None:
    """Rotates or expires the secrets of the first application, the one the start line names."""
    application = next(iter(state.office.applications.values()))
    if value == "expire":
        application.secrets = {secret: state.clock.time() - 1 for secret in application.secrets}
    elif isinstance(value, dict) and "rotate" in value:
        application.secrets = {str(value["rotate"]): None}
    else:
        raise ValueError('secret is "expire" or {"rotate": "new value"}')


def _users(state: SimulatorState, value: Any) -> None:
    for item in value:
        client_id = str(item["client_id"]).lower()
        if item.get("remove"):
            state.users.pop(client_id, None)
            continue
        user = state.users.get(client_id) or ApplicationUser(
            client_id=client_id, user_id=str(item.get("user_id", state.seeded.application_user))
        )
        user.roles = [str(role) for role in item.get("roles", user.roles)]
        user.disabled = bool(item.get("disabled", user.disabled))
        if "privileges" in item:
            user.privileges = _privileges(item["privileges"])
        state.users[client_id] = user


def _privileges(value: Any) -> dict[str, str]:
    found = {str(name).removeprefix("prv"): str(depth) for name, depth in value.items()}
    wrong = [depth for depth in found.values() if depth not in DEPTHS]
    if wrong:
        raise ValueError(f"a depth is one of {', '.join(DEPTHS)}")
    return found


def _resources(state: SimulatorState, value: Any) -> None:
    state.office.resources = {str(resource).rstrip("/") for resource in value}


def _tenants(state: SimulatorState, value: Any) -> None:
    state.office.tenants = {state.office.tenant_id, *(str(tenant).lower() for tenant in value)}


def _advance(state: SimulatorState, value: Any) -> None:
    state.clock.offset_s += _number(value)


def _revoke_tokens(state: SimulatorState, value: Any) -> None:
    if value:
        state.office.tokens.clear()


_PARTS: dict[str, Callable[[SimulatorState, Any], None]] = {
    "token_lifetime_s": _token_lifetime,
    "revoke_tokens": _revoke_tokens,
    "limits": _limits,
    "tracking": _tracking,
    "switches": _switches,
    "delta_expiry": _delta_expiry,
    "schema_changed": _schema_changed,
    "tables": _tables,
    "relationships": _relationships,
    "applications": _applications,
    "secret": _secret,
    "users": _users,
    "resources": _resources,
    "tenants": _tenants,
    "advance_s": _advance,
}
