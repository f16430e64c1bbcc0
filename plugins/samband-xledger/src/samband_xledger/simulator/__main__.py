"""Runs the simulator: ``python -m samband_xledger.simulator [--port N] [--job-every-s N] [--drop-folder PATH] …``.

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
from pathlib import Path

import orjson

from .seed import SeedPlan
from .server import Simulator

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> None:
    """Starts a simulator, prints its address and serves until a signal says stop."""
    asked = _parser().parse_args(arguments)
    if asked.die_with_parent and not _die_with_parent(asked.parent):
        return
    simulator = Simulator(
        SeedPlan(vouchers=asked.vouchers), drop_folder=asked.drop_folder, job_every_s=asked.job_every_s
    )
    simulator.state.started_switches = {"duplicate_numbers": asked.duplicate_numbers}
    simulator.state.reset()
    asyncio.run(_serve(simulator, asked.port))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m samband_xledger.simulator", description="A simulated Xledger tenant on loopback."
    )
    parser.add_argument("--port", type=int, default=0, help="the port to listen on; 0 picks a free one")
    parser.add_argument("--vouchers", type=int, default=0, help="vouchers that somebody else has posted already")
    parser.add_argument("--job-every-s", type=float, default=None, help="run the import job so often (real seconds)")
    parser.add_argument("--drop-folder", type=Path, default=None, help="a folder that files are taken from")
    parser.add_argument(
        "--duplicate-numbers", choices=("refuse", "post"), default="refuse", help="what becomes of a number used before"
    )
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the parent process ends (Linux)")
    parser.set_defaults(parent=os.getppid())
    return parser


def _die_with_parent(parent: int) -> bool:
    """Asks the kernel for SIGTERM when the parent ends; returns false when it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == parent


async def _serve(simulator: Simulator, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Where loops take no signal handlers, the interrupt ends the loop itself.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    address = await simulator.start(port)
    sys.stdout.write(orjson.dumps(address.as_json()).decode() + "\n")
    sys.stdout.flush()
    try:
        await stop.wait()
    finally:
        await simulator.stop()


if __name__ == "__main__":
    main()
