"""What could not be looked at does not count as missing."""

import errno
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.core.management import CommandError, call_command
from pytest_django import Settings

from queued_storage.exceptions import LocalFileUnreadable
from queued_storage.files import presence
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import errands
from queued_storage.operations.adoption import adopt, backfill
from queued_storage.operations.comparison import verify
from queued_storage.operations.inventory import orphans
from queued_storage.operations.passes import Step
from queued_storage.operations.pruning import prune
from queued_storage.operations.reconciliation import reconcile
from queued_storage.serving.delivery import Delivery
from queued_storage.storage.routes import Routes
from queued_storage.tasks import TransferAndDelete
from tests.support.refusing import refusing
from tests.support.scripted import file, make, make_due, on_disk, read, row
from tests.transfers.workers import retry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

REASONS = [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EPERM, errno.ETIMEDOUT]
each_reason = pytest.mark.parametrize("reason", REASONS, ids=errno.errorcode.get)


def raises(reason: int) -> Any:
    return pytest.raises(OSError, match=re.escape(os.strerror(reason)))


def near() -> Path:
    return Path(django_settings.DIRECTORY) / "disk" / "docs"


def far() -> Path:
    return Path(django_settings.DIRECTORY) / "far" / "docs"


def saved(**options: Any) -> tuple[Any, str]:
    storage = make(**options)
    return storage, storage.save("docs/a.txt", file(b"bytes"))


def transferred(**options: Any) -> tuple[Any, str]:
    storage, name = saved(**options)
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED
    return storage, name


# The function that all of these use


@each_reason
def test_only_some_errors_mean_absence(reason: int, tmp_path: Path) -> None:
    storage = FileSystemStorage(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"")
    assert presence.exists(storage, "a.txt")
    for name in ("b.txt", "d/b.txt", "a.txt/b.txt", "n" * 300, "a\0b"):
        assert not presence.exists(storage, name)
    with refusing(tmp_path, reason), raises(reason):
        presence.exists(storage, "b.txt")


