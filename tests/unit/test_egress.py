from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from aiohttp import ClientSession
from aiohttp.abc import AbstractResolver, ResolveResult

from samband.errors import ConfigurationError, RemoteError
from samband.http.egress import EgressPolicy, GuardedConnector, GuardedResolver, address_problem

OWN = ("org.crm4.dynamics.com", "login.example.no:8443")


class NamesOfTheTest(AbstractResolver):
    """Resolves from a dictionary and counts the questions."""

    def __init__(self, names: dict[str, list[str]]) -> None:
        self.names = names
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.names[host]
        ]

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        # named in the threat list: Python 3.11 calls these global
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("64:ff9b:1::1", "private"),
        ("64:ff9b:1::7f00:1", "private"),
        ("2002:7f00:1::", "loopback"),
        ("2002:a00:1::1", "private"),
        ("2002:a9fe:a9fe::", "link-local"),
        ("::127.0.0.1", "loopback"),
        ("::10.0.0.1", "private"),
        ("::a9fe:a9fe", "link-local"),
        ("::ffff:0:127.0.0.1", "loopback"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("ff02::1", "multicast"),
        ("ff0e::1", "multicast"),
        ("fec0::1", "private"),
        ("192.88.99.1", "reserved"),
        ("192.0.0.8", "reserved"),
        ("3fff::1", "reserved"),
        ("5f00::1", "reserved"),
        # the usual ones
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "link-local"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("198.18.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fd00:ec2::254", "private"),
        ("fc00::1", "private"),
        ("192.0.2.1", "reserved"),
        ("198.51.100.7", "reserved"),
        ("203.0.113.9", "reserved"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("2001:db8::1", "reserved"),
        ("2001::1", "reserved"),
        ("100::1", "reserved"),
        ("4000::1", "reserved"),
        # and the public ones
        ("8.8.8.8", None),
        ("172.32.0.1", None),
        ("100.128.0.1", None),
        ("2a00:1450:400f::1", None),
        ("64:ff9b::808:808", None),
        ("::ffff:8.8.8.8", None),
        ("2002:808:808::1", None),
    ],
)
def test_an_address_is_judged_by_whom_it_reaches(address: str, problem: str | None) -> None:
    assert address_problem(ip_address(address)) == problem


@pytest.mark.parametrize(
    "url",
    [
        "https://org.crm4.dynamics.com/api/data/v9.2/contacts?$select=a,b&$filter=x%20eq%20'%C3%A6'",
        "https://ORG.crm4.Dynamics.com/x",
        "https://org.crm4.dynamics.com:443/x",
        "https://login.example.no:8443/token",
        "https://org.crm4.dynamics.com?x=1",
    ],
)
def test_the_integrations_own_hosts_are_open(url: str) -> None:
    assert EgressPolicy().check_url(url, OWN).raw_host in {"org.crm4.dynamics.com", "login.example.no"}


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/x",
        "https://org.crm4.dynamics.com.evil.example/x",
        "https://xorg.crm4.dynamics.com/x",
        "https://crm4.dynamics.com/x",
        "https://org.crm4.dynamics.com./x",
        "http://org.crm4.dynamics.com/x",
        "https://org.crm4.dynamics.com:8443/x",
        "https://org.crm4.dynamics.com:0/x",
        "https://org.crm4.dynamics.com:99999/x",
        "https://login.example.no/x",
        "https://user:secret@org.crm4.dynamics.com/x",
        "https://org.crm4.dynamics.com@evil.example/x",
        "https://evil.example\\@org.crm4.dynamics.com/x",
        "https://evil.example#@org.crm4.dynamics.com/x",
        "https://org.crm4.dynamics.com\t.evil.example/x",
        "https://org.crm4.dynamics.com /x",
        "https://org.crm4.dynamics.com/x\r\nHost: evil.example",
        "https://org%2ecrm4.dynamics.com/x",
        "//org.crm4.dynamics.com/x",
        "/api/data",
        "file:///etc/passwd",
        "ftp://org.crm4.dynamics.com/x",
        "https:///x",
        "https://[org.crm4.dynamics.com]/x",
        "https://[::1/x",
        "",
    ],
)
def test_everything_else_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(RemoteError) as caught:
        EgressPolicy().check_url(url, OWN)
    assert caught.value.code == "egress_refused"
    assert caught.value.hint
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"],
)
def test_a_private_address_stays_closed_even_when_the_plugin_lists_it(host: str) -> None:
    with pytest.raises(RemoteError) as caught:
        EgressPolicy().check_url(f"https://{host}/x", (host,))
    assert caught.value.code == "egress_refused"


def test_the_url_is_kept_byte_for_byte() -> None:
    url = "https://org.crm4.dynamics.com/a//b/../%7Ec?$skiptoken=%3ccookie%20page=%222%22%3e&x=a+b&empty="
    assert str(EgressPolicy().check_url(url, OWN)) == url


