"""``samband simulate``: a stand-in for an external system, on this machine."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from samband.cli.hosting import run_loop, stop_signals
from samband.cli.output import note
from samband.cli.simulators import SimulatorProcess
from samband.errors import ConfigurationError


def simulate(
    ctx: typer.Context,
    plugin: Annotated[str, typer.Argument(help="Name of the plugin, for instance dynamics365.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
) -> None:
    """Runs a plugin's simulator until it is stopped.

    One line of JSON on standard output says where it answers and with which test settings and credentials. Further
    options are the simulator's own, for instance --members 50.
    """
    from samband.hosting.installed import simulator_module

    module = simulator_module(plugin)
    run_loop(_until_stopped(SimulatorProcess(module, ["--port", str(port), *ctx.args])))


async def _until_stopped(simulator: SimulatorProcess) -> None:
    with stop_signals() as stopping:
        start = asyncio.create_task(simulator.start())
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
            return
        start.result()
        sys.stdout.buffer.write(simulator.line)
        sys.stdout.buffer.flush()
        note("The simulator runs until it is stopped with Ctrl-C or SIGTERM.")
        ended = asyncio.create_task(simulator.wait())
        await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if ended.done() and not stopping.is_set():
            raise ConfigurationError("The simulator ended by itself.", code="simulator_ended")
        await simulator.stop()
