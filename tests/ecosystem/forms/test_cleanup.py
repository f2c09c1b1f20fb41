"""django-cleanup, which deletes replaced and deleted files after the commit."""

from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.management import call_command
from django.db import connection, transaction

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.database import ledger
from queued_storage.models import QueuedFile
from queued_storage.testing import Fault, FaultyStorage, drain

from .files import evict, files, orphans, state, upload
from .library.models import Draft, Memo, Paper

State = QueuedFile.State
BOTH = pytest.mark.parametrize("model", [Draft, Memo], ids=["our field", "Django's field"])
NAME = "drafts/a.txt"


def make(model: Any, *, is_transferred: bool = True, content: bytes = b"old") -> Any:
    made = model.objects.create(file=upload("a.txt", content))
    if is_transferred:
        assert drain() == {}
    return made


STAGES = pytest.mark.parametrize("is_transferred", [False, True], ids=["pending", "transferred"])


@BOTH
@STAGES
def test_replaced_file_is_deleted_on_commit(
    model: Any, is_transferred: bool, far: FaultyStorage
) -> None:
    draft = make(model, is_transferred=is_transferred)
    far.calls.clear()
    with transaction.atomic():
        draft.file = upload("b.txt", b"new")
        draft.save()
        assert files("disk") == {NAME: b"old", "drafts/b.txt": b"new"}
    assert files("disk") == {"drafts/b.txt": b"new"}
    assert not default_storage.exists(NAME)
    assert not far.calls
    assert drain() == {}
    assert files("disk") == files("far") == {"drafts/b.txt": b"new"}
    assert QueuedFile.objects.get().name == "drafts/b.txt"


@BOTH
@STAGES
def test_file_of_deleted_model_is_deleted_on_commit(
    model: Any, is_transferred: bool, far: FaultyStorage
) -> None:
    draft = make(model, is_transferred=is_transferred)
    far.calls.clear()
    with transaction.atomic():
        draft.delete()
        assert files("disk") == {NAME: b"old"}
    assert files("disk") == {}
    assert not far.calls
    assert drain() == {}
    assert files("far") == {}
    assert not QueuedFile.objects.exists()


@BOTH
@STAGES
def test_rolled_back_change_keeps_the_old_file(model: Any, is_transferred: bool) -> None:
    draft = make(model, is_transferred=is_transferred)
    with transaction.atomic():
        draft.file = upload("b.txt", b"new")
        draft.save()
        transaction.set_rollback(True)
    assert drain() == {}
    again = model.objects.get()
    assert state(again.file) == State.TRANSFERRED
    with again.file.open() as file:
        assert file.read() == b"old"
    assert files("far") == {NAME: b"old"}


@BOTH
def test_rolled_back_delete_keeps_the_file(model: Any) -> None:
    draft = make(model)
    with transaction.atomic():
        draft.delete()
        transaction.set_rollback(True)
    assert drain() == {}
    assert files("disk") == files("far") == {NAME: b"old"}
    assert state(model.objects.get().file) == State.TRANSFERRED


@BOTH
@pytest.mark.parametrize("stage", ["pending", "transferred", "evicted"])
def test_name_recreated_in_the_transaction_is_kept(model: Any, stage: str) -> None:
    draft = make(model, is_transferred=stage != "pending")
    if stage == "evicted":
        evict()
    with transaction.atomic():
        draft.delete()
        made = make(model, is_transferred=False, content=b"new")
    with made.file.open() as file:
        assert file.read() == b"new"
    assert drain() == {}
    with model.objects.get().file.open() as file:
        assert file.read() == b"new"
    assert files("disk") == files("far") == {made.file.name: b"new"}
    assert [row.name for row in QueuedFile.objects.all()] == [made.file.name]


@BOTH
def test_name_deleted_explicitly_and_recreated_is_kept(model: Any) -> None:
    draft = make(model)
    with transaction.atomic():
        draft.file.delete(save=False)
        draft.delete()
        made = make(model, is_transferred=False, content=b"new")
    assert drain() == {}
    with made.file.open() as file:
        assert file.read() == b"new"
    assert files("disk") == files("far") == {made.file.name: b"new"}


@BOTH
def test_file_replaced_twice_in_one_transaction(model: Any) -> None:
    draft = make(model)
    with transaction.atomic():
        for content in (b"second", b"third"):
            draft.file = upload("a.txt", content)
            draft.save()
    assert drain() == {}
    assert list(files("disk").values()) == list(files("far").values()) == [b"third"]
    with model.objects.get().file.open() as file:
        assert file.read() == b"third"


