"""Files of models and managers."""

import copy
import io
import pickle
from typing import Any

import pytest
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, default_storage
from django.core.files.uploadedfile import InMemoryUploadedFile
from django.db import IntegrityError, transaction

from queued_storage.models import QueuedFile
from queued_storage.testing import FaultyStorage, drain

from .files import evict, files, state, upload
from .library.models import Letter, Note, Paper

State = QueuedFile.State
BOTH = pytest.mark.parametrize("model", [Paper, Letter], ids=["our fields", "Django's fields"])
NAME = "papers/a.txt"


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def read(file: Any) -> bytes:
    with file.open() as opened:
        return opened.read()


# bulk_create and bulk_update


@BOTH
def test_bulk_create_saves_the_files(model: Any, far: FaultyStorage) -> None:
    model.objects.bulk_create([model(file=upload(f"{name}.txt")) for name in "abc"])
    assert sorted(files("disk")) == ["papers/a.txt", "papers/b.txt", "papers/c.txt"]
    assert [state(paper.file) for paper in model.objects.all()] == [State.PENDING] * 3
    assert not far.calls
    assert drain() == {}
    assert files("far") == files("disk")


@BOTH
def test_bulk_create_does_not_save_saved_files_again(model: Any) -> None:
    papers = [model(), model()]
    for paper in papers:
        paper.file.save("a.txt", ContentFile(b"text"), save=False)
    model.objects.bulk_create(papers)
    assert len(files("disk")) == QueuedFile.objects.count() == 2
    assert {paper.file.name for paper in model.objects.all()} == set(files("disk"))


@BOTH
def test_rolled_back_bulk_create_transfers_nothing(model: Any) -> None:
    with transaction.atomic():
        model.objects.bulk_create([model(file=upload(f"{name}.txt")) for name in "ab"])
        transaction.set_rollback(True)
    assert drain() == {}
    assert files("far") == {}
    assert not QueuedFile.objects.exists()


@BOTH
def test_bulk_create_sends_one_message_for_all(model: Any) -> None:
    queue = default_storage.queue
    queue.messages.clear()
    model.objects.bulk_create([model(file=upload(f"{name}.txt")) for name in "abc"])
    assert [len(message) for message in queue.messages] == [3]
    queue.messages.clear()


def test_bulk_create_saves_files_of_ignored_rows() -> None:
    """Django saves the files before it knows of the conflict, so they are orphans."""
    Note.objects.create(file=upload("a.txt"), code="one")
    Note.objects.bulk_create([Note(file=upload("b.txt"), code="one")], ignore_conflicts=True)
    assert Note.objects.count() == 1
    assert sorted(files("disk")) == ["notes/a.txt", "notes/b.txt"]


@BOTH
def test_bulk_update_saves_no_files(model: Any) -> None:
    """With any storage, Django writes only the names. Save the file first."""
    paper = model.objects.create(file=upload("a.txt", b"old"))
    paper.file = upload("b.txt", b"new")
    model.objects.bulk_update([paper], ["file"])
    assert files("disk") == {NAME: b"old"}
    assert not default_storage.exists(model.objects.get().file.name)


@BOTH
def test_bulk_update_of_a_saved_file(model: Any) -> None:
    paper = model.objects.create(file=upload("a.txt", b"old"))
    paper.file.save("b.txt", ContentFile(b"new"), save=False)
    model.objects.bulk_update([paper], ["file"])
    drain()
    assert read(model.objects.get().file) == b"new"


# FieldFile.save


@BOTH
def test_save_false_and_rollback_transfer_nothing(model: Any) -> None:
    paper = model()
    with transaction.atomic():
        paper.file.save("a.txt", ContentFile(b"text"), save=False)
        assert paper.pk is None
        assert state(paper.file) == State.PENDING
        transaction.set_rollback(True)
    assert drain() == {}
    assert files("far") == {}


@BOTH
def test_save_false_transfers_without_saving_the_model(model: Any) -> None:
    """The file has a row in the ledger although no model refers to it."""
    paper = model()
    paper.file.save("a.txt", ContentFile(b"text"), save=False)
    drain()
    assert files("far") == {NAME: b"text"}
    paper.file.delete(save=False)
    drain()
    assert files("disk") == files("far") == {}


@BOTH
def test_saving_another_field_transfers_nothing(model: Any, far: FaultyStorage) -> None:
    paper = model.objects.create(file=upload())
    drain()
    far.calls.clear()
    paper.author = "Ada"
    paper.save()
    paper.save(update_fields=["author"])
    assert drain() == {}
    assert state(paper.file) == State.TRANSFERRED
    assert not far.calls


# A model whose INSERT fails after its file was saved


def clashing_note() -> Note:
    Note.objects.create(code="one")
    return Note(code="one", file=upload("late.txt"))


def test_failed_insert_in_a_transaction_transfers_nothing() -> None:
    note = clashing_note()
    with pytest.raises(IntegrityError), transaction.atomic():
        note.save()
    assert drain() == {}
    assert files("far") == {}
    assert not QueuedFile.objects.exists()


def test_failed_insert_without_a_transaction_transfers_the_file() -> None:
    """The file was saved and committed before, so it remains, as with any storage."""
    note = clashing_note()
    with pytest.raises(IntegrityError):
        note.save()
    assert drain() == {}
    assert files("far") == {"notes/late.txt": b"text"}


# Copies of a model


@BOTH
def test_copied_model_shares_the_file(model: Any) -> None:
    paper = model.objects.create(file=upload())
    paper.pk = None
    paper.save()
    one, two = model.objects.all()
    assert one.file.name == two.file.name == NAME
    assert QueuedFile.objects.count() == 1
    drain()
    assert read(one.file) == read(two.file) == b"text"


