"""Failures of the environment: the database, the cache, the broker, the clock and the disk."""

import contextlib
import errno
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import kombu
import pytest
import redis
from celery import Celery
from django.core.files.storage import FileSystemStorage
from django.db import InterfaceError, OperationalError, connection, connections, transaction
from django.db.backends.signals import connection_created
from django.db.models import F
from django.utils import timezone
from pytest_django import Settings

import queued_storage
from queued_storage.exceptions import LocalFileChanged, LocalFileMissing
from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql import outages
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.queues import celery as adapter
from queued_storage.queues.celery import CeleryQueue
from queued_storage.signals import file_transferred, transfer_failed
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.transfers import work
from tests.support import services
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.scripted import (
    ScriptedStorage,
    Step,
    disk,
    file,
    files_in,
    make,
    make_due,
    mark,
    on_disk,
    read,
    row,
)
from tests.support.waiting import SOON

pytestmark = pytest.mark.django_db(transaction=True)

TABLE = QueuedFile._meta.db_table
LOST = (OperationalError, InterfaceError)


class Evict(Step, TransferAndDelete):
    """A Step that evicts the local copy."""


is_server = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite has no connection that can be lost"
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(outages, "PAUSES", (0.01, 0.02))
    yield
    reconnected()


# The connection to the database


def cut() -> None:
    """Make the server close this thread's connection, as an administrator or a restart would."""
    if connection.vendor == "postgresql":
        ask = "SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"
    else:
        ask = "SELECT CONNECTION_ID()", "KILL {}"
    with connection.connection.cursor() as cursor:
        cursor.execute(ask[0])
        (ident,) = cursor.fetchone()
    with contextlib.closing(connection.copy()) as other, other.cursor() as cursor:
        cursor.execute(ask[1].format(ident))
    while True:  # until the server has closed it
        try:
            with connection.connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except Exception:
            return


class Cutter:
    """Cuts the connection before or after the ledger statement with this number.

    ``times`` is the number of consecutive statements at which it does so.
    """

    def __init__(self, number: int, *, before: bool, kind: str = "", times: int = 1) -> None:
        self.left = number
        self.before = before
        self.times = times
        self.kind = kind
        self.statement = ""

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        is_meant = TABLE in sql and sql.startswith(self.kind)
        self.left -= is_meant
        if not is_meant or not -self.times <= self.left <= -1:
            return execute(sql, params, many, context)
        self.statement = sql
        answer = None if self.before else execute(sql, params, many, context)
        cut()
        if self.before:
            answer = execute(sql, params, many, context)
        with connection.wrap_database_errors:
            connection.connection.cursor().execute("SELECT 1")  # fails: the answer is lost
        return answer


def reconnected() -> None:
    with contextlib.suppress(Exception):
        connection.close()
    connection.ensure_connection()


def deliver_with(storage: Any, cutter: Cutter, name: str = "a.txt") -> None:
    """Deliver all messages while the cutter watches the statements, and reconnect."""
    with connection.execute_wrapper(cutter):
        storage.queue.deliver()
    reconnected()


@is_server
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_worker_survives_lost_connection_at_any_statement(before: bool) -> None:
    """Cut the connection at each statement of a transfer, an eviction and a delete in turn."""
    seen = []
    for number in range(100):
        storage = make(task=TransferAndDelete)
        name = storage.save("a.txt", file(b"precious"))
        cutter = Cutter(number, before=before)
        deliver_with(storage, cutter)
        if found := storage.queued_file(name):
            assert read(storage, name) == b"precious"
            if found.state != State.TRANSFERRED or found.is_local:
                assert found.due_at is not None, cutter.statement  # so a worker retries it
                make_due(storage, name)
                storage.queue.messages.append([found.pk])
                storage.queue.deliver()
        found = row(storage, name)
        assert (found.state, found.is_local) == (State.TRANSFERRED, False), cutter.statement
        assert on_disk() == []
        assert on_disk("far") == [name]
        assert read(storage, name) == b"precious"

        storage.delete(name)
        deliver_with(storage, cutter)
        if storage.queued_file(name):
            make_due(storage, name)
            assert sweep(storage.alias) == 1
            storage.queue.deliver()
        assert storage.queued_file(name) is None
        assert on_disk("far") == []
        if not cutter.statement:
            break
        seen.append(cutter.statement.split()[0])
    assert seen.count("UPDATE") >= 6
    assert "DELETE" in seen


