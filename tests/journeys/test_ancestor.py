"""Code written for the ancestor still works: first 0.3, then 0.4 to 0.8, then features of both."""

import io
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, Storage
from django.db import transaction
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import MigrationWriter
from django.db.models import FileField, ImageField
from django.dispatch import receiver
from django.utils.deconstruct import deconstructible
from django.utils.module_loading import import_string
from PIL import Image
from pytest_django import Settings

from queued_storage import backend, backends, tasks
from queued_storage.backend import (
    DelayedStorage,
    DoubleFilesystemStorage,
    QueuedRemoteStorage,
    RemoteFileField,
    Transfer,
    TransferAndDelete,
)
from queued_storage.backends import QueuedS3BotoStorage, QueuedS3Storage, QueuedStorage
from queued_storage.conf import settings as queued_settings
from queued_storage.fields import QueuedFileField
from queued_storage.models import QueuedFile
from queued_storage.signals import file_transferred
from queued_storage.testing import drain
from tests.support.testapp.models import Document, Paper, Photo

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

DISK = "django.core.files.storage.FileSystemStorage"
S3 = "storages.backends.s3.S3Storage"
OLD_S3 = "storages.backends.s3boto.S3BotoStorage"

State = QueuedFile.State


class Mine(Transfer):
    """The example task from the documentation of 0.3."""

    def transfer(self, name: str, local: Storage, remote: Storage, **kwargs: Any) -> bool:
        result = super().transfer(name, local, remote, **kwargs)
        if result:
            local.delete(name)
        return result


class Undecided(Transfer):
    answers: list[Any] = []

    def transfer(self, name: str, local: Storage, remote: Storage, **kwargs: Any) -> bool:
        answer = self.answers.pop(0)
        return super().transfer(name, local, remote, **kwargs) if answer is True else answer


class Subclass(QueuedStorage):
    """Sets its options as class attributes, which 0.8 supported."""

    local = DISK
    remote = DISK
    local_options = {"location": "near"}
    remote_options = {"location": "far"}
    task = "queued_storage.tasks.TransferAndDelete"
    delayed = True
    cache_prefix = "sub"


def read(storage: Storage, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


def deliver(storage: QueuedStorage) -> dict[int, Exception]:
    return storage.queue.deliver()  # type: ignore[attr-defined]


def deliver_again(storage: QueuedStorage) -> None:
    """Make pending files due and deliver them, as a sweep does."""
    QueuedFile.objects.filter(state=State.PENDING).update(due_at=datetime(2020, 1, 1, tzinfo=UTC))
    storage.queue.enqueue(list(QueuedFile.objects.values_list("pk", flat=True)))
    deliver(storage)


def state_of(storage: QueuedStorage, name: str) -> str:
    row = storage.queued_file(name)
    assert row
    return row.state


@pytest.fixture
def near(tmp_path: Path) -> Path:
    return tmp_path / "near"


@pytest.fixture
def far(tmp_path: Path) -> Path:
    return tmp_path / "far"


@pytest.fixture
def kwargs(near: Path, far: Path) -> dict[str, Any]:
    """Return the options of 0.3 for two locations."""
    return {"local_kwargs": {"location": near}, "remote_kwargs": {"location": far}}


@pytest.fixture
def options(near: Path, far: Path) -> dict[str, Any]:
    """Return the options of 0.8 for two locations."""
    return {"local_options": {"location": near}, "remote_options": {"location": far}}


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Storage], None]:
    """Make the file field of a model use a storage, as ``FileField(storage=…)`` does."""

    def use(model: Any, storage: Storage) -> None:
        field = next(field for field in model._meta.fields if isinstance(field, FileField))
        monkeypatch.setattr(field, "storage", storage)

    return use


@pytest.fixture
def picture() -> ContentFile:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    return ContentFile(buffer.getvalue(), "a.png")


# 0.3: queued_storage.backend


def test_0_3_names_are_the_current_classes() -> None:
    assert (Transfer, TransferAndDelete) == (tasks.Transfer, tasks.TransferAndDelete)
    assert RemoteFileField is QueuedFileField


