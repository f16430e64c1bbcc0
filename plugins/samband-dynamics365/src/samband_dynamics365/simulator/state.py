"""Everything one simulated environment holds: rows, applications, limits, faults, switches and its clock."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .access import ApplicationUser
from .faults import FaultBook
from .limits import LimitRules, ServiceLimits
from .seed import Seeded, SeedPlan, seed_organization
from .tables import Organization
from .tokens import Application, TokenOffice
from .tracking import TrackingRules

TENANT_ID = "7f9a2c31-5d84-4e0b-9c62-1a3b5d7e9f10"
CLIENT_ID = "3c1f0d52-8a7e-4b69-b3d4-62f1a8c0e5d7"
CLIENT_SECRET = "simulated-secret-value"  # noqa: S105  a made-up value for a simulator
LOG_LENGTH = 5_000


class Clock:
    """The simulator's time: the machine's clock moved by an offset that tests may change."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def time(self) -> float:
        """Returns seconds since 1970, moved."""
        return time.time() + self.offset_s

    def now(self) -> datetime:
        """Returns the moment as aware UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def stamp(self) -> str:
        """Returns the moment as rows hold it: whole seconds, UTC."""
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True, kw_only=True)
class Switches:
    """What a test may change about the service; each default is either documented or an assumption named here.

    - ``page_cap``, ``count_cap``: 5,000 as documented.
    - ``batch_failure``: ``"400"`` ends a failed batch with that status, the only failure the vendor's own client takes
      for a batch answer; ``"part"`` repeats the status of the failed part.
    - ``changeset_failure``: ``"single"`` answers a failed changeset with one error part (assumed); ``"wrapped"`` puts
      that part inside a changeset response.
    - ``changeset_needs_content_id``: off, as the documents; one report says a part without Content-ID is refused.
    - ``users_creatable``: users come from the directory, so creating one is refused (405 assumed).
    - ``batch_counts_parts``: whether a batch counts once per part against the request limit (assumed once).
    - ``latency_s``: added to every data request, while it holds a place in the concurrency limit.
    - ``gzip``: compresses answers for clients that accept it, as the service does.
    """

    page_cap: int = 5_000
    count_cap: int = 5_000
    batch_failure: str = "400"
    changeset_failure: str = "single"
    changeset_needs_content_id: bool = False
    users_creatable: bool = False
    batch_counts_parts: bool = False
    latency_s: float = 0.0
    gzip: bool = False
    dop_hint: int = 4
    max_body_bytes: int = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkDeleteJob:
    """An accepted deletion: the rows, as (logical table name, id), that matched when it was asked for."""

    job_id: str
    rows: list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request in the log; of a token only a fingerprint is kept."""

    time: str
    method: str
    path: str
    status: int
    token: str | None
    fault: str | None
    duration_ms: float

    def as_json(self) -> dict[str, Any]:
        """Returns the entry as the control door shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True, kw_only=True)
class SimulatorState:
    """One simulated environment. Everything is changed from one event loop only."""

    plan: SeedPlan = field(default_factory=SeedPlan)
    announce: Callable[[], None] | None = None
    clock: Clock = field(default_factory=Clock)
    organization: Organization = field(init=False)
    seeded: Seeded = field(init=False)
    office: TokenOffice = field(init=False)
    users: dict[str, ApplicationUser] = field(init=False)
    switches: Switches = field(init=False)
    tracking: TrackingRules = field(init=False)
    limits: ServiceLimits = field(init=False)
    faults: FaultBook = field(init=False)
    log: deque[Seen] = field(init=False)
    requests_seen: int = field(init=False)
    internal_errors: list[str] = field(init=False)
    jobs: dict[str, str] = field(init=False)
    waiting_jobs: list[BulkDeleteJob] = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self, plan: SeedPlan | None = None) -> None:
        """Returns everything, rows included, to what a fresh start with the plan gives."""
        self.plan = plan or self.plan
        self.clock.offset_s = 0.0
        self.office = TokenOffice(tenant_id=TENANT_ID, clock=self.clock.time)
        self.office.register(Application(client_id=CLIENT_ID, secrets={CLIENT_SECRET: None}))
        self.switches = Switches()
        self.tracking = TrackingRules()
        self.limits = ServiceLimits(LimitRules(), self.clock.time)
        self.faults = FaultBook(seed=self.plan.seed)
        self.log = deque(maxlen=LOG_LENGTH)
        self.requests_seen = 0
        self.internal_errors = []
        self.jobs = {}
        self.waiting_jobs = []
        self.seed(self.plan)

    def seed(self, plan: SeedPlan) -> None:
        """Replaces all rows by freshly made ones; delta tokens handed out before no longer fit."""
        floor = getattr(self, "organization", None)
        self.plan = plan
        self.organization = Organization()
        self.organization.announce = self.announce
        if floor is not None:
            self.organization.version = floor.version
        self.seeded = seed_organization(self.organization, plan)
        user = ApplicationUser(client_id=CLIENT_ID, user_id=self.seeded.application_user)
        self.users = {CLIENT_ID: user}
        if floor is not None:
            self.expire_tokens()

    def listen(self, announce: Callable[[], None] | None) -> None:
        """Has every change announced from now on, also after new rows were seeded; None ends it."""
        self.announce = self.organization.announce = announce

    def expire_tokens(self) -> None:
        """Makes every delta token handed out so far expired."""
        barrier = self.organization.next_version()
        for table in self.organization.tables.values():
            table.readable_since = barrier

    def new_id(self) -> str:
        """Returns an id for a new row."""
        return str(uuid.uuid4())
