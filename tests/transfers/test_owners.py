"""Objects on the remote that belong to other files, and what proves that they are this file's."""

import contextlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage
from pytest_django import DjangoAssertNumQueries, Settings
from storages.backends.s3 import S3Storage

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.operations.adoption import adopt
from queued_storage.operations.passes import Step as PassStep
from queued_storage.remotes.places import place_of
from queued_storage.tasks import TransferAndDelete
from queued_storage.transfers import work
from queued_storage.transfers.owners import name_in
from tests.support.scripted import (
    RenamingStorage,
    ScriptedStorage,
    file,
    make,
    make_due,
    on_disk,
    read,
    row,
)
from tests.transfers.workers import die_halfway, retry

pytestmark = pytest.mark.django_db(transaction=True)


class Bucket(ScriptedStorage):
    """A remote that overwrites, and shows an object when it is whole."""

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return name

    def _save(self, name: str, content: Any) -> str:
        self.before.pop("_save", _nothing)(name)
        data = content.read()
        self.before.pop("stored", _nothing)(name)
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.after.pop("stored", _nothing)(name)
        return name


def _nothing(name: str) -> None:
    pass


def raise_error(name: str) -> None:
    raise ConnectionError("503 slow down")


def two(remote: Any = None, **options: Any) -> tuple[Any, Any]:
    """Two queued storages with one remote."""
    remote = remote or Bucket()
    return tuple(  # type: ignore[return-value]
        make(
            remote=remote,
            local=ScriptedStorage(f"disk/{each}"),
            task=TransferAndDelete,
            **options,
        )
        for each in ("one", "two")
    )


def finish(*storages: Any) -> None:
    """Process all that is pending, as if its time had come."""
    for storage in storages:
        for name in ledger().filter(alias=storage.alias).values_list("name", flat=True):
            if row(storage, name).due_at:
                work.run(make_due(storage, name))


# What lies there before anything was sent


@pytest.mark.parametrize("theirs", [b"the very same", b"the very", b"", b"another file"])
def test_foreign_object_outlives_the_file(theirs: bytes) -> None:
    storage = make(remote=Bucket(), task=TransferAndDelete)
    storage.remote.save("a.txt", file(theirs))
    name = storage.save("a.txt", file(b"the very same"))
    assert storage.queue.deliver() == {}
    assert read(storage, name) == b"the very same"
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert {each: read(storage.remote, each) for each in on_disk("far")} == {"a.txt": theirs}


def fail_unread(storage: Any, name: str) -> None:
    storage.remote.before["_save"] = raise_error
    assert retry(storage, name) is not None


def fail_unstored(storage: Any, name: str) -> None:
    storage.remote.before["stored"] = raise_error
    assert retry(storage, name) is not None


def lose_local_copy(storage: Any, name: str) -> None:
    local = Path(storage.local.path(name))
    local.rename(local.with_suffix(".aside"))
    assert retry(storage, name) is not None
    local.with_suffix(".aside").rename(local)
    storage.transfer(name)


@pytest.mark.parametrize("verb", ["retry", "delete"])
@pytest.mark.parametrize("fail", [fail_unread, fail_unstored, lose_local_copy])
@pytest.mark.parametrize("theirs", [b"THEIR BYTES", b"our byteS"])
def test_object_that_came_after_a_failure_stays(
    theirs: bytes, fail: Callable[[Any, str], None], verb: str
) -> None:
    storage = make(remote=Bucket())
    name = storage.save("a.txt", file(b"our bytes"))
    fail(storage, name)
    ScriptedStorage().save("a.txt", file(theirs))
    if verb == "delete":
        storage.delete(name)
    finish(storage)
    assert read(storage.remote, "a.txt") == theirs
    if verb == "retry":
        assert row(storage, name).state == State.TRANSFERRED
        assert read(storage, name) == b"our bytes"
    else:
        assert storage.queued_file(name) is None


@pytest.mark.parametrize("verb", ["retry", "delete"])
@pytest.mark.parametrize("fail", [fail_unread, lose_local_copy])
def test_look_alike_after_nothing_was_sent_stays(
    fail: Callable[[Any, str], None], verb: str
) -> None:
    storage = make(remote=Bucket(), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"our bytes"))
    fail(storage, name)
    ScriptedStorage().save("a.txt", file(b"our bytes"))
    if verb == "retry":
        finish(storage)
        assert read(storage, name) == b"our bytes"
    storage.delete(name)
    finish(storage)
    assert on_disk("far") == ["a.txt"]


