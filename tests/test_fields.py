import io
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, default_storage
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile
from django.db import models, transaction
from django.forms import modelform_factory
from PIL import Image

from queued_storage.backends import QueuedStorage
from queued_storage.fields import QueuedFileField, QueuedImageField
from queued_storage.models import QueuedFile
from queued_storage.storage.results import TransferResult
from queued_storage.testing import Fault, FaultyStorage, drain
from tests.support.stepping import EICAR, Scanning, gated
from tests.support.testapp.models import Document, Paper, Photo

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

State = QueuedFile.State
DISK = "django.core.files.storage.FileSystemStorage"


def png(width: int = 3, height: int = 2) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def far() -> FaultyStorage:
    """A remote that counts its calls."""
    return FaultyStorage()


@pytest.fixture
def storage(tmp_path: Path, far: FaultyStorage, monkeypatch: pytest.MonkeyPatch) -> QueuedStorage:
    """The storage of the fields of Photo and Paper."""
    storage = QueuedStorage(DISK, far, local_options={"location": tmp_path})
    for model in (Photo, Paper):
        field = next(field for field in model._meta.fields if isinstance(field, models.FileField))
        monkeypatch.setattr(field, "storage", storage)
    return storage


@pytest.fixture
def paper(storage: QueuedStorage) -> Paper:
    return Paper.objects.create(file=ContentFile(b"text", "a.txt"))


@pytest.fixture
def photo(storage: QueuedStorage) -> Photo:
    return Photo.objects.create(image=ContentFile(png(), "a.png"))


def test_queued_file_is_the_row(paper: Paper, storage: QueuedStorage) -> None:
    row = paper.file.queued_file
    assert (row.alias, row.name, row.state) == (storage.alias, "papers/a.txt", State.PENDING)


def test_is_remote_after_the_transfer(paper: Paper) -> None:
    assert paper.file.is_remote is False
    drain(paper.file.storage)
    assert paper.file.is_remote is True


