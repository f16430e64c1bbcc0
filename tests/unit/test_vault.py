"""Sealing and opening, and the ring of keys it is done with."""

from __future__ import annotations

import base64
import json
import secrets
import stat
import threading
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from samband.errors import ConfigurationError, StoreError
from samband.store.keyring import KeyFile, id_of, new_key, parse_ring
from samband.store.vault import HEAD_BYTES, Vault

OLD, NEW = new_key(), new_key()
OWNER = "hlf/i1/credentials"


def sealed_as_before(key: str, value: bytes, owner: str) -> bytes:
    """The first form: the master key seals the value itself."""
    raw = base64.b64decode(key)
    head, nonce = b"\x01" + id_of(raw), secrets.token_bytes(12)
    return head + nonce + AESGCM(raw).encrypt(nonce, value, head + owner.encode())


def test_what_was_sealed_is_opened_for_its_owner() -> None:
    vault = Vault.from_secret(NEW)
    for value in (b"", b"x", secrets.token_bytes(100_000)):
        assert value == vault.open(vault.seal(value, owner=OWNER), owner=OWNER)


def test_every_value_has_a_key_of_its_own() -> None:
    vault = Vault.from_secret(NEW)
    sealed = {vault.seal(b"same", owner=OWNER) for _ in range(50)}
    assert 50 == len({s[21:69] for s in sealed})  # the wrapped data keys
    assert 50 == len({s[81:] for s in sealed})  # the ciphertexts
    assert not any(b"same" in s for s in sealed)


@pytest.mark.parametrize(
    "owner", ["nbf/i1/credentials", "hlf/i2/credentials", "hlf/i1/token", "hlf/i1/credentials/", ""]
)
def test_value_that_was_moved_stays_closed(owner: str) -> None:
    vault = Vault.from_secret(NEW)
    for sealed in (vault.seal(b"secret", owner=OWNER), sealed_as_before(NEW, b"secret", OWNER)):
        with pytest.raises(StoreError) as refused:
            vault.open(sealed, owner=owner)
        assert "secret_misplaced" == refused.value.code


def test_no_bit_of_a_sealed_value_can_be_changed() -> None:
    vault = Vault.from_secret(NEW)
    sealed = vault.seal(b"a secret", owner=OWNER)
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(StoreError):
            vault.open(changed, owner=OWNER)


def test_no_shorter_value_opens() -> None:
    vault = Vault.from_secret(NEW)
    for sealed in (vault.seal(b"", owner=OWNER), sealed_as_before(NEW, b"", OWNER)):
        for length in range(len(sealed)):
            with pytest.raises(StoreError):
                vault.open(sealed[:length], owner=OWNER)


def test_wrapped_key_of_another_value_opens_nothing() -> None:
    vault = Vault.from_secret(NEW)
    mine, theirs = vault.seal(b"mine", owner=OWNER), vault.seal(b"theirs", owner="nbf/i9/credentials")
    wrapped = slice(HEAD_BYTES, HEAD_BYTES + 12 + 48)
    forged = mine[: wrapped.start] + theirs[wrapped] + mine[wrapped.stop :]
    for owner in (OWNER, "nbf/i9/credentials"):
        with pytest.raises(StoreError):
            vault.open(forged, owner=owner)


def test_last_key_of_the_ring_seals_and_every_one_opens() -> None:
    before, ring = Vault.from_secret(OLD), Vault.from_secret(f"{OLD}, {NEW}")
    assert b"v" == ring.open(before.seal(b"v", owner=OWNER), owner=OWNER)
    assert Vault.from_secret(NEW).head == ring.seal(b"v", owner=OWNER)[:HEAD_BYTES] == ring.head
    assert [id_of(base64.b64decode(key)).hex() for key in (OLD, NEW)] == ring.key_ids


def test_value_in_the_form_before_is_opened_and_is_due() -> None:
    vault = Vault.from_secret(NEW)
    sealed = sealed_as_before(NEW, b"v", OWNER)
    assert b"v" == vault.open(sealed, owner=OWNER)
    assert vault.head != sealed[:HEAD_BYTES]


