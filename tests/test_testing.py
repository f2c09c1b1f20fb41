import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage, storages
from django.db import transaction
from django.test import TestCase
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import TransferError, TransferTimeout, VerificationError
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.queues.dummy import DummyQueue
from queued_storage.testing import Fault, FaultyStorage, drain
from tests.support.testapp.models import Document

pytestmark = pytest.mark.one_database

CONTENT = b"0123456789"


@pytest.fixture
def remote() -> Iterator[FaultyStorage]:
    remote = FaultyStorage()
    yield remote
    remote.fault = None  # so that no call hangs


@pytest.fixture
def storage(remote: FaultyStorage) -> QueuedStorage:
    return QueuedStorage("disk", remote, alias="testing")


def save(storage: Any, name: str = "a.txt", content: bytes = CONTENT) -> int:
    row = storage.queued_file(storage.save(name, ContentFile(content)))
    return int(row.pk)


class Drain(TestCase):
    def test_works_inside_a_test_case(self) -> None:
        document = Document.objects.create(file=ContentFile(CONTENT, "a.txt"))
        assert storages["default"].using_local(document.file.name)
        assert drain() == {}
        assert storages["default"].using_remote(document.file.name)
        with storages["far"].open(document.file.name) as file:
            assert file.read() == CONTENT

    def test_result_reports_the_transfer(self) -> None:
        storage = storages["default"]
        document = Document.objects.create(file=ContentFile(CONTENT, "a.txt"))
        result = storage.transfer(document.file.name)
        with pytest.raises(TransferError, match="committed"):
            result.get()
        drain()
        assert result.get() is True
        assert storage.result.get() is True

    def test_processes_a_delete(self) -> None:
        document = Document.objects.create(file=ContentFile(CONTENT, "a.txt"))
        drain()
        document.file.delete()
        drain()
        assert not storages["far"].exists("docs/a.txt")
        assert storages["default"].queued_file("docs/a.txt") is None


class Captured(TestCase):
    earlier: int

    @classmethod
    def setUpTestData(cls) -> None:
        cls.earlier = save(storages["default"], "earlier.txt")

    def setUp(self) -> None:
        queue = storages["default"].queue
        assert isinstance(queue, DummyQueue)
        queue.messages.clear()
        self.messages = queue.messages

    def test_each_capture_sees_its_own_wake_up(self) -> None:
        saved = [save(storages["default"], "uncaptured.txt")]
        for number in range(2):
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                saved.append(save(storages["default"], f"{number}.txt"))
            assert len(callbacks) == 1
        assert self.messages == [[pk] for pk in saved[1:]]

    def test_each_transaction_has_one_wake_up(self) -> None:
        saved = []
        for number in range(2):
            with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
                saved.append([save(storages["default"], f"{number}.txt")])
                with transaction.atomic():
                    saved[number].append(save(storages["default"], f"inner {number}.txt"))
        assert self.messages == saved

    @transaction.atomic
    def test_capture_in_transaction_sees_its_wake_up(self) -> None:
        for number in range(2):
            with self.captureOnCommitCallbacks(execute=True):
                saved = save(storages["default"], f"{number}.txt")
            assert self.messages.pop() == [saved]


@pytest.mark.django_db
def test_drain_returns_what_failed(storage: QueuedStorage, remote: FaultyStorage) -> None:
    remote.fault = Fault.REFUSE
    pk = save(storage)
    errors = drain(storage)
    assert list(errors) == [pk]
    assert isinstance(errors[pk], ConnectionError)
    assert drain(storage) == {}  # the next attempt is not due yet


@pytest.mark.django_db
def test_drain_keeps_to_its_storage(storage: QueuedStorage) -> None:
    other = QueuedStorage("disk", FaultyStorage(), alias="other")
    save(storage, "a.txt")
    save(other, "b.txt")
    drain(storage)
    assert storage.using_remote("a.txt")
    assert other.using_local("b.txt")
    drain()
    assert other.using_remote("b.txt")


