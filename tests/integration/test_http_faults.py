"""The outgoing session against peers that break off, dawdle, flood and lie, down to the bytes on the wire."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from samband.contract import Limits
from samband.errors import ConfigurationError, OutcomeUnknownError, RemoteError, UnavailableError
from samband.http import AuthorisedSession, Outbound
from samband.http.egress import EgressPolicy
from samband.redaction import Redactor

LIMIT = 1_000_000
Speaking = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Quiet:
    def debug(self, event: str, **values: Any) -> None: ...

    info = warning = error = debug


@dataclass
class Wire:
    """A peer that says exactly the bytes a test gives it; counts connections and requests."""

    port: int = 0
    connections: int = 0
    requests: int = 0

    def url(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}/x"


@asynccontextmanager
async def wire(speak: Speaking, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    found = Wire()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while await request_head(reader):
                found.requests += 1
                await speak(reader, writer)
                if writer.is_closing():
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def request_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def says(*parts: bytes, then: str = "keep") -> Speaking:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then == "close":
            writer.close()
        elif then == "reset":
            sock = writer.get_extra_info("socket")
            # Linger of zero seconds makes the kernel send a reset instead of an orderly end.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            writer.transport.abort()

    return speak


def repeats(head: bytes, part: bytes, *, every_s: float = 0.0, times: int = 1_000_000) -> Speaking:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for _ in range(times):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(every_s)

    return speak


async def stays_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def outgoing(
    *, hosts: tuple[str, ...] = ("127.0.0.1",), timeout_s: float = 5.0, **options: Any
) -> AsyncIterator[tuple[AuthorisedSession, list[float]]]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    policy = options.pop("policy", None) or EgressPolicy(hosts)
    outbound = Outbound(policy=policy, redactor=Redactor(), sleep=sleep, rng=lambda: 0.5, **options)
    session = outbound.session(
        integration_id="i",
        account="a",
        hosts=hosts,
        limits=Limits(requests_per_s=10_000, timeout_s=timeout_s, max_body_bytes=LIMIT),
        tokens=None,
        log=Quiet(),
    )
    try:
        yield session, slept
    finally:
        await outbound.close()


BROKEN = {
    "closed before a word": says(then="close"),
    "reset before a word": says(then="reset"),
    "cut after half a status line": says(b"HTTP/1.1 20", then="close"),
    "cut in the headers": says(b"HTTP/1.1 200 OK\r\nContent-Le", then="close"),
    "reset in the body": says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1,2", then="reset"),
    "shorter than announced": says(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a":1}', then="close"),
    "last chunk missing": says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n", then="close"),
    "damaged gzip": says(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!"),
    "gzip cut off": says(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 300\r\n\r\n"
        + gzip.compress(os.urandom(900))[:200],
        then="close",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_read_that_breaks_off_is_tried_four_times(how: str) -> None:
    async with wire(BROKEN[how]) as peer, outgoing() as (session, slept):
        with pytest.raises(UnavailableError):
            await session.request("GET", peer.url())
        assert (peer.requests, slept) == (4, [1.0, 2.0, 4.0])


@pytest.mark.parametrize("how", BROKEN)
async def test_a_write_that_breaks_off_is_sent_once_and_its_outcome_is_unknown(how: str) -> None:
    async with wire(BROKEN[how]) as peer, outgoing() as (session, slept):
        with pytest.raises(OutcomeUnknownError) as caught:
            await session.request("POST", peer.url(), json={"amount": 1})
        assert "127.0.0.1" in str(caught.value)
        assert (peer.requests, slept) == (1, [])


async def test_chunk_sizes_that_lie_are_refused() -> None:
    lie = says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]\r\n0\r\n\r\n", then="close")
    async with wire(lie) as peer, outgoing() as (session, _):
        # Whether the headers had been handed on before the lie was read depends on how the bytes arrived.
        with pytest.raises((RemoteError, UnavailableError)):
            await session.request("GET", peer.url())


@pytest.mark.parametrize(
    "speak",
    [
        stays_silent,
        repeats(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" ", every_s=0.02),
        repeats(b"HTTP/1.1 200 OK\r\n", b"X-More: yes\r\n", every_s=0.02),
        repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n", every_s=0.02),
        repeats(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", every_s=0.02),
    ],
    ids=["silence", "slow body", "slow headers", "endless 100", "slow chunks"],
)
async def test_one_time_limit_covers_everything_from_connecting_to_the_last_byte(speak: Speaking) -> None:
    async with wire(speak) as peer, outgoing(timeout_s=0.2) as (session, _):
        with pytest.raises(UnavailableError) as caught:
            await asyncio.wait_for(session.request("GET", peer.url()), 10)
        assert "0.2 seconds" in str(caught.value)
        assert peer.connections == 4
        with pytest.raises(OutcomeUnknownError):
            await asyncio.wait_for(session.request("POST", peer.url(), data=b""), 10)


async def test_a_call_may_have_its_own_time_limit() -> None:
    async with wire(stays_silent) as peer, outgoing() as (session, _):
        with pytest.raises(UnavailableError) as caught:
            await asyncio.wait_for(session.request("GET", peer.url(), timeout_s=0.05), 10)
        assert "0.05 seconds" in str(caught.value)


def compressed(raw: bytes) -> Speaking:
    body = gzip.compress(raw)
    return says(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body), body)


TOO_MUCH = {
    "announced": says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n"),
    "endless": repeats(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "until it closes": repeats(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536),
    "a bomb": compressed(b"\0" * 100_000_000),
    "a bomb of many members": says(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(b"\0" * 1000) * 20_000, then="close"
    ),
}


@pytest.mark.parametrize("how", TOO_MUCH)
async def test_a_body_beyond_the_limit_is_not_read_to_its_end(how: str) -> None:
    async with wire(TOO_MUCH[how]) as peer, outgoing() as (session, _):
        with pytest.raises(RemoteError) as caught:
            await asyncio.wait_for(session.request("GET", peer.url()), 20)
        assert (caught.value.code, peer.requests) == ("body_too_large", 1)
        assert "1000000 bytes" in str(caught.value)


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    async with wire(compressed(b"x" * LIMIT)) as peer, outgoing() as (session, _):
        assert len((await session.request("GET", peer.url())).body) == LIMIT


@pytest.mark.parametrize(
    "speak",
    [
        says(b"SSH-2.0-OpenSSH_9.2\r\n", then="close"),
        says(b"HTTP/1.1 200 OK\r\n" + b"Set-Cookie: a=b\r\n" * 5_000 + b"\r\n", then="close"),
        says(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n", then="close"),
        says(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", then="close"),
    ],
    ids=["another protocol", "too many cookies", "too long a header", "negative length"],
)
async def test_what_is_not_http_is_a_remote_error(speak: Speaking) -> None:
    async with wire(speak) as peer, outgoing() as (session, _):
        with pytest.raises(RemoteError) as caught:
            await session.request("GET", peer.url())
        assert caught.value.code == "answer_malformed"


async def test_a_hundred_cookies_do_no_harm() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + b"Set-Cookie: a=b\r\n" * 100 + b"\r\n{}"
    async with wire(says(head)) as peer, outgoing() as (session, _):
        assert (await session.request("GET", peer.url())).json() == {}


async def test_a_connection_that_died_while_idle_is_replaced_at_once() -> None:
    dying = asyncio.Event()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD)
        await writer.drain()
        if not dying.is_set():
            dying.set()
            await request_head(reader)  # takes the second request on this connection and hangs up
            writer.transport.abort()

    async with wire(once) as peer, outgoing() as (session, slept):
        for _ in range(2):
            assert (await session.request("GET", peer.url())).status == 200
        assert (peer.connections, slept) == (2, [])


async def test_writes_do_not_use_the_connections_of_reads() -> None:
    async with wire(says(GOOD)) as peer, outgoing() as (session, _):
        for method in ("GET", "POST", "GET", "POST"):
            await session.request(method, peer.url())
        assert (peer.connections, peer.requests) == (2, 4)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nobody_listening_is_unavailable_because_nothing_was_sent(method: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with outgoing() as (session, slept):
            with pytest.raises(UnavailableError) as caught:
                await session.request(method, f"http://127.0.0.1:{unused.getsockname()[1]}/x")
            assert "no connection" in str(caught.value)
            assert slept == [1.0, 2.0, 4.0]


class Names(AbstractResolver):
    """Knows one address for every name, or none at all."""

    def __init__(self, address: str | None) -> None:
        self.address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if self.address is None:
            raise socket.gaierror(-2, "Name or service not known")
        return [ResolveResult(hostname=host, host=self.address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None: ...


async def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    policy = EgressPolicy()
    async with outgoing(hosts=("crm.example",), policy=policy, resolver=Names(None)) as (session, slept):
        with pytest.raises(UnavailableError) as caught:
            await session.request("POST", "https://crm.example/x")
        assert "crm.example: its name cannot be resolved" in str(caught.value)
        assert len(slept) == 3


async def test_a_public_name_that_leads_inside_is_refused_and_not_asked_again() -> None:
    policy = EgressPolicy()
    async with outgoing(hosts=("crm.example",), policy=policy, resolver=Names("127.0.0.1")) as (session, slept):
        with pytest.raises(RemoteError) as caught:
            await session.request("GET", "https://crm.example/x")
        assert (caught.value.code, slept) == ("egress_refused", [])


# ── TLS ──────────────────────────────────────────────────────────────────────


class Issuer:
    """A certificate authority of this test."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = self._signed(self.name, self.key, x509.BasicConstraints(ca=True, path_length=None))

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *extensions: x509.ExtensionType,
        valid_from: timedelta = timedelta(days=-2),
        valid_to: timedelta = timedelta(days=2),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid_from)
            .not_valid_after(now + valid_to)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256())

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.certificate.public_bytes(serialization.Encoding.PEM).decode())

    def server(self, names: list[x509.GeneralName], **validity: timedelta) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        certificate = self._signed(subject, key, x509.SubjectAlternativeName(names), **validity)
        path = self.directory / f"{certificate.serial_number}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


