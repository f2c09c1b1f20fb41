"""Secrets do not leave the process, and untrusted input does no harm."""

import logging
import os
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from celery import Celery
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
from django.core.files.storage import FileSystemStorage, Storage, storages
from django.core.files.uploadedfile import UploadedFile
from django.core.management import call_command
from django.db import connection
from django.test import RequestFactory
from django_tasks_db.models import DBTaskResult
from pytest_django import Settings
from storages.backends.s3 import S3Storage

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.names import is_reserved
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile, Remote
from queued_storage.queues import celery as adapter
from queued_storage.queues import get_queue
from queued_storage.queues.base import BaseQueue
from queued_storage.queues.celery import CeleryQueue
from queued_storage.queues.django_tasks import DjangoTasksQueue
from queued_storage.queues.dummy import DummyQueue
from queued_storage.reporting.reasons import reason
from queued_storage.tasks import TransferAndDelete
from queued_storage.testing import FaultyStorage
from queued_storage.transfers import leases, work
from queued_storage.transfers.leases import Lease, _Heart
from tests.support.scripted import ScriptedStorage, disk, file, make, on_disk, read, row
from tests.support.testapp.models import Document

pytestmark = pytest.mark.django_db(transaction=True)

SECRETS = {
    "access_key": "AKIAHUNTER2HUNTER2",
    "secret_key": "hunter2/with+signs=in/it",
    "security_token": "hunter2-session-token",
}
# Each secret, plain and URL-quoted
SECRET_FORMS = [form for secret in SECRETS.values() for form in (secret, quote(secret, safe=""))]


class LeakyStorage(S3Storage):
    """Raises an error whose message contains all secrets."""

    def _save(self, name: str, content: Any) -> str:
        signed = self.url(name)
        assert "Signature=" in signed
        raise ConnectionError(
            f"PUT {signed} as {self.access_key}:{self.secret_key} ({quote(self.secret_key)}, "
            f"token {self.security_token}, options {SECRETS}) was refused"
        )

    def exists(self, name: str) -> bool:
        return False


GENERIC = "queued_storage.uploaders.generic.GenericUploader"


def remote() -> Storage:
    options = {"bucket_name": "bucket", "region_name": "eu-west-1", **SECRETS}
    return LeakyStorage(**options, endpoint_url="http://127.0.0.1:9")


def queued(**options: Any) -> Any:
    return make(**{"remote": remote(), "uploader": GENERIC} | options)


def assert_clean(text: str) -> None:
    for secret in SECRET_FORMS:
        assert secret not in text, f"{secret} is in: {text}"
    assert "Signature=" not in text
    assert "hunter2" not in text


# Messages


@pytest.mark.one_database
def test_broker_holds_only_ids(redis_url: str, queue_name: str) -> None:
    """Check all keys and values in Redis, whatever their names."""
    app = Celery("tests", broker=redis_url, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": f"{queue_name}:"}
    storage = queued(queue=CeleryQueue(app, queue=queue_name), alias="private-alias")
    name = storage.save("private-name.txt", file(b"private content"))
    pk = row(storage, name).pk
    found = []
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"{queue_name}:*"):
            kind = client.type(key)
            found.append(key)
            if kind == b"list":
                found += client.lrange(key, 0, -1)
            elif kind == b"hash":
                found += client.hvals(key)
            elif kind == b"set":
                found += client.smembers(key)
    for producer in adapter._producers_of(app)._idle:
        producer.connection.close()
    app.close()
    text = b"\n".join(found).decode()
    assert f"({pk},)" in text or f"[{pk}]" in text
    assert_clean(text)
    for word in ("private", "bucket", "eu-west-1", "127.0.0.1:9"):
        assert word not in text


def test_task_table_holds_only_ids() -> None:
    storage = queued(queue=DjangoTasksQueue(), alias="private-alias")
    storage.save("private-name.txt", file(b"private content"))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {DBTaskResult._meta.db_table}")
        text = str(cursor.fetchall())
    assert_clean(text)
    for word in ("private", "bucket", "eu-west-1"):
        assert word not in text


