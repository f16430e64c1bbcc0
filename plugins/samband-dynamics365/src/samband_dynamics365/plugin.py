"""Microsoft Dynamics 365 as an integration: the manifest and the hooks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from importlib.metadata import version

from samband import (
    AuthError,
    Check,
    Context,
    Limits,
    Manifest,
    Page,
    Record,
    RemoteError,
    Selection,
    Stream,
    Token,
    Trigger,
    WebhookRequest,
    client_credentials_token,
    hookimpl,
)
from samband_dynamics365.client import Answer, Dataverse, Definition, LoopGuard, Position
from samband_dynamics365.records import contact_to_member, row_to_membership, split_rows, user_to_member
from samband_dynamics365.refusals import NO_ROLE, explain_sign_in
from samband_dynamics365.settings import DynamicsCredentials, DynamicsSettings, Table
from samband_dynamics365.webhooks import triggers_of


def _egress_hosts(settings: DynamicsSettings) -> tuple[str, ...]:
    return (settings.environment_host, settings.authority_host)


_Split = tuple[list[Record], list[str]]

manifest = Manifest(
    name="dynamics365",
    title="Microsoft Dynamics 365",
    version=version("samband-dynamics365"),
    settings=DynamicsSettings,
    credentials=DynamicsCredentials,
    capabilities=frozenset({"sync", "fetch", "check", "webhook"}),
    streams=(
        Stream(name="contacts", kind="member", title="Contacts", convert=contact_to_member),
        Stream(
            name="staff",
            kind="member",
            title="Staff",
            convert=user_to_member,
            enabled=lambda settings: settings.staff,
        ),
        Stream(
            name="memberships",
            kind="membership",
            title="Memberships",
            convert=row_to_membership,
            references={"member": "contacts"},
            enabled=lambda settings: settings.memberships is not None,
        ),
    ),
    field_classes=frozenset({"plain", "personal", "special"}),
    egress_hosts=_egress_hosts,
    # The service allows 6,000 requests in 300 s and 52 at once per user; the rest is headroom for others who use it.
    limits=Limits(requests_per_s=15.0, concurrency=8),
    account=lambda settings: settings.environment_host,
    credentials_expire_at=lambda credentials: credentials.expires_at,
    simulator="samband_dynamics365.simulator",
    webhook="query",
)


@hookimpl
async def authenticate(ctx: Context) -> Token:
    """Gets an access token for the environment, with the app registration's secret or certificate."""
    settings: DynamicsSettings = ctx.settings
    credentials: DynamicsCredentials = ctx.credentials
    certificate = credentials.certificate_pem
    resource = settings.environment_url
    asked = {"v1": {"resource": resource}, "v2": {"scope": f"{resource}/.default"}}[settings.token_version]
    return await client_credentials_token(
        ctx,
        token_url=settings.token_url,
        client_id=credentials.client_id,
        client_secret=credentials.client_secret,
        private_key_pem=credentials.private_key_pem,
        certificate_pem=certificate.get_secret_value() if certificate else None,
        scope=asked.get("scope"),
        resource=asked.get("resource"),
        classify=explain_sign_in,
    )


@hookimpl
async def sync(ctx: Context, stream: str, cursor: str | None) -> AsyncIterator[Page]:
    """Reads a table: all of it first, and from then on what change tracking says has changed."""
    settings: DynamicsSettings = ctx.settings
    table = settings.tables[stream]
    dataverse = Dataverse(ctx.http, settings)
    if cursor is None:
        tracked = await _is_tracked(dataverse, table)
        start = Position(link=dataverse.first_link(table), tracked=tracked)
    else:
        start = Position.from_cursor(cursor, settings)
    guard = LoopGuard(start.link)
    link: str | None = start.link
    done = 0
    while link is not None:
        answer = await dataverse.page(link, table, tracked=start.tracked)
        records, deleted = split_rows(answer.rows, table)
        done += len(answer.rows)
        ctx.progress(done, None)
        link = answer.next_link
        if link is not None:
            guard.check(link, table)  # before the page is given away: a link that leads back must not become a cursor
        yield Page(
            records=records,
            deleted=deleted,
            cursor=_cursor_after(ctx, answer, table, tracked=start.tracked),
            complete=link is None,
        )
        del answer, records, deleted  # or two pages would be in memory while the next one is read


@hookimpl
async def fetch(ctx: Context, stream: str, selection: Selection) -> AsyncIterator[Page]:
    """Reads the rows with some ids, or those changed within a window, apart from change tracking.

    A row that is not found by its id is asked for once more by itself, because rows that the account may not see are left
    out of a list without a word. What was deleted within a window is not seen: the rows that would say so are gone.
    """
    settings: DynamicsSettings = ctx.settings
    table = settings.tables[stream]
    dataverse = Dataverse(ctx.http, settings)
    if not selection.keys:
        async with aclosing(_listed(dataverse, table, dataverse.window_link(table, selection))) as parts:
            async for records, _ in parts:
                yield Page(records=records)
        yield Page(complete=True)
        return
    asked = {key.lower(): key for key in selection.keys}
    links = dataverse.choice_links(table, list(asked))
    gone = asked.keys() - {key for _, keys in links for key in keys}
    for link, keys in links:
        missing, is_certain = dict.fromkeys(keys), True
        async with aclosing(_listed(dataverse, table, link)) as parts:
            async for records, accounts in parts:
                yield Page(records=records)
                gone |= asked.keys() & accounts
                for key in (*accounts, *(record.key for record in records)):
                    missing.pop(key or "", None)
                    is_certain = is_certain and bool(key)
        if is_certain:  # a row that came without its id may be one of those that are missing
            gone |= {key for key in missing if await dataverse.is_gone(table, key)}
    yield Page(deleted=[key for id, key in asked.items() if id in gone], complete=True)


