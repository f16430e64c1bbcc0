"""Every error samband raises, in one tree built around what happens next.

    SambandError
    ├── ConfigurationError          the operator mends a file, a variable or an argument; nothing has started
    ├── PluginError                 a plugin could not be loaded; the host starts without it
    ├── AdapterError                raised inside a hook; says what the core does next
    │   ├── AuthError               stop, and tell a person
    │   ├── RetryableError          try again later
    │   │   ├── RateLimitedError    … they asked us to wait
    │   │   └── UnavailableError    … they are away, or the network is
    │   ├── CursorExpiredError      read the stream again from the beginning
    │   ├── RejectedError           this item only, in their words
    │   ├── RemoteError             the run fails
    │   ├── SignatureError          the webhook is refused, only a count is kept
    │   ├── OutcomeUnknownError     sent, but no answer: look it up before anything else
    │   └── ContractError           the plugin broke a promise; the run fails and the plugin is named
    ├── ServiceError                a request that cannot be granted
    │   ├── InvalidError            … because of what it says (names the fields)
    │   ├── AccessError             … because of who asks
    │   ├── NotFoundError           … because there is no such thing here
    │   ├── ConflictError           … because of the state things are in
    │   │   └── AlreadyRunningError … namely a run that is still alive
    │   └── NotReadyError           … right now; try again
    └── StoreError
        ├── StaleLeaseError         another worker owns the run; this one must stop writing
        ├── RunCancelledError       somebody cancelled the run; it writes nothing more and ends
        └── RunHeldError            the brake has stopped the run; a person decides how it goes on

Every error has a stable ``code``, one plain sentence, and where there is one a ``hint``: the next step for the
person who reads it. The other system's own words are kept apart in ``remote_message``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

__all__ = [
    "AccessError",
    "AdapterError",
    "AlreadyRunningError",
    "AuthError",
    "AuthReason",
    "ConfigurationError",
    "ConflictError",
    "ContractError",
    "CursorExpiredError",
    "FieldProblem",
    "InvalidError",
    "NotFoundError",
    "NotReadyError",
    "OutcomeUnknownError",
    "PluginError",
    "RateLimitedError",
    "RejectedError",
    "RemoteError",
    "RetryableError",
    "RunCancelledError",
    "RunHeldError",
    "SambandError",
    "ServiceError",
    "SignatureError",
    "StaleLeaseError",
    "StoreError",
    "UnavailableError",
]

AuthReason = Literal[
    "secret_wrong",
    "secret_expired",
    "client_unknown",
    "tenant_unknown",
    "scope_refused",
    "consent_missing",
    "no_application_user",
    "missing_privilege",
    "certificate_expired",
    "grant_refused",
    "sign_in_needed",
    "refused",
]
"""Why access was refused, as far as the other side says. ``refused`` when it does not say.

``grant_refused`` means that what a person once agreed to holds no longer (``invalid_grant``), and ``sign_in_needed`` that
nobody has agreed yet: only these two ask a person to sign in. `samband.rules.refusals` says whom each of the others asks.
"""


class SambandError(Exception):
    """The root: a stable code, one plain sentence, and the next step.

    Args:
        message: One sentence for a person. Never holds a secret or a member's data.
        code: Overrides the class's stable code, in ``snake_case``.
        hint: What to do next, in the imperative. Empty when there is nothing to do.
        field: The name of the field at fault, dotted for nested ones.
        remote_message: The other system's own words, already scrubbed and bounded.
    """

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        hint: str = "",
        field: str | None = None,
        remote_message: str = "",
    ) -> None:
        super().__init__(message or type(self).__name__)
        self.message = message or type(self).__name__
        self.code = code or self.default_code
        self.hint = hint
        self.field = field
        self.remote_message = remote_message

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


# ── before anything runs ─────────────────────────────────────────────────────


class ConfigurationError(SambandError):
    """A setting, file or argument is wrong; the process ends with exit code 2 before it starts anything."""

    default_code = "configuration_invalid"


class PluginError(SambandError):
    """A plugin could not be found, imported or registered; the host goes on without it and lists the reason."""

    default_code = "plugin_failed"


# ── raised by plugins: the type says what the core does next ─────────────────


class AdapterError(SambandError):
    """Something went wrong inside a hook. Raise one of the subclasses: each says what the core does next."""

    default_code = "adapter_error"


class AuthError(AdapterError):
    """Access was refused. The run stops, the integration needs a person, and nothing is retried.

    Args:
        reason: Which part was refused, so that the hint can name it.
    """

    default_code = "auth_refused"

    def __init__(
        self,
        message: str = "",
        *,
        reason: AuthReason = "refused",
        code: str | None = None,
        hint: str = "",
        field: str | None = None,
        remote_message: str = "",
    ) -> None:
        super().__init__(message, code=code or f"auth_{reason}", hint=hint, field=field, remote_message=remote_message)
        self.reason = reason


class RetryableError(AdapterError):
    """The same call may succeed later. The core waits and starts again from the last committed page.

    Args:
        retry_after_s: Seconds the other side asked us to wait, or None when it did not say.
    """

    default_code = "retryable"

    def __init__(
        self,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        code: str | None = None,
        hint: str = "",
        field: str | None = None,
        remote_message: str = "",
    ) -> None:
        super().__init__(message, code=code, hint=hint, field=field, remote_message=remote_message)
        self.retry_after_s = retry_after_s


class RateLimitedError(RetryableError):
    """They asked us to slow down. The worker is given back and the run waits for ``retry_after_s``."""

    default_code = "rate_limited"


class UnavailableError(RetryableError):
    """They did not answer, or answered that they are away (502, 503, 504, time limit, lost connection)."""

    default_code = "unavailable"


class CursorExpiredError(AdapterError):
    """They no longer accept the cursor. The core reads the stream again from the beginning and reconciles deletions."""

    default_code = "cursor_expired"


class RejectedError(AdapterError):
    """They understood one item and refused it. Only that item is marked; name the ``field`` where they do."""

    default_code = "rejected"


class RemoteError(AdapterError):
    """They answered something that makes this run impossible. The run fails; what was committed stays."""

    default_code = "remote_error"


class SignatureError(AdapterError):
    """A webhook's signature, secret or timestamp is not theirs. Answered 401; nothing is stored but a count."""

    default_code = "signature_refused"