@is_server
def test_worker_repeats_a_write_after_lost_connection() -> None:
    """Otherwise, a transfer that outlasts the server's timeout for idle connections would be
    repeated forever."""
    for number in range(100):
        storage = make()
        name = storage.save("a.txt", file())
        cutter = Cutter(number, before=True, kind="UPDATE")
        with connection.execute_wrapper(cutter):
            assert storage.queue.deliver() == {}, cutter.statement
        assert (row(storage, name).state, row(storage, name).attempts) == (State.TRANSFERRED, 1)
        assert storage.remote.calls["_save"] == 1
        ledger().all().delete()
        storage.remote.delete(name)
        disk().delete(name)
        if not cutter.statement:
            break
    assert number == 3  # the claim, the remote name and the promotion


@is_server
@pytest.mark.parametrize("task", [Transfer, TransferAndDelete])
def test_promotion_with_lost_answer_is_signalled(task: type[Transfer]) -> None:
    signals: list[str] = []

    def record_signal(*, queued_file: QueuedFile, **_kwargs: object) -> None:
        signals.append(queued_file.name)

    storage = make(task=task)
    name = storage.save("a.txt", file())
    promotion = Cutter(2, before=False, kind="UPDATE")  # after the claim and the remote name
    file_transferred.connect(record_signal)
    try:
        with connection.execute_wrapper(promotion):
            assert storage.queue.deliver() == {}
    finally:
        file_transferred.disconnect(record_signal)
    assert promotion.statement
    assert signals == [name]
    assert (row(storage, name).state, row(storage, name).attempts) == (State.TRANSFERRED, 1)
    assert row(storage, name).due_at is None
    assert on_disk() == ([] if task is TransferAndDelete else [name])


@is_server
@pytest.mark.parametrize("retries", [0, 1])
def test_failure_with_lost_answer_is_signalled(
    retries: int, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"RETRIES": retries}
    signals: list[bool] = []

    def record_signal(*, will_retry: bool, **_kwargs: object) -> None:
        signals.append(will_retry)

    storage = make()
    storage.remote.rejects = True
    name = storage.save("a.txt", file())
    pk = row(storage, name).pk
    end = Cutter(1, before=False, kind="UPDATE")  # after the claim
    transfer_failed.connect(record_signal)
    try:
        with connection.execute_wrapper(end):
            errors = storage.queue.deliver()
    finally:
        transfer_failed.disconnect(record_signal)
    assert end.statement
    assert list(errors) == [pk]
    assert signals == [bool(retries)]
    assert "failed: OSError: The remote rejects the file." in caplog.text
    found = row(storage, name)
    assert (found.state, len(found.failures)) == (["failed", "pending"][retries], 1)


@is_server
def test_delete_with_lost_answer_takes_effect() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    far = storage.url(name)  # which also caches it
    with connection.execute_wrapper(Cutter(0, before=False, kind="UPDATE")):
        storage.delete(name)
    assert on_disk() == []
    assert storage.url(name) != far
    storage.queue.deliver()
    assert on_disk("far") == []
    assert storage.queued_file(name) is None


@is_server
def test_lost_connection_skips_one_file_of_a_message() -> None:
    storage = make()
    names = [storage.save(f"{number}.txt", file()) for number in range(4)]
    claim_of_the_second = 3  # after the first file's claim, name and promotion
    tries = len(outages.PAUSES) + 1
    with connection.execute_wrapper(
        Cutter(claim_of_the_second, before=True, kind="UPDATE", times=tries)
    ):
        errors = storage.queue.deliver()
    assert list(errors) == [row(storage, names[1]).pk]
    states = [row(storage, name).state for name in names]
    assert states == ["transferred", "pending", "transferred", "transferred"]


@is_server
def test_claim_with_lost_answer_is_repeated_later() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    with connection.execute_wrapper(Cutter(0, before=False, kind="UPDATE")):
        assert storage.queue.deliver() == {}
    if row(storage, name).state == State.TRANSFERRING:  # otherwise it read the row again
        assert work.run(row(storage, name).pk) is None
        assert row(storage, name).state == State.TRANSFERRING
        assert work.run(make_due(storage, name)) is None
    assert row(storage, name).state == State.TRANSFERRED


