"""Probes of an S3 server, and the requests that they save."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from django.db import connections
from storages.backends.s3 import S3Storage

from queued_storage.exceptions import LocalFileChanged, VerificationError
from queued_storage.files.streams import MeasuredFile, Saved
from queued_storage.ledger.database import QueuedFileQuerySet, ledger
from queued_storage.ledger.names import is_reserved
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.transfers import work
from queued_storage.transfers.executor import Executor
from queued_storage.transfers.leases import Lease
from queued_storage.transfers.naming import Naming
from queued_storage.uploaders import uploader_for
from queued_storage.uploaders.s3 import trust
from queued_storage.uploaders.s3.trust import Trust
from tests.support.lying_proxy import Lie, LyingProxy
from tests.support.scripted import ScriptedStorage, file, make, make_due, read, row
from tests.support.services import S3Server
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.usefixtures("asked_soon"),
    pytest.mark.one_lane,
]

CONTENT = b"every byte of it"
Look = Callable[[], dict[str, bytes]]


@pytest.fixture
def hop(s3_server: S3Server) -> Iterator[LyingProxy]:
    with LyingProxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def remote(hop: LyingProxy, s3_server: S3Server, s3_bucket: str) -> S3Storage:
    return S3Storage(**s3_server.options(s3_bucket, hop.endpoint_url))


@pytest.fixture
def trusted(remote: S3Storage, s3_client: BaseClient, s3_bucket: str) -> S3Storage:
    found = known(remote)
    assert "Contents" not in s3_client.list_objects_v2(Bucket=s3_bucket)
    return found


def known(remote: S3Storage) -> S3Storage:
    """Probe the server of this storage; returns the storage."""
    storage = make(remote=remote)
    for _number in range(3):
        name = storage.save("first.txt", file(b"first"))
        assert storage.queue.deliver() == {}
        storage.delete(name)
        assert storage.queue.deliver() == {}
    assert trust.known(remote) == Trust(checksums=True, conditions=True)
    return remote


@pytest.fixture
def objects(s3_client: BaseClient, s3_bucket: str) -> Look:
    def look() -> dict[str, bytes]:
        found = s3_client.list_objects_v2(Bucket=s3_bucket).get("Contents", [])
        get = s3_client.get_object
        return {
            each["Key"]: get(Bucket=s3_bucket, Key=each["Key"])["Body"].read() for each in found
        }

    return look


def test_a_small_file_takes_one_request(
    trusted: S3Storage, hop: LyingProxy, s3_bucket: str, objects: Look
) -> None:
    storage = make(remote=trusted, task=TransferAndDelete)
    names = ["docs/ü b#?%+&=é😀~.txt", "a.bin", "c.txt"]
    hop.requests.clear()
    for name in names:
        storage.save(name, file(CONTENT))
    assert storage.queue.deliver() == {}
    assert [method for method, _path in hop.requests] == ["PUT"] * 3
    assert {row(storage, name).verified for name in names} == {"checksum"}
    assert objects() == dict.fromkeys(names, CONTENT)


def test_claims_record_names_on_a_probed_server(
    trusted: S3Storage, objects: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []
    try_name = QueuedFileQuerySet.mark_tried

    def note(ledger: QueuedFileQuerySet, row: QueuedFile) -> int:
        noted.append(row.name)
        return try_name(ledger, row)

    monkeypatch.setattr(QueuedFileQuerySet, "mark_tried", note)
    storage = make(remote=trusted)
    executor = Executor(1, 0.05, lambda: [storage.alias])
    executor.start()
    try:
        for name in ("a.txt", "b.txt", "c.txt"):
            storage.save(name, file(CONTENT))
            until(lambda name=name: row(storage, name).state == State.TRANSFERRED)
            until(executor.is_idle)
    finally:
        executor.stop()
    assert noted == ["a.txt"]
    assert objects() == dict.fromkeys(("a.txt", "b.txt", "c.txt"), CONTENT)
    assert {row(storage, name).unconfirmed for name in ("a.txt", "b.txt")} == {""}


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 1024 * 1024 + 1])
def test_sizes(trusted: S3Storage, size: int) -> None:
    data = os.urandom(size)
    storage = make(remote=trusted, task=TransferAndDelete)
    name = storage.save("a.bin", file(data))
    assert storage.queue.deliver() == {}
    assert row(storage, name).verified == "checksum"
    assert read(storage, name) == data


def test_object_parameters_are_in_every_request(
    trusted: S3Storage, s3_client: BaseClient, s3_bucket: str
) -> None:
    trusted.object_parameters = {"CacheControl": "max-age=5", "Metadata": {"origin": "test"}}
    storage = make(remote=trusted)
    for name in ("a.txt", "b.txt", "c.txt", "d.html"):
        storage.save(name, file(CONTENT))
    assert storage.queue.deliver() == {}
    for name in ("a.txt", "b.txt", "c.txt", "d.html"):
        head = s3_client.head_object(Bucket=s3_bucket, Key=name)
        kind = "text/html" if name == "d.html" else "text/plain"
        found = head["ContentType"], head["CacheControl"], head["Metadata"]
        assert found == (kind, "max-age=5", {"origin": "test"})


@pytest.mark.parametrize("lie", [lie for lie in Lie if "FLIP_AND" not in lie.name], ids=str)
def test_a_server_that_begins_to_lie(
    lie: Lie, trusted: S3Storage, hop: LyingProxy, objects: Look
) -> None:
    """A response without a checksum is followed by a HEAD request. A server that returns the
    checksum and hides the object is not detected."""
    storage = make(remote=trusted, task=TransferAndDelete)
    hop.lie = lie
    name = storage.save("a.txt", file(CONTENT))
    storage.queue.deliver()
    if lie == Lie.HIDE:
        assert row(storage, name).state == State.TRANSFERRED
    else:
        assert row(storage, name).state == State.PENDING
        assert read(storage, name) == CONTENT
    hop.lie = None
    if lie != Lie.HIDE:
        assert work.run(make_due(storage, name)) is None
    found = {key: data for key, data in objects().items() if not key.endswith(".misplaced")}
    found = {key: data for key, data in found.items() if not is_reserved(key)}
    assert found == {"a.txt": CONTENT}


def test_the_object_of_another_stays(
    trusted: S3Storage, s3_client: BaseClient, s3_bucket: str, objects: Look
) -> None:
    s3_client.put_object(Bucket=s3_bucket, Key="a.txt", Body=b"theirs")
    storage = make(remote=trusted, task=TransferAndDelete)
    name = storage.save("a.txt", file(CONTENT))
    assert storage.queue.deliver() == {}
    assert objects() == {"a.txt": b"theirs", row(storage, name).remote_name: CONTENT}
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert objects() == {"a.txt": b"theirs"}


# A worker that dies while it uploads


class Died(BaseException):
    pass


@pytest.fixture
def killed(trusted: S3Storage) -> Callable[[str], Any]:
    """A storage whose worker died while it uploaded the first file."""

    def kill(when: str) -> Any:
        storage = make(remote=trusted)
        name = storage.save("a.txt", file(CONTENT))
        with pytest.MonkeyPatch.context() as patches:

            def die(*args: Any, **kwargs: Any) -> None:
                raise Died

            if when == "before":
                patches.setattr(Naming, "_send", die)
            for method in (
                "promote",
                "postpone",
                "mark_failed",
                "release_claim",
                "record_remote_name",
                "release_remote_name",
            ):
                patches.setattr(QueuedFileQuerySet, method, die)
            with pytest.raises(Died):
                storage.queue.deliver()
        found = row(storage, name)
        assert (found.state, found.remote_name) == (State.TRANSFERRING, "")
        assert found.unconfirmed.startswith(f"{len(CONTENT)} {found.checksum} ")
        return storage

    return kill


@pytest.fixture(params=["before", "after"])
def left(request: pytest.FixtureRequest, killed: Callable[[str], Any]) -> Any:
    return killed(request.param)


def finish(storage: Any) -> None:
    ledger().filter(alias=storage.alias).exclude(due_at=None).update(due_at="2001-01-01T00:00Z")
    for pk in list(ledger().filter(alias=storage.alias).due().values_list("pk", flat=True)):
        assert work.run(pk) is None


def test_another_worker_finishes_the_transfer(left: Any, objects: Look) -> None:
    finish(left)
    assert objects() == {"a.txt": CONTENT}
    assert (row(left, "a.txt").remote_name, row(left, "a.txt").unconfirmed) == ("a.txt", "")


def test_new_content_spares_what_it_cannot_prove(left: Any, objects: Look) -> None:
    """The old bytes, which could prove that the object is this file's, are gone."""
    before = objects()
    with left.open("a.txt", "wb") as opened:
        opened.write(b"newer")
    finish(left)
    assert objects() == before | {row(left, "a.txt").remote_name: b"newer"}


