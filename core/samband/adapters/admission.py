"""What a plugin must be before the host admits it: its manifest and its hooks, read without calling any of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from types import NoneType
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretBytes, SecretStr

from samband.contract import HOOK_API_VERSION, Capability, Direction, Limits, Manifest, Stream
from samband.hookspecs import Hooks
from samband.kinds import FieldClass, Kind
from samband.settings import name_the_known

__all__ = ["hook_problems", "manifest_problems"]

HOOK_OF: Final[Mapping[str, str]] = {name: name for name in get_args(Capability)} | {"webhook": "handle_webhook"}
"""Capability → the hook that must then exist."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KEYWORD_ONLY: Final = inspect.Parameter.KEYWORD_ONLY
_ITERATORS = ("sync", "fetch", "export", "find_exported", "booked")
_SPECS: Final = {name: spec for name, spec in vars(Hooks).items() if not name.startswith("_")}
_SECRET_WORDS = {"secret", "password", "passphrase", "pwd", "key", "token"}
# What follows a secret's word and makes it a name of the secret instead: client_secret_id, key_vault_url.
_NAMING_WORDS = {"id", "url", "uri", "name", "type", "hint", "thumbprint", "alg", "algorithm", "lifetime", "expiry"}

Implementations = Mapping[str, tuple[Callable[..., object], Mapping[str, Any]]]
"""Hook name → the function that implements it, and its pluggy options."""


def hook_problems(implemented: Implementations) -> Iterator[str]:
    """Yields a sentence for every hook that is misspelt, takes what it is not given, or has the wrong shape."""
    for name, (function, options) in implemented.items():
        if name not in _SPECS:
            yield f"There is no hook {name!r}. {name_the_known(name, _SPECS)}"
            continue
        if options.get("wrapper") or options.get("hookwrapper"):
            yield f"{name} is a wrapper; write a plain @hookimpl."
        yield from _argument_problems(name, function)
        yield from _shape_problems(name, function)
    if "authenticate" not in implemented:
        yield "There is no authenticate: write an async def authenticate(ctx) marked with @hookimpl."


def _argument_problems(name: str, function: Callable[..., object]) -> Iterator[str]:
    known = list(inspect.signature(_SPECS[name]).parameters)[1:]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name in known and (parameter.default is not parameter.empty or parameter.kind == _KEYWORD_ONLY):
            # pluggy passes plain positional arguments only: a cursor with a default would silently stay None.
            yield f"{name}: write {parameter.name!r} as a plain argument, without a default or a star before it."
        elif parameter.name not in known and parameter.default is parameter.empty:
            known_ones = name_the_known(parameter.name, known)
            yield f"{name} takes an argument {parameter.name!r} that it is not given. {known_ones}"


def _shape_problems(name: str, function: Callable[..., object]) -> Iterator[str]:
    # A decorated function may hide its shape; what it gives is looked at again with every call.
    if name in _ITERATORS and inspect.iscoroutinefunction(function):
        yield f"{name} must be an async generator: use yield for each part instead of return."
    if name not in _ITERATORS and inspect.isasyncgenfunction(function):
        yield f"{name} must return its answer, not yield it."


def manifest_problems(manifest: object, *, implemented: Implementations, kinds: Mapping[str, Kind]) -> list[str]:
    """Gives a sentence for everything in the manifest that does not hold; none when the plugin may be admitted.

    Args:
        manifest: What the plugin calls ``manifest``.
        implemented: The hooks it implements.
        kinds: The kinds that are known without this plugin's own.
    """
    if not isinstance(manifest, Manifest):
        there = "nothing" if manifest is None else type(manifest).__name__
        return [f"A plugin has a manifest = samband.Manifest(…); this one has {there}."]
    problems = list(_type_problems(manifest))
    if problems:
        return problems  # the checks below read what those types promise
    if manifest.hook_api != HOOK_API_VERSION:
        side = "Update the host" if manifest.hook_api > HOOK_API_VERSION else "Update the plugin"
        return [f"It is written for hook API {manifest.hook_api}; this host speaks {HOOK_API_VERSION}. {side}."]
    return [
        *_capability_problems(manifest, implemented),
        *_kind_problems(manifest, kinds),
        *_stream_problems(manifest, {**kinds, **{kind.name: kind for kind in manifest.kinds}}),
        *(f"credentials.{path} must be a pydantic.SecretStr." for path in _plain_secrets(manifest.credentials, set())),
    ]