@pytest.mark.django_db
def test_drain_ends_when_work_never_does(
    storage: QueuedStorage, remote: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queued_storage.transfers.work._Work._will_retry", lambda *args: True)
    monkeypatch.setattr("queued_storage.transfers.work.backoff", lambda attempts: -1)
    remote.fault = Fault.REJECT
    save(storage)
    with pytest.raises(TransferTimeout, match=r"0\.3 seconds\. The last attempt .* failed"):
        drain(storage, timeout=0.3)


@pytest.mark.django_db
def test_a_transfer_inside_a_transaction_outlives_its_beats(
    storage: QueuedStorage, remote: FaultyStorage, settings: Settings
) -> None:
    """A renewal on another connection cannot find the uncommitted row."""
    settings.QUEUED_STORAGE = {"LEASE": 0.3}
    remote.fault = Fault.SLOW
    remote.delay = 0.4
    save(storage)
    assert drain(storage) == {}
    assert storage.using_remote("a.txt")


@pytest.mark.django_db
@pytest.mark.parametrize("checksum", ["crc32:a684c7c6", ""])
def test_incomplete_upload_is_retried(settings: Settings, checksum: str) -> None:
    settings.QUEUED_STORAGE = {"VERIFY": "size"}
    storage = QueuedStorage("disk", HalfStorage(), alias="half")
    pk = save(storage)
    QueuedFile.objects.update(checksum=checksum)
    assert isinstance(drain(storage)[pk], VerificationError)
    row = QueuedFile.objects.get(pk=pk)
    assert row.state == State.PENDING
    assert "took 5 of 10 bytes" in row.last_error


class HalfStorage(InMemoryStorage):
    """A storage that saves only the first half and reports success."""

    def save(self, name: Any, content: Any, max_length: int | None = None) -> str:
        return super().save(name, ContentFile(content.read(5)), max_length)


# FaultyStorage


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.REJECT, OSError),
        (Fault.LOSE, FileNotFoundError),
        (Fault.TRUNCATE, VerificationError),
        (Fault.FLIP, VerificationError),
    ],
)
def test_no_fault_counts_as_a_transfer(
    storage: QueuedStorage,
    remote: FaultyStorage,
    settings: Settings,
    fault: Fault,
    error: type[Exception],
) -> None:
    settings.QUEUED_STORAGE = {"VERIFY": "content", "RETRIES": 0}
    pk = save(storage)
    remote.fault = fault
    errors = drain(storage)
    assert isinstance(errors[pk], error)
    assert storage.using_local("a.txt")
    row = storage.queued_file("a.txt")
    assert row is not None
    assert row.state == State.FAILED
    remote.fault = None
    storage.transfer("a.txt")
    assert drain(storage) == {}
    with storage.remote.open("a.txt") as file:
        assert file.read() == CONTENT


@pytest.mark.django_db
@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.HALFWAY])
def test_a_remote_that_is_away_fails_no_file(
    storage: QueuedStorage, remote: FaultyStorage, settings: Settings, fault: Fault
) -> None:
    settings.QUEUED_STORAGE = {"RETRIES": 0}
    pk = save(storage)
    remote.fault = fault
    assert isinstance(drain(storage)[pk], ConnectionError)
    assert drain(storage) == {}
    row = storage.queued_file("a.txt")
    assert row is not None
    assert (row.state, row.attempts) == (State.PENDING, 0)
    remote.fault = None
    assert drain(storage) == {}
    assert storage.using_remote("a.txt")
    assert remote.listdir("") == ([], ["a.txt"])


@pytest.mark.django_db
def test_renamed_file_is_read_under_its_name(storage: QueuedStorage, remote: FaultyStorage) -> None:
    remote.fault = Fault.RENAME
    save(storage)
    assert drain(storage) == {}
    row = storage.queued_file("a.txt")
    assert row is not None
    assert row.remote_name == "a.txt.renamed"


def test_stores_what_the_fault_says() -> None:
    inner = InMemoryStorage()
    remote = FaultyStorage(inner)
    for fault, stored in [
        (None, CONTENT),
        (Fault.TRUNCATE, CONTENT[:5]),
        (Fault.FLIP, b"0123446789"),
    ]:
        remote.fault = fault
        name = remote.save(f"{fault}", ContentFile(CONTENT))
        assert inner.open(name).read() == stored
    remote.fault = "lose"
    assert not inner.exists(remote.save("b", ContentFile(CONTENT)))
    remote.fault = "flip"
    assert inner.open(remote.save("empty", ContentFile(b""))).read() == b""


def test_hangs_until_the_fault_ends() -> None:
    remote = FaultyStorage(fault=Fault.HANG)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(remote.exists("a")))
    thread.start()
    assert remote.hanging.wait(10)
    assert not found
    remote.fault = None
    thread.join(10)
    assert found == [False]
    assert not remote.hanging.is_set()


def test_counts_calls_to_the_remote() -> None:
    remote = FaultyStorage()
    name = remote.save("a", ContentFile(CONTENT))
    remote.get_available_name("b")
    remote.calls.clear()
    assert remote.url(name) == "/media/a"
    assert remote.get_valid_name("a b") == "a_b"
    assert not remote.calls
    remote.size(name)
    remote.open(name).close()
    remote.open(name).close()
    remote.get_modified_time(name)
    remote.delete(name)
    assert remote.calls == {"size": 1, "open": 2, "get_modified_time": 1, "delete": 1}


def test_wraps_a_path_an_alias_or_a_storage(settings: Settings) -> None:
    path = "django.core.files.storage.FileSystemStorage"
    assert FaultyStorage(path, location=settings.MEDIA_ROOT).location == str(settings.MEDIA_ROOT)
    assert FaultyStorage("far").storage is storages["far"]
    with pytest.raises(ImproperlyConfigured, match="location"):
        FaultyStorage("far", location="elsewhere")
    settings.STORAGES = settings.STORAGES | {
        "faulty": {
            "BACKEND": "queued_storage.testing.FaultyStorage",
            "OPTIONS": {"storage": path, "location": "/nowhere", "fault": "refuse"},
        }
    }
    with pytest.raises(ConnectionError):
        storages["faulty"].exists("a")


def test_needs_no_pytest() -> None:
    code = (
        "import sys, django; sys.modules['pytest'] = None; django.setup(); "
        "import queued_storage.testing"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"},
    )
