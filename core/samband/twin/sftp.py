"""A drop point on an SFTP server.

The server must show a host key that was entered beforehand: one that is met for the first time is never trusted by
itself. Nothing of the user who runs the host is used: no configuration, no agent, no keys, no list of known hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from samband.errors import ConfigurationError, RemoteError
from samband.http.egress import EgressPolicy, GuardedResolver
from samband.twin.place import Entry, trouble
from samband.twin.points import PointSecret, SftpPoint

if TYPE_CHECKING:
    import asyncssh

__all__ = ["SftpPlace", "key_problem", "opened_sftp"]

T = TypeVar("T")
_MAX_ENTRIES: Final = 5_000
_WINDOW: Final = 32 * 1024


def _library() -> Any:
    try:
        import asyncssh
    except ImportError:
        raise ConfigurationError(
            "Delivering over SFTP needs the library asyncssh, which is not installed here.",
            code="sftp_missing",
            hint="Whoever runs the host installs it with: pip install 'samband[sftp]'",
        ) from None
    return asyncssh


def key_problem(secret: PointSecret) -> str | None:
    """Says what is wrong with a private key; None when it can be used, or there is none."""
    if secret.private_key is None:
        return None
    asyncssh = _library()
    try:
        _private_key(asyncssh, secret)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        if "bcrypt" in str(error):
            return "OpenSSH keys with a passphrase need the library bcrypt, which is not installed here; use PKCS#8."
        return "It is no private key in OpenSSH or PEM form, or its passphrase is missing or wrong."
    return None


def _private_key(asyncssh: Any, secret: PointSecret) -> Any:
    assert secret.private_key is not None
    passphrase = None if secret.passphrase is None else secret.passphrase.get_secret_value()
    return asyncssh.import_private_key(secret.private_key.get_secret_value(), passphrase)


@contextlib.asynccontextmanager
async def opened_sftp(point: SftpPoint, secret: PointSecret, egress: EgressPolicy) -> AsyncIterator[SftpPlace]:
    """Signs in and gives the place; closes the connection in the end.

    Raises:
        ConfigurationError: asyncssh is not installed.
        UnavailableError: It cannot be reached, shows an unknown host key, refuses the user, or is not allowed.
    """
    asyncssh = _library()
    connection = await _connected(asyncssh, point, secret, egress)
    try:
        async with _told(asyncssh, point, "opening the file transfer"):
            client = await connection.start_sftp_client()
        yield SftpPlace(asyncssh, client, point)
    finally:
        connection.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await connection.wait_closed()


async def _connected(
    asyncssh: Any, point: SftpPoint, secret: PointSecret, egress: EgressPolicy
) -> asyncssh.SSHClientConnection:
    addresses = await _addresses(point, egress)
    options = _options(asyncssh, point, secret)
    for is_last, address in [(n == len(addresses) - 1, a) for n, a in enumerate(addresses)]:
        try:
            async with _told(asyncssh, point, "signing in"):
                return await asyncssh.connect(address, point.port, **options)  # type: ignore[no-any-return]
        except ConnectionRefusedError:
            if is_last:
                raise trouble(f"The SFTP server {point.host} refuses the connection.") from None
    raise trouble(f"The SFTP server {point.host} has no address.")


async def _addresses(point: SftpPoint, egress: EgressPolicy) -> list[str]:
    """Gives the server's addresses, all of which may be reached; the connection then goes to exactly those."""
    resolver = GuardedResolver(egress)
    try:
        async with asyncio.timeout(point.timeout_s):
            return [str(found["host"]) for found in await resolver.resolve(point.host, point.port)]
    except RemoteError as refusal:
        raise trouble(refusal.message, code=refusal.code, hint=refusal.hint) from None
    except (OSError, TimeoutError, ValueError):
        raise trouble(f"The name of the SFTP server {point.host} cannot be resolved.") from None
    finally:
        await resolver.close()


