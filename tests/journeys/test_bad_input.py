"""Invalid input raises a clear error and leaves nothing behind."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile
from django.db import DatabaseError, transaction
from pytest_django import Settings

from queued_storage.exceptions import InvalidName
from queued_storage.files.localfiles import is_unfinished
from queued_storage.ledger.models import NAME_MAX_LENGTH, QueuedFile
from tests.support.scripted import ScriptedStorage, file, make, on_disk, read, row
from tests.support.testapp.models import Document

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Check that the disk and the ledger are empty; tests that save files must delete them."""
    yield
    assert on_disk() == []
    assert on_disk("far") == []
    assert not QueuedFile.objects.exists()


def delete_and_deliver(storage: Any, name: str) -> None:
    storage.delete(name)
    storage.queue.deliver()


# Names

LONG = "a" * 256
BAD_NAMES = {
    "parent": "../a.txt",
    "parent inside": "docs/../../a.txt",
    "parent that stays inside": "docs/../a.txt",
    "parent at the end": "docs/..",
    "backslashes": "..\\a.txt",
    "backslashes inside": "docs\\..\\..\\a.txt",
    "absolute": "/etc/passwd",
    "NUL": "a\0b.txt",
    "empty": "",
    "dot": ".",
    "a directory": "docs/",
    "only slashes": "//",
    "long component": LONG,
    "long component in bytes": "é" * 128,
    "long directory": f"{LONG}/a.txt",
    "long for the ledger": "/".join(["a" * 200] * 4),
    "long for the ledger in bytes": "/".join(["😀" * 60] * 9),
    "no Unicode": "a\udcff.txt",
}
any_bad_name = pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)


@any_bad_name
def test_bad_name_is_not_saved(name: str) -> None:
    with pytest.raises(SuspiciousFileOperation) as caught:
        make().save(name, file())
    assert len(str(caught.value)) > 20


@any_bad_name
def test_bad_content_name_is_not_saved(name: str) -> None:
    with pytest.raises(SuspiciousFileOperation):
        make().save(None, file(name=name))


@any_bad_name
def test_bad_name_is_not_opened_for_writing(name: str) -> None:
    with pytest.raises(SuspiciousFileOperation):
        make().open(name, "wb")


@any_bad_name
def test_bad_name_has_no_row_and_no_message(name: str) -> None:
    storage = make()
    with contextlib.suppress(SuspiciousFileOperation):  # for a path outside of the local storage
        assert storage.queued_file(name) is None
    with pytest.raises((FileNotFoundError, SuspiciousFileOperation)):
        storage.transfer(name)
    assert storage.queue.messages == []


@pytest.mark.parametrize(
    "which",
    ["NUL", "long for the ledger", "long for the ledger in bytes", "no Unicode"],
)
def test_impossible_name_makes_no_query_or_remote_call(
    which: str, django_assert_num_queries: Callable[..., Any]
) -> None:
    name = BAD_NAMES[which]
    storage = make()
    storage.alias  # noqa: B018
    storage.remote.refuses = True
    with django_assert_num_queries(0):
        assert storage.exists(name) is False
        assert storage.using_local(name)
        with pytest.raises((OSError, ValueError)):
            storage.size(name)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.txt", "docs/../../a.txt"])
def test_name_outside_the_root_is_not_read(name: str) -> None:
    storage = make()
    for read_it in (storage.open, storage.size, storage.exists, storage.url, storage.delete):
        try:
            answer = read_it(name)
        except (SuspiciousFileOperation, OSError):
            continue
        assert isinstance(answer, bool | str | None)
    assert storage.remote.calls == {}


@pytest.mark.parametrize("content", [ContentFile(b"x"), io.BytesIO(b"x")], ids=["File", "BytesIO"])
def test_content_without_a_name_is_refused(content: Any) -> None:
    with pytest.raises(SuspiciousFileOperation, match="name"):
        make().save(None, content)


def test_error_about_a_long_name_is_short() -> None:
    with pytest.raises(InvalidName) as caught:
        make().save("x" * 100_000, file())
    assert len(str(caught.value)) < 500


def test_longest_name_of_the_ledger_is_kept() -> None:
    storage = make()
    name = "/".join(["d" * 99] * 7)
    assert len(name) == NAME_MAX_LENGTH - 1
    name += "x"
    assert storage.save(name, file()) == name
    storage.queue.deliver()
    assert row(storage, name).is_remote
    delete_and_deliver(storage, name)