HERE = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path, "an issuer")


async def test_a_good_certificate_is_accepted(issuer: Issuer) -> None:
    async with wire(says(GOOD), tls=issuer.server(HERE)) as peer, outgoing(tls=issuer.trust()) as (session, _):
        assert (await session.request("GET", peer.url("https"))).status == 200


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        ("expired", "has expired"),
        ("early", "not valid yet"),
        ("other name", "for another"),
        ("other issuer", "not trusted"),
        ("plain", "no TLS at all"),
    ],
)
async def test_a_bad_certificate_names_the_check_that_failed(
    issuer: Issuer, tmp_path: Path, kind: str, check: str
) -> None:
    contexts: dict[str, ssl.SSLContext | None] = {
        "expired": issuer.server(HERE, valid_to=timedelta(days=-1)),
        "early": issuer.server(HERE, valid_from=timedelta(days=1)),
        "other name": issuer.server([x509.DNSName("other.example")]),
        "other issuer": Issuer(tmp_path, "a stranger").server(HERE),
        "plain": None,
    }

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    if kind == "plain":
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        async with server, outgoing(tls=issuer.trust()) as (session, slept):
            with pytest.raises(RemoteError) as caught:
                await session.request("GET", url)
    else:
        async with wire(says(GOOD), tls=contexts[kind]) as peer, outgoing(tls=issuer.trust()) as (session, slept):
            with pytest.raises(RemoteError) as caught:
                await session.request("GET", peer.url("https"))
            assert peer.requests == 0
    assert caught.value.code == "tls_failed"
    assert check in str(caught.value)
    assert slept == []


