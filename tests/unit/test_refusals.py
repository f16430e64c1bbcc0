"""What a refusal of access means, reason by reason."""

from __future__ import annotations

from typing import get_args

import pytest

from samband.errors import AuthError, AuthReason
from samband.rules.refusals import judge_refusal

SIGNING_IN_HELPS = {"grant_refused", "sign_in_needed"}


@pytest.mark.parametrize("reason", get_args(AuthReason))
def test_only_a_grant_asks_a_person_to_sign_in(reason: AuthReason) -> None:
    refusal = judge_refusal(AuthError("No.", reason=reason))
    assert (refusal.audience == "person") is (reason in SIGNING_IN_HELPS)
    assert (refusal.connection == "needs_reauthentication") is (reason in SIGNING_IN_HELPS)


@pytest.mark.parametrize(
    ("reason", "audience"),
    [
        ("secret_wrong", "operator"),
        ("certificate_expired", "operator"),
        ("tenant_unknown", "operator"),
        ("scope_refused", "administrator"),
        ("missing_privilege", "administrator"),
        ("consent_missing", "administrator"),
        ("refused", "operator"),
    ],
)
def test_everything_else_is_for_whoever_can_mend_it(reason: AuthReason, audience: str) -> None:
    assert (audience, "misconfigured", False) == judge_refusal(AuthError("No.", reason=reason))


def test_only_a_refused_grant_is_never_asked_for_again() -> None:
    final = {reason for reason in get_args(AuthReason) if judge_refusal(AuthError("No.", reason=reason)).is_final}
    assert {"grant_refused"} == final


def test_a_reason_that_a_plugin_made_up_is_for_the_operator() -> None:
    error = AuthError("No.", reason="whim")  # type: ignore[arg-type]
    assert "operator" == judge_refusal(error).audience