def _options(asyncssh: Any, point: SftpPoint, secret: PointSecret) -> dict[str, Any]:
    options: dict[str, Any] = {
        "username": point.user, "config": None, "agent_path": None, "client_keys": None, "gss_auth": False,
        "known_hosts": b"", "client_factory": _pinned_to(asyncssh, point), "connect_timeout": point.timeout_s,
        "login_timeout": point.timeout_s, "keepalive_interval": 15, "compression_algs": None, "env": None,
        "server_host_key_algs": _algorithms(asyncssh, point), "x509_trusted_certs": None,
        "preferred_auth": "publickey" if secret.private_key is not None else "password,keyboard-interactive",
    }  # fmt: skip
    if secret.private_key is not None:
        options["client_keys"] = [_private_key(asyncssh, secret)]
    if secret.password is not None:
        options["password"] = secret.password.get_secret_value()
    return options


def _algorithms(asyncssh: Any, point: SftpPoint) -> list[str] | str:
    """Gives the kinds of host key to ask for: those of the key lines, or the usual ones where there are fingerprints."""
    lines = [key for key in point.host_keys if not key.startswith("SHA256:")]
    if len(lines) < len(point.host_keys):
        return "+ssh-dss" if point.allow_ssh_dss else "default"
    kinds: list[str] = []
    for line in lines:
        kind = line.split()[0]
        kinds += ["rsa-sha2-512", "rsa-sha2-256"] if kind == "ssh-rsa" else [kind]
    return [kind for kind in dict.fromkeys(kinds) if kind != "ssh-dss" or point.allow_ssh_dss] or "default"


def _pinned_to(asyncssh: Any, point: SftpPoint) -> Callable[[], Any]:
    trusted = {_fingerprint(asyncssh, key) for key in point.host_keys}

    class Pinned(asyncssh.SSHClient):  # type: ignore[misc]
        """Takes a host key that was entered beforehand, and no other."""

        def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
            return key.get_fingerprint("sha256").rstrip("=") in trusted

        def kbdint_auth_requested(self) -> None:
            return None  # nobody is there to answer; asyncssh answers a single question with the password itself

    return Pinned


def _fingerprint(asyncssh: Any, key: str) -> str:
    if key.startswith("SHA256:"):
        return key.rstrip("=")
    try:
        return str(asyncssh.import_public_key(key).get_fingerprint("sha256")).rstrip("=")
    except asyncssh.KeyImportError:
        raise trouble(
            "A host key of the drop point cannot be read.",
            code="drop_host_key",
            hint="Enter its line or fingerprint again.",
        ) from None


@contextlib.asynccontextmanager
async def _told(asyncssh: Any, point: SftpPoint, doing: str) -> AsyncIterator[None]:
    """Bounds a step, and tells what went wrong in it without a path, a name of a person or a secret."""
    server = f"The SFTP server {point.host}"
    try:
        async with asyncio.timeout(point.timeout_s):
            yield
    except asyncssh.HostKeyNotVerifiable:
        raise trouble(
            f"{server} shows a host key that was not entered for it. Nothing was sent.", code="drop_host_key",
            hint="Ask whoever runs the server for its fingerprint, by another way than this connection, and enter that.",
        ) from None  # fmt: skip
    except asyncssh.KeyExchangeFailed:
        raise trouble(
            f"{server} and this host have no algorithm in common.", code="drop_algorithms",
            hint="A server that only has an ssh-dss host key is taken when allow_ssh_dss is set; better is a new key there.",
        ) from None  # fmt: skip
    except asyncssh.PermissionDenied:
        raise trouble(
            f"{server} refuses the user.", code="drop_login_refused", hint="Set the password or the private key again."
        ) from None
    except (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect):
        raise trouble(f"{server} does not allow {doing}.", code="drop_not_allowed") from None
    except (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded):
        raise trouble(f"{server} has no room left.", code="drop_full") from None
    except TimeoutError:
        raise trouble(f"{server} did not answer in time while {doing}.") from None
    except (asyncssh.Error, OSError) as error:
        if isinstance(error, ConnectionRefusedError):
            raise
        raise trouble(f"{server} broke off while {doing} ({type(error).__name__}).") from None


