"""Settings are read once, and whatever is wrong with them is named without its value."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from samband.errors import ConfigurationError
from samband.settings import AllowedPlugin, HostSettings, load_plugins_file, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("SAMBAND_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


# ── the environment ──────────────────────────────────────────────────────────


def test_without_any_variable_the_host_keeps_everything_in_one_folder(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.data_dir == tmp_path / "samband-data"
    assert settings.database == f"sqlite+aiosqlite:///{tmp_path}/samband-data/samband.db"
    assert settings.redis_url is None
    assert (settings.host, settings.port) == ("127.0.0.1", 8620)


def test_variables_are_read_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMBAND_PORT", "9000")
    monkeypatch.setenv("SAMBAND_HOST", "0.0.0.0")
    settings = load_settings(port=9001)
    assert (settings.host, settings.port) == ("0.0.0.0", 9001)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMBAND_REDIS_URL", "")
    assert load_settings().redis_url is None


def test_an_unknown_variable_is_refused_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMBAND_DATABASE_ULR", "x")
    with pytest.raises(
        ConfigurationError, match=r"Did you mean SAMBAND_DATABASE_URL\? Known: .*SAMBAND_PORT"
    ) as caught:
        load_settings()
    assert caught.value.field == "SAMBAND_DATABASE_ULR"
    assert caught.value.code == "variable_unknown"


def test_variables_of_the_test_suite_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMBAND_TEST_POSTGRES_URL", "postgresql://x/y")
    assert load_settings().port == 8620


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"prot is not a setting\. Did you mean port"):
        load_settings(prot=1)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SAMBAND_PORT", "hunter2"),
        ("SAMBAND_LEASE_S", "hunter2"),
        ("SAMBAND_LOG_FORMAT", "hunter2"),
        ("SAMBAND_DATABASE_URL", "mysql://root:hunter2@db/x"),
        ("SAMBAND_DATABASE_URL", "hunter2"),
        ("SAMBAND_DATABASE_URL", "sqlite:///:memory:"),
        ("SAMBAND_DATABASE_URL", "postgresql://u:hunter2@db"),
        ("SAMBAND_REDIS_URL", "http://:hunter2@cache"),
        ("SAMBAND_ALLOW_PRIVATE_HOSTS", "http://hunter2"),
        ("SAMBAND_MAX_ATTEMPTS", "0"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert caught.value.field == variable
    assert variable in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMBAND_PORT", "x")
    monkeypatch.setenv("SAMBAND_SWEEP_S", "-1")
    with pytest.raises(ConfigurationError, match=r"SAMBAND_PORT.*SAMBAND_SWEEP_S"):
        load_settings()


def test_a_worker_must_be_able_to_miss_a_sign_of_life() -> None:
    with pytest.raises(ConfigurationError, match="SAMBAND_HEARTBEAT_S must be at most half of SAMBAND_LEASE_S"):
        load_settings(lease_s=10, heartbeat_s=6)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u:p@db/samband", "postgresql+asyncpg://u:p@db/samband"),
        ("postgresql://u:p@db:5433/samband", "postgresql+asyncpg://u:p@db:5433/samband"),
        ("postgresql+asyncpg://u:p@db/samband", "postgresql+asyncpg://u:p@db/samband"),
        ("postgres://u:p%40@db/samband?sslmode=require", "postgresql+asyncpg://u:p%40@db/samband?ssl=require"),
        ("sqlite:////var/lib/samband.db", "sqlite+aiosqlite:////var/lib/samband.db"),
        ("sqlite+aiosqlite:///samband.db", "sqlite+aiosqlite:///samband.db"),
    ],
)
def test_database_urls_are_brought_into_one_form(given: str, used: str) -> None:
    assert load_settings(database_url=given).database == used


def test_hosts_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMBAND_ALLOW_PRIVATE_HOSTS", "CRM.internal, 127.0.0.1:8080 ,10.0.0.0/8,")
    assert load_settings().allow_private_hosts == ("crm.internal", "127.0.0.1:8080", "10.0.0.0/8")


def test_nothing_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMBAND_KEY", "hunter2")
    settings = load_settings(database_url="postgres://u:hunter2@db/x", redis_url="redis://:hunter2@cache/0")
    assert "hunter2" not in repr(settings)
    assert settings.key is not None
    assert settings.key.get_secret_value() == "hunter2"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


def test_plugins_toml_is_taken_from_the_working_directory_only_if_it_is_there(tmp_path: Path) -> None:
    assert load_settings().plugins_path is None
    (tmp_path / "plugins.toml").write_text("")
    assert load_settings().plugins_path == Path("plugins.toml")
    assert load_settings(plugins_file="~/other.toml").plugins_path == Path.home() / "other.toml"


def test_every_setting_is_described() -> None:
    described = HostSettings.__doc__ or ""
    assert [name for name in HostSettings.model_fields if f"\n        {name}: " not in described] == []


# ── plugins.toml ─────────────────────────────────────────────────────────────


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plugins.toml"
    path.write_text(text)
    return path


def test_an_allowed_plugin_carries_its_distribution_version_digest_limits_and_hosts(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        [plugins.demo]
        distribution = "samband-demo"
        version = "1.2.3"
        record_sha256 = "{"a1" * 32}"
        allow_private_hosts = ["CRM.internal"]
        limits = {{ requests_per_s = 2.5, concurrency = 2 }}
        """,
    )
    assert load_plugins_file(path).allowed == {
        "demo": AllowedPlugin(
            name="demo",
            distribution="samband-demo",
            version="1.2.3",
            record_sha256="a1" * 32,
            limits={"requests_per_s": 2.5, "concurrency": 2},
            allow_private_hosts=("crm.internal",),
        )
    }


