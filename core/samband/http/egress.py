"""Where this process may connect to: the integration's own hosts, over TLS, at addresses of the public internet.

Three walls, each enough by itself for what it guards. `EgressPolicy.check_url` looks at the address line before
anything is resolved; `GuardedResolver` looks at every address a name resolves to, and the connector then connects to
exactly those and asks nobody again; `GuardedConnector` looks at addresses written out in the URL. Private
addresses are open only to what the operator listed.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final

from aiohttp import TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from samband.errors import ConfigurationError, RemoteError

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

__all__ = ["EgressPolicy", "GuardedConnector", "GuardedResolver", "address_problem", "names_place", "unwrap_address"]

Address = IPv4Address | IPv6Address

_NAT64: Final = IPv6Network("64:ff9b::/96")
_V4_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
_V4_COMPATIBLE: Final = IPv6Network("::/96")
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")

# `ipaddress.is_global` of Python 3.11 calls NAT64, 6to4, v4-compatible and multicast addresses global and does not
# know the newer registry entries, so the refused networks are written out (IANA special-purpose registries, 2025).
_REFUSED_V4: Final = tuple(
    (IPv4Network(network), why)
    for network, why in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "private"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "private"),
        ("198.51.100.0/24", "reserved"),
        ("203.0.113.0/24", "reserved"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_REFUSED_V6: Final = tuple(
    (IPv6Network(network), why)
    for network, why in (
        ("::1/128", "loopback"),
        ("::/128", "unspecified"),
        ("64:ff9b:1::/48", "private"),  # NAT64 with a prefix of its own: whom it reaches only that network knows
        ("fc00::/7", "private"),
        ("fec0::/10", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved"),
        ("3fff::/20", "reserved"),
    )
)

_NAMED_MAY_REACH: Final = frozenset({"private", "loopback"})
"""What a host allowed by its name may resolve to. A metadata service needs its very address in the list."""


def unwrap_address(address: Address) -> Address:
    """Gives the IPv4 address an IPv6 one stands for, or the address itself.

    Knows v4-mapped, v4-translated, v4-compatible, NAT64 (64:ff9b::/96) and 6to4 addresses.
    """
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    number = int(address)
    if address in _NAT64 or address in _V4_TRANSLATED or (address in _V4_COMPATIBLE and number > 1):
        return IPv4Address(number & 0xFFFF_FFFF)
    return address


def address_problem(address: Address) -> str | None:
    """Says why an address is not one of the public internet (``loopback``, ``private`` …), or None when it is."""
    inner = unwrap_address(address)
    if isinstance(inner, IPv4Address):
        problem = next((why for network, why in _REFUSED_V4 if inner in network), None)
    else:
        problem = next((why for network, why in _REFUSED_V6 if inner in network), None)
        if problem is None and inner not in _GLOBAL_UNICAST:
            problem = "reserved"
    if problem is None and not inner.is_global:
        problem = "reserved"  # a network that a newer Python knows of and this list does not
    return problem


@dataclass(frozen=True, slots=True)
class _Place:
    """A host with the port it is limited to; None is the usual port, or any port where the operator allowed it."""

    host: str
    port: int | None


class EgressPolicy:
    """The operator's rules for connections out of this process.

    Args:
        allow_private: Host names, addresses, networks (``10.0.0.0/8``) or ``host:port`` that may be private and
            may speak plain HTTP. Empty in production as a rule; simulators on loopback come in through it.

    Raises:
        ConfigurationError: An entry is none of these.
    """

    def __init__(self, allow_private: Collection[str] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._places: set[_Place] = set()
        for entry in allow_private:
            self._allow(entry.strip())

    def _allow(self, entry: str) -> None:
        try:
            if "/" in entry:
                self._networks.append(ip_network(entry))
                return
            place = _parsed_place(entry)
        except ValueError as error:
            raise ConfigurationError(
                f"{entry!r} is not a host, an address, a network or host:port.",
                code="egress_entry_invalid",
                hint="Write for instance 127.0.0.1:8080, ::1, 10.0.0.0/8 or crm.internal.",
                field="allow_private",
            ) from error
        self._places.add(place)

    def check_url(self, url: str, hosts: Collection[str]) -> URL:
        """Gives the parsed URL when it may be called, byte for byte as it came in but for its fragment.

        Args:
            url: Absolute. A host outside ASCII is put in its IDNA form.
            hosts: The integration's own hosts, as ``host`` or ``host:port``; compared exactly, ignoring case.

        Raises:
            RemoteError: Code ``egress_refused``. The message names the host and never the path or the query.
        """
        parsed = _parsed_url(url)
        host, port = parsed.raw_host or "", parsed.port or 0
        own = _own_places(hosts)
        if not any(place.host == host and place.port in (None, port) for place in own):
            raise _refused(
                f"{host} is not one of this integration's own hosts.",
                "Correct the address in its settings, or ask who sent a link to another host.",
            )
        private = self._may_be_private(host, port)
        if parsed.scheme != "https" and not private:
            raise _refused(f"{host} was to be called without TLS.", "Use an https:// address.")
        if port != 443 and not private and _Place(host, port) not in own:
            raise _refused(f"Port {port} of {host} is not open to this integration.", "Use port 443.")
        literal = _literal(host)
        if literal is not None:
            self.check_address(host, port, literal)
        return parsed

    def check_address(self, host: str, port: int, address: Address) -> None:
        """Passes when a connection for ``host`` may go to ``address``.

        Raises:
            RemoteError: Code ``egress_refused``: the address is loopback, private, link-local, multicast or reserved.
        """
        problem = address_problem(address)
        if problem is None or self._is_listed(address, port):
            return
        if problem in _NAMED_MAY_REACH and self._is_place(host, port):
            return
        raise _refused(
            f"{host} leads to a {problem} address, which is not reached from here.",
            "If that is meant, the operator lists it under the private addresses that are allowed.",
        )

    def _may_be_private(self, host: str, port: int) -> bool:
        literal = _literal(host)
        return self._is_place(host, port) or (literal is not None and self._is_listed(literal, port))

    def _is_place(self, host: str, port: int) -> bool:
        return _Place(host, None) in self._places or _Place(host, port) in self._places

    def _is_listed(self, address: Address, port: int) -> bool:
        for candidate in {address, unwrap_address(address)}:
            if self._is_place(str(candidate), port) or any(candidate in network for network in self._networks):
                return True
        return False


def names_place(hosts: Collection[str], url: URL) -> bool:
    """Says whether a checked URL leads to one of the hosts; one without a port means the scheme's own port alone."""
    host, port = url.raw_host or "", url.port
    usual = {None, port} if url.is_default_port() else {port}
    return any(place.host == host and place.port in usual for place in _own_places(hosts))


