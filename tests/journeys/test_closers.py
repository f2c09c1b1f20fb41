"""Several processes that find a remote closed, and those that die meanwhile."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from pytest_django import Settings

from queued_storage.ledger.database import QueuedFileQuerySet, ledger
from queued_storage.ledger.remotes import Remotes, RemoteState, remotes
from queued_storage.ledger.states import State
from queued_storage.queues.base import run_all, run_message
from queued_storage.remotes.fault_kinds import Fault
from queued_storage.remotes.faults import Diagnosis
from queued_storage.transfers import circuit, probing, trials, watching, work
from queued_storage.transfers.circuit import Circuit, Fate, circuit_of
from queued_storage.transfers.gates import gates
from tests.support.outages import close, registered
from tests.support.scripted import LONG_AGO, ScriptedStorage, file, make, row
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]


@pytest.fixture(autouse=True)
def without_retries(settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"RETRIES": 0}


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let no thread probe; return a list with an entry for each request to do so."""
    asked: list[str] = []
    monkeypatch.setattr(watching, "watch", lambda: asked.append("watch"))
    return asked


class Denying(ScriptedStorage):
    """A storage that denies everything, which does not say whose fault it is."""

    is_denied = False

    def _call(self, method: str, name: str, *args: Any, **kwargs: Any) -> Any:
        if self.is_denied:
            raise PermissionError(13, "The remote denies access.")
        return super()._call(method, name, *args, **kwargs)


def failing(storage: Any, count: int) -> list[str]:
    """Save files, and let the remote deny access to them just after it worked."""
    circuit_of(storage.alias).succeeded()
    names = [storage.save(f"{number}.txt", file()) for number in range(count)]
    storage.remote.is_denied = True
    run_all([row(storage, name).pk for name in names])
    return names


def states() -> set[tuple[str, int]]:
    return set(ledger().values_list("state", "attempts"))


def test_other_process_takes_its_failures_back(unwatched: list[str]) -> None:
    storage = make(remote=Denying())
    failing(storage, 3)
    assert states() == {(State.FAILED, 1)}
    remotes().register(storage.alias, storage.remote_place)
    assert remotes().close(RemoteState.REFUSED, "another process", 60)
    gates.forget()
    circuit_of(storage.alias).take_back_if_closed()
    assert states() == {(State.PENDING, 0)}


