"""Every command against a host that runs: what it writes for people, what it writes for programs, and how it ends."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from standardwebhooks import Webhook

from samband.cli import run

from .commanding import CLAIM, Entered, Typed, install

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NO_RUN = "01a2096cc3ec4e59bcba6e4a12539150"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """One host for all of the tests: its address and its first key."""
    folder = tmp_path_factory.mktemp("host")
    install(folder / "plugins")
    environment = {
        **os.environ, "PYTHONPATH": str(folder / "plugins"), "SAMBAND_ALLOW_INSTALLED": "true",
        "SAMBAND_LOG_LEVEL": "error", "SAMBAND_PUBLIC_URL": "https://samband.example.org",
    }  # fmt: skip
    with (folder / "host.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "samband", "up", "--data-dir", str(folder / "data"), "--port", "0", "--json"],
            stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            process.stdout.close()


@dataclass
class Shell:
    """Commands typed in this process."""

    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch
    environment: dict[str, str]
    folder: Path

    def type(self, line: str, *, stdin: bytes = b"") -> Typed:
        for name, value in self.environment.items():
            self.patch.setenv(name, value)
        self.patch.setattr(sys, "stdin", Entered(stdin))
        self.capture.readouterr()
        code = run(line.split())
        written = self.capture.readouterr()
        return Typed(code, written.out, written.err)

    def text(self, line: str, *, code: int = 0) -> list[str]:
        """Gives the lines a command wrote for people."""
        typed = self.type(line)
        assert code == typed.code, typed
        return typed.out.splitlines()

    def document(self, line: str, *, code: int = 0, stdin: bytes = b"") -> Any:
        """Gives the document a command wrote for programs."""
        typed = self.type(f"{line} --json", stdin=stdin)
        assert code == typed.code, typed
        return typed.document

    def file(self, name: str, content: object) -> str:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return str(path)


@pytest.fixture
def shell(
    running: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Shell:
    return Shell(
        capsys, monkeypatch, {"SAMBAND_URL": running["url"], "SAMBAND_API_KEY": running["admin_key"]}, tmp_path
    )


@pytest.fixture
def org(shell: Shell, request: pytest.FixtureRequest) -> str:
    """An organisation of the test's own, connected to both systems by typing."""
    name = "o-" + re.sub("[^a-z0-9]+", "-", request.node.name.lower())[-50:].strip("-")
    assert f"Created the organisation {name} ({name})." in shell.text(f"org create {name}")
    settings, secret = shell.file("settings.json", {}), shell.file("credentials.json", {"secret": "hunter-2-hunter-2"})
    empty = shell.file("empty.json", {})
    made = shell.text(f"integration create {name} learning --settings {settings} --credentials {secret}")
    assert f"Integration: {name}/learning" in made
    assert "Credential secret: ends in er-2" in made
    shell.document(f"integration create {name} books --settings {settings} --credentials {empty}")
    for type in ("learning", "books"):
        assert f"{name}/{type}: works" in shell.text(f"check {name}/{type}")[0]
        assert "enabled" == shell.document(f"integration enable {name} {type}")["state"]
    return name


def synced(shell: Shell, org: str) -> str:
    """Reads everything once; gives ``ORG/RUN``. One record of it fails, which is what the exit code says."""
    return f"{org}/{shell.document(f'sync {org} learning --wait', code=1)['id']}"


def lose_most(shell: Shell, org: str) -> None:
    """Has the other side forget 25 of its 30 people."""
    shell.document(f"integration update {org} learning --settings {shell.file('s.json', {'gone': 25})}")
    shell.document(f"check {org}/learning")
    shell.document(f"integration enable {org} learning")


def until(condition: Callable[[], Any]) -> Any:
    """Waits until something has come true, and gives it."""
    import time

    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
    return found


# ── what runs ────────────────────────────────────────────────────────────────


