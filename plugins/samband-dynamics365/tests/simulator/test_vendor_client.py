"""The vendor's own Python client works against the simulator, although nobody here wrote it.

PowerPlatform-Dataverse-Client insists on https, so it is built with a placeholder and pointed at the simulator before
its first call.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from samband_dynamics365.simulator import SeedPlan, Simulator, SimulatorAddress

dataverse = pytest.importorskip("PowerPlatform.Dataverse.client")
credentials = pytest.importorskip("azure.core.credentials")
vendor_errors = pytest.importorskip("PowerPlatform.Dataverse.core.errors")
upsert = pytest.importorskip("PowerPlatform.Dataverse.models.upsert")
vendor_filters = pytest.importorskip("PowerPlatform.Dataverse.models.filters")


class Thread:
    """A simulator on its own event loop, for a client that blocks."""

    def __init__(self) -> None:
        self.simulator = Simulator(SeedPlan(members=120, memberships=150, staff=5, seed=11))
        self.address: SimulatorAddress | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> SimulatorAddress:
        self._thread.start()
        self.address = self._run(self.simulator.start())
        return self.address

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def stop(self) -> None:
        self._run(self.simulator.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Credential:
    """Hands the client tokens from the simulator's token endpoint."""

    def __init__(self, address: SimulatorAddress) -> None:
        self.address = address
        self.scopes: set[str] = set()
        self._token: Any = None

    def get_token(self, *scopes: str, **options: Any) -> Any:
        self.scopes.update(scopes)
        if self._token is None:
            form = {"grant_type": "client_credentials", "scope": scopes[0], **self.address.credentials}
            found = posted(self.address.token_url, urllib.parse.urlencode(form).encode())
            self._token = credentials.AccessToken(found["access_token"], int(time.time()) + found["expires_in"])
        return self._token


def posted(url: str, body: bytes) -> Any:
    with urllib.request.urlopen(url, data=body, timeout=10) as answer:
        return json.loads(answer.read())


@dataclass
class Vendor:
    """The client, and a way behind its back."""

    client: Any
    address: SimulatorAddress
    simulator: Simulator
    credential: Credential

    def control(self, name: str, order: dict[str, Any]) -> Any:
        return posted(f"{self.address.control_url}/{name}", json.dumps(order).encode())


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    thread = Thread()
    address = thread.start()
    credential = Credential(address)
    try:
        with dataverse.DataverseClient("https://placeholder.crm4.dynamics.com", credential) as client:
            client._base_url = address.base_url
            yield Vendor(client, address, thread.simulator, credential)
        assert thread.simulator.state.internal_errors == []
    finally:
        thread.stop()


def test_it_asks_for_the_environment_as_scope(vendor: Vendor) -> None:
    vendor.client.records.list("contact", select=["fullname"], top=1)
    assert vendor.credential.scopes == {f"{vendor.address.base_url}/.default"}


def test_it_lists_every_page(vendor: Vendor) -> None:
    pages = list(vendor.client.records.list_pages("contact", select=["contactid", "fullname"], page_size=50))
    assert [len(list(page)) for page in pages] == [50, 50, 20]
    found = vendor.client.records.list("sb_membership", select=["sb_membernumber"], page_size=40)
    assert len({row["sb_membershipid"] for row in found}) == 150


def test_it_filters_orders_counts_and_expands(vendor: Vendor) -> None:
    rows = vendor.client.records.list(
        "contact",
        filter="contains(lastname,'Å') and statecode eq 0",
        select=["lastname", "_ownerid_value"],
        orderby=["lastname desc"],
        expand=["owninguser"],
        count=True,
        include_annotations="*",
    )
    names = [row["lastname"] for row in rows]
    assert names
    assert names == sorted(names, key=str.casefold, reverse=True)
    first = next(iter(rows))
    assert first["owninguser"]["systemuserid"] == first["_ownerid_value"]
    assert first["_ownerid_value@Microsoft.Dynamics.CRM.lookuplogicalname"] == "systemuser"


def test_its_filter_expressions_are_understood(vendor: Vendor) -> None:
    number = vendor.client.records.list("sb_membership", select=["sb_membernumber"], top=3)
    wanted = [row["sb_membernumber"] for row in number]
    expression = vendor_filters.col("sb_membernumber").in_(wanted)
    found = vendor.client.records.list("sb_membership", filter=expression, select=["sb_membernumber"])
    assert sorted(row["sb_membernumber"] for row in found) == sorted(wanted)
    between = vendor_filters.col("sb_status").between(2, 3)
    assert all(row["sb_status"] > 1 for row in vendor.client.records.list("sb_membership", filter=between))


def test_it_creates_retrieves_updates_and_deletes(vendor: Vendor) -> None:
    records = vendor.client.records
    contact = records.create("contact", {"firstname": "Åse", "lastname": "Prøve", "birthdate": "1980-05-17"})
    assert records.retrieve("contact", contact, select=["fullname"])["fullname"] == "Åse Prøve"
    records.update("contact", contact, {"jobtitle": "Leder"})
    assert records.retrieve("contact", contact)["jobtitle"] == "Leder"
    records.delete("contact", contact)
    assert records.retrieve("contact", contact) is None
    with pytest.raises(vendor_errors.HttpError) as gone:
        records.update("contact", contact, {"jobtitle": "Leder"})
    assert gone.value.status_code == 404


