from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import Storage
from django.db import transaction
from django.dispatch import Signal
from pytest_django import Settings

from queued_storage import signals
from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import LocalFileMissing
from queued_storage.models import QueuedFile
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.testing import Fault, FaultyStorage, drain

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

State = QueuedFile.State
DISK = "django.core.files.storage.FileSystemStorage"
NAMES = ["file_transferred", "transfer_failed", "file_evicted", "file_deleted"]


class Refusing(Transfer):
    def transfer(self, name: str, local: Storage, remote: Storage, **kwargs: Any) -> bool:
        return False


@pytest.fixture
def far() -> FaultyStorage:
    return FaultyStorage()


@pytest.fixture
def make(tmp_path: Path, far: FaultyStorage) -> Callable[..., QueuedStorage]:
    def make(**options: Any) -> QueuedStorage:
        return QueuedStorage(DISK, far, local_options={"location": tmp_path}, **options)

    return make


@pytest.fixture
def storage(make: Callable[..., QueuedStorage]) -> QueuedStorage:
    return make()


@pytest.fixture
def connect() -> Iterator[Callable[[str, Callable[..., None]], None]]:
    """Connect a receiver to the signal of this name until the test ends."""
    connected: list[tuple[Signal, Callable[..., None]]] = []

    def connect(name: str, receiver: Callable[..., None]) -> None:
        signal = getattr(signals, name)
        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)


