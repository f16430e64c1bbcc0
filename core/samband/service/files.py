"""Files: those that carried items out, where they go, and the reports that come back."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import SecretStr, ValidationError

from samband.adapters.adapter import Adapter
from samband.contract import Batch, Item
from samband.errors import ConfigurationError, ConflictError, FieldProblem, InvalidError, UnavailableError
from samband.kinds import field_problems
from samband.rules.posting import from_row
from samband.service.parts import Parts
from samband.store.drops import KeptPoint, no_drop
from samband.store.files import FileFacts
from samband.store.models import ExportItem, Integration
from samband.twin import Doors, FolderPoint, Point, PointSecret, parse_point
from samband.twin.manifest import batch_id
from samband.twin.plain import MEDIA_TYPE, plain_name, plain_of
from samband.twin.reports import MAX_REPORT_BYTES, point_of, secret_bytes
from samband.twin.sftp import key_problem
from samband.views import FeedPage
from samband.views.files import AcknowledgedView, AcknowledgementView, DropTestView, DropView, ExportFileView

Profile = Literal["machine", "human", "json"]
_REPORT_NAME: Final = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file on its way to whoever asked for it. ``content`` names people and their bank accounts."""

    name: str
    media_type: str
    content: bytes = field(repr=False)
    sha256: str


