"""Turns what somebody typed into a plugin's settings or credentials, or into problems that name each field.

Values never come back in an error: they may be secrets, and they may be typed into the wrong field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import AliasChoices, BaseModel, SecretBytes, SecretStr, ValidationError

from samband.errors import FieldProblem, InvalidError, RemoteError
from samband.http.egress import EgressPolicy
from samband.kinds import field_problems
from samband.settings import name_the_known

__all__ = ["parse_form", "secrets_of"]

# A shorter value is a word by chance more often than it is something to hide.
_SHORTEST_HIDDEN = 4


def parse_form(model: type[BaseModel], raw: Mapping[str, Any], *, form: str, policy: EgressPolicy) -> BaseModel:
    """Gives an instance of ``model``.

    Args:
        model: The plugin's settings or credentials model.
        raw: Field → value, as JSON has them.
        form: ``settings`` or ``credentials``; the first part of every field's name in a problem.
        policy: Decides which addresses a field whose name ends in ``_url`` may hold.

    Raises:
        InvalidError: Names every field at fault, and for an unknown one the known ones.
    """
    if not isinstance(raw, Mapping):
        raise _invalid(form, [FieldProblem(field=form, code="not_an_object", message="Give an object: field → value.")])
    known = list(_names(model))
    unknown = [str(name) for name in raw if name not in known]
    problems = [
        FieldProblem(
            field=f"{form}.{name}", code="unknown_key", message=f"Unknown field. {name_the_known(name, known)}"
        )
        for name in unknown
    ]
    parsed: BaseModel | None = None
    try:
        parsed = model.model_validate({name: value for name, value in raw.items() if name in known})
    except ValidationError as error:
        problems += [_without_values(problem, raw) for problem in field_problems(error, form)]
    if parsed is not None:
        problems += _url_problems(parsed, form, policy)
    if parsed is None or problems:
        raise _invalid(form, problems)
    return parsed


def secrets_of(model: BaseModel) -> Iterator[str]:
    """Yields the clear text of every secret of a model, nested ones too."""
    for name in type(model).model_fields:
        yield from _secrets_in(getattr(model, name))


def _secrets_in(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, SecretBytes):
        yield value.get_secret_value().decode("utf-8", "replace")
    elif isinstance(value, BaseModel):
        yield from secrets_of(value)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _secrets_in(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _secrets_in(inner)


def _names(model: type[BaseModel]) -> Iterator[str]:
    by_name = model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name")
    for name, info in model.model_fields.items():
        alias = info.validation_alias or info.alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        yield from (choice for choice in choices if isinstance(choice, str))
        if alias is None or by_name:
            yield name


def _without_values(problem: FieldProblem, raw: Mapping[str, Any]) -> FieldProblem:
    # A validator written by a plugin's author may quote what it was given, and somebody may have changed its case.
    message = problem.message
    for value in sorted(_texts(raw), key=len, reverse=True):
        message = re.sub(re.escape(value), "…", message, flags=re.IGNORECASE)
    return FieldProblem(field=problem.field, code=problem.code, message=message)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str) and len(value) >= _SHORTEST_HIDDEN:
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _url_problems(model: BaseModel, path: str, policy: EgressPolicy) -> Iterator[FieldProblem]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _url_problems(value, f"{path}.{name}", policy)
        elif name.endswith("_url") and value is not None and str(value):
            url = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            problem = _url_problem(url, policy)
            if problem is not None:
                yield FieldProblem(field=f"{path}.{name}", code=problem[0], message=problem[1])


def _url_problem(url: str, policy: EgressPolicy) -> tuple[str, str] | None:
    """Gives a code and a sentence when adapters may not call this address."""
    try:
        parts = urlsplit(url)
        policy.check_url(url, [parts.netloc])
    except ValueError:
        return "url_malformed", "Give an absolute https:// address."
    except RemoteError as refused:
        # Its hint is the way out; its message names the host, which was typed here.
        if parts.scheme != "https":
            return "url_scheme", refused.hint
        return "url_refused", f"The address is not one of the public internet. {refused.hint}"
    return None


def _invalid(form: str, problems: list[FieldProblem]) -> InvalidError:
    return InvalidError(f"The {form} do not fit.", problems=problems, code=f"{form}_invalid")
