"""The dashboard and the alert rules in the docs."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
pytest.importorskip("prometheus_client")

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

FILES = Path(__file__).parent.parent / "docs" / "_static"
ALERTS = FILES / "queued-storage-alerts.yml"
DASHBOARD = json.loads((FILES / "queued-storage-dashboard.json").read_text())
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]


def exported() -> dict[str, set[str]]:
    """Return the labels of each sample that a scrape can contain, by name."""
    from prometheus_client import CollectorRegistry

    from queued_storage import metrics

    counters = CollectorRegistry()
    metrics.Counters(counters).expect("default")
    found: dict[str, set[str]] = {}
    for family in counters.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    for name, (_text, labels) in metrics.GAUGES.items():
        found[f"queued_storage_{name}"] = set(labels)
    return found


def queries(panel: dict[str, Any]) -> Iterator[str]:
    for target in panel["targets"]:
        yield target["expr"]


EXPRESSIONS = [expr for panel in DASHBOARD["panels"] for expr in queries(panel)]
EXPRESSIONS += [rule["expr"] for rule in RULES]
SELECTOR = re.compile(r"\b(queued_storage_\w+)(?:\{(.*?)\})?")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_queried_metrics_and_labels_are_exported(expression: str) -> None:
    known = exported()
    found = SELECTOR.findall(expression)
    assert found
    for name, selector in found:
        assert name in known, name
        assert set(re.findall(r"(\w+)(?:=|!=|=~)\"", selector)) <= known[name]
    labels = set().union(*(known[name] for name, _selector in found)) | {"job", "instance"}
    for group in re.findall(r"\bby \((.*?)\)", expression):
        assert set(group.split(", ")) <= labels


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for expr in EXPRESSIONS for name, _selector in SELECTOR.findall(expr)}
    assert {re.sub("_bucket$", "", name) for name in shown} >= {
        name for name in exported() if not re.search("_(created|sum|count|bucket)$", name)
    }


def test_gauges_are_not_summed() -> None:
    """Each process exports the same values."""
    for expression in EXPRESSIONS:
        for name in re.findall(r"sum(?: by \([^()]*\) )?\((queued_storage_\w+)", expression):
            assert name.endswith("_total")


def test_counters_are_queried_as_rates() -> None:
    for expression in EXPRESSIONS:
        for before, _name in re.findall(
            r"(\w+\()?(queued_storage_\w+_(?:total|bucket))", expression
        ):
            assert before == "rate("


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_dashboard_has_a_data_source_variable() -> None:
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "storage"]


def test_every_alert_has_a_description() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["for"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def test_every_alert_is_tested() -> None:
    tested = (Path(__file__).parent / "support" / "alerts_test.yml").read_text()
    assert [rule["alert"] for rule in RULES if rule["alert"] not in tested] == []


# The files as Prometheus reads them


@pytest.fixture
def promtool(tmp_path: Path) -> Any:
    """Run promtool in a directory with a copy of the rules."""
    path = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if not path:
        pytest.skip("promtool is not installed")
    shutil.copy(ALERTS, tmp_path)

    def run(*arguments: str) -> None:
        answer = subprocess.run(
            [path, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr

    return run


def test_rules_are_valid(promtool: Any) -> None:
    promtool("check", "rules", ALERTS.name)


def test_alerts_fire_only_when_they_should(promtool: Any, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "support" / "alerts_test.yml", tmp_path)
    promtool("test", "rules", "alerts_test.yml")


def test_dashboard_queries_are_valid(promtool: Any, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(EXPRESSIONS)
    ]
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "p", "rules": rules}]}))
    promtool("check", "rules", "panels.yml")
