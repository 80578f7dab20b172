"""The files of deploy/: they name variables and commands that exist, and hold no secrets.

What a registry, a cluster or a Docker daemon would say is not tried here (docs/deploy.md).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef

from embeddings_pipeline.encoders.openai.encoder import request_options
from embeddings_pipeline.settings import Settings
from tests.support import CHECKOUT
from tests.support.environment import VARIABLES

DEPLOY = CHECKOUT / "deploy"
BIN = Path(sys.executable).parent
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNITS = sorted((DEPLOY / "systemd").iterdir())
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SEARCH: list[dict[str, Any]] = list(
    yaml.safe_load_all((DEPLOY / "kubernetes" / "search.yaml").read_text())
)
MODEL: list[dict[str, Any]] = list(
    yaml.safe_load_all((DEPLOY / "kubernetes" / "model.yaml").read_text())
)
CHART: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / "dagster-values.yaml").read_text())
OURS = ("code", "webserver", "daemon", "search")

# variables that others read, and who
OTHERS = {
    "HF_HUB_OFFLINE": "huggingface_hub",
    "HOME": "the system",
    "NVIDIA_DRIVER_CAPABILITIES": "NVIDIA's container toolkit",
    "NVIDIA_VISIBLE_DEVICES": "NVIDIA's container toolkit",
    "OMP_NUM_THREADS": "torch",
    "PATH": "the system",
    "PYTHONUNBUFFERED": "Python",
}


def kind(name: str, manifests: Sequence[dict[str, Any]] = SEARCH) -> dict[str, Any]:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == name)
    return found


def search_container() -> dict[str, Any]:
    (container,) = kind("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def code_location() -> dict[str, Any]:
    (deployment,) = CHART["dagster-user-deployments"]["deployments"]
    return dict(deployment)


def instructions() -> Iterator[tuple[str, str]]:
    """The instructions of the Dockerfile, without comments and line breaks."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def variables() -> Iterator[tuple[str, str]]:
    """Each variable that deploy/ sets for our processes, and where."""
    for word, rest in instructions():
        if word == "ENV":
            yield from ((pair.partition("=")[0], "Dockerfile") for pair in shlex.split(rest))
    for service in OURS:
        yield from ((name, service) for name in COMPOSE["services"][service]["environment"])
    yield from ((name, "ConfigMap") for name in kind("ConfigMap")["data"])
    yield from ((entry["name"], "Deployment") for entry in search_container()["env"])
    yield from ((entry["name"], "dagster-values.yaml") for entry in code_location()["env"])
    for unit in UNITS:
        for pair in re.findall(r"^Environment=(.+)$", unit.read_text(), re.MULTILINE):
            yield pair.partition("=")[0], unit.name


def commands() -> Iterator[tuple[str, ...]]:
    """Each command of deploy/ that runs one of our programs."""
    for word, rest in instructions():
        if word in ("CMD", "HEALTHCHECK"):
            yield tuple(json.loads(rest[rest.index("[") :]))
    for name in OURS:
        service = COMPOSE["services"][name]
        if "command" in service:
            yield tuple(service["command"])
        if "healthcheck" in service:
            yield tuple(service["healthcheck"]["test"][1:])
    for unit in UNITS:
        for line in re.findall(r"^ExecStart=/opt/embeddings/bin/(.+)$", unit.read_text(), re.M):
            yield tuple(shlex.split(line))
    # as the chart's template does
    yield ("dagster", "code-server", "start", *code_location()["codeServerArgs"])


def test_every_variable_is_a_setting() -> None:
    known = VARIABLES | set(OTHERS)
    assert {name: where for name, where in variables() if name not in known} == {}
    assert set(OTHERS) <= {name for name, _ in variables()}


