"""The other side of a plugin under test: a simulator, or a small server the plugin's own tests bring."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from samband.contract import ExportFile

__all__ = ["Counterpart", "Touched", "start_simulator"]

_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 5.0
_ANSWER_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """What was changed behind the API's back.

    Attributes:
        changed: Keys of the records that were made or changed.
        deleted: Keys of the records that are gone.
    """

    changed: Collection[str] = ()
    deleted: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    """A running system that the plugin under test can talk to.

    Attributes:
        settings: A working integration's settings, as a person would enter them. Switch every stream on, and make
            pages small enough that each stream takes several of them.
        credentials: Working credentials.
        touch: ``stream name -> Touched``: changes something at the other side and says what the next incremental read
            must hold; None when the system cannot be changed from outside.
        entries: For plugins that export: key of an item → how often it is there, waiting or booked, counted at the other
            side itself. None when it cannot be looked into: then ``find_exported`` is believed, once it has been tested,
            and a second entry under the same key may go unseen.
        settle: Lets the other side take in what waits there, as its import job would; None when nothing waits.
        take_in: Takes in a file that the plugin rendered, and gives name and bytes of the report about it; None when it
            makes no reports.
        control_url: Where a simulator is told what to do; None for everything else.
    """

    settings: Mapping[str, Any]
    credentials: Mapping[str, Any]
    touch: Callable[[str], Touched | None] | None = field(default=None)
    entries: Callable[[], Mapping[str, int]] | None = None
    settle: Callable[[], None] | None = None
    take_in: Callable[[ExportFile], tuple[str, bytes]] | None = None
    control_url: str | None = None


@contextmanager
def start_simulator(
    module: str,
    *,
    arguments: Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    touch_order: Callable[[str], Mapping[str, Any] | None] = lambda stream: None,
) -> Iterator[Counterpart]:
    """Runs a plugin's simulator as a process of its own for as long as the block lasts.

    A simulator is a module that ``python -m`` runs. It prints one line of JSON with ``settings``, ``credentials`` and
    ``control_url``, and serves until it is terminated. ``POST {control_url}/touch`` changes something and answers
    ``{"expected": {name: {"upserted_ids": […], "deleted_ids": […]}}}``.

    Args:
        module: For instance ``samband_dynamics365.simulator``.
        arguments: For its command line.
        settings: Merged over the settings it prints.
        touch_order: The body to post for a stream; None when the stream cannot be touched.
    """
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and a module named by the test
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        told = _first_line(process, module)
        control_url = told.get("control_url")

        def touch(stream: str) -> Touched | None:
            order = touch_order(stream)
            return None if order is None else _touch(f"{control_url}/touch", order)

        yield Counterpart(
            settings={**told["settings"], **(settings or {})},
            credentials=told["credentials"],
            touch=touch if control_url else None,
            control_url=control_url,
        )
    finally:
        process.terminate()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_LIMIT_S)
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[str], module: str) -> dict[str, Any]:
    lines: queue.Queue[str] = queue.Queue()
    # A thread, because reading a pipe has no time limit on every platform.
    threading.Thread(target=lambda: lines.put(process.stdout.readline() if process.stdout else ""), daemon=True).start()
    try:
        line = lines.get(timeout=_START_LIMIT_S)
    except queue.Empty:
        raise RuntimeError(f"python -m {module} said nothing within {_START_LIMIT_S:g} s") from None
    try:
        told = json.loads(line)
        return {"settings": dict(told["settings"]), "credentials": dict(told["credentials"])} | {
            "control_url": told.get("control_url")
        }
    except (ValueError, TypeError, KeyError):
        raise RuntimeError(
            f"python -m {module} must print one line of JSON with settings and credentials; it printed"
            f" {len(line)} characters of something else (exit code {process.poll()})"
        ) from None


def _touch(url: str, order: Mapping[str, Any]) -> Touched:
    request = Request(url, json.dumps(order).encode(), {"Content-Type": "application/json"})  # noqa: S310 - loopback
    # Without the environment's proxy: the control door is on this machine.
    with build_opener(ProxyHandler({})).open(request, timeout=_ANSWER_LIMIT_S) as response:
        expected: dict[str, dict[str, list[str]]] = json.load(response)["expected"]
    wanted = order.get("table", order.get("stream"))
    found = expected[wanted] if wanted in expected else next(iter(expected.values()))
    return Touched(changed=found.get("upserted_ids", ()), deleted=found.get("deleted_ids", ()))
