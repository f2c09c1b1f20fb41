"""Each change of a remote is one statement that takes place once."""

from typing import Any, NamedTuple

import pytest

from queued_storage.ledger.remotes import Remote, Remotes, RemoteState, remotes
from tests.support.rows import new_row, now, past

pytestmark = pytest.mark.django_db(transaction=True)

AWAY, REFUSED, PAUSED = RemoteState.AWAY, RemoteState.REFUSED, RemoteState.PAUSED


class Known(NamedTuple):
    digest: int = 7
    description: str = "s3://host/bucket"


def remote(**columns: Any) -> Remotes:
    made = remotes().register("one", Known())
    found = remotes().filter(pk=made.pk)
    if columns:
        found.update(**columns)
    return found


def closed() -> Remotes:
    found = remote()
    assert found.close(AWAY, "down", 100) == 1
    return found


def probe_is_due(found: Remotes) -> Remotes:
    found.update(next_probe_at=past())
    return found


def test_place_is_registered_once() -> None:
    first = remotes().register("one", Known())
    assert remotes().register("one", Known()) == first
    assert remotes().register("two", Known()) != first
    assert (first.is_open, first.place) == (True, "s3://host/bucket")
    assert remotes().first_of("one") == first


def test_only_one_process_closes() -> None:
    found = closed()
    assert found.close(REFUSED, "other", 1) == 0
    row = found.get()
    assert (row.state, row.last_error, row.probes) == (AWAY, "down", 0)
    assert row.next_probe_at is not None
    assert 90 < (row.next_probe_at - row.since).total_seconds() < 110


def test_only_one_process_probes() -> None:
    found = probe_is_due(closed())
    assert [found.take_probe(100), found.take_probe(100)] == [1, 0]
    assert found.take_probe(100, even_early=True) == 1  # somebody wants to know now


def test_probe_waits_until_it_is_due() -> None:
    assert closed().take_probe(1) == 0


def test_failed_probe_is_counted() -> None:
    found = closed()
    since = found.get().since
    assert found.postpone_probe(REFUSED, "denied", 100) == 1
    row = found.get()
    assert (row.state, row.probes, row.last_error, row.since) == (REFUSED, 1, "denied", since)


def test_unfinished_opening_is_for_another_process() -> None:
    found = closed()
    assert found.reopen(100) == 1
    assert [each.is_open for each in found.opening()] == [True]
    assert found.take_opening(100) == 0  # the process that opened it is at work
    probe_is_due(found)
    assert [found.take_opening(100), found.take_opening(100)] == [1, 0]
    assert [found.finish_opening(), found.finish_opening()] == [1, 0]
    assert found.get().next_probe_at is None


@pytest.mark.parametrize("verb", ["take_opening", "finish_opening"])
def test_remote_that_is_closed_is_not_opening(verb: str) -> None:
    found = probe_is_due(closed())
    before = found.get().next_probe_at
    assert getattr(found, verb)(*([100] if verb == "take_opening" else [])) == 0
    assert found.get().next_probe_at == before


def test_only_one_process_reopens() -> None:
    found = closed()
    assert [found.reopen(), found.reopen()] == [1, 0]
    row = found.get()
    assert (row.state, row.next_probe_at, row.probes) == (RemoteState.OPEN, None, 0)
    assert row.last_error == ""


def test_paused_remote_stays_paused() -> None:
    found = closed()
    assert [found.pause(), found.pause()] == [1, 0]
    assert found.take_probe(1, even_early=True) == 0
    assert found.postpone_probe(AWAY, "down", 1) == 0
    assert found.reopen() == 0
    assert found.close(AWAY, "down", 1) == 0
    assert found.get().state == PAUSED


def test_only_paused_remote_is_resumed() -> None:
    found = closed()
    assert found.resume() == 0
    found.pause()
    assert [found.resume(), found.resume()] == [1, 0]
    assert found.get().is_open


def test_unknown_state_counts_as_closed() -> None:
    found = remote(state="mirrored")
    assert found.closed().exists()
    assert not found.probed().exists()


def test_since_is_of_the_database_clock() -> None:
    new_row()
    row: Remote = closed().get()
    assert abs((row.since - now()).total_seconds()) < 5
