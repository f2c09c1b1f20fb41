"""The hosted workflow runs what exists, and what the package claims to support."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.services import URLS

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]
MATRIX: list[dict[str, Any]] = JOBS["sqlite"]["strategy"]["matrix"]["include"]
REQUIRED = [entry for entry in MATRIX if "may-fail" not in entry]


def classified(name: str) -> list[str]:
    """The versions in the classifiers, such as "3.11"."""
    prefix = re.escape(name)
    found = [re.fullmatch(rf"{prefix} :: (\d+\.\d+)", each) for each in classifiers()]
    return [match[1] for match in found if match]


def classifiers() -> list[str]:
    return list(PROJECT["project"]["classifiers"])


def django(version: str) -> str:
    return f"django{version.replace('.', '')}"


def commands(job: str) -> list[list[str]]:
    """The words of each make command of a job."""
    run = [re.sub(r"\$\{\{ (.*?) \}\}", r"\1", step.get("run", "")) for step in JOBS[job]["steps"]]
    return [command.split()[1:] for command in run if command.startswith("make ")]


def variables(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_pythons_are_those_of_the_classifiers() -> None:
    assert sorted({entry["python"] for entry in REQUIRED}) == sorted(
        classified("Programming Language :: Python")
    )


def test_djangos_are_those_of_the_classifiers() -> None:
    claimed = [django(version) for version in classified("Framework :: Django")]
    assert list(dict.fromkeys(entry["django"] for entry in REQUIRED)) == claimed


def test_pairs_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs" / "versions.md").read_text()
    rows = re.findall(r"^\| (\d\.\d) \| ([\d., ]+) \|$", text, re.M)
    documented = {(python, django(each)) for each, row in rows for python in row.split(", ")}
    assert documented == {(entry["python"], entry["django"]) for entry in REQUIRED}


def test_what_may_fail() -> None:
    others = [(entry["python"], entry["django"]) for entry in MATRIX if entry not in REQUIRED]
    assert others == [("3.14t", "django61"), ("3.14", "djangomain")]
    assert JOBS["sqlite"]["continue-on-error"] == "${{ matrix.may-fail || false }}"
    assert not any("continue-on-error" in job for name, job in JOBS.items() if name != "sqlite")


def test_readme_names_the_versions() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    pythons, djangos = (
        classified("Programming Language :: Python"),
        classified("Framework :: Django"),
    )
    assert f"with Python {pythons[0]} to {pythons[-1]}" in readme
    assert f"with Django {', '.join(djangos[:-1])} and {djangos[-1]}" in readme


@pytest.mark.parametrize("job", JOBS)
def test_make_targets_exist(job: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
    assert commands(job)
    for words in commands(job):
        chosen = [word for word in words if "=" not in word]
        assert chosen
        assert set(chosen) <= targets


@pytest.mark.parametrize("job", JOBS)
def test_make_variables_exist(job: str) -> None:
    for words in commands(job):
        for name in variables(words):
            assert f"$({name})" in MAKEFILE, name


def test_each_check_is_run() -> None:
    """Those of ``make test``, which .ci/run calls."""
    [checks] = re.findall(r"^test: (.*)$", MAKEFILE, re.M)
    run = {word for job in JOBS for words in commands(job) for word in words}
    assert set(checks.split()) <= run


@pytest.mark.parametrize("version", [*classified("Framework :: Django"), "main"])
def test_a_django_can_be_installed(version: str) -> None:
    assert django(version) in PROJECT["dependency-groups"]
    if version != "main":  # its other packages are those of the newest release
        lines = (ROOT / "constraints" / f"{django(version)}.txt").read_text().splitlines()
        [pinned] = [line for line in lines if line.startswith("Django==")]
        assert pinned.startswith(f"Django=={version}")


@pytest.mark.parametrize("job", ["sqlite", "postgres", "mariadb", "mysql"])
def test_tests_have_their_services(job: str) -> None:
    [words] = commands(job)
    services = JOBS[job]["services"]
    databases = variables(words)["DATABASES"].split()
    assert databases == ["mariadb" if job == "mysql" else job]
    assert {"redis", "rabbitmq", *({job} - {"sqlite"})} == set(services)
    for name, service in services.items():
        [port] = service["ports"]
        url = URLS["mariadb" if name == "mysql" else name]
        assert port == f"{port.split(':')[0]}:{port.split(':')[0]}"
        assert f":{port.split(':')[0]}" in url
        assert "--health-cmd" in service["options"]


def test_missing_services_are_failures() -> None:
    assert WORKFLOW["env"]["QUEUED_STORAGE_TEST_REQUIRE_SERVICES"] == "1"