def test_an_empty_file_allows_nothing(tmp_path: Path) -> None:
    assert dict(load_plugins_file(write(tmp_path, "")).allowed) == {}


def test_a_missing_file_is_named_with_the_variable_that_points_to_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no plugins.toml.*SAMBAND_PLUGINS_FILE"):
        load_plugins_file(tmp_path / "plugins.toml")


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 3"):
        load_plugins_file(write(tmp_path, "[plugins.demo]\nversion = '*'\ndistribution = samband\n"))


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("[plugin.demo]", "plugin", "Did you mean plugins"),
        ("plugins = 3", "plugins", "must be a table"),
        ("[plugins]\ndemo = 3", "plugins.demo", "must be a table"),
        ("[plugins.Demo]\ndistribution='d'\nversion='*'", "plugins.Demo", "lower-case"),
        ("[plugins.demo]\nversion='*'", "plugins.demo.distribution", "is missing"),
        ("[plugins.demo]\ndistribution='d'", "plugins.demo.version", "is missing"),
        ("[plugins.demo]\ndistribution='d'\nversion='>=1'", "plugins.demo.version", "one exact version"),
        ("[plugins.demo]\ndistribution='d'\nversion=1", "plugins.demo.version", "text between quotes"),
        ("[plugins.demo]\ndistribution='d'\nversion='*'\nhash='x'", "plugins.demo.hash", "Known: distribution"),
        ("[plugins.demo]\ndistribution='d'\nversion='*'\nrecord_sha256='x'", "plugins.demo.record_sha256", "64"),
        (
            "[plugins.demo]\ndistribution='d'\nversion='*'\nlimits={rate=1}",
            "plugins.demo.limits.rate",
            "requests_per_s",
        ),
        (
            "[plugins.demo]\ndistribution='d'\nversion='*'\nlimits={concurrency=1.5}",
            "plugins.demo.limits.concurrency",
            "whole number",
        ),
        ("[plugins.demo]\ndistribution='d'\nversion='*'\nlimits={timeout_s=nan}", "plugins.demo.limits.timeout_s", "0"),
        (
            "[plugins.demo]\ndistribution='d'\nversion='*'\nallow_private_hosts='x'",
            "plugins.demo.allow_private_hosts",
            "list",
        ),
    ],
)
def test_a_wrong_entry_is_refused_by_the_name_of_its_key(tmp_path: Path, text: str, field: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_plugins_file(write(tmp_path, text))
    assert caught.value.field == field
    assert words in str(caught.value)
    assert field in str(caught.value)
