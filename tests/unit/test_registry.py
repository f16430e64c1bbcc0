"""Plugins are found, compared with the allow-list before any of their code runs, and contained when they misbehave."""

from __future__ import annotations

import datetime as dt
import itertools
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from samband.adapters.distributions import files_sha256
from samband.adapters.registry import Registry
from samband.contract import Event
from samband.errors import NotFoundError, PluginError
from samband.settings import AllowedPlugin, PluginsFile
from samband.views import PluginView

HANG = 30
GOOD = """
from pydantic import SecretStr
import samband
from samband import hookimpl, Check, CredentialsModel, Manifest, Page, SettingsModel, Stream, Token

class Settings(SettingsModel):
    region: str = "crm4"

class Credentials(CredentialsModel):
    client_secret: SecretStr

manifest = Manifest(
    name="NAME", title="Demo", version="1.0", settings=Settings, credentials=Credentials,
    streams=(Stream(name="people", kind="member", title="People"),),
    capabilities=frozenset({"sync"}),
)

@hookimpl
async def authenticate(ctx):
    return Token(value=SecretStr("t"))

@hookimpl
async def sync(ctx, stream, cursor):
    yield Page(complete=True)
"""


class Site:
    """A folder on ``sys.path`` into which plugins are installed with real metadata."""

    _numbers = itertools.count()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def install(self, name: str, source: str = GOOD, *, version: str = "1.0", distribution: str = "") -> str:
        distribution = distribution or f"samband-{name}"
        module = f"plugin_under_test_{next(self._numbers)}"
        self.modules.append(module)
        (self.folder / f"{module}.py").write_text(textwrap.dedent(source).replace("NAME", name))
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[samband.plugins]\n{name} = {module}\n")
        listed = [f"{module}.py,sha256=x,1", f"{info.name}/METADATA,sha256=x,1", f"{info.name}/entry_points.txt,,"]
        (info / "RECORD").write_text("\n".join([*listed, f"{info.name}/RECORD,,", f"{info.name}/INSTALLER,,"]) + "\n")
        (info / "INSTALLER").write_text("pip\n")
        return module

    def file(self, module: str) -> Path:
        return self.folder / f"{module}.py"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield site
    for module in site.modules:
        sys.modules.pop(module, None)


def allow(*names: str, **more: Mapping[str, object]) -> PluginsFile:
    entries = {name: {} for name in names} | more
    return PluginsFile(
        allowed={
            name: AllowedPlugin(**{"name": name, "distribution": f"samband-{name}", **entry})  # type: ignore[arg-type]
            for name, entry in entries.items()
        }
    )


def discover(plugins: PluginsFile | None, **options: object) -> dict[str, PluginView]:
    registry = Registry.discover(plugins, **options)  # type: ignore[arg-type]
    return {view.name: view for view in registry.views()}


# ── the allow-list ───────────────────────────────────────────────────────────


def test_a_listed_plugin_is_loaded_and_described(site: Site) -> None:
    site.install("alpha")
    view = discover(allow("alpha"))["alpha"]
    assert (view.state, view.reason, view.version) == ("loaded", "", "1.0")
    assert view.capabilities == ["sync"]
    assert [(stream.name, stream.kind) for stream in view.streams] == [("people", "member")]
    assert set(view.settings_schema["properties"]) == {"region"}
    assert set(view.credentials_schema["properties"]) == {"client_secret"}


def test_a_plugin_that_is_not_listed_is_never_imported_and_the_lines_to_add_are_shown(site: Site) -> None:
    module = site.install("alpha")
    view = discover(allow())["alpha"]
    assert view.state == "blocked"
    assert "not listed in plugins.toml" in view.reason
    assert view.detail == '[plugins.alpha]\ndistribution = "samband-alpha"\nversion = "1.0"'
    assert module not in sys.modules


def test_without_an_allow_list_nothing_loads_unless_that_is_said(site: Site) -> None:
    site.install("alpha")
    assert discover(None)["alpha"].state == "blocked"
    assert discover(None, allow_installed=True)["alpha"].state == "loaded"


def test_another_version_than_the_listed_one_is_not_imported(site: Site) -> None:
    module = site.install("alpha", version="1.1")
    view = discover(allow(alpha={"version": "1.0"}))["alpha"]
    assert (view.state, module in sys.modules) == ("blocked", False)
    assert view.reason.startswith("plugins.toml allows version 1.0; installed is 1.1.")


def test_the_same_name_from_another_distribution_is_not_imported(site: Site) -> None:
    module = site.install("alpha", distribution="evil-twin")
    registry = Registry.discover(allow("alpha"))
    states = {view.distribution: (view.state, view.reason) for view in registry.views() if view.name == "alpha"}
    assert states["evil-twin"][0] == "blocked"
    assert states["samband-alpha"] == ("failed", "It is listed but not installed. Run: pip install samband-alpha")
    assert module not in sys.modules


