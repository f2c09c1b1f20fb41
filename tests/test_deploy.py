"""The files in ``deploy/``, which the guides show."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import services
from tests.test_docs import DOCS, ROOT, VERBS

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
UNITS = sorted((DEPLOY / "systemd").iterdir())
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = DEPLOY / "docker" / "compose.yaml"
ENDING = 10  # seconds that a worker may take after --exit-wait


def test_every_file_is_shown_in_a_guide() -> None:
    shown = {
        (page.parent / path).resolve()
        for page in DOCS.glob("*.md")
        for path in re.findall(r"\{literalinclude\} (\S+)", page.read_text())
    }
    assert sorted(shown) == FILES


# Commands


def commands(path: Path) -> Iterator[list[str]]:
    """The arguments of ``queued_storage`` in a file, as words."""
    for line in path.read_text().splitlines():
        _before, found, arguments = line.partition("manage.py")
        words = re.sub(r'[],"[]', " ", arguments).split()
        if found and words[:1] == ["queued_storage"]:
            yield words[1:]


def test_the_commands_are_accepted() -> None:
    found = [arguments for path in FILES for arguments in commands(path)]
    assert len(found) >= 5
    for verb, *arguments in found:
        VERBS[verb].parse_args(arguments)


def exit_wait(path: Path) -> float:
    """The longest time that a worker of this file may take to exit, without its end."""
    found: list[argparse.Namespace] = [
        VERBS["worker"].parse_args(arguments) for [_verb, *arguments] in commands(path)
    ]
    return max(each.exit_wait for each in found)


# systemd


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    services.require("systemd")
    for path in UNITS:  # a timer needs its service; the programs must exist
        text = re.sub(r"/srv/site/.venv/bin/\w+", sys.executable, path.read_text())
        (tmp_path / path.name).write_text(text)
    command = [str(services.SYSTEMD), "verify", "--man=no", str(tmp_path / unit.name)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (found.stdout + found.stderr, found.returncode) == ("", 0)


def test_systemd_waits_for_the_worker() -> None:
    path = DEPLOY / "systemd" / "queued-storage-worker.service"
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", path.read_text(), re.M)
    assert int(seconds) >= exit_wait(path) + ENDING


# Docker


def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())


def test_docker_accepts_the_compose_file() -> None:
    if not (program := compose_program()):
        pytest.skip("no 'docker compose': apt install docker-compose")
    names = ("POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    command = [*program, "--file", str(COMPOSE), "config", "--quiet"]
    found = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env=dict.fromkeys(names, "x") | {"PATH": os.environ["PATH"]},
    )
    assert (found.stderr, found.returncode) == ("", 0)


def compose_program() -> list[str]:
    """Docker's plugin, or else the program that came before it, which needs no Docker for this."""
    plugin = ["docker", "compose"]
    if shutil.which("docker"):
        version = subprocess.run([*plugin, "version"], capture_output=True, timeout=60)
        if not version.returncode:
            return plugin
    return ["docker-compose"] if shutil.which("docker-compose") else []


def test_the_services_of_compose_share_the_files() -> None:
    found = compose()
    mounts = {name: each.get("volumes") for name, each in found["services"].items()}
    assert mounts["site"] == mounts["worker"] == ["media:/srv/media"]
    assert {each.partition(":")[0] for some in mounts.values() for each in some or []} == set(
        found["volumes"]
    )
    grace = found["services"]["worker"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= exit_wait(COMPOSE) + ENDING


def test_the_image_gets_signals_itself() -> None:
    lines = (DEPLOY / "docker" / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("CMD")] == [lines[-1]]
    assert lines[-1].startswith('CMD ["')


# Kubernetes


def pods(path: Path) -> Iterator[dict[str, Any]]:
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] in ("Deployment", "StatefulSet"):
            assert set(document["spec"]["selector"]["matchLabels"].items()) <= set(
                document["spec"]["template"]["metadata"]["labels"].items()
            )
            claims = document["spec"].get("volumeClaimTemplates", [])
            yield document["spec"]["template"]["spec"] | {"claims": claims}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_pods_have_the_volumes_that_they_mount(path: Path) -> None:
    for pod in pods(path):
        known = {volume["name"] for volume in pod.get("volumes", [])}
        known |= {claim["metadata"]["name"] for claim in pod["claims"]}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert {mount["name"] for mount in container["volumeMounts"]} == known == {"media"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_pods_have_time_to_drain(path: Path) -> None:
    workers = 0
    for pod in pods(path):
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            hook = str(container.get("lifecycle", ""))
            before = sum(map(int, re.findall(r"(?:sleep|timeout)\W+(\d+)", hook)))
            is_worker = "worker" in container.get("command", [])
            workers += is_worker
            after = exit_wait(path) + ENDING if is_worker else 30  # graceful_timeout of gunicorn
            assert pod["terminationGracePeriodSeconds"] >= before + after
    assert workers == 1


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_reads_the_pods(path: Path, tmp_path: Path) -> None:
    """kubectl reads them into its own types, which it does without a cluster only here."""
    if not shutil.which("kubectl"):
        pytest.skip("no 'kubectl' program")
    documents = [
        each for each in yaml.safe_load_all(path.read_text()) if "template" in each["spec"]
    ]
    (tmp_path / "pods.yaml").write_text(yaml.safe_dump_all(documents))
    command = ["kubectl", "set", "env", "--local", "-f", str(tmp_path / "pods.yaml"), "A=b"]
    found = subprocess.run([*command, "-o", "name"], capture_output=True, text=True, timeout=60)
    names = [f"{each['kind'].lower()}.apps/{each['metadata']['name']}" for each in documents]
    assert (found.stdout.split(), found.returncode) == (names, 0), found.stderr