class GuardedResolver(AbstractResolver):
    """Resolves a name once and hands out its addresses only when every one of them may be reached.

    One bad address among good ones refuses the name: a public name does not have private addresses by accident.
    """

    def __init__(self, policy: EgressPolicy, resolver: AbstractResolver | None = None) -> None:
        self._policy = policy
        self._resolver = resolver or DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Gives the checked addresses of a name; `OSError` when there are none, `RemoteError` when one is refused."""
        results = await self._resolver.resolve(host, port, family)
        if not results:
            raise OSError(f"{host} has no address")
        for result in results:
            self._policy.check_address(_canonical_host(host), port, ip_address(result["host"]))
        return results

    async def close(self) -> None:
        await self._resolver.close()


class GuardedConnector(TCPConnector):
    """A connector that reaches only what the policy allows, for names and for addresses written out alike."""

    def __init__(self, policy: EgressPolicy, *, resolver: AbstractResolver | None = None, **options: Any) -> None:
        self._guard = GuardedResolver(policy, resolver)
        self._policy = policy
        super().__init__(resolver=self._guard, **options)

    async def connect(  # the signature is aiohttp's
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109
    ) -> Connection:
        """Connects as `aiohttp.TCPConnector` does, which asks no resolver about an address written out in the URL."""
        host = req.url.raw_host or ""
        literal = _literal(host)
        if literal is not None:
            self._policy.check_address(host, req.url.port or 0, literal)
        return await super().connect(req, traces, timeout)

    async def close(self, *, abort_ssl: bool = False) -> None:
        await super().close(abort_ssl=abort_ssl)
        await self._guard.close()


def _refused(message: str, hint: str) -> RemoteError:
    return RemoteError(message, code="egress_refused", hint=hint)


def _parsed_url(url: str) -> URL:
    """Reads a URL strictly, and refuses what two readers could read in two ways."""
    hint = "Give an absolute https:// address without user name, spaces or backslashes."
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise _refused("An address to call holds a space, a control character or a backslash.", hint)
    parts = re.fullmatch(r"(?i:(https?))://([^/?#]+)([^#]*)(?:#.*)?", url)
    if parts is None:
        raise _refused("An address to call is not an absolute web address.", hint)
    scheme, authority, rest = parts[1].lower(), parts[2], parts[3]
    if "@" in authority:
        raise _refused("An address to call holds a user name.", hint)
    try:
        place = _parsed_place(authority)
        shown = f"[{place.host}]" if ":" in place.host else place.host
        port = "" if place.port is None else f":{place.port}"
        parsed = URL(f"{scheme}://{shown}{port}{rest if rest.startswith('/') else '/' + rest}", encoded=True)
    except ValueError:
        # Not chained: the reader's own message quotes the address.
        raise _refused("An address to call cannot be read.", hint) from None
    if parsed.raw_host != place.host or parsed.explicit_port != place.port:
        raise _refused("An address to call can be read in two ways.", hint)
    return parsed


@lru_cache(maxsize=1024)
def _canonical_host(host: str) -> str:
    """Gives a host in lower case and IDNA form, an address in its shortest one; `ValueError` for anything else."""
    literal = _literal(host)
    if literal is not None:
        return str(literal)
    encoded = URL.build(scheme="https", host=host).raw_host or ""
    if not re.fullmatch(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", encoded):
        raise ValueError("not a host name")
    if re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", encoded.rsplit(".", 1)[-1]):
        # 127.1, 2130706433, 0x7f.0.0.1: the C library reads these as addresses, other readers do not.
        literal = _literal(encoded)
        if literal is None:
            raise ValueError("an address in an unusual form")
        return str(literal)
    return encoded


def _literal(host: str) -> Address | None:
    if not host or not (host[-1].isdigit() or ":" in host):
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError("an address with a zone")
    return address


@lru_cache(maxsize=1024)
def _parsed_place(entry: str) -> _Place:
    """Reads ``host``, ``host:port``, ``[v6]:port`` or a bare v6 address; `ValueError` for anything else."""
    if entry.count(":") > 1 and not entry.startswith("["):
        return _Place(_canonical_host(entry), None)
    parts = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/@\\?#%\s]+))(?::([0-9]{1,5}))?", entry)
    if parts is None:
        raise ValueError("not a host")
    port = None if parts[3] is None else int(parts[3])
    if port is not None and not 0 < port < 65_536:
        raise ValueError("not a port")
    return _Place(_canonical_host(parts[1] or parts[2]), port)


def _own_places(hosts: Collection[str]) -> set[_Place]:
    places = set()
    for entry in hosts:
        with suppress(ValueError):  # what is no host matches none
            places.add(_parsed_place(entry))
    return places
