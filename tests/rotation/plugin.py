"""A plugin for the rotating server: a person agrees once, and refresh tokens do the rest."""

from __future__ import annotations

from pydantic import SecretStr

from samband import (
    AuthError,
    Check,
    ConsentRequest,
    Context,
    CredentialsModel,
    Manifest,
    SettingsModel,
    Token,
    hookimpl,
    refresh_token_token,
)


class Settings(SettingsModel):
    base_url: str
    label: str = ""


class Credentials(CredentialsModel):
    client_id: str
    client_secret: SecretStr


def _consent(settings: Settings, credentials: Credentials) -> ConsentRequest:
    return ConsentRequest(
        authorize_url=f"{settings.base_url}/authorize?tenant=7", token_url=f"{settings.base_url}/token",
        client_id=credentials.client_id, client_secret=credentials.client_secret, scope="read offline_access",
        parameters={"prompt": "consent", "state": "of the plugin's own"},
    )  # fmt: skip


manifest = Manifest(
    name="rotating", title="Rotating", version="1", settings=Settings, credentials=Credentials,
    capabilities=frozenset({"check"}), egress_hosts=lambda settings: [settings.base_url.split("/")[2]],
    consent=_consent,
)  # fmt: skip


@hookimpl
async def authenticate(ctx: Context) -> Token:
    return await refresh_token_token(
        ctx, token_url=f"{ctx.settings.base_url}/token", client_id=ctx.credentials.client_id,
        client_secret=ctx.credentials.client_secret,
    )  # fmt: skip


@hookimpl
async def check(ctx: Context) -> Check:
    answer = await ctx.http.request("GET", f"{ctx.settings.base_url}/data")
    if answer.status != 200:
        raise AuthError(f"They answered {answer.status}.")
    return Check(summary=answer.json()["name"])