def _type_problems(manifest: Manifest) -> Iterator[str]:
    if not isinstance(manifest.name, str) or not _NAME.fullmatch(manifest.name):
        yield "manifest.name must have lower-case letters, digits and underscores only, and begin with a letter."
    for name, kind in _TYPES.items():
        if not isinstance(getattr(manifest, name), kind):
            wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            yield f"manifest.{name} must be {wanted}, not {type(getattr(manifest, name)).__name__}."
    for name in ("settings", "credentials"):
        model = getattr(manifest, name)
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            yield f"manifest.{name} must be a subclass of samband.{name.title()}Model."
    for name in ("egress_hosts", "account"):
        if not callable(getattr(manifest, name)):
            yield f"manifest.{name} must be a function of the settings."
    for name, kind in (("streams", Stream), ("kinds", Kind)):
        members = getattr(manifest, name)
        if isinstance(members, tuple) and not all(isinstance(member, kind) for member in members):
            yield f"manifest.{name} must hold samband.{kind.__name__} objects only."
    if isinstance(manifest.limits, Limits):
        yield from _limit_problems(manifest.limits)


_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "title": str,
    "version": str,
    "hook_api": int,
    "streams": tuple,
    "capabilities": frozenset,
    "field_classes": frozenset,
    "kinds": tuple,
    "limits": Limits,
    "simulator": (str, NoneType),
}


def _limit_problems(limits: Limits) -> Iterator[str]:
    for name in Limits.__slots__:
        value = getattr(limits, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            yield f"manifest.limits.{name} must be a number above 0."


def _capability_problems(manifest: Manifest, implemented: Implementations) -> Iterator[str]:
    for capability in sorted(map(str, manifest.capabilities)):
        hook = HOOK_OF.get(capability)
        if hook is None:
            yield f"There is no capability {capability!r}. {name_the_known(capability, HOOK_OF)}"
        elif hook not in implemented:
            yield f"capabilities has {capability!r}, but no {hook} is marked with @hookimpl."
    for capability, hook in HOOK_OF.items():
        if hook in implemented and capability not in manifest.capabilities:
            yield f"{hook} is implemented, but {capability!r} is missing in capabilities."
    for name in sorted(manifest.field_classes - set(get_args(FieldClass))):
        yield f"There is no field class {name!r}. {name_the_known(str(name), get_args(FieldClass))}"
    for capability in sorted({"sync", "fetch"} & manifest.capabilities):
        if not any(s.direction != "push" for s in manifest.streams):
            yield f"capabilities has {capability!r}, but no stream is read."


def _kind_problems(manifest: Manifest, kinds: Mapping[str, Kind]) -> Iterator[str]:
    own: dict[str, Kind] = {}
    for kind in manifest.kinds:
        if ({**kinds, **own}).get(kind.name, kind) is not kind:
            yield f"The kind {kind.name!r} exists already; give yours another name."
        own[kind.name] = kind
        try:
            has_shape = bool(kind.fields and kind.validator)
        except Exception:  # noqa: BLE001 -- whatever pydantic and a stranger's shape make of each other
            has_shape = False
        if not has_shape:
            yield f"The kind {kind.name!r} has no shape; give it a TypedDict."


def _stream_problems(manifest: Manifest, kinds: Mapping[str, Kind]) -> Iterator[str]:
    names = [stream.name for stream in manifest.streams]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"Two streams are called {name!r}."
    for stream in manifest.streams:
        at = f"streams.{stream.name}"
        if not _NAME.fullmatch(stream.name):
            yield f"{at}: a stream's name has lower-case letters, digits and underscores only."
        if stream.direction not in get_args(Direction):
            yield f"{at}.direction must be one of {', '.join(get_args(Direction))}."
        if not callable(stream.enabled) or not (stream.convert is None or callable(stream.convert)):
            yield f"{at}: convert and enabled must be functions."
        if stream.kind not in kinds:
            yield f"{at}.kind: there is no kind {stream.kind!r}. {name_the_known(stream.kind, kinds)}"
            continue
        yield from _reference_problems(at, stream, kinds[stream.kind], names)


def _reference_problems(at: str, stream: Stream, kind: Kind, names: list[str]) -> Iterator[str]:
    for field, target in stream.references.items():
        if field not in kind.fields:
            yield f"{at}.references: {kind.name} has no field {field!r}. {name_the_known(field, kind.fields)}"
        if target not in names:
            yield f"{at}.references: there is no stream {target!r}. {name_the_known(target, names)}"


def _plain_secrets(model: type[BaseModel], seen: set[type]) -> Iterator[str]:
    """Yields the dotted name of every field that by its name is a secret and by its type is not."""
    seen.add(model)
    for name, info in model.model_fields.items():
        kinds = set(_leaves(info.annotation))
        if _sounds_secret(name) and kinds & {str, bytes, Any} and not kinds & {SecretStr, SecretBytes}:
            yield name
        for inner in kinds:
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in seen:
                yield from (f"{name}.{path}" for path in _plain_secrets(inner, seen))


def _sounds_secret(name: str) -> bool:
    words = name.lower().split("_")
    is_public = words[0] == "public" or words[-1] in _NAMING_WORDS
    return not is_public and not _SECRET_WORDS.isdisjoint(words)


def _leaves(annotation: Any) -> Iterator[Any]:
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for argument in inner:
        yield from _leaves(argument)
