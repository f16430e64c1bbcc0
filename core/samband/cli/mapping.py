"""``samband mapping``: how claims become vouchers, version by version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from samband.cli.client import At, HostClient
from samband.cli.files import read_object
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Revision, Type, Url
from samband.cli.output import ExitCode, facts, note, show
from samband.client.client import integration_path

app = typer.Typer(help="How claims become vouchers: show, put, history, diff, restore, preview, check, chart.")

File = Annotated[Path, typer.Option("--file", help="JSON file with the mapping; - reads standard input.")]
From = Annotated[
    str | None, typer.Option("--effective-from", help="First day it is in force, as 2027-01-01; else at once.")
]
Note = Annotated[str, typer.Option("--note", help="Why, for people.")]

VERSIONS = Columns(
    "versions",
    ("Version", "In force from", "In force today", "Saved by", "Saved at", "Restored from", "Note"),
    lambda one: (
        one["version"], one["effective_from"], "yes" if one["is_active"] else "no", one["author"] or "unknown",
        one["created_at"][:19].replace("T", " "), one["restored_from"] or "none", one["note"] or "none",
    ),
)  # fmt: skip

ENTRIES = Columns(
    "entries",
    ("Kind", "Code", "Name", "State"),
    lambda one: (
        f"dimension {one['dimension']}" if one["dimension"] else one["kind"].replace("_", " "),
        one["code"] or f"{one['first']} to {one['last']}", one["name"], "open" if one["is_open"] else "closed",
    ),
)  # fmt: skip


def _path(org: str, type: str) -> str:
    return f"{integration_path(org, type)}/mapping"


@app.command("show")
def show_mapping(
    org: Org,
    type: Type,
    version: Annotated[int | None, typer.Option("--version", min=1, help="Another one than the newest.")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Shows a mapping in words; --json gives it as 'mapping put' takes it, under the name mapping."""
    path = _path(org, type) if version is None else f"{_path(org, type)}/versions/{version}"
    found = At(url, data_dir).get(path)
    show(found, lambda: [*_head_lines(found), *_mapping_lines(found["mapping"])], as_json=json)


