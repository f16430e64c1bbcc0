"""What the manifest promises before any hook is called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from types import ModuleType
from typing import Any, ClassVar, get_args

import pytest
from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from samband.adapters.forms import parse_form
from samband.adapters.registry import Registry
from samband.contract import HOOK_API_VERSION, Capability, Manifest
from samband.errors import InvalidError, PluginError
from samband.hookspecs import ENTRY_POINT_GROUP
from samband.http.egress import EgressPolicy
from samband.kinds import BUILTIN_KINDS, Kinds
from samband.testing.counterpart import Counterpart
from samband.testing.promises.wording import broken

__all__ = ["CANARY", "Declarations", "known_kinds", "secrets_in"]

CANARY = "canary-0f3b-not-a-real-secret"
_HOOKS = {capability: capability for capability in get_args(Capability)} | {"webhook": "handle_webhook"}
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MANIFEST = "samband.Manifest"
_STREAM = "samband.Stream"


class Declarations:
    """Tests that read the manifest and the two models, and call nothing."""

    plugin: ClassVar[ModuleType]

    def test_the_plugin_loads_and_every_hook_is_spelt_as_specified(self) -> None:
        try:
            Registry().add(self.plugin)
        except PluginError as err:
            pytest.fail(
                broken(
                    "The host can load the plugin: one manifest, and hooks that carry the specified names and arguments.",
                    f"{type(err).__name__}: {err}",
                    see="samband.hookspecs",
                ),
                pytrace=False,
            )

    def test_the_manifest_names_the_plugin_its_system_and_the_hook_api(self, manifest: Manifest) -> None:
        assert _NAME.fullmatch(manifest.name), broken(
            "The name is lower case letters, digits and underscores, and starts with a letter.",
            f"name={manifest.name!r}",
            see=_MANIFEST,
        )
        assert manifest.title.strip(), broken(
            "The title is the external system's own name.", "an empty title", see=_MANIFEST
        )
        assert manifest.hook_api == HOOK_API_VERSION, broken(
            f"The plugin is written for hook API {HOOK_API_VERSION}, the one of the installed host.",
            f"hook_api={manifest.hook_api}",
            see="samband.HOOK_API_VERSION",
            way_out="Leave hook_api out, and test against each host you support.",
        )

    def test_the_version_is_that_of_the_distribution(self, manifest: Manifest) -> None:
        found = next(_distributions_of(self.plugin.__name__), None)
        if found is None:
            pytest.skip(f"no installed distribution has {self.plugin.__name__} in its entry points: pip install -e .")
        assert manifest.version == found.version, broken(
            "The manifest's version is the distribution's, because every run is recorded with it.",
            f"the manifest says {manifest.version!r}, the distribution {found.name} is {found.version!r}",
            see=_MANIFEST,
            way_out='Write version=importlib.metadata.version("…") in the manifest.',
        )

    def test_every_capability_has_its_hook_and_every_hook_its_capability(self, manifest: Manifest) -> None:
        declared = {_HOOKS[capability] for capability in manifest.capabilities}
        there = {hook for hook in _HOOKS.values() if hasattr(getattr(self.plugin, hook, None), "samband_impl")}
        assert declared == there, broken(
            "Each name in capabilities is a hook the plugin implements, and the other way round.",
            f"declared without a hook: {sorted(declared - there) or 'none'};"
            f" hooks that are not declared: {sorted(there - declared) or 'none'}",
            see="samband.Manifest.capabilities",
        )

    def test_every_stream_is_named_once_and_has_a_known_kind(self, manifest: Manifest) -> None:
        names = [stream.name for stream in manifest.streams]
        assert len(names) == len(set(names)), broken("Stream names are unique.", f"streams={names}", see=_STREAM)
        kinds = known_kinds(manifest)
        for stream in manifest.streams:
            assert _NAME.fullmatch(stream.name), broken("Stream names are snake_case.", repr(stream.name), see=_STREAM)
            assert stream.title.strip(), broken("Every stream has a title.", f"{stream.name} has none", see=_STREAM)
            assert stream.kind in kinds, broken(
                "A stream's records become a canonical kind.",
                f"{stream.name} has the kind {stream.kind!r}; there are {', '.join(kinds)}",
                see="samband.kinds",
                way_out="Use one of those, or add your own with Manifest(kinds=…).",
            )

    def test_every_reference_leads_from_a_field_of_the_kind_to_a_stream(self, manifest: Manifest) -> None:
        kinds, names = known_kinds(manifest), {stream.name for stream in manifest.streams}
        for stream in manifest.streams:
            fields = kinds[stream.kind].fields if stream.kind in kinds else ()
            wrong = {field: to for field, to in stream.references.items() if field not in fields or to not in names}
            assert not wrong, broken(
                "References go from a field of the stream's kind to a stream of this plugin.",
                f"{stream.name} declares {wrong}; fields are {', '.join(fields)}; streams are {', '.join(sorted(names))}",
                see="samband.Stream.references",
            )

    def test_every_field_of_the_forms_has_a_title_and_a_description(self, manifest: Manifest) -> None:
        bare = [
            f"{path} lacks a {part}"
            for model in (manifest.settings, manifest.credentials)
            for path, field in _fields(model)
            for part in ("title", "description")
            if not getattr(field, part)
        ]
        assert not bare, broken(
            "Forms are drawn from the titles and descriptions of the fields.",
            "; ".join(bare),
            see="samband.SettingsModel",
            way_out='Write Field(title="…", description="…").',
        )

    def test_unknown_fields_are_refused_and_objects_are_frozen(self, manifest: Manifest) -> None:
        for model in (manifest.settings, manifest.credentials):
            config = model.model_config
            assert (config.get("extra"), config.get("frozen")) == ("forbid", True), broken(
                "Settings and credentials are frozen and refuse unknown keys.",
                f"{model.__name__} has extra={config.get('extra')!r}, frozen={config.get('frozen')!r}",
                see="samband.SettingsModel",
                way_out="Derive from samband.SettingsModel and samband.CredentialsModel.",
            )

    def test_whatever_must_stay_secret_is_a_secret_type(self, manifest: Manifest) -> None:
        fields = dict(_fields(manifest.credentials))
        plain = [name for name, field in fields.items() if _sounds_secret(name) and not _is_secret(field.annotation)]
        assert not plain, broken(
            "Every secret is a pydantic.SecretStr.", f"plain text: {', '.join(plain)}", see="samband.CredentialsModel"
        )
        assert not fields or any(_is_secret(field.annotation) for field in fields.values()), broken(
            "Credentials hold at least one secret.",
            f"{', '.join(fields)} are all plain",
            see="samband.CredentialsModel",
            way_out="Use SecretStr for it, or move what is not secret to the settings.",
        )

    def test_settings_survive_being_stored_and_read_again(self, manifest: Manifest, counterpart: Counterpart) -> None:
        settings = manifest.settings.model_validate(dict(counterpart.settings))
        again = manifest.settings.model_validate_json(settings.model_dump_json())
        assert again == settings, broken(
            "Settings are stored as JSON and read back the same.",
            f"these fields changed: {', '.join(_differing(settings, again))}",
            see="samband.SettingsModel",
        )

    def test_a_form_can_be_drawn_from_each_model(self, manifest: Manifest) -> None:
        for model in (manifest.settings, manifest.credentials):
            schema = model.model_json_schema()
            assert set(schema.get("properties", {})) == set(_names(model)), broken(
                "Both models have a JSON schema that lists every field.", str(sorted(schema)), see=_MANIFEST
            )

    def test_credentials_never_show_a_value(self, manifest: Manifest, counterpart: Counterpart) -> None:
        credentials = manifest.credentials.model_validate(dict(counterpart.credentials))
        shown = " ".join(
            (repr(credentials), str(credentials), credentials.model_dump_json(), repr(credentials.model_dump()))
        )
        leaked = [name for name, value in secrets_in(credentials) if value in shown]
        assert not leaked, broken(
            "Credentials never show a secret: not as text, not in a repr, not as JSON.",
            f"shown in clear: {', '.join(leaked)}",
            see="samband.CredentialsModel",
            way_out="Use SecretStr and no serializer of your own.",
        )

    def test_a_wrong_setting_is_refused_by_name_and_without_its_value(
        self, manifest: Manifest, counterpart: Counterpart
    ) -> None:
        forms = (
            ("settings", manifest.settings, counterpart.settings),
            ("credentials", manifest.credentials, counterpart.credentials),
        )
        for form, model, given in forms:
            with pytest.raises(InvalidError) as caught:
                parse_form(model, {**given, "no_such_field": CANARY}, form=form, policy=EgressPolicy())
            told = {problem.field: problem.message for problem in caught.value.problems}
            unknown = told.get(f"{form}.no_such_field", "")
            assert all(name in unknown for name in _names(model)), broken(
                "A field that does not exist is named, with the ones that do.",
                f"{form}: {told}",
                see="samband.SettingsModel",
            )
            with pytest.raises(ValidationError) as bare:
                model.model_validate({**given, "no_such_field": CANARY})
            assert CANARY not in f"{told} {caught.value} {bare.value}", broken(
                "An error never quotes what was entered.",
                f"{model.__name__} shows the value",
                see="samband.SettingsModel",
                way_out="Keep hide_input_in_errors=True of samband's models.",
            )

    def test_the_hosts_it_talks_to_are_declared(self, manifest: Manifest, counterpart: Counterpart) -> None:
        settings = manifest.settings.model_validate(dict(counterpart.settings))
        hosts = list(manifest.egress_hosts(settings))
        assert hosts, broken(
            "The manifest says which hosts the integration may be talked to at.",
            "egress_hosts(settings) gave none",
            see="samband.Manifest.egress_hosts",
        )
        assert all(host and "/" not in host for host in hosts), broken(
            "egress_hosts gives host names, with a port where it is not the usual one.",
            f"{hosts}",
            see="samband.Manifest.egress_hosts",
        )
        assert manifest.account(settings), broken(
            "The external account that rate limits are shared by has a name.",
            "account(settings) gave an empty one",
            see="samband.Manifest.account",
        )


def known_kinds(manifest: Manifest) -> Kinds:
    """Gives the built-in kinds and those the plugin adds."""
    return Kinds([*BUILTIN_KINDS, *(kind for kind in manifest.kinds if kind not in BUILTIN_KINDS)])


def secrets_in(model: BaseModel) -> Iterator[tuple[str, str]]:
    """Yields the name and the clear value of every secret of a model, nested ones too."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, SecretStr) and value.get_secret_value():
            yield name, value.get_secret_value()
        elif isinstance(value, SecretBytes):
            yield name, value.get_secret_value().decode("latin-1")
        elif isinstance(value, BaseModel):
            yield from ((f"{name}.{inner}", secret) for inner, secret in secrets_in(value))


def _distributions_of(module: str) -> Iterator[Distribution]:
    for distribution in distributions():
        for entry in distribution.entry_points:
            if entry.group == ENTRY_POINT_GROUP and entry.module == module:
                yield distribution


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _fields(inner, f"{prefix}{name}.")


def _names(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _is_secret(annotation: Any) -> bool:
    return any(kind in (SecretStr, SecretBytes) for kind in (annotation, *get_args(annotation)))


def _sounds_secret(path: str) -> bool:
    name = path.rpartition(".")[2]
    return re.search(r"(secret|password|passphrase|private_key|api_key|token)(_pem)?$", name) is not None


def _differing(one: BaseModel, other: BaseModel) -> list[str]:
    before: Mapping[str, Any] = one.model_dump()
    after: Mapping[str, Any] = other.model_dump()
    return [name for name, value in before.items() if after.get(name) != value]
