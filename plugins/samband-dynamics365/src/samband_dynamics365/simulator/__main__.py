"""Runs the simulator: ``python -m samband_dynamics365.simulator [--port N] [--members N] …``.

One line of JSON on standard output says where it answers; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import sys

import orjson

from .seed import SeedPlan
from .server import Simulator

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> None:
    """Starts a simulator, prints its address and serves until a signal says stop."""
    asked = _parser().parse_args(arguments)
    if asked.die_with_parent and not _die_with_parent(asked.parent):
        return
    plan = SeedPlan(members=asked.members, memberships=asked.memberships, staff=asked.staff, seed=asked.seed)
    asyncio.run(_serve(plan, asked.port))


def _parser() -> argparse.ArgumentParser:
    defaults = SeedPlan()
    parser = argparse.ArgumentParser(
        prog="python -m samband_dynamics365.simulator", description="A simulated Dataverse environment on loopback."
    )
    parser.add_argument("--port", type=int, default=0, help="the port to listen on; 0 picks a free one")
    parser.add_argument("--members", type=int, default=defaults.members, help="how many contacts to make")
    parser.add_argument("--memberships", type=int, default=defaults.memberships, help="how many memberships to make")
    parser.add_argument("--staff", type=int, default=defaults.staff, help="how many users to make")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="the same number gives the same people")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the parent process ends (Linux)")
    parser.set_defaults(parent=os.getppid())
    return parser


def _die_with_parent(parent: int) -> bool:
    """Asks the kernel for SIGTERM when the parent ends; returns false when it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == parent


async def _serve(plan: SeedPlan, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Where loops take no signal handlers, the interrupt ends the loop itself.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    simulator = Simulator(plan)
    address = await simulator.start(port)
    sys.stdout.write(orjson.dumps(address.as_json()).decode() + "\n")
    sys.stdout.flush()
    try:
        await stop.wait()
    finally:
        await simulator.stop()


if __name__ == "__main__":
    main()