class OutcomeUnknownError(AdapterError):
    """A write was sent and no answer came. The item becomes ``unknown`` and may only leave by being looked up."""

    default_code = "outcome_unknown"


class ContractError(AdapterError):
    """The plugin broke a promise of the hook specifications. The run fails and the plugin is named."""

    default_code = "contract_broken"


# ── raised by the service: each becomes one problem document ─────────────────


class ServiceError(SambandError):
    """A request cannot be granted. The subclass decides the HTTP status and the command line's exit code."""

    default_code = "request_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """One thing that is wrong with one field of a request. Never holds the value that was sent.

    Attributes:
        field: Dotted path, for instance ``settings.environment_url``.
        code: Stable, for instance ``unknown_key`` or ``url_scheme``.
        message: One sentence, with the way out.
    """

    field: str
    code: str
    message: str


class InvalidError(ServiceError):
    """What was asked is malformed. ``problems`` names every field at fault."""

    default_code = "invalid_request"

    def __init__(
        self, message: str = "", *, problems: Sequence[FieldProblem] = (), code: str | None = None, hint: str = "",
        remote_message: str = "",
    ) -> None:  # fmt: skip
        field = problems[0].field if problems else None
        super().__init__(message, code=code, hint=hint, field=field, remote_message=remote_message)
        self.problems = tuple(problems)


class AccessError(ServiceError):
    """The caller has no valid key, or the key does not reach this far."""

    default_code = "access_refused"


class NotFoundError(ServiceError):
    """There is no such thing, or none that this caller may know of; the two are never told apart."""

    default_code = "not_found"


class ConflictError(ServiceError):
    """The thing exists but is in a state that does not allow this; the hint says which move is open.

    ``problems`` names what stands in the way where that is more than one thing.
    """

    default_code = "conflict"

    def __init__(
        self, message: str = "", *, problems: Sequence[FieldProblem] = (), code: str | None = None, hint: str = "",
        remote_message: str = "",
    ) -> None:  # fmt: skip
        field = problems[0].field if problems else None
        super().__init__(message, code=code, hint=hint, field=field, remote_message=remote_message)
        self.problems = tuple(problems)


class AlreadyRunningError(ConflictError):
    """A run of this integration and operation is still alive.

    Args:
        run_id: The run that is alive, for the caller to follow or to cancel.
    """

    default_code = "already_running"

    def __init__(self, message: str = "", *, run_id: str) -> None:
        super().__init__(message or f"Run {run_id} is still going on.", hint="Follow that run, or wait for it to end.")
        self.run_id = run_id


class NotReadyError(ServiceError):
    """A part the request needs (database, queue) does not answer now. Nothing was lost; try again."""

    default_code = "not_ready"

    def __init__(self, message: str = "", *, retry_after_s: int = 5, code: str | None = None, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after_s = retry_after_s


# ── raised by the store ──────────────────────────────────────────────────────


class StoreError(SambandError):
    """The database refused or could not be reached."""

    default_code = "store_error"


class StaleLeaseError(StoreError):
    """This worker's lease has gone to another one; the write was refused and the worker must let go of the run."""

    default_code = "stale_lease"


class RunCancelledError(StoreError):
    """Somebody cancelled the run; the write was refused and the worker ends the run. What it committed stays."""

    default_code = "run_cancelled"


class RunHeldError(StoreError):
    """The run would remove more than the brake lets pass: it is ``held`` now, and nothing of the page was written."""

    default_code = "run_held"
