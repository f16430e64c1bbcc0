"""One round of what the vendor's scheduler does: files in, the import job, reports out, webhooks told."""

from __future__ import annotations

from typing import Any

from . import drop_folder, job
from .seed import ENTITY_CODE
from .state import SimulatorState
from .tables import Row
from .uploads import take_in
from .webhooks import Webhooks
from .world import World


def run(state: SimulatorState, webhooks: Webhooks) -> dict[str, Any]:
    """Does a round for every environment; returns what happened in the one the start line names."""
    if state.drop_folder is not None:
        drop_folder.pick_up(state.world, state.drop_folder, ENTITY_CODE, state.faults)
    outcomes = {}
    for name, world in state.worlds.items():
        take_in(world)
        outcomes[name] = job.run(world, state.switches)
        if outcomes[name].posted:
            webhooks.announce(world, posted(world, outcomes[name].posted))
    if state.drop_folder is not None:
        drop_folder.report(state.world, state.drop_folder)
    return job.counts(outcomes["demo"])


def posted(world: World, headers: list[Row]) -> dict[str, list[Row]]:
    """Returns what subscriptions are told about newly posted vouchers."""
    transactions = world["transactions"].having("_header", [header["dbId"] for header in headers])
    return {"journalHeaders": headers, "transactions": transactions}