def test_the_spelling_of_a_distribution_does_not_matter(site: Site) -> None:
    site.install("alpha")
    assert discover(allow(alpha={"distribution": "Samband.Alpha"}))["alpha"].state == "loaded"


def test_a_listed_plugin_that_is_not_installed_is_shown_with_the_command_that_installs_it(site: Site) -> None:
    view = discover(allow(gone={"version": "2.0"}))["gone"]
    assert (view.state, view.reason) == (
        "failed",
        "It is listed but not installed. Run: pip install samband-gone==2.0",
    )


def test_a_name_that_its_distribution_does_not_have_is_shown_with_the_ones_it_has(site: Site) -> None:
    site.install("alpha")
    view = discover(allow("alpha", alfa={"distribution": "samband-alpha"}))["alfa"]
    assert view.reason == "samband-alpha has no plugin of that name; it has alpha."


def test_files_that_are_not_the_pinned_ones_are_not_imported(site: Site) -> None:
    module = site.install("alpha")
    pinned = allow(alpha={"record_sha256": files_sha256("samband-alpha")})
    assert discover(pinned)["alpha"].state == "loaded"
    sys.modules.pop(module)
    site.file(module).write_text(site.file(module).read_text() + "\nimport os\n")
    view = discover(pinned)["alpha"]
    assert (view.state, module in sys.modules) == ("blocked", False)
    assert "not those that plugins.toml allows" in view.reason


def test_what_the_installer_adds_does_not_change_the_digest(site: Site) -> None:
    module = site.install("alpha")
    before = files_sha256("samband-alpha")
    info = next(site.folder.glob("*.dist-info"))
    (info / "INSTALLER").write_text("uv\n")
    (site.folder / "__pycache__").mkdir(exist_ok=True)
    (site.folder / "__pycache__" / f"{module}.pyc").write_bytes(b"made here")
    record = (info / "RECORD").read_text()
    (info / "RECORD").write_text(f"{record}__pycache__/{module}.pyc,,\n../bin/demo,sha256=x,1\n")
    assert files_sha256("samband-alpha") == before
    (info / "RECORD").write_text(f"{record}__pycache__/{module}.pyc,sha256=x,9\n")
    assert files_sha256("samband-alpha") != before, "a compiled file that came with the wheel counts"


def test_a_link_to_sources_cannot_be_pinned(site: Site) -> None:
    site.install("alpha")
    info = next(site.folder.glob("*.dist-info"))
    (info / "direct_url.json").write_text('{"url": "file:///src", "dir_info": {"editable": true}}')
    view = discover(allow(alpha={"record_sha256": "0" * 64}))["alpha"]
    assert view.state == "blocked"
    assert "link to its sources" in view.reason


def test_a_damaged_distribution_does_not_hide_the_others(site: Site) -> None:
    site.install("alpha")
    broken = site.folder / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "entry_points.txt").write_bytes(b"[samband.plugins]\nno equals sign \xff\xfe\n")
    assert discover(allow("alpha"))["alpha"].state == "loaded"


# ── loading ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise RuntimeError('no database')", "RuntimeError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("def broken(:\n  pass", "SyntaxError"),
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
    ],
)
def test_an_import_that_fails_is_listed_and_the_next_plugin_loads(site: Site, source: str, error: str) -> None:
    site.install("aaa_first", source)
    site.install("beta")
    views = discover(allow("aaa_first", "beta"))
    assert (views["aaa_first"].state, views["aaa_first"].reason) == ("failed", f"Importing it raised {error}.")
    assert "Traceback" in views["aaa_first"].detail or error == "SyntaxError"
    assert error in views["aaa_first"].detail
    assert views["beta"].state == "loaded"


@pytest.mark.parametrize("source", ["import time\ntime.sleep(1)\n", "while True:\n    pass\n"])
def test_an_import_that_hangs_is_given_up_and_the_next_plugin_loads(site: Site, source: str) -> None:
    module = site.install("aaa_first", source)
    site.install("beta")
    views = discover(allow("aaa_first", "beta"), load_timeout_s=0.3)
    assert views["aaa_first"].state == "failed"
    assert f"did not end within 0.3 s (in {site.folder.name}/{module}.py:" in views["aaa_first"].reason
    assert views["beta"].state == "loaded"