def colliding(data: bytes) -> bytes:
    """Other bytes with the same length and the same CRC-32."""
    wanted, prefix = zlib.crc32(data), b"forged " + data[11:]
    table = [_entry(each) for each in range(256)]
    high = {entry >> 24: index for index, entry in enumerate(table)}
    register, indexes = wanted ^ 0xFFFFFFFF, []
    for _byte in range(4):
        index = high[register >> 24]
        indexes.append(index)
        register = ((register ^ table[index]) << 8) & 0xFFFFFFFF
    register, found = zlib.crc32(prefix) ^ 0xFFFFFFFF, b""
    for index in reversed(indexes):
        found += bytes([(register & 0xFF) ^ index])
        register = (register >> 8) ^ table[index]
    forged = prefix + found
    assert (len(forged), zlib.crc32(forged)) == (len(data), wanted)
    assert forged != data
    return forged


def _entry(value: int) -> int:
    for _bit in range(8):
        value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
    return value


OURS = b"a file with some bytes of its own"


@pytest.mark.parametrize("verb", ["retry", "delete", "overwrite"])
def test_equal_checksums_prove_nothing(verb: str) -> None:
    forged = colliding(OURS)
    storage = make(remote=Bucket())
    name = storage.save("a.txt", file(OURS))
    fail_unstored(storage, name)
    ScriptedStorage().save("a.txt", file(forged))
    if verb == "delete":
        storage.delete(name)
    elif verb == "overwrite":
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")
    finish(storage)
    assert read(ScriptedStorage(), "a.txt") == forged


# What an upload without an answer has stored


def lose_answer(storage: Any, name: str) -> None:
    storage.remote.after["stored"] = raise_error
    assert retry(storage, name) is not None


def die_with_half(storage: Any, name: str) -> None:
    die_halfway(storage, name, b"our b")


@pytest.mark.parametrize("fail", [lose_answer, die_with_half])
def test_own_object_is_found_again(fail: Callable[[Any, str], None]) -> None:
    storage = make(remote=Bucket())
    name = storage.save("a.txt", file(b"our bytes"))
    fail(storage, name)
    assert on_disk("far") == ["a.txt"]
    finish(storage)
    assert row(storage, name).remote_name == "a.txt"
    assert on_disk("far") == ["a.txt"]
    assert read(storage.remote, "a.txt") == b"our bytes"


@pytest.mark.parametrize("fail", [lose_answer, die_with_half])
def test_own_object_is_deleted(fail: Callable[[Any, str], None]) -> None:
    storage = make(remote=Bucket())
    name = storage.save("a.txt", file(b"our bytes"))
    fail(storage, name)
    storage.delete(name)
    assert not storage.exists(name)
    finish(storage)
    assert (on_disk("far"), on_disk()) == ([], [])
    assert storage.queued_file(name) is None


def test_object_that_cannot_be_proved_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    storage = make(remote=Bucket())
    name = storage.save("a.txt", file(b"our bytes"))
    lose_answer(storage, name)
    storage.local.delete(name)
    storage.delete(name)
    finish(storage)
    assert storage.queued_file(name) is None
    assert on_disk("far") == ["a.txt"]
    assert "it isn't known whether" in caplog.text


def test_answered_upload_is_overwritten_by_a_retry() -> None:
    """Even if the remote has stored other bytes."""
    storage = make(remote=Bucket())
    name = storage.save("a.txt", file(b"our bytes"))
    path = Path(storage.remote.path(name))
    storage.remote.after["stored"] = lambda name: path.write_bytes(b"?")
    assert retry(storage, name) is not None
    assert row(storage, name).is_object_its_own
    assert retry(storage, name) is None
    assert on_disk("far") == ["a.txt"]
    assert read(storage.remote, "a.txt") == b"our bytes"


def test_new_content_replaces_the_old_object() -> None:
    storage = make(remote=Bucket())
    name = storage.save("a.txt", file(b"our bytes"))
    assert storage.queue.deliver() == {}
    with storage.open(name, "wb") as opened:
        opened.write(b"newer")
    lose_answer(storage, name)
    finish(storage)
    assert on_disk("far") == ["a.txt"]
    assert read(storage.remote, "a.txt") == b"newer"


# Two storages with one remote


@pytest.mark.parametrize("verb", ["retry", "delete"])
@pytest.mark.parametrize("fail", [fail_unread, fail_unstored])
@pytest.mark.parametrize("theirs", [b"TWO", b"one"])
def test_another_storage_takes_a_name_after_a_failure(
    theirs: bytes, fail: Callable[[Any, str], None], verb: str
) -> None:
    one, other = two()
    one.save("a.txt", file(b"one"))
    fail(one, "a.txt")
    other.save("a.txt", file(theirs))
    assert other.queue.deliver() == {}
    if verb == "delete":
        one.delete("a.txt")
    finish(one)
    assert read(other, "a.txt") == theirs
    if verb == "retry":
        assert read(one, "a.txt") == b"one"
        one.delete("a.txt")
        finish(one)
    assert read(other, "a.txt") == theirs
    assert on_disk("far") == [row(other, "a.txt").remote_name]