def test_a_delete_removes_the_remains(left: Any, objects: Look) -> None:
    left.delete("a.txt")
    finish(left)
    assert objects() == {}
    assert not ledger().filter(alias=left.alias).exists()


@pytest.mark.parametrize("deletes", [False, True])
def test_an_object_of_another_client_stays(
    deletes: bool,
    killed: Callable[[str], Any],
    s3_client: BaseClient,
    s3_bucket: str,
    objects: Look,
) -> None:
    storage = killed("before")
    s3_client.put_object(Bucket=s3_bucket, Key="a.txt", Body=CONTENT[::-1])
    if deletes:
        storage.delete("a.txt")
        finish(storage)
        assert objects() == {"a.txt": CONTENT[::-1]}
        return
    finish(storage)
    other = row(storage, "a.txt").remote_name
    assert objects() == {"a.txt": CONTENT[::-1], other: CONTENT}


def test_a_file_deleted_during_its_upload(trusted: S3Storage, objects: Look) -> None:
    class Late(Transfer):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            done = super().transfer(name, local, remote, **kwargs)
            storage.delete(name)
            return done

    storage = make(remote=trusted, task=Late())
    storage.save("a.txt", file(CONTENT))
    storage.queue.deliver()
    finish(storage)
    assert objects() == {}
    assert not ledger().filter(alias=storage.alias).exists()


