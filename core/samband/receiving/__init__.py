"""Webhooks in: verify, take in, answer; and turn what was taken in into runs.

A delivery is looked up, heard by its plugin and stored, each of it together with all others that happen to wait (see
`samband.gathering`), and its sender is answered when the transaction that holds it has been committed. Nothing is fetched on
the way: a delivery is a hint, and the run that follows does the work.
"""

from samband.receiving.handing_over import HandingOver
from samband.receiving.parcels import Parcel, Received, ReceivingLimits, Rehearsal
from samband.receiving.receiving import Receiving

__all__ = ["HandingOver", "Parcel", "Received", "Receiving", "ReceivingLimits", "Rehearsal"]
