"""Where files go: the settings of a drop point and what signs in there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, field_validator, model_validator

__all__ = ["FolderPoint", "Point", "PointSecret", "SftpPoint", "parse_point"]

_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
_KEY_LINE: Final = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}(?: .{0,200})?")

FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Layout(BaseModel):
    """What both kinds of drop point have in common: folders inside the one that files are delivered to."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    manifests: FolderName = Field(default="manifests", description="Ours alone: what was delivered, file by file.")
    acknowledged: FolderName = Field(default="acknowledged", description="Where the other side puts its reports.")
    archive: FolderName = Field(default="archive", description="Where the other side puts files that it has taken.")

    @model_validator(mode="after")
    def _different(self) -> _Layout:
        if len({self.manifests.lower(), self.acknowledged.lower(), self.archive.lower()}) != 3:
            raise ValueError("manifests, acknowledged and archive must be three different folders")
        return self


class FolderPoint(_Layout):
    """A folder below the host's SAMBAND_DROP_ROOT, in one of the organisation's and the integration's own."""

    kind: Literal["folder"]
    path: str = Field(default="", max_length=300, description="Folders below the integration's own; empty for itself.")

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if path and not all(_PART.fullmatch(part) for part in path.split("/")):
            raise ValueError("write folder names with slashes between them: no .., no leading slash, no backslash")
        return path

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/")) if self.path else ()


class SftpPoint(_Layout):
    """A folder on an SFTP server whose host key is known beforehand."""

    kind: Literal["sftp"]
    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:_-]+$")
    port: int = Field(default=22, ge=1, le=65535)
    user: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
    folder: str = Field(
        min_length=1, max_length=300, description="As the server names it; need not begin with a slash."
    )
    host_keys: list[str] = Field(
        min_length=1, max_length=8, description="Fingerprints (SHA256:…) or public key lines that the server may show."
    )
    allow_ssh_dss: bool = Field(default=False, description="Also takes a host key of the outdated kind ssh-dss.")
    timeout_s: float = Field(default=30.0, ge=1, le=300, description="For signing in, and for each step.")

    @field_validator("host_keys")
    @classmethod
    def _known_keys(cls, keys: list[str]) -> list[str]:
        found = [" ".join(key.split()) for key in keys]
        if not all(_FINGERPRINT.fullmatch(key) or _KEY_LINE.fullmatch(key) for key in found):
            raise ValueError("write SHA256:… as ssh-keygen -l shows it, or a line such as 'ssh-ed25519 AAAA…'")
        return found

    @field_validator("folder")
    @classmethod
    def _plain_folder(cls, folder: str) -> str:
        plain = folder.rstrip("/") or "/"
        if any(part in ("..", ".") for part in plain.split("/")) or re.search(r"[\x00-\x1f\x7f\\]", plain):
            raise ValueError("write it without .., control characters and backslashes")
        return plain


Point = FolderPoint | SftpPoint
_POINT: TypeAdapter[Point] = TypeAdapter(Annotated[Point, Field(discriminator="kind")])


def parse_point(settings: Mapping[str, Any]) -> Point:
    """Gives the settings of a drop point, checked; pydantic's `ValidationError` names every field at fault."""
    return _POINT.validate_python(dict(settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class PointSecret:
    """What signs in at an SFTP server: a password, or a private key that may have a passphrase."""

    password: SecretStr | None = field(default=None, repr=False)
    private_key: SecretStr | None = field(default=None, repr=False)
    passphrase: SecretStr | None = field(default=None, repr=False)