def test_0_3_image_field(use: Any, kwargs: dict[str, Any], picture: ContentFile, far: Path) -> None:
    storage = QueuedRemoteStorage(local=DISK, remote=DISK, **kwargs)
    use(Photo, storage)
    photo = Photo.objects.create(image=picture)
    assert (photo.image.width, photo.image.height) == (3, 2)
    assert photo.image.storage.using_local(photo.image.name)
    deliver(storage)
    assert photo.image.storage.using_remote(photo.image.name)
    assert (far / photo.image.name).exists()


@pytest.mark.parametrize("local", [DISK, FileSystemStorage])
@pytest.mark.parametrize("remote", [DISK, FileSystemStorage])
def test_0_3_takes_classes_and_paths_by_position(
    kwargs: dict[str, Any], local: Any, remote: Any, near: Path, far: Path
) -> None:
    storage = QueuedRemoteStorage(local, remote, **kwargs)
    assert storage.local.path("x") == str(near / "x")
    assert storage.remote.path("x") == str(far / "x")


def test_0_3_order_of_the_arguments(near: Path, far: Path) -> None:
    storage = QueuedRemoteStorage(
        DISK, DISK, "mine", Mine, (near,), {"base_url": "/n/"}, [far], {"base_url": "/f/"}
    )
    assert storage.get_cache_key("x").startswith("mine_")
    assert isinstance(storage.task, Mine)
    assert (storage.local.path("x"), storage.local.url("x")) == (str(near / "x"), "/n/x")
    assert (storage.remote.path("x"), storage.remote.url("x")) == (str(far / "x"), "/f/x")


def test_0_3_also_takes_the_current_options(kwargs: dict[str, Any]) -> None:
    storage = QueuedRemoteStorage(local=DISK, remote=DISK, alias="mine", unknown="absent", **kwargs)
    assert storage.alias == "mine"
    assert not storage.asks_for_unknown


def test_0_3_remote_is_required() -> None:
    with pytest.raises(ImproperlyConfigured, match="QueuedRemoteStorage needs the option 'remote'"):
        QueuedRemoteStorage(DISK)


def test_0_3_arguments_cannot_configure_a_storages_alias() -> None:
    with pytest.raises(ImproperlyConfigured, match="set the options of 'disk' in STORAGES"):
        _ = QueuedRemoteStorage("disk", "far", local_args=("/x",)).local


class Guarded(FileSystemStorage):
    def __init__(self, location: str, password: str) -> None:
        super().__init__(location)


class Loose(FileSystemStorage):
    def __init__(self, *args: str) -> None:
        super().__init__(*args)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"remote_args": ("/x",)}, {"remote_args": ("/y",)}, False),
        ({"remote_args": ("/x",)}, {"remote_kwargs": {"location": "/x"}}, True),
        ({"remote_args": ("/x",)}, {"local_args": ("/x",)}, False),
        ({}, {"remote_args": ()}, True),
        ({"remote": OLD_S3}, {"remote": S3}, True),
        (
            {"remote": Guarded, "remote_args": ("/x", "secret")},
            {"remote": Guarded, "remote_args": ("/x", "other")},
            True,
        ),
        (
            {"remote": Guarded, "remote_args": ("/x", "secret")},
            {"remote": Guarded, "remote_args": ("/y", "secret")},
            False,
        ),
        ({"remote": Guarded("/x", "secret")}, {"remote": Guarded("/x", "other")}, True),
        (
            {"remote": Loose, "remote_args": ("/x",)},
            {"remote": Loose, "remote_args": ("/y",)},
            False,
        ),
    ],
)
def test_0_3_fingerprint_depends_on_arguments_except_secrets(
    one: dict[str, Any], other: dict[str, Any], is_same: bool
) -> None:
    given = {"local": DISK, "remote": DISK}
    first, second = (QueuedRemoteStorage(**given | more) for more in (one, other))
    assert (first.fingerprint() == second.fingerprint()) is is_same