def test_runs_are_ordered_followed_and_looked_into(shell: Shell, org: str) -> None:
    told = shell.type(f"sync {org} learning --wait")
    assert 1 == told.code
    assert "State: partial" in told.out
    assert "Records: 33 created, 1 failed, in 4 pages" in told.out
    assert "partial: 34 records (33 created, 1 failed)" in told.err
    run = re.findall("Run: (.+)", told.out)[0]
    assert "Record people p-bad: failed, field status." in "\n".join(shell.text(f"runs show {run}"))
    assert f"Run: {run}" in shell.text(f"runs latest {org} learning")
    assert [run.partition("/")[2]] == [one["id"] for one in shell.document(f"runs list {org} --state partial")["runs"]]
    failures = shell.document(f"runs failures {run}")["failures"]
    assert [("people", "status", 1)] == [(one["stream"], one["field"], one["count"]) for one in failures]
    assert ["Records", "1"] == [line.split()[0] for line in shell.text(f"runs failures {run}")]


def test_listing_goes_on_where_the_part_before_ended(shell: Shell, org: str) -> None:
    run = synced(shell, org)
    first = shell.document(f"runs outcomes {run} --limit 20")
    second = shell.document(f"runs outcomes {run} --limit 20 --after {first['next']}")
    assert (20, 14, None) == (len(first["outcomes"]), len(second["outcomes"]), second["next"])
    assert first["outcomes"] + second["outcomes"] == shell.document(f"runs outcomes {run} --limit 1 --all")["outcomes"]
    told = shell.type(f"runs outcomes {run} --limit 20")
    assert 21 == len(told.out.splitlines())
    assert f"There are more. Go on with --after {first['next']}, or ask for --all.\n" == told.err
    assert ["There are no outcomes."] == shell.text(f"runs outcomes {run} --outcome deleted")


def test_failed_records_and_chosen_ones_are_read_again(shell: Shell, org: str) -> None:
    run = synced(shell, org)
    again = shell.document(f"runs retry-failed {run} --wait", code=1)
    assert (1, {"keys": 1, "since": None, "until": None}) == (again["records"], again["run"]["selection"]["people"])
    assert "Read again: 1" in shell.text(f"runs retry-failed {run} --wait", code=1)
    backfill = shell.text(f"backfill {org} learning --stream people --key p1 --key p2 --wait")
    assert "Reading: people: 2 chosen records" in backfill
    assert "Records: 2 unchanged, in 1 pages" in backfill
    assert "partial" == shell.document(f"runs retry {run} --wait", code=1)["state"]


def test_dry_run_tells_what_would_become_of_each_record_and_does_none_of_it(shell: Shell, org: str) -> None:
    found = shell.document(f"dry-run {org} learning --stream people --limit 5", code=1)
    assert ("dry_run", 30, 5) == (found["operation"], found["counts"]["created"], len(found["differences"]))
    assert {} == found["differences"][0]["before"]
    assert "Kari 0" == found["differences"][0]["after"]["first_name"]
    told = shell.type(f"dry-run {org} learning --stream people --limit 5")
    assert "Operation: dry run, nothing is stored" in told.out
    assert "people p0: would be created" in told.out
    assert f"samband runs differences {org}/" in told.err
    failed = shell.document(f"runs differences {org}/{found['id']} --op failed", code=3)
    assert "differences_gone" == failed["error"]["code"]
    assert ["There are no records."] == shell.text(f"records list {org} member")


def test_run_that_would_delete_too_much_is_held_and_decided_about(shell: Shell, org: str) -> None:
    synced(shell, org)
    lose_most(shell, org)
    held = shell.document(f"sync {org} learning --full --wait", code=1)
    assert "held" == held["state"]
    run = f"{org}/{held['id']}"
    assert any(line.startswith("Held in people: 25 would be deleted") for line in shell.text(f"runs show {run}"))
    (alert,) = until(lambda: shell.document(f"alerts list {org}")["alerts"])
    assert "run_held" == alert["kind"]
    assert any("run_held" in line for line in shell.text(f"alerts list {org} --type learning"))
    seen = shell.text(f"alerts acknowledge {org} {alert['id']}")
    assert seen[0].startswith(f"Alert {alert['id']} (run_held): open, seen by ")
    approved = shell.document(f"runs approve {run} --reason Closed --up-to 25 --wait", code=1)
    assert ("partial", 25, "approved") == (
        approved["state"], approved["counts"]["deleted"], approved["brake"]["decision"],
    )  # fmt: skip
    assert "not_held" == shell.document(f"runs approve {run} --reason Closed", code=4)["error"]["code"]
    assert 5 == len(shell.document(f"records list {org} member")["records"])
    assert 30 == len(shell.document(f"records list {org} member --deleted")["records"])


