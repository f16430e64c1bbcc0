"""Stalls a worker process where that says something: outside its transactions."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess

import asyncpg

from .conftest import Hosts


async def is_locked(hosts: Hosts) -> bool:
    """Tells whether a stopped process keeps others from writing."""
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
        # Any lock would do harm, not only the run's own: nobody may be inside a transaction.
        inside = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return bool(await connection.fetchval(f"{inside} AND state IN ('active', 'idle in transaction')"))
    finally:
        await connection.close()


async def stop_between_transactions(hosts: Hosts, process: subprocess.Popen[bytes]) -> None:
    """Stalls a worker while it holds no lock.

    One that is stopped inside a transaction keeps its lock as long as it is stopped: on SQLite for ever, on PostgreSQL
    until the server ends the idle transaction. That delays the others, which is another matter than fencing.
    """
    for _ in range(200):
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.02)
        if not await is_locked(hosts):
            return
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.005)
    raise AssertionError("the worker was always inside a transaction")
