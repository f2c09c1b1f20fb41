"""Several ledgers that have one place on a remote, such as those of a staging site."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import Storage
from django.utils.module_loading import import_string

from queued_storage.ledger.names import WRITER_NAME

pytestmark = pytest.mark.one_lane

ROOT = Path(__file__).parents[2]
FILES = "django.core.files.storage.FileSystemStorage"
S3 = "storages.backends.s3.S3Storage"


class Remote:
    """A remote that several sites have, as this process sees it."""

    def __init__(self, backend: str, options: dict[str, Any]) -> None:
        self.parameters = {"BACKEND": backend, "OPTIONS": options}
        self.storage: Storage = import_string(backend)(**options)

    def read(self, name: str) -> bytes:
        with self.storage.open(name) as file:
            return bytes(file.read())

    @property
    def marker(self) -> dict[str, Any]:
        return dict(json.loads(self.read(WRITER_NAME)))

    @property
    def names(self) -> set[str]:
        return set(self.storage.listdir("")[1])


@pytest.fixture(params=["directory", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    if request.param == "s3":
        options = dict(request.getfixturevalue("s3_options"), addressing_style="path")
        del options["client_config"]  # which cannot be given to another process
        yield Remote(S3, options)
    else:
        yield Remote(FILES, {"location": str(tmp_path / "bucket")})


Site = Callable[..., Any]


def start(remote: Remote, path: Path, deployment: str, *commands: str) -> subprocess.Popen[str]:
    arguments = [str(path), json.dumps(remote.parameters), deployment, *commands]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.site", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def site(remote: Remote, tmp_path: Path) -> Site:
    """Run commands on a site in a process of its own; return their results."""

    def run(name: str, *commands: str, deployment: str | None = None) -> Any:
        process = start(
            remote, tmp_path / name, name if deployment is None else deployment, *commands
        )
        out, _errors = process.communicate(timeout=60)
        return json.loads(out) if process.returncode == 0 else process.returncode

    return run


def copy_of(tmp_path: Path, name: str) -> None:
    """Make a site from a copy of production's database and local files."""
    shutil.copytree(tmp_path / "production", tmp_path / name)


def test_staging_leaves_files_of_production(site: Site, remote: Remote, tmp_path: Path) -> None:
    site("production", "save:a.pdf:old", "save:b.pdf:1", "drain", "delete:a.pdf")
    copy_of(tmp_path, "staging")
    site("production", "drain", "save:a.pdf:NEW CONTRACT", "drain")
    results = site("staging", "drain", "delete:b.pdf", "drain", "troubles")
    assert results[0] == results[2] == ["OtherWriter"]
    assert any("another writer" in each for each in results[3])
    assert remote.read("a.pdf") == b"NEW CONTRACT"
    assert remote.read("b.pdf") == b"1"


def test_staging_overwrites_nothing_of_production(
    site: Site, remote: Remote, tmp_path: Path
) -> None:
    site("production", "save:a.pdf:production", "drain")
    copy_of(tmp_path, "staging")
    assert site("staging", "overwrite:a.pdf:staging", "drain") == [None, ["OtherWriter"]]
    assert remote.read("a.pdf") == b"production"


def test_staging_uploads_new_files(site: Site, remote: Remote, tmp_path: Path) -> None:
    site("production", "save:a.pdf:production", "drain")
    copy_of(tmp_path, "staging")
    site("production", "save:new.pdf:production", "drain")
    assert site("staging", "save:new.pdf:staging", "drain") == [None, []]
    assert remote.read("new.pdf") == b"production"
    assert len(remote.names - {"a.pdf", "new.pdf", WRITER_NAME}) == 1  # under a similar name
    assert remote.marker["deployment"] == "production"


def test_accepted_writer_is_not_inherited(site: Site, remote: Remote, tmp_path: Path) -> None:
    """Production names itself later and accepts its own old marker: staging has not."""
    site("production", "save:a.pdf:1", "save:b.pdf:1", "drain", deployment="")
    assert site("production", "delete:a.pdf", "drain")[1] == ["OtherWriter"]
    accepted, _results = site("production", "accept", "drain")
    assert "no DEPLOYMENT" in accepted
    assert remote.names == {"b.pdf", WRITER_NAME}
    copy_of(tmp_path, "staging")
    assert site("staging", "delete:b.pdf", "drain")[1] == ["OtherWriter"]
    assert site("production", "delete:b.pdf", "drain")[1] == []
    assert remote.names == {WRITER_NAME}
    assert remote.marker["deployment"] is None


def test_copy_without_deployment_looks_like_a_restore(
    site: Site, remote: Remote, tmp_path: Path
) -> None:
    site("production", "save:a.pdf:1", "drain", deployment="")
    copy_of(tmp_path, "staging")
    assert site("staging", "delete:a.pdf", "drain", deployment="")[1] == []
    assert remote.names == {WRITER_NAME}


def test_worker_dies_before_it_writes_the_marker(site: Site, remote: Remote) -> None:
    died = site("production", "die-before-the-marker", "save:a.pdf:1", "drain")
    assert died == -signal.SIGKILL
    assert remote.names == {"a.pdf"}
    site("production", "save:b.pdf:1", "drain")
    assert remote.names == {"a.pdf", "b.pdf", WRITER_NAME}
    assert remote.marker["deployment"] == "production"


def test_one_of_several_ledgers_gets_the_place(remote: Remote, tmp_path: Path) -> None:
    names = [f"site-{number}" for number in range(4)]
    commands = ["save:{0}.txt:1", "wait", "drain", "delete:{0}.txt", "drain"]
    sites = [
        start(remote, tmp_path / name, name, *(each.format(name) for each in commands))
        for name in names
    ]
    for each in sites:
        assert each.stdout
        assert each.stdout.readline() == "ready\n"
    for each in sites:
        assert each.stdin
        each.stdin.write("\n")
        each.stdin.flush()
    results = [json.loads(each.communicate(timeout=60)[0]) for each in sites]
    winner = remote.marker["deployment"]
    assert {name: result[4] for name, result in zip(names, results, strict=True)} == {
        name: [] if name == winner else ["OtherWriter"] for name in names
    }
    losers = {f"{name}.txt" for name in names if name != winner}
    assert remote.names == {WRITER_NAME} | losers