def test_longest_file_name_of_the_disk_is_kept() -> None:
    storage = make()
    name = "é" * 125 + ".text"
    assert len(name.encode()) == 255
    assert storage.save(name, file()) == name
    storage.queue.deliver()
    assert read(storage.remote, name) == b"bytes"
    delete_and_deliver(storage, name)


def test_name_longer_than_the_field_is_shortened() -> None:
    document = Document()
    document.file.save("n" * 220 + ".txt", file())
    assert len(document.file.name) <= 200
    assert document.file.name.endswith(".txt")
    delete_and_deliver(storages["default"], document.file.name)


@pytest.mark.parametrize("name", ["docs/" + "n" * 50 + "/a.txt", "a." + "n" * 60])
def test_name_that_cannot_be_shortened_is_refused(name: str) -> None:
    with pytest.raises(SuspiciousFileOperation, match="max_length"):
        make().save(name, file(), max_length=20)


def test_alternative_name_respects_max_length() -> None:
    storage = make()
    names = [storage.save("n" * 16 + ".txt", file(), max_length=20) for _time in range(5)]
    assert len(set(names)) == 5
    assert max(map(len, names)) <= 20
    for name in names:
        delete_and_deliver(storage, name)


def test_delete_requires_a_name() -> None:
    with pytest.raises(ValueError, match="name"):
        make().delete("")


# Content


class FailingContent(io.RawIOBase):
    """Raises an error after three megabytes."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.left = 3

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self.left:
            raise self.error
        self.left -= 1
        return b"x" * (1 << 20)


@pytest.mark.parametrize("error", [OSError("cut"), RuntimeError("odd"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["a.txt", "docs/a.txt"])
def test_failing_content_leaves_nothing_behind(error: BaseException, name: str) -> None:
    """Django's FileSystemStorage leaves a partial file under the final name."""
    storage = make()
    with pytest.raises(type(error)) as caught:
        storage.save(name, FailingContent(error))
    assert caught.value is error
    assert storage.queue.messages == []


def test_failing_content_keeps_the_existing_file() -> None:
    storage = make()
    storage.save("a.txt", file(b"whole"))
    with pytest.raises(OSError, match="cut"):
        storage.save("a.txt", FailingContent(OSError("cut")))
    assert on_disk() == ["a.txt"]
    assert read(storage, "a.txt") == b"whole"
    delete_and_deliver(storage, "a.txt")


class Stream:
    """A source like a socket: it has no method but read()."""

    def __init__(self, data: bytes) -> None:
        self._source = io.BytesIO(data)
        self.read = self._source.read


def pipe(data: bytes) -> Any:
    reader, writer = os.pipe()
    with open(writer, "wb") as end:
        end.write(data)
    return open(reader, "rb")


@pytest.mark.parametrize("make_source", [Stream, pipe])
@pytest.mark.parametrize("wrap", [lambda source: source, lambda source: File(source, "a.txt")])
def test_content_that_cannot_seek_is_saved(make_source: Any, wrap: Callable[[Any], Any]) -> None:
    storage = make()
    source = make_source(b"read once" * 1000)
    name = storage.save("a.txt", wrap(source))
    assert read(storage, name) == b"read once" * 1000
    storage.queue.deliver()
    assert read(storage.remote, name) == b"read once" * 1000
    delete_and_deliver(storage, name)
    if make_source is pipe:
        source.close()


class RacedStorage(ScriptedStorage):
    """Another process takes the first free names between exists() and the write."""

    times = 2

    def exists(self, name: str) -> bool:
        taken: bool = super().exists(name)
        if not taken and self.times and not is_unfinished(name):
            self.times -= 1
            Path(self.path(name)).write_bytes(b"somebody else's")
        return taken


def uploaded(data: bytes) -> TemporaryUploadedFile:
    upload = TemporaryUploadedFile("a.txt", "text/plain", len(data), None)
    upload.write(data)
    upload.seek(0)
    return upload


