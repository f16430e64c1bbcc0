"""The store: the only part that commits."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from samband.rules.brake import Brake
from samband.store import schema
from samband.store.alerts import Alerts
from samband.store.answers import Answers
from samband.store.api_keys import ApiKeys
from samband.store.arrivals import Arrivals
from samband.store.backfills import Backfills
from samband.store.catalog import Catalog
from samband.store.charts import Charts
from samband.store.conditions import Conditions
from samband.store.corrections import Corrections
from samband.store.database import Database
from samband.store.decisions import Decisions
from samband.store.deliveries import Deliveries
from samband.store.differences import Differences
from samband.store.drops import Drops
from samband.store.fairness import Bounds
from samband.store.fanout import FanOut
from samband.store.feeds import Feeds
from samband.store.files import Files
from samband.store.firings import Firings
from samband.store.inbox import Inboxes
from samband.store.ledger import Ledger
from samband.store.letters import Letters
from samband.store.lookout import Lookout
from samband.store.mappings import Mappings
from samband.store.outbox import Events
from samband.store.page_writer import PageWriter
from samband.store.reconciling import Reconciling
from samband.store.reimbursements import Reimbursements
from samband.store.reports import Reports
from samband.store.rotation import Rotation
from samband.store.runs import Runs
from samband.store.schedules import Schedules
from samband.store.signs import Signs
from samband.store.streams import Streams
from samband.store.subscriptions import Subscriptions
from samband.store.tokens import Tokens
from samband.store.trail import Trail
from samband.store.vault import Vault
from samband.store.webhooks import Webhooks


class Store:
    """One database with everything samband knows.

    Attributes:
        catalog: Organisations, integrations, credentials.
        api_keys: Who may ask.
        runs: Ordering, claiming and ending runs.
        decisions: What people decide about runs.
        letters: Work that was given up.
        schedules: When integrations are read by themselves.
        lookout: What the scheduler looks at.
        firings: What the scheduler does.
        signs: When each part of the host last did its round.
        streams: Where each stream's reading stands.
        pages: Taking pages in.
        feeds: Listings.
        tokens: Kept tokens and consents.
        corrections: Changes to claims that are in the books already.
        differences: What dry runs found out.
        backfills: Orders to read chosen records again, and what failed in a run.
        mappings: How claims become vouchers, version by version.
        charts: The other side's accounts and periods, as last read.
        events: What was committed for others to hear of.
        subscriptions: Whom events are sent to.
        fan_out: Making deliveries of events.
        deliveries: Attempting them.
        webhooks: The addresses that integrations are told at.
        arrivals: Taking in what is delivered there.
        inbox: Deliveries that were taken in.
        trail: The audit trail, to be read and verified.
        reconciling: Our half of a comparison with the other side's books.
        files: Files that carried items out.
        drops: Where such files go.
        reports: What the other side says of items.
        rotation: Sealed values whatever table they stand in: missing keys, sealing again, proving that all open.
    """

    def __init__(
        self, database: Database, vault: Vault, *, bounds: Bounds | None = None, brake: Brake | None = None
    ) -> None:
        self.database = database
        self.catalog = Catalog(database, vault)
        self.api_keys = ApiKeys(database)
        self.runs = Runs(database, bounds)
        self.decisions = Decisions(database)
        self.letters = Letters(database)
        self.schedules = Schedules(database)
        self.lookout = Lookout(database)
        self.firings = Firings(database, self.runs)
        self.signs = Signs(database)
        self.streams = Streams(database)
        self.pages = PageWriter(database, brake)
        self.feeds = Feeds(database)
        self.tokens = Tokens(database, vault)
        self.differences = Differences(database, brake)
        self.backfills = Backfills(database, self.runs)
        self.trail = Trail(database)
        self.answers = Answers(database, vault)
        self.alerts = Alerts(database)
        self.webhooks = Webhooks(database, vault)
        self.arrivals = Arrivals(database, vault)
        self.inbox = Inboxes(database, self.runs)
        self.reimbursements = Reimbursements(database)
        self.ledger = Ledger(database, self.runs)
        self.mappings = Mappings(database)
        self.charts = Charts(database)
        self.corrections = Corrections(database, self.ledger)
        self.reconciling = Reconciling(database)
        self.conditions = Conditions(database)
        self.events = Events(database)
        self.subscriptions = Subscriptions(database, vault)
        self.fan_out = FanOut(database)
        self.deliveries = Deliveries(database)
        self.files = Files(database, vault)
        self.drops = Drops(database, vault)
        self.reports = Reports(database)
        self.rotation = Rotation(database, vault)

    @classmethod
    def open(cls, url: str, *, vault: Vault, bounds: Bounds | None = None, brake: Brake | None = None) -> Store:
        """Prepares a store for ``sqlite:///…`` or ``postgresql://…``; it connects when first used.

        Args:
            bounds: How many runs go on at once.
            brake: How much a run may take away before it is held.
        """
        return cls(Database.open(url), vault, bounds=bounds, brake=brake)

    async def migrate(self) -> tuple[str | None, str]:
        """Brings the schema up to date and gives the revisions before and after."""
        return await schema.migrate(self.database)

    async def is_migrated(self) -> bool:
        """Tells whether the schema is the one this program was written for."""
        return await schema.current_revision(self.database) == schema.HEAD

    async def ping(self) -> None:
        """Asks the database for a sign of life; `NotReadyError` when there is none."""
        async with self.database.read() as conn:
            await conn.execute(sa.text("SELECT 1"))

    async def sweep_differences(self) -> float:
        """Throws away what dry runs found a day ago; gives the seconds until the next round."""
        return 1.0 if await self.differences.sweep() else 600.0

    async def due_runs(self, limit: int) -> Sequence[str]:
        """Gives runs that somebody should be working on."""
        return await self.runs.due(limit)

    async def sweep_answers(self) -> float:
        """Throws kept answers away once they are a day old; gives the seconds until the next round."""
        await self.answers.sweep()
        await self.runs.sweep_keys()
        return 600.0

    async def close(self) -> None:
        await self.api_keys.close()
        await self.database.close()
