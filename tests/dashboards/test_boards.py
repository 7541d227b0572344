"""The dashboards: fresh, valid for Grafana, complete, and made of expressions that Prometheus parses."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from chatterbox_engine.metrics import SPECIFICATION
from dashboards.__main__ import GENERATED, main
from dashboards.boards import BOARDS, render

_EXPORTED = re.compile(r"ray_chatterbox_\w+")


def panels(name: str | None = None) -> list[dict[str, Any]]:
    """Of one dashboard, or of all."""
    boards = BOARDS if name is None else [name]
    return [panel for own in boards for panel in json.loads(render(own))["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_committed_json_is_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.__main__.GENERATED", tmp_path / "generated")
    monkeypatch.setattr("dashboards.__main__.RULES_YAML", tmp_path / "rules.yaml")
    assert main(["generate"]) == 0
    assert {path.name for path in GENERATED.iterdir()} == {f"{name}.json" for name in BOARDS}
    for path in GENERATED.iterdir():
        assert (tmp_path / "generated" / path.name).read_text() == path.read_text(), (
            "run `python -m dashboards generate`"
        )


@pytest.mark.parametrize("name", BOARDS)
def test_grid(name: str) -> None:
    everything = json.loads(render(name))["panels"]
    assert [p["id"] for p in everything] == list(range(1, len(everything) + 1))
    cells = [
        (x, y)
        for p in everything
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))


def test_every_metric_is_shown_or_named_as_raw_and_every_name_is_specified() -> None:
    shown = {re.sub("_bucket$", "", name) for expr in expressions() for name in _EXPORTED.findall(expr)}
    assert shown == {metric.exported for metric in SPECIFICATION if not metric.raw}


def test_units_and_help_are_the_specifications() -> None:
    for panel in panels():
        metrics = [m for m in SPECIFICATION if any(re.search(rf"{m.exported}\b|{m.exported}_bucket", t["expr"])
                                                   for t in panel["targets"])]  # fmt: skip
        assert metrics
        assert all(metric.help in panel["description"] for metric in metrics)
        if all(metric.kind != "counter" for metric in metrics):
            assert {panel["fieldConfig"]["defaults"]["unit"]} == {metric.unit for metric in metrics}


@pytest.mark.parametrize("name", BOARDS)
def test_the_data_source_is_a_variable(name: str) -> None:
    dashboard = json.loads(render(name))
    (variable,) = dashboard["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    wanted = "${" + variable["name"] + "}"
    assert {p["datasource"]["uid"] for p in panels(name)} == {wanted}
    assert {t["datasource"]["uid"] for p in panels(name) for t in p["targets"]} == {wanted}


@pytest.fixture(scope="module")
def schemas(shared_data: Path) -> dict[str, Any]:
    folder = shared_data / "grafana-11.6"
    if not folder.is_dir():
        pytest.skip("Grafana's schemas are not in ../shared/data/grafana-11.6")
    return {path.name.split(".")[0]: json.loads(path.read_text()) for path in folder.glob("*.schema.json")}


@pytest.mark.parametrize("name", BOARDS)
def test_valid_for_grafana(schemas: dict[str, Any], name: str) -> None:
    jsonschema.validate(json.loads(render(name)), schemas["dashboard"])
    for panel in panels(name):
        schema = schemas[panel["type"]]
        for part, value in (
            ("Options", panel.get("options")),
            ("FieldConfig", panel["fieldConfig"]["defaults"].get("custom")),
        ):
            if value is not None:
                jsonschema.validate(value, {**schema, "$ref": f"#/definitions/{part}"})
        for target in panel["targets"]:
            jsonschema.validate(target, schemas["prometheus"])


def test_the_schema_check_bites(schemas: dict[str, Any]) -> None:
    dashboard = json.loads(render("overview"))
    dashboard["panels"][1]["gridPos"]["w"] = "wide"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(dashboard, schemas["dashboard"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_parses_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "1m")}
        for number, expr in enumerate(expressions())
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # YAML contains JSON
    check = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60)
    assert check.returncode == 0, check.stdout + check.stderr
    assert f"{len(rules)} rules found" in check.stdout