@is_server
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("atomic", [True, False], ids=["in a transaction", "alone"])
def test_save_with_lost_connection_leaves_no_file(before: bool, atomic: bool) -> None:
    storage = make()
    storage.alias  # noqa: B018
    mark(storage.location)
    with (
        pytest.raises(LOST),
        connection.execute_wrapper(Cutter(0, before=before)),
        transaction.atomic() if atomic else contextlib.nullcontext(),
    ):
        storage.save("a.txt", file())
    reconnected()
    assert on_disk() == []
    storage.queue.deliver()
    if atomic or before:
        assert not QueuedFile.objects.exists()
    else:  # the row was written, but no worker was notified
        assert isinstance(work.run(row(storage, "a.txt").pk), LocalFileMissing)
        assert row(storage, "a.txt").state == State.FAILED
    assert storage.save("b.txt", file()) == "b.txt"


@is_server
def test_delete_with_lost_connection_can_be_repeated() -> None:
    for before in (True, False):
        for number in range(100):
            storage = make()
            name = storage.save("a.txt", file())
            storage.queue.deliver()
            cutter = Cutter(number, before=before)
            with connection.execute_wrapper(cutter), contextlib.suppress(*LOST):
                storage.delete(name)
            reconnected()
            storage.delete(name)
            make_due(storage, name)
            sweep(storage.alias)
            storage.queue.deliver()
            assert storage.queued_file(name) is None, cutter.statement
            assert (on_disk(), on_disk("far")) == ([], []), cutter.statement
            if not cutter.statement:
                break
        assert number > 1


@is_server
def test_nothing_is_repeated_inside_a_transaction() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    cutter = Cutter(0, before=True, kind="UPDATE")
    with (
        pytest.raises(LOST),
        connection.execute_wrapper(cutter),
        transaction.atomic(),
    ):
        storage.transfer(name)
    reconnected()
    assert cutter.left == -1
    assert row(storage, name).state == State.PENDING


@is_server
def test_lost_commit_transfers_nothing() -> None:
    storage = make()

    def save_and_lose() -> None:
        with transaction.atomic():
            storage.save("a.txt", file())
            cut()

    with pytest.raises(LOST):
        save_and_lose()
    reconnected()
    assert storage.queue.messages == []
    assert not QueuedFile.objects.exists()


# Locks


@contextlib.contextmanager
def locked(pk: int, seconds: float) -> Iterator[None]:
    """Lock the row, on SQLite the whole database, in another thread for some seconds."""
    holds = threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                ledger().filter(pk=pk).update(content_type="held")
                holds.set()
                time.sleep(seconds)
        finally:
            connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(10)
    yield
    holder.join()


@pytest.fixture
def short_lock_timeout() -> Iterator[None]:
    """Give this thread's connections a short lock timeout."""
    say = {
        "postgresql": "SET lock_timeout = '200ms'",
        "mysql": "SET SESSION innodb_lock_wait_timeout = 1",
        "sqlite": "PRAGMA busy_timeout = 200",
    }
    thread = threading.get_ident()

    def tell(connection: Any, **kwargs: Any) -> None:
        if threading.get_ident() == thread:
            with connection.cursor() as cursor:
                cursor.execute(say[connection.vendor])

    connection.close()
    connection_created.connect(tell)
    yield
    connection_created.disconnect(tell)
    connection.close()


@pytest.mark.usefixtures("short_lock_timeout")
def test_worker_waits_again_for_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "PAUSES", (0.3, 1))
    with contextlib.ExitStack() as locks:

        def lock(*args: Any) -> None:
            seconds = 1.3 if connection.vendor == "mysql" else 0.4
            locks.enter_context(locked(row(storage, name).pk, seconds))

        storage = make(task=Step(lock))
        name = storage.save("a.txt", file())
        assert storage.queue.deliver() == {}
    assert (row(storage, name).state, row(storage, name).attempts) == (State.TRANSFERRED, 1)


@pytest.mark.usefixtures("short_lock_timeout")
def test_long_lock_only_delays_the_file() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    with locked(row(storage, name).pk, 4 if connection.vendor == "mysql" else 1):
        errors = list(storage.queue.deliver().values())
    if connection.vendor == "sqlite":  # others skip locked rows
        [error] = errors
        assert isinstance(error, OperationalError)
    else:
        assert errors == []
    assert sweep(storage.alias) == 1
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED


