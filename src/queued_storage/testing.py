"""For tests: ``drain``, ``FaultyStorage``, and the contracts of queue adapters and of remotes."""

import enum
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import SkipTest, mock

from django.core.exceptions import ImproperlyConfigured
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage, Storage, storages
from django.utils.deconstruct import deconstructible
from django.utils.module_loading import import_string

from .backends import QueuedStorage
from .exceptions import TransferTimeout
from .ledger.aliases import known_storages
from .ledger.database import ledger
from .ledger.models import QueuedFile
from .ledger.states import State
from .maintenance import sweep
from .operations.contract import check_remote
from .queues import BaseQueue
from .transfers.work import run_claimed

ENQUEUE_MAX = 1.5  # seconds that a queue may take to be told, dead brokers included


def drain(storage: Any = None, *, timeout: float = 60) -> dict[int, Exception]:
    """Do all that is due, of one storage or of every one, here and now, whatever their queues are.

    It needs no commit, so it works inside ``TestCase``. Returns the errors of failed attempts by
    the row's id. Later tries are not due yet and are not waited for. ``TransferTimeout`` is raised
    if more falls due for longer than ``timeout`` seconds.
    """
    aliases = [storage.alias] if storage else [known.alias for known in known_storages()]
    deadline = time.monotonic() + timeout
    errors: dict[int, Exception] = {}
    while aliases and (rows := ledger().claim_due(1, aliases)):
        error = run_claimed(rows[0])
        if error:
            errors[rows[0].pk] = error
        if time.monotonic() > deadline:
            raise TransferTimeout(f"Files still fall due after {timeout} seconds.")
    return errors


class Fault(enum.StrEnum):
    """What can be wrong with a ``FaultyStorage``."""

    REFUSE = "refuse"  # every call raises ConnectionError
    SLOW = "slow"  # every call takes ``delay`` seconds longer
    HANG = "hang"  # every call waits until the fault is another one
    HALFWAY = "halfway"  # save() stores the first half, then raises ConnectionError
    LOSE = "lose"  # save() reports success and stores nothing
    TRUNCATE = "truncate"  # save() reports success and stores the first half
    FLIP = "flip"  # save() reports success and stores one bit changed
    RENAME = "rename"  # save() stores under another name and returns that
    MISPLACE = "misplace"  # save() stores under another name and returns the one asked for
    HIDE = "hide"  # nothing that is stored can be seen: listings lag behind


@deconstructible(path="queued_storage.testing.FaultyStorage")
class FaultyStorage(Storage):
    """A storage in front of another one that misbehaves while ``fault`` is set.

    ``storage`` is a storage, an alias of ``STORAGES``, or a dotted path that goes with ``options``.
    ``calls`` counts the calls that a real remote would be asked for, by method. While a call
    hangs, ``hanging`` is set.
    """

    delay = 0.1  # seconds

    def __init__(
        self,
        storage: Storage | str = "django.core.files.storage.InMemoryStorage",
        fault: Fault | str | None = None,
        **options: Any,
    ) -> None:
        self.storage = _storage_of(storage, options)
        self.calls: Counter[str] = Counter()
        self.hanging = threading.Event()
        self._changed = threading.Condition()
        self.fault = fault

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | str | None) -> None:
        with self._changed:
            self._fault = None if fault is None else Fault(fault)
            self._changed.notify_all()

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "storage":  # not there yet: while this is copied or unpickled
            raise AttributeError(attribute)
        return getattr(self.storage, attribute)

    def save(self, name: str | None, content: Any, max_length: int | None = None) -> str:
        self._call("save")
        return self._saved(name or content.name, content, max_length)

    def _saved(self, name: str, content: Any, max_length: int | None) -> str:
        save = self.storage.save
        match self.fault:
            case Fault.LOSE:
                for _chunk in content.chunks():
                    pass
                return name
            case Fault.RENAME:
                return save(f"{name}.renamed", content, max_length=max_length)
            case Fault.MISPLACE:
                save(f"{name}.misplaced", content, max_length=max_length)
                return name
            case Fault.FLIP:
                return save(name, _flipped(content), max_length=max_length)
            case Fault.TRUNCATE:
                return save(name, _half(content), max_length=max_length)
            case Fault.HALFWAY:
                save(name, _half(content), max_length=max_length)
                raise ConnectionError("The connection was lost halfway.")
        return save(name, content, max_length=max_length)

    def _call(self, method: str) -> None:
        with self._changed:
            self.calls[method] += 1
            while self._fault == Fault.HANG:
                self.hanging.set()
                self._changed.wait()
            self.hanging.clear()
        if self.fault == Fault.SLOW:
            time.sleep(self.delay)
        if self.fault == Fault.REFUSE:
            raise ConnectionError("The connection was refused.")


