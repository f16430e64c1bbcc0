"""The options that several commands share, so that they are called the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samband.errors import InvalidError
from samband.settings import HostSettings

__all__ = ["DataDir", "Json", "Org", "Type", "Url", "data_dir_or_default", "two_names"]

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
