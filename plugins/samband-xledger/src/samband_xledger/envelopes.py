"""SOAP documents in and out, by zeep and without its transport: what goes over the network is the host's business.

zeep 4.3.3 was measured to read a well-formed HTML page as a fault, an empty answer as none, and to follow redirects. So it
is given an answer only after its status, content type and size have been looked at here. The descriptions come out of the
package and are read once in a process; nothing that an answer refers to is ever fetched.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import zeep
from lxml import etree  # type: ignore[import-untyped]
from zeep.exceptions import Error as ZeepError
from zeep.loader import parse_xml
from zeep.transports import Transport

from samband import HttpResponse

__all__ = ["Envelope", "Fault", "NoEnvelopeError", "ServiceName", "Version", "enclosed", "opened"]

Version = Literal["1.1", "1.2"]
ServiceName = Literal["Authentication", "FileUpload"]

NAMESPACE: Final = "http://ws.xledger.net/"
MOST_BYTES: Final = 256 * 1024
"""Longest answer that is read: both operations answer with one short text."""

_BINDINGS: Final[dict[Version, str]] = {"1.1": "Soap11", "1.2": "Soap12"}
_ENVELOPES: Final[dict[str, Version]] = {
    "http://schemas.xmlsoap.org/soap/envelope/": "1.1",
    "http://www.w3.org/2003/05/soap-envelope": "1.2",
}
_DESCRIPTIONS: Final = Path(__file__).parent.resolve() / "wsdl"
_MOST_WORDS: Final = 1_000
# forbid_dtd and forbid_external are off by default, in 4.3.3 too.
_HARDENED: Final = {"forbid_dtd": True, "forbid_entities": True, "forbid_external": True, "xml_huge_tree": False}
_MEDIA_TYPES: Final = frozenset({"text/xml", "application/soap+xml", "application/xml"})


class NoEnvelopeError(Exception):
    """What came back is no SOAP document, so it says nothing of what was asked; ``str`` names what it is instead."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request, ready to be sent."""

    body: bytes = field(repr=False)  # that of a log-on holds the password
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """A refusal in the words of the service.

    Attributes:
        is_ours: They say that the request was wrong (``Client`` or ``Sender``), not that they failed.
        text: Their words; empty when they gave none.
    """

    is_ours: bool
    text: str


class _FromPackage(Transport):
    """Reads the packaged descriptions and nothing else; nothing is ever sent through it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # here and below: zeep's types are not whole

    def load(self, url: str) -> bytes:
        path = Path(url).resolve()
        if path.parent != _DESCRIPTIONS:
            raise PermissionError("Only the descriptions of this package are read.")
        return path.read_bytes()

    def post(self, address: str, message: object, headers: object) -> object:
        raise PermissionError("Requests go through the host's session.")

    get = post_xml = post


def enclosed(service: ServiceName, operation: str, version: Version, **values: Any) -> Envelope:
    """Gives the request. The first call for a service reads its description, so call it off the event loop.

    Args:
        values: Parameters by their names. ``bytes`` where the description says base64: a text would go through as it is.
    """
    document = _operation(service, operation, version).create(**values)
    body: bytes = etree.tostring(document.content, xml_declaration=True, encoding="utf-8")
    action = f"{NAMESPACE}{operation}"
    if version == "1.1":
        return Envelope(body, {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": f'"{action}"'})
    return Envelope(body, {"Content-Type": f'application/soap+xml; charset=utf-8; action="{action}"'})


def opened(service: ServiceName, operation: str, answer: HttpResponse) -> str | Fault:
    """Gives the result's text, empty when there is none, or the fault. SOAP 1.1 is read in answer to 1.2, and the reverse.

    Raises:
        NoEnvelopeError: It is something else: a page for people, nothing at all, or XML that does not belong here.
    """
    root = _parsed(answer)
    version = _ENVELOPES.get(etree.QName(root).namespace or "") if etree.QName(root).localname == "Envelope" else None
    if version is None:
        raise NoEnvelopeError("XML that is no SOAP envelope")
    body = root.find(f"{{{etree.QName(root).namespace}}}Body")
    content = [] if body is None else list(body)
    if len(content) == 1 and content[0].tag == f"{{{etree.QName(root).namespace}}}Fault":
        return _fault(content[0])
    if answer.status != 200 or len(content) != 1 or content[0].tag != f"{{{NAMESPACE}}}{operation}Response":
        raise NoEnvelopeError("a SOAP envelope that does not answer what was asked")
    try:
        result = _operation(service, operation, version).process_reply(root)
    except (ZeepError, ValueError, TypeError, AttributeError, LookupError):
        raise NoEnvelopeError("a SOAP envelope that cannot be read") from None
    if not isinstance(result, str | None):
        result = getattr(
            result, f"{operation}Result", None
        )  # zeep unwraps only an answer with nothing beside the result
    return result.strip() if isinstance(result, str) else ""


@functools.cache
def _client(service: ServiceName) -> zeep.Client:
    """Reads a description, which takes some 20 ms; nothing changes it afterwards, so threads may share it."""
    # Not strict about shapes: an element that they add to an answer must not make a file that they took look refused.
    settings = zeep.Settings(strict=False, **_HARDENED)
    path = str(_DESCRIPTIONS / f"{service}.wsdl")
    return zeep.Client(path, transport=_FromPackage(), settings=settings)  # type: ignore[no-untyped-call]


def _operation(service: ServiceName, operation: str, version: Version) -> Any:
    # By the binding's name: left to itself zeep takes the first port, which is SOAP 1.1.
    wsdl: Any = _client(service).wsdl
    return wsdl.bindings[f"{{{NAMESPACE}}}{_BINDINGS[version]}"].get(operation)


def _parsed(answer: HttpResponse) -> Any:
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not answer.body.strip():
        raise NoEnvelopeError("nothing")
    if kind not in _MEDIA_TYPES:
        raise NoEnvelopeError("a web page" if kind == "text/html" else "another kind of document than SOAP")
    if len(answer.body) > MOST_BYTES:
        raise NoEnvelopeError(f"more than {MOST_BYTES} bytes")
    try:
        # Strict about XML: a document that was cut off must not be mended into an answer.
        settings = zeep.Settings(strict=True, **_HARDENED)
        return parse_xml(answer.body, _FromPackage(), settings=settings)  # type: ignore[arg-type]
    except (ZeepError, ValueError):
        raise NoEnvelopeError("XML that is cut off, damaged, or has a document type") from None


def _fault(node: Any) -> Fault:
    named = {etree.QName(child).localname: child for child in node.iter() if isinstance(child.tag, str)}
    code = named.get("faultcode") if "faultcode" in named else named.get("Value")
    said = named.get("faultstring") if "faultstring" in named else named.get("Text")
    kind = ("".join(code.itertext()) if code is not None else "").rpartition(":")[2].strip()
    text = " ".join("".join(said.itertext()).split()) if said is not None else ""
    return Fault(is_ours=kind.partition(".")[0] in ("Client", "Sender"), text=text[:_MOST_WORDS])