class SftpPlace:
    """An opened folder on a server."""

    def __init__(self, asyncssh: Any, client: asyncssh.SFTPClient, point: SftpPoint) -> None:
        self._asyncssh = asyncssh
        self._client = client
        self._point = point

    async def prepare(self, *folders: str) -> None:
        for folder in folders:
            async with self._step("making a folder"):
                if not await self._client.isdir(self._path(folder)):
                    await self._client.mkdir(self._path(folder))

    async def write(self, folder: str, name: str, content: bytes) -> None:
        async with self._step("writing a file"):
            file = await self._client.open(self._path(folder, name), "wb")
        try:
            for start in range(0, len(content), _WINDOW):
                async with self._step("writing a file"):
                    await file.write(content[start : start + _WINDOW], start)
            with contextlib.suppress(self._asyncssh.SFTPOpUnsupported):  # an extension that not every server has
                async with self._step_or("writing a file", self._asyncssh.SFTPOpUnsupported):
                    await file.fsync()
        finally:
            with contextlib.suppress(self._asyncssh.Error, OSError, TimeoutError):
                async with asyncio.timeout(self._point.timeout_s):
                    await file.close()
        if await self.size(folder, name) != len(content):
            raise trouble(f"The SFTP server {self._point.host} has not kept the whole file.")

    async def rename(self, old: str, new: str) -> None:
        unsupported = self._asyncssh.SFTPOpUnsupported
        try:
            async with self._step_or("naming a file", unsupported):
                await self._client.posix_rename(self._path("", old), self._path("", new))
        except unsupported:
            async with self._step("naming a file"):
                await self._client.rename(self._path("", old), self._path("", new))

    async def size(self, folder: str, name: str) -> int | None:
        async def ask() -> int | None:
            return (await self._client.stat(self._path(folder, name))).size

        return await self._unless_gone("looking for a file", ask)

    async def read(self, folder: str, name: str, limit: int) -> bytes | None:
        async def ask() -> bytes:
            async with self._client.open(self._path(folder, name), "rb") as file:
                found: Any = await file.read(limit + 1, 0)
                return bytes(found)

        return await self._unless_gone("reading a file", ask)

    async def entries(self, folder: str) -> list[Entry]:
        async def ask() -> list[Entry]:
            found: list[Entry] = []
            async for entry in self._client.scandir(self._path(folder)):
                if _is_file(entry.attrs) and isinstance(entry.filename, str) and "/" not in entry.filename:
                    attrs = entry.attrs
                    found.append(Entry(name=entry.filename, size=attrs.size or 0, changed=float(attrs.mtime or 0)))
                if len(found) >= _MAX_ENTRIES:
                    break
            return sorted(found, key=lambda each: each.name)

        return await self._unless_gone("listing a folder", ask) or []

    async def remove(self, folder: str, name: str) -> bool:
        async def ask() -> bool:
            await self._client.remove(self._path(folder, name))
            return True

        return await self._unless_gone("taking a file away", ask) or False

    def _path(self, folder: str, name: str = "") -> str:
        return "/".join(part for part in (self._point.folder.rstrip("/") or "", folder, name) if part) or "/"

    def _step(self, doing: str) -> contextlib.AbstractAsyncContextManager[None]:
        return _told(self._asyncssh, self._point, doing)

    @contextlib.asynccontextmanager
    async def _step_or(self, doing: str, passed: type[Exception]) -> AsyncIterator[None]:
        """As a step, but lets one kind of refusal through."""
        refusal: Exception | None = None
        async with self._step(doing):
            try:
                yield
            except passed as error:
                refusal = error
        if refusal is not None:
            raise refusal

    async def _unless_gone(self, doing: str, ask: Callable[[], Awaitable[T]]) -> T | None:
        gone = (self._asyncssh.SFTPNoSuchFile, self._asyncssh.SFTPNoSuchPath)
        try:
            async with self._step_or(doing, gone):  # type: ignore[arg-type]
                return await ask()
        except gone:
            return None


def _is_file(attrs: Any) -> bool:
    return attrs.permissions is None or stat.S_ISREG(attrs.permissions)