@pytest.mark.usefixtures("short_lock_timeout")
@pytest.mark.skipif(connection.vendor != "sqlite", reason="others lock rows, not the database")
def test_save_into_a_locked_database_leaves_nothing() -> None:
    storage = make()
    other = storage.save("other.txt", file())
    with locked(row(storage, other).pk, 1), pytest.raises(OperationalError, match="locked"):
        storage.save("a.txt", file())
    assert on_disk() == [other]
    assert storage.save("a.txt", file()) == "a.txt"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="uses isolation levels of PostgreSQL")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_statement_is_repeated_after_serialization_failure(level: str) -> None:
    failures = []

    def watch(execute: Any, *args: Any) -> Any:
        try:
            return execute(*args)
        except OperationalError as error:
            failures.append(error)
            raise

    def lock(*args: Any) -> None:
        locks.enter_context(locked(row(storage, name).pk, 0.3))

    storage = make(task=Step(lock))
    name = storage.save("a.txt", file())
    with connection.cursor() as cursor:
        cursor.execute(f"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}")
    try:
        with contextlib.ExitStack() as locks, connection.execute_wrapper(watch):
            assert storage.queue.deliver() == {}
    finally:
        connection.close()
    assert "could not serialize" in str(failures[0])
    assert row(storage, name).state == State.TRANSFERRED


@is_server
def test_deadlocked_transaction_can_be_repeated() -> None:
    """Two requests delete the same two files in opposite order."""
    storage = make()
    names = [storage.save(f"{number}.txt", file()) for number in range(2)]
    storage.queue.deliver()
    both = threading.Barrier(2)
    errors: list[OperationalError] = []

    def delete(names: list[str]) -> None:
        with transaction.atomic():
            storage.delete(names[0])
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(5)
            storage.delete(names[1])

    def request(names: list[str]) -> None:
        try:
            delete(names)
        except OperationalError as error:
            errors.append(error)
            both.abort()
            delete(names)
        finally:
            connections.close_all()

    requests = [threading.Thread(target=request, args=(order,)) for order in (names, names[::-1])]
    for each in requests:
        each.start()
    for each in requests:
        each.join()
    assert len(errors) == 1
    assert "eadlock" in str(errors[0])
    storage.queue.deliver()
    assert not QueuedFile.objects.exists()
    assert (on_disk(), on_disk("far")) == ([], [])


# The cache


@pytest.mark.one_database
def test_cache_outage_changes_no_answer(
    redis_url: str, queue_name: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    where = services.address("redis")
    with FaultProxy(where.port or 6379) as proxy:
        settings.CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": f"redis://127.0.0.1:{proxy.port}{where.path}",
                "KEY_PREFIX": queue_name,
            }
        }
        storage = make(task=TransferAndDelete)
        name = storage.save("a.txt", file())
        storage.queue.deliver()
        remote_url = f"https://far.example/{name}"
        assert storage.url(name) == remote_url
        assert (
            storage._routes.find(name, [storage.remote_place.digest]) is not None
        )  # the cache works
        assert not caplog.records

        proxy.mode = Mode.REFUSE
        started = time.monotonic()
        assert storage.url(name) == remote_url
        assert storage.urls([name]) == {name: remote_url}
        assert storage.using_remote(name)
        assert read(storage, name) == b"bytes"
        other = storage.save("other.txt", file())
        assert storage.queue.deliver() == {}
        assert storage.url(other) == f"https://far.example/{other}"
        storage.delete(name)
        assert not storage.exists(name)
        assert storage.queue.deliver() == {}
        assert storage.queued_file(name) is None
        assert time.monotonic() - started < SOON
        assert "The cache is not used: ConnectionError" in caplog.text

        proxy.mode = Mode.OK  # its entries are older than the delete
        assert not storage.exists(name)
        assert storage.save(name, file(b"new")) == name
        assert read(storage, name) == b"new"


# The broker (for one that is down, see tests/queues/contracts.py)