def test_0_3_double_filesystem_storage(use: Any, kwargs: dict[str, Any], far: Path) -> None:
    storage = DoubleFilesystemStorage(**kwargs)
    use(Document, storage)
    document = Document.objects.create(file=ContentFile(b"text", "a.txt"))
    deliver(storage)
    assert (far / "docs/a.txt").read_bytes() == b"text"
    with document.file.open() as file:
        assert file.read() == b"text"


@pytest.mark.parametrize(("task", "is_local"), [(None, True), (TransferAndDelete, False)])
def test_0_3_s3_storage(
    use: Any, aws: str, s3_client: Any, task: Any, is_local: bool, settings: Settings
) -> None:
    storage = backend.S3Storage(task=task) if task else backend.S3Storage()
    use(Document, storage)
    document = Document.objects.create(file=ContentFile(b"text", "a.txt"))
    deliver(storage)
    assert s3_client.get_object(Bucket=aws, Key="docs/a.txt")["Body"].read() == b"text"
    assert (Path(settings.MEDIA_ROOT) / "docs/a.txt").exists() is is_local
    with document.file.open() as file:
        assert file.read() == b"text"


def test_0_3_delayed_storage(use: Any, kwargs: dict[str, Any], far: Path) -> None:
    use(Document, DelayedStorage(DISK, DISK, **kwargs))
    m = Document(file=ContentFile(b"text", "a.txt"))
    m.save()
    deliver(m.file.storage)
    assert m.file.storage.using_local(m.file.name)
    assert state_of(m.file.storage, m.file.name) == State.HELD
    result = m.file.storage.transfer(m.file.name)
    deliver(m.file.storage)
    assert result.get() is True
    assert (far / "docs/a.txt").exists()


def test_0_3_remote_file_field(use: Any, kwargs: dict[str, Any], far: Path) -> None:
    use(Paper, DelayedStorage(DISK, DISK, **kwargs))
    m = Paper(file=ContentFile(b"text", "a.txt"))
    m.save()
    result = m.file.transfer()
    deliver(m.file.storage)
    assert result.get() is True
    assert (far / "papers/a.txt").exists()


def test_0_3_custom_task_deletes_after_promotion(
    kwargs: dict[str, Any], near: Path, far: Path
) -> None:
    seen = []

    @receiver(file_transferred)
    def record(name: str, queued_file: QueuedFile, **kwargs: Any) -> None:
        seen.append(((near / name).exists(), queued_file.state))

    storage = DoubleFilesystemStorage(task=Mine, **kwargs)
    name = storage.save("a.txt", ContentFile(b"text"))
    deliver(storage)
    assert seen == [(True, State.TRANSFERRED)]
    assert not (near / name).exists()
    assert (far / name).read_bytes() == b"text"
    assert read(storage, name) == b"text"


def test_0_3_custom_task_returning_false_is_retried(
    kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Undecided, "answers", [False, True])
    storage = DoubleFilesystemStorage(task=Undecided, **kwargs)
    name = storage.save("a.txt", ContentFile(b"text"))
    deliver(storage)
    assert state_of(storage, name) == State.PENDING
    deliver_again(storage)
    assert state_of(storage, name) == State.TRANSFERRED


