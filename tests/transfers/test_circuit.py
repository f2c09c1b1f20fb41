"""Whose fault a failed attempt is, and what closes and opens a remote."""

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.ledger.states import State
from queued_storage.signals import remote_changed
from queued_storage.transfers import circuit, probing, trials
from queued_storage.transfers.gates import gates
from tests.support.scripted import ScriptedStorage, file, make, row

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def changes() -> Iterator[list[str]]:
    """The states of all remotes, in the order in which they were announced."""
    found: list[str] = []

    def receiver(state: str, **kwargs: Any) -> None:
        found.append(str(state))

    remote_changed.connect(receiver)
    yield found
    remote_changed.disconnect(receiver)


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
