"""Files over SOAP: the log-on key and the upload.

For plugin.py:
    fills = await log_on(ctx)                         # in authenticate; {"soap_user": …, "soap_key": …}, {} without credentials
    async for receipt in export_by_soap(ctx, batch):  # the hook export, for batch.route == "soap"
    await probe(ctx)                                  # raises when the way is closed (used by routing)

An upload is acknowledged, not posted: a job of Xledger's imports the file later. So the best receipt here is ``accepted``.

What became of an upload is decided here and nowhere else. Once the request has left, the outcome is unknown unless the
answer proves a refusal: a fault in their words, 401, 403, or a page to sign in at. Log-on keys expire with a fault or with a
text in place of the result; a key that was refused means that nothing was taken, so it is renewed and the file sent again,
once. Fault texts and the life of a key are not public: the patterns are inferred, and what they miss counts as unknown.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Final

from pydantic import SecretStr

from samband import (
    AdapterError,
    AuthError,
    Batch,
    Context,
    ExportFile,
    HttpResponse,
    OutcomeUnknownError,
    Receipt,
    RejectedError,
    RemoteError,
    RetryableError,
    UnavailableError,
    Voucher,
)
from samband_xledger.envelopes import Fault, NoEnvelopeError, enclosed, opened
from samband_xledger.gl02xml import gl02xml
from samband_xledger.postings import voucher_of
from samband_xledger.settings import XledgerCredentials, XledgerSettings

__all__ = ["LOG_ON_PATH", "UPLOAD_PATH", "export_by_soap", "log_on", "probe"]

LOG_ON_PATH: Final = "/WS/Common/Lib/Authentication.asmx"
UPLOAD_PATH: Final = "/WS/Common/Lib/FileUpload.asmx"

LOG_ON_TIMEOUT_S: Final = 20.0
UPLOAD_TIMEOUT_S: Final = 90.0  # a wait is better than not knowing

_KEY: Final = re.compile(r"[\x21-\x7e]{8,1000}")
_PASSWORD_WRONG: Final = re.compile(r"(?i)password|log-?on|log-?in|user|credential|passord|bruker")
_KEY_REFUSED: Final = re.compile(
    r"(?i)\b(key|log-?on|log-?in|session|nøkkel)\b.{0,60}\b(expired|invalid|not valid|unknown|not found|timed out|wrong|"
    r"refused|ugyldig|utløpt|utgått)\b|\b(expired|invalid|unknown|wrong|ugyldig|utløpt)\b.{0,20}\b(key|session|log-?on|nøkkel)\b"
)
_NOT_ALLOWED: Final = re.compile(
    r"(?i)\b(role|rights?|permission|access|not authori[sz]ed|not allowed|denied|forbidden|rolle|tilgang|rettighet)"
)
_NOT_SET_UP: Final = re.compile(r"(?i)application|import ?-?(code|definition)|entity|company|selskap|firma|importkode")
_BROKE_OFF: Final = re.compile(
    r"(?i)time-?out|timed out|deadlock|abort|connection|network|transport|out of memory|thread"
)
_OF_A_PROGRAM: Final = re.compile(
    r"(?i)\b(primary|foreign|duplicate|unique|encryption) key\b|\bconstraint\b|\bsql\b|\bdatabase\b|\bsession state\b|"
    r"\bdictionary\b|\bspecified cast\b|\binvalid (operation|attempt|cast|object name|column name|pointer)\b|"
    r"\bunknown (error|exception)\b|\bexception of type\b|\bobject reference\b|\bindex was out\b|\bsequence contains\b"
)
"""Words of a program or a database that broke down: whatever key or session they speak of, it is not ours."""
_SAYS_NO: Final = re.compile(
    r"(?i)\b(invalid|not valid|missing|unknown|required|malformed|refused|rejected|unsupported|too (large|long|many)|exceeded|"
    r"ugyldig|avvist|mangler|must|not xml|cannot be read|error in xml|root level|empty file|no file)\b"
)
"""Words of somebody who has looked at the file and does not want it, apart from those of a program that broke down."""
_NO_SUCCESS: Final = re.compile(
    r"(?i)^\W*(error|fault|fail|false|feil|nei|no\b|-\d|null)|exception|denied|invalid|expired|unknown|exceeded|refused|"
    r"\bnot\b|\bno access\b|cannot|unable|missing|\bmust\b|ugyldig|avvist|rejected|ikke"
)
_TAKEN: Final = re.compile(r"(?i)^\W*ok\b|\b(received|accepted|imported|taken|stored|mottatt|importert|lagret)\b")


# ── the log-on ───────────────────────────────────────────────────────────────


async def log_on(ctx: Context) -> Mapping[str, SecretStr]:
    """Gives what the host writes into uploads: ``soap_user`` and ``soap_key``; nothing without credentials for SOAP.

    Only for ``authenticate``. Changes nothing, so it is repeated when the connection is lost.

    Raises:
        AuthError: They refused user or password, or the user lacks the role.
        RetryableError: They are away.
        RemoteError: The answer is none that a log-on gives.
    """
    credentials: XledgerCredentials = ctx.credentials
    if credentials.soap_user is None or credentials.soap_password is None:
        return {}
    settings: XledgerSettings = ctx.settings
    user = credentials.soap_user
    envelope = await asyncio.to_thread(
        enclosed, "Authentication", "LogonKey", settings.soap_version,
        sLogonID=user.get_secret_value(), sPassword=credentials.soap_password.get_secret_value(),
        sApplication=settings.application,
    )  # fmt: skip
    try:
        answer = await ctx.http.request(
            "POST", settings.soap_endpoint + LOG_ON_PATH, data=envelope.body, headers=envelope.headers,
            timeout_s=LOG_ON_TIMEOUT_S, idempotent=True,
        )  # fmt: skip
    except RemoteError as error:
        raise _log_on_refused("It wants somebody to sign in.") if _is_sign_in(error) else error from error
    return {"soap_user": user, "soap_key": _key_in(answer)}


def _key_in(answer: HttpResponse) -> SecretStr:
    if answer.status in (401, 403):
        raise _log_on_refused(f"It answered {answer.status}.")
    try:
        result = opened("Authentication", "LogonKey", answer)
    except NoEnvelopeError as what:
        kind = UnavailableError if answer.status >= 500 else RemoteError
        raise kind(f"The log-on service answered {answer.status} with {what}.", code="soap_no_envelope") from None
    if isinstance(result, Fault):
        if _NOT_ALLOWED.search(result.text) or _PASSWORD_WRONG.search(result.text):
            raise _log_on_refused(result.text)
        if _BROKE_OFF.search(result.text):
            raise UnavailableError("The log-on service failed.", remote_message=result.text)
        raise RemoteError(
            "The log-on service refused the log-on.", code="soap_fault", remote_message=result.text,
            hint="Check the environment, which decides the application's name, and the web service user.",
        )  # fmt: skip
    if not _KEY.fullmatch(result):
        # A sentence in place of a key: their way to say no without a fault. Anything else may be a key after all, of a
        # shape that nobody has seen, and is not told.
        raise _log_on_refused(result if len(result.split()) > 1 else "Its answer is no key that can be used.")
    return SecretStr(result)


def _log_on_refused(said: str) -> AuthError:
    is_role = bool(_NOT_ALLOWED.search(said))
    return AuthError(
        "Xledger refused the web service user's log-on.",
        reason="missing_privilege" if is_role else "secret_wrong",
        hint="Check user and password, and that the user has the roles Web Service User and File Uploader.",
        remote_message=said,
    )


# ── is the way open ──────────────────────────────────────────────────────────


async def probe(ctx: Context) -> None:
    """Passes when the upload service is there: it reads its description, which needs no right and changes nothing.

    Whether the log-on key is good shows only in the upload itself, where a refused key means that nothing was taken.

    Raises:
        RetryableError: They are away.
        RemoteError: Something else is there.
    """
    settings: XledgerSettings = ctx.settings
    answer = await ctx.http.request("GET", f"{settings.soap_endpoint}{UPLOAD_PATH}?WSDL", timeout_s=LOG_ON_TIMEOUT_S)
    if answer.status >= 500:
        raise UnavailableError(f"The upload service answered {answer.status}.")
    if answer.status != 200 or b"ReceiveFile" not in answer.body or b"definitions" not in answer.body:
        raise RemoteError(
            f"The upload service answered {answer.status} and does not offer ReceiveFile.", code="soap_not_offered",
            hint="Check the SOAP address in the settings.",
        )  # fmt: skip


# ── the upload ───────────────────────────────────────────────────────────────


async def export_by_soap(ctx: Context, batch: Batch) -> AsyncIterator[Receipt]:
    """Sends the batch's vouchers as one file, each whole; yields a receipt for each item.

    A voucher that cannot be sent as it is, for instance because it does not balance, is rejected by itself, before anything
    is sent, and the others go.

    Raises:
        RetryableError: Nothing was taken: they were away before the file was sent, or refused it as a whole.
        OutcomeUnknownError: It was sent, and the answer does not say what became of it. It is never sent again from here.
    """
    settings: XledgerSettings = ctx.settings
    vouchers, refused = await asyncio.to_thread(_sorted_out, batch, settings)
    for receipt in refused:
        yield receipt
    if not vouchers:
        return
    file = await asyncio.to_thread(gl02xml, vouchers, settings)
    try:
        said = await _uploaded(ctx, file)
    except RejectedError as refusal:
        for voucher in vouchers:
            yield _rejected(voucher.key, refusal)
        return
    proof = {"file": file.name, "sha256": hashlib.sha256(file.content).hexdigest(), "answer": said}
    for voucher in vouchers:
        yield Receipt(
            key=voucher.key, state="accepted", reference=file.name, evidence={**proof, "voucher": str(voucher.number)}
        )


def _sorted_out(batch: Batch, settings: XledgerSettings) -> tuple[list[Voucher], list[Receipt]]:
    """Gives the vouchers that can be sent, and a receipt for each item that cannot."""
    vouchers: list[Voucher] = []
    refused: list[Receipt] = []
    for item in batch.items:
        try:
            voucher = voucher_of(item)
            gl02xml([voucher], settings)
            if any(voucher.number == other.number for other in vouchers):
                raise RejectedError("Another voucher of the file has its number.", code="number_taken", field="number")
        except RejectedError as refusal:
            refused.append(_rejected(item.key, refusal))
        else:
            vouchers.append(voucher)
    return vouchers, refused


def _rejected(key: str, refusal: RejectedError) -> Receipt:
    return Receipt(
        key=key, state="rejected", code=refusal.code, field=refusal.field,
        message=refusal.remote_message or refusal.message,
    )  # fmt: skip


class _KeyRefusedError(Exception):
    """They did not accept the log-on key, so they looked at nothing else; ``str`` are their words."""


async def _uploaded(ctx: Context, file: ExportFile) -> str:
    """Gives what they said when they took the file."""
    try:
        return await _sent_once(ctx, file)
    except _KeyRefusedError as first:
        ctx.log.info("log_on_key_refused", said=str(first))
    try:
        await ctx.http.renew_token()
    except RetryableError:
        raise
    except AdapterError as error:
        raise _refused(error.message, error.remote_message, hint=error.hint) from error
    try:
        return await _sent_once(ctx, file)
    except _KeyRefusedError as again:
        raise _refused("Xledger refused a log-on key that was fetched just now.", str(again)) from None


async def _sent_once(ctx: Context, file: ExportFile) -> str:
    settings: XledgerSettings = ctx.settings
    await _have_key(ctx)
    envelope = await asyncio.to_thread(
        enclosed, "FileUpload", "ReceiveFile", settings.soap_version,
        sUserName="{{soap_user}}", sKey="{{soap_key}}", sApplication=settings.application, sFileName=file.name,
        aFile=file.content, sImportCode=settings.import_code, iEntityCode=int(settings.entity_code),
    )  # fmt: skip
    try:
        answer = await ctx.http.request(
            "POST", settings.soap_endpoint + UPLOAD_PATH, data=envelope.body, headers=envelope.headers,
            timeout_s=UPLOAD_TIMEOUT_S, idempotent=False, fill=True,
        )  # fmt: skip
    except AuthError as error:
        # 401 also with a new key, or no key at all: either way nothing was taken.
        raise _refused(error.message, error.remote_message, hint=error.hint) from error
    except RemoteError as error:
        raise _judged(error) from error
    return _taken(answer)


async def _have_key(ctx: Context) -> None:
    """Passes when there is a log-on key. Looked at by itself, so that trouble in fetching one is not taken for trouble with
    a file that is on its way."""
    try:
        names = await ctx.http.fill_names()
    except RetryableError:
        raise
    except AdapterError as error:
        raise _refused(error.message, error.remote_message, hint=error.hint) from error
    if not {"soap_user", "soap_key"} <= set(names):
        raise _refused("There is no log-on key for SOAP.", "", hint="Give user and password of a web service user.")


def _judged(error: RemoteError) -> Exception:
    """Says what the host's refusal to go on means for a file."""
    if _is_sign_in(error):
        return _KeyRefusedError(error.message)
    if error.code in ("egress_refused", "tls_failed"):
        return _refused(error.message, "", hint=error.hint)  # before anything was sent
    return OutcomeUnknownError(
        f"The file was sent and it is not known whether it was taken: {error.message}", code=f"soap_{error.code}"[:64]
    )