def test_transfer_releases_a_delayed_file(
    storage: QueuedStorage, far: FaultyStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delayed = QueuedStorage(DISK, far, local_options={"location": tmp_path}, delayed=True)
    monkeypatch.setattr(Paper._meta.get_field("file"), "storage", delayed)
    paper = Paper.objects.create(file=ContentFile(b"text", "a.txt"))
    drain(delayed)
    assert paper.file.queued_file.state == State.HELD
    result = paper.file.transfer()
    drain(delayed)
    assert isinstance(result, TransferResult)
    assert result.state == State.TRANSFERRED
    assert paper.file.is_remote


def test_transfer_of_a_name_without_a_row(storage: QueuedStorage) -> None:
    paper = Paper(file="papers/older.txt")
    assert paper.file.queued_file is None
    with pytest.raises(FileNotFoundError, match=r"papers/older\.txt"):
        paper.file.transfer()


def ask(file: Any, attribute: str) -> Any:
    found = getattr(file, attribute)
    return found() if attribute == "transfer" else found


ATTRIBUTES = pytest.mark.parametrize("attribute", ["transfer", "is_remote", "queued_file"])


@ATTRIBUTES
def test_a_field_without_a_file_raises(attribute: str) -> None:
    with pytest.raises(ValueError, match="no file associated"):
        ask(Paper().file, attribute)


@ATTRIBUTES
def test_a_field_with_another_storage_raises(
    attribute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Paper._meta.get_field("file"), "storage", FileSystemStorage())
    expected = r"testapp\.Paper\.file uses FileSystemStorage.*Set its storage"
    with pytest.raises(ImproperlyConfigured, match=expected):
        ask(Paper(file="a.txt").file, attribute)


@ATTRIBUTES
def test_a_field_with_the_default_storage(attribute: str) -> None:
    photo = Photo.objects.create(image=ContentFile(png(), "a.png"))
    assert photo._meta.get_field("image").storage is default_storage
    ask(photo.image, attribute)


def test_dimensions_of_a_local_image(photo: Photo, far: FaultyStorage) -> None:
    again = Photo.objects.get()
    assert (again.image.width, again.image.height) == (3, 2)
    assert not far.calls


def test_dimensions_of_an_evicted_image(photo: Photo, storage: QueuedStorage) -> None:
    drain(storage)
    storage.local.delete(photo.image.name)
    with Photo.objects.get().image as image:
        assert (image.width, image.height) == (3, 2)


def test_dimension_fields_are_set_on_assignment(storage: QueuedStorage, far: FaultyStorage) -> None:
    class Sized(models.Model):
        image = QueuedImageField(storage=storage, width_field="width", height_field="height")
        width = models.IntegerField(null=True)
        height = models.IntegerField(null=True)

        class Meta:
            app_label = "sized"
            managed = False

        def __str__(self) -> str:
            return str(self.image)

    sized = Sized(image=ContentFile(png(5, 4), "a.png"))
    assert (sized.width, sized.height) == (5, 4)
    assert not far.calls


def test_save_false_does_not_save_the_model(storage: QueuedStorage) -> None:
    paper = Paper()
    paper.file.save("a.txt", ContentFile(b"text"), save=False)
    assert paper.pk is None
    assert paper.file.queued_file.state == State.PENDING
    paper.save()
    drain(storage)
    with Paper.objects.get().file.open() as file:
        assert file.read() == b"text"


def test_deleting_the_file_deletes_both_copies(
    paper: Paper, storage: QueuedStorage, far: FaultyStorage
) -> None:
    name = paper.file.name
    drain(storage)
    paper.file.delete()
    drain(storage)
    assert not storage.local.exists(name)
    assert not far.exists(name)
    assert storage.queued_file(name) is None


@pytest.mark.parametrize(
    "upload",
    [
        lambda: SimpleUploadedFile("a.txt", b"text", "text/markdown"),
        lambda: temporary_upload("a.txt", b"text", "text/markdown"),
    ],
    ids=["in memory", "on disk"],
)
def test_upload_through_a_form(storage: QueuedStorage, far: FaultyStorage, upload: Any) -> None:
    with upload() as uploaded:
        form = modelform_factory(Paper, fields=["file"])(files={"file": uploaded})
        assert form.is_valid(), form.errors
        paper = form.save()
    assert paper.file.queued_file.content_type == "text/markdown"
    drain(storage)
    assert paper.file.is_remote
    with far.open("papers/a.txt") as file:
        assert file.read() == b"text"


def temporary_upload(name: str, content: bytes, content_type: str) -> TemporaryUploadedFile:
    upload = TemporaryUploadedFile(name, content_type, len(content), None)
    upload.write(content)
    upload.seek(0)
    return upload


def test_upload_of_an_image_through_a_form(storage: QueuedStorage) -> None:
    files = {"image": SimpleUploadedFile("a.png", png(), "image/png")}
    form = modelform_factory(Photo, fields=["image"])(files=files)
    assert form.is_valid(), form.errors
    photo = form.save()
    assert (photo.image.width, photo.image.height) == (3, 2)


def test_two_uploads_of_one_name(storage: QueuedStorage) -> None:
    first, second = (
        Paper.objects.create(file=ContentFile(text, "a.txt")) for text in (b"one", b"two")
    )
    assert first.file.name != second.file.name
    drain(storage)
    with first.file.open() as one, second.file.open() as two:
        assert (one.read(), two.read()) == (b"one", b"two")


def test_a_field_of_django_works_too() -> None:
    document = Document.objects.create(file=ContentFile(b"text", "a.txt"))
    drain()
    assert document.file.storage.using_remote(document.file.name)


@pytest.mark.parametrize(
    ("field", "path"),
    [
        (QueuedFileField(upload_to="x"), "queued_storage.fields.QueuedFileField"),
        (QueuedImageField(upload_to="x"), "queued_storage.fields.QueuedImageField"),
    ],
)
def test_deconstruct(field: models.FileField, path: str) -> None:
    _name, found, args, kwargs = field.deconstruct()
    assert (found, args, kwargs["upload_to"]) == (path, [], "x")
    again = type(field)(*args, **kwargs)
    assert again.deconstruct() == field.deconstruct()


def test_a_callable_storage_stays_one_in_migrations() -> None:
    kwargs = Paper._meta.get_field("file").deconstruct()[3]
    assert kwargs["storage"].__name__ == "chosen_storage"


def test_delete_in_a_transaction_logs_local_errors(
    far: FaultyStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    local = FaultyStorage()
    monkeypatch.setattr(Paper._meta.get_field("file"), "storage", QueuedStorage(local, far))
    paper = Paper.objects.create(file=ContentFile(b"text", "a.txt"))
    with transaction.atomic():
        paper.file.delete()
        local.fault = Fault.REFUSE
    assert "ConnectionError" in caplog.text
    local.fault = None
    drain(paper.file.storage)
    assert not local.exists("papers/a.txt")


@pytest.mark.parametrize(("data", "is_good"), [(b"good", True), (EICAR, False)])
def test_a_field_knows_whether_its_file_is_published(
    data: bytes, is_good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    [field] = [each for each in Paper._meta.fields if isinstance(each, models.FileField)]
    monkeypatch.setattr(field, "storage", gated(Scanning()))
    file = Paper.objects.create(file=ContentFile(data, "a.txt")).file
    assert (file.is_published, file.rejection) == (False, None)
    drain(file.storage)
    assert file.is_published is is_good
    assert file.rejection == (None if is_good else "It carries EICAR.")