def broken(*changes: tuple[str, str]) -> str:
    source = GOOD
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return source


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("manifest = None", "A plugin has a manifest"),
        ("manifest = {'name': 'alpha'}", "this one has dict"),
        (broken(("async def sync(ctx, stream", "async def snyc(ctx, stream")), "no hook 'snyc'. Did you mean sync?"),
        (broken(("sync(ctx, stream, cursor)", "sync(ctx, strem)")), "'strem' that it is not given. Did you mean stream?"),
        (broken(("cursor):", "cursor=None):")), "write 'cursor' as a plain argument"),
        (broken(("cursor):", "*, cursor):")), "write 'cursor' as a plain argument"),
        (broken(("    yield Page(complete=True)", "    return []")), "sync must be an async generator"),
        (broken(('return Token(value=SecretStr("t"))', "yield 1")), "authenticate must return its answer"),
        (broken(("@hookimpl\nasync def authenticate", "async def authenticate")), "There is no authenticate"),
        (broken(("@hookimpl\nasync def sync", "async def sync")), "no sync is marked with @hookimpl"),
        (broken(("@hookimpl\nasync def sync", "@hookimpl(wrapper=True)\ndef sync")), "is a wrapper"),
        (broken(('frozenset({"sync"})', "frozenset()")), "'sync' is missing in capabilities"),
        (broken(('frozenset({"sync"})', 'frozenset({"sync", "chek"})')), "no capability 'chek'. Did you mean check?"),
        (broken(('frozenset({"sync"})', 'frozenset({"sync", "check"})')), "no check is marked"),
        (broken(('frozenset({"sync"})', '["sync"]')), "manifest.capabilities must be frozenset, not list"),
        (broken(('version="1.0"', 'version="1.0", hook_api=99')), "hook API 99; this host speaks 1. Update the host."),
        (broken(('name="NAME"', 'name="other"')), "called 'other' and its entry point 'alpha'"),
        (broken(('name="NAME"', 'name="Alpha!"')), "manifest.name must have lower-case letters"),
        (broken(('kind="member"', 'kind="membr"')), "no kind 'membr'. Did you mean member"),
        (broken(('title="People"),', 'title="People"), Stream(name="people", kind="member", title="P"),')), "Two streams"),
        (broken(('title="People"', 'title="P", references={"member": "people"}')), "member has no field 'member'"),
        (broken(('title="People"', 'title="P", references={"email": "peple"}')), "Did you mean people"),
        (broken(("client_secret: SecretStr", "client_secret: str")), "credentials.client_secret must be a pydantic.Secret"),
        (broken(("client_secret: SecretStr", "api_key: str | None = None")), "credentials.api_key must be"),
        (broken(("settings=Settings", "kinds=(samband.Kind('x', 'X', 3, {}),), settings=Settings")), "'x' has no shape"),
        (broken(("settings=Settings", "settings=dict")), "manifest.settings must be a subclass of samband.SettingsModel"),
        (broken(("settings=Settings", "egress_hosts=['x'], settings=Settings")), "egress_hosts must be a function"),
        (broken(("settings=Settings", "limits=samband.Limits(concurrency=0), settings=Settings")), "limits.concurrency"),
    ],
)  # fmt: skip
def test_a_plugin_that_breaks_a_rule_is_listed_with_the_way_out(site: Site, source: str, words: str) -> None:
    site.install("alpha", source)
    site.install("beta")
    views = discover(allow("alpha", "beta"))
    assert views["alpha"].state == "failed"
    assert words in views["alpha"].reason
    assert views["beta"].state == "loaded"


def test_names_that_only_sound_secret_are_let_through(site: Site) -> None:
    fields = "client_secret: SecretStr\n    key_id: str = ''\n    token_url: str = ''\n    public_key: str = ''"
    site.install("alpha", broken(("client_secret: SecretStr", fields)))
    assert discover(allow("alpha"))["alpha"].state == "loaded"


def test_a_secret_inside_another_model_must_be_a_secret_too(site: Site) -> None:
    inner = "class Inner(CredentialsModel):\n    password: str\n\nclass Credentials"
    site.install(
        "alpha", broken(("class Credentials", inner), ("client_secret: SecretStr", "accounts: list[Inner] = []"))
    )
    assert "credentials.accounts.password must be" in discover(allow("alpha"))["alpha"].reason


def test_every_problem_of_a_plugin_is_named_at_once(site: Site) -> None:
    site.install("alpha", broken(('kind="member"', 'kind="x"'), ("client_secret: SecretStr", "client_secret: str")))
    reason = discover(allow("alpha"))["alpha"].reason
    assert "no kind 'x'" in reason
    assert "client_secret must be" in reason