# The ledger, logs, repr


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Return a function that returns all log messages of the package, with tracebacks."""
    caplog.set_level(logging.DEBUG, "queued_storage")

    def text() -> str:
        formatter = logging.Formatter("%(message)s")
        ours = [record for record in caplog.records if record.name == "queued_storage"]
        assert ours
        return "\n".join(formatter.format(record) for record in ours)

    return text


def in_ledger() -> str:
    return str(list(QueuedFile.objects.values_list()))


def nested() -> Any:
    """Return a storage whose remote is a queued storage with the secrets."""
    return make(
        remote=QueuedStorage(
            "disk",
            f"{__name__}.LeakyStorage",
            remote_options={"bucket_name": "bucket", "region_name": "eu-west-1", **SECRETS},
            queue=DummyQueue(),
            alias=f"inner-{uuid.uuid4().hex[:8]}",
        )
    )


def test_ledger_and_logs_hold_no_secret(logged: Any) -> None:
    storage = queued()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert row(storage, name).last_error == ""
    assert "was refused" in Remote.objects.get().last_error
    assert_clean(str(list(Remote.objects.values_list())))
    assert_clean(in_ledger())
    assert_clean(logged())


@pytest.mark.one_database
def test_nested_storage_keeps_its_secrets() -> None:
    wrapped = FaultyStorage(remote())
    error = OSError(f"{SECRETS['secret_key']} and {SECRETS['access_key']}")
    assert_clean(reason(error, disk(), wrapped))
    assert_clean(reason(error, disk(), nested().remote))
    spec = {"BACKEND": f"{__name__}.LeakyStorage", "OPTIONS": dict(SECRETS)}
    assert_clean(reason(error, QueuedStorage("disk", spec, alias="spec")))


@pytest.mark.one_database
def test_storage_that_refers_to_itself_is_handled() -> None:
    storage = FileSystemStorage()
    storage.__dict__["friend"] = {"of": [storage], "secret": "hunter2"}
    assert reason(OSError("hunter2"), storage) == "OSError: …"


def test_broker_error_is_logged_without_password(logged: Any) -> None:
    class Dead(BaseQueue):
        def enqueue(self, pks: list[int]) -> None:
            raise ConnectionError("redis://:hunter2@broker:6379 does not answer")

    storage = make(queue=Dead())
    storage.save("a.txt", file())
    assert "does not answer" in logged()
    assert_clean(logged())


def test_cache_error_is_logged_without_password(settings: Settings, logged: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.DeadCache"}}
    storage = make()
    storage.url(storage.save("a.txt", file()))
    assert "does not answer" in logged()
    assert_clean(logged())


class DeadCache:
    """Raises an error for every call."""

    def __init__(self, *args: Any) -> None:
        pass

    def clear(self) -> None:
        """Do nothing; Django calls this after the test."""

    close = clear

    def __getattr__(self, method: str) -> Any:
        raise ConnectionError("redis://:hunter2@cache:6379 does not answer")


def test_database_error_is_logged_without_password(
    logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    lease = Lease(row(storage, name))

    def fail(renewed: list[Lease]) -> None:
        raise ConnectionError("postgresql://user:hunter2@db/ does not answer")

    monkeypatch.setattr(leases, "renew", fail)
    _Heart._beat([lease])
    assert "does not answer" in logged()
    assert_clean(logged())


@pytest.mark.one_database
def test_repr_contains_no_secret() -> None:
    storage = queued(task=TransferAndDelete)
    name = storage.save("a.txt", file())
    found = row(storage, name)
    lease = Lease(found)
    attempt = work._Work(storage, found, lease)
    things = [storage, storage.result, storage.queue, storage.uploader, found, lease, attempt]
    things += [storage.task, storage.alias, storage.fingerprint(), storage.variant]
    for thing in things:
        assert_clean(f"{thing!r} {thing!s}")
    inline = QueuedStorage("disk", remote(), queue=DummyQueue())
    assert_clean(f"{inline.alias} {inline!r} {inline.get_cache_key('a.txt')}")


@pytest.mark.one_database
def test_configuration_error_contains_no_secret() -> None:
    specs = [
        {"BACKEND": "queued_storage.queues.dummy.DummyQueue", "OPTIONS": {"password": "hunter2"}},
        {"BACKEND": "queued_storage.queues.dummy.DummyQueue", "PASSWORD": "hunter2"},
        {"OPTIONS": {"password": "hunter2"}},
    ]
    for spec in specs:
        with pytest.raises(ImproperlyConfigured) as caught:
            get_queue(spec)
        assert_clean(str(caught.value))
    for side in ({"OPTIONS": SECRETS}, {"BACKEND": 5, "OPTIONS": SECRETS}):
        with pytest.raises(ImproperlyConfigured) as caught:
            _ = QueuedStorage("disk", side, alias="wrong").remote
        assert_clean(str(caught.value))
    options = {"local": "disk", "remote": "far", "remote_options": SECRETS}
    with pytest.raises(ImproperlyConfigured) as caught:
        _ = QueuedStorage(**options, alias="wrong").remote
    assert_clean("".join(traceback.format_exception_only(caught.value)))


@pytest.mark.one_database
def test_cache_holds_no_secret_or_signed_url() -> None:
    storage = queued(remote=ScriptedStorage())
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.sides.remote.given = remote()
    QueuedFile.objects.update(place=storage.remote_place.digest)
    assert "Signature=" in storage.url(name)
    held = cache.get(storage.get_cache_key(name))
    assert name in held
    assert_clean(repr(held))


def test_status_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    storage = queued()
    storage.save("a.txt", file())
    storage.queue.deliver()
    call_command("queued_storage", "status")
    call_command("queued_storage", "status", "--json")
    shown = capsys.readouterr().out
    assert "was refused" in shown
    assert_clean(shown)


# Untrusted text


@pytest.mark.parametrize(
    "text",
    ["\udcff lone surrogate", "NUL \0", "\x1b[31m red", "😀" * 3000, "\r\nERROR forged"],
    ids=["surrogate", "NUL", "escape", "long", "lines"],
)
def test_file_is_retried_after_any_error_message(text: str) -> None:
    class Odd(ScriptedStorage):
        def _save(self, name: str, content: Any) -> str:
            if is_reserved(name):  # a probe
                return str(super()._save(name, content))
            raise OSError(text)

    storage = make(remote=Odd())
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert str(error) == text
    assert row(storage, name).state == State.PENDING
    assert row(storage, name).last_error.startswith("OSError: ")


@pytest.mark.one_database
def test_error_whose_str_fails_is_recorded() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    class Odd(ScriptedStorage):
        def _save(self, name: str, content: Any) -> str:
            if is_reserved(name):  # a probe
                return str(super()._save(name, content))
            raise Mute

    storage = make(remote=Odd())
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert row(storage, name).state == State.PENDING
    assert row(storage, name).last_error == "Mute"


CLIENT_NAMES = {
    "../../../etc/passwd": "docs/passwd",
    "..\\..\\boot.ini": "docs/boot.ini",
    "C:\\Users\\me\\a.txt": "docs/a.txt",
    "/etc/shadow": "docs/shadow",
    "a\nb\r\n.txt": "docs/ab.txt",
    "\x1b[31mred.txt": "docs/31mred.txt",
    "<b>bold.html": "docs/bbold.html",
    "a\u202etxt.exe": "docs/atxt.exe",
    "a b;rm -rf $HOME.txt": "docs/a_brm_-rf_HOME.txt",
    ".htaccess": "docs/.htaccess",
}


def received(name: str) -> UploadedFile:
    """Return the upload that Django creates for this file name from a client."""
    body = (
        f"--limit\r\nContent-Disposition: form-data; name=file; filename*=UTF-8''{quote(name)}"
        "\r\nContent-Type: text/plain\r\n\r\nbytes\r\n--limit--\r\n"
    )
    kind = "multipart/form-data; boundary=limit"
    request = RequestFactory().generic("POST", "/", body.encode(), content_type=kind)
    upload: UploadedFile = request.FILES["file"]
    return upload


@pytest.mark.one_database
@pytest.mark.parametrize(("given", "kept"), CLIENT_NAMES.items(), ids=range(len(CLIENT_NAMES)))
def test_client_file_name_stays_in_its_directory(given: str, kept: str) -> None:
    storage: Any = storages["default"]
    document = Document.objects.create(file=received(given))
    assert document.file.name == kept
    assert on_disk() == [kept]
    storage.queue.deliver()
    assert row(storage, kept).is_remote
    assert on_disk("far") == [kept]
    assert read(storage, kept) == b"bytes"
    assert storage.listdir("docs") == ([], [Path(kept).name])


@pytest.mark.one_database
def test_upload_cannot_use_a_reserved_name() -> None:
    """Such a file would be hidden, and deleted like drafts of crashed processes."""
    name = ".queued-0123456789abcdef.txt"
    with pytest.raises(SuspiciousFileOperation):
        Document.objects.create(file=received(name))
    with pytest.raises(SuspiciousFileOperation):
        make().open(name, "wb")
    assert on_disk() == []


# Symbolic links in the local directory


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A file outside the storage, which must not change."""
    place = tmp_path / "outside"
    place.mkdir()
    victim = place / "victim.txt"
    victim.write_bytes(b"not yours")
    Path(disk().location).mkdir(exist_ok=True)
    yield victim
    assert victim.read_bytes() == b"not yours"
    assert os.listdir(place) == ["victim.txt"]