@pytest.mark.parametrize("source", [Stream, pipe, uploaded, ContentFile])
def test_content_is_saved_when_its_name_is_taken(source: Any) -> None:
    local = RacedStorage("disk")
    storage = make(local=local)
    Path(local.location).mkdir(exist_ok=True)
    content = source(b"ours" * 5000)
    name = storage.save("a.txt", content)
    assert name.startswith("a_")
    assert read(storage, name) == b"ours" * 5000
    assert row(storage, name).size == 20_000
    content.close() if hasattr(content, "close") else None
    delete_and_deliver(storage, name)
    for other in on_disk():
        assert read(local, other) == b"somebody else's"
        local.delete(other)


class RenamingStorage(ScriptedStorage):
    """Renames every file."""

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return f"2024/{name}.moved"


def test_renaming_local_storage_leaves_no_draft() -> None:
    storage = make(local=RenamingStorage("disk"))
    name = storage.save("a.txt", file())
    assert name == "a.txt"
    assert on_disk() == ["a.txt"]
    delete_and_deliver(storage, name)


def closed_file() -> Any:
    with tempfile.TemporaryFile() as opened:
        pass
    return File(opened, "a.txt")


def closed_content() -> Any:
    content = ContentFile(b"x", "a.txt")
    content.file.close()
    return content


def closed_upload() -> Any:
    content = SimpleUploadedFile("a.txt", b"x")
    content.close()
    return content


@pytest.mark.parametrize("closed", [closed_file, closed_content, closed_upload])
def test_closed_file_is_refused(closed: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"'a\.txt' is closed"):
        make().save("a.txt", closed())


def test_text_is_saved_as_utf8() -> None:
    storage = make()
    name = storage.save("a.txt", ContentFile("grün"))
    storage.queue.deliver()
    assert read(storage.remote, name) == "grün".encode()
    delete_and_deliver(storage, name)


@pytest.mark.parametrize("content", [None, b"bytes", "text", 5, object()])
def test_content_that_is_not_a_file_is_refused(content: Any) -> None:
    with pytest.raises((AttributeError, TypeError, ValueError)):
        make().save("a.txt", content)


def test_removed_temporary_upload_is_refused() -> None:
    upload = uploaded(b"x")
    upload.close()
    with pytest.raises((FileNotFoundError, ValueError)):
        make().save("a.txt", upload)


# The disk


def test_writing_fails_when_the_root_is_a_file() -> None:
    place = Path(storages["disk"].location)
    place.write_text("not a directory")
    try:
        storage = make()
        with pytest.raises(OSError, match="disk"):
            storage.save("a.txt", file())
        with pytest.raises(OSError, match="disk"):
            storage.save("docs/a.txt", file())
        with pytest.raises(OSError, match="disk"):
            storage.open("a.txt", "wb")
        assert place.read_text() == "not a directory"
    finally:
        place.unlink()


def test_saving_fails_when_a_subdirectory_is_a_file() -> None:
    storage = make()
    storage.save("docs", file(b"a file"))
    with pytest.raises(OSError, match="docs"):
        storage.save("docs/a.txt", file())
    assert on_disk() == ["docs"]
    delete_and_deliver(storage, "docs")


def test_name_of_a_directory_is_not_used() -> None:
    storage = make()
    storage.save("docs/a.txt", file())
    name = storage.save("docs", file(b"beside"))
    assert name != "docs"
    delete_and_deliver(storage, name)
    delete_and_deliver(storage, "docs/a.txt")


FULL_DISK = """
import resource, signal, sys
import django
django.setup()
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from queued_storage.models import QueuedFile

storage = storages["default"]
storage.save("small.txt", ContentFile(b"small"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
for save in (
    lambda: storage.save("docs/big.bin", ContentFile(b"x" * (2 << 20))),
    lambda: write(storage.open("docs/big.bin", "wb")),
    lambda: write(storage.open("small.txt", "wb")),
):
    try:
        save()
    except OSError as error:
        print(type(error).__name__, error.errno)
    else:
        print("no error")

def write(opened):
    with opened:
        opened.write(b"x" * (2 << 20))
"""


def test_full_disk_raises_and_keeps_existing_files(child_environment: dict[str, str]) -> None:
    script = FULL_DISK.replace("\nfor save", "\nDEFINITION\nfor save")
    body, _definition, definition = script.partition("\ndef write")
    script = body.replace("DEFINITION", f"def write{definition}")
    done = subprocess.run(
        [sys.executable, "-c", script], env=child_environment, capture_output=True, text=True
    )
    assert done.stderr == "", done.stderr
    assert done.stdout.splitlines() == ["OSError 27"] * 3  # EFBIG: the file size limit
    assert on_disk() == ["small.txt"]
    assert QueuedFile.objects.get().name == "small.txt"
    assert read(storages["default"], "small.txt") == b"small"
    storages["default"].delete("small.txt")
    storages["default"].queue.deliver()
    QueuedFile.objects.all().delete()