def test_flushed_broker_with_duplicates_transfers_files_once(
    redis_url: str, queue_name: str
) -> None:
    app = Celery("tests", broker=redis_url, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": f"{queue_name}:"}
    storage = make(queue=CeleryQueue(app, queue=queue_name))
    names = [storage.save(f"{number}.txt", file()) for number in range(5)]

    def sent() -> list[list[int]]:
        with app.connection_for_read() as broker:
            queue = kombu.Queue(queue_name)(broker.default_channel)
            messages = list(iter(lambda: queue.get(no_ack=True), None))
        return [json.loads(message.body)[0][0] for message in messages]

    with redis.Redis.from_url(redis_url) as client:
        client.delete(*client.scan_iter(f"{queue_name}:*"))
    assert sent() == []
    assert sweep(storage.alias) == 5
    assert sweep(storage.alias) == 5  # so each file is enqueued twice
    messages = sent() * 2
    pks = [row(storage, name).pk for name in names]
    assert messages == [pks] * 4

    def work(pks: list[int]) -> None:
        app.tasks["queued_storage.run"](pks)
        connections.close_all()

    workers = [threading.Thread(target=work, args=(pks,)) for pks in messages]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert storage.remote.calls["_save"] == 5
    assert {row(storage, name).attempts for name in names} == {1}
    assert {row(storage, name).state for name in names} == {State.TRANSFERRED}
    assert on_disk("far") == names
    for producer in adapter._producers_of(app)._idle:
        producer.connection.close()
    app.close()


# The clock

HOUR = timedelta(hours=1)
steps = pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forth", "back"])


def step_clock(step: timedelta) -> None:
    """Simulate a step of the database's clock by shifting all times in the rows the other way."""
    ledger().update(due_at=F("due_at") - step, saved_at=F("saved_at") - step)


@pytest.mark.one_database
def test_ledger_times_come_from_the_database() -> None:
    package = Path(queued_storage.__file__).parent
    reads_clock = re.compile(
        r"time\.time\(|time\.time_ns|timezone\.now|localtime|datetime\.(utc)?now"
    )
    deciding = [
        path
        for wing in ("ledger", "transfers", "storage", "queues")
        for path in (package / wing).rglob("*.py")
    ]
    assert package / "ledger" / "claims.py" in deciding
    for path in deciding:
        if path != package / "ledger" / "sql" / "clock.py":
            assert not reads_clock.search(path.read_text()), path


@steps
def test_worker_with_a_wrong_clock_transfers_files(
    step: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr("time.time", lambda: right() + step.total_seconds())
    wrong = timezone.now
    monkeypatch.setattr("django.utils.timezone.now", lambda: wrong() + step)
    left = []

    def record_lease(*args: Any) -> None:
        expires = row(storage, name).lease_expires_at
        left.append((expires - wrong()).total_seconds())

    storage = make(task=Step(record_lease))
    name = storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    assert 50 < left[0] < 70
    assert row(storage, name).state == State.TRANSFERRED


@steps
def test_database_clock_steps_before_a_transfer(step: timedelta) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    step_clock(step)
    storage.queue.deliver()
    if step < timedelta(0):  # the file is not due until the clock catches up
        assert row(storage, name).state == State.PENDING
        assert read(storage, name) == b"bytes"
        step_clock(-step)
        assert sweep(storage.alias) == 1
        storage.queue.deliver()
    assert (row(storage, name).state, row(storage, name).attempts) == (State.TRANSFERRED, 1)


@steps
@pytest.mark.parametrize("task", [Step, Evict])
def test_database_clock_steps_during_a_transfer(step: timedelta, task: type[Step]) -> None:
    """After a step forward, the lease seems expired and two workers meet; back, it seems long."""
    results = []

    def jump(name: str, local: Any, remote: Any) -> None:
        step_clock(step)
        results.append(work.run(row(storage, name).pk))  # another worker

    storage = make(task=task(jump))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    found = row(storage, name)
    assert (found.state, results) == (State.TRANSFERRED, [None])
    assert found.attempts == 1  # the end of a lease beside other files blames none
    assert on_disk("far") == [name]
    assert read(storage, name) == b"bytes"
    storage.delete(name)
    step_clock(-step)
    step_clock(HOUR)
    sweep(storage.alias)
    storage.queue.deliver()
    assert (on_disk(), on_disk("far")) == ([], [])
    assert not QueuedFile.objects.exists()


# The local disk; test_bad_input tests a file size limit


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a small file system, which is unmounted after the test."""
    with contextlib.ExitStack() as stack:

        def mount(options: str) -> Path:
            place = Path(tempfile.mkdtemp(dir=tmp_path))
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip("no right to mount a tmpfs")
            stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
            return place

        yield mount


def overwrite(storage: Any, mode: str = "wb") -> str:
    with storage.open("docs/a.txt", mode) as opened:
        opened.write(b"x" * 5000)
    return "docs/a.txt"


WRITES: dict[str, Callable[[Any], str]] = {
    "save": lambda storage: str(storage.save("docs/a.txt", file(b"x" * 5000))),
    "open for writing": overwrite,
    "open for appending": lambda storage: overwrite(storage, "ab"),
}


@pytest.mark.one_lane
@pytest.mark.one_database
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("exists", [False, True], ids=["new", "known"])
@pytest.mark.parametrize("fsync", [False, True], ids=["", "fsync"])
def test_disk_full_at_any_write_leaves_nothing(
    tmpfs: Callable[[str], Path],
    settings: Settings,
    write: Callable[[Any], str],
    exists: bool,
    fsync: bool,
) -> None:
    """The disk fills up at the directory, the draft, its content or its name."""
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "FSYNC": fsync}
    failures = 0
    for limit in [*(f"nr_inodes={count}" for count in range(1, 9)), "size=4k", "size=8k"]:
        place = tmpfs(limit)
        storage = make(local=FileSystemStorage(place))
        error = None
        try:
            if exists:
                storage.save("docs/a.txt", file(b"old"))
            name = write(storage)
        except OSError as full:
            error = full.errno
        names = list(ledger().filter(alias=storage.alias).values_list("name", flat=True))
        assert files_in(place) == sorted(names)
        if error is None:
            storage.queue.deliver()
            assert row(storage, name).state == State.TRANSFERRED
            continue
        assert error == errno.ENOSPC
        failures += 1
        assert [read(storage, each) for each in names] == [b"old"] * len(names)
    assert 3 <= failures < 10


@pytest.mark.one_database
@pytest.mark.skipif(connection.vendor != "sqlite", reason="a server has its own disk")
def test_full_disk_of_the_ledger_loses_no_file() -> None:
    storage = make()
    storage.alias  # noqa: B018
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA page_count")
        cursor.execute(f"PRAGMA max_page_count = {cursor.fetchone()[0]}")

    def fill() -> None:
        for number in range(10_000):
            storage.save(f"{'directory/' * 50}{number}.txt", file())

    try:
        with pytest.raises(OperationalError, match="full"):
            fill()
        names = list(QueuedFile.objects.values_list("name", flat=True))
        assert on_disk() == sorted(names)
        storage.queue.deliver()  # an update needs no new page, or is retried
    finally:
        connection.close()
    for name in names:
        make_due(storage, name)
    sweep(storage.alias)
    storage.queue.deliver()
    assert on_disk("far") == sorted(names)


# The local copy; its retries are tested in transfers/test_copies


def vanish(name: str) -> None:
    Path(disk().path(name)).unlink()


def truncate(name: str) -> None:
    os.truncate(disk().path(name), 3)


def scramble(name: str) -> None:
    Path(disk().path(name)).write_bytes(b"BYTES")


DAMAGES: dict[str, tuple[Callable[[str], None], type[Exception], str]] = {
    "vanished": (vanish, LocalFileMissing, "does not exist"),
    "truncated": (truncate, LocalFileChanged, "has 3 bytes, but 5"),
    "changed": (scramble, LocalFileChanged, "has the checksum"),
}


@pytest.mark.one_database
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("level", ["size", "checksum", "content"])
def test_damaged_local_copy_fails_with_its_reason(
    damage: tuple[Callable[[str], None], type[Exception], str],
    when: str,
    level: str,
    settings: Settings,
) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "VERIFY": level}
    do_damage, kind, text = damage
    storage = make(task=Evict(lambda name, *args: do_damage(name) if when == "during" else None))
    name = storage.save("a.txt", file())
    if when == "before":
        do_damage(name)
    storage.queue.deliver()
    if row(storage, name).state == State.PENDING:  # damaged after the check: found by the retry
        work.run(make_due(storage, name))
    found = row(storage, name)
    assert (found.state, found.verified, found.due_at) == (State.FAILED, "", None)
    assert found.last_error.startswith(kind.__name__)
    assert text in found.last_error
    assert storage.using_local(name)

    disk().delete(name)
    disk().save(name, file())
    storage.transfer(name)
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"bytes"


def test_worker_without_the_file_leaves_it_pending(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    storage = make(local=ScriptedStorage("disk"))
    name = storage.save("a.txt", file())
    with monkeypatch.context() as elsewhere:
        settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "HOST": "another"}
        elsewhere.setattr(storage.local, "exists", lambda name: False)
        [error] = storage.queue.deliver().values()
    assert isinstance(error, LocalFileMissing)
    found = row(storage, name)
    assert (found.state, found.attempts) == (State.PENDING, 1)
    assert f"saved on {found.host}" in found.last_error

    assert work.run(make_due(storage, name)) is None
    assert row(storage, name).state == State.TRANSFERRED
