"""How soon `samband up` is ready, the first time and again, and what the whole idle host holds in memory."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def resident_mib(pid: int) -> float:
    """Gives the resident memory of a process and its children, in mebibytes (Linux)."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue  # it ended while we looked
        if int(fields["Pid"]) == pid or int(fields["PPid"]) == pid:
            total += int(fields.get("VmRSS", "0 kB").split()[0])
    return round(total / 1024, 1)


def start_once(data_dir: str) -> tuple[float, float]:
    """Starts a host, waits for its ready line, lets it rest, and stops it; gives seconds and mebibytes."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "samband", "up", "--data-dir", data_dir, "--port", "0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    ready_s = time.perf_counter() - started
    time.sleep(3)
    memory = resident_mib(process.pid)
    process.send_signal(signal.SIGTERM)
    process.wait(40)
    process.stdout.close()
    return ready_s, memory


def main() -> None:
    """Prints one JSON line."""
    with tempfile.TemporaryDirectory(prefix="samband-bench-") as data_dir:
        first_s, _ = start_once(data_dir)
        again = [start_once(data_dir) for _ in range(5)]
    print(
        json.dumps(
            {
                "first_start_s": round(first_s, 2),
                "start_s_median": round(statistics.median(s for s, _ in again), 2),
                "start_s_max": round(max(s for s, _ in again), 2),
                "idle_mib_with_queue_server": max(m for _, m in again),
            }
        )
    )


if __name__ == "__main__":
    main()