def test_held_run_is_rejected_or_cancelled(shell: Shell, org: str) -> None:
    ended = synced(shell, org)
    lose_most(shell, org)
    first = shell.document(f"sync {org} learning --full --wait", code=1)["id"]
    told = shell.text(f"runs reject {org}/{first} --reason Empty")
    assert "Decision: rejected" in told
    assert "Reason: Empty" in told
    second = shell.document(f"sync {org} learning --full --wait", code=1)["id"]
    assert "cancelled" == shell.document(f"runs cancel {org}/{second}")["state"]
    assert "run_ended" == shell.document(f"runs cancel {ended}", code=4)["error"]["code"]


def test_membership_data_and_enrolments_are_read_from_all_that_bring_them(shell: Shell, org: str) -> None:
    told = shell.text(f"memberships sync {org} --wait", code=1)
    assert re.fullmatch(f"learning: started, run {org}/\\w+, partial, 31 created, 1 failed", told[0])
    (run,) = shell.document(f"courses sync {org} --full --wait", code=1)["runs"]
    assert ["people", "courses", "enrollments"] == run["streams"]


def test_status_and_overview_tell_how_it_is_going(shell: Shell, org: str) -> None:
    synced(shell, org)
    told = shell.text(f"status {org} learning")
    assert f"Integration: {org}/learning" == told[0]
    assert {"Connection: connected", "Open alerts: none", "Stream people: 30 records, has a cursor"} <= set(told)
    assert "connected" == shell.document(f"status {org} learning")["connection"]
    mine = [one for one in shell.document("overview")["integrations"] if one["organization"] == org]
    assert {"learning", "books"} == {one["type"] for one in mine}
    assert any(line.startswith(f"{org}/learning ") for line in shell.text("overview"))
    assert "Connection: connected" in shell.text(f"integration show {org} learning")
    assert f"Organisation: {org}" in shell.text(f"org show {org}")
    assert ["There are no dead letters."] == shell.text(f"dead-letters list {org} --acknowledged")
    assert {"dead_letters": [], "next": None} == shell.document(f"dead-letters list {org}")


def test_integration_is_edited_only_if_it_is_the_revision_that_was_read(shell: Shell, org: str) -> None:
    revision = shell.document(f"integration show {org} learning")["revision"]
    assert "Name: Kurs" in shell.text(f"integration update {org} learning --name Kurs --revision {revision}")
    refused = shell.document(f"integration update {org} learning --name Nei --revision {revision}", code=4)
    assert "revision_mismatch" == refused["error"]["code"]
    credentials = shell.file("new.json", {"secret": "broken"})
    line = f"integration set-credentials {org} learning --file {credentials}"
    assert "credentials_untested" == shell.document(line, code=5)["error"]["code"]
    assert "Credential secret: ends in er-2" in shell.text(f"integration show {org} learning")
    assert "saved" == shell.document(f"{line} --no-test --expires-at 2030-01-31T00:00:00Z")["state"]
    assert "Credentials stop working: 2030-01-31T00:00:00Z" in shell.text(f"integration show {org} learning")
    assert "disabled" == shell.document(f"integration disable {org} books")["state"]
    shown = [line.split() for line in shell.text(f"integration list {org}")]
    assert ["Type", "Name", "State"] == shown[0]
    assert {"books", "learning"} == {line[0] for line in shown[1:]}


def test_records_and_their_changes_are_shown(shell: Shell, org: str) -> None:
    synced(shell, org)
    (first, *others) = shell.document(f"records list {org} member --all")["records"]
    assert (29, "Kari 0") == (len(others), first["values"]["first_name"])
    assert "first_name: Kari 0" in shell.text(f"records show {org} member {first['id']}")
    page = shell.document(f"records changes {org} --kind member --limit 10")
    assert (10, True) == (len(page["changes"]), page["has_more"])
    told = shell.type(f"records changes {org} --after {page['next']}")
    assert "Go on from here, now or later, with --after " in told.err
    assert all("Kari" not in line for line in told.out.splitlines())


# ── what is planned, sent and received ───────────────────────────────────────


