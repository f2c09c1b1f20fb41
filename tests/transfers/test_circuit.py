"""Whose fault a failed attempt is, and what closes and opens a remote.

QUEUED_STORAGE_TEST_POISONOUS_FILES is the number of files that no remote takes.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import connection
from django.db.models import F
from pytest_django import Settings

from queued_storage.ledger import schema
from queued_storage.ledger.database import ledger
from queued_storage.ledger.models import MAX_FAILURES
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.ledger.sql.clock import database_time, seconds_between, seconds_from_now
from queued_storage.ledger.states import State
from queued_storage.queues.base import run_all
from queued_storage.remotes.fault_kinds import Fault
from queued_storage.remotes.faults import Diagnosis
from queued_storage.runtime import ending
from queued_storage.transfers import circuit, probing, trials, watching, work
from queued_storage.transfers.circuit import Fate
from queued_storage.transfers.executor import Executor
from queued_storage.transfers.gates import gates
from tests.support.outages import close, registered
from tests.support.scripted import LONG_AGO, ScriptedStorage, file, make, make_due, row
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread probe beside the test."""
    monkeypatch.setattr(watching, "watch", lambda: None)


def states(storage: Any, names: list[str]) -> list[tuple[str, int]]:
    return [(found.state, found.attempts) for found in (row(storage, name) for name in names)]


def save(storage: Any, count: int) -> list[str]:
    return [storage.save(f"{number}.txt", file()) for number in range(count)]


def test_outage_counts_against_no_file(changes: list[str]) -> None:
    storage = make()
    names = save(storage, 7)
    storage.remote.refuses = True
    errors = storage.queue.deliver()
    assert len(errors) == 1  # no other file is tried
    assert states(storage, names) == [(State.PENDING, 0)] * 7
    assert {row(storage, name).last_error for name in names} == {""}
    [remote] = remotes()
    assert remote.state == RemoteState.AWAY
    assert remote.last_error == "ConnectionError: The remote is away."
    assert changes == ["away"]


