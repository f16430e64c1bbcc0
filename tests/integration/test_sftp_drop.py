"""Files delivered over SFTP, to a real server in this process, over connections that break where it hurts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from samband.errors import OutcomeUnknownError, RetryableError
from samband.http.egress import EgressPolicy
from samband.store import Store
from samband.twin import Doors, PointSecret, SftpPoint, Twin
from samband.twin.reports import secret_bytes
from samband.twin.sftp import opened_sftp

from .filing import Desk, batch, item, sought

PASSWORD = "correct-horse-battery"


@dataclass
class Plan:
    """What the server does besides serving: drops the connection at a step, or does without an extension."""

    drop_at: str = ""
    without: set[str] = field(default_factory=set)
    connections: list[Any] = field(default_factory=list)

    def drop(self, step: str) -> bool:
        """Breaks every connection when it is planned for this step, once."""
        if self.drop_at != step:
            return False
        self.drop_at = ""
        for connection in self.connections:
            connection.abort()
        return True


@dataclass
class Server:
    """A running server."""

    port: int
    root: Path
    host_key: Any
    plan: Plan

    def settings(self, **changed: Any) -> dict[str, Any]:
        return {
            "kind": "sftp", "host": "127.0.0.1", "port": self.port, "user": "samband", "folder": "/inn",
            "host_keys": [self.host_key.get_fingerprint()], "timeout_s": 5.0,
        } | changed  # fmt: skip

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.root / "inn").iterdir() if path.is_file())


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    plan, root, host_key = Plan(), tmp_path / "server", asyncssh.generate_private_key("ssh-ed25519")
    (root / "inn").mkdir(parents=True)

    class Door(asyncssh.SSHServer):
        def connection_made(self, conn: Any) -> None:
            plan.connections.append(conn)

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == ("samband", PASSWORD)

    class Files(asyncssh.SFTPServer):
        def __init__(self, chan: Any) -> None:
            super().__init__(chan, chroot=str(root).encode())

        def posix_rename(self, oldpath: bytes, newpath: bytes) -> Any:
            if "posix-rename" in plan.without:
                raise asyncssh.SFTPOpUnsupported("no such extension")
            return self._named(super().posix_rename, oldpath, newpath)

        def rename(self, oldpath: bytes, newpath: bytes) -> Any:
            return self._named(super().rename, oldpath, newpath)

        def _named(self, rename: Any, oldpath: bytes, newpath: bytes) -> Any:
            if plan.drop("before rename"):
                return None
            done = rename(oldpath, newpath)
            plan.drop("after rename")
            return done

        def fsync(self, file_obj: object) -> Any:
            if "fsync" in plan.without:
                raise asyncssh.SFTPOpUnsupported("no such extension")
            return super().fsync(file_obj)

        def write(self, file_obj: object, offset: int, data: bytes) -> Any:
            plan.drop("write")
            return super().write(file_obj, offset, data)

    listening = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Door, server_host_keys=[host_key], sftp_factory=Files
    )
    try:
        yield Server(listening.get_port(), root, host_key, plan)
    finally:
        listening.close()
        for connection in plan.connections:
            connection.abort()
        await listening.wait_closed()


@pytest.fixture
async def desk(store: Store, server: Server) -> AsyncIterator[Desk]:
    from pydantic import SecretStr

    opened = Desk(store, None)
    await opened.open(server.settings(), secret_bytes(PointSecret(password=SecretStr(PASSWORD))))
    yield opened
    await opened.close()


async def test_file_is_delivered_over_sftp(desk: Desk, server: Server) -> None:
    receipts = await desk.send(await desk.lease(), item(1), item(2))
    assert [receipts[1].reference] == server.files()
    assert ["accepted", "accepted"] == [receipt.state for receipt in receipts.values()]
    assert [f"{server.files()[0]}.json"] == [path.name for path in (server.root / "inn" / "manifests").iterdir()]
    assert b"00000001;7140;1234.50" in (server.root / "inn" / server.files()[0]).read_bytes()


async def test_server_without_extensions_is_enough(desk: Desk, server: Server) -> None:
    server.plan.without = {"posix-rename", "fsync"}
    assert "accepted" == (await desk.send(await desk.lease(), item(1)))[1].state
    assert 1 == len(server.files())


async def test_connection_that_breaks_while_writing_means_that_nothing_was_sent(desk: Desk, server: Server) -> None:
    server.plan.drop_at, lease = "write", await desk.lease()
    with pytest.raises(RetryableError):
        await desk.send(lease, item(1))
    assert {} == await desk.find(sought(1))
    assert "accepted" == (await desk.send(lease, item(1)))[1].state
    assert 1 == len(server.files())


@pytest.mark.parametrize(("when", "expected"), [("before rename", []), ("after rename", ["accepted"])])
async def test_connection_that_breaks_at_the_name_is_looked_up(
    desk: Desk, server: Server, when: str, expected: list[str]
) -> None:
    server.plan.drop_at, lease = when, await desk.lease()
    with pytest.raises(OutcomeUnknownError):
        await desk.send(lease, item(1))
    assert expected == [receipt.state for receipt in (await desk.find(sought(1))).values()]
    if not expected:
        await desk.send(lease, item(1))
    assert 1 == len(server.files())


async def test_report_on_the_server_settles_the_item(desk: Desk, server: Server) -> None:
    await desk.send(await desk.lease(), item(1))
    (server.root / "inn" / "acknowledged" / "one.txt").write_text(f"{1:032x};posted;1041\n")
    found = await desk.find(sought(1, "accepted"))
    assert ("posted", "1041") == (found[1].state, found[1].reference)


@pytest.mark.parametrize("form", ["fingerprint", "line"])
async def test_known_host_key_is_taken_in_either_form(desk: Desk, server: Server, form: str) -> None:
    line = server.host_key.export_public_key().decode().strip()
    await _set(desk, server, host_keys=[line if form == "line" else server.host_key.get_fingerprint()])
    assert "accepted" == (await desk.send(await desk.lease(), item(1)))[1].state


@pytest.mark.parametrize("form", ["fingerprint", "line"])
async def test_other_host_key_is_never_trusted(desk: Desk, server: Server, form: str) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519")
    line = other.export_public_key().decode().strip()
    await _set(desk, server, host_keys=[line if form == "line" else other.get_fingerprint()])
    with pytest.raises(RetryableError) as refused:
        await desk.send(await desk.lease(), item(1))
    assert "drop_host_key" == refused.value.code
    assert [] == server.files()


async def test_wrong_password_is_told_and_not_repeated(desk: Desk, server: Server) -> None:
    await _set(desk, server, password="wrong-wrong-wrong")
    with pytest.raises(RetryableError) as refused:
        await desk.send(await desk.lease(), item(1))
    assert "drop_login_refused" == refused.value.code
    assert "wrong-wrong" not in str(refused.value)


async def test_private_address_is_refused_unless_the_operator_allows_it(desk: Desk, store: Store) -> None:
    strict = Twin(store, desk.adapter, Doors(egress=EgressPolicy()))
    with pytest.raises(RetryableError) as refused:
        [_ async for _ in strict.send(desk.connection, batch(item(1)), lease=await desk.lease(), route="file")]
    assert "egress_refused" == refused.value.code


async def test_folder_that_is_missing_is_told(desk: Desk, server: Server) -> None:
    await _set(desk, server, folder="/nowhere")
    with pytest.raises(RetryableError):
        await desk.send(await desk.lease(), item(1))


async def test_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    point = SftpPoint(
        kind="sftp", host="127.0.0.1", port=listening.sockets[0].getsockname()[1], user="u", folder="/",
        host_keys=["SHA256:" + "A" * 43], timeout_s=1,
    )  # fmt: skip
    with pytest.raises(RetryableError):
        async with asyncio.timeout(30), opened_sftp(point, PointSecret(), EgressPolicy(["127.0.0.1"])):
            pass
    listening.close()


async def test_private_key_signs_in(tmp_path: Path) -> None:
    from pydantic import SecretStr

    key, host_key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    (tmp_path / "keys").write_bytes(key.export_public_key())
    listening = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[host_key], authorized_client_keys=str(tmp_path / "keys"),
        sftp_factory=lambda chan: asyncssh.SFTPServer(chan, chroot=str(tmp_path).encode()),
    )  # fmt: skip
    secret = PointSecret(
        private_key=SecretStr(key.export_private_key("pkcs8-pem", passphrase="a-passphrase").decode()),
        passphrase=SecretStr("a-passphrase"),
    )
    point = SftpPoint(
        kind="sftp", host="127.0.0.1", port=listening.get_port(), user="u", folder="/", timeout_s=5,
        host_keys=[host_key.get_fingerprint()],
    )  # fmt: skip
    try:
        async with opened_sftp(point, secret, EgressPolicy(["127.0.0.1"])) as place:
            assert ["keys"] == [entry.name for entry in await place.entries("")]
    finally:
        listening.close()
        await listening.wait_closed()


async def _set(desk: Desk, server: Server, *, password: str = PASSWORD, **changed: Any) -> None:
    from pydantic import SecretStr

    secret = secret_bytes(PointSecret(password=SecretStr(password)))
    await desk.set_drop(server.settings(**changed), secret)
