"""Stalls a worker process where that says something: outside its transactions."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess

import asyncpg

from .conftest import Hosts


async def is_locked(hosts: Hosts, run_id: str) -> bool:
    """Tells whether a stopped process keeps others from writing the run."""
    if hosts.database_url.startswith("sqlite"):
        connection = sqlite3.connect(hosts.database_url.removeprefix("sqlite:///"), timeout=0.2, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
        finally:
            connection.close()
        return False
    connection = await asyncpg.connect(hosts.database_url)
    try:
        await connection.fetch("SELECT 1 FROM run WHERE id = $1 FOR UPDATE NOWAIT", run_id)
    except asyncpg.LockNotAvailableError:
        return True
    finally:
        await connection.close()
    return False


async def stop_between_transactions(hosts: Hosts, process: subprocess.Popen[bytes], run_id: str) -> None:
    """Stalls a worker while it holds no lock.

    One that is stopped inside a transaction keeps its lock as long as it is stopped: on SQLite for ever, on PostgreSQL
    until the server ends the idle transaction. That delays the others, which is another matter than fencing.
    """
    for _ in range(200):
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.02)
        if not await is_locked(hosts, run_id):
            return
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.005)
    raise AssertionError("the worker was always inside a transaction")