def test_closer_that_dies_leaves_no_failures(
    unwatched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make(remote=Denying())
    close = Remotes.close

    def die(*args: Any, **kwargs: Any) -> int:
        close(*args, **kwargs)
        raise SystemExit

    monkeypatch.setattr(Remotes, "close", die)
    with pytest.raises(SystemExit):
        failing(storage, circuit.FAILURES)
    waiting = ledger().filter(lease_token="")
    assert set(waiting.values_list("state", "attempts")) == {(State.PENDING, 0)}


def test_last_file_of_message_starts_the_watch(unwatched: list[str]) -> None:
    storage = make(remote=Denying())
    failing(storage, circuit.FAILURES)
    assert remotes().closed().exists()
    assert unwatched


def test_first_probe_waits_as_long_as_asked(
    unwatched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make(remote=Denying())
    monkeypatch.setattr(
        type(storage.uploader), "diagnose", lambda *args: Diagnosis(Fault.AWAY, 120.0)
    )
    failing(storage, circuit.FAILURES)
    remote = remotes().get()
    assert remote.next_probe_at
    assert (remote.next_probe_at - remote.since).total_seconds() == pytest.approx(120, abs=1)


# A failure is counted while another thread or process closes the remote


@pytest.fixture
def closing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """Run a function once, right before or after the ledger marks a file as failed."""

    def install(when: str, close_now: Callable[[], object]) -> None:
        mark_failed, actions = QueuedFileQuerySet.mark_failed, [close_now]

        def marked(self: Any, *args: Any) -> int:
            if when == "before" and actions:
                actions.pop()()
            answer = mark_failed(self, *args)
            if when == "after" and actions:
                actions.pop()()
            return answer

        monkeypatch.setattr(QueuedFileQuerySet, "mark_failed", marked)

    return install


@pytest.mark.one_database
@pytest.mark.parametrize("when", ["before", "after"])
def test_failure_is_given_back_once(
    when: str, unwatched: list[str], closing: Callable[..., None]
) -> None:
    storage = make(remote=Denying())
    others = [storage.save(f"other/{number}.txt", file()) for number in range(circuit.FAILURES)]
    pks = [row(storage, name).pk for name in others]
    closing(when, lambda: run_all(pks))
    failing(storage, 1)
    assert registered(storage).get().state == RemoteState.REFUSED
    assert states() == {(State.PENDING, 0)}
    circuit_of(storage.alias).take_back_if_closed()
    assert states() == {(State.PENDING, 0)}


@pytest.mark.one_database
@pytest.mark.parametrize("when", ["before", "after"])
def test_failure_is_given_back_despite_other_process(
    when: str, unwatched: list[str], closing: Callable[..., None]
) -> None:
    storage = make(remote=Denying())
    closing(when, lambda: close(storage))
    [name] = failing(storage, 1)
    ledger().filter(pk=row(storage, name).pk).update(attempts=3)  # earlier ones count
    gates.forget()
    for _look in range(2):
        circuit_of(storage.alias).take_back_if_closed()
    assert states() == {(State.PENDING, 2)}


@pytest.mark.one_database
def test_success_leaves_the_failure_counted(
    unwatched: list[str], closing: Callable[..., None]
) -> None:
    storage = make(remote=Denying())
    closing("before", circuit_of(storage.alias).succeeded)
    failing(storage, 1)
    assert states() == {(State.FAILED, 1)}
    close(storage)
    gates.forget()
    circuit_of(storage.alias).take_back_if_closed()
    assert states() == {(State.FAILED, 1)}


# Two processes at once


@pytest.mark.one_database
def test_two_closers_tell_once(
    unwatched: list[str],
    changes: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = make(remote=ScriptedStorage())
    found = row(storage, storage.save("a.txt", file()))
    storage.remote.refuses = True
    shut, fates = Remotes.close, []

    def judge() -> None:
        # Each process has a circuit of its own.
        fates.append(Circuit(storage.alias).judge(storage, found, ConnectionError()).fate)

    def closing(self: Any, *args: Any) -> int:
        monkeypatch.setattr(Remotes, "close", shut)
        judge()
        return shut(self, *args)

    monkeypatch.setattr(Remotes, "close", closing)
    judge()
    assert fates == [Fate.CLOSED, Fate.CLOSED]
    assert changes == ["away"]
    assert caplog.text.count("is away: ") == 1


@pytest.mark.one_database
@pytest.mark.parametrize("is_away", [True, False])
@pytest.mark.parametrize("verbs", [["pause"], ["pause", "resume"]])
def test_operator_wins_over_running_probe(
    verbs: list[str],
    is_away: bool,
    unwatched: list[str],
    changes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = make(remote=ScriptedStorage())
    storage.remote.refuses = is_away
    remote, try_out = close(storage, RemoteState.REFUSED), trials.try_out

    def steered(storage: Any) -> trials.Trial:
        for verb in verbs:
            assert getattr(registered(storage), verb)() == 1
        return try_out(storage)

    monkeypatch.setattr(trials, "try_out", steered)
    assert not probing.probe(remote, even_early=True)
    expected = RemoteState.OPEN if "resume" in verbs else RemoteState.PAUSED
    assert registered(storage).get().state == expected
    assert changes == []  # the operator's command tells of its own changes


def test_accepted_writer_opens_nothing() -> None:
    storage = make(remote=ScriptedStorage())
    remote = close(storage)
    assert registered(storage).accept_writer("theirs ours") == 1
    found = registered(storage).get()
    assert (found.state, found.next_probe_at) == (RemoteState.AWAY, remote.next_probe_at)


# A file by which a remote is probed


@pytest.mark.one_database
def test_probe_by_a_large_file_is_the_only_one(
    unwatched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make(remote=Denying())
    name = storage.save("large.bin", file())
    storage.save("other.txt", file())
    close(storage, RemoteState.REFUSED)
    registered(storage).update(is_probed_by_files=True, next_probe_at=LONG_AGO)
    attempts, others = [], []
    run_claimed = work.run_claimed

    def attempt(claimed: Any) -> Any:
        attempts.append(claimed.name)
        # The time for a probe is over, and another process looks.
        registered(storage).update(next_probe_at=LONG_AGO)
        others.append(probing.probe(registered(storage).get()))
        if len(attempts) == 1:  # this process dies, and the lease ends
            ledger().filter(pk=claimed.pk).update(due_at=LONG_AGO)
            registered(storage).update(next_probe_at=LONG_AGO)
            others.append(probing.probe(registered(storage).get()))
        return run_claimed(claimed)

    monkeypatch.setattr(work, "run_claimed", attempt)
    probing.probe(registered(storage).get())
    assert attempts == [name, "other.txt"]
    assert others == [False, False, True]


# An attempt that hangs


class Hanging(ScriptedStorage):
    """A remote that does not answer, until it is told that it is away."""

    goes_on = threading.Event()

    def _save(self, name: str, content: Any) -> str:
        if not name.startswith(".queued-storage"):
            self.goes_on.wait(60)
        raise ConnectionError("reset")


@pytest.mark.one_database
def test_hanging_attempt_is_given_back(unwatched: list[str], settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"STALL_TIMEOUT": 0.2, "LEASE": 0.6}
    storage = make(remote=Hanging())
    storage.save("a.txt", file())
    [pk] = ledger().values_list("pk", flat=True)
    worker = threading.Thread(target=run_message, args=([pk],))
    worker.start()
    try:
        until(lambda: remotes().closed().exists())
        until(lambda: states() == {(State.PENDING, 0)})
    finally:
        Hanging.goes_on.set()
        worker.join(10)
    assert states() == {(State.PENDING, 0)}