def test_a_fragment_is_not_part_of_what_is_called() -> None:
    assert str(EgressPolicy().check_url("https://org.crm4.dynamics.com/x#y", OWN)) == "https://org.crm4.dynamics.com/x"


def test_a_norwegian_host_name_matches_its_idna_form() -> None:
    assert EgressPolicy().check_url("https://Blåbær.no/x", ("xn--blbr-roah.no",)).raw_host == "xn--blbr-roah.no"
    assert EgressPolicy().check_url("https://xn--blbr-roah.no/x", ("blåbær.no",)).raw_host == "xn--blbr-roah.no"


@pytest.mark.parametrize(
    ("allowed", "url", "host"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080/x", "127.0.0.1"),
        ("127.0.0.1", "http://127.0.0.1:9999/x", "127.0.0.1"),
        ("127.0.0.0/8", "http://127.0.0.1:9999/x", "127.0.0.1"),
        ("[::1]:8080", "http://[::1]:8080/x", "[::1]"),
        ("::1", "http://[::1]:1234/x", "[::1]"),
        ("crm.internal", "http://crm.internal:8080/x", "crm.internal"),
        ("CRM.internal:8080", "https://crm.internal:8080/x", "crm.internal:8080"),
    ],
)
def test_what_the_operator_lists_is_open_and_may_do_without_tls(allowed: str, url: str, host: str) -> None:
    assert str(EgressPolicy([allowed]).check_url(url, (host,))) == url


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8081/x"),
        ("127.0.0.2", "http://127.0.0.1:8080/x"),
        ("10.0.0.0/8", "http://127.0.0.1:8080/x"),
        ("localhost", "http://127.0.0.1:8080/x"),
    ],
)
def test_the_operators_list_opens_nothing_beside_it(allowed: str, url: str) -> None:
    with pytest.raises(RemoteError):
        EgressPolicy([allowed]).check_url(url, ("127.0.0.1",))


def test_being_listed_by_the_operator_does_not_make_a_host_the_integrations_own() -> None:
    with pytest.raises(RemoteError):
        EgressPolicy(["127.0.0.1"]).check_url("http://127.0.0.1:8080/x", OWN)


@pytest.mark.parametrize(
    "entry", ["", "http://x", "10.0.0.0/33", "10.0.0.1/8", "a b", "host:port", "host:70000", "a@b"]
)
def test_an_entry_of_the_operators_list_that_means_nothing_is_named(entry: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EgressPolicy([entry])
    assert caught.value.field == "allow_private"


async def test_one_bad_address_among_good_ones_refuses_the_name() -> None:
    names = NamesOfTheTest({"mixed.example": ["8.8.8.8", "10.0.0.1"], "good.example": ["8.8.8.8", "2a00:1450::1"]})
    resolver = GuardedResolver(EgressPolicy(), names)
    assert [result["host"] for result in await resolver.resolve("good.example", 443)] == ["8.8.8.8", "2a00:1450::1"]
    with pytest.raises(RemoteError) as caught:
        await resolver.resolve("mixed.example", 443)
    assert caught.value.code == "egress_refused"
    assert names.asked == ["good.example", "mixed.example"]


@pytest.mark.parametrize(
    ("allowed", "address", "is_open"),
    [
        ("crm.internal", "10.0.0.1", True),
        ("crm.internal:443", "127.0.0.1", True),
        ("crm.internal:444", "127.0.0.1", False),
        ("10.0.0.0/8", "10.0.0.1", True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", "192.168.0.1", False),
        # a name that was allowed must not lead to a metadata service; its very address may be listed
        ("crm.internal", "169.254.169.254", False),
        ("crm.internal", "224.0.0.1", False),
        ("crm.internal", "0.0.0.0", False),
        ("169.254.169.254", "169.254.169.254", True),
    ],
)
async def test_a_name_may_lead_only_to_what_was_allowed(allowed: str, address: str, is_open: bool) -> None:
    resolver = GuardedResolver(EgressPolicy([allowed]), NamesOfTheTest({"crm.internal": [address]}))
    if is_open:
        assert [result["host"] for result in await resolver.resolve("crm.internal", 443)] == [address]
    else:
        with pytest.raises(RemoteError):
            await resolver.resolve("crm.internal", 443)


async def test_the_connector_refuses_by_itself() -> None:
    connector = GuardedConnector(EgressPolicy(), resolver=NamesOfTheTest({"rebound.example": ["127.0.0.1"]}))
    async with ClientSession(connector=connector) as session:
        for url in ("http://127.0.0.1:9/x", "http://[::1]:9/x", "http://rebound.example:9/x"):
            with pytest.raises(RemoteError) as caught:
                await session.get(url)
            assert caught.value.code == "egress_refused"
