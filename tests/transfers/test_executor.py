"""The threads of a worker."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import InterfaceError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from pytest_django import Settings

from queued_storage import health
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.queues.base import run_all
from queued_storage.runtime import hung
from queued_storage.tasks import Transfer
from queued_storage.transfers import executor, lanes, leases, solitude
from queued_storage.transfers.executor import NEXT_PHASES, Executor, Phase
from queued_storage.transfers.gates import gates
from tests.support.scripted import LONG_AGO, Step, file, make, row
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


class Gate(Transfer):
    """A task that waits with files whose name starts with "held" until it is opened."""

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
    """Start executors; they are stopped after the test."""
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


def test_searching_executor_is_idle() -> None:
    """Otherwise a worker that ends when it is idle never does, if a search takes longer than the
    pause between two."""
    searching, may_go_on = threading.Event(), threading.Event()

    def slow_search() -> list[str]:
        searching.set()
        assert may_go_on.wait(20)
        return []

    threads = Executor(1, 60, slow_search)
    threads.start()
    assert searching.wait(20)
    assert threads.is_idle()
    may_go_on.set()
    assert threads.stop(20)


@pytest.mark.parametrize(("max_age", "connections_made"), [(0, 3), (None, 0)])
def test_empty_searches_respect_conn_max_age(
    monkeypatch: pytest.MonkeyPatch, max_age: int | None, connections_made: int
) -> None:
    made: list[BaseDatabaseWrapper] = []
    seen: list[int] = []

    def search() -> list[str]:
        seen.append(len(made))
        return ["unknown"]

    def note(connection: BaseDatabaseWrapper, **_kwargs: object) -> None:
        if threading.current_thread().name == "queued-storage-0":
            made.append(connection)

    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", max_age)
    connection_created.connect(note)
    try:
        threads = Executor(1, 0.01, search)
        threads.start()
        until(lambda: len(seen) > 4)
        assert threads.stop(20)
    finally:
        connection_created.disconnect(note)
    assert seen[4] - seen[1] == connections_made  # at first, Django may query the server's version


def test_oldest_file_is_first(gate: Gate, running: Callable[..., Executor]) -> None:
    storage = make(task=gate)
    names = [storage.save(f"{number}.txt", file()) for number in range(20)]
    running(1, storage)
    until(lambda: transferred(storage) == 20)
    assert gate.began == names


def test_small_files_pass_a_slow_one(gate: Gate, running: Callable[..., Executor]) -> None:
    storage = make(task=gate)
    huge = storage.save("held.bin", file())
    for number in range(20):
        storage.save(f"{number}.txt", file())
    running(2, storage)
    until(lambda: transferred(storage) == 20)
    assert row(storage, huge).state == State.TRANSFERRING
    gate.is_open.set()
    until(lambda: transferred(storage) == 21)


def test_hanging_remote_blocks_no_other_remote(
    gate: Gate, running: Callable[..., Executor]
) -> None:
    """Its files are older, and there are more of them than threads."""
    dead, living = make(task=gate), make(task=Transfer)
    for number in range(80):
        dead.save(f"held-{number}.txt", file())
    for number in range(20):
        living.save(f"{number}.txt", file())
    running(2, dead, living)
    until(lambda: transferred(living) == 20)
    assert transferred(dead) == 0


def test_hanging_remote_blocks_no_requests(gate: Gate, running: Callable[..., Executor]) -> None:
    dead, living = make(task=gate), make(task=Transfer)
    threads = running(2)
    threads.notify([row(dead, dead.save(f"held-{each}.txt", file())).pk for each in range(80)])
    until(lambda: len(gate.began) == 2)
    threads.notify([row(living, living.save(f"{each}.txt", file())).pk for each in range(20)])
    until(lambda: transferred(living) == 20)
    assert transferred(dead) == 0


def test_claims_only_what_soon_has_a_thread(gate: Gate, running: Callable[..., Executor]) -> None:
    """The rest is for other workers; waiting claims are returned when the executor stops."""
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


def test_waiting_file_keeps_its_lease(
    gate: Gate, running: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "AHEAD_SECONDS", 60)  # also if files take long
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


@pytest.mark.one_database
def test_claimed_files_wait_for_a_closed_remote(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next search, which returns them, may be far."""
    monkeypatch.setattr(lanes, "AHEAD_SECONDS", 60)
    monkeypatch.setattr(lanes, "AHEAD_MAX", 5)
    storage = make(task=gate)
    first, *_others = [storage.save(f"{number}.txt", file()) for number in range(20)]
    storage.remote.refuses = True
    threads = Executor(1, 60, lambda: [storage.alias])
    threads.start()
    until(lambda: gates.is_closed(storage.alias))
    until(lambda: not ledger().exclude(lease_token="").exists())
    assert threads.stop(20)
    assert gate.began == [first]
    assert set(ledger().values_list("state", "attempts")) == {(State.PENDING, 0)}


