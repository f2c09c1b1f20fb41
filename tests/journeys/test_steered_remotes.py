"""Mirrors and previous remotes that an operator pauses, resumes and probes by their names."""

import re
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError
from pytest_django import Settings

from queued_storage.health import Limits, check
from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.testing import drain
from queued_storage.transfers import watching
from queued_storage.transfers.gates import gates
from tests.support.command import run
from tests.support.mirroring import Mirrored, copy_at
from tests.support.moving import on, place, saved
from tests.support.scripted import LONG_AGO, file, read

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread probe beside the test."""
    monkeypatch.setattr(watching, "watch", lambda: None)


@pytest.fixture
def storage(mirrored: Mirrored) -> Any:
    return mirrored("first", "second", previous=["third"])


def error_of(*arguments: str) -> tuple[str, int]:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    return str(caught.value), caught.value.returncode


def state(remote: str) -> str:
    gates.forget()
    return str(remotes().get(digest=place(remote)).state)


def test_a_paused_mirror_gets_no_copies(storage: Any, caplog: pytest.LogCaptureFixture) -> None:
    shown = run("remotes", "pause", "default", "second")
    assert "The mirror of 'default'" in shown
    assert "remotes resume default second'" in shown
    assert "The mirror of 'default'" in caplog.text
    assert "remotes resume default second" in caplog.text
    name = saved(storage, "a.txt")
    assert (on("first"), on("second")) == ([name], [])
    assert copy_at("second").state == CopyState.PENDING
    assert "paused already" in run("remotes", "pause", "default", "second")
    assert "has been paused for" in run("status")
    assert "1 copy waits for it" in run("remotes", "resume", "default", "second")
    assert drain(storage) == {}
    assert on("second") == [name]
    assert "is not paused." in run("remotes", "resume", "default", "second")


@pytest.mark.one_database
def test_reads_of_files_on_a_paused_remote_fall_over(storage: Any) -> None:
    name = saved(storage, "a.txt", b"bytes", evict=True)
    run("remotes", "pause", "default", "first")
    assert state("first") == RemoteState.PAUSED
    storages["first"].calls.clear()  # type: ignore[attr-defined]
    assert read(storage, name) == b"bytes"
    assert not storages["first"].calls  # type: ignore[attr-defined]
    run("remotes", "pause", "default", "second")
    run("remotes", "resume", "default")
    storages["second"].calls.clear()  # type: ignore[attr-defined]
    assert read(storage, name) == b"bytes"
    assert not storages["second"].calls  # type: ignore[attr-defined]


def test_deletes_wait_for_a_paused_mirror(storage: Any) -> None:
    name = saved(storage, "a.txt")
    run("remotes", "pause", "default", "second")
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert on("second") == [name]
    assert ledger().get().attempts == 0
    run("remotes", "resume", "default", "second")
    ledger().update(due_at=LONG_AGO)
    assert drain(storage) == {}
    assert (on("first"), on("second"), ledger().count()) == ([], [], 0)


@pytest.mark.one_database
def test_a_paused_previous_remote(storage: Any, mirrored: Mirrored) -> None:
    storage = mirrored("third")
    name = saved(storage, "a.txt", evict=True)
    storage = mirrored("first", previous=["third"])
    shown = run("remotes", "pause", "default", storages["third"].location)  # type: ignore[attr-defined]
    assert "The previous remote of 'default'" in shown
    assert "is closed" in error_of("move", "--storage", "default")[0]
    assert "nothing is moved or removed there" in run("status")
    assert read(storage, name) == b"bytes"
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert on("third") == [name]
    assert run("remotes", "resume", "default", "third").endswith("is open.\n")
    ledger().update(due_at=LONG_AGO)
    assert drain(storage) == {}
    assert on("third") == []


@pytest.mark.one_database
def test_probes_by_name(storage: Any) -> None:
    saved(storage, "a.txt")
    assert "check-remote second" in run("remotes", "probe", "default", "second")
    storages["second"].refuses = True  # type: ignore[attr-defined]
    its = remotes().filter(digest=place("second"))
    its.close(RemoteState.AWAY, "It is away.", 60)
    text, code = error_of("remotes", "probe", "default", "second")
    assert code == 1
    assert "The mirror of 'default'" in text
    assert "The remote is away; 0 copies wait" in text
    assert "remotes probe default second" in error_of("remotes", "resume", "default", "second")[0]
    storages["second"].refuses = False  # type: ignore[attr-defined]
    assert "works again. 0 copies wait" in run("remotes", "probe", "default", "second")
    assert state("second") == RemoteState.OPEN


@pytest.mark.one_database
def test_a_place_that_is_not_in_use_cannot_be_probed(storage: Any, mirrored: Mirrored) -> None:
    saved(storage, "a.txt")
    mirrored("first")
    second: Any = storages["second"]
    text, code = error_of("remotes", "probe", "default", second.location)
    assert code == 1
    assert "has no remote at this place now" in text


@pytest.mark.one_database
@pytest.mark.parametrize("action", ["pause", "resume", "probe"])
def test_names_that_do_not_exist(storage: Any, action: str) -> None:
    assert error_of("remotes", action, "default", "secnod") == (
        "The storage 'default' has no remote 'secnod'. Did you mean 'second'?",
        2,
    )
    text, code = error_of("remotes", action, "default", "xyz")
    assert code == 2
    assert "Choose one of: 'first', 'second', 'third'." in text
    assert error_of("remotes", action, "defualt", "second")[1] == 2
    assert error_of("remotes", "accept", "default", "second")[1] == 2
    assert not remotes().closed().exists()


@pytest.mark.one_database
def test_remotes_are_listed_with_their_names(storage: Any) -> None:
    lines = [line for line in run("remotes").splitlines() if line.startswith("default ")]
    first, second, third = lines
    assert re.search(r"open +first: /.*/first, not used yet, 0 files wait$", first)
    assert re.search(r"open +second: .*, a mirror, 0 copies are missing$", second)
    assert re.search(r"open +third: .*, a previous remote, 0 files are left, 0 old copies$", third)


@pytest.mark.one_database
@pytest.mark.parametrize("name", ["second", "third"])
def test_closed_ones_are_reported(storage: Any, name: str) -> None:
    saved(storage, "a.txt")
    run("status", "--check")
    run("remotes", "pause", "default", name)
    remotes().filter(digest=place(name)).update(since=LONG_AGO)
    text, code = error_of("status", "--check")
    assert code == 1
    assert f"remotes resume default {name}" in text
    assert "has been paused" in check(Limits(max_away=60)).problems[0]
    assert "other" not in run("status")
    run("remotes", "resume", "default", name)
    run("status", "--check")
    assert check(Limits(max_away=60)).is_well


@pytest.mark.one_database
def test_failed_copies_are_tolerated_as_failed_files(storage: Any) -> None:
    saved(storage, "a.txt")
    copies().update(state=CopyState.FAILED, last_error="It is full.")
    assert "1 file of 'default' could not be copied" in error_of("status", "--check")[0]
    run("status", "--check", "--max-failures", "1")
    assert "1 copy on a mirror has failed; the limit is 0." in check(Limits(max_failed=0)).problems
    assert check(Limits(max_failed=1)).is_well


@pytest.mark.one_database
def test_metrics_of_mirrors_and_previous_remotes(storage: Any, settings: Settings) -> None:
    client = pytest.importorskip("prometheus_client")
    from queued_storage import metrics

    registry = client.CollectorRegistry()
    registry.register(metrics.LedgerCollector())

    def value(name: str, **labels: str) -> float | None:
        labels = {"storage": "default", **labels}
        found: float | None = registry.get_sample_value(f"queued_storage_{name}", labels)
        return found

    second, third = (storages[name].location for name in ("second", "third"))  # type: ignore[attr-defined]
    for number in range(4):
        saved(storage, f"{number}.txt")
    rows = list(copies().order_by("pk"))
    copies().filter(pk=rows[0].pk).update(state=CopyState.FAILED, due_at=None)
    copies().filter(pk=rows[1].pk).update(state=CopyState.PENDING, due_at=LONG_AGO)
    copies().filter(pk=rows[2].pk).update(state=CopyState.PENDING, due_at=None)
    found = {
        each: value("copies", place=second, state=each) for each in ("due", "waiting", "failed")
    }
    assert found == {"due": 1, "waiting": 1, "failed": 1}
    assert value("remote_up") == 1
    assert value("other_remote_up", place=second, role="mirror") == 1
    assert value("other_remote_up", place=third, role="previous") == 1
    run("remotes", "pause", "default", "second")
    run("remotes", "pause", "default", "third")
    assert value("other_remote_up", place=second, role="mirror") == 0
    assert value("other_remote_up", place=third, role="previous") == 0
    assert value("remote_up") == 1
    assert storage.save("b.txt", file())
