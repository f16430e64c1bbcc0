"""What a read adds up to, and what an error is taken to say."""

from __future__ import annotations

from samband import AuthError, Page, Record, RemoteError
from samband.testing.driver import texts_of
from samband.testing.results import ReadResult


def _page(*keys: str, deleted: tuple[str, ...] = (), cursor: str | None = None, complete: bool = False) -> Page:
    records = [Record(key=key[:2], values={"v": key}) for key in keys]
    return Page(records=records, deleted=deleted, cursor=cursor, complete=complete)


def test_of_two_records_with_one_key_the_later_counts() -> None:
    result = ReadResult([_page("a1-old", "b1"), _page("a1-new", cursor="c", complete=True)])
    assert result.state == {"a1": {"v": "a1-new"}, "b1": {"v": "b1"}}
    assert result.final_cursor == "c"


def test_a_deletion_counts_until_the_key_comes_again() -> None:
    gone = ReadResult([_page("a1"), _page(deleted=("a1",))])
    back = gone.followed_by(ReadResult([_page("a1-back", complete=True)]))
    assert (gone.state, gone.deleted) == ({}, {"a1"})
    assert (back.state, back.deleted) == ({"a1": {"v": "a1-back"}}, set())


def test_a_read_without_pages_is_empty() -> None:
    assert (ReadResult().state, ReadResult().final_cursor, ReadResult().records) == ({}, None, [])


def test_everything_an_error_says_is_found_in_its_causes_too() -> None:
    try:
        try:
            raise ValueError("inner-words")
        except ValueError as err:
            raise RemoteError("outer-words", hint="a-hint", remote_message="their-words") from err
    except RemoteError as err:
        err.add_note("a-note")
        said = "\n".join(texts_of(err))
    assert all(words in said for words in ("inner-words", "outer-words", "a-hint", "their-words", "a-note"))


def test_an_error_that_is_its_own_cause_does_not_loop() -> None:
    error = AuthError("refused")
    error.__context__ = RemoteError("before")
    error.__context__.__context__ = error
    assert any("before" in text for text in texts_of(error))
