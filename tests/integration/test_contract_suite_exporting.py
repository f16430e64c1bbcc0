"""The contract suite can fail for plugins that carry money: each broken variant fails exactly the promise that it breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from .suites import Variant, check_variant, copy_of, run_pytest, run_suite

EXAMPLE = Path(__file__).parent.parent / "fixtures" / "samband-books"
PLUGIN, WIRE, FILES = "plugin.py", "wire.py", "files.py"

RECEIPTS = "test_every_item_gets_one_receipt_and_nothing_else_does"
FOUND = "test_what_was_sent_is_found_by_its_key_and_nothing_else_is"
STILL_FOUND = "test_what_was_accepted_is_still_found_when_it_is_asked_about_by_its_receipt"
ONCE = "test_sending_writes_each_item_once_and_looking_it_up_writes_nothing"
BAD_ITEM = "test_a_bad_item_is_refused_alone_and_before_it_is_sent"
WAYS = "test_a_way_that_refused_is_not_chosen_again_and_every_way_passed_over_has_a_reason"
NO_WAY = "test_a_way_is_chosen_with_reasons_or_refused_clearly_when_nobody_answers"
OWN_WAY = "test_what_is_to_go_one_way_never_goes_another"
LOST = "test_a_lost_answer_leaves_the_outcome_open"
AGAIN = "test_nothing_is_written_again_before_it_was_looked_up"
REFUSED = "test_a_refused_connection_means_that_nothing_was_sent"
WAIT = "test_a_request_to_wait_is_passed_on_and_nothing_is_settled_by_it"
NOT_THERE = "test_what_cannot_be_looked_up_is_never_taken_for_not_there"
BYTES = "test_the_same_batch_is_rendered_to_the_same_bytes"
UNRENDERED = "test_what_does_not_balance_is_not_rendered"
REPORT = "test_a_report_on_its_own_file_settles_exactly_what_was_in_it"
NO_REPORT = "test_a_file_that_is_no_report_is_refused_as_such"

EXPORT = "            yield await wire.write(ctx, item.voucher)\n"
POST = '    answer = await ctx.http.request("POST", f"{ctx.settings.api_url}/vouchers", json=to_json(voucher))\n'
GET = (
    '    answer = await ctx.http.request("GET", f"{ctx.settings.api_url}/vouchers", params={"keys": ",".join(keys)})\n'
    "    body ="
)
OPEN = '        raise OutcomeUnknownError(f"The books answered {answer.status} to a voucher, without naming it.")\n'
NOT_WHOLE = (
    '        raise RemoteError(f"The books answered {answer.status}, and not about every key they were asked about.")\n'
)


def guarded(lines: str, error: str, *then: str) -> str:
    """Gives the lines in a ``try`` whose ``error`` does something else."""
    indent = lines[: len(lines) - len(lines.lstrip())]
    handled = "".join(f"{indent}    {line}\n" for line in then)
    return f"{indent}try:\n    {lines}{indent}except samband.{error} as err:\n{handled}"


POST_LINE, GET_LINE = POST, GET.partition("    body =")[0]

VARIANTS = [
    Variant(
        "says nothing of an item",
        PLUGIN,
        EXPORT,
        "            receipt = await wire.write(ctx, item.voucher)\n"
        "            if item is not batch.items[-1] or len(batch.items) < 3:\n"
        "                yield receipt\n",
        frozenset({RECEIPTS, BAD_ITEM}),
        "of 3 items 1 have no receipt, 0 have several, 0 receipts are for nothing that was sent",
    ),
    Variant(
        "gives a receipt twice",
        PLUGIN,
        EXPORT,
        "            receipt = await wire.write(ctx, item.voucher)\n            yield receipt\n            yield receipt\n",
        frozenset({RECEIPTS}),
        "0 have no receipt, 3 have several",
    ),
    Variant(
        "gives a receipt for a key that was never sent",
        PLUGIN,
        EXPORT,
        f"{EXPORT}            yield Receipt(key=item.key[::-1], state='accepted')\n",
        frozenset({RECEIPTS}),
        "3 receipts are for nothing that was sent",
    ),
    Variant(
        "rejects without saying why",
        PLUGIN,
        "code=err.code, field=err.field, message=err.message)",
        "field=err.field)",
        frozenset({BAD_ITEM}),
        "rejected an item without saying why",
    ),
    Variant(
        "leaves the key behind",
        WIRE,
        '{"key": voucher.key, "number"',
        '{"key": str(voucher.number), "number"',
        frozenset({FOUND, STILL_FOUND, ONCE}),
        "asked for 2 items that had been accepted: no receipt",
        also=(WIRE, 'written.get("key") != voucher.key', 'written.get("key") != str(voucher.number)'),
    ),
    Variant(
        "finds whatever begins like the key",
        WIRE,
        "        if found[key] is not None:\n",
        "        found[key] = found[key] or next((1 for known in kept if known[:8] == key[:8]), None)\n"
        "        if found[key] is not None:\n",
        frozenset({FOUND}),
        "asked for one item that is there and 2 that were never sent: 3 posted",
        also=(WIRE, POST_LINE, f"    kept.append(voucher.key)\n{POST_LINE}"),
    ),
    Variant(
        "finds what nobody asked about",
        WIRE,
        "    for key in keys:\n",
        "    yield Receipt(key='f' * 32, state='posted', reference='1')\n    for key in keys:\n",
        frozenset({FOUND}),
        "asked for 2 items that had been accepted: 3 posted",
    ),
    Variant(
        "forgets what it accepted",
        PLUGIN,
        "async def find_exported(ctx, keys):\n",
        "async def find_exported(ctx, keys, sought):\n"
        "    keys = [one.key for one in sought if one.state != 'accepted']\n",
        frozenset({STILL_FOUND}),
        "asked with the references of their receipts: no receipt",
    ),
    Variant(
        "books again what it looks up",
        WIRE,
        GET,
        '    for key in keys:\n        await ctx.http.request("POST", f"{ctx.settings.api_url}/vouchers", json={"key": key})\n'
        + GET,
        frozenset({FOUND, ONCE, NOT_THERE}),
        "the items are there [2, 2] times",
    ),
    Variant(
        "sends what does not balance",
        FILES,
        "    if sum(line.amount for line in voucher.lines):\n",
        "    if not voucher.lines:\n",
        frozenset({BAD_ITEM, UNRENDERED}),
        "they became accepted, accepted, accepted",
    ),
    Variant(
        "refuses the whole batch for one bad item",
        PLUGIN,
        '            yield Receipt(key=item.key, state="rejected", code=err.code, field=err.field, message=err.message)\n',
        "            raise\n",
        frozenset({BAD_ITEM}),
        "they became accepted, unknown, unknown",
    ),
    Variant(
        "leaves it to the other side to refuse",
        PLUGIN,
        "            files.check(item.voucher)\n",
        "            if sum(line.amount for line in item.voucher.lines):\n"
        "                await wire.write(ctx, item.voucher)\n"
        "            files.check(item.voucher)\n",
        frozenset({BAD_ITEM}),
        "alone it became rejected after 1 calls, where a good one takes 1; the bad items are there [1, 1] times",
    ),
    Variant(
        "chooses the way that refused",
        PLUGIN,
        '    if "api" not in avoided:\n',
        '    if "api" not in avoided or len(avoided) > 1:\n',
        frozenset({WAYS}),
        "it chose 'api'",
    ),
    Variant(
        "chooses a way that is written nowhere",
        PLUGIN,
        'Route(name="file"',
        'Route(name="post"',
        frozenset({WAYS}),
        "it chose 'post'; its ways are api, file",
    ),
    Variant(
        "gives no reason for a way that was passed over",
        PLUGIN,
        "    reasons = dict(avoided)\n",
        "    reasons = {}\n",
        frozenset({WAYS}),
        "it chose file and says nothing of api",
    ),
    Variant(
        "gives no reason for a way that is closed",
        PLUGIN,
        '            reasons["api"] = err.message\n',
        "            pass\n",
        frozenset({NO_WAY}),
        "with every connection refused it chose file and says nothing of api",
    ),
    Variant(
        "breaks when a way is closed",
        PLUGIN,
        '            reasons["api"] = err.message\n',
        "            raise KeyError(err.code) from err\n",
        frozenset({NO_WAY}),
        "with every connection refused it raised KeyError",
    ),
    Variant(
        "goes another way than it was told",
        PLUGIN,
        '    if batch.route != "api":\n',
        '    if batch.route == "file":\n',
        frozenset({OWN_WAY}),
        "by a way that does not exist it became 2 accepted; the items are there [1, 1] times",
    ),
    Variant(
        "takes a lost answer for a success",
        WIRE,
        POST,
        guarded(POST_LINE, "OutcomeUnknownError", "return Receipt(key=voucher.key, state='accepted')"),
        frozenset({LOST}),
        "an item was told as accepted and is not there",
    ),
    Variant(
        "takes a lost answer for nothing sent",
        WIRE,
        POST,
        guarded(POST_LINE, "OutcomeUnknownError", "raise samband.UnavailableError('Away.') from err"),
        frozenset({LOST, AGAIN}),
        "an item was told as not sent and is there: it would be sent again",
    ),
    Variant(
        "takes a lost answer for a refusal",
        WIRE,
        POST,
        guarded(POST_LINE, "OutcomeUnknownError", "return Receipt(key=voucher.key, state='rejected', code='away')"),
        frozenset({LOST, AGAIN}),
        "an item was told as rejected, and nobody had refused it",
    ),
    Variant(
        "takes an answer that cannot be read for the end of the run",
        WIRE,
        OPEN,
        OPEN.replace("OutcomeUnknownError", "RemoteError"),
        frozenset({LOST}),
        "OutcomeUnknownError when that is not certain",
    ),
    Variant(
        "repeats what it wrote",
        WIRE,
        "json=to_json(voucher))\n",
        "json=to_json(voucher), idempotent=True)\n",
        frozenset({LOST, AGAIN}),
        "an item is there 2 times",
    ),
    Variant(
        "takes a refused connection for an open outcome",
        WIRE,
        POST,
        guarded(POST_LINE, "UnavailableError", "raise OutcomeUnknownError('Away.') from err"),
        frozenset({REFUSED, f"{WAIT}[vouchers-503]"}),
        "with every connection refused it became no receipt; OutcomeUnknownError",
    ),
    Variant(
        "keeps the wait to itself",
        WIRE,
        POST,
        guarded(POST_LINE, "RetryableError", "raise samband.UnavailableError('Away.') from err"),
        frozenset({WAIT}),
        "retry_after_s=None",
    ),
    Variant(
        "takes a request to wait for a refusal",
        WIRE,
        POST,
        guarded(POST_LINE, "RateLimitedError", "return Receipt(key=voucher.key, state='rejected', code='busy')"),
        frozenset({f"{WAIT}[vouchers-429]"}),
        "429 with a time to wait is RateLimitedError",
    ),
    Variant(
        "finds nothing where nobody answers",
        WIRE,
        GET,
        guarded(GET_LINE, "RetryableError", "return") + "    body =",
        frozenset({NOT_THERE}),
        "of 2 items that are there it said nothing of 2; they would be sent again",
    ),
    Variant(
        "takes an answer that is not whole for nothing",
        WIRE,
        NOT_WHOLE,
        "        found = dict.fromkeys(keys)\n",
        frozenset({NOT_THERE}),
        "with",
    ),
    Variant(
        "breaks on an answer it does not expect",
        WIRE,
        'body.get("vouchers") if isinstance(body, dict) else None',
        'body["vouchers"]',
        frozenset({NOT_THERE}),
        "KeyError",
    ),
    Variant(
        "renders the time of day",
        FILES,
        'csv.writer(target, delimiter=";").writerows([HEADING, *rows])',
        'csv.writer(target, delimiter=";").writerows([[*HEADING, kept.append(1) or len(kept)], *rows])',
        frozenset({BYTES}),
        "rendered again a day later, content differ",
    ),
    Variant(
        "names every file the same",
        FILES,
        'name=f"books-{name}.{profile}.csv"',
        'name=f"books.{profile}.csv"',
        frozenset({BYTES}),
        "two batches were both rendered as books.machine.csv",
    ),
    Variant(
        "acknowledges by half a key",
        FILES,
        "Receipt(key=key, state=",
        "Receipt(key=key[:16], state=",
        frozenset({REPORT}),
        "of 3 items in the file that was taken in, the report settled 0, and gave 3 receipts",
    ),
    Variant(
        "acknowledges what was in another file",
        FILES,
        "reference=number) for key",
        'reference=number, evidence={"file": "another"}) for key',
        frozenset({REPORT}),
        "of 3 items in the file that was taken in, the report settled 0, and gave 3 receipts",
    ),
    Variant(
        "loses a row of the report",
        FILES,
        "for key, _, number in rows[1:]]",
        "for key, _, number in rows[2:]]",
        frozenset({REPORT}),
        "the report settled 2, and gave 2 receipts",
    ),
    Variant(
        "takes anything for a report",
        FILES,
        '        raise RemoteError("The file is no report of the books.", code="no_report")\n',
        "        return []\n",
        frozenset({NO_REPORT}),
        "given zip, it gave 0 receipts",
    ),
    Variant(
        "breaks on a report that is none",
        FILES,
        "    except (UnicodeDecodeError, csv.Error):\n",
        "    except csv.Error:\n",
        frozenset({f"{NO_REPORT}[vouchers-bytes]"}),
        "given bytes, it raised UnicodeDecodeError",
    ),
]


def test_the_exporting_example_keeps_every_promise(tmp_path: Path) -> None:
    report = run_suite(copy_of(EXAMPLE, tmp_path), "-W", "error")
    assert report.failed == {}
    assert {name for name in report.skipped if "NOTSET" not in name} == {
        "test_check_shows_something_real",
        "test_check_refuses_wrong_credentials",
    }
    assert report.passed > 70


@pytest.mark.parametrize("variant", VARIANTS, ids=[variant.name.replace(" ", "-") for variant in VARIANTS])
def test_a_broken_exporting_plugin_fails_exactly_the_promise_it_breaks(tmp_path: Path, variant: Variant) -> None:
    check_variant(copy_of(EXAMPLE, tmp_path), variant)


def test_a_double_entry_is_noticed_also_where_nobody_can_count(tmp_path: Path) -> None:
    project = copy_of(EXAMPLE, tmp_path)
    _replace(project / "tests" / "test_contract.py", "entries=books.entries,", "")
    _replace(
        project / "src" / "samband_books" / WIRE,
        "json=to_json(voucher))\n",
        "json=to_json(voucher), idempotent=True)\n",
    )
    finished = run_pytest(project, "-k", AGAIN)
    assert finished.returncode == 1
    assert "and the same request was made 2 times" in finished.stdout


def test_without_a_look_at_the_other_side_the_suite_says_what_it_could_not_prove(tmp_path: Path) -> None:
    project = copy_of(EXAMPLE, tmp_path)
    for line in ("entries=books.entries,", "take_in=books.take_in,"):
        _replace(project / "tests" / "test_contract.py", line, "")
    finished = run_pytest(project, "-rs")
    assert finished.returncode == 0
    assert "give Counterpart.entries" in finished.stdout
    assert "give Counterpart.take_in" in finished.stdout


def _replace(path: Path, old: str, new: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1
    path.write_text(source.replace(old, new), encoding="utf-8")