@pytest.mark.parametrize("command", sorted(set(commands())), ids=" ".join)
def test_every_command_exists_and_takes_its_options(command: tuple[str, ...]) -> None:
    program, *arguments = command
    if program == "python":
        option, code = arguments
        assert option == "-c"
        compile(code, "<healthcheck>", "exec")
        return
    # --help is obeyed after the other options were parsed
    done = subprocess.run([BIN / program, *arguments, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    flags = {argument for argument in arguments if argument.startswith("-")}
    assert all(flag in done.stdout for flag in flags)


def test_the_extras_of_the_images_are_declared() -> None:
    declared = (CHECKOUT / "pyproject.toml").read_text()
    for extras in re.findall(r"^ARG \w+_EXTRAS=(.+)$", DOCKERFILE, re.MULTILINE):
        assert all(re.search(rf"^{extra} = \[", declared, re.M) for extra in extras.split(","))


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            for path in rest.split()[:-1]:
                assert (CHECKOUT / path).exists()
                assert f"!{path}" in ignored


def test_there_are_no_secrets() -> None:
    named = r"(?:PASSWORD|_KEYS?|TOKEN)\b[\"']?[ \t]*[=:][ \t]*[\"']?"
    secrets = re.compile(rf"{named}([^\s\"'}},]+)|://\w*:([^\s\"'@]+)@")
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            for found in secrets.finditer(path.read_text()):
                # a variable, or the word in an example
                value = found[1] or found[2]
                assert value.startswith("${") or value == "password", f"{path.name}: {found[0]}"
    assert "Secret" not in {manifest["kind"] for manifest in SEARCH}


def test_our_containers_have_no_rights_and_a_read_only_root() -> None:
    (user,) = {rest for word, rest in instructions() if word == "USER"}
    for service in OURS:
        made = COMPOSE["services"][service]
        assert (made["read_only"], made["cap_drop"], made["tmpfs"]) == (True, ["ALL"], ["/tmp"])
    pod = kind("Deployment")["spec"]["template"]["spec"]
    model = kind("Deployment", MODEL)["spec"]["template"]["spec"]
    code, runs = code_location(), CHART["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    for place, container in (
        (pod["securityContext"], search_container()["securityContext"]),
        (code["podSecurityContext"], code["securityContext"]),
        (runs["podSpecConfig"]["securityContext"], runs["containerConfig"]["securityContext"]),
        (model["securityContext"], model["containers"][0]["securityContext"]),
    ):
        assert place["runAsNonRoot"]
        assert f"{place['runAsUser']}:{place['runAsGroup']}" == user
        assert container["readOnlyRootFilesystem"]
        assert container["allowPrivilegeEscalation"] is False
        assert container["capabilities"] == {"drop": ["ALL"]}


def test_runs_in_kubernetes_keep_their_resources() -> None:
    # the chart would give those of the code location to its runs
    assert "resources" not in code_location()
    runs = CHART["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]["containerConfig"]
    assert runs["resources"]["limits"]


def test_what_compose_names_is_declared_in_it() -> None:
    assert set(OURS) <= set(COMPOSE["services"])
    for service in COMPOSE["services"].values():
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in COMPOSE["volumes"]
        for host in (service.get("environment") or {}).values():
            assert not re.match(r"[a-z]+$", host) or host in {*COMPOSE["services"], "embeddings"}
        # everything that people reach, they reach through a proxy of this machine
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    example = (DEPLOY / "compose.env.example").read_text()
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert asked == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_every_part_of_the_search_service_selects_its_pods() -> None:
    labels = kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert kind("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert kind("Service")["spec"]["selector"] == labels
    assert kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    target = kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == kind("Deployment")["metadata"]["name"]
    # a Deployment with `replicas` would undo the autoscaler at each apply
    assert "replicas" not in kind("Deployment")["spec"]


def test_the_model_is_where_the_page_says_and_takes_our_requests() -> None:
    deployment, service = kind("Deployment", MODEL), kind("Service", MODEL)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert kind("NetworkPolicy", MODEL)["spec"]["podSelector"]["matchLabels"] == labels
    page = (CHECKOUT / "docs" / "deploy.md").read_text()
    assert f"OPENAI_BASE_URL=http://{service['metadata']['name']}/v1" in page
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    given = dict(argument.removeprefix("--").split("=") for argument in container["args"])
    assert int(given["port"]) == container["ports"][0]["containerPort"]
    assert f"model: openai:{given['model-id']}" in page
    assert int(given["max-client-batch-size"]) == request_options(Settings()).batch_texts


def test_a_stop_takes_no_longer_than_it_is_given() -> None:
    from embeddings_pipeline.service import server

    pod = kind("Deployment")["spec"]["template"]["spec"]
    _, before = search_container()["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(before) + server.GRACE_SECONDS
    assert COMPOSE["services"]["search"]["stop_grace_period"] == "40s"
    assert "TimeoutStopSec=40\n" in (DEPLOY / "systemd" / "embeddings-search.service").read_text()
    assert server.GRACE_SECONDS < 40


def test_manifests_of_kubernetes_fit_its_schemas() -> None:
    for manifest in (*SEARCH, *MODEL):
        kubernetes_validate.validate(manifest, "1.32", strict=True)


@pytest.mark.parametrize("place", ["compose", "chart"])
def test_dagster_reads_its_instance(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql+psycopg2://nobody@localhost/none")
    written = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    config = written if place == "compose" else CHART["additionalInstanceConfig"]
    text = yaml.safe_dump(config)
    # the folder that is writable there
    text = text.replace("/var/lib/embeddings", str(tmp_path / "writable"))
    (tmp_path / "dagster.yaml").write_text(text)
    instance = InstanceRef.from_dir(str(tmp_path))
    assert instance.settings["concurrency"] == config["concurrency"]
    assert instance.local_artifact_storage.base_dir == str(tmp_path / "writable" / "dagster")
    assert instance.compute_log_manager
    own = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    assert config["concurrency"] == own["concurrency"]


def test_a_run_that_was_killed_is_started_again_wherever_it_runs() -> None:
    own = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    compose = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    daemon = CHART["dagsterDaemon"]
    for part in ("run_monitoring", "run_retries"):
        assert compose[part] == own[part]
    assert daemon["runMonitoring"]["enabled"]
    assert daemon["runRetries"]["maxRetries"] == own["run_retries"]["max_retries"]


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    for unit in UNITS:
        text = unit.read_text().replace("/opt/embeddings/bin", str(BIN))
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (done.returncode, done.stderr) == (0, "")
