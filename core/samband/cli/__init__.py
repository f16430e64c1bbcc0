"""The ``samband`` command. ``main`` is where it begins; `samband.cli.output.ExitCode` says how it can end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import structlog
import typer
from typer.exceptions import TyperException

import samband
from samband.cli import (
    audit,
    checks,
    claims,
    deciding,
    demo,
    drops,
    events,
    exportfiles,
    exports,
    health,
    hosting,
    integrations,
    interventions,
    keys,
    letters,
    mapping,
    ordering,
    organizations,
    plugins,
    reconcile,
    records,
    rereading,
    ring,
    schedules,
    simulate,
    subscriptions,
    sync,
    tokens,
    webhooks,
)
from samband.cli.client import take_environment
from samband.cli.output import ExitCode, fail, note
from samband.errors import ConfigurationError, SambandError
from samband.hosting.logs import configure_logging

__all__ = ["app", "main"]

_EPILOG = (
    "Exit codes: 0 ok; 1 the work failed; 2 usage or configuration; 3 not found; 4 conflict, for instance already "
    "running; 5 not reachable or not ready; 6 access refused; 70 a fault in samband itself."
)
# What typer, like a shell, gives for a command that SIGINT ended.
_INTERRUPTED = 130

app = typer.Typer(
    name="samband",
    help="Carries members, money and courses between your platform and the systems you already use.",
    epilog=_EPILOG,
    # Plain help: boxes and colours are noise to a screen reader.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


app.command()(hosting.up)
app.command()(hosting.serve)
app.command()(hosting.worker)
app.command()(hosting.migrate)
app.command()(demo.demo)
app.command()(plugins.plugins)
app.command()(checks.check)
app.command()(health.overview)
app.command()(health.status)
app.command()(sync.sync)
app.command("dry-run")(rereading.dry_run)
app.command()(rereading.backfill)
app.command()(tokens.consent)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(simulate.simulate)
app.add_typer(organizations.app, name="org")
integrations.app.add_typer(drops.app, name="drop")
app.add_typer(integrations.app, name="integration")
app.add_typer(schedules.app, name="schedule")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(tokens.app, name="token")
app.add_typer(sync.memberships, name="memberships")
app.add_typer(sync.courses, name="courses")
app.add_typer(interventions.app, name="runs")
app.add_typer(letters.app, name="dead-letters")
app.add_typer(health.alerts, name="alerts")
app.add_typer(records.app, name="records")
app.add_typer(claims.app, name="claims")
app.add_typer(mapping.app, name="mapping")
exports.export.command("reconcile")(reconcile.reconcile)
exportfiles.add_to(exports.export)
ordering.add_to(exports.export)
deciding.add_to(exports.export)
app.add_typer(exports.export, name="export")
app.add_typer(events.app, name="events")
app.add_typer(subscriptions.app, name="subscription")
app.add_typer(keys.app, name="key")
app.add_typer(ring.app, name="keys")
app.add_typer(audit.app, name="audit")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"samband {samband.__version__}\n")
        raise typer.Exit(ExitCode.OK)


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Carries members, money and courses between your platform and the systems you already use."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code."""
    os.umask(0o077)  # whatever a host writes holds members' data or secrets
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Runs one command and gives its exit code; every error of the tree is told in words, or as JSON with ``--json``."""
    as_json = "--json" in arguments
    configure_logging(level="warning")
    take_environment()
    try:
        code = typer.main.get_command(app).main(arguments or ["--help"], prog_name="samband", standalone_mode=False)
    except SambandError as error:
        return fail(error, as_json=as_json)
    except TyperException as error:
        return _tell_usage(error, as_json=as_json)
    except BrokenPipeError:
        return _reader_is_gone()
    except Exception as error:  # noqa: BLE001 - the last wall: told with its place, without words that may hold data
        structlog.get_logger("samband.cli").error("command_failed", exc_info=error)
        return fail(_fault(error), as_json=as_json)
    if code == _INTERRUPTED:
        note("Stopped. What was ordered from a host goes on; 'samband runs list' shows it.")
    return int(code or ExitCode.OK)


def _tell_usage(error: TyperException, *, as_json: bool) -> ExitCode:
    ctx = getattr(error, "ctx", None)
    command = ctx.command_path if ctx is not None else "samband"
    usage = ConfigurationError(error.format_message(), code="usage", hint=f"See: {command} --help")
    return fail(usage, as_json=as_json)


def _fault(error: Exception) -> SambandError:
    return SambandError(
        f"A fault in samband itself: {type(error).__name__}.",
        code="internal_error",
        hint="The lines above say where it arose; please report them.",
    )


def _reader_is_gone() -> ExitCode:
    """Ends quietly when whoever read our output has gone, as with ``samband runs list … | head``."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.OK