def test_storages_without_paths_answer_themselves() -> None:
    storage = InMemoryStorage()
    storage.save("a.txt", file())
    assert (presence.exists(storage, "a.txt"), presence.exists(storage, "b.txt")) == (
        True,
        False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_may_not_look(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d" / "a.txt").write_bytes(b"")
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_mode & 0o005 != 0o005 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    storage = FileSystemStorage(tmp_path)
    pid = os.fork()
    if pid == 0:
        answer = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            assert not presence.exists(storage, "b.txt")
            presence.exists(storage, "d/a.txt")
        except PermissionError:
            answer = 42
        finally:
            os._exit(answer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


# Workers


@each_reason
@pytest.mark.parametrize("only", ["", "open", "stat", "lstat"])
def test_unreadable_file_is_retried(only: str, reason: int, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {"RETRIES": 1}
    storage, name = saved()
    with refusing(near(), reason, only="" if only == "lstat" else only):
        for _attempt in range(4):
            assert isinstance(retry(storage, name), LocalFileUnreadable)
        found = row(storage, name)
        assert (found.state, found.attempts, found.object_name) == (State.PENDING, 0, "")
        assert "'docs/a.txt' cannot be read" in found.last_error
    assert retry(storage, name) is None
    assert read(storage.remote, name) == b"bytes"


@each_reason
@pytest.mark.parametrize("place", [near, far])
def test_a_delete_is_repeated(place: Callable[[], Path], reason: int) -> None:
    storage, name = transferred()
    with refusing(place(), reason):
        with raises(reason) if place is near else refusing("/nowhere", reason):
            storage.delete(name)
        assert not storage.exists(name)
        assert storage.queue.deliver()
        assert row(storage, name).state == State.DELETING
    make_due(storage, name)
    assert retry(storage, name) is None
    assert storage.queued_file(name) is None
    assert on_disk() == on_disk("far") == []


@each_reason
def test_an_eviction_is_repeated(reason: int) -> None:
    storage, name = transferred()
    steps: list[Step] = []
    with refusing(near(), reason):
        assert errands.evict(ledger().all(), steps.append) == 0
    assert os.strerror(reason) in steps[0].error
    assert row(storage, name).is_local
    assert errands.evict(ledger().all()) == 1
    assert on_disk() == []


@each_reason
def test_a_restore_is_an_error(reason: int) -> None:
    storage, name = transferred(task=TransferAndDelete)
    near().mkdir(exist_ok=True)
    with refusing(near(), reason):
        assert errands.restore(ledger().all()) == 0
    assert not row(storage, name).is_local
    assert errands.restore(ledger().all()) == 1


# Operators


@each_reason
@pytest.mark.parametrize("place", [near, far])
def test_nothing_is_pruned(place: Callable[[], Path], reason: int) -> None:
    storage, name = saved() if place is near else transferred(task=TransferAndDelete)
    near().mkdir(exist_ok=True)
    steps: list[Step] = []
    with refusing(place(), reason):
        assert list(prune(ledger().all(), steps.append)) == []
        with pytest.raises(CommandError, match="1 file could not be checked") as caught:
            call_command("queued_storage", "prune", all=True, yes=True)
    assert caught.value.returncode == 1
    assert os.strerror(reason) in steps[0].error
    assert row(storage, name).state != State.DELETING


@each_reason
def test_a_local_copy_is_unreadable_and_not_missing(reason: int) -> None:
    storage, name = transferred()
    with refusing(near(), reason):
        [difference] = verify(ledger().all())
        assert (difference.side, difference.kind) == ("local", "unreadable")
        assert list(reconcile(ledger().all(), ["missing-local"])) == []
    assert row(storage, name).is_local


@each_reason
def test_a_remote_copy_is_unreadable_and_not_missing(reason: int) -> None:
    storage, name = transferred()
    with refusing(far(), reason):
        [difference] = verify(ledger().all())
        assert (difference.side, difference.kind) == ("remote", "unreadable")
        assert list(reconcile(ledger().all(), ["missing-remote"])) == []
    assert row(storage, name).state == State.TRANSFERRED


@each_reason
@pytest.mark.parametrize("verb", [adopt, backfill])
def test_recording_reports_what_it_could_not_read(verb: Any, reason: int) -> None:
    storage = make()
    for place in (near(), far()):
        place.mkdir(parents=True)
        (place / "a.txt").write_bytes(b"bytes")
    steps: list[Step] = []
    with refusing(near(), reason):
        assert verb(storage, ["docs/a.txt"], steps.append) == 0
    assert os.strerror(reason) in steps[0].error
    assert not ledger().exists()


@each_reason
def test_orphans_are_not_listed_from_half_a_tree(reason: int) -> None:
    storage = make()
    near().mkdir(parents=True)
    with refusing(near(), reason), raises(reason):
        list(orphans(storage, "local", timedelta()))


# Readers


@each_reason
def test_a_name_without_a_row_is_not_missing(reason: int) -> None:
    storage = make(unknown="absent")
    near().mkdir(parents=True)
    (near() / "a.txt").write_bytes(b"bytes")
    with refusing(near(), reason):
        for method in (storage.exists, storage.open, storage.size, storage.delete):
            with raises(reason):
                method("docs/a.txt")
        assert storage.url("docs/a.txt") == storage.local.url("docs/a.txt")
        assert storage.using_local("docs/a.txt")
    assert read(storage, "docs/a.txt") == b"bytes"
    assert not ledger().exists()


@each_reason
def test_a_known_file_is_not_missing(reason: int) -> None:
    storage, name = saved()
    with refusing(near(), reason):
        assert storage.exists(name)
        assert storage.url(name) == storage.local.url(name)
        for method in (storage.open, storage.size):
            with raises(reason):
                method(name)
        with raises(reason), storage.local_path(name):
            pass
    assert read(storage, name) == b"bytes"


@each_reason
def test_path_of_a_transferred_file(reason: int) -> None:
    """``NotImplementedError`` would say that there is no local copy."""
    storage, name = transferred()
    with refusing(near(), reason), raises(reason):
        storage.path(name)


@each_reason
def test_a_remote_that_refuses_has_the_file(reason: int) -> None:
    storage, name = transferred(task=TransferAndDelete)
    Routes(storage.alias, storage.cache_prefix).forget(name)
    ledger().all().delete()
    with refusing(far(), reason):
        for method in (storage.exists, storage.open, storage.size):
            with raises(reason):
                method(name)


@each_reason
def test_the_view_does_not_say_not_found(reason: int, rf: Any) -> None:
    storage = make(url_mode="signed")
    near().mkdir(parents=True)
    (near() / "a.txt").write_bytes(b"bytes")
    delivery = Delivery(
        rf.get("/"), storage, "docs/a.txt", is_signed=True, seconds=60, version=None
    )
    with refusing(near(), reason), raises(reason):
        delivery.response()
    response = delivery.response()
    assert response.status_code == 200
    response.close()


@each_reason
def test_an_unreadable_cache_is_not_used(
    reason: int, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    settings.QUEUED_STORAGE = {"READ_CACHE": {"LOCATION": str(cache), "MAX_BYTES": 1000}}
    storage, name = transferred(task=TransferAndDelete)
    assert read(storage, name) == b"bytes"
    [copy] = [path for path in cache.iterdir() if path.is_file() and path.name != ".lock"]
    with refusing(cache, reason):
        assert read(storage, name) == b"bytes"
    assert "The read cache is not used" in caplog.text
    assert copy.exists()


# A remote that does not answer


def test_a_remote_that_is_away_has_lost_nothing() -> None:
    storage, name = transferred(task=TransferAndDelete)
    storage.remote.refuses = True
    steps: list[Step] = []
    assert list(prune(ledger().all(), steps.append)) == []
    assert "The remote is away." in steps[0].error
    assert [each.kind for each in verify(ledger().all())] == ["unreadable"]
    for method in (storage.open, lambda name: storage.exists("unknown.txt")):
        with pytest.raises(ConnectionError):
            method(name)
    storage.delete(name)
    assert storage.queue.deliver()
    assert row(storage, name).state == State.DELETING
    storage.remote.refuses = False
    assert retry(storage, name) is None
    assert on_disk("far") == []