@app.command("put")
def put_mapping(
    org: Org,
    type: Type,
    file: File = Path("-"),
    effective_from: From = None,
    note: Note = "",
    strict: Annotated[bool, typer.Option("--strict", help="Do not save what the other system would refuse.")] = False,
    revision: Revision = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Saves a mapping as the next version. The same mapping again is no new version."""
    body = {"mapping": _read(file), "effective_from": effective_from, "note": note, "strict": strict}
    saved = At(url, data_dir).put(_path(org, type), body, revision=revision)
    show(saved, lambda: [*_head_lines(saved), *_warning_lines(saved["warnings"])], as_json=json)


@app.command("history")
def history(
    org: Org,
    type: Type,
    limit: Limit = 50,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists the versions of a mapping, newest first."""
    part = Part(limit, after, every)
    show_part(At(url, data_dir), _path(org, type) + "/versions", VERSIONS, part, as_json=json)


@app.command("diff")
def diff(
    org: Org,
    type: Type,
    before: Annotated[
        int | None, typer.Option("--from", min=1, help="The one before the other, when not given.")
    ] = None,
    after: Annotated[int | None, typer.Option("--to", min=1, help="The newest, when not given.")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Says in sentences what differs between two versions."""
    found = At(url, data_dir).get(_path(org, type) + "/diff", **{"from": before, "to": after})
    show(found, lambda: _diff_lines(found), as_json=json)


@app.command("restore")
def restore(
    org: Org,
    type: Type,
    version: Annotated[int, typer.Argument(min=1, help="The version that is to be in force again.")],
    effective_from: From = None,
    note: Note = "",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Saves an earlier version once more, as the newest one."""
    body = {"version": version, "effective_from": effective_from, "note": note}
    saved = At(url, data_dir).post(_path(org, type) + "/restore", body)
    show(saved, lambda: [*_head_lines(saved), *_warning_lines(saved["warnings"])], as_json=json)


@app.command("preview")
def preview(
    org: Org,
    type: Type,
    ids: Annotated[
        list[str] | None, typer.Argument(help="Claims, five at most; else the newest approved ones.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="JSON file with a draft, - for standard input; else what is in force.")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Shows the vouchers that claims come to. Nothing is saved or sent; 1 when a claim comes to none."""
    body = {"ids": ids or None, "mapping": None if file is None else _read(file)}
    found = At(url, data_dir).post(_path(org, type) + "/preview", body)
    show(found, lambda: _preview_lines(found), as_json=json)
    if any(item["voucher"] is None for item in found["items"]):
        raise typer.Exit(ExitCode.FAILED)


@app.command("check")
def check(
    org: Org,
    type: Type,
    refresh: Annotated[bool, typer.Option("--refresh", help="Read the other system's accounts now.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Says what of the mapping does not hold at the other system; 1 when there is anything, or nobody can tell."""
    found = At(url, data_dir).get(_path(org, type) + "/check", refresh="true" if refresh else None)
    show(found, lambda: _check_lines(found), as_json=json)
    if not found["ok"]:
        raise typer.Exit(ExitCode.FAILED)


@app.command("chart")
def chart(
    org: Org,
    type: Type,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Only these: account, tax_rule, dimension or period.")
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", help="Only what has this in its code, name or days.")
    ] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Read it at the other system first, now.")] = False,
    limit: Limit = 50,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists what a mapping may refer to at the other system, as it was last read; 1 when --refresh could not read it."""
    base = f"{integration_path(org, type)}/chart"

    async def question(host: HostClient) -> dict[str, Any]:
        if refresh:
            await host.post(f"{base}/refresh")
        return await host.part(base, limit=None if every else limit, after=after, kind=kind, q=search)

    page = At(url, data_dir).ask(question)
    document = {ENTRIES.name: page.pop("items"), **page}
    show(document, lambda: _chart_lines(document), as_json=json)
    if not json and document["next"] is not None:
        note(f"There are more. Go on with --after {document['next']}, or ask for --all.")
    if refresh and document["trouble"]:
        raise typer.Exit(ExitCode.FAILED)


def _read(file: Path) -> Mapping[str, Any]:
    """Gives the mapping in a file; one that 'mapping show --json' wrote has it under its name."""
    found = read_object(file, "mapping")
    inner = found.get("mapping")
    return inner if isinstance(inner, dict) and "payee" not in found else found


# ── in words ─────────────────────────────────────────────────────────────────


def _head_lines(one: Mapping[str, Any]) -> Iterable[str]:
    active = one["active_version"]
    return facts(
        ("Mapping", f"{one['organization']}/{one['type']}, version {one['version']}"),
        ("In force from", one["effective_from"]),
        ("In force today", one["is_active"]),
        ("Version in force today", None if one["is_active"] else active or "none"),
        ("Newest version", None if one["is_newest"] else "no, there is a newer one"),
        ("Saved by", one["author"]),
        ("Restored from version", one["restored_from"]),
        ("Note", one["note"]),
    )


def _mapping_lines(body: Mapping[str, Any]) -> Iterable[str]:
    payee = body["payee"]
    yield from facts(
        ("Voucher type", body["voucher_type"] or "as the other system has it"),
        ("Vouchers bear the day of", {"approved": "the approval", "expense": "the latest expense"}[body["date"]]),
        ("When that period is closed", {"hold": "wait", "next_open": "next open period"}[body["closed_period"]]),
        ("Debt to the person", f"account {payee['account']}, {payee['strategy']} {payee['code'] or ''}".rstrip()),
        ("Dimensions of every expense line", _pairs(body["dimensions"])),
    )
    for name, rule in sorted(body["expense_types"].items()):
        yield f"Expense type {name}: {_rule(rule)}"
    for name, rows in sorted(body["rates"].items()):
        for row in rows:
            yield f"Rate table {name}: from {row['valid_from']} {row['rate']}, of which tax-free {row['tax_free']}"
    for name, table in sorted(body["lookups"].items()):
        rest = "is a gap" if table["default"] is None else f"is {table['default']}"
        yield f"Lookup table {name}: entries {len(table['entries'])}, anything else {rest}"


def _rule(rule: Mapping[str, Any]) -> str:
    if rule["excluded"]:
        return "excluded, claims that have it are left out"
    said = [f"account {rule['account']}"]
    if rule["tax_rule"]:
        said.append(f"tax rule {rule['tax_rule']}")
    if rule["dimensions"]:
        said.append(f"dimensions {_pairs(rule['dimensions'])}")
    if rule["allowance"]:
        allowance = rule["allowance"]
        said.append(f"tax-free by rate table {allowance['rates']}, the rest to account {allowance['taxable_account']}")
    return ", ".join([*said, f'text "{rule["text"]}"'])


def _pairs(values: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {'taken away' if code is None else code}" for name, code in sorted(values.items()))


def _warning_lines(warnings: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    return (f"Warning: {warning['field']}: {warning['message']}" for warning in warnings)


def _diff_lines(found: Mapping[str, Any]) -> Iterable[str]:
    number = len(found["differences"])
    yield f"Version {found['after']} beside version {found['before']}: {number or 'no'} field{'s' * (number != 1)} differ."
    yield from (difference["words"] for difference in found["differences"])


def _preview_lines(found: Mapping[str, Any]) -> Iterable[str]:
    yield f"Mapping: {'the draft' if found['version'] is None else 'version ' + str(found['version'])}"
    if not found["items"]:
        yield "There is no approved claim to show it on."
    for item in found["items"]:
        yield from _claim_lines(item)
    yield from (f"Lacking: {gap['message']}" for gap in found["gaps"])


def _claim_lines(item: Mapping[str, Any]) -> Iterable[str]:
    voucher = item["voucher"]
    if voucher is None:
        problem = item["problem"]
        yield f"Claim {item['claim']}: no voucher. {problem['message']} ({problem['code']}, {problem['field']})"
        return
    yield f"Claim {item['claim']}: voucher of {voucher['date']}, {len(voucher['lines'])} lines"
    for line in voucher["lines"]:
        yield f"  {line['n']}. {_line(line, voucher['currency'])}"
    yield f"  Sum: debit {voucher['debit']}, credit {voucher['credit']} {voucher['currency']}"


def _line(line: Mapping[str, Any], currency: str) -> str:
    amount = f"debit {line['debit']}" if line["debit"] else f"credit {line['credit']}"
    named = f" {line['account_name']}" if line["account_name"] else ""
    said = [f"Account {line['account']}{named}", f"{amount} {currency}", f'text "{line["text"]}"']
    more = (
        ("tax rule", line["tax_rule"]), ("dimensions", _pairs(line["dimensions"])), ("owed to", line["payee"]),
        ("kilometres", line["kilometres"]),
    )  # fmt: skip
    return ", ".join([*said, *(f"{name} {value}" for name, value in more if value)])


def _check_lines(found: Mapping[str, Any]) -> Iterable[str]:
    yield f"Mapping: {found['organization']}/{found['type']}, version {found['version']}"
    yield f"Accounts read: {found['read_at'] or 'never'}"
    if found["trouble"]:
        yield f"The last reading failed: {found['trouble']['message']}"
    if found["read_at"]:
        yield f"Found: {len(found['findings']) or 'nothing'}"
    yield from (f"{finding['field']}: {finding['message']}" for finding in found["findings"])
    if found["unchecked"]:
        yield f"Not listed by the other system, so not checked: {', '.join(found['unchecked'])}"


def _chart_lines(found: Mapping[str, Any]) -> Iterable[str]:
    yield f"Read at: {found['read_at'][:19].replace('T', ' ')}"
    if found["trouble"]:
        yield f"The last reading failed: {found['trouble']['message']}"
    if found["unlisted"]:
        yield f"Not listed by the other system: {', '.join(found['unlisted'])}"
    yield from ENTRIES.lines(found[ENTRIES.name])
