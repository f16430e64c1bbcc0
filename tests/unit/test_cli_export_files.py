"""What ``samband export batch`` tells of the files that carried it."""

from __future__ import annotations

from samband.cli.exportfiles import file_lines


def test_batch_names_each_file_and_who_has_fetched_it_when() -> None:
    fetched = [{"at": "2026-03-02T10:00:00.000Z", "by": "key:3f9c Kari", "profile": "json"}]
    files = [
        {"id": "1", "name": "gl.csv", "state": "ready", "downloads": 0, "fetched": []},
        {"id": "2", "name": "gl-2.csv", "state": "acknowledged", "downloads": 1, "fetched": fetched},
        {"id": "3", "name": "gl-3.csv", "state": "ready", "downloads": 30, "fetched": fetched},
    ]
    line = "  2026-03-02T10:00:00.000Z: json, by key:3f9c Kari"
    assert [
        "File 1: gl.csv, ready, never fetched", "File 2: gl-2.csv, acknowledged, fetched once", line,
        "File 3: gl-3.csv, ready, fetched 30 times", line,
        "  and earlier; see 'samband audit list' with the action export_file.downloaded",
    ] == list(file_lines(files))  # fmt: skip
