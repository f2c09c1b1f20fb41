"""Tools for the tests of projects, queue adapters and remotes."""

import enum
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any, cast
from unittest import SkipTest, mock

from django.core.exceptions import ImproperlyConfigured
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage, Storage, storages
from django.utils.deconstruct import deconstructible
from django.utils.module_loading import import_string

from .backends import QueuedStorage
from .exceptions import TransferTimeout
from .ledger.aliases import AliasedStorage, known_storages
from .ledger.database import ledger
from .ledger.models import QueuedFile
from .ledger.names import is_reserved
from .ledger.states import State
from .maintenance import sweep
from .operations.contract import check_remote
from .operations.jobs import run_due
from .queues import BaseQueue
from .queues.threads import stop_all
from .reporting.logs import logger
from .storage.results import obstacle
from .transfers import copying, mounting, preparing, probing, signs, watching
from .transfers.gates import gates
from .transfers.work import run_claimed

ASIDE = 2.0  # seconds for which to wait for threads that enqueue files or try out a remote
ENQUEUE_MAX = 1.5  # seconds that enqueue() may take, even if the broker is down


def drain(storage: Storage | None = None, *, timeout: float = 60) -> dict[int, Exception]:
    """Process every due file synchronously, regardless of the configured queue.

    A remote that is closed is probed first; its files are processed if it works again. Jobs that
    were requested in the admin are processed too. With ``storage``, only its files are processed.
    Nothing has to be committed, so this works inside ``TestCase``. Return the exceptions of failed
    attempts by the row's id. Retries that are due later are not waited for.
    ``TransferTimeout`` is raised if files are still due after ``timeout`` seconds.
    """
    chosen = [cast(AliasedStorage, storage)] if storage else known_storages()
    aliases = [each.alias for each in chosen]
    probing.probe_closed(aliases)
    deadline = time.monotonic() + timeout
    errors: dict[int, Exception] = {}
    for alias in preparing.aliases_with_steps(aliases):
        errors |= preparing.run_due(alias, lambda: time.monotonic() > deadline)
    while (opened := gates.open_of(aliases)) and (row := _due_row(opened)):
        error = run_claimed(row)
        if error:
            errors[row.pk] = error
        if time.monotonic() > deadline:
            why = obstacle(ledger().filter(pk=row.pk).first() or row)
            raise TransferTimeout(f"Files are still due after {timeout} seconds.{why}")
    for mirror in copying.open_mirrors(aliases):
        errors |= copying.make_due(mirror, lambda: time.monotonic() > deadline)
    run_due(aliases, lambda: time.monotonic() > deadline)
    return errors


def _due_row(aliases: list[str]) -> QueuedFile | None:
    for row in ledger().claim_due(1, aliases):
        return row
    return ledger().claim_suspect(ledger().filter(alias__in=aliases).suspects())


def stop_threads(timeout: float | None = 10) -> bool:
    """Stop the threads of ``ThreadQueue``; return whether they ended within ``timeout`` seconds.

    They end after the files that they are processing. The next commit starts new ones.
    """
    watching.stop()
    mounting.wait(ASIDE)
    signs.wait(ASIDE)
    return stop_all(timeout)


class QueuedStorageRunnerMixin:
    """Stops the threads of ``ThreadQueue`` before the test databases are deleted.

    Make it the first base of your ``TEST_RUNNER``.
    """

    def teardown_databases(self, *args: Any, **kwargs: Any) -> None:
        if not stop_threads():
            logger.warning(
                "A file is still being processed, so the test database may be in use. "
                "Does a FaultyStorage hang? Reset its fault at the end of the test."
            )
        super().teardown_databases(*args, **kwargs)  # type: ignore[misc]  # of the runner


class Fault(enum.StrEnum):
    """The ways in which a ``FaultyStorage`` misbehaves."""

    REFUSE = "refuse"  # every call raises ConnectionError
    SLOW = "slow"  # every call takes ``delay`` seconds longer
    HANG = "hang"  # every call blocks until the fault changes
    HALFWAY = "halfway"  # save() stores the first half, then raises ConnectionError
    LOSE = "lose"  # save() reports success and stores nothing
    TRUNCATE = "truncate"  # save() reports success and stores the first half
    FLIP = "flip"  # save() reports success and stores one bit changed
    RENAME = "rename"  # save() stores under another name and returns that
    MISPLACE = "misplace"  # save() stores under another name and returns the requested one
    REJECT = "reject"  # save() raises OSError for every file, although the remote works
    HIDE = "hide"  # stored files cannot be seen, as where listings are delayed


