import pytest

from queued_storage.exceptions import NotPublished
from queued_storage.ledger.preparations import preparations
from queued_storage.ledger.states import State
from queued_storage.steps import REPLACE
from queued_storage.testing import drain
from tests.support.scripted import file, on_disk, read, row
from tests.support.stepping import EICAR, Passing, Scanning, Scripted, at_once, gated, run

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]


def test_a_file_is_published_after_its_steps() -> None:
    step = Passing()
    storage = gated(step)
    name = storage.save("a.txt", file(b"bytes"))
    assert name == "a.txt"
    assert row(storage, name).state == State.PREPARING
    assert "a.txt" not in on_disk()
    with pytest.raises(NotPublished):
        storage.open(name)
    with storage.unpublished(name) as opened:
        assert opened.read() == b"bytes"
    assert drain(storage) == {}
    assert step.seen == [b"bytes"]
    assert on_disk() == ["a.txt"]
    assert row(storage, name).state == State.TRANSFERRED
    assert read(storage, name) == b"bytes"
    assert not preparations().exists()


def test_a_rejected_file_is_never_published() -> None:
    storage = gated(Scanning())
    name = storage.save("a.txt", file(EICAR))
    drain(storage)
    assert row(storage, name).state == State.REJECTED
    assert storage.rejection(name) == "It carries EICAR."
    assert not storage.is_published(name)
    with pytest.raises(NotPublished):
        storage.open(name)
    [hidden] = on_disk()
    assert hidden.startswith(".queued-storage-gate-")


def test_a_file_published_at_once_is_withdrawn() -> None:
    storage = at_once(Scanning())
    name = storage.save("a.txt", file(EICAR))
    assert read(storage, name) == EICAR
    drain(storage)
    with pytest.raises(NotPublished):
        storage.open(name)
    [hidden] = on_disk()
    assert hidden.startswith(".queued-storage-gate-")


@pytest.mark.parametrize("make", [gated, at_once])
def test_new_bytes_replace_the_old_ones(make) -> None:
    second = Passing()
    storage = make(Scripted(REPLACE(b"new bytes")), second)
    name = storage.save("a.txt", file(b"old"))
    drain(storage)
    assert second.seen == [b"new bytes"]
    assert read(storage, name) == b"new bytes"
    assert (
        storage.remote.content(name) == b"new bytes" if hasattr(storage.remote, "content") else True
    )
    assert on_disk() == ["a.txt"]
    assert row(storage, name).state == State.TRANSFERRED


def test_an_overwritten_file_stays_published_meanwhile() -> None:
    storage = gated(Scanning())
    name = storage.save("a.txt", file(b"old"))
    drain(storage)
    with storage.open(name, "wb") as opened:
        opened.write(b"new")
    assert read(storage, name) == b"old"
    drain(storage)
    assert read(storage, name) == b"new"
    with storage.open(name, "wb") as opened:
        opened.write(EICAR)
    drain(storage)
    assert read(storage, name) == b"new"
    assert storage.is_published(name)
    assert storage.rejection(name) == "It carries EICAR."


@pytest.mark.parametrize("make", [gated, at_once])
@pytest.mark.parametrize("bytes_", [b"good", EICAR])
def test_a_delete_removes_everything(make, bytes_) -> None:
    storage = make(Scanning())
    waiting = storage.save("waiting.txt", file(bytes_))
    storage.delete(waiting)
    other = storage.save("other.txt", file(bytes_))
    run(storage)
    storage.delete(other)
    drain(storage)
    assert on_disk() == []
    assert storage.queued_file(waiting) is storage.queued_file(other) is None
    assert not preparations().exists()
