"""Rules and dashboards: checked by promtool, and asked of a real Prometheus that watched a real run."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.prometheus_server import ROOT, RULES, Prometheus, program, prometheus
from tests.gateway.command import eventually
from tests.gateway.troubled import Run, Series, prometheus_names, troubled_run

from motet_bus.instruments import INSTRUMENTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
COLLECTOR: dict[str, Any] = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text())
SCRAPED: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
RULES_TEST = Path(__file__).parent / "rules_test.yaml"
DASHBOARDS: dict[str, dict[str, Any]] = {
    name: json.loads((DEPLOY / "grafana" / f"{name}.json").read_text()) for name in ("system", "people-and-money")
}
QUERIES = [
    (f"{name}: {panel['title']}", target["expr"])
    for name, board in DASHBOARDS.items()
    for panel in board["panels"]
    for target in panel.get("targets", ())
]
_NOTHING_YET = {
    "system: Restarts",
    "system: Lag",
    "system: Delivered and not acknowledged",
    "system: Claims held",
    "system: Commit conflicts",
    "system: Telemetry lost",
    "system: Claims that did not end well",
    "people-and-money: Past their due time",
}
"""What is 0 in a run in which nobody was killed, nobody raced and nothing piled up."""


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Generator[Run]:
    program("prometheus")
    with troubled_run(tmp_path_factory.mktemp("troubled")) as run:
        yield run


@pytest.fixture(scope="module")
def recorded(run: Run) -> Series:
    """What the processes of a real run show."""
    eventually(lambda: sum(run.series()["motet_telemetry_lost_total"].values()) > 0, "spans were lost")
    return run.series()


@pytest.fixture(scope="module")
def watched(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Generator[Prometheus]:
    """A Prometheus that saw everything happen."""
    with prometheus(tmp_path_factory.mktemp("prometheus"), run.urls) as server:
        everybody = len(run.urls)
        eventually(lambda: server.query("sum(up) or vector(0)")[0][1] == everybody, "everybody is read")
        eventually(lambda: server.query("min(count_over_time(up[1m]))")[0][1] >= 2, "everybody was read twice")
        run.submit("third", "troubled")
        run.approve("third")
        run.submit("fourth", "hopeless")
        ended = "sum(increase(motet_conversations_ended_total[1m]))"
        eventually(lambda: server.query(ended)[0][1] > 0, "the end of the third conversation was read")
        letters = "sum(increase(motet_dead_letters_total[1m]))"
        eventually(lambda: server.query(letters)[0][1] > 0, "the dead letter of the fourth was read")
        yield server


def test_promtool_accepts_the_rules_and_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump({**SCRAPED, "rule_files": [str(RULES)]}))
    done = promtool("check", "config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(ALERTS)} rules found" in done.stdout


def test_every_alert_fires_when_it_should_and_is_quiet_when_all_is_well() -> None:
    done = promtool("test", "rules", RULES_TEST)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = yaml.safe_load(RULES_TEST.read_text())["tests"]
    tested = [(one["alertname"], bool(one["exp_alerts"])) for case in cases for one in case["alert_rule_test"]]
    names = {rule["alert"] for rule in ALERTS}
    assert {name for name, fires in tested if fires} == names
    assert {name for name, fires in tested if not fires} == names


def test_series_that_the_rules_are_tested_with_are_those_of_a_real_run(recorded: Series) -> None:
    cases = yaml.safe_load(RULES_TEST.read_text())["tests"]
    given = [one["series"] for case in cases for one in case["input_series"]]
    for series in given:
        name, _, rest = series.partition("{")
        if name == "up" or name.startswith("otelcol_"):
            continue
        labels = {label for label in re.findall(r"(\w+)=", rest) if label != "role"}  # Prometheus adds the role
        assert any(labels <= {label for label, _ in found} for found in recorded[name]), series


def test_every_alert_has_a_severity_and_words_and_its_page_tells_what_to_do() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert f"`{rule['alert']}`" in page


def test_every_alert_can_be_asked_of_a_real_prometheus(watched: Prometheus) -> None:
    for rule in ALERTS:
        watched.query(rule["expr"])
    eventually(lambda: watched.query('ALERTS{alertname="MotetDeadLetters"}'), "the dead letter rings")
    firing = {labels["alertname"] for labels, _ in watched.query("ALERTS")}
    assert not firing & {"MotetAgentDown", "MotetNoOrchestrator", "MotetHumanWaitOverSla"}


@pytest.mark.parametrize(("panel", "expression"), QUERIES)
def test_every_dashboard_query_returns_what_the_run_produced(panel: str, expression: str, watched: Prometheus) -> None:
    for variable, value in (("$__rate_interval", "1m"), ("$__range", "1m"), ("$capability", ".*")):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    found = watched.query(expression)
    assert found, expression
    assert panel in _NOTHING_YET or any(value > 0 for _, value in found if not math.isnan(value)), (expression, found)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_has_the_form_that_grafana_reads(name: str) -> None:
    board = DASHBOARDS[name]
    assert board["uid"] == f"motet-{name}"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "panels must not lie on each other"
    assert all(x < 24 for x, _ in cells)
    for target in (target for panel in panels for target in panel.get("targets", ())):
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    variables = {one["name"] for one in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(panels)))
    assert used <= variables


def test_dashboards_and_alerts_know_every_metric_of_the_names_module() -> None:
    text = " ".join(expression for _, expression in QUERIES) + " ".join(rule["expr"] for rule in ALERTS)
    asked = set(re.findall(r"\b(?:motet|messaging|gen_ai)_[a-z_]+", re.sub(r'"[^"]*"', "", text)))
    labels = {label.replace(".", "_") for one in INSTRUMENTS for label in one.labels}
    samples = {one.name: prometheus_names(one) for one in INSTRUMENTS}
    known = {family + suffix for family, _ in samples.values() for suffix in ("", "_total", "_bucket", "_count")}
    assert asked - known - labels == set()
    assert [name for name, (family, _) in samples.items() if family not in text] == []


def test_compose_wires_prometheus_grafana_and_the_collector_together() -> None:
    services = COMPOSE["services"]
    monitoring = {name for name, service in services.items() if "monitoring" in service.get("profiles", ())}
    assert monitoring == {"otel-collector", "prometheus", "grafana"}
    mounted = [volume for name in monitoring for volume in services[name]["volumes"] if volume.startswith("./")]
    assert len(mounted) == 6
    assert all((ROOT / volume.split(":")[0]).exists() and volume.endswith(":ro") for volume in mounted)
    jobs = {job["job_name"]: job for job in SCRAPED["scrape_configs"]}
    [found] = jobs["motet"]["dns_sd_configs"]
    assert sorted(found["names"]) == sorted(name for name in services if services[name]["image"].startswith("motet:"))
    for name in found["names"]:
        assert services[name]["environment"]["MOTET_METRICS_PORT"] == str(found["port"])
    [target] = jobs["otel-collector"]["static_configs"][0]["targets"]
    [reader] = COLLECTOR["service"]["telemetry"]["metrics"]["readers"]
    assert target == f"otel-collector:{reader['pull']['exporter']['prometheus']['port']}"


def test_collector_uses_every_component_that_it_defines_and_no_other() -> None:
    """Only the form: no collector can be run here."""
    kinds = ("receivers", "processors", "exporters")
    pipelines = COLLECTOR["service"]["pipelines"].values()
    assert set(COLLECTOR) == {*kinds, "extensions", "service"}
    for kind in kinds:
        assert set(COLLECTOR[kind]) == {name for pipeline in pipelines for name in pipeline[kind]}
    assert set(COLLECTOR["extensions"]) == set(COLLECTOR["service"]["extensions"])
    assert all(pipeline["processors"][0] == "memory_limiter" for pipeline in pipelines)
    assert set(COLLECTOR["receivers"]["otlp"]["protocols"]) == {"grpc", "http"}
    assert COLLECTOR["exporters"]["otlp/jaeger"]["endpoint"] == "jaeger:4317"
