"""The alert rules and docs/operations.md: every metric and every command in them is one that there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, Expr, VectorSelector
from typer.main import get_command
from typer.testing import CliRunner

from services.eventlog.checkpoints import Projection
from services.eventlog.deliveries import OUTCOMES
from services.ops.cli import app
from services.ops.exits import Exit
from services.pokes import QUEUES

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "docs/alerts/threadlog.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
OPERATIONS = (ROOT / "docs/operations.md").read_text()
PROMETHEUS = {"up"}
"""What Prometheus itself records of each scrape."""
ADDED = {"job", "instance", "process", "le"}
"""Labels that Prometheus, several API processes, and histograms add."""
SUFFIX = re.compile("_(count|sum|bucket)$")
VALUES: dict[str, set[str]] = {
    "projection": set(Projection),
    "outcome": {"done", "failed", *OUTCOMES},
    "actor": set(QUEUES),
    "job": {"threadlog-api|threadlog-worker"},
}


def documented() -> dict[str, set[str]]:
    """The labels of each metric; tests/unit/test_docs.py compares the table with what is exposed."""
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]*)\|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    return {name: set(labels.replace(",", " ").split()) for name, labels in rows}


def parts(expression: str) -> list[Expr]:
    """All that a PromQL expression is made of. Raises ValueError where it is none."""
    found: list[Expr] = []
    promql_parser.walk(promql_parser.parse(expression), pre_visit=found.append)
    return found


def selectors(expression: str) -> list[VectorSelector]:
    return [one for one in parts(expression) if isinstance(one, VectorSelector)]


def is_command(line: str) -> None:
    """Fails where `threadlog …` is no verb, or takes no such option."""
    command: Any = get_command(app)
    rest = line.split()[1:]
    verb = []
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest[0]]
        verb.append(rest.pop(0))
    assert not getattr(command, "commands", None), f"{line}: no verb"
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known, line
    assert CliRunner().invoke(app, [*verb, "--help"]).exit_code == Exit.DONE


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_metrics_with_labels_that_they_have(rule: dict[str, Any]) -> None:
    metrics = documented()
    asked = selectors(rule["expr"])
    assert asked
    labels = set(ADDED)
    for selector in asked:
        name = selector.name or ""
        if name in PROMETHEUS:
            own: set[str] = set()
        else:
            own = metrics[name if name in metrics else SUFFIX.sub("", name)]
        for matcher in selector.matchers.matchers:
            assert matcher.name in own | ADDED, (name, matcher.name)
            assert matcher.value in VALUES.get(matcher.name, {matcher.value})
        labels |= own
    for one in parts(rule["expr"]):
        if isinstance(one, AggregateExpr) and one.modifier is not None:
            assert set(one.modifier.labels) <= labels


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_what_to_run(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["command"].startswith("threadlog ")
    is_command(rule["annotations"]["command"])
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert named <= {"instance"} | {
        label
        for one in parts(rule["expr"])
        if isinstance(one, AggregateExpr) and one.modifier is not None
        for label in one.modifier.labels
    }


def test_an_expression_that_is_none_would_be_seen() -> None:
    with pytest.raises(ValueError, match="promql"):
        parts("max by lane (threadlog_lag_seconds) >")


def test_the_table_of_alerts_has_every_rule_and_its_command() -> None:
    table = dict(re.findall(r"^\| `(Threadlog\w+)` \| `([^`]+)` \|", OPERATIONS, re.MULTILINE))
    assert table == {rule["alert"]: rule["annotations"]["command"] for rule in RULES}


def commands() -> list[str]:
    """Every `threadlog …` that docs/operations.md tells somebody to run."""
    in_blocks = [
        line.strip().partition("  #")[0]
        for block in re.findall(r"```sh\n(.*?)```", OPERATIONS, re.DOTALL)
        for line in block.splitlines()
    ]
    in_lines = [" ".join(one.split()) for one in re.findall(r"`(threadlog [^`]+)`", OPERATIONS)]
    return sorted({line for line in (*in_blocks, *in_lines) if line.startswith("threadlog ")})


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_document_is_there(command: str) -> None:
    is_command(command)


def test_a_command_that_is_not_there_would_be_seen() -> None:
    for wrong in ("threadlog rotate", "threadlog site", "threadlog migrate --checked"):
        with pytest.raises(AssertionError):
            is_command(wrong)


def test_the_document_names_variables_and_metrics_that_there_are() -> None:
    variables = set(re.findall(r"THREADLOG_[A-Z_]+", OPERATIONS))
    assert variables <= set(re.findall(r"THREADLOG_[A-Z_]+", (ROOT / "docs/configuration.md").read_text()))
    assert set(re.findall(r"`(threadlog_\w+)`", OPERATIONS)) <= documented().keys()
