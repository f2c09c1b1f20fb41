"""The threads of a worker: what they share fairly, and what they give back."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import InterfaceError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.tasks import Transfer
from queued_storage.transfers import executor, lanes, leases
from queued_storage.transfers.executor import Executor
from tests.support.scripted import Step, file, make, row
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


class Gate(Transfer):
    """Holds the files whose name begins with "held" until it is opened."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.began: list[str] = []

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        self.began.append(name)
        if name.startswith("held"):
            assert self.is_open.wait(60)
        return super().transfer(name, local, remote, **kwargs)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.is_open.set()


@pytest.fixture
def running(gate: Gate) -> Iterator[Callable[..., Executor]]:
    """Starts executors, and stops them in the end."""
    started: list[Executor] = []

    def start(threads: int, *storages: Any) -> Executor:
        found = Executor(threads, 0.05, lambda: [storage.alias for storage in storages])
        found.start()
        started.append(found)
        return found

    yield start
    gate.is_open.set()
    for each in started:
        assert each.stop(60)


def transferred(storage: Any) -> int:
    return ledger().filter(alias=storage.alias, state=State.TRANSFERRED).count()


def test_who_looks_for_files_is_idle() -> None:
    """Else a worker told to end when it is idle goes on for ever where a look takes longer than
    the pause between two."""
    looking, may_go_on = threading.Event(), threading.Event()

    def slow_look() -> list[str]:
        looking.set()
        assert may_go_on.wait(20)
        return []

    threads = Executor(1, 60, slow_look)
    threads.start()
    assert looking.wait(20)
    assert threads.is_idle()
    may_go_on.set()
    assert threads.stop(20)


@pytest.mark.parametrize(("max_age", "connections_made"), [(0, 3), (None, 0)])
def test_looks_in_vain_heed_conn_max_age(
    monkeypatch: pytest.MonkeyPatch, max_age: int | None, connections_made: int
) -> None:
    made: list[BaseDatabaseWrapper] = []
    seen: list[int] = []

    def look() -> list[str]:
        seen.append(len(made))
        return ["nobody's"]

    def note(connection: BaseDatabaseWrapper, **_kwargs: object) -> None:
        if threading.current_thread().name == "queued-storage-0":
            made.append(connection)

    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", max_age)
    connection_created.connect(note)
    try:
        threads = Executor(1, 0.01, look)
        threads.start()
        until(lambda: len(seen) > 4)
        assert threads.stop(20)
    finally:
        connection_created.disconnect(note)
    assert seen[4] - seen[1] == connections_made  # at first Django may ask for the server's version


def test_the_oldest_file_is_first(gate: Gate, running: Callable[..., Executor]) -> None:
    storage = make(task=gate)
    names = [storage.save(f"{number}.txt", file()) for number in range(20)]
    running(1, storage)
    until(lambda: transferred(storage) == 20)
    assert gate.began == names


def test_small_files_pass_one_that_takes_long(gate: Gate, running: Callable[..., Executor]) -> None:
    storage = make(task=gate)
    huge = storage.save("held.bin", file())
    for number in range(20):
        storage.save(f"{number}.txt", file())
    running(2, storage)
    until(lambda: transferred(storage) == 20)
    assert row(storage, huge).state == State.TRANSFERRING
    gate.is_open.set()
    until(lambda: transferred(storage) == 21)


def test_a_remote_that_hangs_holds_up_no_other_one(
    gate: Gate, running: Callable[..., Executor]
) -> None:
    """Though its files are the older ones, and more than there are threads."""
    dead, living = make(task=gate), make(task=Transfer)
    for number in range(80):
        dead.save(f"held-{number}.txt", file())
    for number in range(20):
        living.save(f"{number}.txt", file())
    running(2, dead, living)
    until(lambda: transferred(living) == 20)
    assert transferred(dead) == 0


def test_a_remote_that_hangs_holds_up_no_other_one_that_is_told_of(
    gate: Gate, running: Callable[..., Executor]
) -> None:
    dead, living = make(task=gate), make(task=Transfer)
    threads = running(2)
    threads.tell([row(dead, dead.save(f"held-{each}.txt", file())).pk for each in range(80)])
    until(lambda: len(gate.began) == 2)
    threads.tell([row(living, living.save(f"{each}.txt", file())).pk for each in range(20)])
    until(lambda: transferred(living) == 20)
    assert transferred(dead) == 0