class Meanwhile(TransferAndDelete):
    """Calls `act` after the upload, and before the ledger records it."""

    act: Callable[[], object]

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        done = super().transfer(name, local, remote, **kwargs)
        self.act()
        return done


def test_an_unconfirmed_file_of_another_storage_stays(trusted: S3Storage, objects: Look) -> None:
    task = Meanwhile()
    one = make(remote=trusted, local=ScriptedStorage("disk/one"), task=task)
    two = make(remote=trusted, local=ScriptedStorage("disk/two"), task=TransferAndDelete)
    for storage in (one, two):
        storage.save("a.txt", file(CONTENT))
    task.act = two.queue.deliver
    assert one.queue.deliver() == {}
    other = row(two, "a.txt").remote_name
    assert objects() == {"a.txt": CONTENT, other: CONTENT}
    one.delete("a.txt")
    finish(one)
    assert read(two, "a.txt") == CONTENT


def test_a_delete_keeps_another_storages_unconfirmed_file(
    trusted: S3Storage, killed: Callable[[str], Any], objects: Look
) -> None:
    task = Meanwhile()
    one = killed("before")
    two = make(remote=trusted, local=ScriptedStorage("disk/two"), task=task)
    two.save("a.txt", file(CONTENT))
    one.delete("a.txt")
    task.act = lambda: finish(one)
    assert two.queue.deliver() == {}
    assert objects() == {row(two, "a.txt").remote_name: CONTENT}
    assert read(two, "a.txt") == CONTENT