@pytest.mark.parametrize("is_read", [False, True])
def test_a_process_that_ends_closes_nothing(
    is_read: bool, changes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries cannot start threads then, so their errors say nothing of the remote."""
    storage = make()
    [name] = save(storage, 1)
    storage.remote.refuses = True
    monkeypatch.setattr(ending, "has_begun", lambda: True)
    its = circuit.circuit_of(storage.alias)
    if is_read:
        its.try_for_reads(storage)
    else:
        assert its.judge(storage, row(storage, name), ConnectionError()).fate != Fate.CLOSED
    assert changes == []


def test_open_again_after_a_probe(changes: list[str]) -> None:
    storage = make()
    names = save(storage, 2)
    storage.remote.refuses = True
    storage.queue.deliver()
    assert not probing.probe_now(storage.alias)
    storage.remote.refuses = False
    assert probing.probe_now(storage.alias)
    assert changes == ["away", "open"]
    assert storage.queue.deliver() == {}  # the sweep has enqueued them
    assert states(storage, names) == [(State.TRANSFERRED, 1)] * 2


def test_rejected_file_fails_alone(settings: Settings, changes: list[str]) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 0}
    storage = make()
    [name] = save(storage, 1)
    storage.remote.rejects = True
    storage.queue.deliver()
    assert states(storage, [name]) == [(State.FAILED, 1)]
    assert changes == []


def test_many_rejected_files_do_not_close(settings: Settings, changes: list[str]) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 0}
    storage = make()
    names = save(storage, circuit.FAILURES * 3)
    storage.remote.rejects = True
    storage.queue.deliver()
    assert states(storage, names) == [(State.FAILED, 1)] * len(names)
    assert changes == []


def test_failures_before_the_closure_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    first = storage.save("first.txt", file())
    storage.queue.deliver()
    names = save(storage, circuit.FAILURES)
    storage.remote.refuses = True  # a success was seen lately, so one failure is no suspicion
    storage.queue.deliver()
    assert states(storage, [first]) == [(State.TRANSFERRED, 1)]
    assert states(storage, names) == [(State.PENDING, 0)] * len(names)
    assert {row(storage, name).due_at for name in names} == {
        row(storage, name).saved_at for name in names
    }
    assert gates.is_closed(storage.alias)


def test_one_trial_answers_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    try_out = trials.try_out

    def counting(storage: Any) -> trials.Trial:
        made.append(storage)
        return try_out(storage)

    monkeypatch.setattr(trials, "try_out", counting)
    monkeypatch.setattr(circuit, "QUIET", -1.0)  # each failure is a suspicion
    storage = make()
    save(storage, 4)
    storage.remote.rejects = True
    storage.queue.deliver()
    assert len(made) == 1


def test_remote_that_hangs_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(trials, "SECONDS", 0.2)
    goes_on = threading.Event()

    class Hanging(ScriptedStorage):
        def _save(self, name: str, content: Any) -> str:
            if name.startswith(".queued-storage"):
                goes_on.wait(60)
            raise ConnectionError("reset")

    storage = make(remote=Hanging())
    [name] = save(storage, 1)
    storage.queue.deliver()
    goes_on.set()
    assert remotes().get().last_error.endswith("did not answer within 0.2 seconds.")
    assert states(storage, [name]) == [(State.PENDING, 0)]


class WritesFilesOnly(ScriptedStorage):
    """A key that may write files, but nothing of ours."""

    def _save(self, name: str, content: Any) -> str:
        if name.startswith(".queued-storage"):
            raise PermissionError("denied")
        return str(super()._save(name, content))


def test_files_probe_where_nothing_else_may() -> None:
    storage = make(remote=WritesFilesOnly())
    names = save(storage, 2)
    storage.remote.rejects = True
    storage.queue.deliver()
    assert remotes().get().state == RemoteState.REFUSED
    storage.remote.rejects = False
    assert probing.probe_now(storage.alias)
    assert remotes().get().is_probed_by_files
    storage.queue.deliver()
    assert states(storage, names) == [(State.TRANSFERRED, 1)] * 2


def test_refused_probe_is_made_more_rarely() -> None:
    storage = make(remote=WritesFilesOnly())
    save(storage, 1)
    storage.remote.rejects = True
    storage.queue.deliver()
    for _probe in range(12):
        assert not probing.probe_now(storage.alias)
    remote = remotes().get()
    assert remote.next_probe_at is not None
    assert (remote.state, remote.probes) == (RemoteState.REFUSED, 12)


def test_other_storages_go_on() -> None:
    down, up = make(), make(remote=ScriptedStorage("far2"))
    down.remote.refuses = True
    save(down, 1)
    names = save(up, 1)
    down.queue.deliver()
    assert gates.closed() == {down.alias}
    up.queue.deliver()
    assert states(up, names) == [(State.TRANSFERRED, 1)]


# Remotes that take files, but nothing of ours

POISONOUS = int(os.environ.get("QUEUED_STORAGE_TEST_POISONOUS_FILES", "20"))


class Choosy(WritesFilesOnly):
    """A remote that denies files of certain names, too, as if the key were wrong."""

    is_denied = False

    def _save(self, name: str, content: Any) -> str:
        if self.is_denied or name.startswith("bad"):
            raise PermissionError(13, "The remote denies access.")
        return str(super()._save(name, content))


@pytest.fixture
def choosy() -> Any:
    """A storage whose remote is known to take nothing of ours."""
    storage = make(remote=Choosy())
    registered(storage).update(is_probed_by_files=True)
    return storage


def save_bad(storage: Any, count: int = POISONOUS) -> list[str]:
    return [storage.save(f"bad/{number}.txt", file()) for number in range(count)]


def process_all_due(storage: Any) -> None:
    """Process every due file, the oldest first, until the remote is closed."""
    waiting = ledger().filter(state=State.PENDING, lease_token="")
    waiting.update(due_at=F("saved_at"))
    for pk in waiting.order_by("due_at").values_list("pk", flat=True):
        if gates.is_closed(storage.alias):
            break
        work.run(pk)


def probe_until_open(storage: Any, most: int) -> int:
    """Probe the remote as often as needed; return how often."""
    for count in range(1, most + 1):
        registered(storage).update(next_probe_at=LONG_AGO)
        if probing.probe(registered(storage).get()):
            return count
    raise AssertionError(f"not open after {most} probes")


@pytest.mark.one_database
@pytest.mark.parametrize("is_oldest", [True, False])
def test_one_good_file_opens_among_poisonous(choosy: Any, is_oldest: bool) -> None:
    closed = registered(choosy)
    if is_oldest:
        choosy.save("good.txt", file())
    save_bad(choosy)
    if not is_oldest:
        choosy.save("good.txt", file())
    closed.close(RemoteState.REFUSED, "denied", 0)
    assert probe_until_open(choosy, 3)


@pytest.mark.one_database
@pytest.mark.parametrize("seed", range(3))
def test_good_file_is_found_anywhere(choosy: Any, seed: int) -> None:
    names, chance = save_bad(choosy, 8), random.Random(seed)
    names.insert(chance.randrange(len(names)), choosy.save("good.txt", file()))
    for number, name in enumerate(names):
        found = ledger().filter(pk=row(choosy, name).pk)
        found.update(saved_at=seconds_from_now(-100 + number))
        found.update(due_at=F("saved_at"))
    close(choosy, RemoteState.REFUSED)
    assert probe_until_open(choosy, len(names))
    gates.forget()
    assert {attempts for _state, attempts in states(choosy, names)} <= {0, 1}
    assert ledger().filter(state=State.TRANSFERRED).count() == 1


@pytest.mark.one_database
def test_no_file_probes_twice_in_an_outage(choosy: Any) -> None:
    names = save_bad(choosy, 6)
    registered(choosy).close(RemoteState.REFUSED, "denied", 0)
    for _probe in names:
        assert not probing.probe_now(choosy.alias)
    assert all(row(choosy, name).failures for name in names)
    assert states(choosy, names) == [(State.PENDING, 0)] * len(names)
    assert not probing.probe_now(choosy.alias)  # there is no other


@pytest.mark.one_database
@pytest.mark.timeout(60 + POISONOUS)
def test_poisonous_files_fail_while_others_pass(choosy: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 1}
    bad, good, closures = save_bad(choosy), [], 0
    while ledger().filter(state=State.FAILED).count() < POISONOUS:
        good.append(choosy.save("good.txt", file()))
        process_all_due(choosy)
        if registered(choosy).get().state != RemoteState.OPEN:
            closures += 1
            assert closures <= POISONOUS / (circuit.FAILURES - 1)
            assert probe_until_open(choosy, 3)
    process_all_due(choosy)
    assert states(choosy, bad) == [(State.FAILED, 2)] * POISONOUS
    assert {state for state, _attempts in states(choosy, good)} == {State.TRANSFERRED}
    assert registered(choosy).get().is_open


@pytest.mark.one_database
def test_outage_without_own_writes_counts_against_none(choosy: Any) -> None:
    names = save(choosy, circuit.FAILURES + 1)
    choosy.remote.is_denied = True
    choosy.queue.deliver()
    for _probe in range(2 * len(names)):
        assert not probing.probe_now(choosy.alias)
    choosy.remote.is_denied = False
    assert probing.probe_now(choosy.alias)
    choosy.queue.deliver()
    assert states(choosy, names) == [(State.TRANSFERRED, 1)] * len(names)


def test_flag_goes_once_own_writes_work(choosy: Any) -> None:
    save(choosy, 1)
    registered(choosy).close(RemoteState.REFUSED, "denied", 0)
    choosy.remote.__class__ = ScriptedStorage
    assert probing.probe_now(choosy.alias)
    assert not registered(choosy).get().is_probed_by_files


@pytest.mark.one_database
def test_small_remote_that_is_away_is_closed(choosy: Any) -> None:
    [name] = save(choosy, 1)
    choosy.remote.__class__ = ScriptedStorage
    choosy.remote.refuses = True
    choosy.queue.deliver()  # one file, which could not close it by itself
    assert registered(choosy).get().state == RemoteState.AWAY
    assert states(choosy, [name]) == [(State.PENDING, 0)]


# What a probe does


def probes_of(storage: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is tried from now on: "write" or "file"."""
    made: list[str] = []
    try_out, run_claimed = trials.try_out, work.run_claimed

    def writing(*args: Any) -> trials.Trial:
        made.append("write")
        return try_out(*args)

    def uploading(*args: Any) -> Any:
        made.append("file")
        return run_claimed(*args)

    monkeypatch.setattr(trials, "try_out", writing)
    monkeypatch.setattr(work, "run_claimed", uploading)
    return made


def probe_once(storage: Any) -> bool:
    registered(storage).update(next_probe_at=LONG_AGO)
    return probing.probe(registered(storage).get())


def test_refused_probe_makes_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make(remote=Choosy())
    save(storage, 2)
    storage.remote.is_denied = True
    storage.queue.deliver()
    made = probes_of(storage, monkeypatch)
    assert [probe_once(storage) for _probe in range(4)] == [False] * 4
    assert made == ["file", "write", "file", "write"]


def test_probe_by_files_writes_nothing_else(choosy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save(choosy, 1)
    choosy.remote.is_denied = True
    registered(choosy).close(RemoteState.REFUSED, "denied", 0)
    made = probes_of(choosy, monkeypatch)
    assert [probe_once(choosy) for _probe in range(3)] == [False] * 3
    assert made == ["file"] * 3


def test_file_deleted_during_the_probe_opens_nothing(choosy: Any) -> None:
    [name] = save(choosy, 1)
    registered(choosy).close(RemoteState.REFUSED, "denied", 0)
    choosy.remote.before["exists"] = lambda _name: choosy.delete(name)
    assert not probe_once(choosy)
    remote = registered(choosy).get()
    assert (remote.state, remote.last_error, remote.probes) == (RemoteState.REFUSED, "denied", 0)
    assert remote.next_probe_at
    assert 0 < seconds_between(database_time("default"), remote.next_probe_at) <= 1


def test_odd_file_changes_no_state(changes: list[str]) -> None:
    storage = make(remote=WritesFilesOnly())
    save(storage, 1)
    storage.remote.rejects = True
    close(storage, RemoteState.REFUSED)
    assert [probe_once(storage) for _probe in range(3)] == [False] * 3
    assert registered(storage).get().state == RemoteState.REFUSED
    assert changes == []


@pytest.mark.one_database
@pytest.mark.parametrize("is_pending", [True, False])
def test_deletes_do_not_wait_for_a_file(choosy: Any, is_pending: bool) -> None:
    [name] = save(choosy, 1)
    choosy.queue.deliver()
    choosy.delete(name)
    if is_pending:  # on another host, or later
        new = row(choosy, choosy.save("new.txt", file()))
        ledger().filter(pk=new.pk).update(due_at=seconds_from_now(60))
    close(choosy, RemoteState.REFUSED)
    assert probe_once(choosy) != is_pending


def test_unreadable_file_says_nothing_of_remote(choosy: Any) -> None:
    [name] = save(choosy, 1)
    registered(choosy).close(RemoteState.REFUSED, "denied", 0)
    storages["disk"].delete(name)
    assert not probe_once(choosy)
    assert registered(choosy).get().last_error == "denied"
    assert row(choosy, name).state == State.FAILED


# A file that makes the remote fail


class Crashing(ScriptedStorage):
    """A remote that fails as if it were away for files of certain names."""

    def _save(self, name: str, content: Any) -> str:
        if name.startswith("bad"):
            raise ConnectionResetError("The connection was lost.")
        return str(super()._save(name, content))


def tries_until_failed(storage: Any, name: str, other: str | None = None) -> int:
    for count in range(1, 100):
        if other:
            storage.save(other, file())
            process_all_due(storage)
        else:
            work.run(make_due(storage, name))
        if row(storage, name).state == State.FAILED:
            return count
    raise AssertionError("it is retried for ever")


@pytest.mark.one_database
@pytest.mark.parametrize("other", [None, "good.txt"])
def test_file_that_breaks_connections_fails_alone(
    other: str | None, settings: Settings, changes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 3}
    monkeypatch.setattr(circuit, "TRIAL_EVERY", 0.0)  # the attempts are minutes apart
    storage = make(remote=Crashing())
    if other:
        storage.save(other, file())
        process_all_due(storage)
    [name] = save_bad(storage, 1)
    assert tries_until_failed(storage, name, other) == 5  # the first one is forgiven
    assert changes == []


@pytest.mark.one_database
def test_file_without_a_proof_fails_in_the_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 3}
    storage = make(remote=Crashing())
    monkeypatch.setattr(
        type(storage.uploader), "diagnose", lambda *args: Diagnosis(Fault.AWAY, 1.0)
    )
    [name] = save_bad(storage, 1)
    assert tries_until_failed(storage, name, "good.txt") == MAX_FAILURES + 4


# Many poisonous files


class Rejecting(ScriptedStorage):
    """A remote that denies files of certain names."""

    def _save(self, name: str, content: Any) -> str:
        if name.startswith("bad"):
            raise PermissionError(13, "The remote denies access.")
        return str(super()._save(name, content))


@pytest.mark.one_database
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_poisonous_file_fails_alone_around_outage(when: str, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 1}
    storage = make(remote=Rejecting())
    names = save(storage, 3)
    if when == "before":
        [bad] = save_bad(storage, 1)
        storage.queue.deliver()
    storage.remote.refuses = True
    names += save(storage, circuit.FAILURES)
    if when == "during":
        [bad] = save_bad(storage, 1)
    storage.queue.deliver()
    assert registered(storage).get().state == RemoteState.AWAY
    storage.remote.refuses = False
    assert probe_once(storage)
    if when == "after":
        [bad] = save_bad(storage, 1)
    for _try in range(2):
        process_all_due(storage)
    assert states(storage, [bad]) == [(State.FAILED, 2)]
    assert states(storage, names) == [(State.TRANSFERRED, 1)] * len(names)
    assert registered(storage).get().is_open


@pytest.mark.one_database
def test_poisonous_files_do_not_close(settings: Settings, changes: list[str]) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 1}
    storage = make(remote=Rejecting())
    bad, good = save_bad(storage), save(storage, 3)
    for _try in range(2):
        process_all_due(storage)
    assert states(storage, bad) == [(State.FAILED, 2)] * POISONOUS
    assert states(storage, good) == [(State.TRANSFERRED, 1)] * 3
    assert changes == []


