"""Several processes that find a remote closed, and those that die meanwhile."""

from typing import Any

import pytest
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import Remotes, RemoteState, remotes
from queued_storage.ledger.states import State
from queued_storage.queues.base import run_all
from queued_storage.remotes.fault_kinds import Fault
from queued_storage.remotes.faults import Diagnosis
from queued_storage.transfers import circuit, watching
from queued_storage.transfers.circuit import circuit_of
from queued_storage.transfers.gates import gates
from tests.support.scripted import ScriptedStorage, file, make, row

pytestmark = pytest.mark.django_db(transaction=True)


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