def test_it_binds_lookups_and_turns_labels_into_choices(vendor: Vendor) -> None:
    contact = next(iter(vendor.client.records.list("contact", select=["contactid"], top=1)))["contactid"]
    membership = vendor.client.records.create(
        "sb_membership",
        {"sb_membernumber": "V-1", "sb_status": "Paused", "sb_ContactId@odata.bind": f"/contacts({contact})"},
    )
    row = vendor.client.records.retrieve("sb_membership", membership)
    assert (row["sb_status"], row["_sb_contactid_value"]) == (2, contact)
    with pytest.raises(vendor_errors.HttpError) as refused:
        vendor.client.records.create("sb_membership", {"sb_contactid@odata.bind": f"/contacts({contact})"})
    assert refused.value.status_code == 400
    assert refused.value.details["service_error_code"] == "0x80048d19"


def test_it_writes_many_rows_at_once(vendor: Vendor) -> None:
    records = vendor.client.records
    ids = records.create("contact", [{"lastname": f"M{i}"} for i in range(20)])
    assert len(set(ids)) == 20
    records.update("contact", ids, {"jobtitle": "Alle"})
    records.update("contact", ids[:2], [{"firstname": "En"}, {"firstname": "To"}])
    assert records.retrieve("contact", ids[1])["fullname"] == "To M1"
    job = records.delete("contact", ids)
    assert records.retrieve("contact", ids[0]) is None
    assert vendor.simulator.state.jobs[job] == "succeeded"


def test_it_upserts_by_alternate_key(vendor: Vendor) -> None:
    item = upsert.UpsertItem
    for name in ("Før", "Etter"):
        vendor.client.records.upsert(
            "contact", [item(alternate_key={"sb_externalid": "V-1"}, record={"lastname": name})]
        )
        many = [item(alternate_key={"sb_externalid": f"V-{n}"}, record={"lastname": name}) for n in range(2, 6)]
        vendor.client.records.upsert("contact", many)
    rows = vendor.client.records.list("contact", filter="startswith(sb_externalid,'V-')", select=["lastname"])
    assert [row["lastname"] for row in rows] == ["Etter"] * 5


def test_it_batches_with_changesets(vendor: Vendor) -> None:
    contact = next(iter(vendor.client.records.list("contact", select=["contactid"], top=1)))["contactid"]
    batch = vendor.client.batch.new()
    batch.records.retrieve("contact", contact, select=["fullname"])
    batch.records.update("contact", contact, {"jobtitle": "Batch"})
    with batch.changeset() as changes:
        reference = changes.records.create("contact", {"lastname": "Ny"})
        changes.records.create("sb_membership", {"sb_membernumber": "B-1", "sb_ContactId@odata.bind": reference})
        changes.records.update("contact", reference, {"firstname": "Siv"})
    result = batch.execute()
    assert [response.status_code for response in result.responses] == [200, 204, 204, 204, 204]
    assert result.responses[0].data["contactid"] == contact
    made = result.responses[2]
    assert (made.content_id, vendor.client.records.retrieve("contact", made.entity_id)["fullname"]) == ("1", "Siv Ny")


def test_its_batches_go_on_after_errors_when_told(vendor: Vendor) -> None:
    for go_on, expected in ((False, [404]), (True, [404, 200])):
        batch = vendor.client.batch.new()
        batch.records.retrieve("contact", "00000000-0000-4000-8000-000000000000", select=["fullname"])
        batch.records.list("contact", select=["fullname"], top=1)
        result = batch.execute(continue_on_error=go_on)
        assert [response.status_code for response in result.responses] == expected
        assert result.failed[0].error_code == "0x80040217"


@pytest.mark.parametrize(
    ("fault", "status", "wait"),
    [
        ({"fault": "throttle", "limit": "execution", "retry_after": "17"}, 429, 17),
        ({"fault": "status", "status": 503, "retry_after": "2"}, 503, 2),
        ({"fault": "status", "status": 502}, 502, None),
    ],
)
def test_it_tells_transient_refusals_apart(
    vendor: Vendor, fault: dict[str, Any], status: int, wait: int | None
) -> None:
    vendor.client.records.list("contact", select=["fullname"], top=1)
    vendor.control("faults", fault)
    with pytest.raises(vendor_errors.HttpError) as refused:
        vendor.client.records.list("contact", select=["fullname"], top=1)
    error = refused.value
    assert (error.status_code, error.is_transient, error.details.get("retry_after")) == (status, True, wait)
    assert error.details["service_request_id"]


def test_it_reads_table_definitions(vendor: Vendor) -> None:
    table = vendor.client.tables.get("sb_Membership")
    assert table["entity_set_name"] == "sb_memberships"
    keys = {key.logical_name if hasattr(key, "logical_name") else key.schema_name: key for key in (
        vendor.client.tables.get_alternate_keys("sb_Membership")
    )}  # fmt: skip
    assert keys["sb_membership_pair_key"].key_attributes == ["sb_contactid", "sb_chapterid"]
    columns = vendor.client.tables.list_columns("sb_Membership")
    assert {"sb_startdate", "sb_contactid"} <= {column["LogicalName"] for column in columns}
    assert vendor.client.tables.get("sb_nothing") is None
