"""The control door, the start line and what a whole environment costs."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import random
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import samband_dynamics365.simulator as simulator
from samband_dynamics365.simulator import SeedPlan, SimulatorState

SOURCE = Path(simulator.__file__).parent


async def started(*arguments: str) -> tuple[asyncio.subprocess.Process, dict[str, Any]]:
    paths = [str(SOURCE.parent.parent), os.environ.get("PYTHONPATH", "")]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "samband_dynamics365.simulator",
        "--members=20",
        "--memberships=25",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdout is not None
    return process, json.loads(await asyncio.wait_for(process.stdout.readline(), 10))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_program_prints_one_line_serves_and_stops_on_a_signal(number: signal.Signals) -> None:
    import aiohttp

    process, line = await started("--die-with-parent")
    assert set(line) == {"name", "base_url", "token_url", "settings", "credentials", "control_url"}
    assert line["name"] == "dynamics365"
    async with aiohttp.ClientSession() as http, http.get(f"{line['control_url']}/state") as answer:
        counts = (await answer.json())["counts"]
    assert (counts["contacts"], counts["sb_memberships"]) == (20, 25)
    process.send_signal(number)
    output, _ = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, output) == (0, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's own")
async def test_program_dies_with_its_parent() -> None:
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'samband_dynamics365.simulator', '--members=5',"
        " '--memberships=5', '--die-with-parent'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.readline()\n"
    )
    paths = os.pathsep.join([str(SOURCE.parent.parent), os.environ.get("PYTHONPATH", "")])
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert parent.stdout is not None
    child = int(await asyncio.wait_for(parent.stdout.readline(), 10))
    parent.kill()
    await parent.communicate()
    for _ in range(200):
        if not is_running(child):
            break
        await asyncio.sleep(0.02)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the simulator outlived its parent")


def is_running(process_id: int) -> bool:
    """Tells whether a process lives; one that ended and waits to be collected does not."""
    try:
        return ") Z " not in Path(f"/proc/{process_id}/stat").read_text("utf-8")
    except OSError:
        return False


async def test_same_seed_gives_the_same_people() -> None:
    plan = SeedPlan(members=200, memberships=240)
    one, two = SimulatorState(plan=plan), SimulatorState(plan=plan)
    other = SimulatorState(plan=SeedPlan(members=200, memberships=240, seed=1))
    for name in ("contact", "sb_membership", "systemuser"):
        assert one.organization.tables[name].rows == two.organization.tables[name].rows
        assert one.organization.tables[name].rows != other.organization.tables[name].rows


async def test_seeded_people_are_fictitious_and_have_rough_edges() -> None:
    state = SimulatorState()
    contacts = list(state.organization.tables["contact"].rows.values())
    memberships = list(state.organization.tables["sb_membership"].rows.values())
    assert (len(contacts), len(memberships)) == (5000, 6000)
    emails = [row["emailaddress1"].strip().lower() for row in contacts if row["emailaddress1"]]
    assert {email.partition("@")[2] for email in emails} == {"example.org", "example.com"}
    assert 0.9 < len(emails) / 5000 < 0.97
    assert any(row["firstname"] != row["firstname"].strip() for row in contacts)
    assert any(row.get("statecode") == 1 for row in contacts)
    assert {"æ", "ø", "å"} <= set("".join(row["fullname"].lower() for row in contacts))
    known = state.organization.tables["contact"].rows
    assert all(row["_sb_contactid_value"] in known for row in memberships)
    pairs = {(row["_sb_contactid_value"], row["_sb_chapterid_value"]) for row in memberships}
    assert len(pairs) == 6000
    assert {row["sb_status"] for row in memberships} == {1, 2, 3}
    assert all(not row["sb_enddate"] or row["sb_enddate"] > row["sb_startdate"] for row in memberships)


async def test_touch_names_every_table_and_takes_explicit_rows(api: Any) -> None:
    contact = api.state.organization.tables["contact"].ids[0]
    steps = [
        {"table": "contacts", "update": [{"contactid": contact, "lastname": "Ny", "statuscode": 99}]},
        {"table": "sb_memberships", "create": 3, "update": 2, "delete": 1},
        {"table": "systemusers", "create": 1, "update": 1},
        {"table": "accounts", "create": [{"name": "Laget"}]},
    ]
    report = await api.control("touch", {"changes": steps})
    counts = {name: (found["upserts"], found["deletions"]) for name, found in report["expected"].items()}
    assert counts == {"contacts": (1, 0), "sb_memberships": (5, 1), "systemusers": (2, 0), "accounts": (1, 0)}
    assert (await api.read(f"contacts({contact})"))["statuscode"] == 99
    async with api.http.get(f"{api.address.control_url}/state?rows=contacts,accounts") as answer:
        rows = (await answer.json())["rows"]
    assert max(rows["contacts"]["versions"].values()) == rows["contacts"]["versions"][contact]
    assert list(rows["accounts"]["versions"]) == report["changes"]["accounts"]["created"]


async def test_wrong_orders_change_nothing_and_say_why(api: Any) -> None:
    before = api.state.organization.version
    orders = [
        ("touch", {"table": "nothing", "create": 1}),
        ("touch", {"create": 1, "delete": 10_000}),
        ("touch", {"create": [{"nothing": 1}]}),
        ("touch", {"update": [{"contactid": "x"}]}),
        ("touch", {"create": "many"}),
        ("touch", {"changes": [5]}),
        ("seed", {"members": -1}),
        ("config", {"nothing": 1}),
        ("config", {"limits": {"requests": "many"}}),
        ("config", {"limits": 5}),
        ("config", {"users": [{}]}),
        ("config", {"users": [{"client_id": "x", "privileges": {"prvReadContact": "Everything"}}]}),
        ("config", {"applications": [{"client_id": "x", "certificates": ["not a certificate"]}]}),
        ("config", {"secret": 5}),
        ("config", {"relationships": {"a.b": "forget"}}),
    ]
    for name, order in orders:
        async with api.http.post(f"{api.address.control_url}/{name}", json=order) as answer:
            assert answer.status == 400, (name, order)
            assert (await answer.json())["error"]
    assert len(api.state.organization.tables["contact"].rows) == 60
    contacts = api.state.organization.tables["contact"]
    assert all(row["versionnumber"] <= before for row in contacts.rows.values())


async def test_reset_returns_to_the_start(api: Any) -> None:
    start = dict(api.state.organization.tables["contact"].rows)
    await api.control("touch", {"create": 2, "delete": 2})
    await api.control("config", {"limits": {"requests": 1}, "advance_s": 1000})
    await api.control("faults", {"fault": "reset", "times": None})
    await api.control("reset")
    await api.log_in()
    assert set(api.state.organization.tables["contact"].rows) == set(start)
    assert [(await api.get("WhoAmI")).status for _ in range(3)] == [200] * 3


async def test_gzip_is_a_switch(api: Any) -> None:
    await api.control("config", {"switches": {"gzip": True}})
    reply = await api.get("contacts", headers={"Accept-Encoding": "gzip"})
    assert reply.headers["Content-Encoding"] == "gzip"
    assert len(reply.json()["value"]) == 60


def test_simulator_knows_neither_the_adapter_nor_the_host() -> None:
    allowed = {"aiohttp", "orjson", "cryptography", "joserfc"} | set(sys.stdlib_module_names)
    for path in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path.name
                names = [node.module or ""] if node.level == 0 else []
            assert {name.partition(".")[0] for name in names} <= allowed, path.name


def test_readme_describes_every_fault_switch_and_setting() -> None:
    from samband_dynamics365.simulator import configuration, fault_answers, faults
    from samband_dynamics365.simulator.limits import LimitRules
    from samband_dynamics365.simulator.state import Switches
    from samband_dynamics365.simulator.tracking import TrackingRules

    text = (SOURCE / "README.md").read_text("utf-8")
    fields = [name for kind in (Switches, LimitRules, TrackingRules) for name in kind.__slots__]
    names = [*faults.KINDS, *fault_answers.BAD_ROWS, *configuration._PARTS, *fields]
    assert [name for name in names if f"`{name}`" not in text and f'"{name}"' not in text] == []


NOISE = "'\"()$%&=/:;,@ []{}\\\n\té\x00+-*09azN_"
PIECES = [
    "contacts", "sb_memberships", "systemusers", "EntityDefinitions", "$batch", "$metadata", "WhoAmI", "(", ")", "/",
    "?", "&", "$filter=", "$select=", "$orderby=", "$top=", "$expand=", "$count=true", "$skiptoken=", "$deltatoken=",
    "lastname", "contactid", "sb_contact_sb_membership", "sb_ContactId", " eq ", " and ", " or ", "not ", "null",
    "contains(", "any(", "'a'", "5", "1.5", "-1", "2024-01-01", "00000000-0000-4000-8000-000000000002", "$ref",
    "$value", "Microsoft.Dynamics.CRM.In(", "Microsoft.Dynamics.CRM.CreateMultiple", "PropertyName='lastname'",
    "Attributes", "LogicalName='contact'", "%", "%ff", "[", "]", ",", ";", "@p", "=",
]  # fmt: skip


async def test_random_requests_never_make_the_simulator_fail(api: Any) -> None:
    from urllib.parse import quote

    source = random.Random(2024)
    bodies = [b"", b"{}", b"[]", b"null", b'{"Targets":[{}]}', b'{"@odata.id":5}', b'{"value":[]}', b"\xff", b"5"]
    bodies += [b'{"lastname":{"a":1}}', b'{"sb_ContactId@odata.bind":"/x"}', b'{"sb_ContactId":{"contactid":5}}']
    for _ in range(1500):
        text = "".join(source.choice(PIECES) for _ in range(source.randrange(1, 9)))
        if source.random() < 0.3:
            text += "".join(source.choice(NOISE) for _ in range(source.randrange(1, 6)))
        if source.random() < 0.6:
            text = f"contacts?{text}"
        method = source.choice(["GET"] * 4 + ["POST", "PATCH", "PUT", "DELETE"])
        prefer = source.choice(
            [None, None, "odata.track-changes", 'odata.include-annotations="*"', "odata.maxpagesize=2"]
        )
        options: dict[str, Any] = {"prefer": prefer}
        if method not in {"GET", "DELETE"}:
            options["data"] = source.choice(bodies)
            options["headers"] = {
                "Content-Type": source.choice(["application/json", "multipart/mixed; boundary=b", "text/plain"])
            }
        reply = await api.send(method, quote(text, safe="/?&=$(),;:@'%"), **options)
        assert reply.status < 500 or reply.status == 501, (method, text)
        assert api.state.internal_errors == [], (method, text)


async def test_bytes_that_are_not_text_are_refused_politely(api: Any) -> None:
    host, port = api.address.base_url.removeprefix("http://").split(":")
    lines = [
        (b"contacts?$filter=lastname%20eq%20'\xff'", b""),
        (b"contacts(\xff)", b""),
        (b"contacts?$top=1", b'Prefer: odata.include-annotations="\xff\xfe"\r\n'),
        (b"contacts?$top=1", b"x-ms-client-request-id: \xff\r\nIf-Match: \xfe\r\n"),
    ]
    for path, headers in lines:
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"GET /api/data/v9.2/" + path + b" HTTP/1.1\r\nHost: a\xffb\r\nConnection: close\r\n" + headers
        writer.write(head + b"Authorization: Bearer " + api.token.encode() + b"\r\n\r\n")
        status = (await reader.read()).split(b" ", 2)[1]
        writer.close()
        await writer.wait_closed()
        assert status in {b"200", b"400"}, path
    async with api.http.get(f"{api.address.control_url}/log") as answer:
        assert answer.status == 200


async def test_control_door_survives_anything(api: Any) -> None:
    bodies = [
        b"{",
        b"[]",
        b"5",
        b"\xff",
        b'{"rules":[{"fault":"reset","skip":"x"}]}',
        b'{"tables":5}',
        b'{"tables":{"contacts":5}}',
    ]
    bodies += [b'{"users":5}', b'{"users":[5]}', b'{"schema_changed":5}', b'{"changes":{}}', b'{"applications":[[]]}']
    for name in ("reset", "seed", "touch", "faults", "config"):
        for body in bodies:
            async with api.http.post(f"{api.address.control_url}/{name}", data=body) as answer:
                assert answer.status in {200, 400}, (name, body)
    async with api.http.get(f"{api.address.control_url}/log?last=x") as answer:
        assert answer.status == 400
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/__sim", api.address.control_url)
