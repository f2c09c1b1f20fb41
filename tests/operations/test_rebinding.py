from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.core.management import CommandError

from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.states import State
from queued_storage.operations import rebinding
from queued_storage.operations.rebinding import elsewhere, rebind
from tests.support.command import run
from tests.support.rows import is_about
from tests.support.scripted import file, make, on_disk, read, row

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A storage with three transferred files, whose remote was renamed after that."""
    monkeypatch.setattr(rebinding, "AT_ONCE", 2)
    storage = make(remote=FileSystemStorage(tmp_path / "old"))
    for name in ("a.txt", "b.txt", "c.txt"):
        storage.save(name, file())
    assert storage.queue.deliver() == {}
    run("evict", "--all", "--storage", storage.alias)
    (tmp_path / "old").rename(tmp_path / "new")
    storage.sides.remote.given = FileSystemStorage(tmp_path / "new")
    return storage


def places(storage: Any) -> list[int | None]:
    rows = ledger().filter(alias=storage.alias).order_by("pk")
    return list(rows.values_list("place", flat=True))


def test_all_files_are_bound(moved: Any) -> None:
    assert elsewhere(moved.alias) == 3
    assert rebind(moved.alias) == 3
    assert set(places(moved)) == {moved.remote_place.digest}
    assert [remote.place for remote in remotes()] == [moved.remote_place.description]
    assert read(moved, "a.txt") == b"bytes"
    assert rebind(moved.alias) == 0


def test_a_dry_run_binds_none(moved: Any) -> None:
    before = places(moved)
    assert rebind(moved.alias, dry_run=True) == 3
    assert places(moved) == before
    assert remotes().count() == 1


def test_rows_of_earlier_versions_are_bound(moved: Any) -> None:
    ledger().filter(name="a.txt").update(place=None)
    assert rebind(moved.alias) == 3


def test_unknown_places_stay(moved: Any) -> None:
    ledger().filter(name="a.txt").update(place=0)
    assert rebind(moved.alias) == 2
    assert places(moved)[0] == 0


def test_an_unknown_place_is_not_accepted(moved: Any) -> None:
    before = places(moved)
    moved.sides.remote.given = InMemoryStorage()
    assert rebind(moved.alias) == 0
    assert places(moved) == before


def test_files_of_other_storages_stay(moved: Any) -> None:
    other = make(remote=FileSystemStorage("/srv/other"))
    other.save("a.txt", file())
    before = places(other)
    rebind(moved.alias)
    assert places(other) == before


def test_an_interrupted_pass_can_be_repeated(moved: Any) -> None:
    def stop(step: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebind(moved.alias, stop)
    assert elsewhere(moved.alias) == 1
    assert remotes().count() == 2
    assert rebind(moved.alias) == 1
    assert remotes().count() == 1


def test_a_claimed_file_is_left_to_its_worker(moved: Any) -> None:
    claimed = ledger().claim_settled(row(moved, "b.txt").pk)
    assert claimed is not None
    with pytest.raises(CommandError, match="in the hands of a worker"):
        run("remotes", "accept", moved.alias)
    assert elsewhere(moved.alias) == 1
    assert remotes().count() == 2
    ledger().settle(claimed)
    assert "1 file of" in run("remotes", "accept", moved.alias)
    assert elsewhere(moved.alias) == 0


def test_what_waited_is_due_at_once(moved: Any) -> None:
    moved.delete("a.txt")
    moved.queue.deliver()
    assert is_about(row(moved, "a.txt").due_at, 3600)
    rebind(moved.alias)
    found = row(moved, "a.txt")
    assert found.state == State.DELETING
    assert is_about(found.due_at, 0)


def test_the_verb_accepts(moved: Any) -> None:
    assert "3 files" in run("remotes", "accept", moved.alias, "--dry-run")
    text = run("remotes", "accept", moved.alias)
    assert moved.remote_place.description in text
    assert f"verify --storage {moved.alias}" in text
    assert run("verify", "--storage", moved.alias)


def test_the_verb_refuses_an_unknown_alias() -> None:
    with pytest.raises(CommandError, match="nothing"):
        run("remotes", "accept", "nothing")


def test_a_dry_run_of_another_action_is_refused(moved: Any) -> None:
    with pytest.raises(CommandError, match="--dry-run"):
        run("remotes", "pause", moved.alias, "--dry-run")


# Until then


@pytest.mark.parametrize("verb", ["restore", "evict"])
def test_operations_refuse_what_is_elsewhere(moved: Any, verb: str) -> None:
    moved.save("d.txt", file())
    moved.queue.deliver()
    ledger().filter(name="d.txt").update(place=5)
    with pytest.raises(CommandError):
        run(verb, "--all", "--storage", moved.alias)
    assert on_disk() == ["d.txt"]


def test_verify_does_not_call_it_missing(moved: Any) -> None:
    with pytest.raises(CommandError):
        run("verify", "--storage", moved.alias)
    kinds = set()
    from queued_storage.operations.comparison import verify

    for difference in verify(ledger().filter(alias=moved.alias)):
        kinds.add((difference.side, str(difference.kind)))
        assert "remotes accept" in difference.details
    assert kinds == {("remote", "unreadable")}


def test_prune_keeps_what_is_elsewhere(moved: Any, tmp_path: Path) -> None:
    moved.sides.remote.given = FileSystemStorage(tmp_path / "empty")
    with pytest.raises(CommandError, match="could not be checked"):
        run("prune", "--all", "--yes", "--storage", moved.alias)
    assert ledger().filter(alias=moved.alias, state=State.TRANSFERRED).count() == 3
