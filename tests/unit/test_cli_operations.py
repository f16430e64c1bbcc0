"""Whatever the API can do, some command does: every operation of the OpenAPI document, asked for by typing.

What is asked is a small server that knows the document: it writes down which operation a request is, and holds its body
against the schema. What the commands make of real answers is in ``tests/acceptance/test_command_line.py``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from jsonschema import Draft202012Validator

from samband.api.openapi import openapi_document
from samband.api.routes import ENDPOINTS
from samband.cli import run

DOCUMENT = openapi_document(ENDPOINTS, "0")
ID = "01a2096cc3ec4e59bcba6e4a12539150"

COMMANDS = {
    "list_organizations": "org list",
    "create_organization": "org create hlf HLF",
    "get_organization": "org show hlf",
    "list_keys": "key list --url {url}",
    "create_key": "key create platform --verb read --url {url}",
    "revoke_key": "key revoke 0123456789ab --url {url}",
    "list_audit_entries": "audit list --organization hlf --url {url}",
    "verify_audit_trail": "audit verify --organization hlf --url {url}",
    "list_host_audit_entries": "audit list --url {url}",
    "verify_host_audit_trail": "audit verify --host --url {url}",
    "list_plugins": "plugins --url {url}",
    "get_plugin": "plugins learning --url {url}",
    "list_integrations": "integration list hlf",
    "create_integration": "integration create hlf learning --settings {object} --credentials {object} "
    "--expires-at 2027-01-31T00:00:00Z --name Kurs",
    "get_integration": "integration show hlf learning",
    "update_integration": "integration update hlf learning --settings {object} --name Kurs --revision 3",
    "set_credentials": "integration set-credentials hlf learning --file {object} --expires-at 2027-01-31T00:00:00Z "
    "--no-test --revision 2",
    "test_integration": "check hlf/learning",
    "enable_integration": "integration enable hlf learning",
    "disable_integration": "integration disable hlf learning",
    "get_integration_status": "status hlf learning",
    "trigger_run": "sync hlf learning --full --stream people",
    "sync_membership_data": "memberships sync hlf --full",
    "sync_course_enrollments": "courses sync hlf",
    "get_last_sync_result": "runs latest hlf learning",
    "list_runs": "runs list hlf --type learning --state failed --after x --all",
    "get_run": "runs show hlf/{id}",
    "list_outcomes": "runs outcomes hlf/{id} --outcome failed",
    "cancel_run": "runs cancel hlf/{id}",
    "retry_run": "runs retry hlf/{id}",
    "approve_run": "runs approve hlf/{id} --reason Closed --up-to 40",
    "reject_run": "runs reject hlf/{id} --reason Wrong",
    "schedule_sync": "schedule set hlf learning --cron '30 2 * * *' --zone Europe/Oslo --full --stream people "
    "--overlap skip --catch-up none --grace 60 --jitter 30 --revision 1",
    "cancel_scheduled_sync": "schedule delete hlf learning",
    "list_schedules": "schedule list hlf learning",
    "get_named_schedule": "schedule show hlf learning --name night",
    "put_named_schedule": "schedule set hlf learning --name night --interval 3600",
    "delete_named_schedule": "schedule delete hlf learning --name night",
    "pause_schedule": "schedule pause hlf learning",
    "resume_schedule": "schedule resume hlf learning --gap latest",
    "list_occurrences": "schedule occurrences hlf learning --limit 5",
    "preview_schedule": "schedule preview --cron '30 2 * * *'",
    "order_backfill": "backfill hlf learning --stream people --key p1 --key p2",
    "retry_failed": "runs retry-failed hlf/{id}",
    "list_failures": "runs failures hlf/{id}",
    "order_dry_run": "dry-run hlf learning --stream people --since 2026-03-01T00:00:00Z --until 2026-03-02T00:00:00Z "
    "--read 50",
    "list_differences": "runs differences hlf/{id} --op updated",
    "list_records": "records list hlf member --deleted",
    "get_record": "records show hlf member 1",
    "list_changes": "records changes hlf --kind member --after 7",
    "list_dead_letters": "dead-letters list hlf --type learning --acknowledged",
    "get_dead_letter": "dead-letters show hlf 1",
    "acknowledge_dead_letter": "dead-letters acknowledge hlf 1",
    "list_reimbursements": "claims list hlf --status approved",
    "put_reimbursement": "claims put hlf {claim} --revision 1",
    "put_reimbursements": "claims put hlf {claims}",
    "get_reimbursement": "claims show hlf c-1",
    "list_reimbursement_versions": "claims versions hlf c-1 --after 3",
    "get_reimbursement_timeline": "claims timeline hlf c-1",
    "list_corrections": "claims corrections hlf --state proposed --claim c-1",
    "get_correction": "claims correction hlf {id}",
    "approve_correction": "claims approve hlf {id} --reason Misread",
    "dismiss_correction": "claims dismiss hlf {id} --reason Right",
    "export_reimbursements": "export order hlf --from 2026-03-01 --until 2026-03-31 --exclude 'c-1=Receipt missing' "
    "--route file --type books",
    "preview_export": "export preview hlf c-1 c-2 --type books",
    "export_again": "export again hlf c-1 --reason 'Deleted in the books' --type books --yes",
    "resolve_export": "export resolve hlf {id} --outcome booked --reference 70012 --reason 'Seen in the list'",
    "list_batches": "export batches hlf --type books --after {id}",
    "get_batch": "export batch hlf/{id}",
    "list_export_items": "export items hlf --state unknown --claim c-1 --run {id}",
    "get_reconciliation": "export reconcile hlf --period 2026-03 --type books --ours-only --limit 5",
    "list_export_files": "export files hlf --type books --all",
    "fetch_export_file": "export download hlf {id} --profile human --to {object}.new",
    "acknowledge_export": "export acknowledge hlf books {secret} --name report.csv",
    "get_drop": "integration drop show hlf books",
    "put_drop": "integration drop set hlf books --settings {object} --password-file {secret} --revision 1",
    "delete_drop": "integration drop remove hlf books --revision 1",
    "test_drop": "integration drop test hlf books",
    "get_mapping": "mapping show hlf books",
    "put_mapping": "mapping put hlf books --file {mapping} --effective-from 2027-01-01 --note New --strict --revision 3",
    "list_mapping_versions": "mapping history hlf books --limit 5 --after 7",
    "get_mapping_version": "mapping show hlf books --version 2",
    "diff_mapping": "mapping diff hlf books --from 1 --to 3",
    "restore_mapping": "mapping restore hlf books 2 --effective-from 2027-01-01 --note Back",
    "preview_mapping": "mapping preview hlf books c-1 c-2 --file {mapping}",
    "check_mapping": "mapping check hlf books --refresh",
    "get_chart": "mapping chart hlf books --kind account --search toll --limit 5 --after W10",
    "refresh_chart": "mapping chart hlf books --refresh",
    "list_events": "events list hlf --type no.samband.run.* --after 12",
    "get_event": "events show hlf {id}",
    "list_event_types": "events types",
    "get_event_schema": "events schema no.samband.run.failed.v1",
    "list_subscriptions": "subscription list hlf",
    "create_subscription": "subscription create hlf https://platform.example/hook --type no.samband.run.* "
    "--description Platform",
    "get_subscription": "subscription show hlf {id}",
    "update_subscription": "subscription update hlf {id} --address https://platform.example/new --every-type",
    "delete_subscription": "subscription delete hlf {id}",
    "replace_subscription_secret": "subscription secret hlf {id} --overlap 3600",
    "test_subscription": "subscription test hlf {id}",
    "enable_subscription": "subscription enable hlf {id} --no-catch-up",
    "disable_subscription": "subscription disable hlf {id}",
    "replay_events": "subscription replay hlf {id} --after 0",
    "list_deliveries": "subscription deliveries hlf {id} --state exhausted",
    "get_webhook": "webhook show hlf learning",
    "put_webhook": "webhook set hlf learning --secret-file {secret} --new-address --revision 1",
    "delete_webhook": "webhook delete hlf learning --revision 1",
    "replace_webhook_secret": "webhook secret hlf learning --overlap 60",
    "test_webhook": "webhook test hlf learning",
    "list_deliveries_received": "webhook deliveries hlf learning --state failed",
    "replay_deliveries": "webhook replay hlf learning 1 2",
    "receive_delivery": "webhook deliver hlf learning --file {secret} --headers {object} --query {object}",
    "refresh_oauth_token": "token refresh {id}",
    "ask_consent": "consent hlf learning",
    "list_overview": "overview",
    "list_alerts": "alerts list hlf --type learning --closed",
    "acknowledge_alert": "alerts acknowledge hlf 1",
}
"""Operation → a command that asks for it, with as many of its options as go together."""

WITHOUT_A_COMMAND = {
    "get_key": "'samband key list' shows the same of every key",
    "export_audit_entries": "'samband audit list' shows the same entries; the table is for spreadsheets",
    "export_host_audit_entries": "'samband audit list' shows the same entries; the table is for spreadsheets",
    "get_schedule": "the schedule named default is shown by its name",
    "answer_challenge": "a sender's handshake; nobody else has a reason to ask",
    "come_back": "a browser comes there from the other side",
    "get_livez": "for whatever watches the process",
    "get_readyz": "for whatever watches the process",
    "get_metrics": "for Prometheus",
    "get_openapi": "for programs that are written against it",
}
"""Operation → why there is none."""

FIRST_ANSWERED = {"receive_delivery": {"address": "https://samband.example/webhooks/learning/the-key"}}
"""Operation → what the question before it has to be answered with."""


@dataclass
class Asked:
    """What the server was asked for, by the names of the operations, and what was wrong with it."""

    first_answer: Any = None
    operations: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        name, drawn = _operation(request.method, request.path)
        self.operations.append(name)
        known = {p["name"] for p in drawn.get("parameters", ()) if p["in"] == "query"}
        if name != "receive_delivery":
            self.wrong += [f"{name} has no parameter {query}" for query in set(request.query) - known]
            self.wrong += [f"{name}: {problem}" for problem in _body_problems(drawn, await request.read())]
        if self.first_answer is not None and len(self.operations) == 1:
            return web.json_response(self.first_answer)
        return web.json_response({"code": "seen", "detail": "Seen."}, status=404)


def _operation(method: str, path: str) -> tuple[str, Any]:
    for template, drawn in DOCUMENT["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if method.lower() in drawn and re.fullmatch(pattern, path) and not _has_a_plainer_one(template, path):
            return drawn[method.lower()]["operationId"], drawn[method.lower()]
    raise AssertionError(f"the document has no {method} {path}")


def _has_a_plainer_one(template: str, path: str) -> bool:
    return template != path and path in DOCUMENT["paths"]


def _body_problems(drawn: Any, body: bytes) -> list[str]:
    content = drawn.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return ["it takes no body"] if body and "requestBody" not in drawn else []
    if not body:
        return ["it wants a body"] if drawn["requestBody"].get("required") else []
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(json.loads(body))]


@pytest.fixture
def asked(loopback: Callable[[web.Application], str], monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked, app = Asked(), web.Application()
    app.router.add_route("*", "/{path:.*}", asked.answer)
    monkeypatch.setenv("SAMBAND_URL", loopback(app))
    monkeypatch.setenv("SAMBAND_API_KEY", "smb_0123456789ab_secret")
    return asked


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Gives the words of a line, with its files written."""
    import os
    import shlex

    claim = {"payee": {"id": "p"}, "currency": "NOK", "status": "approved",
             "lines": [{"expense_type": "toll", "amount": "1.00", "date": "2026-03-01"}]}  # fmt: skip
    claim["id"] = "c-1"
    mapping = {
        "mapping": {"payee": {"strategy": "liability", "account": "2990"}, "expense_types": {"toll": {"account": "1"}}}
    }
    contents = {
        "mapping": mapping,
        "object": {},
        "claim": claim,
        "claims": [claim],
        "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    }
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
    files = {name: str(tmp_path / name) for name in contents}
    return lambda line: shlex.split(line.format(id=ID, url=os.environ["SAMBAND_URL"], **files))


@pytest.mark.parametrize("operation", COMMANDS)
def test_operation_is_asked_for_by_its_command(
    operation: str, asked: Asked, words: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked.first_answer = FIRST_ANSWERED.get(operation)
    code = run([*words(COMMANDS[operation]), "--json"])
    written = capsys.readouterr()
    assert [] == asked.wrong
    assert operation == asked.operations[-1], written
    assert (3, "seen") == (code, json.loads(written.out)["error"]["code"])


@pytest.mark.parametrize(
    ("line", "item", "named"),
    [
        ("org list", {"id": "{}", "name": "N", "created_at": "2026-03-02T01:30:00Z"}, "organizations"),
        ("integration list hlf", {"type": "{}", "display_name": "N", "state": "saved"}, "integrations"),
        ("overview", {"organization": "{}", "type": "crm"}, "integrations"),
    ],
)
def test_listing_that_comes_in_parts_is_shown_whole(
    line: str, item: dict[str, str], named: str, loopback: Callable[[web.Application], str],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    async def answer(request: web.Request) -> web.Response:
        first = int(request.query.get("after", 0))
        items = [{name: value.format(n) for name, value in item.items()} for n in range(first, first + 2)]
        return web.json_response({"items": items, "next": str(first + 2) if first < 6 else None})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    monkeypatch.setenv("SAMBAND_URL", loopback(app))
    monkeypatch.setenv("SAMBAND_API_KEY", "smb_0123456789ab_secret")
    assert 0 == run([*line.split(), "--json"])
    shown = json.loads(capsys.readouterr().out)[named]
    assert [str(n) for n in range(8)] == [next(iter(one.values())) for one in shown]


def test_every_operation_has_a_command_or_a_reason() -> None:
    operations = {
        drawn["operationId"] for methods in DOCUMENT["paths"].values() for drawn in methods.values()
        if isinstance(drawn, dict) and "operationId" in drawn
    }  # fmt: skip
    assert operations == {*COMMANDS, *WITHOUT_A_COMMAND}
    assert not set(COMMANDS) & set(WITHOUT_A_COMMAND)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    handlers, level, settings = logging.root.handlers[:], logging.root.level, structlog.get_config()
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.configure(**settings)