@pytest.mark.parametrize("remote", [Bucket, InMemoryStorage, ScriptedStorage, RenamingStorage])
@pytest.mark.parametrize("theirs", [b"TWO", b"one"])
def test_two_storages_send_to_one_name_at_once(theirs: bytes, remote: Any) -> None:
    one, other = two(remote())
    one.save("a.txt", file(b"one"))
    other.save("a.txt", file(theirs))
    save = one.remote._save

    def meanwhile(name: str, content: Any) -> str:
        one.remote._save = save
        assert other.queue.deliver() == {}
        return str(save(name, content))

    one.remote._save = meanwhile
    assert one.queue.deliver() == {}
    assert (read(one, "a.txt"), read(other, "a.txt")) == (b"one", theirs)
    one.delete("a.txt")
    finish(one)
    assert read(other, "a.txt") == theirs


def test_nested_folders_are_one_place() -> None:
    outer = make(remote=Bucket("far"), local=ScriptedStorage("disk/one"))
    inner = make(remote=Bucket("far/users"), local=ScriptedStorage("disk/two"))
    outer.save("users/a.txt", file(b"outer"))
    inner.save("a.txt", file(b"inner"))
    outer.remote.before["stored"] = lambda name: inner.queue.deliver()
    assert outer.queue.deliver() == {}
    contents = (
        read(outer.remote, row(outer, "users/a.txt").remote_name),
        read(inner.remote, row(inner, "a.txt").remote_name),
    )
    assert contents == (b"outer", b"inner")


@pytest.mark.parametrize(
    ("location", "theirs"),
    [("", "users/d/a.txt"), ("users", "d/a.txt"), ("users/d/", "a.txt"), ("user", None)],
)
def test_names_follow_from_the_folders_of_a_bucket(location: str, theirs: str | None) -> None:
    own, other = (
        place_of(S3Storage(bucket_name="media", access_key="a", secret_key="b", location=folder))
        for folder in ("users", location)
    )
    assert name_in(other, own, "d/a.txt") == theirs
    elsewhere = place_of(S3Storage(bucket_name="other", access_key="a", secret_key="b"))
    assert name_in(elsewhere, own, "d/a.txt") is None


class Opaque(Storage):
    """A storage that shows nothing of its options."""

    def __init__(self, key: str) -> None:
        self.key = key


def test_in_doubt_a_place_is_shared() -> None:
    assert name_in(place_of(Opaque("one")), place_of(Opaque("two")), "a.txt") == "a.txt"
    one, other = InMemoryStorage(), InMemoryStorage()
    assert name_in(place_of(one), place_of(other), "a.txt") is None


def test_a_link_leads_to_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    link, real, top = (
        place_of(FileSystemStorage(tmp_path / each)) for each in ("link", "real", "")
    )
    assert name_in(real, link, "a.txt") == "a.txt"
    assert name_in(top, link, "a.txt") == "real/a.txt"


def steps_of(verb: Callable[..., int], storage: Any, names: list[str]) -> tuple[int, list[str]]:
    steps: list[PassStep] = []
    return verb(storage, names, steps.append), [step.error for step in steps if step.error]


def test_an_object_is_adopted_once() -> None:
    one, other = two()
    one.remote.save("a.txt", file(b"legacy"))
    assert steps_of(adopt, one, ["a.txt"]) == (1, [])
    assert steps_of(adopt, other, ["a.txt"]) == (0, ["It is the remote copy of another file."])


def test_a_renamed_object_is_not_adopted() -> None:
    one, other = two()
    one.remote.save("a.txt", file(b"theirs"))
    one.save("a.txt", file(b"ours"))
    assert one.queue.deliver() == {}
    name = row(one, "a.txt").remote_name
    for storage in (one, other):
        count, errors = steps_of(adopt, storage, [name])
        assert (count, errors) == (0, ["It is the remote copy of another file."])


def adopted_twice() -> tuple[Any, Any]:
    """As two processes do that adopt at the same time."""
    one, other = two()
    one.remote.save("a.txt", file(b"legacy"))
    assert steps_of(adopt, one, ["a.txt"])[0] == 1
    pk = row(one, "a.txt").pk
    ledger().filter(pk=pk).update(alias="elsewhere")
    assert steps_of(adopt, other, ["a.txt"])[0] == 1
    ledger().filter(pk=pk).update(alias=one.alias)
    return one, other


def test_shared_object_stays_until_its_last_file_goes() -> None:
    one, other = adopted_twice()
    one.delete("a.txt")
    finish(one)
    assert read(other, "a.txt") == b"legacy"
    other.delete("a.txt")
    finish(other)
    assert on_disk("far") == []


