"""What a delivery says is read off the vendor's own body and the simulator's, and nothing is believed without the key."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from samband import RejectedError, SignatureError, Trigger, WebhookRequest
from samband_dynamics365.settings import DynamicsSettings
from samband_dynamics365.webhooks import triggers_of

KEY = "the-key-of-the-registration"
RECORDED = (Path(__file__).parent / "data" / "webhook-contact-update.json").read_bytes()
OPERATION = "4af10637-4ea2-e711-8122-000d3aa2331c"
STEP = "75417616-4ea2-e711-8122-000d3aa2331c"
CONTACT = "6d81597f-0f9f-e711-8122-000d3aa2331c"
SETTINGS = DynamicsSettings(
    environment_url="https://org.crm4.dynamics.com", tenant_id="contoso.onmicrosoft.com", staff=True,
    memberships={"set_name": "sb_memberships", "logical_name": "sb_membership", "contact_column": "sb_contact"},
)  # type: ignore[arg-type]  # fmt: skip


def heard(
    body: bytes = RECORDED, *, query: dict[str, str] | None = None, headers: dict[str, str] | None = None
) -> list[Trigger]:
    request = WebhookRequest(
        method="POST", headers=headers or {}, query={"code": KEY} if query is None else query, body=body,
        received_at=dt.datetime.now(dt.UTC), secrets=[SecretStr(KEY)],
    )  # fmt: skip
    return triggers_of(request, SETTINGS)


def changed(**values: Any) -> bytes:
    return json.dumps({**json.loads(RECORDED), **values}).encode()


def test_the_vendors_own_body_names_its_contact() -> None:
    (trigger,) = heard()
    assert ("contacts", [CONTACT]) == (trigger.stream, list(trigger.keys))
    assert f"{OPERATION}/{STEP}/contact/{CONTACT}/Update" == trigger.delivery_id


def test_the_same_delivery_has_the_same_id_and_every_other_one_another() -> None:
    other = "11111111-2222-3333-4444-555555555555"
    bodies = [
        RECORDED,
        changed(OperationId=other),
        changed(OwningExtension={"Id": other}),
        changed(PrimaryEntityId=other),
        changed(MessageName="Delete"),
        changed(PrimaryEntityName="systemuser"),
    ]
    ids = [heard(body)[0].delivery_id for body in bodies]
    assert len(bodies) == len(set(ids))
    assert heard(changed(CorrelationId=other, OperationCreatedOn="\\/Date(1)\\/"))[0].delivery_id == ids[0]


def test_tables_are_read_by_their_stream_and_others_are_none_of_ours() -> None:
    assert ["staff"] == [t.stream for t in heard(changed(PrimaryEntityName="SystemUser"))]
    assert ["memberships"] == [t.stream for t in heard(changed(PrimaryEntityName="sb_membership"))]
    for name in ("account", "none"):
        assert [] == heard(changed(PrimaryEntityName=name))


def test_large_delivery_names_its_row_all_the_same() -> None:
    told = json.loads(RECORDED)
    for name in ("ParentContext", "InputParameters", "PreEntityImages", "PostEntityImages"):
        told.pop(name)
    (trigger,) = heard(json.dumps(told).encode(), headers={"x-ms-dynamics-msg-size-exceeded": "true"})
    assert [CONTACT] == list(trigger.keys)


@pytest.mark.parametrize("missing", [None, "", "00000000-0000-0000-0000-000000000000", 7, "not-an-id", {}])
def test_without_a_row_or_an_operation_the_changes_are_read(missing: Any) -> None:
    (trigger,) = heard(changed(PrimaryEntityId=missing, OperationId=missing))
    assert ("contacts", [], None) == (trigger.stream, list(trigger.keys), trigger.delivery_id)


def test_table_is_taken_from_the_header_where_the_body_names_none() -> None:
    body = changed(PrimaryEntityName=None)
    assert ["contacts"] == [t.stream for t in heard(body, headers={"x-ms-dynamics-entity-name": "contact"})]
    with pytest.raises(RejectedError):
        heard(body)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b'{"a": NaN}', b"{}"])
def test_body_that_is_no_execution_context_is_rejected(body: bytes) -> None:
    with pytest.raises(RejectedError):
        heard(body)


@pytest.mark.parametrize("query", [{}, {"code": ""}, {"code": KEY + "x"}, {"Code": KEY}, {"key": KEY}])
def test_without_the_key_nothing_is_looked_at(query: dict[str, str]) -> None:
    for body in (RECORDED, b"{"):
        with pytest.raises(SignatureError):
            heard(body, query=query)