@deconstructible(path="queued_storage.testing.FaultyStorage")
class FaultyStorage(Storage):
    """A wrapper of another storage that misbehaves while ``fault`` is set.

    ``storage`` is a storage, an alias of ``STORAGES``, or a dotted path, which takes ``options``.
    ``calls`` counts the calls to the remote by method. While a call hangs, ``hanging`` is set.
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
        if attribute == "storage":  # does not exist yet while this is copied or unpickled
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
            case Fault.REJECT if not is_reserved(name):
                raise OSError("The remote rejects the file.")
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
        raise ImproperlyConfigured(f"{sorted(options)}: only a dotted path takes options.")
    return storage


def _result_without_files(method: str) -> Any:
    if method == "exists":
        return False
    if method == "listdir":
        return [], []
    raise FileNotFoundError("The file cannot be seen yet.")


def _passed_on(method: str, *, counted: bool) -> Callable[..., Any]:
    def passed_on(self: FaultyStorage, *args: Any, **kwargs: Any) -> Any:
        if counted:
            self._call(method)
            if self.fault == Fault.HIDE and method != "delete":
                return _result_without_files(method)
        return getattr(self.storage, method)(*args, **kwargs)

    passed_on.__name__ = method
    return passed_on


for _method in ("delete", "exists", "listdir", "open", "size"):
    setattr(FaultyStorage, _method, _passed_on(_method, counted=True))
for _method in ("get_accessed_time", "get_created_time", "get_modified_time"):
    setattr(FaultyStorage, _method, _passed_on(_method, counted=True))
# These send no request to a remote. save() looks for an available name by itself.
for _method in ("generate_filename", "get_alternative_name", "get_valid_name", "path", "url"):
    setattr(FaultyStorage, _method, _passed_on(_method, counted=False))


class QueueContract:
    """The tests that a queue adapter must pass, as methods for any test class.

    Make it the first base of a ``TransactionTestCase`` (or of a class with
    ``@pytest.mark.django_db(transaction=True)``), and define how the queue is made and processed.
    The workers must be threads of this process, or the thread of the test.
    """

    def make_queue(self) -> BaseQueue:
        """Return the queue to test; each test calls this once."""
        raise NotImplementedError  # your test class implements it

    def run_workers(self) -> None:
        """Return after everything that was enqueued has been processed."""
        raise NotImplementedError  # your test class implements it

    def messages(self) -> list[str]:
        """Return the messages in the broker, as text."""
        raise SkipTest("The messages of this queue cannot be read.")

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

    def test_a_message_contains_only_ids(self) -> None:
        bench = _Bench(self.make_queue())
        pks = [bench.record("private.txt"), bench.record("secret.txt")]
        bench.queue.enqueue(pks)
        text = "\n".join(self.messages())
        for pk in pks:
            assert str(pk) in text
        for word in ("private", "secret", bench.storage.alias):
            assert word not in text, f"{word!r} is in {text}"
        self.run_workers()

    def test_a_repeated_message_transfers_once(self) -> None:
        bench = _Bench(self.make_queue())
        pk = bench.save("a.txt")
        bench.queue.enqueue([pk])
        bench.queue.enqueue([pk, pk])
        self.run_workers()
        assert bench.state(pk) == State.TRANSFERRED
        assert bench.remote.calls["save"] == 1
        assert bench.row(pk).attempts == 1

    def test_a_sweep_finds_files_of_lost_messages(self) -> None:
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

    def test_a_failing_file_does_not_stop_others(self) -> None:
        bench = _Bench(self.make_queue())
        pks = [bench.record(name) for name in ("a.txt", "b.txt", "c.txt")]
        bench.storage.local.delete("b.txt")
        bench.queue.enqueue(pks)
        self.run_workers()
        states = [bench.state(pk) for pk in pks]
        assert states == [State.TRANSFERRED, State.FAILED, State.TRANSFERRED]

    def test_a_full_message_is_processed(self) -> None:
        bench = _Bench(self.make_queue())
        pks = [bench.record(f"{number}.txt") for number in range(bench.queue.batch_size)]
        bench.queue.enqueue(pks)
        self.run_workers()
        assert {bench.state(pk) for pk in pks} == {State.TRANSFERRED}


class RemoteContract:
    """The checks of ``check-remote``, as a test method for any test class.

    ``tolerated`` contains the names of checks whose failures are ignored.
    """

    tolerated: frozenset[str] = frozenset()

    def make_remote(self) -> Storage:
        """Return the remote to test."""
        raise NotImplementedError  # your test class implements it

    def test_the_remote_keeps_the_contract(self) -> None:
        findings = list(check_remote(self.make_remote()))
        problems = [each for each in findings if each.is_problem]
        unexpected = [str(each) for each in problems if each.check not in self.tolerated]
        assert not unexpected, "\n".join(unexpected)


class _Bench:
    """A queued storage that uses the tested queue."""

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
