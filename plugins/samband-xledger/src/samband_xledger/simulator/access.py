"""Who may do what: API tokens bound to an entity, web service users with their roles, log-on keys that end."""

from __future__ import annotations

from dataclasses import dataclass, field

# Objects a token has read rights to when nothing else is said; writing is given for GLImportItem and Webhook.
READABLE = (
    "Account",
    "Currency",
    "Employee",
    "Entity",
    "GLImportItem",
    "JournalEntry",
    "JournalHeader",
    "ObjectKind",
    "ObjectValue",
    "PeriodStatusItem",
    "Project",
    "Subledger",
    "Supplier",
    "TaxTableSetup",
    "Transaction",
    "Webhook",
)
WRITABLE = ("GLImportItem", "Webhook")
ROLES = ("Web Service User", "File Uploader")


@dataclass(slots=True, kw_only=True)
class Usage:
    """What was used in a month."""

    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(slots=True, kw_only=True)
class ApiToken:
    """A token, the entity it was made in, and its rights."""

    text: str
    entity: int
    name: str = "samband"
    read: set[str] = field(default_factory=lambda: set(READABLE))
    write: set[str] = field(default_factory=lambda: set(WRITABLE))
    months: dict[str, Usage] = field(default_factory=dict)

    def month(self, name: str) -> Usage:
        """Returns the usage of a month, written YYYY-MM."""
        return self.months.setdefault(name, Usage())


@dataclass(slots=True, kw_only=True)
class WebServiceUser:
    """Somebody who may log on to the SOAP services."""

    name: str
    password: str
    roles: set[str] = field(default_factory=lambda: set(ROLES))
    entities: set[str] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class LogonKey:
    """A log-on key; ``until`` is in simulated seconds since 1970."""

    text: str
    user: str
    until: float