def test_schedules_are_set_paused_resumed_and_deleted(shell: Shell, org: str) -> None:
    told = shell.type(f"schedule set {org} learning --name night --full --interval 86400 --jitter 60 --grace 30")
    assert 0 == told.code, told
    assert "State: active" in told.out
    assert 10 == told.out.count("Planned: ")
    assert ["night"] == [one["name"] for one in shell.document(f"schedule list {org} learning")["schedules"]]
    assert "everything" in shell.text(f"schedule list {org} learning")[1]
    assert any("paused since" in line for line in shell.text(f"schedule pause {org} learning --name night"))
    resumed = shell.document(f"schedule resume {org} learning --name night --gap latest")
    assert 0 == resumed["gap"]["planned"]
    assert "It was not paused." in shell.text(f"schedule resume {org} learning --name night")
    assert ["There are no occurrences."] == shell.text(f"schedule occurrences {org} learning --name night")
    assert "Reads: everything" in shell.text(f"schedule show {org} learning --name night")
    deleted = shell.text(f"schedule delete {org} learning --name night")
    assert [f"Deleted: {org}/learning, schedule night"] == deleted
    assert "schedule_not_found" == shell.document(f"schedule show {org} learning", code=3)["error"]["code"]


def test_timing_is_previewed_without_being_saved(shell: Shell, running: dict[str, str]) -> None:
    found = shell.document("schedule preview --interval 3600")
    assert ("Europe/Oslo", 10) == (found["zone"], len(found["next"]))
    assert shell.text("schedule preview --interval 3600")[0].startswith("When: ")
    assert "invalid_request" == shell.document("schedule preview --cron nonsense", code=2)["error"]["code"]


def test_claims_are_put_and_sent_once(shell: Shell, org: str) -> None:
    put, one = f"claims put {org} -", CLAIM | {"id": "c-1"}
    told = shell.type(f"claims put {org} {shell.file('claim.json', one)}")
    assert "Total: 100.50 NOK" in told.out
    assert 1 == shell.document(put, stdin=json.dumps(one).encode())["version"]
    wrong = shell.document(put, stdin=json.dumps(one | {"currency": "kroner"}).encode(), code=2)
    assert ["currency"] == [problem["field"].rpartition(".")[2] for problem in wrong["error"]["problems"]]
    assert "Status: approved" in shell.text(f"claims show {org} c-1")
    assert ["c-1"] == [one["id"] for one in shell.document(f"claims list {org}")["reimbursements"]]
    waits = shell.text(f"claims timeline {org} c-1")
    assert "Claim c-1, 100.50 NOK, is approved and waits to be sent to the books." == waits[0]
    ordered = shell.text(f"export order {org} --wait")
    assert "Goes to: books" == ordered[0]
    assert {"Sent: c-1"} <= set(ordered)
    again = shell.document(f"export order {org} c-1 c-none --wait")
    assert {"c-1": "already_exported", "c-none": "not_found"} == {one["id"]: one["reason"] for one in again["skipped"]}
    assert ["V-p-17"] == [one["reference"] for one in shell.document(f"export items {org} --claim c-1")["items"]]
    key = shell.document(f"export items {org} --claim c-1")["items"][0]["key"]
    assert shell.text(f"export items {org} --state accepted")[1].startswith(f"{key}  c-1 ")


def test_webhook_is_made_tested_told_and_taken_away(shell: Shell, org: str) -> None:
    made = shell.document(f"webhook set {org} learning --secret-file {shell.file('secret', SECRET.encode())}")
    assert (None, SECRET[-4:]) == (made["secret"], made["secret_hint"])
    assert made["address"].startswith("https://samband.example.org/webhooks/learning/")
    assert ["A signed sample was believed."] == shell.text(f"webhook test {org} learning")
    body, at = b'{"changed": "p29"}', dt.datetime.now(dt.UTC)
    signature = Webhook(SECRET).sign("msg_1", at, body.decode())
    sent = {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}
    line = f"webhook deliver {org} learning --headers {shell.file('headers.json', sent)}"
    assert {"outcome": "accepted"} == shell.document(line, stdin=body)
    assert "The delivery was repeated.\n" == shell.type(line, stdin=body).out
    assert "signature_refused" == shell.document(line, stdin=body + b" ", code=6)["error"]["code"]
    (received,) = shell.document(f"webhook deliveries {org} learning")["deliveries"]
    assert len(body) == received["size"]
    assert "Deliveries that count once more: 1" in shell.text(f"webhook replay {org} learning {received['id']}")[0]
    until(lambda: shell.document(f"webhook show {org} learning")["waiting"] == 0)
    shown = shell.text(f"webhook show {org} learning")
    assert "Of the last 24 hours, accepted: 1" in shown
    assert "Of the last 24 hours, refused, wrong: 1" in shown
    other = shell.document(f"webhook secret {org} learning --overlap 60")
    assert other["secret"] not in (None, SECRET)
    assert "gone" in shell.text(f"webhook delete {org} learning")[0]
    assert "webhook_not_found" == shell.document(f"webhook show {org} learning", code=3)["error"]["code"]


