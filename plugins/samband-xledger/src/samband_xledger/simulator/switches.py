"""What nobody documents, and how it is decided; each switch can be turned at the control door."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Switches:
    """The open points of the vendor's behaviour.

    Attributes:
        auth_status: HTTP status of an answer that refuses a token.
        validation_status: HTTP status of an answer that refuses a query or its values: 200, 400, or 0 for turn about.
        null_edges: An empty list is null.
        composite_cursors: Every cursor is a longer one, not only those of entries and transactions.
        default_page: Rows of a page when none is asked for.
        expired_cursor: ``silent`` skips what the delta log no longer holds, ``error`` says so.
        lookups: ``at_once`` refuses an unknown reference when it comes in, ``by_job`` leaves it to the import job.
        duplicate_numbers: ``refuse`` makes a voucher whose number is posted already an error of the import job,
            ``post`` posts it once more.
        transaction_numbers: ``series`` gives lines that came over GraphQL a new number, ``kept`` the voucher's own.
        keep_posted_items: Staged lines stay after they are posted.
        retry_failed: The job takes vouchers with errors again at its next run.
        soap_errors: ``fault`` refuses over SOAP with a fault, ``result`` with HTTP 200 and a text in the result.
        file_checks: ``now`` refuses an uploaded file that cannot be read when it comes in, ``job`` when it is imported.
        key_life_s: How long a log-on key is good for.
        max_file_bytes: Largest file taken over SOAP.
        webhook_attempts: Failed deliveries in a row before a webhook is FAULTED.
        webhook_wait_s: Real seconds between attempts.
        reset_at: How ``resetAt`` is written: ``utc``, ``oslo`` or ``unix``.
        latency_s: Every request takes so much longer.
    """

    auth_status: int = 200
    validation_status: int = 200
    null_edges: bool = False
    composite_cursors: bool = False
    default_page: int = 10_000
    expired_cursor: str = "silent"
    lookups: str = "at_once"
    duplicate_numbers: str = "refuse"
    transaction_numbers: str = "series"
    keep_posted_items: bool = False
    retry_failed: bool = True
    soap_errors: str = "fault"
    file_checks: str = "now"
    key_life_s: float = 1_200.0
    max_file_bytes: int = 10_000_000
    webhook_attempts: int = 5
    webhook_wait_s: float = 0.2
    reset_at: str = "utc"
    latency_s: float = 0.0
