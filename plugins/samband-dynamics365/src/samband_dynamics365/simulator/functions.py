"""The functions of the Web API that are no rows: who am I, which rights do I have, which version is this."""

from __future__ import annotations

from . import errors
from .access import privileges_of
from .exchange import Answer, Call
from .state import SimulatorState

PLATFORM_VERSION = "9.2.24083.00192"


def who_am_i(state: SimulatorState, call: Call) -> Answer:
    """Answers ``WhoAmI``: the ids of the caller, of its business unit and of the organisation."""
    payload = {
        "@odata.context": f"{call.root}/$metadata#Microsoft.Dynamics.CRM.WhoAmIResponse",
        "BusinessUnitId": state.seeded.business_unit_id,
        "UserId": call.caller.user_id,
        "OrganizationId": state.seeded.organization_id,
    }
    return Answer(status=200, payload=payload)


def retrieve_version(state: SimulatorState, call: Call) -> Answer:
    """Answers ``RetrieveVersion``."""
    payload = {
        "@odata.context": f"{call.root}/$metadata#Microsoft.Dynamics.CRM.RetrieveVersionResponse",
        "Version": PLATFORM_VERSION,
    }
    return Answer(status=200, payload=payload)


def user_privileges(state: SimulatorState, call: Call, user_id: str) -> Answer:
    """Answers ``RetrieveUserPrivileges``: only application users hold any in this environment."""
    if user_id not in state.organization.tables["systemuser"].rows:
        raise errors.row_absent("systemuser", user_id)
    user = next((user for user in state.users.values() if user.user_id == user_id), None)
    names = [spec.schema_name for spec in state.organization.schema.tables.values()]
    found = [] if user is None else list(privileges_of(user, names, state.seeded.business_unit_id))
    payload = {
        "@odata.context": f"{call.root}/$metadata#Microsoft.Dynamics.CRM.RetrieveUserPrivilegesResponse",
        "RolePrivileges": found,
    }
    return Answer(status=200, payload=payload)