def test_subscriptions_are_made_changed_and_removed(shell: Shell, org: str) -> None:
    made = shell.document(f"subscription create {org} https://platform.example/hook --type no.samband.run.*")
    one = f"{org} {made['id']}"
    assert made["secret"].startswith("whsec_")
    shown = shell.text(f"subscription show {one}")
    assert "Types: no.samband.run.*" in shown
    assert made["secret"] not in "\n".join(shown)
    assert [] == shell.document(f"subscription update {one} --every-type --revision {made['revision']}")["types"]
    assert "State: disabled, person" in shell.text(f"subscription disable {one}")
    refused = shell.document(f"subscription replay {one} --after 0", code=4)
    assert "subscription_disabled" == refused["error"]["code"]
    assert "State: enabled" in shell.text(f"subscription enable {one}")
    assert "Events that will be sent again: " in shell.text(f"subscription replay {one} --after 0")[0]
    assert made["secret"] != shell.document(f"subscription secret {one} --overlap 0")["secret"]
    assert "Ping: failed" in shell.text(f"subscription test {one}", code=1)
    assert "deliveries" in shell.document(f"subscription deliveries {one} --state pending")
    assert made["id"] in shell.text(f"subscription list {org}")[1]
    assert f"The subscription {made['id']} to https://platform.example/hook is gone." in shell.text(
        f"subscription delete {one}"
    )


def test_events_are_read_from_where_one_left_off(shell: Shell, org: str) -> None:
    synced(shell, org)
    page = shell.document(f"events list {org} --type no.samband.run.*")
    (event,) = [one for one in page["events"] if "run" in one["subject"]][-1:]
    assert "specversion: 1.0" in shell.text(f"events show {org} {event['id']}")
    told = shell.type(f"events list {org} --after {page['next']} --type no.samband.run.*")
    assert (0, "There are no events.\n") == (told.code, told.out)
    assert f"--after {page['next']}" in told.err
    assert event["type"] in [one["type"] for one in shell.document("events types")["types"]]
    assert event["type"] in "\n".join(shell.text("events types"))
    assert "object" == shell.document(f"events schema {event['type']}")["type"]


def test_token_is_renewed_and_a_person_is_sent_to_agree(shell: Shell, org: str) -> None:
    integration = shell.document(f"status {org} learning")["integration"]
    first = shell.document(f"token refresh {integration}")
    assert f"Token number: {first['generation'] + 1}" in shell.text(f"token refresh {integration}")
    asked = shell.type(f"consent {org} learning")
    assert asked.out.startswith("https://auth.example.org/authorize?")
    assert 1 == asked.out.count("\n")
    assert "consent_unsupported" == shell.document(f"consent {org} books", code=4)["error"]["code"]


def test_plugins_of_the_host_are_shown(shell: Shell, running: dict[str, str]) -> None:
    assert "learning: loaded (learning 1.0)" in shell.text(f"plugins --url {running['url']}")
    found = shell.document(f"plugins learning --url {running['url']}")["plugins"]
    assert ["learning"] == [one["name"] for one in found]
    assert 3 == shell.type(f"plugins nosuch --url {running['url']}").code


# ── how they end ─────────────────────────────────────────────────────────────

