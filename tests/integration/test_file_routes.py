"""Files over the API: fetched and audited, settled by reports, and put where they belong."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer

from samband.api import create_app
from samband.service import Service
from samband.spreadsheet import read_human
from samband.store import Lease, Store
from samband.store.downloads import DOWNLOADED

from .filing import COLUMNS, ORG, PLUGIN, Desk, item
from .playing import SilentBell

BASE = f"/v1/organizations/{ORG}"
DROP = f"{BASE}/integrations/{PLUGIN}/drop"
REPORTS = f"{BASE}/exports/acknowledgements?type={PLUGIN}&name=report.txt"
SFTP = {
    "kind": "sftp", "host": "sftp.example.org", "user": "samband", "folder": "/inn",
    "host_keys": ["SHA256:" + "A" * 43],
}  # fmt: skip
SECRET = "correct-horse-battery-8dK2"


@dataclass
class Office:
    """A desk, and somebody who asks over the API."""

    desk: Desk
    client: TestClient[Any, Any]
    key: str

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return await self.client.request(method, path, headers=headers, **options)

    async def told(self, method: str, path: str, **options: Any) -> Any:
        answer = await self.ask(method, path, **options)
        assert answer.status == 200, await answer.text()
        return await answer.json()

    async def deeds(self) -> list[str]:
        page = await self.told("GET", f"{BASE}/audit?limit=500")
        return [entry["action"] for entry in page["items"]]


@pytest.fixture
async def office(store: Store, tmp_path: Path) -> AsyncIterator[Office]:
    root = tmp_path / "drop"
    root.mkdir()
    desk = Desk(store, root)
    await desk.open({"kind": "folder"})
    service = Service(store=store, registry=desk.registry, bell=SilentBell(), drop_root=root)
    key = await service.create_key("all", verbs=["read", "operate", "configure"], organizations=[ORG])
    async with TestClient(TestServer(create_app(service))) as client:
        yield Office(desk, client, key)
    await desk.close()


async def test_kept_file_is_fetched_byte_for_byte_and_that_is_audited(office: Office) -> None:
    await office.desk.send(await office.desk.lease(), item(1), item(2), route="download")
    (listed,) = (await office.told("GET", f"{BASE}/exports/files"))["items"]
    assert ("ready", 2, 4, [f"{n:032x}" for n in (1, 2)]) == tuple(
        listed[n] for n in ("state", "items", "rows", "keys")
    )
    answer = await office.ask("GET", f"{BASE}/exports/files/{listed['id']}")
    content = await answer.read()
    digest = hashlib.sha256(content)
    assert (200, "text/csv", f'"{listed["sha256"]}"') == (answer.status, answer.content_type, answer.headers["ETag"])
    assert (listed["sha256"], listed["size"]) == (digest.hexdigest(), len(content))
    assert f"sha-256=:{base64.b64encode(digest.digest()).decode()}:" == answer.headers["Repr-Digest"]
    assert f'filename="{listed["name"]}"' in answer.headers["Content-Disposition"]
    assert content.startswith(b"00000001;7140;1234.50;Reise\n")
    assert 1 == (await office.deeds()).count("export_file.downloaded")


async def test_sheet_for_people_is_made_of_the_same_vouchers(office: Office) -> None:
    await office.desk.add_items(1, 2)
    await office.desk.send(await office.desk.lease(), item(1), item(2), route="download")
    (listed,) = (await office.told("GET", f"{BASE}/exports/files"))["items"]
    answer = await office.ask("GET", f"{BASE}/exports/files/{listed['id']}?profile=human")
    rows = read_human(await answer.read(), COLUMNS)
    assert ["00000001", "00000001", "00000002", "00000002"] == [row["number"] for row in rows]
    assert 0 == sum(row["amount"] for row in rows)


async def test_file_is_had_as_json_with_its_manifest_and_every_line(office: Office) -> None:
    await office.desk.add_items(1, 2)
    await office.desk.send(await office.desk.lease(), item(1), item(2), route="download")
    rendered = office.desk.books.rendered
    (listed,) = (await office.told("GET", f"{BASE}/exports/files"))["items"]
    path = f"{BASE}/exports/files/{listed['id']}?profile=json"
    answer = await office.ask("GET", path)
    content = await answer.read()
    assert ("application/json", hashlib.sha256(content).hexdigest()) == (
        answer.content_type, answer.headers["ETag"].strip('"'),
    )  # fmt: skip
    told = json.loads(content)
    manifest = {name: told["manifest"][name] for name in ("file", "sha256", "size", "rows", "items", "debits", "run")}
    assert {
        "file": listed["name"], "sha256": listed["sha256"], "size": listed["size"], "rows": 4, "items": 2,
        "debits": {"NOK": "2469.00"}, "run": listed["run"],
    } == manifest  # fmt: skip
    assert [{"key": f"{n:032x}", "voucher": n, "mapping_version": 1} for n in (1, 2)] == told["manifest"]["keys"]
    first, second = told["vouchers"]
    assert (f"{1:032x}", 1, "2026-03-02", "c-1", None) == tuple(
        first[name] for name in ("key", "number", "date", "claim", "reverses")
    )
    lines = [(line["key"], line["account"], line["amount"], line["mapping_version"]) for line in second["lines"]]
    assert [(f"{2:032x}-1", "7140", "1234.50", 1), (f"{2:032x}-2", "0154", "-1234.50", 1)] == lines
    assert content == await (await office.ask("GET", path)).read()
    assert rendered == office.desk.books.rendered
    page = await office.told("GET", f"{BASE}/audit?limit=500")
    details = [entry["detail"] for entry in page["items"] if entry["action"] == "export_file.downloaded"]
    assert ["json", "json"] == [detail["profile"] for detail in details]


async def test_batch_tells_who_has_fetched_which_file_when(office: Office) -> None:
    lease = await office.desk.lease()
    await office.desk.add_items(1, 2, run_id=lease.run_id, route="download")
    for number in (1, 2):
        await office.desk.send(lease, item(number), route="download")
    second, first = (await office.told("GET", f"{BASE}/exports/files"))["items"]
    batch = await office.told("GET", f"{BASE}/exports/batches/{lease.run_id}")
    assert [(first["id"], 0, []), (second["id"], 0, [])] == [
        (file["id"], file["downloads"], file["fetched"]) for file in batch["files"]
    ]
    for profile in ["machine"] * 20 + ["json", "human"]:
        await office.ask("GET", f"{BASE}/exports/files/{first['id']}?profile={profile}")
    (entry,) = (await office.told("GET", f"{BASE}/audit?limit=500"))["items"][-1:]
    (batch,) = (await office.told("GET", f"{BASE}/exports/batches"))["items"]
    fetched, never = batch["files"]
    assert (first["name"], "text/csv", "ready", 22, 20) == (
        fetched["name"], fetched["media_type"], fetched["state"], fetched["downloads"], len(fetched["fetched"]),
    )  # fmt: skip
    assert {"at": entry["at"], "by": entry["actor"], "profile": "human"} == fetched["fetched"][0]
    assert ["human", "json", "machine"] == [each["profile"] for each in fetched["fetched"][:3]]
    assert (second["id"], 0) == (never["id"], never["downloads"])
    assert [first["id"], second["id"]] == batch["acknowledgements"]


async def test_who_has_fetched_a_file_is_found_without_reading_the_trail(office: Office, store: Store) -> None:
    if not store.database.is_sqlite:
        pytest.skip("PostgreSQL reads a table of a few rows whole, and is right to")
    asked = (
        "EXPLAIN QUERY PLAN SELECT at FROM audit_entry WHERE organization_id = 'nbf'"
        f" AND subject IN ('export_file/1', 'export_file/2') AND action = '{DOWNLOADED}'"
    )
    async with store.database.read() as conn:
        plan = " ".join(str(step.detail) for step in await conn.execute(sa.text(asked)))
    assert "ix_audit_entry_download (organization_id=? AND subject=?)" in plan


async def test_look_at_the_headers_alone_is_no_download(office: Office) -> None:
    await office.desk.send(await office.desk.lease(), item(1), route="download")
    (listed,) = (await office.told("GET", f"{BASE}/exports/files"))["items"]
    assert 200 == (await office.ask("HEAD", f"{BASE}/exports/files/{listed['id']}")).status
    assert 0 == (await office.deeds()).count("export_file.downloaded")


async def test_listing_goes_on_part_by_part_newest_first(office: Office) -> None:
    lease = await office.desk.lease()
    for number in (1, 2, 3):
        await office.desk.send(lease, item(number), route="download")
    first = await office.told("GET", f"{BASE}/exports/files?limit=2&type={PLUGIN}")
    rest = await office.told("GET", f"{BASE}/exports/files?limit=2&after={first['next']}")
    assert [3, 2, 1] == [int(one["keys"][0], 16) for one in first["items"] + rest["items"]]
    assert rest["next"] is None


async def test_report_settles_each_item_once_and_names_what_it_does_not_know(office: Office) -> None:
    await office.desk.add_items(1, 2, 3)
    report = f"{1:032x};posted;1041\n{2:032x};rejected;Unknown account\n{9:032x};posted;7\n".encode()
    told = await office.told("POST", REPORTS, data=report)
    assert (2, 0, [f"{9:032x}"]) == (told["settled"], told["unchanged"], told["unknown"])
    assert {1: "posted", 2: "rejected", 3: "accepted"} == await office.desk.states()
    again = await office.told("POST", REPORTS, data=report)
    assert (0, 2) == (again["settled"], again["unchanged"])
    assert 2 == (await office.deeds()).count("export.acknowledged")
    page = await office.told("GET", f"{BASE}/events?after=0&limit=500")
    types = [event["type"] for event in page["items"] if ".export." in event["type"]]
    assert ["no.samband.export.posted.v1", "no.samband.export.rejected.v1"] == sorted(types)


@pytest.mark.parametrize("state", ["rejected", "released", "reversed", "superseded", "posted"])
@pytest.mark.parametrize("said", ["accepted", "rejected;No"])
async def test_report_never_moves_back_what_is_over(office: Office, state: str, said: str) -> None:
    await office.desk.add_items(1, state=state)
    told = await office.told("POST", REPORTS, data=f"{1:032x};{said}\n".encode())
    assert (0, 1) == (told["settled"], told["unchanged"])
    assert {1: state} == await office.desk.states()


async def test_item_that_was_to_be_sent_again_is_not_when_a_report_shows_it_arrived(office: Office) -> None:
    await office.desk.add_items(1, state="reserved", attempts=1)
    await office.desk.add_items(2, state="reserved", attempts=0)
    report = f"{1:032x};posted;1041\n{2:032x};posted;1042\n".encode()
    await office.told("POST", REPORTS, data=report)
    assert {1: "posted", 2: "reserved"} == await office.desk.states()


async def sent_file(office: Office, *numbers: int, lease: Lease | None = None) -> str:
    """Has vouchers go out in one file, and gives its name."""
    await office.desk.add_items(*numbers)
    receipts = await office.desk.send(lease or await office.desk.lease(), *map(item, numbers), route="download")
    (name,) = {receipt.reference for receipt in receipts.values()}
    return str(name)


async def test_report_without_keys_settles_by_number_what_the_named_file_carried(office: Office) -> None:
    ours = await sent_file(office, 1, 2)
    await office.desk.add_items(3)  # an item of ours that this file did not carry
    report = (
        f"1@{ours};posted;1041\n2@{ours};rejected;Unknown account\n3@{ours};posted;1042\n77@{ours};posted;9\n".encode()
    )
    told = await office.told("POST", REPORTS, data=report)
    assert (2, 0, ["3", "77"]) == (told["settled"], told["unchanged"], told["unknown"])
    assert {1: "posted", 2: "rejected", 3: "accepted"} == await office.desk.states()
    again = await office.told("POST", REPORTS, data=report)
    assert (0, 2, ["3", "77"]) == (again["settled"], again["unchanged"], again["unknown"])
    page = await office.told("GET", f"{BASE}/audit?limit=500")
    counted = [entry["detail"] for entry in page["items"] if entry["action"] == "export.acknowledged"]
    assert [(2, 2), (0, 2)] == [(detail["settled"], detail["by_number"]) for detail in counted]
    (listed,) = (await office.told("GET", f"{BASE}/exports/files"))["items"]
    assert "acknowledged" == listed["state"]
    (posted,) = (await office.told("GET", f"{BASE}/exports?state=posted"))["items"]
    assert ("1041", "voucher number 1") == (posted["reference"], posted["told"]["matched by"])


async def test_number_of_somebody_elses_voucher_does_not_settle_ours(office: Office) -> None:
    await sent_file(office, 1)
    told = await office.told("POST", REPORTS, data=b"1@theirs.csv;posted;1041\n1;rejected;No\n")
    assert (0, ["1"]) == (told["settled"], told["unknown"])
    assert {1: "accepted"} == await office.desk.states()
    assert 1 == (await office.told("POST", REPORTS, data=b"1;posted;1041\n"))["settled"]


async def test_report_that_has_the_name_of_our_file_is_about_that_file(office: Office) -> None:
    lease = await office.desk.lease()
    first, second = await sent_file(office, 1, lease=lease), await sent_file(office, 2, lease=lease)
    path = f"{BASE}/exports/acknowledgements?type={PLUGIN}&name="
    told = await office.told("POST", path + second, data=b"1;posted;1041\n")
    assert ((0, ["1"]), {1: "accepted", 2: "accepted"}) == (
        (told["settled"], told["unknown"]),
        await office.desk.states(),
    )
    assert 1 == (await office.told("POST", path + first, data=b"1;rejected;No\n"))["settled"]
    assert {1: "rejected", 2: "accepted"} == await office.desk.states()


async def test_reversal_and_its_booking_are_told_apart_by_their_numbers(office: Office) -> None:
    lease = await office.desk.lease()
    ours = await sent_file(office, 1, lease=lease)
    await office.desk.add_items(2, purpose="reversal", reverses=f"{1:032x}")
    receipts = await office.desk.send(lease, item(2), route="download")
    reversing = receipts[2].reference
    told = await office.told("POST", REPORTS, data=f"2@{ours};posted;7\n2@{reversing};posted;1042\n".encode())
    assert (1, ["2"]) == (told["settled"], told["unknown"])
    assert "posted" == (await office.desk.states())[2]
    assert "posted" != (await office.desk.states())[1]


async def test_report_that_contradicts_itself_by_key_and_number_settles_nothing(office: Office) -> None:
    ours = await sent_file(office, 1)
    told = await office.told("POST", REPORTS, data=f"{1:032x};posted;1041\n1@{ours};rejected;No\n".encode())
    assert (0, 1, []) == (told["settled"], told["unchanged"], told["unknown"])
    assert {1: "accepted"} == await office.desk.states()


async def test_report_marks_the_file_that_it_is_about(office: Office) -> None:
    await office.desk.add_items(1)
    await office.desk.send(await office.desk.lease(), item(1), route="download")
    await office.told("POST", REPORTS, data=f"{1:032x};posted;1041\n".encode())
    (listed,) = (await office.told("GET", f"{BASE}/exports/files"))["items"]
    assert ("acknowledged", True) == (listed["state"], listed["acknowledged_at"] is not None)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b"", 422, "invalid_request"), (b"\xff\xfe", 502, "contract_broken"), (b"nonsense", 502, "no_report"),
     (b"x" * (1024 * 1024 + 1), 413, "body_too_large")],
)  # fmt: skip
async def test_what_is_no_report_is_refused(office: Office, body: bytes, status: int, code: str) -> None:
    answer = await office.ask("POST", REPORTS, data=io.BytesIO(body) if body else b"")
    assert (status, code) == (answer.status, (await answer.json())["code"])


async def test_drop_point_is_set_shown_and_taken_away(office: Office) -> None:
    answer = await office.ask("PUT", DROP, json={"settings": SFTP, "password": SECRET})
    assert (200, '"2"') == (answer.status, answer.headers["ETag"])
    shown = await office.told("GET", DROP)
    assert (True, "8dK2", 22) == (shown["has_secret"], shown["secret_hint"], shown["settings"]["port"])
    stale = await office.ask("PUT", DROP, json={"settings": {"kind": "folder"}}, headers={"If-Match": '"1"'})
    assert 412 == stale.status
    assert "sftp" == (await office.told("DELETE", DROP))["settings"]["kind"]
    assert 404 == (await office.ask("GET", DROP)).status
    assert {"drop.changed", "drop.removed"} <= set(await office.deeds())


async def test_secret_is_kept_for_the_same_server_alone(office: Office) -> None:
    await office.told("PUT", DROP, json={"settings": SFTP, "password": SECRET})
    kept = await office.told("PUT", DROP, json={"settings": SFTP | {"folder": "/ut"}})
    assert (True, "8dK2") == (kept["has_secret"], kept["secret_hint"])
    for changed in ({"host": "evil.example.org"}, {"user": "root"}, {"host_keys": ["SHA256:" + "B" * 43]}):
        answer = await office.ask("PUT", DROP, json={"settings": SFTP | changed})
        assert 422 == answer.status


async def test_secret_is_nowhere_in_what_is_told_or_kept(office: Office, store: Store) -> None:
    answers = [await office.ask("PUT", DROP, json={"settings": SFTP, "password": SECRET})]
    answers += [await office.ask("GET", path) for path in (DROP, f"{BASE}/audit", f"{BASE}/events?after=0")]
    assert [] == [answer.url for answer in answers if SECRET in await answer.text()]
    async with store.database.read() as conn:
        assert SECRET.encode() not in bytes(await conn.scalar(sa.text("SELECT secret FROM drop_point")))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"settings": {"kind": "folder", "path": "../other"}}, "settings"),
        ({"settings": {"kind": "folder", "path": "/etc"}}, "settings"),
        ({"settings": {"kind": "folder", "manifests": "acknowledged"}}, "settings"),
        ({"settings": {"kind": "folder"}, "password": "x"}, "password"),
        ({"settings": {"kind": "ftp"}}, "settings"),
        ({"settings": {}}, "settings"),
        ({"settings": SFTP}, "password"),
        ({"settings": SFTP, "password": "x", "private_key": "y"}, "password"),
        ({"settings": SFTP, "private_key": "no key"}, "private_key"),
        ({"settings": SFTP | {"host_keys": []}, "password": "x"}, "settings"),
        ({"settings": SFTP | {"host_keys": ["anything"]}, "password": "x"}, "settings"),
        ({"settings": SFTP | {"folder": "/inn/../etc"}, "password": "x"}, "settings"),
        ({"settings": SFTP | {"surprise": 1}, "password": "x"}, "settings"),
    ],
)
async def test_drop_point_that_is_wrong_names_the_field(office: Office, body: dict[str, Any], field: str) -> None:
    answer = await office.ask("PUT", DROP, json=body)
    told = await answer.json()
    assert 422 == answer.status, told
    assert {field} == {problem["field"].partition(".")[0] for problem in told["errors"]}


async def test_test_of_a_drop_point_writes_nothing(office: Office) -> None:
    told = await office.told("POST", f"{DROP}/test")
    assert (True, 0, 0, None) == (told["ok"], told["files"], told["reports"], told["code"])
    assert not office.desk.folder.exists()


async def test_drop_point_that_cannot_be_reached_is_an_answer(office: Office) -> None:
    await office.told("PUT", DROP, json={"settings": SFTP | {"host": "127.0.0.1", "port": 9}, "password": SECRET})
    told = await office.told("POST", f"{DROP}/test")
    assert (False, "egress_refused") == (told["ok"], told["code"])


async def test_folder_is_refused_without_a_drop_root(office: Office, store: Store) -> None:
    service = Service(store=store, registry=office.desk.registry, bell=SilentBell())
    async with TestClient(TestServer(create_app(service))) as client:
        headers = {"Authorization": f"Bearer {office.key}"}
        answer = await client.put(DROP, json={"settings": {"kind": "folder"}}, headers=headers)
        assert (409, "drop_root_missing") == (answer.status, (await answer.json())["code"])