class FullStorage(ScriptedStorage):
    """Writes a partial file, as Django's FileSystemStorage does, and then runs out of space."""

    def _save(self, name: str, content: Any) -> str:
        super()._save(name, ContentFile(b"part"))
        raise OSError(28, "No space left on device")


def test_disk_full_during_the_write_leaves_nothing() -> None:
    with pytest.raises(OSError, match="No space"):
        make(local=FullStorage("disk")).save("docs/a.txt", file(b"whole"))


def test_failing_insert_leaves_no_file(settings: Settings) -> None:
    storage = make()

    class Broken(DatabaseError):
        pass

    def refuse(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("INSERT"):
            raise Broken
        return execute(sql, *args)

    from django.db import connection

    with connection.execute_wrapper(refuse), pytest.raises(Broken):
        storage.save("a.txt", file())
    assert storage.queue.messages == []


def test_failing_queue_does_not_fail_the_save(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from queued_storage.queues.base import BaseQueue

    class Dead(BaseQueue):
        def enqueue(self, pks: list[int]) -> None:
            raise ConnectionError("the broker is away")

    storage = make(queue=Dead())
    name = storage.save("a.txt", file())
    assert "the broker is away" in caplog.text
    assert row(storage, name).due_at is not None
    storage.delete(name)
    storage._options["queue"] = make().queue
    from queued_storage.testing import drain

    drain(storage)


# Configuration


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"local": None}, "needs the option 'local'"),
        ({"remote": None}, "needs the option 'remote'"),
        ({"remote": "nowhere"}, "'nowhere' is not an alias of STORAGES"),
        ({"local": "nowhere"}, "'nowhere' is not an alias of STORAGES"),
        ({"remote": "no.such.module.Storage"}, "no.such.module.Storage"),
        ({"local": "no.such.module.Storage"}, "no.such.module.Storage"),
        ({"remote": "django.core.files.storage.NoStorage"}, "NoStorage"),
        ({"remote": {"BACKEND": "no.such.Storage"}}, "no.such.Storage"),
        ({"remote": {"OPTIONS": {}}}, "remote="),
        ({"remote": 5}, "remote=5"),
        ({"remote": object}, "not a Storage"),
        ({"remote": "far", "remote_options": {"location": "x"}}, "remote_options"),
        ({"local": "disk", "local_options": {"location": "x"}}, "local_options"),
        ({"alias": ""}, "alias must"),
        ({"alias": "a" * 65}, "alias must"),
        ({"alias": 5}, "alias must"),
        ({"unknown": "maybe"}, "unknown must be"),
        ({"unknown": ["ask"]}, "unknown must be"),
        ({"uploader": object}, "uploader must be"),
        ({"cache_prefix": 5}, "cache_prefix must be a string, not 5"),
        ({"local_options": 5}, "local_options must be a dict, not a int"),
        ({"remote_options": ["location"]}, "remote_options must be a dict, not a list"),
        ({"queue": "no.such.Queue"}, "no.such.Queue"),
        ({"queue": object}, "queue"),
        ({"queue": {"OPTIONS": {}}}, "BACKEND"),
        ({"task": "no.such.Task"}, "no.such.Task"),
        ({"task": object}, "task"),
        ({"task": "json.dumps"}, "task"),
    ],
)
def test_invalid_configuration_is_reported_before_saving(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        make(**options).save("a.txt", file())
    assert says in str(caught.value)


def test_invalid_side_options_are_reported_before_saving() -> None:
    storage = make(
        remote="django.core.files.storage.FileSystemStorage", remote_options={"colour": "red"}
    )
    with pytest.raises((ImproperlyConfigured, TypeError), match="colour"):
        storage.save("a.txt", file())


def test_failed_save_leaves_the_transaction_usable() -> None:
    storage = make()
    with transaction.atomic():
        with pytest.raises(InvalidName):
            storage.save("a" * 300, file())
        name = storage.save("good.txt", file())
    assert row(storage, name).name == "good.txt"
    delete_and_deliver(storage, name)