@pytest.mark.parametrize("answer", [None, 1, "yes"])
def test_0_3_custom_task_must_return_a_boolean(
    kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    monkeypatch.setattr(Undecided, "answers", [answer])
    storage = DoubleFilesystemStorage(task=Undecided, **kwargs)
    name = storage.save("a.txt", ContentFile(b"text"))
    (error,) = deliver(storage).values()
    assert isinstance(error, ValueError)
    assert state_of(storage, name) == State.FAILED


def test_0_3_storage_knows_where_a_file_is(kwargs: dict[str, Any]) -> None:
    storage = DoubleFilesystemStorage(**kwargs)
    name = storage.save("a.txt", ContentFile(b"text"))
    assert (storage.using_local(name), storage.using_remote(name)) == (True, False)
    assert storage.get_storage(name) is storage.local
    deliver(storage)
    assert (storage.using_local(name), storage.using_remote(name)) == (False, True)
    assert storage.get_storage(name) is storage.remote


# 0.4 to 0.8: queued_storage.backends, .fields, .tasks, .signals, .conf


def test_0_8_by_position(settings: Settings, tmp_path: Path, aws: str, s3_client: Any) -> None:
    settings.MEDIA_ROOT = tmp_path
    storage = QueuedStorage(DISK, S3)
    name = storage.save("a.txt", ContentFile(b"text"))
    deliver(storage)
    assert s3_client.get_object(Bucket=aws, Key=name)["Body"].read() == b"text"


@pytest.mark.parametrize("by_position", [True, False])
def test_0_8_all_options(options: dict[str, Any], near: Path, far: Path, by_position: bool) -> None:
    given = {"local": DISK, "remote": DISK, **options, "cache_prefix": "x", "delayed": True}
    given["task"] = "queued_storage.tasks.TransferAndDelete"
    storage = QueuedStorage(*given.values()) if by_position else QueuedStorage(**given)
    assert storage.get_cache_key("a.txt").startswith("x_")
    name = storage.save("a.txt", ContentFile(b"text"))
    assert state_of(storage, name) == State.HELD
    storage.transfer(name)
    deliver(storage)
    assert not (near / name).exists()
    assert (far / name).exists()


def test_0_8_queued_file_system_storage_with_remote(far: Path, settings: Settings) -> None:
    settings.MEDIA_ROOT = far.parent / "media"
    storage = backends.QueuedFileSystemStorage(remote=DISK, remote_options={"location": far})
    assert storage.local.path("x") == str(far.parent / "media" / "x")
    assert storage.remote.path("x") == str(far / "x")


def test_0_8_queued_s3_boto_storage_uses_s3(aws: str) -> None:
    storage = QueuedS3BotoStorage()
    assert isinstance(storage.remote, import_string(S3))
    assert storage.remote.bucket_name == aws
    assert QueuedS3BotoStorage is QueuedS3Storage


@pytest.mark.parametrize(
    ("preset", "remote"),
    [
        ("QueuedFTPStorage", "storages.backends.ftp.FTPStorage"),
        ("QueuedSFTPStorage", "storages.backends.sftpstorage.SFTPStorage"),
    ],
)
def test_0_8_presets_set_local_and_remote(preset: str, remote: str) -> None:
    storage = getattr(backends, preset)()
    assert storage.sides.local.specification()[0] == DISK
    assert storage.sides.remote.specification()[0] == remote


def test_0_8_queued_ftp_storage(settings: Settings) -> None:
    settings.FTP_STORAGE_LOCATION = "ftp://user:password@ftp.example:21/"
    remote: Any = backends.QueuedFTPStorage().remote
    assert isinstance(remote.storage, import_string("storages.backends.ftp.FTPStorage"))
    assert remote.location == settings.FTP_STORAGE_LOCATION  # the same for each thread's connection


@pytest.mark.parametrize("name", ["CouchDB", "Database", "MogileFS", "GridFS", "CloudFiles"])
def test_0_8_removed_preset_names_a_replacement(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"no longer has.*storages\.backends\.s3"):
        getattr(backends, f"Queued{name}Storage")()


def test_0_8_queued_file_field(use: Any, aws: str, s3_client: Any) -> None:
    use(Paper, QueuedFileField(storage=QueuedS3BotoStorage(delayed=True)).storage)
    paper = Paper.objects.create(file=ContentFile(b"text", "a.txt"))
    assert not paper.file.is_remote
    paper.file.transfer()
    deliver(paper.file.storage)
    assert paper.file.is_remote
    assert s3_client.get_object(Bucket=aws, Key="papers/a.txt")["Body"].read() == b"text"


def test_0_8_file_transferred(options: dict[str, Any]) -> None:
    seen = []

    @receiver(file_transferred)
    def log(sender: Any, name: str, local: Storage, remote: Storage, **kwargs: Any) -> None:
        seen.append((sender, name, local, remote))

    storage = QueuedStorage(DISK, DISK, **options)
    name = storage.save("a.txt", ContentFile(b"text"))
    deliver(storage)
    assert seen == [(QueuedStorage, name, storage.local, storage.remote)]


def test_0_8_class_attributes() -> None:
    storage = Subclass()
    assert storage.local.path("x").endswith("/near/x")
    assert storage.remote.path("x").endswith("/far/x")
    assert isinstance(storage.task, TransferAndDelete)
    assert storage.delayed
    assert storage.cache_prefix == "sub"


def test_0_8_arguments_override_class_attributes(options: dict[str, Any]) -> None:
    storage = Subclass(**options, delayed=False, task=Transfer)
    assert storage.local.path("x") == str(options["local_options"]["location"] / "x")
    assert not storage.delayed
    assert type(storage.task) is Transfer


def test_0_8_class_attributes_are_inherited() -> None:
    class Nearer(Subclass):
        delayed = False
        remote_options = {"location": "elsewhere"}

    storage = Nearer()
    assert not storage.delayed
    assert storage.local.path("x").endswith("/near/x")
    assert storage.remote.path("x").endswith("/elsewhere/x")


# Features of both

BOTH = pytest.mark.parametrize("version", ["0.3", "0.8"])


@pytest.fixture
def make(near: Path, far: Path) -> Callable[..., QueuedStorage]:
    def make(version: str, **more: Any) -> QueuedStorage:
        near_options, far_options = {"location": near}, {"location": far}
        if version == "0.3":
            return QueuedRemoteStorage(
                DISK, DISK, local_kwargs=near_options, remote_kwargs=far_options, **more
            )
        return QueuedStorage(
            DISK, DISK, local_options=near_options, remote_options=far_options, **more
        )

    return make


@BOTH
def test_file_field_save(use: Any, make: Any, far: Path, version: str) -> None:
    storage = make(version)
    use(Document, storage)
    document = Document()
    document.file.save("a.txt", ContentFile(b"text"))
    deliver(storage)
    assert Document.objects.get().file.name == "docs/a.txt"
    assert (far / "docs/a.txt").exists()


@BOTH
def test_result_is_the_threads_last_transfer(make: Any, version: str) -> None:
    storage = make(version)
    assert storage.result is None
    name = storage.save("a.txt", ContentFile(b"text"))
    of_the_save = storage.result
    result = storage.transfer(name)
    assert storage.result is result is not of_the_save
    deliver(storage)
    assert (of_the_save.get(), result.get()) == (True, True)

    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(storage.result))
    thread.start()
    thread.join()
    assert elsewhere == [None]


