import errno
import logging
import os
from typing import Any

import pytest
from django.core import mail
from django.core.files.storage import storages
from django.core.management import call_command
from django.db import transaction
from django.test import TestCase

from queued_storage.checks.places import volumes_are_mounted
from queued_storage.exceptions import LocalFileMissing, LocalStorageMissing
from queued_storage.files import markers, volumes
from queued_storage.ledger import identity
from queued_storage.ledger.identity import ledger_id
from queued_storage.ledger.states import State
from queued_storage.operations import errands, inventory, status
from queued_storage.operations.pruning import prune
from queued_storage.operations.reconciliation import reconcile
from queued_storage.queues.dummy import DummyQueue
from queued_storage.tasks import Transfer
from queued_storage.transfers import mounting
from queued_storage.transfers.gates import gates
from tests.support.scripted import file, ledger, make, make_due, read, row
from tests.support.volumes import mount, near, unmount

pytestmark = pytest.mark.django_db(transaction=True)


def deliver(storage: Any) -> None:
    for each in ledger().filter(due_at__isnull=False):
        make_due(storage, each.name)
        storage.queue.enqueue([each.pk])
    storage.queue.deliver()


def test_first_save_marks_the_root() -> None:
    make().save("a.txt", file())
    assert markers.read(str(near()))[1] == [ledger_id()]


def test_nothing_is_saved_without_the_volume() -> None:
    storage = make()
    storage.save("a.txt", file())
    volume = unmount()
    with pytest.raises(LocalStorageMissing, match="accept-root"):
        storage.save("b.txt", file())
    with pytest.raises(LocalStorageMissing):
        storage.open("b.txt", "wb")
    assert ledger().count() == 1
    mount(volume)
    assert storage.save("b.txt", file()) == "b.txt"


def test_no_attempt_counts_without_the_volume(caplog: pytest.LogCaptureFixture) -> None:
    storage = make()
    names = [storage.save(f"{number}.txt", file()) for number in range(3)]
    volume = unmount()
    with caplog.at_level(logging.WARNING, "queued_storage"):
        deliver(storage)
    assert {(row(storage, name).state, row(storage, name).attempts) for name in names} == {
        (State.PENDING, 0)
    }
    assert len([each for each in caplog.records if "not mounted" in each.getMessage()]) == 1
    mount(volume)
    deliver(storage)
    assert {row(storage, name).state for name in names} == {State.TRANSFERRED}


def test_whoever_sees_the_volume_back_sweeps_once(caplog: pytest.LogCaptureFixture) -> None:
    storage = make()
    pks = [row(storage, storage.save(f"{number}.txt", file())).pk for number in range(2)]
    storage.queue.messages.clear()
    volume = unmount()
    assert gates.is_closed(storage.alias) is False  # nobody has noticed
    with pytest.raises(LocalStorageMissing):
        storage.save("b.txt", file())
    mount(volume)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "queued_storage"), transaction.atomic():
        storage.save("c.txt", file())
        assert storage.queue.messages == []
    mounting.wait(10)
    storage.save("d.txt", file())
    pk, last = (row(storage, name).pk for name in ("c.txt", "d.txt"))
    sent = [sorted(message) for message in storage.queue.messages]
    assert sorted(sent) == sorted([[pk], [*pks, pk], [last]])
    said = [each.getMessage() for each in caplog.records]
    assert [each for each in said if repr(storage.alias) in each] == [
        f"The volume of the local storage of {storage.alias!r} is back in {str(near())!r}."
    ]


