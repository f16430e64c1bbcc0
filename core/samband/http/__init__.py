"""The only way out to the network: one `Outbound` per event loop, one `AuthorisedSession` per integration."""

from samband.http.session import AuthorisedSession, Outbound, Tokens

__all__ = ["AuthorisedSession", "Outbound", "Tokens"]
