"""What operators are given fits the server: the dashboard and the page know its metrics and options, the manifest is consistent in itself."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cutaway.cli.serve import serve
from cutaway.service.jobs import State
from cutaway.service.telemetry import Telemetry

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "usage/deploy.md").read_text("utf-8")
METRIC = re.compile(r"\b(?:cutaway|process)_\w+")


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """Each sample's name, and its labels."""
    telemetry = Telemetry()
    telemetry.job("graph", State.DONE, 0.1, 0.1)
    telemetry.batch(2)
    telemetry.loaded("gpt2", 1.0)
    telemetry.evicted("gpt2")
    telemetry.request("/v1/jobs", 200, 0.1)
    telemetry.sent(1)
    telemetry.watch(dict, lambda: {"gpt2": 1})
    families = text_string_to_metric_families(telemetry.text().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def expressions() -> list[tuple[str, str]]:
    """Each expression of the dashboard, and the legend of its lines."""
    dashboard = json.loads((DOCS / "deploy/grafana.json").read_text("utf-8"))
    return [(target["expr"], target["legendFormat"]) for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_what_there_is(metrics: dict[str, set[str]]) -> None:
    for expression, legend in expressions():
        named = METRIC.findall(expression)
        assert named and set(named) <= metrics.keys(), expression
        known = {"instance", *(label for name in named for label in metrics[name])}
        used = re.findall(r"by \(([^)]*)\)", expression) + re.findall(r"\{\{(\w+)\}\}", legend)
        assert {label.strip() for one in used for label in one.split(",")} <= known, expression
        assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}"), expression


def test_the_dashboard_shows_all_of_them(metrics: dict[str, set[str]]) -> None:
    shown = {name for expression, _ in expressions() for name in METRIC.findall(expression)}
    families = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in shown}
    ours = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in metrics if name.startswith("cutaway_")}
    assert ours <= families and len({panel["id"] for panel in panels()}) == len(panels())
    places = [tuple(panel["gridPos"].values()) for panel in panels()]
    assert len(set(places)) == len(places)


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DOCS / "deploy/grafana.json").read_text("utf-8"))["panels"]
    return found


def test_the_page_names_all_metrics(metrics: dict[str, set[str]]) -> None:
    told = set(re.findall(r"cutaway_\w+", PAGE))
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in metrics if name.startswith("cutaway_")}
    assert {name for name in families if not name.endswith("_total")} <= {name.removesuffix("_total") for name in told}
    assert {name for name in told if name.startswith(tuple(families))} == told
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        assert yaml.safe_load(block)


def test_commands_have_options_that_exist() -> None:
    """Of `cutaway serve`, on the page and in the manifest."""
    command = "\n".join([PAGE, (DOCS / "deploy/kuberay.yaml").read_text("utf-8").replace("\\\n", " ")])
    known = {option for parameter in serve.params if isinstance(parameter, click.Option) for option in parameter.opts}
    lines = re.findall(r"cutaway serve ([^`|\n]+)", command)
    assert len(lines) >= 7
    for line in lines:
        assert {word for word in shlex.split(line) if word.startswith("--")} <= known, line


def test_the_manifest() -> None:
    found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all((DOCS / "deploy/kuberay.yaml").read_text("utf-8"))}
    ray, server = found["RayCluster", "cutaway"]["spec"], found["StatefulSet", "cutaway-server"]["spec"]
    assert ray["authOptions"] == {"mode": "token"} and ray["headGroupSpec"]["serviceType"] == "ClusterIP"
    groups = [ray["headGroupSpec"], *ray["workerGroupSpecs"]]
    (container,) = server["template"]["spec"]["containers"]
    assert {one["image"] for group in groups for one in group["template"]["spec"]["containers"]} == {container["image"]}
    assert not any("ports" in one for group in groups for one in group["template"]["spec"]["containers"])
    names = {one["name"]: one for one in container["env"]}
    assert names["RAY_AUTH_MODE"]["value"] == "token" and names["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "cutaway"
    volumes = {one["name"] for one in server["template"]["spec"]["volumes"]} | {
        one["metadata"]["name"] for one in server["volumeClaimTemplates"]
    }
    assert {one["name"] for one in container["volumeMounts"]} == volumes
    assert {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")} == {"/livez", "/readyz"}
    labels = server["template"]["metadata"]["labels"]
    assert found["Service", "cutaway"]["spec"]["selector"] == labels
    private = found["NetworkPolicy", "cutaway-ray"]["spec"]
    assert [one["podSelector"]["matchLabels"] for one in private["ingress"][0]["from"]] == [{"ray.io/cluster": "cutaway"}, labels]
