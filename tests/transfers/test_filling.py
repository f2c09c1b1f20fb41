"""Places of files that were saved by earlier versions."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from django.core.files.storage import FileSystemStorage
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries, Settings

from queued_storage.ledger import unplaced
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.states import Content
from queued_storage.ledger.unplaced import Progress
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.operations.rebinding import rebind
from queued_storage.remotes.places import MEMORY, Place, place_of
from queued_storage.transfers import filling
from queued_storage.transfers.executor import Executor
from queued_storage.transfers.filling import Filling
from tests.support.command import run
from tests.support.failpoints import FailPoint
from tests.support.forks import ended, forks
from tests.support.rows import claimed, new_row, snapshot
from tests.support.scripted import make
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

OLD, NEW = (place_of(FileSystemStorage(path)) for path in ("/srv/old", "/srv/new"))
UNKNOWN = Place(MEMORY, "memory", only=5)
can_skip = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "WINDOW", 10)
    monkeypatch.setattr(filling, "AT_ONCE", 4)


def save(count: int, alias: str = "one", place: int | None = None) -> list[int]:
    first = QueuedFile.objects.count()
    names = (f"{number}" for number in range(first, first + count))
    pks = [ledger().record(alias, name, Content(1, ""), held=True, place=place) for name in names]
    return [pk for pk in pks if pk is not None]


def places(*pks: int) -> list[int | None]:
    rows = QueuedFile.objects.filter(pk__in=pks) if pks else QueuedFile.objects
    return list(rows.order_by("pk").values_list("place", flat=True))


def go_round(process: Filling, *, even_early: bool = True) -> None:
    process.take_turn(60, lambda: True, even_early=even_early)


def test_files_get_the_first_place_of_their_alias() -> None:
    remotes().register("one", OLD)
    remotes().register("two", NEW)
    remotes().register("one", NEW)
    save(25)
    save(3, "two")
    go_round(Filling())
    assert places() == [OLD.digest] * 25 + [NEW.digest] * 3


@pytest.mark.one_database
def test_nothing_else_of_a_row_changes() -> None:
    remotes().register("one", OLD)
    new_row("a.txt", place=None)
    new_row("b.txt", place=NEW.digest)
    before = snapshot()
    go_round(Filling())
    assert snapshot() == [before[0] | {"place": OLD.digest}, before[1]]


@pytest.mark.one_database
def test_an_unknown_first_place_is_filled_in() -> None:
    remotes().register("one", UNKNOWN)
    remotes().register("one", NEW)
    save(1)
    go_round(Filling())
    assert places() == [0]


def test_files_wait_for_the_place_of_their_alias() -> None:
    remotes().register("one", OLD)
    late = save(2, "late")
    save(40)
    process = Filling()
    go_round(process)
    assert places(*late) == [None, None]
    assert unplaced.progress().key > late[-1]
    remotes().register("late", NEW)
    go_round(process)
    assert places(*late) == [NEW.digest] * 2


@pytest.mark.one_database
def test_without_any_place_nothing_is_passed_over() -> None:
    save(40, "late")
    process = Filling()
    go_round(process)
    assert unplaced.progress() == Progress()
    remotes().register("late", NEW)
    go_round(process)
    assert set(places()) == {NEW.digest}


def test_a_claim_stays_valid() -> None:
    remotes().register("one", OLD)
    row = claimed()
    go_round(Filling())
    assert places() == [OLD.digest]
    assert ledger().promote(row, "a.txt", Content(5, "x"), "size", evict=False)
    assert places() == [OLD.digest]


@pytest.mark.one_database
def test_a_place_that_was_recorded_meanwhile_stays() -> None:
    pks = save(2)
    ledger().filter(pk=pks[0]).update(place=NEW.digest)
    assert ledger().fill_place(pks, OLD.digest) == 1
    assert places() == [NEW.digest, OLD.digest]


@pytest.mark.one_database
def test_accepted_places_stay() -> None:
    storage = make()
    remotes().register(storage.alias, OLD)
    save(12, storage.alias)
    rebind(storage.alias)
    go_round(Filling())
    assert set(places()) == {storage.remote_place.digest}


@pytest.mark.one_database
def test_nothing_is_filled_in_within_a_transaction() -> None:
    remotes().register("one", OLD)
    save(1)
    with transaction.atomic():
        go_round(Filling())
    assert places() == [None]


# Other processes


class Locked:
    """Rows that the transaction of another connection has locked."""

    def __init__(self, pks: list[int]) -> None:
        self._pks = pks
        self._are_locked, self._may_end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._lock)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._are_locked.wait(20)

    def __exit__(self, *args: object) -> None:
        self._may_end.set()
        self._thread.join()

    def _lock(self) -> None:
        with transaction.atomic():
            list(QueuedFile.objects.select_for_update().filter(pk__in=self._pks))
            self._are_locked.set()
            assert self._may_end.wait(60)
        connections.close_all()


@can_skip
def test_locked_rows_are_for_the_next_round() -> None:
    remotes().register("one", OLD)
    pks = save(45)
    process = Filling()
    with Locked(pks[12:14]):
        go_round(process)
        assert places(*pks[12:14]) == [None, None]
        assert places(*pks[:12], *pks[14:]) == [OLD.digest] * 43
        assert unplaced.progress().key == pks[9]
    go_round(process)
    assert set(places()) == {OLD.digest}
    assert unplaced.progress().key > pks[14]


def test_processes_continue_where_others_have_come_to() -> None:
    remotes().register("one", OLD)
    save(200, place=OLD.digest)
    with CaptureQueriesContext(connection) as first:
        go_round(Filling())
    with CaptureQueriesContext(connection) as second:
        go_round(Filling())
    assert len(second) < len(first) / 4
    save(5)
    go_round(Filling())
    assert set(places()) == {OLD.digest}


@pytest.mark.one_database
def test_two_processes_fill_in_all_files() -> None:
    remotes().register("one", OLD)
    save(50)
    processes = [Filling(), Filling()]
    while None in places():
        for process in processes:
            process.take_turn(0, lambda: True, even_early=True)
    assert set(places()) == {OLD.digest}


@pytest.mark.one_database
def test_saves_that_commit_late_are_seen() -> None:
    remotes().register("one", OLD)
    save(3, place=OLD.digest)
    [late] = save(1, place=OLD.digest)
    save(12, place=OLD.digest)
    process = Filling()
    go_round(process)
    ledger().filter(pk=late).update(place=None)  # as if it had not been visible until now
    go_round(process)
    assert places(late) == [OLD.digest]


def test_a_killed_process_leaves_nothing_behind(
    child_environment: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    remotes().register("one", OLD)
    remotes().register("two", NEW)
    first, second = save(15), save(15, "two")
    with forks(child_environment, settings) as found:
        point = FailPoint("place filled", tmp_path / "reached")
        assert ended(found.start(sweep, point=point)) == -signal.SIGKILL
    assert places(*first, *second) == [OLD.digest] * 15 + [None] * 15
    go_round(Filling())
    assert places(*first, *second) == [OLD.digest] * 15 + [NEW.digest] * 15


# When processes look


@pytest.mark.one_database
def test_a_finished_round_is_not_repeated_soon(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    remotes().register("one", OLD)
    process = Filling()
    go_round(process)
    with django_assert_num_queries(0):
        go_round(process, even_early=False)


@pytest.mark.one_database
def test_a_finished_round_is_repeated_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "AGAIN", 0)
    remotes().register("one", OLD)
    process = Filling()
    go_round(process)
    save(1)  # by a process of an earlier version
    go_round(process, even_early=False)
    assert places() == [OLD.digest]


@pytest.mark.one_database
def test_a_process_does_not_look_for_ever(
    django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "LOOKS_FOR", 0)
    remotes().register("one", OLD)
    process = Filling()
    go_round(process)
    with django_assert_num_queries(0):
        go_round(process)


@pytest.mark.one_database
def test_a_busy_worker_does_little_at_once() -> None:
    remotes().register("one", OLD)
    save(30)
    process = Filling()
    process.take_turn(60, lambda: False)
    assert places().count(OLD.digest) == 4
    process.take_turn(60, lambda: False)  # too early
    assert places().count(OLD.digest) == 4


@pytest.mark.one_database
def test_one_thread_of_a_process_is_enough() -> None:
    remotes().register("one", OLD)
    save(30)
    process = Filling()
    others: list[bool] = []

    def may_go_on() -> bool:
        others.append(process.take_turn(60, lambda: True, even_early=True))
        return False

    assert process.take_turn(60, may_go_on, even_early=True)
    assert others == [False]
    assert places().count(OLD.digest) == 4


@pytest.mark.one_database
def test_a_worker_fills_in_places() -> None:
    remotes().register("one", OLD)
    save(30)
    executor = Executor(1, 0.02, list)
    executor.start()
    try:
        until(lambda: set(places()) == {OLD.digest})
    finally:
        assert executor.stop(20)


@pytest.mark.one_database
def test_a_sweep_of_all_storages_fills_in_places() -> None:
    remotes().register("one", OLD)
    save(30)
    sweep("one")
    assert None in places()
    with open(os.devnull, "w") as nowhere:
        call_command("queued_storage", "sweep", stdout=nowhere)
    assert set(places()) == {OLD.digest}


@pytest.mark.one_database
def test_status_shows_how_much_is_done() -> None:
    remotes().register("one", OLD)
    save(50, place=OLD.digest)
    save(50)
    assert "places of files saved by earlier versions" not in run("status")  # not where it looks
    ledger().update(place=None)
    first = ledger().order_by("pk")[0].pk
    assert "earlier versions: 0% done" in run("status")
    assert json.loads(run("status", "--json"))["places"] == 0
    unplaced.record_progress(Progress(), Progress(first + 49))
    assert f"earlier versions: {int((first + 49) * 100 / (first + 99))}% done" in run("status")
    go_round(Filling())
    ledger().filter(place=None).delete()  # what was passed over
    assert "earlier versions" not in run("status")
    assert json.loads(run("status", "--json"))["places"] == 1