@BOTH
def test_old_path_of_s3_storage_is_translated(
    make: Any, s3_options: dict[str, Any], version: str
) -> None:
    cls = QueuedRemoteStorage if version == "0.3" else QueuedStorage
    key = "remote_kwargs" if version == "0.3" else "remote_options"
    storage = cls("disk", OLD_S3, **{key: s3_options})
    name = storage.save("a.txt", ContentFile(b"text"))
    deliver(storage)
    assert type(storage.remote) is import_string(S3)
    assert read(storage.remote, name) == b"text"


@BOTH
def test_settings_with_the_names_of_the_ancestor(
    make: Any, settings: Settings, version: str
) -> None:
    flat_name = {"0.3": "QUEUED_STORAGE_CACHE_KEY", "0.8": "QUEUED_STORAGE_CACHE_PREFIX"}[version]
    setattr(settings, flat_name, "flat")
    settings.QUEUED_STORAGE_RETRIES = 1
    settings.QUEUED_STORAGE_RETRY_DELAY = 7
    assert make(version).get_cache_key("x").startswith("flat_")
    assert (queued_settings.retries, queued_settings.retry_delay) == (1, 7)


@deconstructible
class ByPosition(FileSystemStorage):
    """A custom storage whose arguments are passed by position."""


@pytest.mark.parametrize(
    "make_storage",
    [
        lambda: QueuedRemoteStorage(local=DISK, remote=DISK),
        lambda: QueuedRemoteStorage(
            DISK, DISK, "x", Mine, ("/a",), {}, ("/b",), {"base_url": "/b/"}
        ),
        lambda: QueuedRemoteStorage(FileSystemStorage, ByPosition("/b"), task=f"{__name__}.Mine"),
        lambda: DoubleFilesystemStorage(
            local_kwargs={"location": "/a"}, remote_kwargs={"location": "/b"}
        ),
        lambda: backend.S3Storage(task=TransferAndDelete),
        lambda: DelayedStorage("disk", "far"),
        lambda: QueuedStorage("disk", {"BACKEND": DISK, "OPTIONS": {"location": "/c"}}),
        lambda: QueuedStorage(QueuedStorage("disk", "far", delayed=True), DISK, delayed=True),
        lambda: QueuedS3BotoStorage(remote_options={"bucket_name": "x"}),
        lambda: Subclass(alias="mine"),
    ],
)
def test_storage_is_serialized_in_migrations(make_storage: Callable[[], QueuedStorage]) -> None:
    storage = make_storage()
    code, imports = MigrationWriter.serialize(ImageField(storage=storage))
    names: dict[str, Any] = {}
    exec("\n".join(imports), names)
    again = eval(code, names).storage
    assert type(again) is type(storage)
    assert again.fingerprint() == storage.fingerprint()
    assert (again.delayed, type(again.task)) == (storage.delayed, type(storage.task))
    deconstruct = MigrationAutodetector(ProjectState(), ProjectState()).deep_deconstruct
    assert deconstruct(again) == deconstruct(storage)  # so makemigrations finds no change


