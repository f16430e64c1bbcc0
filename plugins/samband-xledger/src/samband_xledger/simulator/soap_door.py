"""The SOAP door: log-on keys and file upload, on SOAP 1.1 and 1.2, and the service descriptions."""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from importlib.resources import files
from xml.sax.saxutils import escape

from aiohttp import web
from lxml import etree  # type: ignore[import-untyped]

from .access import ROLES, LogonKey
from .faults import FaultRule
from .files import UnreadableFile
from .state import SimulatorState
from .uploads import receive, rows_of
from .wire import Reply
from .world import World

NAMESPACE = "http://ws.xledger.net/"
SOAP_11 = "http://schemas.xmlsoap.org/soap/envelope/"
SOAP_12 = "http://www.w3.org/2003/05/soap-envelope"
OPERATIONS = {"Authentication": "LogonKey", "FileUpload": "ReceiveFile"}
APPLICATIONS = {"demo": "XLEDGERDEMO", "live": "XLEDGER"}
_TYPES = {SOAP_11: "text/xml", SOAP_12: "application/soap+xml"}
_ADDRESS = b"https://ws.xledger.example"


class SoapFault(Exception):
    """A refusal; ``client`` says whose fault it is."""

    def __init__(self, message: str, *, client: bool = False) -> None:
        super().__init__(message)
        self.client = client


@dataclass(slots=True, kw_only=True)
class SoapCall:
    """A request, read once."""

    service: str
    operation: str
    envelope: str = SOAP_11
    arguments: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    origin: str = ""