class Files:
    """Kept files, drop points, reports."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._doors = Doors(drop_root=parts.drop_root, egress=parts.egress, redactor=parts.redactor)

    # ── kept files ───────────────────────────────────────────────────────────

    async def page(
        self, org: str, *, type: str | None = None, after: str | None = None, limit: int = 100
    ) -> FeedPage:  # fmt: skip
        """Gives files, newest first, without what is in them."""
        await self._parts.store.catalog.organization(org)
        integration = None if type is None else await self._parts.integration(org, type)
        found = await self._parts.store.files.page(
            org, integration_id=None if integration is None else integration.id, after=after, limit=limit + 1
        )
        items = [_file_view(facts) for facts in found[:limit]]
        return FeedPage(items=items, next=items[-1].id if len(found) > limit else None)

    async def fetch(self, org: str, id: str, profile: Profile = "machine", *, is_noted: bool = True) -> Fetched:
        """Gives a file: the very bytes that are kept, or the same vouchers as a sheet for people or as JSON. That is audited.

        Args:
            is_noted: False for a look that gives nobody the content.

        Raises:
            NotFoundError: There is no such file.
            ConflictError: The plugin makes no sheets for people.
        """
        await self._parts.store.catalog.organization(org)
        facts = await self._parts.store.files.get(org, id)
        if profile == "machine":
            content = await self._parts.store.files.content(facts)
            fetched = Fetched(name=facts.name, media_type=facts.media_type, content=content, sha256=facts.digest)
        elif profile == "json":
            fetched = await self._for_programs(facts)
        else:
            fetched = await self._for_people(facts)
        if is_noted:
            await self._parts.store.files.note_fetched(facts, profile)
        return fetched

    async def _for_people(self, facts: FileFacts) -> Fetched:
        integration = await self._parts.store.catalog.integration_by_id(facts.integration_id)
        adapter = self._adapter(integration, "render", "writes no files")
        carried = await self._parts.store.files.carried(facts)
        items = [_item(item, body) for item, body in carried]
        batch = Batch(id=batch_id(items), items=items, route=carried[0][0].route if carried else None)
        file = await adapter.render(await self._parts.connection(integration), batch, "human")
        digest = hashlib.sha256(file.content).hexdigest()
        return Fetched(name=file.name, media_type=file.media_type, content=file.content, sha256=digest)

    async def _for_programs(self, facts: FileFacts) -> Fetched:
        carried = await self._parts.store.files.carried(facts)
        content = plain_of(facts, [_item(item, body) for item, body in carried])
        digest = hashlib.sha256(content).hexdigest()
        return Fetched(name=plain_name(facts), media_type=MEDIA_TYPE, content=content, sha256=digest)

    # ── reports ──────────────────────────────────────────────────────────────

    async def acknowledge(self, org: str, type: str, name: str, content: bytes) -> AcknowledgementView:
        """Settles items by the other side's report of a file it took in; the same report again changes nothing.

        Raises:
            InvalidError: It is empty, too large, or no such report.
            ConflictError: The plugin reads no reports.
        """
        integration = await self._parts.integration(org, type)
        adapter = self._adapter(integration, "acknowledge", "reads no reports")
        _check_report(name, content)
        receipts = await adapter.acknowledge(await self._parts.connection(integration), name, content)
        told = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        found = await self._parts.store.reports.settle_by_report(integration, receipts, told, name=name)
        keys = [item.key for item, _ in found.settled] + [item.key for item in found.unchanged]
        await self._parts.store.files.acknowledge(integration.id, keys)
        settled = [
            AcknowledgedView(key=item.key, reimbursement=item.reimbursement_id, state=state, changed=True)
            for item, state in found.settled
        ]
        unchanged = [
            AcknowledgedView(key=item.key, reimbursement=item.reimbursement_id, state=item.state, changed=False)
            for item in found.unchanged
        ]
        return AcknowledgementView(
            name=name, settled=len(settled), unchanged=len(unchanged), items=[*settled, *unchanged],
            unknown=list(found.unknown),
        )  # fmt: skip

    def _adapter(self, integration: Integration, capability: str, without: str) -> Adapter:
        adapter = self._parts.registry.adapter(integration.plugin)
        if capability not in adapter.manifest.capabilities:
            raise ConflictError(f"{adapter.manifest.title} {without}.", code=f"{capability}_unsupported")
        return adapter

    # ── drop points ──────────────────────────────────────────────────────────

    async def drop(self, org: str, type: str) -> DropView:
        """Gives where an integration's files go; `NotFoundError` when it has no drop point."""
        integration = await self._parts.integration(org, type)
        return _drop_view(integration, await self._point(integration))

    async def put_drop(
        self, org: str, type: str, settings: Mapping[str, Any], *, password: SecretStr | None = None,
        private_key: SecretStr | None = None, passphrase: SecretStr | None = None, if_revision: int | None = None,
    ) -> DropView:  # fmt: skip
        """Sets where files go. Without a secret the present one stays, unless the server or the user is another.

        Raises:
            InvalidError: Names every field at fault.
            ConflictError: Folders are not open on this host, or somebody has changed it since ``if_revision``.
        """
        integration = await self._parts.integration(org, type)
        self._adapter(integration, "render", "writes no files")
        point = _parsed(settings)
        secret = PointSecret(password=password, private_key=private_key, passphrase=passphrase)
        present = await self._parts.store.drops.find(integration.id)
        given = password is not None or private_key is not None
        keep = not given and present is not None and _is_same_account(present.settings, point)
        self._check_drop(point, secret, is_kept=keep and present is not None and present.secret is not None)
        hint = ""
        if given:
            shown = (password or private_key or SecretStr("")).get_secret_value().strip()
            hint = "" if private_key is not None or len(shown) < 12 else shown[-4:]
        await self._parts.store.drops.put(
            integration, point.model_dump(mode="json"), secret=secret_bytes(secret) if given else None, hint=hint,
            keep_secret=keep, if_revision=if_revision,
        )  # fmt: skip
        return _drop_view(integration, await self._point(integration))

    async def remove_drop(self, org: str, type: str, *, if_revision: int | None = None) -> DropView:
        """Forgets where files go and what signs in there. What lies there stays there."""
        integration = await self._parts.integration(org, type)
        view = _drop_view(integration, await self._point(integration))
        await self._parts.store.drops.remove(integration, if_revision=if_revision)
        return view

    async def test_drop(self, org: str, type: str) -> DropTestView:
        """Looks at the drop point: signs in and lists it. Nothing is written. Trouble there is the answer, no error."""
        integration = await self._parts.integration(org, type)
        await self._point(integration)
        connection = await self._parts.connection(integration)
        checked_at = dt.datetime.now(dt.UTC)
        try:
            point, secret = await point_of(self._parts.store, connection)
            async with self._doors.opened(point, secret, organization_id=org, plugin=type) as place:
                files, reports = len(await place.entries("")), len(await place.entries(point.acknowledged))
        except (UnavailableError, ConfigurationError) as error:
            return DropTestView(
                ok=False, checked_at=checked_at, message=error.message, hint=error.hint, code=error.code
            )
        message = f"It can be listed: {files} files, {reports} reports. Whether it can be written to is not tried."
        return DropTestView(ok=True, checked_at=checked_at, message=message, files=files, reports=reports)

    async def _point(self, integration: Integration) -> KeptPoint:
        found = await self._parts.store.drops.find(integration.id)
        if found is None:
            raise no_drop()
        return found

    def _check_drop(self, point: Point, secret: PointSecret, *, is_kept: bool) -> None:
        problems: list[FieldProblem] = []
        has_password, has_key = secret.password is not None, secret.private_key is not None
        if isinstance(point, FolderPoint):
            if self._parts.drop_root is None:
                raise ConflictError(
                    "This host puts no files into folders.", code="drop_root_missing",
                    hint="Whoever runs the host sets SAMBAND_DROP_ROOT; or use a drop point on an SFTP server.",
                )  # fmt: skip
            if has_password or has_key or secret.passphrase is not None:
                problems.append(_problem("password", "A folder has no user: leave password and private_key out."))
        elif has_password == has_key and not (is_kept and not has_password):
            problems.append(_problem("password", "Give a password or a private_key, one of them."))
        elif secret.passphrase is not None and not has_key:
            problems.append(_problem("passphrase", "A passphrase belongs to a private_key."))
        elif (wrong := key_problem(secret)) is not None:
            problems.append(_problem("private_key", wrong))
        if problems:
            raise InvalidError("The drop point is not valid.", problems=problems)