# A custom task: an object with delay()


class AncestorTask:
    """Creates its own storages, as the tasks of the ancestor did."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.calls: list[tuple[Any, ...]] = []

    def delay(self, *args: Any) -> None:
        self.calls.append(args)
        if self.at_once:
            self.work()

    def work(self) -> None:
        for args in self.calls:
            self.upload(*args)

    def upload(self, *args: Any) -> None:
        raise NotImplementedError

    @staticmethod
    def copy(name: str, local: Storage, remote: Storage, cache_key: str) -> None:
        with local.open(name) as file:
            remote.save(name, file)
        cache.set(cache_key, True)


class Task03(AncestorTask):
    def upload(
        self,
        name: str,
        local_class: Any,
        remote_class: Any,
        cache_key: str,
        local_args: Any,
        local_kwargs: Any,
        remote_args: Any,
        remote_kwargs: Any,
    ) -> None:
        local = local_class(*local_args, **local_kwargs)
        remote = remote_class(*remote_args, **remote_kwargs)
        self.copy(name, local, remote, cache_key)


class Task08(AncestorTask):
    def upload(
        self,
        name: str,
        cache_key: str,
        local_path: str,
        remote_path: str,
        local_options: Any,
        remote_options: Any,
    ) -> None:
        local = import_string(local_path)(**local_options)
        remote = import_string(remote_path)(**remote_options)
        self.copy(name, local, remote, cache_key)


TASKS: dict[str, type[AncestorTask]] = {"0.3": Task03, "0.8": Task08}


def test_0_3_arguments_of_a_task(near: Path, far: Path) -> None:
    task = Task03()
    storage = QueuedRemoteStorage(
        DISK, ByPosition, "p", task, (near,), {"base_url": "/n/"}, (far,), {"base_url": "/f/"}
    )
    name = storage.save("a.txt", ContentFile(b"text"))
    assert task.calls == [
        (
            name,
            FileSystemStorage,
            ByPosition,
            storage.get_cache_key(name),
            (near,),
            {"base_url": "/n/"},
            (far,),
            {"base_url": "/f/"},
        )
    ]


def test_0_8_arguments_of_a_task(options: dict[str, Any]) -> None:
    task = Task08()
    storage = QueuedStorage(DISK, ByPosition, **options, task=task)
    name = storage.save("a.txt", ContentFile(b"text"))
    path = "tests.journeys.test_ancestor.ByPosition"
    assert task.calls == [(name, storage.get_cache_key(name), DISK, path, *options.values())]


def test_0_8_task_gets_the_current_path() -> None:
    assert QueuedStorage("disk", OLD_S3).foreign_arguments("x")[3] == S3


@BOTH
@pytest.mark.parametrize("kind", ["alias", "dict", "instance", "class"])
def test_task_can_rebuild_the_storages(far: Path, version: str, kind: str) -> None:
    options = {"location": far, "base_url": "/f/"}
    remote: Any = {
        "alias": "far",
        "dict": {"BACKEND": DISK, "OPTIONS": options},
        "instance": ByPosition(far, base_url="/f/"),
        "class": ByPosition,
    }[kind]
    cls = QueuedRemoteStorage if version == "0.3" else QueuedStorage
    more = {"remote_kwargs" if version == "0.3" else "remote_options": options}
    task = TASKS[version](at_once=True)
    storage: Any = cls("disk", remote, task=task, **more if kind == "class" else {})
    name = storage.save("a.txt", ContentFile(b"text"))
    assert read(storage.remote, name) == b"text"


class Opaque(Storage):
    """Cannot be deconstructed, so its arguments are unknown."""

    def __init__(self, somewhere: str) -> None: ...


@BOTH
def test_task_cannot_rebuild_storage_with_unknown_arguments(version: str) -> None:
    cls = QueuedRemoteStorage if version == "0.3" else QueuedStorage
    with pytest.raises(ImproperlyConfigured, match=r"remote=.*Give its class or dotted path"):
        cls("disk", Opaque("x"), task=TASKS[version]()).foreign_arguments("x")


@deconstructible
class Starred(Loose):
    """Accepts only positional arguments."""


def test_0_8_task_needs_arguments_by_keyword() -> None:
    with pytest.raises(ImproperlyConfigured, match="by keyword"):
        QueuedStorage("disk", Starred("/x"), task=Task08()).foreign_arguments("x")


@BOTH
def test_task_uploads_immediately(make: Any, far: Path, version: str) -> None:
    storage = make(version, task=TASKS[version](at_once=True))
    name = storage.save("a.txt", ContentFile(b"text"))
    assert (far / name).read_bytes() == b"text"
    deliver(storage)
    assert state_of(storage, name) == State.TRANSFERRED
    assert storage.result.get() is True
    assert storage.using_remote(name)
    assert storage.local.exists(name)


@BOTH
def test_task_uploads_later(make: Any, version: str) -> None:
    task = TASKS[version]()
    storage = make(version, task=task)
    name = storage.save("a.txt", ContentFile(b"text"))
    deliver(storage)
    assert state_of(storage, name) == State.PENDING
    task.work()
    assert storage.using_local(name)  # until the next attempt verifies the copy
    deliver_again(storage)
    assert state_of(storage, name) == State.TRANSFERRED


@BOTH
def test_cache_entry_of_a_task_is_ignored(make: Any, version: str) -> None:
    storage = make(version, task=TASKS[version]())
    name = storage.save("a.txt", ContentFile(b"text"))
    cache.set(storage.get_cache_key(name), True)
    assert storage.using_local(name)
    assert storage.urls([name]) == {name: storage.local.url(name)}


@BOTH
def test_file_fails_when_its_task_never_uploads(
    make: Any, settings: Settings, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"RETRIES": 2}
    storage = make(version, task=TASKS[version]())
    name = storage.save("a.txt", ContentFile(b"text"))
    deliver(storage)
    for _retry in range(2):
        assert state_of(storage, name) == State.PENDING
        deliver_again(storage)
    row = storage.queued_file(name)
    assert row.state == State.FAILED
    assert TASKS[version].__name__ in row.last_error
    assert "did not upload" in row.last_error
    assert read(storage, name) == b"text"


@BOTH
def test_transfer_calls_the_task_again(make: Any, version: str) -> None:
    task = TASKS[version]()
    storage = make(version, task=task, delayed=True)
    name = storage.save("a.txt", ContentFile(b"text"))
    assert task.calls == []
    storage.transfer(name)
    task.work()
    deliver(storage)
    assert storage.result.get() is True


@BOTH
def test_task_is_called_after_the_commit(make: Any, version: str) -> None:
    task = TASKS[version]()
    storage = make(version, task=task)
    with transaction.atomic():
        storage.save("a.txt", ContentFile(b"text"))
        assert task.calls == []
    assert len(task.calls) == 1
    with transaction.atomic():
        storage.save("b.txt", ContentFile(b"text"))
        transaction.set_rollback(True)
    assert len(task.calls) == 1


@BOTH
def test_failing_task_does_not_fail_the_save(
    make: Any, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(AncestorTask):
        def delay(self, *args: Any) -> None:
            raise ConnectionError("the broker is down")

    storage = make(version, task=Broken())
    with caplog.at_level(logging.ERROR):
        name = storage.save("a.txt", ContentFile(b"text"))
    assert "the broker is down" in caplog.text
    assert state_of(storage, name) == State.PENDING


@BOTH
def test_incomplete_copy_of_a_task_is_not_promoted(make: Any, far: Path, version: str) -> None:
    storage = make(version, task=TASKS[version]())
    name = storage.save("a.txt", ContentFile(b"text"))
    far.mkdir()
    (far / name).write_bytes(b"te")
    deliver(storage)
    assert state_of(storage, name) == State.PENDING
    assert "2, but 4" in storage.queued_file(name).last_error


@BOTH
def test_other_file_of_same_size_is_not_promoted(make: Any, far: Path, version: str) -> None:
    storage = make(version, task=TASKS[version]())
    name = storage.save("a.txt", ContentFile(b"text"))
    far.mkdir()
    (far / name).write_bytes(b"TEXT")
    deliver(storage)
    assert state_of(storage, name) == State.PENDING
    assert read(storage, name) == b"text"


@BOTH
@pytest.mark.parametrize("is_promoted", [True, False])
def test_delete_removes_the_copy_of_a_task(
    make: Any, near: Path, far: Path, version: str, is_promoted: bool
) -> None:
    task = TASKS[version](at_once=True)
    storage = make(version, task=task)
    name = storage.save("a.txt", ContentFile(b"text"))
    if is_promoted:
        deliver(storage)
    storage.delete(name)
    deliver(storage)
    assert not (near / name).exists()
    assert not (far / name).exists()
    assert storage.queued_file(name) is None


@BOTH
def test_delete_keeps_another_file_of_that_name(make: Any, far: Path, version: str) -> None:
    storage = make(version, task=TASKS[version]())
    name = storage.save("a.txt", ContentFile(b"text"))
    far.mkdir()
    (far / name).write_bytes(b"another file")
    storage.delete(name)
    deliver(storage)
    assert (far / name).read_bytes() == b"another file"
    assert storage.queued_file(name) is None


def test_object_without_delay_is_not_a_task(options: dict[str, Any]) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"neither a subclass.*nor an object with a delay"
    ):
        _ = QueuedStorage(DISK, DISK, **options, task=object()).task


def test_storages_of_one_alias_keep_their_tasks(tmp_path: Path) -> None:
    """Two storages, as in the documentation of 0.3: the same locations, but other tasks."""
    places = {
        "local_kwargs": {"location": tmp_path / "near"},
        "remote_kwargs": {"location": tmp_path / "far"},
    }
    deleting = DoubleFilesystemStorage(task=TransferAndDelete, **places)
    keeping = DoubleFilesystemStorage(**places)
    assert deleting.alias == keeping.alias
    deleted, kept = (
        deleting.save("a.txt", ContentFile(b"a")),
        keeping.save("b.txt", ContentFile(b"b")),
    )
    assert drain() == {}
    assert (deleting.local.exists(deleted), keeping.local.exists(kept)) == (False, True)
    assert keeping.using_remote(deleted)


class RecordingTask:
    """Records the names that it was called with."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def delay(self, name: str, *args: Any) -> None:
        self.asked.append(name)


def test_worker_calls_a_task_that_was_not_called(tmp_path: Path) -> None:
    """The process crashed between the commit and delay()."""
    task = RecordingTask()
    storage = DoubleFilesystemStorage(
        task=task,
        local_kwargs={"location": tmp_path / "near"},
        remote_kwargs={"location": tmp_path / "far"},
        alias="forgetful",
    )
    storage.save("a.txt", ContentFile(b"a"))
    assert task.asked == ["a.txt"]
    drain()
    assert task.asked == ["a.txt"]

    QueuedFile.objects.update(attempts=0, due_at=QueuedFile.objects.get().saved_at)
    drain()
    assert task.asked == ["a.txt", "a.txt"]