class SoapDoor:
    """Answers both services of every environment."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state

    async def read(self, request: web.Request) -> SoapCall:
        """Reads a request; what is no SOAP comes back with a problem."""
        service = request.match_info["service"]
        origin = f"http://{request.host}{request.path.partition('/WS/')[0]}"
        if request.method == "GET":
            return SoapCall(service=service, operation="wsdl", origin=origin)
        call = SoapCall(service=service, operation=OPERATIONS.get(service, ""), origin=origin)
        if request.content_type == "application/soap+xml":
            call.envelope = SOAP_12
        try:
            _fill(call, await request.read())
        except etree.XMLSyntaxError as problem:
            call.problem = f"Server was unable to read request. ---> {problem.msg}"
        return call

    def answer(self, world: World, call: SoapCall, rule: FaultRule | None) -> Reply:
        """Returns the answer of a service."""
        if call.operation == "wsdl":
            return _description(call)
        if rule is not None and rule.kind == "soap_fault" and not rule.commit:
            return self._faulted(call, rule)
        if rule is not None and rule.kind == "expired_key":
            self._expire(world, call)
        try:
            result = self._result(world, call)
        except SoapFault as problem:
            if self._state.switches.soap_errors == "result" and not call.problem:
                return _envelope(call, str(problem))
            return _fault(call, str(problem), client=problem.client)
        return self._faulted(call, rule) if rule is not None and rule.kind == "soap_fault" else _envelope(call, result)

    def _faulted(self, call: SoapCall, rule: FaultRule) -> Reply:
        message = "Server was unable to process request. ---> Timeout expired."
        return _fault(
            call, str(rule.parameters.get("message", message)), status=int(rule.parameters.get("status", 500))
        )

    def _expire(self, world: World, call: SoapCall) -> None:
        world.keys.pop(call.arguments.get("sKey", ""), None)

    def _result(self, world: World, call: SoapCall) -> str:
        if call.problem:
            raise SoapFault(call.problem, client=True)
        if call.arguments.get("sApplication") != APPLICATIONS[world.name]:
            raise SoapFault("Unknown application.")
        return self._log_on(world, call) if call.operation == "LogonKey" else self._receive(world, call)

    def _log_on(self, world: World, call: SoapCall) -> str:
        user = world.users.get(call.arguments.get("sLogonID", ""))
        if user is None or user.password != call.arguments.get("sPassword"):
            raise SoapFault("Invalid user name or password.")
        if ROLES[0] not in user.roles:
            raise SoapFault(f"The user does not have the role {ROLES[0]}.")
        until = world.clock.now().timestamp() + self._state.switches.key_life_s
        key = LogonKey(text=secrets.token_hex(16), user=user.name, until=until)
        world.keys[key.text] = key
        return key.text

    def _receive(self, world: World, call: SoapCall) -> str:
        given = call.arguments
        key = world.keys.get(given.get("sKey", ""))
        user = world.users.get(given.get("sUserName", ""))
        if key is None or user is None or key.user != user.name or key.until <= world.clock.now().timestamp():
            raise SoapFault("The logon key is not valid or has expired.")
        if ROLES[1] not in user.roles:
            raise SoapFault(f"The user does not have the role {ROLES[1]}.")
        entity = given.get("iEntityCode", "")
        if entity not in user.entities or world.entity(entity) is None:
            raise SoapFault(f"The user has no access to entity {entity[:20]}.")
        code = given.get("sImportCode", "")
        if code not in world.import_codes:
            raise SoapFault(f"Unknown import code '{code[:40]}'.")
        content = _decoded(given.get("aFile", ""))
        if len(content) > self._state.switches.max_file_bytes:
            raise SoapFault("Maximum request length exceeded.")
        name = given.get("sFileName", "")
        upload = receive(
            world, door="soap", name=name, content=content, entity=entity, import_code=code, user=user.name
        )
        if self._state.switches.file_checks == "now":
            try:
                rows_of(upload)
            except UnreadableFile as problem:
                world.uploads.remove(upload)
                raise SoapFault(str(problem)) from None
        return f"OK {upload.number} {name}"


def _fill(call: SoapCall, body: bytes) -> None:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True)
    root = etree.fromstring(body, parser)
    name = etree.QName(root)
    if name.localname != "Envelope" or name.namespace not in _TYPES:
        call.problem = "The request is not a SOAP envelope."
        return
    call.envelope = str(name.namespace)
    found = root.find(f"{{{call.envelope}}}Body/{{{NAMESPACE}}}{call.operation}")
    if not call.operation or found is None:
        call.problem = "Server did not recognize the value of HTTP Header SOAPAction."
        return
    call.arguments = {etree.QName(item).localname: item.text or "" for item in found}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        raise SoapFault("Server was unable to read request. ---> Invalid length for a Base-64 char array.") from None


def _description(call: SoapCall) -> Reply:
    if call.service not in OPERATIONS:
        return Reply(status=404, body=b"", content_type="text/html")
    text = files(__package__).joinpath("data").joinpath(f"{call.service}.wsdl").read_bytes()
    return Reply(body=text.replace(_ADDRESS, call.origin.encode()), content_type="text/xml")


def _envelope(call: SoapCall, result: str) -> Reply:
    inner = (
        f'<{call.operation}Response xmlns="{NAMESPACE}"><{call.operation}Result>{escape(result)}'
        f"</{call.operation}Result></{call.operation}Response>"
    )
    return _wrapped(call, inner, 200)


def _fault(call: SoapCall, message: str, *, client: bool = False, status: int = 500) -> Reply:
    text = escape(message)
    if call.envelope == SOAP_12:
        code = "Sender" if client else "Receiver"
        inner = (
            f"<s:Fault><s:Code><s:Value>s:{code}</s:Value></s:Code>"
            f'<s:Reason><s:Text xml:lang="en">{text}</s:Text></s:Reason></s:Fault>'
        )
    else:
        code = "Client" if client else "Server"
        inner = f"<s:Fault><faultcode>s:{code}</faultcode><faultstring>{text}</faultstring><detail/></s:Fault>"
    return _wrapped(call, inner, status)


def _wrapped(call: SoapCall, inner: str, status: int) -> Reply:
    body = (
        f'<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="{call.envelope}"><s:Body>{inner}</s:Body>'
        "</s:Envelope>"
    )
    return Reply(status=status, body=body.encode(), content_type=_TYPES[call.envelope])