def test_nothing_of_a_refused_plugin_stays_registered(good_module: Callable[..., types.ModuleType]) -> None:
    registry = Registry()
    with pytest.raises(PluginError, match="no hook 'snyc'"):
        registry.add(good_module("alpha", broken(("def sync(", "def snyc("))))
    assert registry.views() == []
    assert registry.add(good_module("alpha")).manifest.name == "alpha"


def test_two_plugins_of_one_name_do_not_replace_each_other(site: Site) -> None:
    site.install("alpha")
    site.install("alpha", distribution="another-alpha")
    states = sorted((v.distribution, v.state) for v in Registry.discover(None, allow_installed=True).views())
    assert [s for s in states if "alpha" in s[0]] == [("another-alpha", "loaded"), ("samband-alpha", "failed")]


def test_a_kind_that_a_plugin_adds_is_known_and_cannot_replace_one(
    good_module: Callable[..., types.ModuleType],
) -> None:
    def with_kind(name: str) -> str:
        shape = "from typing_extensions import TypedDict\n\nclass Gift(TypedDict):\n    amount: str\n\nmanifest = "
        kind = f'kinds=(samband.Kind("{name}", "Gift", Gift, {{}}),)'
        return broken(("manifest = ", shape), ('title="Demo"', f'title="Demo", {kind}'))

    registry = Registry()
    registry.add(good_module("alpha", with_kind("donation")))
    assert "donation" in registry.kinds
    with pytest.raises(PluginError, match="'member' exists already"):
        registry.add(good_module("beta", with_kind("member")))
    assert "donation" not in Registry().kinds


# ── asking and telling ───────────────────────────────────────────────────────


@pytest.fixture
def good_module() -> Callable[..., types.ModuleType]:
    def make(name: str, source: str = GOOD) -> types.ModuleType:
        module = types.ModuleType(f"module_{name}")
        exec(compile(source.replace("NAME", name), f"{name}.py", "exec", dont_inherit=True), module.__dict__)
        return module

    return make


def test_an_unknown_plugin_is_answered_with_the_ones_there_are(good_module: Callable[..., types.ModuleType]) -> None:
    registry = Registry()
    registry.add(good_module("alpha"))
    with pytest.raises(NotFoundError, match=r"There is no plugin 'beta'\. There are: alpha\.") as caught:
        registry.adapter("beta")
    assert caught.value.code == "unknown_plugin"


def test_asking_for_a_plugin_that_failed_says_why(site: Site) -> None:
    site.install("alpha", "raise RuntimeError")
    with pytest.raises(NotFoundError, match="Importing it raised RuntimeError"):
        Registry.discover(allow("alpha")).adapter("alpha")


def test_trouble_at_run_time_is_shown_beside_the_plugin(good_module: Callable[..., types.ModuleType]) -> None:
    registry = Registry()
    registry.add(good_module("alpha"))
    registry.note_trouble("alpha", "blocked its event loop")
    registry.note_trouble("alpha", "blocked its event loop again")
    registry.note_trouble("nobody", "is ignored")
    assert [(v.state, v.reason) for v in registry.views()] == [
        ("loaded", "blocked its event loop again (trouble number 2)")
    ]


def test_limits_of_the_operator_replace_those_of_the_manifest(site: Site) -> None:
    site.install("alpha")
    registry = Registry.discover(allow(alpha={"limits": {"requests_per_s": 1.5}}))
    limits = registry.adapter("alpha").limits
    assert (limits.requests_per_s, limits.concurrency) == (1.5, 8)


EVENT = Event(
    id="e1",
    type="run.succeeded",
    organization_id="dnf",
    subject="r1",
    time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    data={},
)


def listening(body: str) -> str:
    return GOOD + f"\nheard = []\n\n@hookimpl\nasync def on_event(event):\n    {body}\n"


async def test_an_event_reaches_every_listener_although_one_fails(
    good_module: Callable[..., types.ModuleType],
) -> None:
    structlog.reset_defaults()
    registry = Registry()
    registry.add(good_module("alpha", listening("raise ValueError('Kari Nordmann')")))
    listener = good_module("beta", listening("heard.append(event.id)"))
    registry.add(listener)
    registry.add(good_module("gamma"))
    with capture_logs() as lines:
        await registry.broadcast(EVENT)
    await registry.close()
    assert listener.heard == ["e1"]
    warnings = [line for line in lines if line["event"] == "event_not_heard"]
    assert [(line["plugin"], line["code"]) for line in warnings] == [("alpha", "contract_broken")]
    assert "Kari" not in str(lines)


async def test_closing_twice_does_no_harm(good_module: Callable[..., types.ModuleType]) -> None:
    registry = Registry()
    registry.add(good_module("alpha", listening("heard.append(1)")))
    await registry.broadcast(EVENT)
    await registry.close()
    await registry.close()