@hookimpl
async def handle_webhook(ctx: Context, request: WebhookRequest) -> list[Trigger]:
    """Says which row a delivery is about; the row itself is read by ``fetch``."""
    return triggers_of(request, ctx.settings)


async def _listed(dataverse: Dataverse, table: Table, first: str) -> AsyncGenerator[_Split, None]:
    """Yields the pages behind a link, untracked: their records, and the keys of accounts that are no person."""
    guard = LoopGuard(first)
    link: str | None = first
    while link is not None:
        answer = await dataverse.page(link, table, tracked=False)
        link = answer.next_link
        if link is not None:
            guard.check(link, table)
        yield split_rows(answer.rows, table)


def _cursor_after(ctx: Context, answer: Answer, table: Table, *, tracked: bool) -> str | None:
    if answer.next_link is not None:
        return Position(link=answer.next_link, tracked=tracked).to_cursor()
    if answer.delta_link is not None:
        return Position(link=answer.delta_link, is_delta=True).to_cursor()
    ctx.log.warning("full_read_every_time", table=table.logical_name, reason="no link to later changes")
    return None


async def _is_tracked(dataverse: Dataverse, table: Table) -> bool:
    try:
        definition = await dataverse.definition(table)
    except AuthError as err:
        if err.reason != "missing_privilege" or err.code == NO_ROLE:
            raise
        return True  # may not read metadata: the service says itself when a table is not tracked
    if problems := _mismatches(definition, table):
        # Another id column would give every record a wrong key.
        raise RemoteError(
            f"The settings do not fit the environment: {problems[0]}.", code="table_mismatch", field=table.setting
        )
    return definition.is_tracked


def _mismatches(definition: Definition, table: Table) -> list[str]:
    pairs = (
        ("EntitySetName", definition.set_name, table.set_name),
        ("PrimaryIdAttribute", definition.primary_key, table.primary_key),
    )
    return [
        f"{name} of {table.logical_name} is {theirs}, and the settings say {ours}"
        for name, theirs, ours in pairs
        if theirs != ours
    ]


@hookimpl
async def check(ctx: Context) -> Check:
    """Signs in, names the environment, and reads one row of every mapped table the way a sync would."""
    settings: DynamicsSettings = ctx.settings
    dataverse = Dataverse(ctx.http, settings)
    user_id = await dataverse.user_id()
    name = await dataverse.organization_name() or settings.environment_host
    facts = {"Environment": name, "Application user": user_id}
    missing: list[str] = []
    for table in settings.tables.values():
        facts[f"Table {table.logical_name}"], lacks = await _inspect(dataverse, table, user_id)
        missing += lacks
    summary = f"Connected to {name}: {len(settings.tables)} table(s) can be read."
    return Check(
        summary=summary if not missing else f"Connected to {name}, but something is missing.",
        facts=facts,
        missing=missing,
    )


async def _inspect(dataverse: Dataverse, table: Table, user_id: str) -> tuple[str, list[str]]:
    """Gives what to show about a table, and what it lacks."""
    try:
        definition = await dataverse.definition(table)
        missing = _mismatches(definition, table) + await _missing_columns(dataverse, table)
    except RemoteError as err:
        if err.code != "table_not_found":
            raise
        return "not there", [f"table {table.logical_name}"]
    depths = await dataverse.privilege_depths(user_id, definition.read_privilege)
    if depths is not None and "Global" not in depths:
        missing.append(f"{definition.read_privilege} (organisation level)")
    elif not missing:
        missing += await _missing_for_reading(dataverse, table, definition)
    tracking = "change tracking on" if definition.is_tracked else "change tracking off: every read is a full one"
    return f"{table.set_name}, {len(table.columns)} columns, {tracking}", missing


async def _missing_columns(dataverse: Dataverse, table: Table) -> list[str]:
    there = await dataverse.columns(table)
    # Metadata knows a lookup by its own name, rows carry it as _name_value.
    wanted = {c: c[1:-6] if c.startswith("_") and c.endswith("_value") else c for c in table.columns}
    return [f"column {table.logical_name}.{column}" for column, name in wanted.items() if name not in there]


async def _missing_for_reading(dataverse: Dataverse, table: Table, definition: Definition) -> list[str]:
    # Reading one row the way a sync does proves what no list of rights can: change tracking needs the whole table.
    try:
        await dataverse.page(dataverse.first_link(table), table, tracked=definition.is_tracked, page_size=1)
    except AuthError as err:
        if err.reason != "missing_privilege" or err.code == NO_ROLE:
            raise
        return [f"{definition.read_privilege} (organisation level)"]
    return []
