"""Saves to a real S3 server, of files for which the local storage has no room."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import connection, transaction
from pytest_django import Settings

from queued_storage.exceptions import NoRoom
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.states import State
from queued_storage.operations import inventory
from queued_storage.storage import sums, through
from queued_storage.transfers.gates import gates
from queued_storage.transfers.work import run as run_row
from tests.support.failpoints import FailPoint
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.forks import ended
from tests.support.scripted import LONG_AGO, on_disk, read, row
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

NAME = "docs/a.bin"
PART = TransferConfig().multipart_chunksize
SMALL, LARGE = 3000, PART + 1  # bytes; the second one is sent in parts
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE])


@pytest.fixture(autouse=True)
def no_memory() -> None:
    sums._sums.clear()


@pytest.fixture
def storage(s3_proxy_options: dict[str, Any], settings: Settings) -> Any:
    """The default storage, without room for any file, here and in child processes."""
    # The configuration of a client cannot be passed to other processes.
    options = s3_proxy_options | {"client_config": None, "addressing_style": "path"}
    far = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    full = {"local": "disk", "remote": "far", "max_pending_bytes": 1, "when_full": "remote"}
    default = {"BACKEND": "queued_storage.backends.QueuedStorage", "OPTIONS": full}
    settings.STORAGES = settings.STORAGES | {"far": far, "default": default}
    return storages["default"]


@pytest.fixture
def in_bucket(storage: Any, s3_client: Any, s3_bucket: str) -> Callable[[], dict[str, bytes]]:
    """Return the objects in the bucket; unfinished uploads, which are billed, are an error."""

    def bucket_content() -> dict[str, bytes]:
        assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=s3_bucket)
        found = s3_client.list_objects_v2(Bucket=s3_bucket).get("Contents", [])
        return {
            each["Key"]: s3_client.get_object(Bucket=s3_bucket, Key=each["Key"])["Body"].read()
            for each in found
            if not each["Key"].startswith(".queued-storage")
        }

    return bucket_content


def content(size: int) -> ContentFile:
    return ContentFile(bytes_of(size))


def bytes_of(size: int) -> bytes:
    return (b"0123456789abcde\n" * (size // 16 + 1))[:size]


def dispose() -> None:
    """Let a worker do all that is left to do, as if every lease had expired."""
    until(lambda: not _uploads())
    ledger().exclude(state=State.TRANSFERRED).update(due_at=LONG_AGO)
    for pk in list(ledger().values_list("pk", flat=True)):
        run_row(pk)


def _uploads() -> list[threading.Thread]:
    """The threads that still upload for a save which has ended."""
    return [each for each in threading.enumerate() if each.name == "queued-storage-inquiry"]


@SIZES
@pytest.mark.parametrize("is_atomic", [True, False], ids=["in a transaction", "autocommit"])
def test_the_object_is_verified_before_the_save_returns(
    storage: Any, in_bucket: Callable[[], dict[str, bytes]], size: int, is_atomic: bool
) -> None:
    with transaction.atomic() if is_atomic else contextlib.nullcontext():
        name = storage.save(NAME, content(size))
        assert in_bucket() == {NAME: bytes_of(size)}
    found = row(storage, name)
    assert (found.state, found.is_local, found.size) == (State.TRANSFERRED, False, size)
    assert found.verified in {"checksum", "size"}
    assert on_disk() == []
    assert read(storage, name) == bytes_of(size)


@SIZES
def test_a_rollback_removes_the_object(
    storage: Any, in_bucket: Callable[[], dict[str, bytes]], size: int
) -> None:
    with contextlib.suppress(RuntimeError), transaction.atomic():
        storage.save(NAME, content(size))
        assert in_bucket()
        raise RuntimeError
    until(lambda: ledger().exists())  # SQLite: by a thread
    assert not storage.exists(NAME)
    dispose()
    assert in_bucket() == {}
    assert not ledger().exists()


@pytest.mark.one_database
def test_a_paused_remote_gets_no_request(storage: Any, s3_proxy: FaultProxy) -> None:
    remotes().register(storage.alias, storage.remote_place)
    remotes().filter(alias=storage.alias).pause()
    gates.forget()
    before = s3_proxy.accepted
    with pytest.raises(NoRoom, match="the remote is closed"):
        storage.save(NAME, content(SMALL))
    assert s3_proxy.accepted == before
    assert not ledger().exists()


@pytest.mark.one_database
def test_an_outage_closes_the_remote(
    storage: Any, s3_proxy: FaultProxy, in_bucket: Callable[[], dict[str, bytes]]
) -> None:
    storage.save("before.bin", content(SMALL))
    s3_proxy.mode = Mode.REFUSE
    with pytest.raises(NoRoom, match="the upload failed"):
        storage.save(NAME, content(SMALL))
    until(remotes().filter(alias=storage.alias).closed().exists)
    gates.forget()
    requests = len(s3_proxy.requests)
    started = time.monotonic()
    with pytest.raises(NoRoom, match="the remote is closed"):
        storage.save(NAME, content(SMALL))
    assert time.monotonic() - started < 2
    assert len(s3_proxy.requests) == requests
    s3_proxy.mode = Mode.OK
    assert list(in_bucket()) == ["before.bin"]


@pytest.mark.one_database
@SIZES
@pytest.mark.parametrize("mode", [Mode.HANG, Mode.HANG_MID_BODY])
def test_a_server_that_hangs_is_not_waited_for(
    storage: Any,
    s3_proxy: FaultProxy,
    in_bucket: Callable[[], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    size: int,
) -> None:
    storage.save("before.bin", content(SMALL))
    monkeypatch.setattr(through, "SECONDS", 1.0)
    s3_proxy.mode = mode
    started = time.monotonic()
    with pytest.raises(NoRoom, match="did not end within 1 seconds"):
        storage.save(NAME, content(size))
    assert time.monotonic() - started < 4
    assert not storage.exists(NAME)
    s3_proxy.mode = Mode.OK
    dispose()
    assert list(in_bucket()) == ["before.bin"]


@pytest.mark.one_database
@SIZES
def test_a_lost_answer_leaves_no_object(
    storage: Any, s3_proxy: FaultProxy, in_bucket: Callable[[], dict[str, bytes]], size: int
) -> None:
    storage.save("before.bin", content(SMALL))
    s3_proxy.mode = Mode.LOSE_ANSWER
    with pytest.raises(NoRoom, match="the upload failed"):
        storage.save(NAME, content(size))
    s3_proxy.mode = Mode.OK
    dispose()
    left = set(in_bucket()) - {"before.bin"}
    assert left <= {each.name for each in inventory.orphans(storage, "remote", timedelta(0))}
    assert not ledger().filter(name=NAME).exists()


# Processes that die meanwhile


def save_small() -> None:
    storages["default"].save(NAME, content(SMALL))


def save_large() -> None:
    storages["default"].save(NAME, content(LARGE))


def save_and_die_before_the_commit() -> None:
    with transaction.atomic():
        save_large()
        os.kill(os.getpid(), signal.SIGKILL)


MEANWHILE = ["sending at once", "written to S3", "object verified"]
AROUND = ["name reserved", "reserved", "filling remotely", "filled remotely"]
DEATHS = [(save_small, point) for point in MEANWHILE + AROUND]
DEATHS += [(save_large, point) for point in MEANWHILE]


@pytest.mark.parametrize(("save", "point"), DEATHS)
def test_a_death_loses_nothing(
    storage: Any,
    in_bucket: Callable[[], dict[str, bytes]],
    fork: Callable[..., Any],
    save: Callable[[], None],
    point: str,
    tmp_path: Path,
) -> None:
    child = fork(save, point=FailPoint(point, tmp_path / "reached"))
    assert ended(child) == -signal.SIGKILL
    dispose()
    found = ledger().filter(name=NAME).first()
    if found:
        assert found.state == State.TRANSFERRED
        assert read(storage, NAME) == bytes_of(found.size)
    elif left := set(in_bucket()):  # it is not known whether the server stored it
        assert point in {"sending at once", "written to S3"}
        assert left == {each.name for each in inventory.orphans(storage, "remote", timedelta(0))}


def test_a_death_before_the_commit_leaves_no_file(
    storage: Any, in_bucket: Callable[[], dict[str, bytes]], fork: Callable[..., Any]
) -> None:
    assert ended(fork(save_and_die_before_the_commit)) == -signal.SIGKILL
    if connection.vendor != "sqlite":
        noted = ledger().get(name=NAME)
        assert (noted.state, noted.remote_name) == (State.DELETING, NAME)
    dispose()
    assert not ledger().exists()
    if connection.vendor == "sqlite":  # which lets no other connection write
        orphans = inventory.orphans(storage, "remote", timedelta(0))
        assert [each.name for each in orphans] == list(in_bucket()) == [NAME]
    else:
        assert in_bucket() == {}