async def test_the_machines_own_trust_store_does_not_know_the_tests_issuer(issuer: Issuer) -> None:
    async with wire(says(GOOD), tls=issuer.server(HERE)) as peer, outgoing() as (session, _):
        with pytest.raises(RemoteError) as caught:
            await session.request("GET", peer.url("https"))
        assert caught.value.code == "tls_failed"


async def test_tls_checks_cannot_be_switched_off() -> None:
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname = False
    with pytest.raises(ConfigurationError):
        Outbound(policy=EgressPolicy(), redactor=Redactor(), tls=unchecked)


# ── what is left behind ──────────────────────────────────────────────────────


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts open files in /proc")
async def test_no_descriptor_is_left_behind_by_any_fault() -> None:
    before = descriptors()
    async with outgoing(timeout_s=0.1) as (session, _):
        for speak in [*BROKEN.values(), *TOO_MUCH.values(), stays_silent, says(GOOD)]:
            async with wire(speak) as peer:
                calls = [session.request(method, peer.url()) for method in ("GET", "POST") for _ in range(3)]
                cut_short = asyncio.create_task(session.request("GET", peer.url()))
                await asyncio.gather(*calls, return_exceptions=True)
                cut_short.cancel()
                await asyncio.gather(cut_short, return_exceptions=True)
    await asyncio.sleep(0.05)
    assert abs(descriptors() - before) <= 5
