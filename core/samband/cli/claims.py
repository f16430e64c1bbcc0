"""``samband claims``: claims in, their versions, corrections of what is in the books, and where the money is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from samband.cli.client import At
from samband.cli.files import read_bytes
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Revision, Url
from samband.cli.output import ExitCode, counts_text, facts, show
from samband.cli.wording import names_of
from samband.client.client import claim_path, correction_path, organization_path
from samband.errors import ConfigurationError, InvalidError
from samband.views.reimbursements import CorrectionState

__all__ = ["app"]

app = typer.Typer(
    help="Claims to be paid: put, list, show, versions, timeline; and corrections of what is in the books: corrections, "
    "approve, dismiss."
)

ClaimId = Annotated[str, typer.Argument(help="The claim's id, as the platform has it.")]
CorrectionId = Annotated[str, typer.Argument(help="The correction's id.")]
CLAIMS = Columns(
    "reimbursements",
    ("Id", "Status", "Total", "Currency", "Version", "Updated"),
    lambda one: (one["id"], one["status"], one["total"], one["currency"], one["version"], one["updated_at"]),
)
VERSIONS = Columns(
    "versions",
    ("Version", "Status", "Total", "Currency", "Told at", "By"),
    lambda one: (
        one["version"], one["status"], one["total"], one["currency"], one["created_at"], one["actor"] or "not known",
    ),
)  # fmt: skip
CORRECTIONS = Columns(
    "corrections",
    ("Id", "Claim", "State", "Would be", "Currency", "Changed", "Proposed at", "By"),
    lambda one: (
        one["id"], one["reimbursement"], one["state"], one["total"], one["currency"],
        ", ".join(one["changed"]) or "none", one["created_at"], one["proposed_by"],
    ),
)  # fmt: skip


@app.command("put")
def put(
    org: Org,
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help="JSON; - reads standard input.")],
    revision: Revision = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Tells claims, from a file because they name people and accounts: one object with its id, or a list of them.

    What is told again as it is changes nothing. With a list, 1 when any of them was refused; the others are stored.
    """
    told, at = _read(file), At(url, data_dir)
    if isinstance(told, list):
        _put_many(at, org, told, revision, json)
        return
    values = {name: value for name, value in told.items() if name != "id"}
    id, if_match = _id_of(told), None if revision is None else f'"{revision}"'
    view = at.order(lambda client: client.put_reimbursement(org, id, values, if_match=if_match))
    show(view, lambda: _claim_lines(view), as_json=json)