def _parsed(settings: Mapping[str, Any]) -> Point:
    try:
        return parse_point(settings)
    except ValidationError as error:
        wrong = [
            FieldProblem(field=f"settings.{p.field}".rstrip("."), code=p.code, message=p.message)
            for p in field_problems(error)
        ]
    raise InvalidError("The drop point is not valid.", problems=wrong)


def _is_same_account(present: Mapping[str, Any], point: Point) -> bool:
    """Tells whether a secret may stay: whoever points it at a server of theirs must not be handed the old one's."""
    fresh = point.model_dump(mode="json")
    return all(present.get(name) == fresh.get(name) for name in ("kind", "host", "port", "user", "host_keys"))


def _check_report(name: str, content: bytes) -> None:
    problems = []
    if not _REPORT_NAME.fullmatch(name):
        problems.append(_problem("name", "Use 1 to 200 characters, without slashes and control characters."))
    if not content:
        problems.append(_problem("body", "Send the report as it is, as the body."))
    if len(content) > MAX_REPORT_BYTES:
        problems.append(_problem("body", f"A report has at most {MAX_REPORT_BYTES} bytes."))
    if problems:
        raise InvalidError("The report cannot be read.", problems=problems)


def _problem(name: str, message: str) -> FieldProblem:
    return FieldProblem(field=name, code="invalid", message=message)


def _item(item: ExportItem, body: Mapping[str, Any]) -> Item:
    if item.voucher is not None:
        return Item(key=item.key, stream=item.stream, values={}, voucher=from_row(item.key, item.voucher))
    return Item(key=item.key, stream=item.stream, values=body)


def _file_view(facts: FileFacts) -> ExportFileView:
    return ExportFileView(
        id=facts.id, organization=facts.organization_id, integration=facts.integration_id, run=facts.run_id,
        name=facts.name, media_type=facts.media_type, size=facts.size, sha256=facts.digest, rows=facts.rows,
        items=len(facts.keys), keys=facts.keys, state=facts.state, created_at=facts.created_at,
        delivered_at=facts.delivered_at, acknowledged_at=facts.acknowledged_at,
    )  # fmt: skip


def _drop_view(integration: Integration, point: KeptPoint) -> DropView:
    return DropView(
        organization=integration.organization_id, type=integration.plugin, settings=point.settings,
        has_secret=point.secret is not None, secret_hint=point.hint, revision=point.revision,
        updated_at=point.updated_at,
    )  # fmt: skip
