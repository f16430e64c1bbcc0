"""What the operator decides: environment variables of the host, and ``plugins.toml``.

Both are read once at start into frozen objects. Whatever is wrong with them ends the start with a
`samband.errors.ConfigurationError` that names the variable or the key, and never shows a value.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from samband.contract import Limits
from samband.errors import ConfigurationError

__all__ = ["AllowedPlugin", "HostSettings", "PluginsFile", "load_plugins_file", "load_settings", "name_the_known"]

PREFIX = "SAMBAND_"
DEFAULT_PLUGINS_FILE = Path("plugins.toml")
# Variables of the test suite, of the command line's client and of run.py, not of the host.
_FOREIGN_PREFIXES = ("SAMBAND_TEST_", "SAMBAND_URL", "SAMBAND_API_KEY", "SAMBAND_NO_UV")
_HOST_FORMS = "host names, addresses, networks such as 10.0.0.0/8, or host:port"
_DATABASE_SCHEMES = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


class HostSettings(BaseSettings):
    """The host's settings, each from ``SAMBAND_<NAME>``; an empty variable counts as one that is not set.

    Attributes:
        data_dir: Where the host keeps what it must not lose: the SQLite file, its keys, the embedded queue.
        database_url: Already in SQLAlchemy's form; None for the SQLite file in ``data_dir`` (see `database`).
        redis_url: None starts the bundled server.
        redis_server: The program of the bundled server; None for the one that was installed with samband.
        host: Address the API listens on.
        port: Port the API listens on; 0 takes a free one.
        plugins_file: The allow-list; None for ``./plugins.toml`` (see `plugins_path`).
        allow_installed: Loads every installed plugin without an allow-list. For demonstrations, never for real data.
        lease_s: How long a worker owns a run without a sign of life.
        heartbeat_s: How often a worker gives that sign; at most half of ``lease_s``.
        sweep_s: How often the database is asked for work that no doorbell announced.
        max_attempts: Starts of a run since its last committed page before it becomes a dead letter.
        worker_concurrency: Runs that one worker carries at once.
        max_runs_per_organization: Runs of one organisation that go on at once, over all workers; always fewer than
            ``worker_concurrency``, so that another organisation finds a place.
        max_runs_per_account: Runs that use one external account at once, over all workers and organisations.
        brake_share: The part of a stream's records that one run may delete or deactivate without a person's consent.
        brake_floor: Fewer records than this never stop a run.
        stall_after_s: How long a run may be alive without progress before it is shown as stalled.
        hook_timeout_s: The longest wait for one page or one answer of a plugin.
        load_timeout_s: The longest wait for the import of one plugin.
        allow_private_hosts: What adapters may talk to inside the operator's own network, also without TLS: host names,
            addresses, networks or ``host:port`` (see `samband.http.egress.EgressPolicy`). In the environment separated by
            commas.
        log_level: The least severe level that is written.
        log_format: ``console`` for people, ``json`` for machines.
        key: The master keys that secrets are encrypted with, oldest first and separated by commas or spaces; the last
            one encrypts, every one decrypts. None for ``key_file``, or else for ``keys.json`` in ``data_dir``.
        key_file: A file with the same, for instance a mounted secret; read again whenever it changes.
        event_retention_days: How long events can be read and replayed; also longer than any delivery is retried.
        delivery_retention_days: How long it is known what became of the sending of an event, after it ended.
        max_body_bytes: Largest request body the API reads.
        settle_after_s: How long an exported item must have been out before its not being found at the other side means
            that it never arrived. Longer than a worker can be paused and still go on sending.
        follow_up_every_s: How often it is looked whether the other side should be asked what became of exported items.
        follow_up_steps_s: Ages at which it is asked about an item; beyond the last it is asked again after as long as that.
        follow_up_days: Beyond this age of an item nobody asks by himself.
        unposted_after_days: How long ago an exported item may have been taken by the other side without being booked there
            before an alert tells of it.
        probe_every_s: How often each enabled integration's connection is probed with one light read.
        webhook_max_bytes: Largest body of one webhook delivery.
        webhook_keep_days: How long what a delivery held is kept, encrypted. That it came is known for ever.
        drop_root: An existing folder below which export files are put, in a folder of each organisation and integration;
            None refuses drop points that are folders.
        public_url: Where the world reaches this host, for instance ``https://samband.example.org``; used verbatim in the
            addresses that are given to others (webhooks, consent callbacks).
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
    )

    data_dir: Path = Path("samband-data")
    # URLs may carry a password, so they are left out of the repr.
    database_url: str | None = Field(default=None, repr=False)
    redis_url: str | None = Field(default=None, repr=False)
    redis_server: Path | None = None
    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8620, ge=0, le=65535)
    plugins_file: Path | None = None
    allow_installed: bool = False
    lease_s: float = Field(default=30.0, gt=0, le=3600)
    heartbeat_s: float = Field(default=10.0, gt=0)
    sweep_s: float = Field(default=2.0, gt=0, le=3600)
    max_attempts: int = Field(default=5, ge=1, le=100)
    worker_concurrency: int = Field(default=8, ge=1, le=1000)
    max_runs_per_organization: int = Field(default=4, ge=1, le=1000)
    max_runs_per_account: int = Field(default=2, ge=1, le=1000)
    brake_share: float = Field(default=0.10, ge=0, le=1)
    brake_floor: int = Field(default=20, ge=1, le=1_000_000)
    stall_after_s: float = Field(default=1800.0, gt=0, le=86_400)
    hook_timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    load_timeout_s: float = Field(default=10.0, gt=0, le=600)
    allow_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    key: SecretStr | None = None
    key_file: Path | None = None
    event_retention_days: int = Field(default=90, ge=3, le=3650)
    delivery_retention_days: int = Field(default=30, ge=1, le=3650)
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024, le=1024**3)
    settle_after_s: float = Field(default=300.0, gt=0, le=86_400)
    follow_up_every_s: float = Field(default=5.0, gt=0, le=3600)
    follow_up_steps_s: tuple[Annotated[float, Field(gt=0, le=604_800)], ...] = Field(
        default=(15.0, 60.0, 300.0, 3600.0, 21_600.0), min_length=1, max_length=20
    )
    follow_up_days: float = Field(default=90.0, gt=0, le=3650)
    unposted_after_days: float = Field(default=7.0, gt=0, le=3650)
    probe_every_s: float = Field(default=900.0, ge=1, le=86_400)
    webhook_max_bytes: int = Field(default=1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    webhook_keep_days: float = Field(default=30.0, ge=0, le=3650)
    drop_root: Path | None = None
    public_url: str = ""

    @property
    def database(self) -> str:
        """Gives the database's URL in SQLAlchemy's form: the configured one, or the SQLite file in ``data_dir``."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'samband.db'}"

    @property
    def plugins_path(self) -> Path | None:
        """Gives the allow-list to read: the configured one, else ``./plugins.toml`` if it exists, else None."""
        if self.plugins_file is not None:
            return self.plugins_file
        return DEFAULT_PLUGINS_FILE if DEFAULT_PLUGINS_FILE.is_file() else None

    @field_validator("data_dir", "plugins_file", "key_file", "drop_root")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.abspath(path.expanduser()))

    @field_validator("allow_private_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        hosts = value.split(",") if isinstance(value, str) else value
        if not isinstance(hosts, Iterable):
            return hosts
        return tuple(host.strip().lower() for host in hosts if isinstance(host, str) and host.strip())

    @field_validator("allow_private_hosts")
    @classmethod
    def _bare_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if any("://" in host for host in hosts):
            raise ValueError(f"write {_HOST_FORMS}, without a scheme")
        return hosts

    @field_validator("public_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
            raise ValueError("write it as https://host, with a path if the host is behind one")
        return url.rstrip("/")

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str | None) -> str | None:
        return None if url is None else _normalised_database_url(url)

    @field_validator("redis_url")
    @classmethod
    def _known_redis(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("use redis://host:port/0, rediss:// for TLS, or unix:// for a socket")
        return url

    @model_validator(mode="after")
    def _heartbeat_fits_lease(self) -> HostSettings:
        # A worker must be able to miss one sign of life without losing its run.
        if self.heartbeat_s > self.lease_s / 2:
            raise ValueError("SAMBAND_HEARTBEAT_S must be at most half of SAMBAND_LEASE_S")
        return self


def load_settings(**overrides: Any) -> HostSettings:
    """Gives the host's settings from the environment; ``overrides`` win over it.

    Raises:
        ConfigurationError: A variable is unknown or its value does not fit. Names every variable at fault.
    """
    unknown = _unknown_variables(os.environ)
    if unknown:
        raise ConfigurationError(" ".join(unknown), code="variable_unknown", field=unknown[0].split()[0])
    try:
        return HostSettings(**overrides)
    except (ValidationError, SettingsError) as error:
        raise _variables_at_fault(error) from None


def name_the_known(unknown: str, known: Iterable[str]) -> str:
    """Gives the sentence that helps after a wrong name: the nearest known one, and all of them."""
    names = list(known)
    near = difflib.get_close_matches(unknown, names, n=1)
    guess = f"Did you mean {near[0]}? " if near else ""
    return f"{guess}Known: {', '.join(names) or 'none'}."


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = [PREFIX + name.upper() for name in HostSettings.model_fields]
    return [
        f"{name} is not a variable of this host. {name_the_known(name.upper(), known)}"
        for name in sorted(environ)
        if name.upper().startswith(PREFIX)
        and name.upper() not in known
        and not name.upper().startswith(_FOREIGN_PREFIXES)
    ]


def _variables_at_fault(error: ValidationError | SettingsError) -> ConfigurationError:
    if isinstance(error, SettingsError):
        return ConfigurationError("A SAMBAND_ variable could not be read.", hint="Check its syntax.")
    names, sentences = [], []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        field_name = str(problem["loc"][0]) if problem["loc"] else ""
        names.append(PREFIX + field_name.upper() if field_name else PREFIX)
        if problem["type"] == "extra_forbidden":
            sentences.append(f"{field_name} is not a setting. {name_the_known(field_name, HostSettings.model_fields)}")
        else:
            message = problem["msg"].removeprefix("Value error, ").rstrip(".")
            sentences.append(f"{names[-1]}: {message}." if field_name else f"{message}.")
    return ConfigurationError(" ".join(sentences), field=names[0])


def _normalised_database_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    target = _DATABASE_SCHEMES.get(scheme.lower())
    if target is None or not _:
        raise ValueError("use sqlite:///path/to/file.db or postgresql://user:password@host/database")
    if target.startswith("sqlite"):
        path = rest.partition("?")[0].removeprefix("/")
        if path in ("", ":memory:"):
            raise ValueError("a database in memory would lose everything; name a file: sqlite:///path/to/file.db")
        return f"{target}://{rest}"
    return _for_asyncpg(f"{target}://{rest}")


def _for_asyncpg(url: str) -> str:
    # libpq and most hosting providers say sslmode=; asyncpg takes the same values under the name ssl.
    parts = urlsplit(url)
    if not parts.path.strip("/"):
        raise ValueError("the database's name is missing: postgresql://user:password@host/database")
    query = [("ssl" if name == "sslmode" else name, value) for name, value in parse_qsl(parts.query)]
    return urlunsplit(parts._replace(query=urlencode(query)))


# ── plugins.toml ─────────────────────────────────────────────────────────────

_LIMITS = tuple(f.name for f in fields(Limits))
_WHOLE_LIMITS = ("concurrency", "max_body_bytes")
_ENTRY_KEYS = ("distribution", "version", "record_sha256", "allow_private_hosts", "limits")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedPlugin:
    """One plugin that may load.

    Attributes:
        name: The integration type, the same as the plugin's entry point.
        distribution: The installable package it comes from; no other may offer that name.
        version: The exact version, or ``*`` for whichever is installed.
        record_sha256: Digest over all files of the distribution (see `samband.adapters.registry.files_sha256`), or None.
        limits: Overrides of the manifest's `samband.Limits`, by field name.
        allow_private_hosts: What this plugin may talk to inside the operator's own network, besides the host's list.
    """

    name: str
    distribution: str
    version: str = "*"
    record_sha256: str | None = None
    limits: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    allow_private_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginsFile:
    """The allow-list: a plugin that is not in it is never imported.

    Attributes:
        allowed: Entries by plugin name, in the file's order.
        path: Where it was read; None when it was built in code.
    """

    allowed: Mapping[str, AllowedPlugin] = field(default_factory=lambda: MappingProxyType({}))
    path: Path | None = None


def load_plugins_file(path: Path) -> PluginsFile:
    """Gives the allow-list from a ``plugins.toml``.

    Raises:
        ConfigurationError: The file is missing, is not TOML (names the line), or has a key that is unknown or does
            not fit (names it, and the known ones).
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no {path.name} at {path.parent}.",
            code="plugins_file_missing",
            hint="Create it, or point SAMBAND_PLUGINS_FILE at it.",
            field="SAMBAND_PLUGINS_FILE",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{path} cannot be read: {type(error).__name__}."
        raise ConfigurationError(problem, field="SAMBAND_PLUGINS_FILE") from error
    except tomllib.TOMLDecodeError as error:
        # tomllib ends its message with "(at line 3, column 7)".
        raise ConfigurationError(f"{path} is not TOML: {error}.", code="plugins_file_syntax") from error
    try:
        return PluginsFile(allowed=MappingProxyType(_entries(document)), path=path)
    except _KeyProblem as problem:
        raise ConfigurationError(f"{path}: {problem}", code="plugins_file_invalid", field=problem.key) from None


class _KeyProblem(Exception):
    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


def _entries(document: Mapping[str, Any]) -> dict[str, AllowedPlugin]:
    _refuse_unknown("", document, ("plugins",))
    plugins = _table("plugins", document.get("plugins", {}))
    return {name: _entry(name, _table(f"plugins.{name}", entry)) for name, entry in plugins.items()}


def _entry(name: str, entry: Mapping[str, Any]) -> AllowedPlugin:
    at = f"plugins.{name}"
    if not _NAME.fullmatch(name):
        raise _KeyProblem(at, "a plugin's name has lower-case letters, digits and underscores only.")
    _refuse_unknown(at, entry, _ENTRY_KEYS)
    digest = _text(at, entry, "record_sha256")
    if digest is not None and not _SHA256.fullmatch(digest):
        raise _KeyProblem(f"{at}.record_sha256", "must be 64 lower-case hexadecimal digits.")
    distribution = _text(at, entry, "distribution")
    if distribution is None:
        raise _KeyProblem(f"{at}.distribution", "is missing; name the installed package the plugin comes from.")
    return AllowedPlugin(
        name=name,
        distribution=distribution,
        version=_version(at, entry),
        record_sha256=digest,
        limits=MappingProxyType(_limits(f"{at}.limits", _table(f"{at}.limits", entry.get("limits", {})))),
        allow_private_hosts=_hosts(f"{at}.allow_private_hosts", entry.get("allow_private_hosts", [])),
    )


def _version(at: str, entry: Mapping[str, Any]) -> str:
    version = _text(at, entry, "version")
    if version is None:
        raise _KeyProblem(f"{at}.version", 'is missing; write the exact version, or "*" for whichever is installed.')
    if version != "*" and re.search(r"[<>=~!*,\s]", version):
        raise _KeyProblem(f"{at}.version", 'must be one exact version, such as "1.2.0", or "*"; a range is not.')
    return version


def _limits(at: str, limits: Mapping[str, Any]) -> dict[str, float]:
    _refuse_unknown(at, limits, _LIMITS)
    for name, value in limits.items():
        whole = name in _WHOLE_LIMITS
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 < value < 1e15:
            raise _KeyProblem(f"{at}.{name}", f"must be a {'whole ' if whole else ''}number above 0.")
    return dict(limits)


def _hosts(at: str, hosts: object) -> tuple[str, ...]:
    if not isinstance(hosts, list) or not all(isinstance(host, str) and host and "://" not in host for host in hosts):
        raise _KeyProblem(at, f"must be a list of {_HOST_FORMS}.")
    return tuple(host.lower() for host in hosts)


def _text(at: str, table: Mapping[str, Any], key: str) -> str | None:
    value = table.get(key)
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise _KeyProblem(f"{at}.{key}", "must be a text between quotes.")
    return value


def _table(at: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _KeyProblem(at, f"must be a table: [{at}].")
    return value


def _refuse_unknown(at: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise _KeyProblem(f"{at}.{key}".lstrip("."), f"is not known here. {name_the_known(key, known)}")
