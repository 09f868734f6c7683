"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.api.metrics import Metrics, Watched
from services.errors import ConfigurationError
from services.settings import Settings
from services.workers.metrics import METRICS

ROOT = Path(__file__).parents[2]


def rows(path: str) -> list[list[str]]:
    """The cells of every table row of a document, heads left out."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_configuration_table_has_every_setting_and_no_other() -> None:
    documented = {row[0].strip("`") for row in rows("docs/configuration.md")}
    assert documented == {f"THREADLOG_{name.upper()}" for name in Settings.model_fields}


def test_the_configuration_table_says_what_each_setting_says() -> None:
    said = {row[0].strip("`"): row[2] for row in rows("docs/configuration.md")}
    for name, field in Settings.model_fields.items():
        assert said[f"THREADLOG_{name.upper()}"] == field.description


def test_the_metrics_table_has_every_metric_and_no_other() -> None:
    documented = {row[0].strip("`") for row in rows("docs/metrics.md")}
    exposed = {
        name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
        if (name := family.name).startswith("threadlog_")
    }
    watched = {one.value[0] for one in Watched}
    assert documented == exposed | watched | {metric.name for metric in METRICS}


def test_documents_lead_only_to_files_that_exist() -> None:
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = document.read_text()
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
        for path in re.findall(r"`((?:services|schema|tests|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("THREADLOG_DATABASE_URL", "mysql://db", "THREADLOG_DATABASE_URL: takes an address"),
        ("THREADLOG_MASTER_KEY", "c2hvcnQ=", "THREADLOG_MASTER_KEY: takes 32 random bytes in base64"),
        ("THREADLOG_PORT", "70000", "THREADLOG_PORT: "),
        ("THREADLOG_METRICS_NETWORKS", "10.0.0.0/8,nowhere", "THREADLOG_METRICS_NETWORKS: "),
    ],
)
def test_a_wrong_variable_is_refused_by_name_and_without_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv("THREADLOG_DATABASE_URL", "postgresql://db/threadlog")
    monkeypatch.setenv("THREADLOG_REDIS_URL", "redis://views/0")
    monkeypatch.setenv("THREADLOG_MASTER_KEY", "A" * 43 + "=")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as refused:
        Settings.load()
    assert message in str(refused.value)
    assert value not in str(refused.value)


def test_missing_variables_are_named_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"THREADLOG_{name.upper()}", raising=False)
    with pytest.raises(ConfigurationError) as refused:
        Settings.load()
    for name in ("DATABASE_URL", "REDIS_URL", "MASTER_KEY"):
        assert f"THREADLOG_{name}: is not set" in str(refused.value)


def test_the_broker_is_another_database_of_the_views_server_where_it_is_not_set() -> None:
    given = {"database_url": "postgresql://db/t", "master_key": "A" * 43 + "="}
    assert Settings.load(**given, redis_url="redis://views:6379/0").broker == "redis://views:6379/1"
    assert Settings.load(**given, redis_url="unix:///run/views.sock").broker == "unix:///run/views.sock?db=1"
