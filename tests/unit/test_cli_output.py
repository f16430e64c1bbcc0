"""What commands write and how they end."""

from __future__ import annotations

import json

import pytest

from samband import errors
from samband.cli.output import ExitCode, counts_text, exit_code_of, facts, fail, show, table
from samband.views import OrganizationView


def test_exit_codes_are_the_documented_numbers() -> None:
    expected = {"OK": 0, "FAILED": 1, "USAGE": 2, "NOT_FOUND": 3, "CONFLICT": 4, "UNREACHABLE": 5, "REFUSED": 6}
    assert {code.name: code.value for code in ExitCode} == expected | {"INTERNAL": 70}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigurationError(), ExitCode.USAGE),
        (errors.InvalidError(), ExitCode.USAGE),
        (errors.NotFoundError(), ExitCode.NOT_FOUND),
        (errors.ConflictError(), ExitCode.CONFLICT),
        (errors.AlreadyRunningError(run_id="r1"), ExitCode.CONFLICT),
        (errors.NotReadyError(), ExitCode.UNREACHABLE),
        (errors.StoreError(), ExitCode.UNREACHABLE),
        (errors.AccessError(), ExitCode.REFUSED),
        (errors.RemoteError(), ExitCode.FAILED),
        (errors.SambandError(code="internal_error"), ExitCode.INTERNAL),
    ],
)
def test_each_error_ends_a_command_with_its_code(error: errors.SambandError, code: ExitCode) -> None:
    assert exit_code_of(error) == code


def test_failure_as_json_is_one_document_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    code = fail(errors.AlreadyRunningError(run_id="r1"), as_json=True)
    written = capsys.readouterr()
    document = json.loads(written.out)
    assert (code, document["ok"], document["exit_code"]) == (4, False, 4)
    assert document["error"]["code"] == "already_running"
    assert document["error"]["run"] == "r1"
    assert written.err == ""


def test_failure_in_words_names_every_field_and_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [errors.FieldProblem(field="settings.page_size", code="too_big", message="At most 5000.")]
    fail(errors.InvalidError("It cannot be saved.", problems=problems, hint="Mend it."), as_json=False)
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.splitlines() == [
        "Error: It cannot be saved.",
        "  settings.page_size: At most 5000.",
        "What to do: Mend it.",
        "Code: invalid_request",
    ]


def test_views_are_written_as_their_json(capsys: pytest.CaptureFixture[str]) -> None:
    view = OrganizationView.model_validate({"id": "hlf", "name": "HLF", "created_at": "2026-01-02T03:04:05Z"})
    show({"organization": view}, (), as_json=True)
    assert json.loads(capsys.readouterr().out)["organization"]["created_at"] == "2026-01-02T03:04:05Z"


def test_table_is_aligned_text_with_its_headings_and_nothing_drawn() -> None:
    rows = table(("Id", "Name"), [("hlf", "Hørselshemmedes"), ("nbf-oslo", "NBF")])
    assert rows == ["Id        Name", "hlf       Hørselshemmedes", "nbf-oslo  NBF"]


def test_table_without_rows_is_its_headings() -> None:
    assert table(("Id", "Name"), []) == ["Id  Name"]


def test_counts_that_are_zero_are_left_unsaid() -> None:
    assert counts_text({"created": 2, "updated": 0, "failed": 1}) == "2 created, 1 failed"
    assert counts_text({"created": 0}) == "nothing"


def test_text_of_others_cannot_move_the_cursor_or_break_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    show({}, ["Name: \x1b[2Jgone\nState: enabled\x9b"], as_json=False)
    fail(errors.RemoteError("It\x1b[31m failed.", remote_message="a\r\nb"), as_json=False)
    written = capsys.readouterr()
    assert written.out == "Name:  [2Jgone State: enabled \n"
    assert written.err.splitlines()[:2] == ["Error: It [31m failed.", "They said: a  b"]


def test_facts_that_are_not_known_are_left_unsaid() -> None:
    told = facts(("A", None), ("B", ""), ("C", []), ("D", 0), ("E", False), ("F", ["x", "y"]), ("G", True))
    assert list(told) == ["D: 0", "E: no", "F: x, y", "G: yes"]