def test_no_more_is_claimed_than_soon_has_a_thread(
    gate: Gate, running: Callable[..., Executor]
) -> None:
    """The rest is for other workers; what is claimed and waits is given back at the end."""
    storage = make(task=gate)
    for number in range(60):
        storage.save(f"{number}.txt", file())
    for number in range(100):
        storage.save(f"held-{number}.txt", file())
    threads = running(2, storage)
    until(lambda: transferred(storage) == 60, 90)
    until(lambda: len(gate.began) == 62)
    claimed = ledger().filter(alias=storage.alias).exclude(lease_token="")
    assert 2 <= claimed.count() <= 2 + lanes.AHEAD_MAX

    ended = threading.Thread(target=lambda: threads.stop(60))
    ended.start()
    until(lambda: claimed.count() == 2)
    waiting = ledger().filter(alias=storage.alias, state=State.PENDING)
    assert waiting.due().count() == 98
    assert set(waiting.values_list("attempts", "last_error")) == {(0, "")}
    gate.is_open.set()
    ended.join(60)
    assert transferred(storage) == 62


def test_what_waits_for_a_thread_keeps_its_lease(
    gate: Gate, running: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "AHEAD_SECONDS", 60)  # also where files take a while
    monkeypatch.setattr(lanes, "AHEAD_MAX", 5)
    storage = make(task=gate)
    for number in range(20):
        storage.save(f"held-{number}.txt", file())
    running(1, storage)
    claimed = ledger().filter(alias=storage.alias).exclude(lease_token="")
    until(lambda: claimed.count() == 6)
    first = dict(claimed.values_list("pk", "due_at"))

    def is_renewed() -> bool:
        now = dict(claimed.values_list("pk", "due_at"))
        assert now.keys() == first.keys()
        return all(now[pk] > first[pk] for pk in first)

    until(is_renewed)
    gate.is_open.set()
    until(lambda: transferred(storage) == 20, 60)
    assert set(ledger().filter(alias=storage.alias).values_list("attempts", flat=True)) == {1}


def test_nobody_keeps_the_lease_of_a_file_whose_storage_is_unknown(
    running: Callable[..., Executor],
) -> None:
    storage = make()
    pk = row(storage, storage.save("a.txt", file())).pk
    ledger().filter(pk=pk).update(alias="from-another-project")
    running(1, storage).tell([pk])
    until(lambda: ledger().filter(pk=pk, lease_token="").exclude(last_error="").exists())
    until(lambda: not [lease for lease in leases._beating_heart()._leases if lease.row.pk == pk])


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_a_thread_survives_a_task_that_ends_it(
    running: Callable[..., Executor], end: type[BaseException]
) -> None:
    def leave(*_args: Any) -> None:
        raise end

    storage = make(task=Step(leave))
    first, *_others = [storage.save(f"{number}.txt", file()) for number in range(3)]
    running(1, storage)
    until(lambda: transferred(storage) == 2)
    left = row(storage, first)
    assert (left.state, left.attempts, left.lease_token) == (State.PENDING, 1, "")
    assert left.last_error.startswith(end.__name__)


@pytest.mark.parametrize("at_work", [True, False])
def test_a_thread_survives_a_connection_that_cannot_be_closed(
    running: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch, at_work: bool
) -> None:
    refused = threading.Event()

    def refuse() -> None:
        refused.set()
        raise InterfaceError("already closed")

    storage = make()
    running(1, storage)
    if at_work:
        storage.save("a.txt", file())
        until(lambda: transferred(storage) == 1)
    with monkeypatch.context() as patches:
        patches.setattr(lanes, "connections", SimpleNamespace(close_all=refuse))
        patches.setattr(executor, "close_old_connections", refuse)
        assert refused.wait(20)
    storage.save("b.txt", file())
    until(lambda: transferred(storage) == at_work + 1)


def test_where_no_thread_can_be_started_the_one_that_looks_does_the_work(
    running: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is while some versions of Python end, and where the system has no more threads."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("queued-storage") and thread.name != "queued-storage-0":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(leases, "_heart", None)
    storage = make()
    told = row(storage, storage.save("told.txt", file())).pk
    for number in range(3):
        storage.save(f"{number}.txt", file())
    found = running(2, storage)
    found.tell([told])
    until(lambda: transferred(storage) == 4)
    assert set(ledger().filter(alias=storage.alias).values_list("attempts", flat=True)) == {1}


def test_several_workers_do_nothing_twice(running: Callable[..., Executor]) -> None:
    storage = make(task=Transfer)
    for number in range(60):
        storage.save(f"{number}.txt", file())
    for _worker in range(3):
        running(2, storage)
    until(lambda: transferred(storage) == 60, 90)
    assert set(ledger().filter(alias=storage.alias).values_list("attempts", flat=True)) == {1}