def _taken(answer: HttpResponse) -> str:
    """Gives their word that they took the file; everything else is raised as what it means."""
    if answer.status in (401, 403):
        raise _KeyRefusedError(f"It answered {answer.status}.")
    try:
        result = opened("FileUpload", "ReceiveFile", answer)
    except NoEnvelopeError as what:
        raise OutcomeUnknownError(
            f"The file was sent, and the answer was {answer.status} with {what}: it is not known whether it was taken.",
            code="soap_no_envelope",
        ) from None
    if isinstance(result, Fault):
        raise _meaning_of(result)
    is_broken = _OF_A_PROGRAM.search(result) is not None
    if _KEY_REFUSED.search(result) and not _TAKEN.search(result) and not is_broken:
        raise _KeyRefusedError(result)
    if not result or is_broken or _NO_SUCCESS.search(result):
        raise OutcomeUnknownError(
            "The file was sent, and what they answered is neither a receipt nor a refusal.",
            code="soap_result_unclear", remote_message=result, hint="Look in Xledger whether the file has been imported.",
        )  # fmt: skip
    return result


def _meaning_of(fault: Fault) -> Exception:
    text = fault.text
    is_broken = _OF_A_PROGRAM.search(text) is not None
    if _KEY_REFUSED.search(text) and not is_broken:
        return _KeyRefusedError(text)
    if is_broken or (not fault.is_ours and (_BROKE_OFF.search(text) or not _is_refusal(text))):
        # ASP.NET makes such a fault of every exception: it may have broken off in the middle of taking the file.
        return OutcomeUnknownError(
            "The file was sent, and the service failed while it was at it.",
            code="soap_fault_unclear",
            remote_message=text,
        )
    if _NOT_ALLOWED.search(text) or _NOT_SET_UP.search(text):
        return _refused("Xledger refused the upload as a whole.", text)
    return RejectedError("Xledger refused the file.", code="soap_fault", remote_message=text)


def _is_refusal(text: str) -> bool:
    return any(pattern.search(text) for pattern in (_SAYS_NO, _NOT_ALLOWED))


def _refused(
    message: str, said: str, *, hint: str = "Check the web service user's roles, the import code and the entity."
) -> RetryableError:
    # Not AuthError: only this type says that nothing was taken, so that the items are free for another way.
    return RetryableError(message, code="soap_refused", remote_message=said, hint=hint)


def _is_sign_in(error: RemoteError) -> bool:
    return error.code == "redirect_to_sign_in"
