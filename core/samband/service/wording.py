"""What names given by people must be like."""

from __future__ import annotations

from samband.errors import FieldProblem

MAX_NAME_LENGTH = 200


def clean_name(value: str, field: str, problems: list[FieldProblem]) -> str:
    """Gives the name without space around it; adds to ``problems`` when it is empty, too long or not printable."""
    text = value.strip()
    if not text or len(text) > MAX_NAME_LENGTH or not text.isprintable():
        problems.append(
            FieldProblem(field=field, code="bad_name", message=f"Use 1 to {MAX_NAME_LENGTH} printable characters.")
        )
    return text