@pytest.mark.one_database
def test_notified_files_wait_for_a_closed_remote(gate: Gate) -> None:
    storage = make(task=gate)
    names = [storage.save(f"{number}.txt", file()) for number in range(5)]
    storage.remote.refuses = True
    threads = Executor(1, 60, list)
    threads.start()
    threads.notify([row(storage, name).pk for name in names])
    until(lambda: gates.is_closed(storage.alias) and threads.is_idle())
    assert threads.stop(20)
    assert gate.began == names[:1]
    assert set(ledger().values_list("state", "attempts")) == {(State.PENDING, 0)}


def test_file_of_unknown_storage_loses_its_lease(
    running: Callable[..., Executor],
) -> None:
    storage = make()
    pk = row(storage, storage.save("a.txt", file())).pk
    ledger().filter(pk=pk).update(alias="from-another-project")
    running(1, storage).notify([pk])
    until(lambda: ledger().filter(pk=pk, lease_token="").exclude(last_error="").exists())
    until(lambda: not [lease for lease in leases._beating_heart()._leases if lease.row.pk == pk])


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_thread_survives_a_task_that_exits(
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
def test_thread_survives_a_connection_that_cannot_close(
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


def test_files_are_processed_without_worker_threads(
    running: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread can be started while Python ends, or if the system has no more threads."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("queued-storage") and thread.name != "queued-storage-0":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(leases, "_heart", None)
    storage = make()
    notified = row(storage, storage.save("notified.txt", file())).pk
    for number in range(3):
        storage.save(f"{number}.txt", file())
    found = running(2, storage)
    found.notify([notified])
    until(lambda: transferred(storage) == 4)
    assert set(ledger().filter(alias=storage.alias).values_list("attempts", flat=True)) == {1}


def test_several_workers_process_each_file_once(running: Callable[..., Executor]) -> None:
    storage = make(task=Transfer)
    for number in range(60):
        storage.save(f"{number}.txt", file())
    for _worker in range(3):
        running(2, storage)
    until(lambda: transferred(storage) == 60, 90)
    assert set(ledger().filter(alias=storage.alias).values_list("attempts", flat=True)) == {1}


@pytest.mark.one_database
def test_every_phase_can_end() -> None:
    reached, found = set(Phase), {Phase.OVER}
    while found:
        reached -= found
        found = {phase for phase in reached if NEXT_PHASES[phase] - reached}
    assert not reached
    assert not NEXT_PHASES[Phase.OVER]


@pytest.mark.parametrize("gives_back", [True, False])
def test_search_that_ends_after_stop_changes_nothing(gives_back: bool) -> None:
    """It reports whether it found a file, but the executor is stopping."""
    stopping = threading.Event()

    def search() -> list[str]:
        threading.Thread(target=lambda: threads.stop(20, gives_back=gives_back)).start()
        until(lambda: threads._phase.is_stopping)
        stopping.set()
        return []

    threads = Executor(1, 60, search)
    threads.start()
    assert stopping.wait(20)
    assert threads.stop(20, gives_back=gives_back)
    assert threads._phase is Phase.OVER


# Threads that hang


class Hang(Transfer):
    """A task that hangs with files whose name starts with "hang", until it is released."""

    def __init__(self) -> None:
        self.hung: list[str] = []
        self.released = threading.Event()

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        if name.startswith("hang") and not self.released.is_set():
            self.hung.append(name)
            assert self.released.wait(60)
        return super().transfer(name, local, remote, **kwargs)


@pytest.fixture
def hang(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    monkeypatch.setattr(leases, "BEAT_MAX", 0.05)
    monkeypatch.setattr(executor, "SUPERVISED_EVERY", 0.05)
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "STALL_TIMEOUT": 0.5}
    task = Hang()
    yield task
    task.released.set()
    until(lambda: not hung.count())


def test_hung_threads_are_replaced(
    hang: Hang, running: Callable[..., Executor], caplog: pytest.LogCaptureFixture
) -> None:
    """There is no other process, and all threads hang."""
    storage = make(task=hang)
    for number in range(2):
        storage.save(f"hang{number}.txt", file())
    for number in range(5):
        storage.save(f"{number}.txt", file())
    found = running(2, storage)
    until(lambda: transferred(storage) == 5)
    until(lambda: ledger().exclude(last_error="").count() == 2)
    assert sorted(hang.hung) == ["hang0.txt", "hang1.txt"]
    until(lambda: caplog.text.count("hangs. It was replaced by another one.") == 2)
    until(found.is_idle)
    assert not found.is_exhausted
    hang.released.set()
    ledger().filter(state=State.PENDING).update(due_at=LONG_AGO)
    until(lambda: transferred(storage) == 7)
    assert set(ledger().values_list("attempts", flat=True)) == {1, 2}


def test_too_many_hung_threads_are_not_replaced(
    hang: Hang,
    running: Callable[..., Executor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(hung, "MOST", 1)
    storage, other = make(task=hang), make()
    for number in range(3):
        storage.save(f"hang{number}.txt", file())
    found = running(1, storage, other)
    until(lambda: found.is_exhausted)
    assert len(hang.hung) == 2
    until(lambda: "restart the process" in caplog.text)
    problems = health.check(health.Limits(max_failed=0)).problems
    assert problems == ("Too many threads of this process hang. Restart it.",)

    name = other.save("a.txt", file())  # it has threads of its own
    until(lambda: row(other, name).state == State.TRANSFERRED)
    found.notify([row(storage, "hang2.txt").pk])  # which is for other processes
    until(found.is_idle)
    assert row(storage, "hang2.txt").state == State.PENDING

    hang.released.set()
    until(lambda: row(storage, "hang2.txt").state == State.TRANSFERRED)
    assert not found.is_exhausted


def test_claimed_ahead_goes_back_without_free_thread(
    gate: Gate, running: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may have time long before these threads are given up."""
    monkeypatch.setattr(lanes, "AHEAD_PATIENCE", 0.2)
    monkeypatch.setattr(executor, "SUPERVISED_EVERY", 0.05)
    storage = make(task=gate)
    for number in range(60):  # quick ones, so that files are claimed ahead
        storage.save(f"{number}.txt", file())
    for number in range(30):
        storage.save(f"held-{number}.txt", file())
    found = running(2, storage)
    notified = row(storage, "held-29.txt").pk
    until(lambda: len(gate.began) == 62, 90)
    found.notify([notified])
    claimed = ledger().filter(alias=storage.alias).exclude(lease_token="")
    waiting = ledger().filter(state=State.PENDING, attempts=0).due()
    until(lambda: (claimed.count(), waiting.count()) == (2, 28))  # they come and go
    gate.is_open.set()
    until(lambda: transferred(storage) == 90)
    assert set(ledger().filter(alias=storage.alias).values_list("attempts", flat=True)) == {1}


# Suspects


class Alone(Transfer):
    """A task that notes how many files are transferred at the same time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = 0
        self.beside: dict[str, int] = {}

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        with self.lock:
            self.running += 1
            self.beside[name] = self.running
        try:
            return super().transfer(name, local, remote, **kwargs)
        finally:
            with self.lock:
                self.running -= 1


def abandoned(storage: Any, *names: str) -> None:
    """Let a worker die that has claimed these files together."""
    with transaction.atomic():  # so that no executor that runs already is faster
        pks = [row(storage, storage.save(name, file())).pk for name in names]
        assert len(ledger().claim_all(pks)) == len(pks)
        ledger().filter(pk__in=pks).update(due_at=LONG_AGO)


def test_suspects_are_processed_alone(running: Callable[..., Executor]) -> None:
    task = Alone()
    storage = make(task=task)
    names = [f"suspect{number}.txt" for number in range(5)]
    abandoned(storage, *names)
    for number in range(20):
        storage.save(f"{number}.txt", file())
    running(4, storage)
    until(lambda: transferred(storage) == 25)
    assert {task.beside[name] for name in names} == {1}
    assert set(ledger().filter(alias=storage.alias).values_list("attempts", flat=True)) == {1}


def test_suspect_waits_while_a_file_takes_long(
    gate: Gate, running: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others don't wait with it."""
    monkeypatch.setattr(executor, "SUSPECTS_EVERY", 0.05)
    monkeypatch.setattr(solitude.solitude, "_patience", 0.05)
    storage = make(task=gate)
    storage.save("held.txt", file())
    running(2, storage)
    until(lambda: gate.began == ["held.txt"])
    abandoned(storage, "suspect.txt")
    until(lambda: solitude.solitude._patience > 0.05)  # it has tried
    for number in range(5):
        storage.save(f"{number}.txt", file())
    until(lambda: transferred(storage) == 5)
    assert "suspect.txt" not in gate.began
    gate.is_open.set()
    until(lambda: transferred(storage) == 7)


def test_suspect_that_hangs_stops_nobody(hang: Hang, running: Callable[..., Executor]) -> None:
    storage = make(task=hang)
    abandoned(storage, "hang.txt", "suspect.txt")
    running(1, storage)
    until(lambda: hang.hung)
    name = storage.save("a.txt", file())
    until(lambda: row(storage, name).state == State.TRANSFERRED)
    until(lambda: row(storage, "suspect.txt").state == State.TRANSFERRED)


def test_suspects_of_a_message_come_last() -> None:
    gate = Gate()
    storage = make(task=gate)
    abandoned(storage, "one.txt", "two.txt")
    storage.save("three.txt", file())
    assert run_all([row(storage, name).pk for name in ("one.txt", "two.txt", "three.txt")]) == {}
    assert gate.began == ["three.txt", "one.txt", "two.txt"]
    assert transferred(storage) == 3


# The end


def test_let_go_returns_what_is_in_hand(hang: Hang, running: Callable[..., Executor]) -> None:
    storage = make(task=hang)
    names = [storage.save(f"hang{number}.txt", file()) for number in range(3)]
    found = running(2, storage)
    found.notify([row(storage, name).pk for name in names])
    until(lambda: len(hang.hung) == 2)
    assert not found.stop(0)
    found.let_go()
    rows = ledger().filter(alias=storage.alias)
    assert set(rows.values_list("state", "attempts")) == {(State.PENDING, 0)}
    hang.released.set()
    assert found.stop(20)
    assert transferred(storage) == 0  # the threads that went on have changed nothing
    rows.update(due_at=LONG_AGO)
    running(2, storage)
    until(lambda: transferred(storage) == 3)


# Priorities


class Order(Transfer):
    """A task that notes the order of names, one at a time."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        self.names.append(name)
        return super().transfer(name, local, remote, **kwargs)


def save_as(storage: Any, priority: str, count: int) -> list[int]:
    with storage.priority(priority):
        names = [storage.save(f"{priority}-{number}", file()) for number in range(count)]
    return [row(storage, name).pk for name in names]


def test_notified_files_are_claimed_by_priority(running: Callable[..., Executor]) -> None:
    task = Order()
    storage = make(task=task)
    low, high = save_as(storage, "low", 30), save_as(storage, "high", 5)
    found = running(1, storage)
    found.notify([*low, *high])
    until(lambda: transferred(storage) == 35)
    # What was claimed before the others were known, or in advance, may be first.
    last_high = max(task.names.index(f"high-{number}") for number in range(5))
    assert last_high < 15


def test_overdue_files_are_not_starved_by_notified_ones(
    running: Callable[..., Executor], settings: Settings
) -> None:
    """High ones are saved for as long as the low one waits."""
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"MAX_WAIT": 0.5}
    storage = make()
    [low] = save_as(storage, "low", 1)
    found = running(1, storage)
    saved = 0
    while not ledger().filter(pk=low, state=State.TRANSFERRED).exists():
        with storage.priority("high"):
            keys = [row(storage, storage.save("high", file())).pk for _number in range(20)]
        found.notify(keys)
        saved += len(keys)
        assert saved < 20_000
    assert ledger().filter(pk=low, state=State.TRANSFERRED).exists()
