"""The options that several commands share, so that they are called the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samband.errors import InvalidError
from samband.settings import HostSettings

__all__ = [
    "After",
    "DataDir",
    "Every",
    "Full",
    "Json",
    "Limit",
    "Org",
    "Revision",
    "Run",
    "Streams",
    "Type",
    "Url",
    "Wait",
    "data_dir_or_default",
    "two_names",
]

Json = Annotated[bool, typer.Option("--json", help="Write exactly one JSON document to standard output.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The host's data directory; SAMBAND_DATA_DIR or ./samband-data when not given."),
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Address of the host; SAMBAND_URL, or the host on the data directory, when not given."),
]
Org = Annotated[str, typer.Argument(help="The organisation's id.")]
Type = Annotated[str, typer.Argument(help="The integration's type, for instance dynamics365.")]
Run = Annotated[str, typer.Argument(metavar="ORG/RUN", help="The organisation's id and the run's id.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end; 1 when it did not all succeed.")]
Full = Annotated[bool, typer.Option("--full", help="Read everything again instead of the changes.")]
Streams = Annotated[list[str] | None, typer.Option("--stream", help="Only this one; may be given again.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")]
After = Annotated[str | None, typer.Option("--after", help="Go on after this: the next of the part before.")]
Every = Annotated[bool, typer.Option("--all", help="All of them, whatever the limit.")]
Revision = Annotated[
    int | None, typer.Option("--revision", min=1, help="Only if it is still this revision; else refused with 4.")
]


def data_dir_or_default(data_dir: Path | None) -> Path:
    """Gives the data directory that is meant, without reading any other setting."""
    import os

    named = data_dir or os.environ.get("SAMBAND_DATA_DIR") or HostSettings.model_fields["data_dir"].default
    return Path(os.path.abspath(Path(named).expanduser()))


def two_names(value: str, shape: str) -> tuple[str, str]:
    """Splits ``ORG/TYPE`` or ``ORG/RUN``."""
    first, slash, second = value.partition("/")
    if not (first and slash and second) or "/" in second:
        raise InvalidError(f"Write it as {shape}, with one slash between the two.", code="bad_name")
    return first, second