def _half(content: File) -> File:
    data = b"".join(content.chunks())
    return ContentFile(data[: len(data) // 2])


def _flipped(content: File) -> File:
    data = bytearray(b"".join(content.chunks()))
    if data:
        data[len(data) // 2] ^= 1
    return ContentFile(bytes(data))


def _storage_of(storage: Storage | str, options: dict[str, Any]) -> Storage:
    if isinstance(storage, str):
        if storage in storages.backends:
            storage = storages[storage]
        else:
            made: Storage = import_string(storage)(**options)
            return made
    if options:
        raise ImproperlyConfigured(f"{sorted(options)}: options go with a dotted path.")
    return storage


def _of_nothing(method: str) -> Any:
    if method == "exists":
        return False
    if method == "listdir":
        return [], []
    raise FileNotFoundError("Nothing is seen there yet.")


def _passed_on(method: str, *, counted: bool) -> Callable[..., Any]:
    def passed_on(self: FaultyStorage, *args: Any, **kwargs: Any) -> Any:
        if counted:
            self._call(method)
            if self.fault == Fault.HIDE and method != "delete":
                return _of_nothing(method)
        return getattr(self.storage, method)(*args, **kwargs)

    passed_on.__name__ = method
    return passed_on


for _method in ("delete", "exists", "listdir", "open", "size"):
    setattr(FaultyStorage, _method, _passed_on(_method, counted=True))
for _method in ("get_accessed_time", "get_created_time", "get_modified_time"):
    setattr(FaultyStorage, _method, _passed_on(_method, counted=True))
# What a remote is not asked for. A name to save under is looked for inside save().
for _method in ("generate_filename", "get_alternative_name", "get_valid_name", "path", "url"):
    setattr(FaultyStorage, _method, _passed_on(_method, counted=False))


class QueueContract:
    """What a queue adapter must do, as test methods for any test class.

    Put it first in front of ``TransactionTestCase`` (or a class with
    ``@pytest.mark.django_db(transaction=True)``) and say how the queue is made and worked on.
    The workers must be threads of this process, or the test's own.
    """

    def make_queue(self) -> BaseQueue:
        """The queue to test; each test asks once."""
        raise NotImplementedError

    def run_workers(self) -> None:
        """See to it that all that was enqueued has been worked on."""
        raise NotImplementedError

    def messages(self) -> list[str]:
        """All that the broker holds at the moment, as text."""
        raise SkipTest("This queue's messages cannot be read.")

    # The contract

    def test_a_saved_file_is_transferred(self) -> None:
        bench = _Bench(self.make_queue())
        pk = bench.save("a.txt")
        self.run_workers()
        assert bench.state(pk) == State.TRANSFERRED
        assert bench.remote_bytes("a.txt") == b"a.txt"

    def test_enqueue_returns_soon(self) -> None:
        queue = self.make_queue()
        started = time.monotonic()
        queue.enqueue([_Bench(queue).record("a.txt")])
        took = time.monotonic() - started
        assert took < ENQUEUE_MAX, f"enqueue() took {took:.1f} seconds"
        self.run_workers()

    def test_a_message_carries_ids_and_nothing_else(self) -> None:
        bench = _Bench(self.make_queue())
        pks = [bench.record("private.txt"), bench.record("secret.txt")]
        bench.queue.enqueue(pks)
        text = "\n".join(self.messages())
        for pk in pks:
            assert str(pk) in text
        for word in ("private", "secret", bench.storage.alias):
            assert word not in text, f"{word!r} is in {text}"
        self.run_workers()

    def test_the_same_message_twice_transfers_once(self) -> None:
        bench = _Bench(self.make_queue())
        pk = bench.save("a.txt")
        bench.queue.enqueue([pk])
        bench.queue.enqueue([pk, pk])
        self.run_workers()
        assert bench.state(pk) == State.TRANSFERRED
        assert bench.remote.calls["save"] == 1
        assert bench.row(pk).attempts == 1

    def test_a_lost_message_is_made_up_for_by_a_sweep(self) -> None:
        bench = _Bench(self.make_queue())
        pk = bench.record("a.txt")
        assert bench.state(pk) == State.PENDING
        assert sweep(bench.storage.alias) == 1
        self.run_workers()
        assert bench.state(pk) == State.TRANSFERRED

    def test_an_id_without_a_row_is_harmless(self) -> None:
        bench = _Bench(self.make_queue())
        pk = bench.record("a.txt")
        bench.queue.enqueue([pk + 1_000_000, pk])
        self.run_workers()
        assert bench.state(pk) == State.TRANSFERRED

    def test_a_file_that_fails_does_not_stop_its_neighbours(self) -> None:
        bench = _Bench(self.make_queue())
        pks = [bench.record(name) for name in ("a.txt", "b.txt", "c.txt")]
        bench.storage.local.delete("b.txt")
        bench.queue.enqueue(pks)
        self.run_workers()
        states = [bench.state(pk) for pk in pks]
        assert states == [State.TRANSFERRED, State.FAILED, State.TRANSFERRED]

    def test_a_full_message_is_worked_on(self) -> None:
        bench = _Bench(self.make_queue())
        pks = [bench.record(f"{number}.txt") for number in range(bench.queue.batch_size)]
        bench.queue.enqueue(pks)
        self.run_workers()
        assert {bench.state(pk) for pk in pks} == {State.TRANSFERRED}


class RemoteContract:
    """What a remote must do, as a test method for any test class; see ``check-remote``.

    ``tolerated`` names the checks whose problems are known and put up with.
    """

    tolerated: frozenset[str] = frozenset()

    def make_remote(self) -> Storage:
        """The remote to try."""
        raise NotImplementedError

    def test_the_remote_keeps_the_contract(self) -> None:
        findings = list(check_remote(self.make_remote()))
        problems = [each for each in findings if each.is_problem]
        unexpected = [str(each) for each in problems if each.check not in self.tolerated]
        assert not unexpected, "\n".join(unexpected)


class _Bench:
    """A storage on the queue under test."""

    def __init__(self, queue: BaseQueue) -> None:
        self.queue = queue
        self.remote = FaultyStorage(InMemoryStorage())
        self.storage = QueuedStorage(
            local=InMemoryStorage(),
            remote=self.remote,
            alias=f"contract-{uuid.uuid4().hex}",
            queue=queue,
        )

    def save(self, name: str) -> int:
        self.storage.save(name, ContentFile(name.encode()))
        row = self.storage.queued_file(name)
        assert row is not None
        return row.pk

    def record(self, name: str) -> int:
        """Save a file whose message is lost."""
        with mock.patch.object(self.queue, "enqueue", return_value=None):
            return self.save(name)

    def row(self, pk: int) -> QueuedFile:
        return ledger().get(pk=pk)

    def state(self, pk: int) -> str:
        return self.row(pk).state

    def remote_bytes(self, name: str) -> bytes:
        with self.remote.storage.open(name) as file:
            data: bytes = file.read()
        return data