@pytest.mark.parametrize("order", [1, -1])
def test_shared_object_goes_with_both_files(order: int) -> None:
    storages = adopted_twice()
    for storage in storages:
        storage.delete("a.txt")
    finish(*storages[::order])
    assert on_disk("far") == []
    assert not QueuedFile.objects.exists()


def test_shared_object_is_not_overwritten() -> None:
    one, other = adopted_twice()
    with one.open("a.txt", "wb") as opened:
        opened.write(b"newer")
    finish(one)
    assert (read(one, "a.txt"), read(other, "a.txt")) == (b"newer", b"legacy")


@pytest.mark.parametrize("is_renamed", [False, True])
def test_unknown_name_spares_the_object_of_another_storage(is_renamed: bool) -> None:
    one, other = two()
    if is_renamed:
        one.remote.save("a.txt", file(b"theirs"))
    other.save("a.txt", file(b"TWO"))
    assert other.queue.deliver() == {}
    one.delete(row(other, "a.txt").remote_name)
    finish(one)
    assert read(other, "a.txt") == b"TWO"


def test_unknown_name_being_deleted_is_not_used() -> None:
    """The delete has looked at the ledger, and is about to remove what it has not found there."""
    one, other = two()
    other.save("a.txt", file(b"TWO"))
    one.delete("a.txt")
    one.remote.before["delete"] = lambda name: other.queue.deliver()
    finish(one)
    assert read(other, "a.txt") == b"TWO"


def test_alias_unknown_here_keeps_its_object() -> None:
    one, other = two()
    other.save("a.txt", file(b"TWO"))
    assert other.queue.deliver() == {}
    ledger().filter(alias=other.alias).update(alias="of another process")
    one.delete("a.txt")
    finish(one)
    assert on_disk("far") == ["a.txt"]


def test_storage_alone_in_its_place_makes_no_query(
    django_assert_num_queries: DjangoAssertNumQueries, settings: Settings
) -> None:
    counts = []
    for number, is_shared in enumerate([False, False, True]):  # the first one fills caches
        one = make(remote=Bucket(f"apart/{number}"), task=TransferAndDelete)
        another = make(remote=one.remote if is_shared else InMemoryStorage())
        assert another.alias
        one.save("a.txt", file(b"one"))
        with django_assert_num_queries(100, exact=False) as found:
            assert one.queue.deliver() == {}
        counts.append(len(found))
    assert counts[2] == counts[1] + 1


# Tasks of the project


def test_task_does_not_delete_the_object_of_another() -> None:
    class Tidy(TransferAndDelete):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            remote.delete(name)
            done = super().transfer(name, local, remote, **kwargs)
            remote.delete(name)
            with local.open(name) as content:
                remote.save(name, content)
            return done

    storage = make(remote=Bucket(), task=Tidy())
    storage.remote.save("a.txt", file(b"theirs"))
    name = storage.save("a.txt", file(b"our bytes"))
    assert storage.queue.deliver() == {}
    assert read(storage.remote, "a.txt") == b"theirs"
    assert on_disk("far") == sorted(["a.txt", row(storage, name).remote_name])
    assert read(storage, name) == b"our bytes"


class Foreign:
    """A task with ``delay()``, whose upload takes place if `remote` is set."""

    remote: Any = None

    def delay(self, name: str, *args: Any) -> None:
        if self.remote:
            self.remote.save(name, file(b"our bytes"))


@pytest.mark.parametrize("is_uploaded", [False, True])
def test_deleted_file_of_a_foreign_task(is_uploaded: bool) -> None:
    task, remote = Foreign(), Bucket()
    storage = make(remote=remote, task=task)
    if is_uploaded:
        task.remote = remote
    else:
        remote.save("a.txt", file(colliding(b"our bytes and more")[:9]))
    before = on_disk("far")
    name = storage.save("a.txt", file(b"our bytes"))
    assert row(storage, name).object_name == name
    storage.delete(name)
    finish(storage)
    assert storage.queued_file(name) is None
    assert (on_disk("far"), on_disk()) == (before, [])


def test_task_that_sends_twice_keeps_one_object() -> None:
    class Twice(TransferAndDelete):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            with contextlib.suppress(ConnectionError):
                super().transfer(name, local, remote, **kwargs)
            return super().transfer(name, local, remote, **kwargs)

    for fault in ("before", "after"):
        storage = make(remote=Bucket(f"far/{fault}"), task=Twice())
        getattr(storage.remote, fault)["stored"] = raise_error
        name = storage.save("a.txt", file(b"our bytes"))
        assert storage.queue.deliver() == {}
        assert on_disk(f"far/{fault}") == ["a.txt"]
        assert read(storage, name) == b"our bytes"
