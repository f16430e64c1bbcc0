"""Seals what must never be read from the database alone: envelope encryption with AES-256-GCM.

Each value has a random data key of its own, and the ring's newest master key wraps that. Version, master key and owner
are bound into both, so a sealed value, or its data key, that is moved to another organisation, row or field cannot be
opened there.

    version 2 · key id (8) · nonce (12) · wrapped data key (48) · nonce (12) · ciphertext with tag
    version 1 · key id (8) · nonce (12) · ciphertext with tag          written before; opened, never made any more
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from samband.errors import StoreError
from samband.store.keyring import KEY_BYTES, Keys, parse_ring

__all__ = ["HEAD_BYTES", "Vault"]

_PLAIN, _ENVELOPE = b"\x01", b"\x02"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_WRAPPED_BYTES = KEY_BYTES + _TAG_BYTES

HEAD_BYTES = 9
"""How much of a sealed value says what it was sealed with: the version and the key's id."""


class _Ring(NamedTuple):
    keys: Keys
    ciphers: dict[bytes, AESGCM]
    newest: bytes


class Vault:
    """Seals with the newest key and opens with any it has.

    Args:
        keys: The ring, or what gives the present one whenever it is asked.
    """

    def __init__(self, keys: Keys | Callable[[], Keys]) -> None:
        self._source = keys if callable(keys) else lambda: keys
        self._ring = _prepared(self._source())

    def __repr__(self) -> str:
        return f"Vault({len(self._ring.keys)} keys)"

    @classmethod
    def from_secret(cls, secret: str) -> Vault:
        """Makes a vault of the keys in a text, oldest first; see `samband.store.keyring.parse_ring`."""
        return cls(parse_ring(secret))

    @property
    def key_ids(self) -> list[str]:
        """The ids of the keys in the ring, oldest first."""
        return [key_id.hex() for key_id in self._now().keys]

    @property
    def head(self) -> bytes:
        """What a value that is sealed now begins with; one that begins otherwise is due for rotation."""
        return _ENVELOPE + self._now().newest

    def missing_key(self, sealed: bytes) -> str | None:
        """Gives the id of the key a value was sealed with when that key is not here; its head is enough."""
        key_id = bytes(sealed[1:HEAD_BYTES])
        return None if key_id in self._now().ciphers else key_id.hex()

    def seal(self, value: bytes, *, owner: str) -> bytes:
        """Encrypts a value for ``owner``, which is ``organisation/row/field``."""
        ring = self._now()
        head = _ENVELOPE + ring.newest
        data_key = secrets.token_bytes(KEY_BYTES)
        key_nonce, nonce = secrets.token_bytes(_NONCE_BYTES), secrets.token_bytes(_NONCE_BYTES)
        wrapped = ring.ciphers[ring.newest].encrypt(key_nonce, data_key, _bound(head, b"key", owner))
        body = AESGCM(data_key).encrypt(nonce, value, _bound(head, b"value", owner))
        return b"".join((head, key_nonce, wrapped, nonce, body))

    def open(self, sealed: bytes, *, owner: str) -> bytes:
        """Decrypts a value.

        Raises:
            StoreError: The key is not here (``master_key_missing``, names the key), the value is not this owner's or
                was tampered with (``secret_misplaced``), or it was written by another version (``secret_unreadable``).
        """
        version, key_id = sealed[:1], sealed[1:HEAD_BYTES]
        if version not in (_PLAIN, _ENVELOPE) or len(sealed) < HEAD_BYTES + _NONCE_BYTES + _TAG_BYTES:
            raise StoreError(
                "A stored secret is not in a form that this program knows.",
                code="secret_unreadable",
                hint="It was written by a newer samband, or it is damaged: see 'samband keys verify'.",
            )
        master = self._now().ciphers.get(key_id)
        if master is None:
            raise StoreError(
                f"The encryption key {key_id.hex()} is missing.",
                code="master_key_missing",
                hint="Give the host the key file or SAMBAND_KEY that the credentials were stored with.",
            )
        try:
            return _open_plain(master, sealed, owner) if version == _PLAIN else _open_envelope(master, sealed, owner)
        except InvalidTag as err:
            raise StoreError("A stored secret does not belong where it was found.", code="secret_misplaced") from err

    def _now(self) -> _Ring:
        keys = self._source()
        if keys is not self._ring.keys:
            self._ring = _prepared(keys)  # one assignment: whoever holds the former ring goes on with it whole
        return self._ring


def _prepared(keys: Keys) -> _Ring:
    if not keys:
        raise ValueError("a vault needs a key")
    return _Ring(keys, {key_id: AESGCM(key) for key_id, key in keys.items()}, list(keys)[-1])


def _open_plain(master: AESGCM, sealed: bytes, owner: str) -> bytes:
    nonce, body = sealed[HEAD_BYTES : HEAD_BYTES + _NONCE_BYTES], sealed[HEAD_BYTES + _NONCE_BYTES :]
    return master.decrypt(nonce, body, sealed[:HEAD_BYTES] + owner.encode())


def _open_envelope(master: AESGCM, sealed: bytes, owner: str) -> bytes:
    head, rest = sealed[:HEAD_BYTES], sealed[HEAD_BYTES:]
    key_nonce, rest = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
    wrapped, rest = rest[:_WRAPPED_BYTES], rest[_WRAPPED_BYTES:]
    nonce, body = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
    if len(body) < _TAG_BYTES:
        raise InvalidTag
    data_key = master.decrypt(key_nonce, wrapped, _bound(head, b"key", owner))
    return AESGCM(data_key).decrypt(nonce, body, _bound(head, b"value", owner))


def _bound(head: bytes, part: bytes, owner: str) -> bytes:
    # The part keeps a wrapped data key from being taken for a value, and the other way round.
    return head + part + b"\x00" + owner.encode()
