"""Access tokens: fetched once however many ask, renewed before they end, and never trusted unread.

authlib builds and signs the grant; the host's own HTTP session carries it. `authlib` is imported where it is used:
it takes a tenth of a second, and everything that imports `samband` would pay for it.
"""

from samband.oauth.answers import MAX_TOKEN_ANSWER_BYTES
from samband.oauth.grants import (
    authorization_code_token,
    authorization_url,
    client_credentials_token,
    refresh_token_token,
)
from samband.oauth.source import LEEWAY_S, TokenSource, renewal_due

__all__ = [
    "LEEWAY_S",
    "MAX_TOKEN_ANSWER_BYTES",
    "TokenSource",
    "authorization_code_token",
    "authorization_url",
    "client_credentials_token",
    "refresh_token_token",
    "renewal_due",
]