def link(name: str, target: Path) -> Path:
    path = Path(disk().path(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    return path


@pytest.mark.one_database
@pytest.mark.parametrize("dangling", [False, True], ids=["", "dangling"])
def test_save_does_not_write_through_a_link(outside: Path, dangling: bool) -> None:
    storage = make()
    link("a.txt", outside.with_name("nothing.txt") if dangling else outside)
    name = storage.save("a.txt", file())
    assert name != "a.txt"
    assert not os.path.islink(disk().path(name))


@pytest.mark.one_database
@pytest.mark.parametrize("mode", ["wb", "ab", "r+b"])
def test_opening_for_writing_replaces_only_the_link(outside: Path, mode: str) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    path = link(name, outside)
    with storage.open(name, mode) as opened:
        opened.write(b"ours")
    assert not path.is_symlink()
    assert read(storage, name).startswith(b"ours" if mode != "ab" else b"not yours")


@pytest.mark.one_database
@pytest.mark.parametrize("known", [True, False], ids=["", "without a row"])
def test_delete_removes_only_the_link(outside: Path, known: bool) -> None:
    storage = make()
    name = storage.save("a.txt", file()) if known else "a.txt"
    path = link(name, outside)
    storage.delete(name)
    storage.queue.deliver()
    assert not path.is_symlink()


@pytest.mark.one_database
def test_eviction_removes_only_the_link(outside: Path) -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file(b"not yours"))
    path = link(name, outside)  # the same content, so the file is transferred
    storage.queue.deliver()
    assert row(storage, name).evicted_at
    assert not path.is_symlink()


@pytest.mark.one_database
@pytest.mark.parametrize("content", [b"other siz", b"another size"], ids=["bytes", "size"])
def test_link_to_other_content_is_not_transferred(outside: Path, content: bytes) -> None:
    storage = make()
    name = storage.save("a.txt", file(content))
    link(name, outside)
    storage.queue.deliver()
    assert row(storage, name).state == State.FAILED
    assert "LocalFileChanged" in row(storage, name).last_error
    assert not storage.using_remote(name)


@pytest.mark.one_database
def test_local_path_of_a_link_is_a_file(outside: Path) -> None:
    """A copied link with a relative target would be broken in another directory."""
    storage = make()
    name = storage.save("a.txt", file())
    other = storage.save("b.txt", file(b"other"))
    path = Path(disk().path(name))
    path.unlink()
    path.symlink_to(other)
    with storage.local_path(name) as found:
        assert Path(found).read_bytes() == b"other"
        assert not os.path.islink(found)


@pytest.mark.one_database
def test_linked_directory_is_followed(tmp_path: Path) -> None:
    """Links to larger disks are common, and Django's FileSystemStorage follows them too.

    A user who may create links in this directory may read and write its files anyway.
    """
    elsewhere = tmp_path / "larger disk"
    elsewhere.mkdir()
    Path(disk().location).mkdir(exist_ok=True)
    Path(disk().path("media")).symlink_to(elsewhere)
    storage = make(task=TransferAndDelete)
    name = storage.save("media/a.txt", file())
    assert os.listdir(elsewhere) == ["a.txt"]
    storage.queue.deliver()
    assert os.listdir(elsewhere) == []
    assert read(storage, name) == b"bytes"
