"""The checks of remotes, on remotes that fail them."""

import json
import socket
import threading
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage, storages
from django.core.management import CommandError, call_command
from pytest_django import Settings
from storages.backends.s3 import S3Storage

from queued_storage.operations import contract, trial
from queued_storage.operations.contract import CHECKS, Finding, check_remote
from queued_storage.testing import FaultyStorage, RemoteContract
from queued_storage.uploaders.generic import GenericUploader
from tests.support.services import S3Server

pytestmark = pytest.mark.one_database

LARGE = 200_000


def findings_of(remote: Any, **options: Any) -> dict[str, Finding]:
    return {found.check: found for found in check_remote(remote, large=LARGE, **options)}


def problems_of(remote: Any) -> dict[str, str]:
    return {
        check: found.outcome for check, found in findings_of(remote).items() if found.is_problem
    }


def stored_on(remote: Any) -> list[str]:
    return sorted(GenericUploader(remote).names())


def test_storage_of_django_has_no_problems() -> None:
    remote = InMemoryStorage()
    findings = findings_of(remote)
    assert list(findings) == [*CHECKS, contract.CLEAN_UP]
    assert not any(found.is_problem for found in findings.values())
    assert stored_on(remote) == []


def test_other_files_are_kept() -> None:
    remote = InMemoryStorage()
    remote.save("a.bin", ContentFile(b"a"))
    assert problems_of(remote) == {}
    assert stored_on(remote) == ["a.bin"]


def test_no_directory_is_left_on_disk(tmp_path: Path) -> None:
    (tmp_path / "of-others").mkdir()
    assert problems_of(FileSystemStorage(tmp_path)) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["of-others"]


@pytest.mark.parametrize("fault", ["lose", "truncate", "flip", "misplace"])
def test_faulty_remote_has_problems(fault: str) -> None:
    problems = problems_of(FaultyStorage(fault=fault))
    assert "content" in problems
    assert "large file" in problems


def test_unreachable_remote_ends_the_checks() -> None:
    findings = findings_of(FaultyStorage(fault="refuse"))
    assert list(findings) == ["name", contract.CLEAN_UP]
    assert findings["name"].is_problem
    assert "refused" in findings["name"].details


def test_renaming_remote() -> None:
    remote = FaultyStorage(fault="rename")
    findings = findings_of(remote)
    assert findings["name"].outcome == "mapped"
    assert findings["retry"].outcome == "uses another name"
    assert stored_on(remote.storage) == []


class KeepsRemains(InMemoryStorage):
    def delete(self, name: str) -> None:
        pass


class OverwritesUnseen(InMemoryStorage):
    """Like FTPStorage of django-storages with allow_overwrite."""

    def exists(self, name: str) -> bool:
        return False

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return name


class DeletesOnce(InMemoryStorage):
    """Like Dropbox."""

    def delete(self, name: str) -> None:
        if not self.exists(name):
            raise RuntimeError("path_lookup/not_found")
        super().delete(name)


class Naive(InMemoryStorage):
    def get_modified_time(self, name: str) -> datetime:
        return super().get_modified_time(name).replace(tzinfo=None)


class ListsOthers(InMemoryStorage):
    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        return [], [f"root/{path}/{name}" for name in super().listdir(path)[1]]


class NoSpaces(InMemoryStorage):
    def size(self, name: str) -> int:
        return 0 if " " in name else super().size(name)


class IgnoresCase(InMemoryStorage):
    def exists(self, name: str) -> bool:
        return super().exists(name) or super().exists(name.replace("CASE", "case"))