@BOTH
def test_delete_completes_after_the_remote_is_available_again(
    model: Any, far: FaultyStorage
) -> None:
    draft = make(model)
    far.fault = Fault.REFUSE
    draft.delete()
    assert files("disk") == {}
    assert len(drain()) == 1
    assert not default_storage.exists(NAME)
    far.fault = None
    ledger().retry()
    assert drain() == {}
    assert files("far") == {}


@BOTH
def test_failed_local_delete_is_logged_and_retried(
    model: Any, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    disk = {"BACKEND": "queued_storage.testing.FaultyStorage"}
    settings.STORAGES = settings.STORAGES | {"disk": disk}
    draft = make(model)
    local = default_storage.local
    local.fault = Fault.REFUSE
    draft.delete()
    assert "There was an exception deleting the file" in caplog.text
    assert not model.objects.exists()
    assert not default_storage.exists(NAME)
    local.fault = None
    assert drain() == {}
    assert not local.exists(NAME)
    assert files("far") == {}


@BOTH
def test_shared_file_is_deleted_with_the_first_row(model: Any) -> None:
    """As with any storage, django-cleanup does not count references."""
    draft = make(model)
    other = model.objects.create(file=draft.file.name)
    draft.delete()
    drain()
    assert files("disk") == files("far") == {}
    with pytest.raises(FileNotFoundError):
        other.file.open()


@BOTH
def test_overwriting_a_name_does_not_cancel_its_delete(model: Any) -> None:
    """A known limit: django-cleanup does not notice a file that is overwritten in place."""
    draft = make(model)
    with transaction.atomic():
        draft.delete()
        with default_storage.open(NAME, "wb") as file:
            file.write(b"new")
    drain()
    assert files("disk") == files("far") == {}


@BOTH
def test_file_without_a_row_is_deleted_everywhere(model: Any, storage: QueuedStorage) -> None:
    for side in (storage.local, storage.remote):
        side.save(NAME, ContentFile(b"old"))
    draft = model.objects.create(file=NAME)
    draft.delete()
    assert drain() == {}
    assert files("disk") == files("far") == {}
    assert not QueuedFile.objects.exists()


@BOTH
def test_unadopted_remote_file_does_not_reserve_its_name(
    model: Any, storage: QueuedStorage
) -> None:
    """A known limit: a new file takes the name, and django-cleanup then deletes the new file."""
    storage.remote.save(NAME, ContentFile(b"old"))
    draft = model.objects.create(file=NAME)
    with transaction.atomic():
        draft.delete()
        made = make(model, is_transferred=False, content=b"new")
    drain()
    assert made.file.name == NAME
    with made.file.open() as file:
        assert file.read() == b"old"


@BOTH
def test_adopted_file_reserves_its_name_until_deleted(model: Any, storage: QueuedStorage) -> None:
    storage.remote.save(NAME, ContentFile(b"old"))
    draft = model.objects.create(file=NAME)
    call_command("queued_storage", "adopt", verbosity=0)
    with transaction.atomic():
        draft.delete()
        made = make(model, is_transferred=False, content=b"new")
    assert drain() == {}
    assert made.file.name != NAME
    assert files("disk") == files("far") == {made.file.name: b"new"}


def test_process_killed_after_commit_leaves_the_file(storage: QueuedStorage) -> None:
    """A known limit: django-cleanup deletes after the commit and does not record that it will."""
    draft = make(Draft)
    with transaction.atomic():
        draft.delete()
        connection.run_on_commit.clear()  # a killed process does not run its callbacks
    assert drain() == {}
    assert not Draft.objects.exists()
    assert files("far") == {NAME: b"old"}
    for side in ("local", "remote"):
        assert NAME not in orphans(side)


def test_delete_in_the_transaction_survives_a_killed_process() -> None:
    """The solution: the same transaction writes a tombstone and deletes the model."""
    paper = Paper.objects.create(file=upload("a.txt", b"old"))
    drain()
    with transaction.atomic():
        paper.file.delete(save=False)
        paper.delete()
        connection.run_on_commit.clear()
    assert drain() == {}
    assert files("disk") == files("far") == {}
    assert not QueuedFile.objects.exists()