@pytest.fixture
def seen(connect: Any) -> list[tuple[str, dict[str, Any]]]:
    """The names and arguments of all signals that were sent."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name in NAMES:
        connect(name, recorder(name, found))
    return found


def recorder(signal_name: str, found: list[Any]) -> Callable[..., None]:
    def record(signal: Signal, **kwargs: Any) -> None:
        found.append((signal_name, kwargs))

    return record


def save(storage: QueuedStorage) -> str:
    return storage.save("a.txt", ContentFile(b"text"))


def common(storage: QueuedStorage, name: str) -> dict[str, Any]:
    return {
        "sender": QueuedStorage,
        "name": name,
        "local": storage.local,
        "remote": storage.remote,
    }


def test_module_has_only_these_signals() -> None:
    assert [name for name in vars(signals) if isinstance(getattr(signals, name), Signal)] == [
        *NAMES,
        "file_rejected",
        "remote_changed",
        "local_space_changed",
    ]


def test_file_transferred(storage: QueuedStorage, seen: list[Any]) -> None:
    name = save(storage)
    assert seen == []
    drain(storage)
    ((signal, kwargs),) = seen
    row = kwargs.pop("queued_file")
    assert (signal, kwargs) == ("file_transferred", common(storage, name))
    assert (row.name, row.state, row.remote_name) == (name, State.TRANSFERRED, name)
    assert row.verified
    assert row.transferred_at


def test_transfer_failed_and_retried(
    storage: QueuedStorage, far: FaultyStorage, seen: list[Any]
) -> None:
    far.fault = Fault.REJECT
    name = save(storage)
    (error,) = drain(storage).values()
    ((signal, kwargs),) = seen
    row = kwargs.pop("queued_file")
    assert signal == "transfer_failed"
    assert kwargs == common(storage, name) | {"error": error, "will_retry": True}
    assert (row.state, row.attempts) == (State.PENDING, 1)
    assert "OSError" in row.last_error


def test_transfer_failed_for_good(
    storage: QueuedStorage, far: FaultyStorage, seen: list[Any], settings: Settings
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"RETRIES": 0}
    far.fault = Fault.REJECT
    save(storage)
    drain(storage)
    ((_signal, kwargs),) = seen
    assert kwargs["will_retry"] is False
    assert kwargs["queued_file"].state == State.FAILED


def test_transfer_failed_with_a_permanent_error(storage: QueuedStorage, seen: list[Any]) -> None:
    storage.local.delete(save(storage))
    drain(storage)
    ((_signal, kwargs),) = seen
    assert isinstance(kwargs["error"], LocalFileMissing)
    assert kwargs["will_retry"] is False


def test_transfer_failed_after_false(make: Any, seen: list[Any]) -> None:
    storage = make(task=Refusing)
    save(storage)
    drain(storage)
    ((_signal, kwargs),) = seen
    assert "returned False" in str(kwargs["error"])
    assert kwargs["will_retry"] is True


def test_file_evicted(make: Any, seen: list[Any]) -> None:
    storage = make(task=TransferAndDelete)
    name = save(storage)
    drain(storage)
    assert [signal for signal, _kwargs in seen] == ["file_transferred", "file_evicted"]
    kwargs = seen[1][1]
    row = kwargs.pop("queued_file")
    assert kwargs == common(storage, name)
    assert row.is_local is False
    assert row.evicted_at


@pytest.mark.parametrize("is_transferred", [True, False])
def test_file_deleted(storage: QueuedStorage, seen: list[Any], is_transferred: bool) -> None:
    name = save(storage)
    if is_transferred:
        drain(storage)
        seen.clear()
    storage.delete(name)
    assert seen == []
    drain(storage)
    ((signal, kwargs),) = seen
    row = kwargs.pop("queued_file")
    assert (signal, kwargs) == ("file_deleted", common(storage, name))
    assert (row.name, row.state) == (name, State.DELETING)
    assert not QueuedFile.objects.exists()
    assert storage.save(name, ContentFile(b"new")) == name


def test_failed_delete_sends_no_transfer_failed(
    storage: QueuedStorage, far: FaultyStorage, seen: list[Any]
) -> None:
    name = save(storage)
    drain(storage)
    seen.clear()
    far.fault = Fault.REFUSE
    storage.delete(name)
    assert drain(storage)
    assert seen == []


def test_nothing_is_sent_after_rollback(storage: QueuedStorage, seen: list[Any]) -> None:
    with transaction.atomic():
        save(storage)
        transaction.set_rollback(True)
    drain(storage)
    assert seen == []


def test_the_sender_is_the_class_of_the_storage(
    tmp_path: Path, far: FaultyStorage, connect: Any
) -> None:
    class Own(QueuedStorage):
        local = DISK
        local_options = {"location": tmp_path}

    found: list[Any] = []
    signals.file_transferred.connect(receiver := lambda **kwargs: found.append(kwargs), sender=Own)
    storage = Own(remote=far)
    save(storage)
    drain(storage)
    assert signals.file_transferred.disconnect(receiver, sender=Own)
    assert [kwargs["sender"] for kwargs in found] == [Own]


def test_ledger_is_updated_before_the_receiver(storage: QueuedStorage, connect: Any) -> None:
    found = []
    connect("file_transferred", lambda name, **kwargs: found.append(storage.using_remote(name)))
    save(storage)
    drain(storage)
    assert found == [True]


def fail(**kwargs: Any) -> None:
    raise RuntimeError("the receiver failed")


@pytest.mark.parametrize("name", NAMES)
def test_failing_receiver_is_logged(
    make: Any,
    far: FaultyStorage,
    connect: Any,
    seen: list[Any],
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    storage = make(task=TransferAndDelete)
    connect(name, fail)
    after: list[str] = []
    connect(name, lambda **kwargs: after.append(name))
    if name == "transfer_failed":
        far.fault = Fault.REJECT
        save(storage)
        drain(storage)
        assert QueuedFile.objects.get().state == State.PENDING
    else:
        saved = save(storage)
        drain(storage)
        row = QueuedFile.objects.get()
        assert (row.state, row.is_local) == (State.TRANSFERRED, False)
        storage.delete(saved)
        drain(storage)
        assert not QueuedFile.objects.exists()
        assert not far.exists(saved)
    assert after == [name]
    assert "the receiver failed" in caplog.text


def test_a_receiver_may_use_the_storage(storage: QueuedStorage, connect: Any) -> None:
    connect("file_transferred", lambda name, **kwargs: storage.delete(name))
    save(storage)
    drain(storage)
    assert not QueuedFile.objects.exists()