# New code before its migrations

ALTERATIONS = {
    "column": ("queued_storage_remote RENAME COLUMN {} TO {}", "other_writer", "not_yet"),
    "table": ("{} RENAME TO {}", "queued_storage_remote", "not_yet"),
}


@contextmanager
def before_migration(alteration: str, name: str, other: str) -> Iterator[None]:
    """Take a column or the table of remotes away."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE " + alteration.format(name, other))
        try:
            yield
        finally:
            cursor.execute("ALTER TABLE " + alteration.format(other, name))


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next missing column be logged, even if another test has logged it."""
    monkeypatch.setattr(schema, "_reported", ("", 0.0))


older = pytest.mark.parametrize("alteration", ALTERATIONS.values(), ids=ALTERATIONS)


@pytest.mark.usefixtures("unreported")
@older
def test_messages_wait_quietly_for_migrate(alteration: tuple[str, str, str], caplog: Any) -> None:
    storage = make()
    names = save(storage, 2)
    pks = [row(storage, name).pk for name in names]
    with before_migration(*alteration):
        assert list(run_all(pks)) == pks
        assert [record.exc_info for record in caplog.records] == [None], caplog.text
        assert alteration[1] in caplog.text
        assert states(storage, names) == [(State.PENDING, 0)] * 2
    assert run_all(pks) == {}
    assert states(storage, names) == [(State.TRANSFERRED, 1)] * 2


@pytest.mark.usefixtures("unreported")
@older
def test_threads_wait_quietly_for_migrate(alteration: tuple[str, str, str], caplog: Any) -> None:
    storage = make()
    names = save(storage, 2)
    searched: list[str] = []

    def aliases() -> list[str]:
        searched.append(storage.alias)
        return [storage.alias]

    threads = Executor(1, 0.05, aliases)
    try:
        with before_migration(*alteration):
            threads.start()
            threads.notify([row(storage, names[0]).pk])
            until(lambda: len(searched) > 3)
            assert [record.exc_info for record in caplog.records] == [None], caplog.text
            assert "Run 'manage.py migrate'." in caplog.text
            assert states(storage, names) == [(State.PENDING, 0)] * 2
        until(lambda: states(storage, names) == [(State.TRANSFERRED, 1)] * 2)
    finally:
        assert threads.stop(60)
