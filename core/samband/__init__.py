"""samband carries data between an organisation's platform and the systems it already uses.

The names here are what a plugin or a Python caller needs; everything deeper is the host's own.
"""

from samband import errors, webhooks
from samband.contract import (
    HOOK_API_VERSION,
    Batch,
    Check,
    ConsentRequest,
    Context,
    CredentialsModel,
    Event,
    HttpResponse,
    HttpSession,
    Item,
    Limits,
    Manifest,
    Page,
    Receipt,
    Record,
    Selection,
    SettingsModel,
    Stream,
    Token,
    Trigger,
    WebhookAnswer,
    WebhookRequest,
)
from samband.errors import (
    AdapterError,
    AuthError,
    ContractError,
    CursorExpiredError,
    OutcomeUnknownError,
    RateLimitedError,
    RejectedError,
    RemoteError,
    RetryableError,
    SambandError,
    SignatureError,
    UnavailableError,
)
from samband.hookspecs import hookimpl
from samband.kinds import Kind
from samband.oauth import client_credentials_token, refresh_token_token

__version__ = "0.1.0"

__all__ = [
    "HOOK_API_VERSION",
    "AdapterError",
    "AuthError",
    "Batch",
    "Check",
    "ConsentRequest",
    "Context",
    "ContractError",
    "CredentialsModel",
    "CursorExpiredError",
    "Event",
    "HttpResponse",
    "HttpSession",
    "Item",
    "Kind",
    "Limits",
    "Manifest",
    "OutcomeUnknownError",
    "Page",
    "RateLimitedError",
    "Receipt",
    "Record",
    "RejectedError",
    "RemoteError",
    "RetryableError",
    "SambandError",
    "Selection",
    "SettingsModel",
    "SignatureError",
    "Stream",
    "Token",
    "Trigger",
    "UnavailableError",
    "WebhookAnswer",
    "WebhookRequest",
    "__version__",
    "client_credentials_token",
    "errors",
    "hookimpl",
    "refresh_token_token",
    "webhooks",
]
