"""What a refusal of access means: whom it asks for something, and what it says about the connection.

The one place for it. Only a refused grant asks a person to sign in again; everything else is for whoever set the
integration up or whoever runs the other system, and no amount of signing in would mend it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from samband.errors import AuthError, AuthReason

__all__ = ["Audience", "Refusal", "judge_refusal"]

Audience = Literal["person", "operator", "administrator"]
"""Who can mend it: the person who agreed to the connection, who set it up here, or who runs the other system."""

BrokenConnection = Literal["needs_reauthentication", "misconfigured"]


class Refusal(NamedTuple):
    """What follows from a refusal.

    ``audience`` can mend it; ``connection`` is the state the integration is in; ``is_final`` says that asking again is
    useless until somebody has done something here.
    """

    audience: Audience
    connection: BrokenConnection
    is_final: bool = False


_OPERATOR: Final = Refusal("operator", "misconfigured")
_ADMINISTRATOR: Final = Refusal("administrator", "misconfigured")

_REFUSALS: Final[Mapping[AuthReason, Refusal]] = {
    "grant_refused": Refusal("person", "needs_reauthentication", is_final=True),
    "sign_in_needed": Refusal("person", "needs_reauthentication"),
    "secret_wrong": _OPERATOR,
    "secret_expired": _OPERATOR,
    "certificate_expired": _OPERATOR,
    "client_unknown": _OPERATOR,
    "tenant_unknown": _OPERATOR,
    "refused": _OPERATOR,
    "scope_refused": _ADMINISTRATOR,
    "consent_missing": _ADMINISTRATOR,
    "no_application_user": _ADMINISTRATOR,
    "missing_privilege": _ADMINISTRATOR,
}


def judge_refusal(error: AuthError) -> Refusal:
    """Gives what follows from a refusal. A reason that a plugin made up counts as ``refused``."""
    return _REFUSALS.get(error.reason, _OPERATOR)
