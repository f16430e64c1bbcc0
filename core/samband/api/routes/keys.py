"""API keys: making them, seeing them without their secrets, and ending them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from samband.access import MAX_ORGANIZATIONS, Verb
from samband.api.answers import Answer, Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import Input, Instant, Limit, OrgId, Title
from samband.views.access import ApiKeyView, NewApiKeyView

endpoints = Endpoints("Keys")

_BASE = "/v1/keys"
_ONE = _BASE + "/{id}"

KeyId = Annotated[str, Field(pattern="^[0-9a-f]{12}$", description="The key's id, which is a part of the key.")]
State = Literal["active", "expired", "revoked"]


class KeyIn(Input):
    """A new key. It can reach no farther, allow no more and live no longer than the one that makes it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "Platform", "verbs": ["read", "operate"], "organizations": ["nbf-oslo"]}]
        }
    )

    name: Annotated[Title, Field(description="The program or the role that holds it; it is in the audit trail.")]
    verbs: Annotated[list[Verb], Field(min_length=1, max_length=4, description="None of them implies another.")]
    organizations: Annotated[
        list[OrgId] | None,
        Field(min_length=1, max_length=MAX_ORGANIZATIONS, description="Null for all, those to come included."),
    ] = None
    expires_at: Annotated[
        Instant | None, Field(description="Two years from now at most; one year from now when left out.")
    ] = None


@endpoints.add("GET", _BASE, verb="admin")
async def list_keys(
    call: Call, state: State | None = None, after: KeyId | None = None, limit: Limit = 50
) -> Listing[ApiKeyView]:
    """Lists the keys within this key's reach, oldest first, those that ended included.

    A key that is bound to organisations sees the keys that reach and allow no more than itself.
    """
    return Listing[ApiKeyView].of(await call.service.keys.page(call.caller, state=state, after=after, limit=limit))


@endpoints.add("POST", _BASE, verb="admin", status=201, headers={"Location": "The key, without its secret."})
async def create_key(call: Call, body: KeyIn) -> Answer[NewApiKeyView]:
    """Makes a key. The answer is the only place where it is ever shown."""
    made = await call.service.keys.create(
        call.caller, body.name, verbs=body.verbs, organizations=body.organizations, expires_at=body.expires_at
    )
    return Answer(value=made, headers={"Location": f"{_BASE}/{made.id}"})


@endpoints.add("GET", _ONE, verb="admin", problems=("key_not_found",))
async def get_key(call: Call, id: KeyId) -> ApiKeyView:
    """Gives one key, without its secret."""
    return await call.service.keys.get(call.caller, id)


@endpoints.add("DELETE", _ONE, verb="admin", problems=("key_not_found",))
async def revoke_key(call: Call, id: KeyId) -> ApiKeyView:
    """Ends a key at once, in every process. Safe to repeat. A key may end itself."""
    return await call.service.keys.revoke(call.caller, id)
