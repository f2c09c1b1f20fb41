"""Workers and places: what is uploaded where, and what waits."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage
from pytest_django import DjangoAssertNumQueries, Settings

from queued_storage.exceptions import RemoteChanged
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.states import State
from queued_storage.remotes.places import place_of
from queued_storage.reporting import hourly
from queued_storage.tasks import TransferAndDelete
from queued_storage.transfers import destinations, work
from queued_storage.transfers.destinations import remote_of
from tests.support.rows import is_about
from tests.support.scripted import ScriptedStorage, file, make, make_due, on_disk, read, row

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def old(tmp_path: Path) -> FileSystemStorage:
    return FileSystemStorage(tmp_path / "old", "https://old.example/")


@pytest.fixture
def new(tmp_path: Path) -> FileSystemStorage:
    return FileSystemStorage(tmp_path / "new", "https://new.example/")


def move(storage: Any, to: Any) -> None:
    storage.sides.remote.given = to


def saved(remote: Any, **options: Any) -> tuple[Any, str]:
    storage = make(remote=remote, **options)
    return storage, storage.save("a.txt", file())


def transferred(remote: Any, **options: Any) -> tuple[Any, str]:
    storage, name = saved(remote, **options)
    assert storage.queue.deliver() == {}
    return storage, name


def due_at(storage: Any, name: str) -> datetime | None:
    return row(storage, name).due_at


# Remotes are registered


def test_the_first_upload_registers_the_remote(old: Any) -> None:
    storage, _name = saved(old)
    assert not remotes().exists()
    storage.queue.deliver()
    found = remotes().get()
    assert (found.alias, found.digest) == (storage.alias, place_of(old).digest)
    assert found.place == str(old.location)


def test_a_process_registers_a_remote_once(
    old: Any, new: Any, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    storage = make(remote=old)
    first = remote_of(storage)
    with django_assert_num_queries(0):
        assert remote_of(storage) == first
    move(storage, new)
    assert remote_of(storage) != first
    assert remotes().filter(alias=storage.alias).count() == 2


def test_workers_register_the_place_of_old_rows(old: Any, new: Any) -> None:
    storage, name = transferred(old)
    remotes().all().delete()
    ledger().update(place=None)
    destinations._forget()
    destinations.register_first([storage.alias, "unknown"])
    assert [remote.digest for remote in remotes()] == [place_of(old).digest]
    move(storage, new)
    with pytest.raises(RemoteChanged):
        destinations.require_same_place(storage, row(storage, name))


def test_nothing_is_registered_without_old_rows(old: Any) -> None:
    storage, _name = saved(old)
    destinations.register_first([storage.alias])
    assert not remotes().exists()


# The configured place has changed


@pytest.mark.parametrize("tries", [False, True])
def test_a_file_that_was_never_sent_moves_along(old: Any, new: Any, tries: bool) -> None:
    storage, name = saved(old)
    move(storage, new)
    pk = make_due(storage, name)
    [claimed] = ledger().claim_due(1, [storage.alias], [storage.alias] if tries else [])
    assert bool(claimed.unconfirmed) is tries
    assert work.run_claimed(claimed) is None
    found = row(storage, name)
    assert (found.pk, found.state, found.place) == (pk, State.TRANSFERRED, place_of(new).digest)
    assert (new.exists(name), old.exists(name)) == (True, False)
    assert [remote.digest for remote in remotes()] == [found.place]


def test_a_file_that_was_sent_waits_for_an_hour(old: Any, new: Any) -> None:
    storage, name = saved(old)
    ledger().filter(name=name).update(unconfirmed="5 crc32:1 a")  # by a worker that died
    move(storage, new)
    [error] = storage.queue.deliver().values()
    assert isinstance(error, RemoteChanged)
    found = row(storage, name)
    assert (found.state, found.attempts, found.place) == (
        State.PENDING,
        0,
        place_of(old).digest,
    )
    assert is_about(found.due_at, 3600)
    assert not new.exists(name)
    assert not remotes().filter(digest=place_of(new).digest).exists()
    move(storage, old)
    make_due(storage, name)
    assert work.run(found.pk) is None
    assert row(storage, name).state == State.TRANSFERRED


def test_files_elsewhere_are_logged_once_an_hour(
    old: Any, new: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = make(remote=old)
    names = [storage.save(f"{number}.txt", file()) for number in range(3)]
    ledger().filter(name__in=names).update(unconfirmed="5 crc32:1 a")  # by a worker that died
    move(storage, new)
    assert len(storage.queue.deliver()) == 3
    assert len([each for each in caplog.records if "failed" in each.getMessage()]) == 1
    caplog.clear()
    monkeypatch.setattr(hourly, "EVERY", 0.0)  # an hour later
    assert isinstance(work.run(make_due(storage, names[0])), RemoteChanged)
    [said] = [each.getMessage() for each in caplog.records if "failed" in each.getMessage()]
    assert said.endswith("2 other files failed like this.")


def test_new_content_of_a_file_elsewhere_waits(old: Any, new: Any) -> None:
    """Its old object is at the old place, where it must be overwritten."""
    storage, name = transferred(old)
    move(storage, new)
    with storage.open(name, "wb") as opened:
        opened.write(b"newer")
    [error] = storage.queue.deliver().values()
    assert isinstance(error, RemoteChanged)
    assert read(storage, name) == b"newer"
    assert not new.exists(name)


def test_a_delete_waits(old: Any, new: Any) -> None:
    storage, name = transferred(old)
    move(storage, new)
    new.save(name, file(b"of another project"))
    storage.delete(name)
    [error] = storage.queue.deliver().values()
    assert isinstance(error, RemoteChanged)
    assert (old.exists(name), new.exists(name)) == (True, True)
    assert is_about(due_at(storage, name), 3600)
    move(storage, old)
    assert work.run(make_due(storage, name)) is None
    assert (old.exists(name), new.exists(name)) == (False, True)
    assert storage.queued_file(name) is None


def test_a_delete_of_an_unsent_file_does_not_wait(old: Any, new: Any) -> None:
    storage, name = saved(old)
    move(storage, new)
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert storage.queued_file(name) is None


def test_an_eviction_that_a_worker_continues_waits(old: Any, new: Any) -> None:
    storage, name = transferred(old)
    move(storage, new)
    new.save(name, file())
    ledger().filter(name=name).update(attempts=2)  # its worker died
    assert isinstance(work.run(make_due(storage, name)), RemoteChanged)
    assert on_disk() == [name]
    assert row(storage, name).is_local


def test_a_place_that_changes_before_the_eviction(old: Any, new: Any) -> None:
    """The local copy is looked for a last time right before it is deleted."""

    class Late(TransferAndDelete):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            done = super().transfer(name, local, remote)
            move(storage, new)
            return done

    storage = make(remote=old, task=Late)
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert isinstance(error, RemoteChanged)
    assert on_disk() == [name]
    assert row(storage, name).state == State.TRANSFERRED


# The place depends on the thread


class Tenants(ScriptedStorage):
    """A storage with a directory for each tenant, as that of django-tenants."""

    tenant = "public"

    @property
    def location(self) -> str:  # type: ignore[override]
        return f"{super().location}/{Tenants.tenant}"


class OnePlace(Tenants):
    queued_storage_place = "one place"


@contextmanager
def tenant(name: str) -> Iterator[None]:
    """Act as the thread of a request by a tenant; a worker has none."""
    Tenants.tenant = name
    yield
    Tenants.tenant = "public"


@pytest.mark.parametrize("task", [None, TransferAndDelete])
def test_another_place_than_the_savers_is_refused(task: Any) -> None:
    remote = Tenants()
    storage = make(remote=remote, task=task)
    with tenant("one"):
        name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert isinstance(error, RemoteChanged)
    for text in ("saved for another", "far/public", "queued_storage_place", "tenants.html#"):
        assert text in str(error)
    assert on_disk("far") == []
    assert not remote.calls
    found = row(storage, name)
    assert (found.state, found.attempts, found.is_local) == (State.PENDING, 0, True)
    assert is_about(found.due_at, 3600)
    with tenant("one"):
        assert read(storage, name) == b"bytes"
        assert work.run(make_due(storage, name)) is None
        assert storage.url(name).startswith("https://far")


def test_a_file_that_was_not_tried_is_not_sent_later(settings: Settings) -> None:
    """Otherwise the place of the next attempt would count as that of an upload."""
    storage = make(remote=Tenants())
    with tenant("one"):
        name = storage.save("a.txt", file())
    make_due(storage, name)
    [claimed] = ledger().claim_due(1, [storage.alias], [storage.alias])
    assert claimed.unconfirmed
    assert isinstance(work.run_claimed(claimed), RemoteChanged)
    assert row(storage, name).unconfirmed == ""


def test_a_constant_place_is_trusted() -> None:
    storage = make(remote=OnePlace())
    with tenant("one"):
        name = storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED


# Queued storages as remotes


def test_a_queued_remote_moves_with_its_final_places(old: Any, new: Any) -> None:
    inner = make(local=ScriptedStorage("inner"), remote=old)
    storage = make(remote=inner)
    assert not storage.has_fixed_place  # that of its local side
    inner.sides.local.given = FileSystemStorage(Path(old.location) / "../inner")
    assert storage.has_fixed_place
    name = storage.save("a.txt", file())
    before = row(storage, name).place
    inner.sides.remote.given = new
    assert storage.queue.deliver() == {}
    assert row(storage, name).place == storage.remote_place.digest != before


def test_a_queued_remote_that_moved_after_the_transfer(old: Any, new: Any) -> None:
    inner = make(local=FileSystemStorage(Path(old.location) / "../inner"), remote=old)
    storage, name = transferred(inner)
    inner.sides.remote.given = new
    storage.delete(name)
    [error] = storage.queue.deliver().values()
    assert isinstance(error, RemoteChanged)
    assert str(old.location) in str(error)
    assert str(new.location) in str(error)