def test_missing_key_is_named_and_no_key_is_ever_shown() -> None:
    vault = Vault.from_secret(NEW)
    sealed = Vault.from_secret(OLD).seal(b"v", owner=OWNER)
    name = id_of(base64.b64decode(OLD)).hex()
    assert name == vault.missing_key(sealed[:HEAD_BYTES])
    with pytest.raises(StoreError) as refused:
        vault.open(sealed, owner=OWNER)
    assert ("master_key_missing", True) == (refused.value.code, name in refused.value.message)
    assert "Vault(1 keys)" == repr(vault)


@pytest.mark.parametrize("separator", [",", " ", "\n", ", ", "\n,\n"])
def test_ring_is_read_however_it_is_separated(separator: str) -> None:
    assert parse_ring(f"{OLD} {NEW}") == parse_ring(f" {OLD}{separator}{NEW}\n")


def test_ring_takes_base64_for_addresses_too() -> None:
    key = base64.b64encode(b"\xfb\xff" * 16).decode()
    assert parse_ring(key) == parse_ring(key.replace("+", "-").replace("/", "_"))


@pytest.mark.parametrize(
    "bad",
    ["", "  ", "hunter2-hunter2", "AAAA", f"{NEW},short", base64.b64encode(b"x" * 33).decode()],
    ids=["empty", "blank", "a-password", "short", "second-too-short", "33-bytes"],
)
def test_ring_that_cannot_be_read_is_told_without_repeating_it(bad: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_ring(bad)
    assert ("key_malformed", "SAMBAND_KEY") == (refused.value.code, refused.value.field)
    assert not bad.strip() or bad not in str(refused.value)


def test_key_that_is_twice_in_the_ring_is_refused() -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_ring(f"{OLD},{NEW},{OLD}")
    assert "key_repeated" == refused.value.code
    assert OLD not in str(refused.value)


# ── the file ─────────────────────────────────────────────────────────────────


def test_running_vault_takes_up_a_key_that_was_added_to_its_file(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.create()
    vault = Vault(file.keys)
    sealed = vault.seal(b"v", owner=OWNER)
    added = KeyFile(tmp_path / "keys.json").add()
    assert added.hex() == vault.key_ids[-1]
    assert b"\x02" + added == vault.seal(b"v", owner=OWNER)[:HEAD_BYTES]
    assert b"v" == vault.open(sealed, owner=OWNER)
    assert 0o600 == stat.S_IMODE((tmp_path / "keys.json").stat().st_mode)


def test_first_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "data" / "keys.json"
    KeyFile(path).create()
    keys = KeyFile(path).keys()
    KeyFile(path).create()
    assert keys == KeyFile(path).keys()
    assert [path] == list(path.parent.iterdir())


def test_twenty_who_add_a_key_at_once_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    KeyFile(path).create()
    added: list[bytes] = []
    threads = [threading.Thread(target=lambda: added.append(KeyFile(path).add())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 20 == len(set(added))
    assert set(added) < set(KeyFile(path).keys())


def test_mounted_secret_is_read_as_text(tmp_path: Path) -> None:
    mounted = tmp_path / "master"
    mounted.write_text(f"{OLD}\n{NEW}\n")
    assert parse_ring(f"{OLD},{NEW}") == KeyFile(mounted).keys()


@pytest.mark.parametrize(
    "content", ["damaged", "{}", '{"keys": []}', '{"keys": [1]}', '{"keys": ["AAAA"]}', "{", "\x00"]
)
def test_damaged_file_is_named_at_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as refused:
        Vault(KeyFile(path).keys)
    assert "key_file_damaged" == refused.value.code
    assert str(path) in refused.value.message


def test_file_that_is_damaged_or_gone_under_a_running_vault_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    KeyFile(path).create()
    vault = Vault(KeyFile(path).keys)
    sealed, good = vault.seal(b"v", owner=OWNER), path.read_text()
    with structlog.testing.capture_logs() as logs:
        path.write_text("half a fi")
        assert [b"v", b"v"] == [vault.open(sealed, owner=OWNER) for _ in range(2)]
        path.unlink()
        assert b"v" == vault.open(sealed, owner=OWNER)
    assert ["key_file_unreadable"] == [entry["event"] for entry in logs]
    keys = json.loads(good)["keys"]
    path.write_text(json.dumps({"keys": [*keys, NEW]}))
    assert Vault.from_secret(NEW).head == vault.seal(b"v", owner=OWNER)[:HEAD_BYTES]
