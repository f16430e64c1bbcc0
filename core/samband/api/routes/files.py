"""Files that carried claims out, the reports that come back, and where files go."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, Literal
from urllib.parse import quote

from aiohttp import web
from pydantic import ConfigDict, Field, SecretStr

from samband.api.answers import Answer, Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import Cursor, IfMatch, Input, Limit, OrgId, PluginName
from samband.api.problems import SEALED
from samband.views.files import AcknowledgementView, DropTestView, DropView, ExportFileView

endpoints = Endpoints("Export files")

_FILES = "/v1/organizations/{org}/exports/files"
_DROP = "/v1/organizations/{org}/integrations/{type}/drop"
_PLUGIN = ("integration_not_found", "unknown_plugin", "plugin_failed", "credentials_missing", *SEALED)
_ETAG = {"ETag": "The revision; send it as If-Match with the next edit."}
_REVISION = re.compile(r'"([0-9]{1,15})"')
_NO_REVISION = -1

FileId = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="The file's id.")]
Profile = Annotated[
    Literal["machine", "human", "json"],
    Field(
        description="machine: the very bytes that are kept · human: the same vouchers as a sheet for a spreadsheet · json: "
        "the manifest, and the same vouchers with their lines, made by the host for any plugin's file."
    ),
]
ReportName = Annotated[
    str,
    Field(pattern=r"^[^/\\\x00-\x1f\x7f]{1,200}$", description="The report's file name; some say there what they are."),
]
Secret = Annotated[SecretStr | None, Field(max_length=16_384, description="Written, never read back.")]


class DropIn(Input):
    """Where an integration's files go. Without a secret the present one stays, as long as server and user do."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "settings": {
                        "kind": "sftp", "host": "sftp.example.org", "user": "samband", "folder": "/inn",
                        "host_keys": ["SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"],
                    },
                    "password": "…",
                }
            ]
        }
    )  # fmt: skip

    settings: Annotated[
        dict[str, Any],
        Field(
            description="kind folder: path, below the host's SAMBAND_DROP_ROOT. kind sftp: host, port, user, folder, "
            "host_keys (fingerprints or key lines), allow_ssh_dss, timeout_s. Both: manifests, acknowledged, archive."
        ),
    ]
    password: Secret = None
    private_key: Secret = None
    passphrase: Secret = None


@endpoints.add("GET", _FILES, verb="read", problems=("integration_not_found",))
async def list_export_files(
    call: Call, org: OrgId, type: PluginName | None = None, after: Cursor | None = None, limit: Limit = 100
) -> Listing[ExportFileView]:
    """Lists files that carried claims out, newest first, without what is in them."""
    return Listing[ExportFileView].of(await call.service.files.page(org, type=type, after=after, limit=limit))


@endpoints.add(
    "GET", _FILES + "/{id}", verb="read", media_type="application/octet-stream",
    problems=("export_file_not_found", "render_unsupported", *_PLUGIN),
    headers={"Content-Disposition": "The file's name.", "Repr-Digest": "SHA-256 of the bytes (RFC 9530).",
             "ETag": "The same, for programs that keep it."},
)  # fmt: skip
async def fetch_export_file(call: Call, org: OrgId, id: FileId, profile: Profile = "machine") -> web.StreamResponse:
    """Gives a file, with the media type it was made with. Every time is written into the audit trail.

    It names people and their bank accounts, as the claims do.
    """
    is_noted = call.request.method != "HEAD"
    fetched = await call.service.files.fetch(org, id, profile, is_noted=is_noted)
    name = quote(fetched.name, safe="")
    headers = {
        "Content-Type": fetched.media_type,
        "Content-Disposition": f"attachment; filename=\"{fetched.name}\"; filename*=UTF-8''{name}",
        "Repr-Digest": f"sha-256=:{_base64(fetched.sha256)}:", "ETag": f'"{fetched.sha256}"',
        "Cache-Control": "no-store",
    }  # fmt: skip
    return web.Response(body=fetched.content, headers=headers)


@endpoints.add(
    "POST", "/v1/organizations/{org}/exports/acknowledgements", verb="operate", takes_bytes=True,
    problems=("acknowledge_unsupported", "remote_error", *_PLUGIN),
)  # fmt: skip
async def acknowledge_export(call: Call, org: OrgId, type: PluginName, name: ReportName) -> AcknowledgementView:
    """Settles claims by the other system's report of a file it took in. The body is the report, byte for byte.

    At most 1 MiB. The same report again changes nothing. What was refused or taken back is never moved back by a report.
    Rows that have lost the key are known by their voucher's number, of vouchers in the file that they name.
    """
    return await call.service.files.acknowledge(org, type, name, call.content)


@endpoints.add("GET", _DROP, verb="read", problems=("drop_not_found", *_PLUGIN), headers=_ETAG)
async def get_drop(call: Call, org: OrgId, type: PluginName) -> Answer[DropView]:
    """Gives where the integration's files go. What signs in there is never shown."""
    return _tagged(await call.service.files.drop(org, type))


@endpoints.add(
    "PUT", _DROP, verb="configure", headers=_ETAG,
    problems=("render_unsupported", "drop_root_missing", "sftp_missing", "revision_mismatch", *_PLUGIN),
)  # fmt: skip
async def put_drop(
    call: Call, org: OrgId, type: PluginName, body: DropIn, if_match: IfMatch | None = None
) -> Answer[DropView]:
    """Sets where the integration's files go.

    A server's host key has to be known beforehand: one that is met for the first time is never trusted by itself.
    """
    view = await call.service.files.put_drop(
        org, type, body.settings, password=body.password, private_key=body.private_key, passphrase=body.passphrase,
        if_revision=_revision(if_match),
    )  # fmt: skip
    return _tagged(view)


@endpoints.add("DELETE", _DROP, verb="configure", problems=("drop_not_found", "revision_mismatch", *_PLUGIN))
async def delete_drop(call: Call, org: OrgId, type: PluginName, if_match: IfMatch | None = None) -> DropView:
    """Forgets where the integration's files go, and what signs in there. What lies there stays."""
    return await call.service.files.remove_drop(org, type, if_revision=_revision(if_match))


@endpoints.add("POST", _DROP + "/test", verb="configure", problems=("drop_not_found", *_PLUGIN))
async def test_drop(call: Call, org: OrgId, type: PluginName) -> DropTestView:
    """Signs in at the drop point and lists it; writes nothing. Trouble there is an answer, not a problem."""
    return await call.service.files.test_drop(org, type)


def _base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()


def _tagged(drop: DropView) -> Answer[DropView]:
    return Answer(value=drop, headers={"ETag": f'"{drop.revision}"'})


def _revision(if_match: str | None) -> int | None:
    if if_match is None or if_match == "*":
        return None
    match = _REVISION.fullmatch(if_match)
    return int(match[1]) if match else _NO_REVISION
