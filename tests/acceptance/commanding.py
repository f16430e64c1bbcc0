"""Two small systems that need nothing from outside, and typing commands as a person would."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .conftest import install_plugin

HEAD = """
import datetime as dt, json, os, pathlib
from decimal import Decimal
from pydantic import SecretStr
from samband import (
    ConsentRequest, CredentialsModel, Manifest, Page, Receipt, Record, SettingsModel, Stream, Token, Trigger, hookimpl,
    webhooks,
)
"""

LEARNING = """
class Settings(SettingsModel):
    gone: int = 0

class Credentials(CredentialsModel):
    secret: SecretStr

manifest = Manifest(
    name="learning", title="Learning", version="1.0", settings=Settings, credentials=Credentials,
    streams=(
        Stream(name="people", kind="member", title="People"),
        Stream(name="memberships", kind="membership", title="Memberships", references={"member": "people"}),
        Stream(name="courses", kind="course", title="Courses"),
        Stream(name="enrollments", kind="course_enrollment", title="Enrolments",
               references={"course": "courses", "member": "people"}),
    ),
    capabilities=frozenset({"sync", "fetch", "webhook"}), webhook="standard-webhooks",
    field_classes=frozenset({"plain", "personal", "special"}), egress_hosts=lambda settings: {"auth.example.org"},
    consent=lambda settings, credentials: ConsentRequest(
        authorize_url="https://auth.example.org/authorize", token_url="https://auth.example.org/token", client_id="c"),
)

def rows(stream, settings):
    if stream == "people":
        bad = [Record(key="p-bad", values={"status": "no such status", "first_name": "Ola"})]
        whole = [Record(key=f"p{n}", values={"status": "active", "first_name": f"Kari {n}"}) for n in range(30)]
        return whole[settings.gone:] + bad
    if stream == "memberships":
        return [Record(key="m1", values={"member": "p29", "status": "active"})]
    if stream == "courses":
        return [Record(key="c1", values={"title": "Sign language", "status": "open"})]
    return [Record(key="e1", values={"course": "c1", "member": "p29", "status": "enrolled"})]

@hookimpl
async def authenticate(ctx):
    if ctx.credentials.secret.get_secret_value() == "broken":
        raise KeyError("a defect")
    return Token(value=SecretStr("a-token"), expires_at=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))

@hookimpl
async def sync(ctx, stream, cursor):
    yield Page(records=rows(stream, ctx.settings), complete=True, cursor="c")

@hookimpl
async def fetch(ctx, stream, selection):
    yield Page(records=[r for r in rows(stream, ctx.settings) if not selection.keys or r.key in selection.keys],
               complete=True)

@hookimpl
async def handle_webhook(ctx, request):
    webhooks.verify_standard_webhooks(request)
    return [Trigger(stream="people", keys=["p29"])]
"""

BOOKS = """
class Settings(SettingsModel): pass
class Credentials(CredentialsModel): pass

manifest = Manifest(
    name="books", title="Books", version="1.0", settings=Settings, credentials=Credentials,
    streams=(Stream(name="vouchers", kind="reimbursement", title="Vouchers", direction="push"),),
    capabilities=frozenset({"export", "find_exported"}), field_classes=frozenset({"plain", "personal"}),
)

@hookimpl
async def authenticate(ctx):
    return Token(value=SecretStr("a-token"))

@hookimpl
async def export(ctx, batch):
    for item in batch.items:
        yield Receipt(key=item.key, state="accepted", reference="V-" + item.values["payee"]["id"])

@hookimpl
async def find_exported(ctx, keys):
    return
    yield
"""

CLAIM = {
    "payee": {"id": "p-17"}, "currency": "NOK", "status": "approved",
    "lines": [{"expense_type": "toll", "amount": "100.50", "date": "2026-03-01"}],
}  # fmt: skip


def install(folder: Path) -> None:
    """Puts both plugins where ``PYTHONPATH`` can point."""
    install_plugin(folder, "learning", LEARNING, head=HEAD)
    install_plugin(folder, "books", BOOKS, head=HEAD)


@dataclass
class Typed:
    """What a command wrote, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one document that was written to standard output."""
        return json.loads(self.out)


@dataclass
class Commands:
    """A shell in which commands are typed, each a process of its own."""

    url: str
    key: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def type(self, *words: str, stdin: bytes = b"") -> Typed:
        environment = {**os.environ, **self.environment, "SAMBAND_URL": self.url, "SAMBAND_API_KEY": self.key}
        done = subprocess.run(
            [sys.executable, "-m", "samband", *words], env=environment, input=stdin, capture_output=True, check=False,
            timeout=120, cwd=self.folder,
        )  # fmt: skip
        return Typed(done.returncode, done.stdout.decode(), done.stderr.decode())

    def file(self, name: str, content: object) -> str:
        """Writes a file and gives its path; what is not bytes is written as JSON."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return str(path)


class Entered(io.TextIOWrapper):
    """Standard input that holds these bytes."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
