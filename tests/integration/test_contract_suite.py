"""The contract suite can fail: each broken variant of the example plugin fails exactly the promise that it breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from samband.testing.promises.doubts import Doubts
from samband.testing.promises.exporting import Exports
from samband.testing.promises.filing import Files

from .suites import Variant, check_variant, copy_of, run_pytest, run_suite

EXAMPLE = Path(__file__).parent.parent / "fixtures" / "samband-example"
PLUGIN, CLIENT, SETTINGS = "plugin.py", "client.py", "settings.py"
# What a plugin promises that carries claims to the books: the example only reads.
EXPORTING = {name for promises in (Exports, Doubts, Files) for name in vars(promises) if name.startswith("test_")}

FETCH = """
@hookimpl
async def fetch(ctx, selection):
    missing = set(selection.keys)
    query = [f"ids={','.join(selection.keys)}"] if selection.keys else []
    bounds = {"since": selection.since, "until": selection.until}
    query += [f"{name}={bound:%Y-%m-%dT%H:%M:%SZ}" for name, bound in bounds.items() if bound]
    link = f"{ctx.settings.api_url}/chosen?{'&'.join(query)}"
    while link:
        page, link = await fetch_page(ctx.http, link)
        missing -= {record.key for record in page.records}
        yield Page(records=page.records)
    yield Page(deleted=sorted(missing), complete=True)