# Probes


@pytest.mark.parametrize("lie", [lie for lie in Lie if lie != Lie.GARBLE], ids=str)
def test_a_server_that_always_lied(lie: Lie, remote: S3Storage, hop: LyingProxy) -> None:
    hop.lie = lie
    assert not trust.trust_in(remote).checksums


def test_an_unreachable_server_is_probed_again(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    probe = trust._probe

    def count(s3: Any, algorithm: str) -> Trust:
        asked.append(s3)
        return probe(s3, algorithm)

    monkeypatch.setattr(trust, "_probe", count)
    monkeypatch.setattr(trust, "PROBE_AGAIN", 2)
    away = S3Storage(**s3_server.options(s3_bucket, "http://127.0.0.1:9"))
    for times in (1, 1, 2):
        assert trust.trust_in(away) == Trust()
        assert len(asked) == times


def test_the_first_uploads_send_no_probe(
    remote: S3Storage, hop: LyingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "PROBE_AFTER", 3)
    for _upload in range(2):
        assert trust.trust_in(remote) == Trust()
    assert hop.requests == []
    assert trust.trust_in(remote) == Trust(checksums=True, conditions=True)


# Large files, read by the threads that send them


@pytest.fixture
def large() -> bytes:
    return os.urandom(9 * 1024 * 1024)  # two parts


@pytest.fixture
def direct(s3_server: S3Server, s3_bucket: str) -> S3Storage:
    """A remote without the proxy, which does not support parts."""
    return known(S3Storage(**s3_server.options(s3_bucket)))


@pytest.fixture
def read_by_us(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of reads from local files, except by the threads that send parts."""
    lengths: list[int] = []
    see = MeasuredFile._see

    def note(measured: MeasuredFile, piece: bytes) -> bytes:
        lengths.append(len(piece))
        return see(measured, piece)

    monkeypatch.setattr(MeasuredFile, "_see", note)
    return lengths


def transfer(storage: Any, name: str) -> Exception | None:
    return work.run(row(storage, name).pk)


def test_sending_threads_read_a_large_file(
    direct: S3Storage, large: bytes, read_by_us: list[int], objects: Look
) -> None:
    storage = make(remote=direct, task=TransferAndDelete)
    name = storage.save("a.bin", file(large))
    read_by_us.clear()
    assert transfer(storage, name) is None
    found = row(storage, name)
    assert (found.state, found.verified, found.is_local) == (State.TRANSFERRED, "checksum", False)
    assert (found.size, objects()) == (len(large), {"a.bin": large})
    assert read_by_us == [1024 * 1024 + 1]  # to see whether it is a small one


def test_progress_of_a_large_file_is_reported(
    direct: S3Storage, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    progress = Lease.progress

    def note(lease: Lease, sent: int | None = None) -> None:
        told.append(sent or 0)
        progress(lease, sent)

    storage = make(remote=direct)
    name = storage.save("a.bin", file(large))
    monkeypatch.setattr(Lease, "progress", note)
    assert transfer(storage, name) is None
    assert max(told) == len(large)


def test_a_changed_large_file_is_not_retried(
    direct: S3Storage, large: bytes, objects: Look
) -> None:
    storage = make(remote=direct, task=TransferAndDelete)
    name = storage.save("a.bin", file(large))
    with open(storage.local.path(name), "r+b") as local:
        local.seek(5_000_000)
        local.write(b"changed")
    assert isinstance(transfer(storage, name), LocalFileChanged)
    assert row(storage, name).state == State.FAILED


def test_a_large_file_changed_during_upload_is_retried(
    direct: S3Storage, large: bytes, monkeypatch: pytest.MonkeyPatch, objects: Look
) -> None:
    """The local file is restored before it is read again, but the object is wrong."""
    storage = make(remote=direct)
    name = storage.save("a.bin", file(large))
    was_sent = MeasuredFile.was_sent

    def restore(measured: MeasuredFile, saved: Saved, *, is_proved: bool) -> None:
        Path(saved.path).write_bytes(large)
        was_sent(measured, saved, is_proved=is_proved)

    with monkeypatch.context() as patches:
        patches.setattr(MeasuredFile, "was_sent", restore)
        Path(storage.local.path(name)).write_bytes(large[:-7] + b"changed")
        assert isinstance(transfer(storage, name), VerificationError)
    assert row(storage, name).state == State.PENDING
    assert work.run(make_due(storage, name)) is None
    assert objects() == {"a.bin": large}


def test_the_upload_of_a_deleted_file_ends(
    direct: S3Storage,
    large: bytes,
    monkeypatch: pytest.MonkeyPatch,
    objects: Look,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "queued_storage")
    storage = make(remote=direct)
    name = storage.save("a.bin", file(large))
    progress = Lease.progress

    def delete_once(lease: Lease, sent: int | None = None) -> None:
        if sent and sent > 1024 * 1024 + 1:
            ledger().filter(alias=storage.alias).mark_deleting()
            connections.close_all()  # this thread's, which may end at any time
            lease.lost = True
        progress(lease, sent)

    monkeypatch.setattr(Lease, "progress", delete_once)
    transfer(storage, name)
    assert "lost its lease on" in caplog.text
    assert objects() == {}
    assert not ledger().filter(alias=storage.alias).exists()


class Encrypted(FileSystemStorage):
    """Its files on disk differ from what is read."""

    def _save(self, name: str, content: Any) -> str:
        return super()._save(name, ContentFile(content.read()[::-1]))

    def _open(self, name: str, mode: str = "rb") -> Any:
        return ContentFile(Path(self.path(name)).read_bytes()[::-1], name)


def test_a_local_storage_that_encrypts_is_read(
    direct: S3Storage, large: bytes, tmp_path: Path, objects: Look
) -> None:
    storage = make(remote=direct, local=Encrypted(tmp_path))
    name = storage.save("a.bin", file(large))
    assert transfer(storage, name) is None
    assert objects() == {"a.bin": large}


def test_a_large_file_before_the_probe_is_measured(
    direct: S3Storage, large: bytes, read_by_us: list[int], objects: Look
) -> None:
    trust.forget()
    storage = make(remote=direct)
    name = storage.save("a.bin", file(large))
    read_by_us.clear()
    assert transfer(storage, name) is None
    assert sum(read_by_us) >= len(large)
    assert objects() == {"a.bin": large}


@pytest.mark.parametrize("size", [2 * 1024 * 1024, 9 * 1024 * 1024])
def test_a_large_file_keeps_an_existing_object(
    size: int, direct: S3Storage, s3_client: BaseClient, s3_bucket: str, objects: Look
) -> None:
    """It is created after exists(), so that only the condition detects it."""
    data = os.urandom(size)
    storage = make(remote=direct)
    name = storage.save("a.bin", file(data))
    s3_client.put_object(Bucket=s3_bucket, Key="a.bin", Body=b"theirs")
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(direct, "exists", lambda name: name == "a.bin" and next(looks))
        looks = iter([False, True])
        assert transfer(storage, name) is None
    other = row(storage, name).remote_name
    assert objects() == {"a.bin": b"theirs", other: data}


def test_the_first_of_many_uploads_probes(
    s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "PROBE_AFTER", 20)
    uploader = uploader_for(S3Storage(**s3_options))
    assert not uploader.never_overwrites(len(CONTENT))
    uploader.expect_many()
    uploader.upload_new("a.txt", MeasuredFile(file(CONTENT), "a.txt"))
    assert uploader.never_overwrites(len(CONTENT))