class OneAtATime(InMemoryStorage):
    """Two concurrent calls break each other, as on one connection."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2, timeout=0.5)

    def _save(self, name: str, content: Any) -> str:
        if "thread-" in name:
            try:
                self.barrier.wait()
            except threading.BrokenBarrierError:  # no other thread came
                self.barrier.reset()
            else:
                raise ConnectionError("the response to another request")
        return super()._save(name, content)


class GivesUp(InMemoryStorage):
    """Raises an error that ends a thread without a traceback."""

    def _save(self, name: str, content: Any) -> str:
        if "thread-" in name:
            raise SystemExit("no connection left")
        return super()._save(name, content)


class Nameless(InMemoryStorage):
    """Returns no name."""

    def save(self, *args: Any, **kwargs: Any) -> Any:
        super().save(*args, **kwargs)


class Calls(InMemoryStorage):
    """Sends a request for each URL."""

    def url(self, name: str | None) -> str:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()
        return "http://127.0.0.1/"


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        (DeletesOnce, {}),
        (IgnoresCase, {}),
        (OverwritesUnseen, {"exists": "returns False for a stored file"}),
        (Naive, {"times": "naive"}),
        (ListsOthers, {"listing": "doesn't include a stored file"}),
        (NoSpaces, {"spaces": "fails"}),
        (OneAtATime, {"concurrent uploads": "fail"}),
        (GivesUp, {"concurrent uploads": "fail"}),
        (Nameless, {"name": "returns no name for a stored file"}),
        (Calls, {"url": "sends a request"}),
    ],
)
def test_each_problem_has_its_check(remote: Any, expected: dict[str, str]) -> None:
    found = problems_of(remote())
    assert {check: found.get(check) for check in expected} == expected
    if remote is not OverwritesUnseen:  # with which no file can be found
        assert found == expected


def test_facts_about_deletes_and_case() -> None:
    assert findings_of(DeletesOnce())["delete"].outcome == "cannot be repeated"
    assert findings_of(IgnoresCase())["case sensitivity"].outcome == "case-insensitive"


def test_files_that_cannot_be_deleted_are_named() -> None:
    remote = KeepsRemains()
    found = findings_of(remote)
    assert found["delete"].outcome == "doesn't delete the file"
    assert found["retry"].outcome == "leaves a second file"
    assert found[contract.CLEAN_UP].is_problem


def test_failed_clean_up_names_the_files() -> None:
    remote = FaultyStorage()
    for found in check_remote(remote, large=LARGE):
        if found.check == "concurrent uploads":
            remote.fault = "refuse"  # type: ignore[assignment]
    assert found.is_problem
    assert "small.bin" in found.details


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret_key": "wrong"},
        {"access_key": S3Server.LIMITED_KEY, "secret_key": S3Server.LIMITED_SECRET},
        {"bucket_name": "no-such-bucket"},
        {"endpoint_url": "http://127.0.0.1:1"},
        {"endpoint_url": "http://no-such-host.invalid"},
    ],
    ids=lambda options: " ".join(options.values()),
)
def test_nothing_to_delete_where_nothing_was_stored(
    s3_server: S3Server, s3_bucket: str, wrong: dict[str, str]
) -> None:
    found = findings_of(S3Storage(**s3_server.options(s3_bucket) | wrong))
    assert list(found) == ["name", contract.CLEAN_UP]
    assert found["name"].is_problem
    assert found[contract.CLEAN_UP] == Finding(contract.CLEAN_UP, "complete")


def test_unanswered_upload_may_have_stored_a_file() -> None:
    found = findings_of(FaultyStorage(fault="refuse"))
    assert "small.bin" in found[contract.CLEAN_UP].details


def test_hanging_thread_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "THREADS_TIMEOUT", 0.2)
    released = threading.Event()
    [error] = trial.in_threads([released.wait])  # type: ignore[list-item]
    released.set()
    assert isinstance(error, TimeoutError)


def test_files_are_deleted_when_interrupted() -> None:
    remote = InMemoryStorage()
    findings = check_remote(remote, large=LARGE)
    next(findings)
    assert len(stored_on(remote)) == 1
    findings.close()  # type: ignore[attr-defined]
    assert stored_on(remote) == []


def test_findings_contain_no_urls() -> None:
    class Signs(InMemoryStorage):
        def url(self, name: str | None) -> str:
            return f"https://far.example/{name}?X-Sig=very-secret"

    found = findings_of(Signs())["url"]
    assert found == Finding("url", "signed, without a request")


class LocalFiles(RemoteContract):
    def make_remote(self) -> Any:
        return InMemoryStorage()


class Lying(RemoteContract):
    def make_remote(self) -> Any:
        return FaultyStorage(fault="flip")


def test_remote_contract_as_a_test_case() -> None:
    LocalFiles().test_the_remote_keeps_the_contract()
    with pytest.raises(AssertionError, match="problem  content: returns different bytes"):
        Lying().test_the_remote_keeps_the_contract()
    tolerant = Lying()
    tolerant.tolerated = frozenset(CHECKS)
    tolerant.test_the_remote_keeps_the_contract()


# The verb


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("queued_storage", "check-remote", *arguments, stdout=out, stderr=out)
    return out.getvalue()


@pytest.mark.django_db
def test_verb_checks_the_remote_of_a_queued_storage() -> None:
    said = run("default")
    remote: Any = storages["default"].remote  # type: ignore[attr-defined]
    assert said.startswith(f"{type(remote).__name__} with GenericUploader:")
    assert "fact     name: exact" in said
    assert "problem" not in said


def test_verb_prints_json_for_any_storage(settings: Settings) -> None:
    backend = "django.core.files.storage.InMemoryStorage"
    settings.STORAGES = settings.STORAGES | {"any": {"BACKEND": backend}}
    lines = [json.loads(line) for line in run("any", "--json").splitlines()]
    assert [line["check"] for line in lines] == [*CHECKS, contract.CLEAN_UP]
    assert lines[0] == {"check": "name", "outcome": "exact", "details": "", "is_problem": False}


def test_problems_set_the_exit_code(settings: Settings) -> None:
    backend = "queued_storage.testing.FaultyStorage"
    options = {"fault": "refuse"}
    settings.STORAGES = settings.STORAGES | {"down": {"BACKEND": backend, "OPTIONS": options}}
    with pytest.raises(CommandError, match="2 problems") as caught:
        run("down")
    assert caught.value.returncode == 1


def test_unknown_alias() -> None:
    with pytest.raises(CommandError, match=r"No storage has the alias 'nowhere'\. Choose one of"):
        run("nowhere")


# Checks of a server


@pytest.fixture
def s3(s3_server: S3Server, s3_bucket: str) -> S3Storage:
    return S3Storage(**s3_server.options(s3_bucket))


def test_server_that_accepts_a_wrong_checksum(s3: S3Storage) -> None:
    assert findings_of(s3)["wrong checksum"] == Finding("wrong checksum", "refused")
    client = s3.connection.meta.client
    with mock.patch.object(client, "put_object", return_value={}):  # no server here accepts it
        found = findings_of(s3)["wrong checksum"]
    assert found.is_problem
    assert stored_on(s3) == []