@BOTH
def test_deleting_a_shared_file_deletes_it_for_both(model: Any) -> None:
    """As with any storage, references to a file are not counted."""
    one = model.objects.create(file=upload())
    two = model.objects.create(file=one.file.name)
    drain()
    one.file.delete()
    drain()
    assert files("disk") == files("far") == {}
    two.refresh_from_db()
    with pytest.raises(FileNotFoundError):
        two.file.open()
    two.file.delete()
    assert drain() == {}


@BOTH
@pytest.mark.parametrize("stage", ["pending", "evicted"])
def test_copy_with_a_separate_file(model: Any, stage: str) -> None:
    one = model.objects.create(file=upload())
    if stage == "evicted":
        drain()
        evict()
    with one.file.open() as source:
        two = model.objects.create(file=File(source, name="a.txt"))
    assert two.file.name != one.file.name
    one.file.delete()
    drain()
    assert read(two.file) == b"text"


@BOTH
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_copied_and_pickled_models_keep_their_file(model: Any, duplicate: Any) -> None:
    model.objects.create(file=upload())
    paper = duplicate(model.objects.get())
    assert paper.file.url == "/media/papers/a.txt"
    drain()
    assert paper.file.url == "https://far.example/papers/a.txt"
    assert read(paper.file) == b"text"


# Closing files after saving


def closed_by_others() -> list[Any]:
    return [
        pytest.param(lambda: ContentFile(b"text", "a.txt"), id="ContentFile"),
        pytest.param(upload, id="SimpleUploadedFile"),
        pytest.param(lambda: File(io.BytesIO(b"text"), "a.txt"), id="File"),
        pytest.param(
            lambda: InMemoryUploadedFile(io.BytesIO(b"text"), None, "a.txt", "text/plain", 4, None),
            id="InMemoryUploadedFile",
        ),
    ]


CLOSED = pytest.mark.parametrize("make", closed_by_others())


@BOTH
@CLOSED
def test_file_closed_after_save_is_transferred(model: Any, make: Any) -> None:
    content = make()
    model.objects.create(file=content)
    content.close()
    assert drain() == {}
    assert files("far") == {NAME: b"text"}
    assert read(model.objects.get().file) == b"text"


@BOTH
@CLOSED
def test_model_reads_the_stored_file_after_save(model: Any, make: Any) -> None:
    content = make()
    paper = model.objects.create(file=content)
    if isinstance(content, ContentFile):
        content.file.close()  # its own close() does nothing
    content.close()
    assert read(paper.file) == b"text"
    assert paper.file.size == 4


@BOTH
@CLOSED
def test_save_leaves_the_given_file_open(model: Any, make: Any) -> None:
    content = make()
    model.objects.create(file=content)
    content.seek(0)
    assert content.read() == b"text"


@BOTH
@CLOSED
def test_file_closed_before_save_is_rejected(model: Any, make: Any) -> None:
    content = make()
    if isinstance(content, ContentFile):
        content.file.close()  # its own close() does nothing
    content.close()
    with pytest.raises(ValueError, match="is closed; open it before saving it"):
        model.objects.create(file=content)
    assert files("disk") == {}
    assert not QueuedFile.objects.exists()


@BOTH
def test_file_read_before_save_is_saved_completely(model: Any) -> None:
    content = upload()
    content.read()
    model.objects.create(file=content)
    assert files("disk") == {NAME: b"text"}


@BOTH
def test_closed_model_file_can_be_reopened(model: Any) -> None:
    paper = model.objects.create(file=upload())
    with paper.file.open() as file:
        assert file.read() == b"text"
    assert paper.file.closed
    drain()
    evict()
    paper = model.objects.get()
    assert read(paper.file) == b"text"
    assert paper.file.closed


@BOTH
def test_open_model_file_can_be_transferred_and_evicted(model: Any) -> None:
    model.objects.create(file=upload())
    paper = model.objects.get()
    with paper.file.open() as file:
        assert file.read(2) == b"te"
        assert drain() == {}
        evict()
        assert file.read() == b"xt"
    assert read(model.objects.get().file) == b"text"


@BOTH
def test_saving_the_file_of_another_model_copies_it(model: Any) -> None:
    one = model.objects.create(file=upload())
    two = model()
    with one.file.open():
        two.file.save("a.txt", one.file)
    assert two.file.name != one.file.name
    drain()
    assert files("far") == {one.file.name: b"text", two.file.name: b"text"}


@BOTH
def test_assigning_the_file_of_another_model_shares_it(model: Any) -> None:
    one = model.objects.create(file=upload())
    two = model.objects.create(file=one.file)
    assert two.file.name == one.file.name
    assert QueuedFile.objects.count() == 1


def test_file_opened_and_closed_by_with(tmp_path: Any) -> None:
    path = tmp_path / "source.txt"
    path.write_bytes(b"text")
    with path.open("rb") as source:
        paper = Paper(file=File(source, "a.txt"))
        paper.save()
    drain()
    assert read(Paper.objects.get().file) == b"text"


def test_assigning_a_name_does_not_move_the_file(storage: Any) -> None:
    """The model then refers to another file, as with Django's own storage."""
    paper = Paper.objects.create(file=upload())
    paper.file.name = "papers/other.txt"
    paper.save()
    assert isinstance(storage.local, FileSystemStorage)
    assert not storage.exists("papers/other.txt")
    assert storage.exists(NAME)
