"""``samband keys``: the master keys that secrets are encrypted with, for whoever runs the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from samband.cli.hosting import host_settings, run_loop
from samband.cli.options import DataDir, Json
from samband.cli.output import ExitCode, note, show, table

if TYPE_CHECKING:
    from samband.store.rotation import Verified

app = typer.Typer(help="Master keys: generate, rotate, verify. (API keys are under 'samband key'.)")


@app.callback()
def _group() -> None:
    """Master keys: generate, rotate, verify. (API keys are under 'samband key'.)"""


@app.command("generate")
def generate(
    print_only: Annotated[
        bool, typer.Option("--print", help="Write a new key to standard output and change nothing.")
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="The key file is gone for good: begin a new one. What was sealed before stays closed, and every "
            "credential has to be entered again.",
        ),
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Adds a master key to the data directory's keys.json; it encrypts from now on, and the others go on decrypting.

    A host that runs takes it up by itself. Where the keys come from SAMBAND_KEY or SAMBAND_KEY_FILE, make one with
    --print and add it there at the end. Back the keys up apart from the database: without them nobody can open it.
    """
    from samband.hosting import masterkeys
    from samband.store.keyring import new_key

    if print_only:
        key = new_key()
        show({"key": key}, [key], as_json=json)
        return
    key_id, path = run_loop(masterkeys.add_key(host_settings(data_dir=data_dir), accept_loss=accept_loss))
    text = f"Key {key_id} was added to {path} and encrypts from now on."
    show({"id": key_id, "file": str(path)}, [text], as_json=json)
    note("Back the file up, then run 'samband keys rotate' to bring what is there to the new key.")


@app.command("rotate")
def rotate(data_dir: DataDir = None, json: Json = False) -> None:
    """Encrypts everything again that is not encrypted with the newest key. The host may go on working.

    May be stopped at any moment and run again, also several at once. Every process of the host must know the newest
    key before. Ends with 1 when something could not be opened; 'samband keys verify' then says what.
    """
    from samband.hosting import masterkeys

    done = run_loop(masterkeys.rotate_keys(host_settings(data_dir=data_dir)))
    total = done.sealed_again.total()
    document = {"key": done.key, "sealed_again": total, "columns": dict(done.sealed_again), "unopened": done.unopened}
    lines = [f"Sealed again under key {done.key}: {total}."]
    lines += [f"  {column}: {number}" for column, number in sorted(done.sealed_again.items())]
    if done.unopened:
        lines.append(f"Could not be opened and stay as they are: {done.unopened}. See: samband keys verify")
    show(document, lines, as_json=json)
    if done.unopened:
        raise typer.Exit(ExitCode.FAILED)


@app.command("verify")
def verify(data_dir: DataDir = None, json: Json = False) -> None:
    """Opens every encrypted value and says which keys are in use. Ends with 1 when one cannot be opened."""
    from samband.hosting import masterkeys

    found = run_loop(masterkeys.verify_keys(host_settings(data_dir=data_dir)))
    document = {
        "ok": found.is_ok, "values": found.columns.total(), "keys": dict(found.keys), "columns": dict(found.columns),
        "due": found.due, "missing": dict(found.missing), "broken": found.broken, "examples": found.examples,
    }  # fmt: skip
    show(document, lambda: _lines(found), as_json=json)
    if not found.is_ok:
        raise typer.Exit(ExitCode.FAILED)


def _lines(found: Verified) -> Iterable[str]:
    newest = list(found.keys)[-1]
    rows = [(key, number, _role(key, newest, number)) for key, number in found.keys.items()]
    rows += [(key, number, "MISSING: these cannot be opened") for key, number in found.missing.items()]
    yield from table(("Key", "Values", "What it is"), rows)
    for column, number in sorted(found.columns.items()):
        yield f"{column}: {number}"
    if found.due:
        yield f"Not under the newest key, or in an older form: {found.due}. Run: samband keys rotate"
    if found.broken:
        yield f"Cannot be opened although the key is here: {found.broken}."
        yield from (f"  {example}" for example in found.examples)
    yield "Everything opens." if found.is_ok else "Not everything opens."


def _role(key: str, newest: str, number: int) -> str:
    if key == newest:
        return "encrypts and decrypts"
    return "decrypts" if number else "not in use; keep it as long as a backup needs it"
