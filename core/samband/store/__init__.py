"""The database: the only code that commits. Open a `Store`; the rest is its parts."""

from samband.store.fairness import Bounds
from samband.store.page_writer import PageCommit, StreamPosition
from samband.store.runs import Lease
from samband.store.store import Store
from samband.store.vault import Vault

__all__ = ["Bounds", "Lease", "PageCommit", "Store", "StreamPosition", "Vault"]
