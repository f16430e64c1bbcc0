"""Seals credentials: AES-256-GCM, with the key's id in front and the owner bound as associated data.

A sealed value moved to another organisation, integration or field cannot be opened there.
Layout: version (1 byte) · key id (8 bytes) · nonce (12 bytes) · ciphertext with tag.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from samband.errors import ConfigurationError, StoreError

_VERSION = b"\x01"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class Vault:
    """Seals with the newest key and opens with any it has.

    Args:
        keys: Key id (8 bytes) → key (32 bytes); the last one seals.
    """

    def __init__(self, keys: Mapping[bytes, bytes]) -> None:
        if not keys:
            raise ValueError("a vault needs a key")
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._newest = list(keys)[-1]

    def __repr__(self) -> str:
        return f"Vault({len(self._keys)} keys)"

    @classmethod
    def from_secret(cls, secret: str) -> Vault:
        """Makes a vault of one key given as 32 bytes in base64 (``SAMBAND_KEY``)."""
        try:
            key = base64.b64decode(secret.strip(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _KEY_BYTES:
            raise ConfigurationError(
                "The encryption key must be 32 bytes, written in base64.",
                hint="Make one with: python3 -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())'",
                field="SAMBAND_KEY",
            )
        return cls({_key_id(key): key})

    @classmethod
    def from_file(cls, path: Path) -> Vault:
        """Reads the key file, or makes one (readable by its owner alone) at the first start."""
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return cls.from_secret(_create_key_file(path))
        try:
            listed = json.loads(text)["keys"]
            keys = [base64.b64decode(k, validate=True) for k in listed]
            if not keys or any(len(k) != _KEY_BYTES for k in keys):
                raise ValueError("no usable key")
        except (ValueError, KeyError, TypeError) as err:
            raise ConfigurationError(
                f"The key file {path.name} cannot be read.",
                code="key_file_damaged",
                hint="Restore it from your backup: without it the stored credentials cannot be opened.",
            ) from err
        return cls({_key_id(k): k for k in keys})

    def missing_key(self, sealed: bytes) -> str | None:
        """Gives the id of the key a value was sealed with when that key is not here."""
        key_id = sealed[1:9]
        return None if key_id in self._keys else key_id.hex()

    def seal(self, value: bytes, *, owner: str) -> bytes:
        """Encrypts a value for ``owner``, for instance ``hlf/<integration>/credentials``."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._keys[self._newest].encrypt(nonce, value, _bound(self._newest, owner))
        return _VERSION + self._newest + nonce + sealed

    def open(self, sealed: bytes, *, owner: str) -> bytes:
        """Decrypts a value.

        Raises:
            StoreError: The key is not here (it names the key), or the value is not this owner's.
        """
        key_id, nonce, body = sealed[1:9], sealed[9:21], sealed[21:]
        cipher = self._keys.get(key_id)
        if sealed[:1] != _VERSION or cipher is None:
            raise StoreError(
                f"The encryption key {key_id.hex()} is missing.",
                code="master_key_missing",
                hint="Give the host the key file or SAMBAND_KEY that the credentials were stored with.",
            )
        try:
            return cipher.decrypt(nonce, body, _bound(key_id, owner))
        except InvalidTag as err:
            raise StoreError("A stored secret does not belong where it was found.", code="secret_misplaced") from err


def _bound(key_id: bytes, owner: str) -> bytes:
    return _VERSION + key_id + owner.encode()


def _key_id(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=8, person=b"samband-key").digest()


def _create_key_file(path: Path) -> str:
    secret = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written whole beside its place and linked in, so that a crash leaves no half key and two starters agree on one.
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"keys": [secret]}, file)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError:
        return str(json.loads(path.read_text("utf-8"))["keys"][-1])
    finally:
        fresh.unlink()
    return secret