@app.command("list")
def list_claims(
    org: Org,
    status: Annotated[str | None, typer.Option("--status", help="Only these, for instance approved.")] = None,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists claims in the order of their ids."""
    path, part = organization_path(org) + "/reimbursements", Part(limit, after, every)
    show_part(At(url, data_dir), path, CLAIMS, part, as_json=json, status=status)


@app.command("show")
def show_claim(org: Org, id: ClaimId, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows one claim; whom it is for and its lines with --json."""
    found = At(url, data_dir).get(claim_path(org, id))
    show(found, lambda: _claim_lines(found), as_json=json)


@app.command("versions")
def list_versions(
    org: Org,
    id: ClaimId,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists a claim as it was told each time, newest first; what it said with --json."""
    path, part = claim_path(org, id) + "/versions", Part(limit, after, every)
    show_part(At(url, data_dir), path, VERSIONS, part, as_json=json)


@app.command("timeline")
def timeline(org: Org, id: ClaimId, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Tells where the money of a claim is: one sentence, then everything that led there, oldest first."""
    found = At(url, data_dir).get(claim_path(org, id) + "/timeline")
    show(found, lambda: _timeline_lines(found), as_json=json)


@app.command("corrections")
def list_corrections(
    org: Org,
    state: Annotated[str | None, typer.Option("--state", help=f"Only {names_of(CorrectionState)} ones.")] = None,
    claim: Annotated[str | None, typer.Option("--claim", help="Only of this claim.")] = None,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists changes to claims that are in the books, oldest first; what they would be with --json."""
    path, part = organization_path(org) + "/corrections", Part(limit, after, every)
    show_part(At(url, data_dir), path, CORRECTIONS, part, as_json=json, state=state, reimbursement=claim)


@app.command("correction")
def show_correction(org: Org, id: CorrectionId, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows one correction: each value that differs as it is and as it would be; the whole claim with --json."""
    found = At(url, data_dir).get(correction_path(org, id))
    show(found, lambda: _correction_lines(found), as_json=json)


@app.command("approve")
def approve(
    org: Org,
    id: CorrectionId,
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever asks later.")] = "",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Agrees to a correction: the claim takes the change, and its booking is reversed with the next export."""
    decided = At(url, data_dir).order(lambda client: client.approve_correction(org, id, reason=reason))
    show(decided, lambda: _correction_lines(decided), as_json=json)


@app.command("dismiss")
def dismiss(
    org: Org,
    id: CorrectionId,
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever asks later.")],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Closes a proposed correction; the claim and its booking stay as they are."""
    decided = At(url, data_dir).order(lambda client: client.dismiss_correction(org, id, reason=reason))
    show(decided, lambda: _correction_lines(decided), as_json=json)


def _read(file: Path) -> dict[str, Any] | list[Any]:
    try:
        found = orjson.loads(read_bytes(file, "claims"))
    except orjson.JSONDecodeError as error:
        problem = f"The claims are not JSON: the reading stopped at line {error.lineno}, column {error.colno}."
        raise ConfigurationError(problem, code="not_json", field="claims") from None
    if isinstance(found, dict) and set(found) == {"items"} and isinstance(found["items"], list):
        return list(found["items"])
    if not isinstance(found, dict | list):
        problem = "The claims must be a JSON object with the claim's id, or a list of such."
        raise ConfigurationError(problem, code="not_json", field="claims")
    return found


def _id_of(claim: Mapping[str, Any]) -> str:
    id = claim.get("id")
    if not isinstance(id, str) or not id:
        raise ConfigurationError('The claim has no id; write it as "id" beside the other fields.', field="id")
    return id


def _put_many(at: At, org: str, claims: list[Any], revision: int | None, json: bool) -> None:
    if revision is not None:
        raise InvalidError("A revision can be given for one claim only.", code="bad_option")
    path = organization_path(org) + "/reimbursements"
    told = at.put(path, {"items": claims})
    show(told, lambda: _telling_lines(told), as_json=json)
    if told["refused"]:
        raise typer.Exit(ExitCode.FAILED)


def _telling_lines(told: Mapping[str, Any]) -> Iterable[str]:
    names = ("created", "updated", "unchanged", "proposed", "refused")
    yield f"Told: {counts_text({name: told[name] for name in names})}"
    for item in told["items"]:
        if item["outcome"] == "proposed":
            yield f"Proposed: {item['id']}, correction {item['correction']} waits for a person"
        for problem in item["problems"]:
            yield f"Refused: {item['id'] or 'without an id'}, {problem['field']}: {problem['message']}"


def _claim_lines(claim: Mapping[str, Any]) -> Iterable[str]:
    correction = claim["correction"]
    return facts(
        ("Claim", f"{claim['organization']}/{claim['id']}"), ("Status", claim["status"]),
        ("Total", f"{claim['total']} {claim['currency']}"), ("Lines", len(claim["values"].get("lines", ()))),
        ("Revision", claim["version"]), ("Updated", claim["updated_at"]),
        ("Open correction", f"{correction}; the claim is in the books" if correction else None),
    )  # fmt: skip


def _correction_lines(correction: Mapping[str, Any]) -> Iterable[str]:
    is_now = correction["total_before"]
    yield from facts(
        ("Correction", correction["id"]), ("Claim", f"{correction['organization']}/{correction['reimbursement']}"),
        ("State", correction["state"]), ("Total now", f"{is_now} {correction['currency_before']}" if is_now else None),
        ("Total would be", f"{correction['total']} {correction['currency']}"),
        ("Item", correction["item"]), ("Reversal", correction["reversal"]),
        ("Proposed by", correction["proposed_by"]), ("Proposed at", correction["created_at"]),
        ("Decided by", correction["decided_by"]), ("Decided at", correction["decided_at"]),
        ("Reason", correction["reason"]),
    )  # fmt: skip
    for change in correction["changes"]:
        yield f"Change {change['field']}: {_value(change['before'])} becomes {_value(change['after'])}"


def _value(value: object) -> str:
    if value is None or value == "":
        return "nothing"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _timeline_lines(found: Mapping[str, Any]) -> Iterable[str]:
    yield found["summary"]
    if found["left_out"]:
        yield f"The oldest {found['left_out']} versions are not listed here; see 'samband claims versions'."
    for entry in found["items"]:
        yield f"{entry['at']}: {entry['text']}"
    yield from _item_lines(found)


def _item_lines(timeline: Mapping[str, Any]) -> Iterable[str]:
    """Names the key of each item once, with what was heard of it last, for the commands that take one."""
    last = {entry["key"]: entry for entry in timeline["items"] if entry["key"] and entry["what"] != "looked_up"}
    for key, entry in last.items():
        number = f", voucher {entry['number']}" if entry["number"] else ""
        yield f"Item {key}: export {entry['export']}{number}, {entry['what']}"
    for key in (key for key, entry in last.items() if entry["what"] == "uncertain"):
        yield (
            "If you have looked into the books: samband export resolve "
            f"{timeline['organization']} {key} --outcome booked|not_booked --reason WHY"
        )
