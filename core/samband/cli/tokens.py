"""``samband token`` and ``samband consent``: access tokens, and having a person agree at the other side."""

from __future__ import annotations

from typing import Annotated

import typer

from samband.cli.client import At
from samband.cli.options import DataDir, Json, Org, Type, Url
from samband.cli.output import facts, note, show
from samband.client.client import integration_path

__all__ = ["app", "consent"]

app = typer.Typer(help="Access tokens: refresh. The token itself is never shown.")


@app.callback()
def _group() -> None:
    """Access tokens: refresh. The token itself is never shown."""


@app.command("refresh")
def refresh(
    integration: Annotated[
        str, typer.Argument(metavar="INTEGRATION_ID", help="The integration's id, as 'samband status' shows it.")
    ],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Renews an integration's token now. Tokens are renewed before they end without anybody's asking."""
    renewed = At(url, data_dir).order(lambda client: client.refresh_oauth_token(integration))
    lines = facts(
        ("Integration id", renewed["integration"]), ("Token number", renewed["generation"]),
        ("Renewed", renewed["renewed_at"]), ("Ends", renewed["expires_at"] or "never"),
    )  # fmt: skip
    show(renewed, lines, as_json=json)


def consent(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Prints the address that a person opens to agree to the connection at the other side; it holds for one sign-in."""
    asked = At(url, data_dir).post(integration_path(org, type) + "/consent")
    show(asked, [asked["url"]], as_json=json)
    if not json:
        note(f"Open it in the browser of somebody who may agree there, before {asked['expires_at']}.")