"""
CHOSEN = "test_fetched_keys_give_exactly_those_records_as_a_read_does"
ABSENT = "test_a_fetched_key_that_is_not_there_is_told_as_deleted_and_nothing_else_is"
FETCH_END = "test_a_fetch_ends_with_exactly_one_complete_page"
WINDOW = "test_a_fetched_window_gives_what_changed_in_it_and_deletes_nothing"
HOST_FETCHES = "test_the_host_itself_fetches_the_same"
FETCHING = {CHOSEN, ABSENT, FETCH_END, WINDOW, HOST_FETCHES}


GET = '    answer = await http.request("GET", link)\n'
VARIANTS = [
    Variant(
        "ends without a complete page",
        CLIENT,
        'complete=not body["next"]',
        "complete=False",
        frozenset({"test_a_read_ends_with_exactly_one_complete_page"}),
        "Exactly the last page has complete=True.",
    ),
    Variant(
        "loses a page on resume",
        PLUGIN,
        '    link = cursor or f"{ctx.settings.api_url}/members"\n',
        '    link = cursor or f"{ctx.settings.api_url}/members"\n'
        "    if cursor and 'after=3' in cursor:\n"
        "        _, link = await fetch_page(ctx.http, link)\n",
        frozenset({"test_a_read_resumed_after_any_page_loses_nothing"}),
        "resumed after page 1 of 3 the result differs from one full read: {'missing': '3 (m4, m5, m6)'}",
    ),
    Variant(
        "shows its secret in an error",
        CLIENT,
        GET,
        "    try:\n"
        '        answer = await http.request("GET", link)\n'
        "    except samband.AuthError as err:\n"
        "        raise samband.AuthError(f'The key {kept[-1]} was refused.', hint=err.hint) from err\n",
        frozenset({"test_no_secret_is_shown_in_an_error_or_a_log"}),
        "shown in clear: api_key, api_key (wrong)",
        also=(
            PLUGIN,
            "    return Token(",
            "    kept.append(ctx.credentials.api_key.get_secret_value())\n    return Token(",
        ),
    ),
    Variant(
        "logs its secret",
        PLUGIN,
        "    return Token(",
        "    ctx.log.debug('signing_in', key=ctx.credentials.api_key.get_secret_value())\n    return Token(",
        frozenset({"test_no_secret_is_shown_in_an_error_or_a_log"}),
        "shown in clear: api_key",
    ),
    Variant(
        "takes a 503 for an empty page",
        CLIENT,
        GET,
        "    try:\n"
        '        answer = await http.request("GET", link)\n'
        "    except samband.UnavailableError as err:\n"
        "        if 'answered 503' not in err.message:\n"
        "            raise\n"
        "        return Page(complete=True), None\n",
        frozenset(
            {
                "test_a_fault_at_the_start_becomes_the_right_error[members-503]",
                "test_a_fault_in_mid_read_is_never_passed_off_as_the_end[members-503]",
            }
        ),
        "with 503 the read ended after 1 page(s) as if nothing had happened",
    ),
    Variant(
        "follows links for ever before it yields",
        PLUGIN,
        "    while link:\n        page, link = await fetch_page(ctx.http, link)\n        yield page\n",
        "    pages = []\n"
        "    while link:\n"
        "        page, link = await fetch_page(ctx.http, link)\n"
        "        pages.append(page)\n"
        "    for page in pages:\n"
        "        yield page\n",
        frozenset({"test_paging_never_runs_in_circles"}),
        "the same answer came again and again, and more than 39 calls were made",
    ),
    Variant(
        "gives values of the wrong kind",
        CLIENT,
        'values=row["member"]',
        'values={**row["member"], "birth_date": "yesterday"}',
        frozenset({"test_values_fit_the_canonical_kind"}),
        "8 of 8 records do not: 8 × birth_date: ",
    ),
    Variant(
        "misspells a hook",
        PLUGIN,
        "@hookimpl\nasync def sync(",
        "@hookimpl\nasync def chekc(ctx):\n    pass\n\n@hookimpl\nasync def sync(",
        frozenset({"test_the_plugin_loads_and_every_hook_is_spelt_as_specified"}),
        "chekc",
    ),
    Variant(
        "forgets a capability",
        PLUGIN,
        'capabilities=frozenset({"sync"})',
        'capabilities=frozenset({"sync", "check"})',
        frozenset(
            {
                "test_every_capability_has_its_hook_and_every_hook_its_capability",
                "test_the_plugin_loads_and_every_hook_is_spelt_as_specified",
            }
        ),
        "declared without a hook: ['check']",
    ),
    Variant(
        "keeps its key in plain text",
        SETTINGS,
        "    api_key: SecretStr",
        '    old_api_key: str = Field(default="", title="Old key", description="Not used.")\n    api_key: SecretStr',
        frozenset(
            {
                "test_whatever_must_stay_secret_is_a_secret_type",
                "test_the_plugin_loads_and_every_hook_is_spelt_as_specified",
            }
        ),
        "plain text: old_api_key",
    ),
    Variant(
        "has a field without a description",
        SETTINGS,
        'title="Address", description="Where the register\'s API answers, without a slash at the end."',
        'title="Address"',
        frozenset({"test_every_field_of_the_forms_has_a_title_and_a_description"}),
        "api_url lacks a description",
    ),
    Variant(
        "says another version than its distribution",
        PLUGIN,
        'version="0.1.0"',
        'version="0.2.0"',
        frozenset({"test_the_version_is_that_of_the_distribution"}),
        "the manifest says '0.2.0', the distribution samband-example is '0.1.0'",
    ),
    Variant(
        "takes a refused key for a broken system",
        CLIENT,
        GET,
        "    try:\n"
        '        answer = await http.request("GET", link)\n'
        "    except samband.AuthError as err:\n"
        "        raise RemoteError(err.message) from err\n",
        frozenset(
            {
                "test_wrong_credentials_are_an_auth_error_with_a_hint",
                "test_a_fault_at_the_start_becomes_the_right_error[members-401]",
                "test_a_fault_in_mid_read_is_never_passed_off_as_the_end[members-401]",
            }
        ),
        "Wrong credentials raise AuthError",
    ),
    Variant(
        "reads everything again every time",
        CLIENT,
        'cursor = body["next"] or body["changes"]',
        'cursor = body["next"] or link.partition("?")[0]',
        frozenset(
            {
                "test_an_incremental_read_after_no_change_is_empty",
                "test_an_incremental_read_gives_exactly_what_was_changed",
            }
        ),
        "nothing had changed, and 8 records or deletions came",
    ),
    Variant(
        "swallows its cancellation",
        CLIENT,
        GET,
        "    import asyncio\n"
        "    while True:\n"
        "        try:\n"
        '            answer = await http.request("GET", link)\n'
        "            break\n"
        "        except asyncio.CancelledError:\n"
        "            pass\n",
        frozenset(
            {
                "test_a_read_cancelled_at_any_call_leaves_nothing_behind",
                "test_nothing_is_left_open_when_the_host_stops",
            }
        ),
        "Cancellation is never swallowed.",
    ),
    Variant(
        "leaves sockets open",
        CLIENT,
        GET,
        '    import socket\n    kept.append(socket.socket())\n    answer = await http.request("GET", link)\n',
        frozenset({"test_nothing_is_left_open_when_the_host_stops"}),
        "file descriptors more than before",
    ),
    Variant(
        "goes round the host's session",
        CLIENT,
        GET,
        '    if "localhost" in link:\n'
        "        import aiohttp\n"
        "        async with aiohttp.ClientSession() as session, session.get(link) as stray:\n"
        "            await stray.read()\n"
        '    answer = await http.request("GET", link)\n',
        frozenset({"test_nothing_is_fetched_from_a_host_that_is_not_configured"}),
        "1 requests went to another host",
    ),
    Variant(
        "fetches more than it was asked for",
        PLUGIN,
        "/chosen?{'&'.join(query)}",
        "/chosen?{'&'.join(query).replace('ids=', 'ids=m8,')}",
        frozenset({CHOSEN, ABSENT}),
        "With keys, fetch gives those records and no others.",
        can_fetch=True,
    ),
    Variant(
        "fetches other versions than it reads",
        PLUGIN,
        "yield Page(records=page.records)",
        "yield Page(records=[samband.Record(key=r.key, values=r.values) for r in page.records])",
        frozenset({CHOSEN}),
        "came with another version or other values",
        can_fetch=True,
    ),
    Variant(
        "keeps silent about what is gone",
        PLUGIN,
        "deleted=sorted(missing)",
        "deleted=()",
        frozenset({ABSENT}),
        "asked for one record that is there and one that is not, got ['m1'] as records and [] as deleted",
        can_fetch=True,
    ),
    Variant(
        "says of everything it was not asked for that it is gone",
        PLUGIN,
        "deleted=sorted(missing)",
        'deleted=sorted(missing | {f"m{n}" for n in range(20)} - set(selection.keys))',
        frozenset({CHOSEN, ABSENT, WINDOW}),
        "A window deletes nothing: what is not in it is not gone.",
        can_fetch=True,
    ),
    Variant(
        "ends a fetch without a complete page",
        PLUGIN,
        "deleted=sorted(missing), complete=True",
        "deleted=sorted(missing)",
        frozenset({FETCH_END}),
        "keys: complete was [False, False]",
        can_fetch=True,
    ),
    Variant(
        "forgets the end of an empty fetch",
        PLUGIN,
        "    yield Page(deleted=sorted(missing), complete=True)",
        "    if selection.keys or page.records:\n        yield Page(deleted=sorted(missing), complete=True)",
        frozenset({FETCH_END}),
        "a window with nothing in it: complete was [False]",
        can_fetch=True,
    ),
    Variant(
        "takes no heed of where a window ends",
        PLUGIN,
        '"until": selection.until}',
        '"until": None}',
        frozenset({WINDOW}),
        "both sides of one instant: [",
        can_fetch=True,
    ),
    Variant(
        "takes no heed of where a window begins",
        PLUGIN,
        '"since": selection.since, ',
        "",
        frozenset({WINDOW}),
        "tomorrow: [",
        can_fetch=True,
    ),
    Variant(
        "loses what lies in a window",
        PLUGIN,
        "        yield Page(records=page.records)\n",
        "        yield Page(records=page.records if selection.keys else page.records[1:])\n",
        frozenset({WINDOW}),
        "neither side: [",
        can_fetch=True,
    ),
]


def test_the_example_plugin_keeps_every_promise(tmp_path: Path) -> None:
    report = run_suite(_copy_of_example(tmp_path), "-W", "error")
    assert report.failed == {}
    assert {name for name in report.skipped if name.partition("[")[0] not in EXPORTING} == {
        "test_check_shows_something_real",
        "test_check_refuses_wrong_credentials",
        *(f"{name}[members]" for name in FETCHING),
    }
    assert {name.partition("[")[0] for name in report.skipped} >= EXPORTING
    assert report.passed > 60


def test_a_plugin_that_can_fetch_keeps_every_promise(tmp_path: Path) -> None:
    report = run_suite(_copy_of_example(tmp_path, can_fetch=True), "-W", "error", "-k", "fetch")
    assert report.failed == {}
    assert report.skipped == set()
    assert report.passed >= len(FETCHING)


def test_the_example_plugin_is_as_short_as_promised() -> None:
    source = (EXAMPLE / "src" / "samband_example" / PLUGIN).read_text(encoding="utf-8")
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith(("from ", "import "))]
    assert len(lines) <= 15


@pytest.mark.parametrize("variant", VARIANTS, ids=[variant.name.replace(" ", "-") for variant in VARIANTS])
def test_a_broken_plugin_fails_exactly_the_promise_it_breaks(tmp_path: Path, variant: Variant) -> None:
    check_variant(_copy_of_example(tmp_path, can_fetch=variant.can_fetch), variant)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("plugin = plugin\n    exempt = {'test_no_such_promise': 'because'}", "exempt names no promise"),
        ("plugin = plugin", "The manifest has no simulator: override the 'counterpart' fixture"),
    ],
    ids=["unknown-exemption", "no-counterpart"],
)
def test_a_suite_that_is_put_together_wrongly_says_how_to_mend_it(tmp_path: Path, body: str, says: str) -> None:
    project = _copy_of_example(tmp_path)
    (project / "tests" / "test_contract.py").write_text(
        "from samband.testing import PluginContract\n"
        "from samband_example import plugin\n\n\n"
        f"class TestContract(PluginContract):\n    {body}\n",
        encoding="utf-8",
    )
    finished = run_pytest(project, "-x")
    assert finished.returncode != 0
    assert says in finished.stdout


def test_an_exemption_skips_its_promise_and_shows_the_reason(tmp_path: Path) -> None:
    project = _copy_of_example(tmp_path)
    suite = project / "tests" / "test_contract.py"
    name = "test_two_reads_give_the_same"
    suite.write_text(
        suite.read_text(encoding="utf-8").replace(
            "    plugin = plugin\n", f"    plugin = plugin\n    exempt = {{{name!r}: 'their rows have no order'}}\n"
        ),
        encoding="utf-8",
    )
    finished = run_pytest(project, "-rs", "-k", name)
    assert finished.returncode == 0
    assert "exempt: their rows have no order" in finished.stdout


def _copy_of_example(tmp_path: Path, *, can_fetch: bool = False) -> Path:
    """Gives a copy of the example; with ``can_fetch`` one that can be asked for chosen records, which the example cannot."""
    project = copy_of(EXAMPLE, tmp_path)
    if can_fetch:
        plugin = project / "src" / "samband_example" / PLUGIN
        source = plugin.read_text(encoding="utf-8").replace('{"sync"}', '{"sync", "fetch"}')
        source = source.replace("from samband import Manifest", "from samband import Manifest, Page")
        plugin.write_text(source + FETCH, encoding="utf-8")
    return project