NOWHERE = [
    "status nowhere learning", "alerts list nowhere", "alerts acknowledge nowhere 1", "org show nowhere",
    "sync nowhere learning", "memberships sync nowhere", "courses sync nowhere", "dry-run nowhere learning",
    "backfill nowhere learning --stream people --key p1", "runs list nowhere", "runs latest nowhere learning",
    f"runs show nowhere/{NO_RUN}", f"runs outcomes nowhere/{NO_RUN}", f"runs failures nowhere/{NO_RUN}",
    f"runs differences nowhere/{NO_RUN}", f"runs cancel nowhere/{NO_RUN}", f"runs retry nowhere/{NO_RUN}",
    f"runs retry-failed nowhere/{NO_RUN}", f"runs approve nowhere/{NO_RUN} --reason x",
    f"runs reject nowhere/{NO_RUN}", "dead-letters list nowhere", "dead-letters show nowhere 1",
    "dead-letters acknowledge nowhere 1", "records list nowhere member", "records show nowhere member 1",
    "records changes nowhere", "schedule set nowhere learning --interval 3600", "schedule show nowhere learning",
    "schedule list nowhere learning", "schedule delete nowhere learning", "schedule pause nowhere learning",
    "schedule resume nowhere learning", "schedule occurrences nowhere learning", "claims list nowhere",
    "claims show nowhere c-1", "claims versions nowhere c-1", "claims timeline nowhere c-1",
    "claims corrections nowhere", "claims correction nowhere x", "claims approve nowhere x",
    "claims dismiss nowhere x --reason x", "export order nowhere", "export items nowhere", f"token refresh {NO_RUN}",
    "consent nowhere learning", "webhook set nowhere learning", "webhook show nowhere learning",
    "webhook secret nowhere learning", "webhook test nowhere learning", "webhook deliver nowhere learning",
    "webhook deliveries nowhere learning", "webhook replay nowhere learning 1", "webhook delete nowhere learning",
    "events list nowhere", "events show nowhere 1", "events schema no.samband.nothing.v1",
    "subscription create nowhere https://platform.example", "subscription list nowhere", "subscription show nowhere 1",
    "subscription update nowhere 1 --every-type", "subscription secret nowhere 1", "subscription test nowhere 1",
    "subscription enable nowhere 1", "subscription disable nowhere 1", "subscription replay nowhere 1 --after 0",
    "subscription deliveries nowhere 1", "subscription delete nowhere 1", "integration list nowhere",
    "integration show nowhere learning", "integration update nowhere learning --name x",
    "integration enable nowhere learning", "integration disable nowhere learning", "check nowhere/learning",
]  # fmt: skip


@pytest.mark.parametrize("line", NOWHERE)
def test_what_is_not_there_is_not_found(shell: Shell, line: str) -> None:
    told = shell.type(line)
    assert (3, "") == (told.code, told.out)
    assert told.err.startswith("Error: ")
    assert re.search("^Code: [a-z_]+$", told.err, re.MULTILINE)
    document = shell.document(line, code=3)
    assert (False, 3) == (document["ok"], document["exit_code"])


@pytest.mark.parametrize(
    "line",
    [
        "alerts list hlf --limit 0", "runs show hlf", "dry-run hlf learning --key p1", "runs approve hlf/x",
        "integration update hlf learning", "webhook set hlf learning --secret-file /nowhere/secret",
        "claims put hlf /nowhere/claim",
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_the_host_is_asked(shell: Shell, line: str) -> None:
    shell.environment = {"SAMBAND_URL": "http://127.0.0.1:9", "SAMBAND_API_KEY": "smb_x_y"}
    assert 2 == shell.document(line, code=2)["exit_code"]


def test_key_that_may_only_read_is_refused_by_name_of_the_verb(shell: Shell, org: str, running: dict[str, str]) -> None:
    key = shell.document(f"key create reader --verb read --organization {org} --url {running['url']}")["key"]
    shell.environment = shell.environment | {"SAMBAND_API_KEY": key}
    assert org in "\n".join(shell.text("overview"))
    told = shell.type(f"sync {org} learning")
    assert 6 == told.code
    assert "operate" in told.err
    assert "access_refused" == shell.document(f"webhook set {org} learning", code=6)["error"]["code"]


def test_secret_that_cannot_be_read_is_not_repeated(shell: Shell) -> None:
    told = shell.type(f"webhook set hlf learning --secret-file {shell.file('secret', 'hemmelig-ø'.encode())} --json")
    assert (2, "bad_secret") == (told.code, told.document["error"]["code"])
    assert "hemmelig" not in told.out + told.err


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    handlers, level, settings = logging.root.handlers[:], logging.root.level, structlog.get_config()
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.configure(**settings)