def test_broker_away_when_the_volume_is_back(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(DummyQueue):
        def enqueue(self, pks: list[int]) -> None:
            raise ConnectionError("The broker is away.")

    storage = make(queue=Broken())
    name = storage.save("a.txt", file())
    volume = unmount()
    with pytest.raises(LocalStorageMissing):
        storage.open(name)
    mount(volume)
    caplog.clear()
    assert read(storage, name) == b"bytes"
    assert not gates.is_closed(storage.alias)  # which a worker asks
    mounting.wait(10)
    assert "The broker is away." in caplog.records[-1].getMessage()


def test_deleted_files_do_not_come_back() -> None:
    storage = make()
    done = storage.save("done.txt", file())
    storage.queue.deliver()
    fresh = storage.save("fresh.txt", file())
    volume = unmount()
    storage.delete(done)
    storage.delete(fresh)
    deliver(storage)
    assert ledger().filter(state=State.DELETING, is_local=True, attempts=0).count() == 2
    mount(volume)
    assert not storage.exists(done)
    assert not storage.exists(fresh)
    deliver(storage)
    assert ledger().count() == 0
    assert not (near() / done).exists()
    assert not (near() / fresh).exists()


def test_reads_say_that_the_volume_is_missing() -> None:
    storage = make()
    done = storage.save("done.txt", file(b"remote"))
    storage.queue.deliver()
    fresh = storage.save("fresh.txt", file())
    unmount()
    assert read(storage, done) == b"remote"
    with pytest.raises(LocalStorageMissing):
        storage.open(fresh)


def test_operations_take_no_file_for_lost() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    fresh = storage.save("fresh.txt", file())
    unmount()
    with pytest.raises(LocalStorageMissing):
        storage.open(fresh)
    gates.forget()  # it now says that the storage's files wait
    reasons: list[str] = []
    assert errands.evict(ledger().all(), lambda step: reasons.append(step.error)) == 0
    assert [reason.partition(":")[0] for reason in reasons] == ["LocalStorageMissing"]
    found = list(reconcile(ledger().all(), ["missing-local"]))
    assert found == []
    with pytest.raises(LocalStorageMissing):
        list(prune(ledger().all()))
    assert [row(storage, each).is_local for each in (name, fresh)] == [True, True]
    assert any("not mounted" in trouble for trouble in status.troubles())


def test_marker_of_another_ledger_is_another_volume() -> None:
    storage = make()
    storage.save("a.txt", file())
    unmount()
    markers.add(str(near()), "another")
    with pytest.raises(LocalStorageMissing):
        storage.save("b.txt", file())


def test_deleted_marker_is_made_anew() -> None:
    storage = make()
    storage.save("a.txt", file())
    os.unlink(near() / markers.MARKER)
    storage.save("b.txt", file())
    assert ledger_id() in markers.read(str(near()))[1]


def test_operator_accepts_an_empty_disk() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    unmount()
    assert volumes.is_missing(storage.alias, storage.local)
    call_command("queued_storage", "accept-root", storage.alias, "--yes")
    assert storage.save("b.txt", file()) == "b.txt"
    with pytest.raises(LocalFileMissing):
        storage.open(name)


@pytest.mark.parametrize("name", [".queued-storage", ".queued-storage-writer"])
def test_no_method_gives_a_marker(name: str) -> None:
    storage = make()
    storage.save("a.txt", file())
    with (near() / name).open("a") as marker:
        marker.write("kept\n")
    assert not storage.exists(name)
    assert storage.queued_file(name) is None
    for method in (storage.open, storage.size, storage.url, storage.path):
        with pytest.raises(FileNotFoundError):
            method(name)
    storage.delete(name)
    assert storage.listdir("")[1] == ["a.txt"]
    assert name not in list(inventory.names_of(storage, "local"))
    assert (near() / name).read_text().endswith("kept\n")


def test_check_finds_the_missing_volume() -> None:
    storage = make()
    storage.save("a.txt", file())
    unmount()
    found = [each for each in volumes_are_mounted() if each.obj is storage]
    assert [each.id for each in found] == ["queued_storage.W009"]


class ClassLevelRows(TestCase):
    """The root is removed between tests, and rows of ``setUpTestData()`` stay."""

    @classmethod
    def setUpTestData(cls) -> None:
        storages["default"].save("earlier.txt", file())

    def test_saves_go_on_in_one_test(self) -> None:
        storages["default"].save("a.txt", file())

    def test_saves_go_on_in_another_test(self) -> None:
        storages["default"].save("b.txt", file())


def test_mail_in_memory_makes_no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    storage.save("a.txt", file())
    unmount()
    assert hasattr(mail, "outbox")
    monkeypatch.setattr(identity, "is_for_tests", lambda: False)
    with transaction.atomic(), pytest.raises(LocalStorageMissing):
        storage.save("b.txt", file())


def test_storages_that_share_a_root_protect_each_other() -> None:
    storage = make()
    storage.save("a.txt", file())
    unmount()
    with pytest.raises(LocalStorageMissing):
        make().save("b.txt", file())


def test_failing_transfer_is_not_counted_if_the_volume_vanishes() -> None:
    class Vanishing(Transfer):
        def transfer(self, name: str, local: Any, remote: Any) -> bool:
            unmount()
            return super().transfer(name, local, remote)

    storage = make(task=Vanishing())
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert (row(storage, name).state, row(storage, name).attempts) == (State.PENDING, 0)


def test_read_only_root_has_no_marker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(markers, "add", refuse)
    storage = make()
    names = [storage.save(f"{number}.txt", file()) for number in range(3)]
    assert len(names) == ledger().count()
    assert len([each for each in caplog.records if "cannot be written" in each.getMessage()]) == 1
