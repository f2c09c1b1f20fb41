"""Processes and roots whose volume is not mounted; a directory is renamed instead of unmounted."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.files.storage import FileSystemStorage, storages
from django.core.management import call_command
from django.db import connections
from pytest_django import Settings

from queued_storage.exceptions import LocalStorageMissing
from queued_storage.files import markers, volumes
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import inventory
from queued_storage.queues.base import run_all
from queued_storage.reporting.logs import logger
from queued_storage.transfers import mounting
from queued_storage.transfers.gates import gates
from queued_storage.transfers.work import run
from tests.support.forks import ended, forks
from tests.support.scripted import file, make, make_due, read, row
from tests.support.volumes import mount, near, unmount
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

PATIENCE = 30.0  # seconds, on a busy machine
SHORT = {"RETRIES": 1, "RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 0.2}
CLONE_NEWNS = 0x20000

Fork = Callable[..., Any]


@pytest.fixture
def fork(child_environment: dict[str, str], settings: Settings) -> Iterator[Fork]:
    settings.QUEUED_STORAGE = SHORT | {"QUEUE": "queued_storage.queues.worker.WorkerQueue"}
    with forks(child_environment, settings) as found:
        yield found.start


# Real processes


def log_of_child() -> Path:
    return Path(django_settings.DIRECTORY) / "child.log"


def work() -> None:
    logger.addHandler(logging.FileHandler(log_of_child()))
    call_command("queued_storage", "worker", poll=0.05)


def save_anyway(name: str) -> None:
    with pytest.raises(LocalStorageMissing):
        storages["default"].save(name, file())


def states() -> set[tuple[str, int]]:
    return set(ledger().values_list("state", "attempts"))


def test_worker_starts_without_the_volume_and_goes_on(fork: Fork) -> None:
    storage: Any = storages["default"]
    names = [storage.save(f"{number}.txt", file()) for number in range(3)]
    gone = storage.save("gone.txt", file())
    volume = unmount()
    storage.delete(gone)
    log_of_child().unlink(missing_ok=True)
    fork(work)
    until(lambda: log_of_child().exists() and "not mounted" in log_of_child().read_text(), PATIENCE)
    assert ended(fork(save_anyway, "late.txt")) == 0
    until(lambda: not ledger().exclude(lease_token="").exists(), PATIENCE)
    assert states() == {(State.PENDING, 0), (State.DELETING, 0)}
    mount(volume)
    rows = ledger().filter(name__in=names)
    until(lambda: rows.filter(state=State.TRANSFERRED).count() == 3, PATIENCE)
    until(lambda: not ledger().filter(name=gone).exists(), PATIENCE)
    assert not (near() / gone).exists()
    assert {row(storage, name).attempts for name in names} == {1}


# Forks, which have what their parent knew


def in_fork(action: Callable[[], object]) -> None:
    connections.close_all()
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(20)
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_fork_notices_that_the_volume_vanishes() -> None:
    storage = make()
    storage.save("a.txt", file())

    def act() -> None:
        volume = unmount()
        with pytest.raises(LocalStorageMissing):
            storage.save("b.txt", file())
        mount(volume)
        storage.save("b.txt", file())

    in_fork(act)
    assert ledger().count() == 2


def test_fork_enqueues_what_waited_for_the_volume() -> None:
    storage = make()
    pk = row(storage, storage.save("a.txt", file())).pk
    volume = unmount()
    with pytest.raises(LocalStorageMissing):
        storage.save("b.txt", file())
    storage.queue.messages.clear()

    def act() -> None:
        mount(volume)
        assert not gates.is_closed(storage.alias)
        mounting.wait(10)
        assert storage.queue.messages == [[pk]]

    in_fork(act)
    assert gates.is_closed(storage.alias) is False  # this process sees it for itself
    mounting.wait(10)
    assert storage.queue.messages == [[pk]]


def test_task_of_the_ancestor_is_not_called_without_the_volume() -> None:
    called: list[str] = []

    class Foreign:
        def delay(self, name: str, *args: Any) -> None:
            called.append(name)

    storage = make(task=Foreign())
    storage.save("a.txt", file())
    called.clear()
    ledger().update(attempts=0)  # as if the process had died before it called the task
    volume = unmount()
    assert isinstance(run(make_due(storage, "a.txt")), LocalStorageMissing)
    assert called == []
    mount(volume)
    run(make_due(storage, "a.txt"))
    assert called == ["a.txt"]


# Roots within roots


def inner() -> Any:
    return make(local=FileSystemStorage(near() / "inner"), alias="inner")


def test_outer_root_says_nothing_about_the_inner_one() -> None:
    outer, within = make(), inner()
    outer.save("a.txt", file())
    within.save("b.txt", file())
    volume = (near() / "inner").rename(near().with_name("inner-volume"))
    (near() / "inner").mkdir()
    with pytest.raises(LocalStorageMissing):
        within.save("c.txt", file())
    assert outer.save("c.txt", file()) == "c.txt"
    assert not volumes.is_missing(outer.alias, outer.local)
    (near() / "inner").rmdir()
    volume.rename(near() / "inner")
    assert within.save("c.txt", file()) == "c.txt"


def test_inner_root_says_nothing_about_the_outer_one() -> None:
    outer, within = make(), inner()
    outer.save("a.txt", file())
    unmount()
    assert within.save("b.txt", file()) == "b.txt"  # its first file, so its root is made
    with pytest.raises(LocalStorageMissing):
        outer.save("c.txt", file())


def test_both_roots_are_on_the_missing_volume() -> None:
    outer, within = make(), inner()
    outer.save("a.txt", file())
    name = within.save("b.txt", file())
    volume = unmount()
    for storage in (outer, within):
        with pytest.raises(LocalStorageMissing):
            storage.save("c.txt", file())
    mount(volume)
    assert read(within, name) == b"bytes"


def test_outer_storage_does_not_give_the_inner_marker() -> None:
    outer, within = make(), inner()
    outer.save("a.txt", file())
    within.save("b.txt", file())
    name = f"inner/{markers.MARKER}"
    assert not outer.exists(name)
    with pytest.raises(FileNotFoundError):
        outer.open(name)
    assert outer.listdir("inner")[1] == ["b.txt"]
    assert name not in list(inventory.names_of(outer, "local"))
    outer.delete(name)
    outer.queue.deliver()
    assert (near() / name).exists()


# A root that cannot be written to


@contextlib.contextmanager
def mounted_read_only(directory: Path) -> Iterator[None]:
    """Let this process alone see a directory as on a read-only volume, until it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    for options in (
        ["--make-rprivate", "/"],
        ["--bind", directory, directory],
        ["-o", "remount,bind,ro", directory],
    ):
        subprocess.run(["mount", *options], check=True)
    yield


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_files_of_a_read_only_root_are_transferred(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "SEEN_FOR", 0)  # a moment after the save
    storage = make()
    names = [storage.save(f"{number}.txt", file()) for number in range(3)]
    pks = [row(storage, name).pk for name in names]
    os.unlink(near() / markers.MARKER)

    def act() -> None:
        with mounted_read_only(near()):
            run_all(pks)
            said = [each.getMessage() for each in caplog.records]
            own = [each for each in said if f"of {storage.alias!r}" in each]
            assert len([each for each in own if "cannot be written" in each]) == 1
            with pytest.raises(OSError, match="Read-only"):
                storage.save("b.txt", file())

    in_fork(act)
    assert states() == {(State.TRANSFERRED, 1)}
    assert not (near() / markers.MARKER).exists()
