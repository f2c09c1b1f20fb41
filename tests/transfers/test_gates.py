import pytest

from queued_storage.ledger.states import State
from queued_storage.queues.base import run_all
from queued_storage.transfers.gates import gates
from tests.support.outages import close, registered
from tests.support.scripted import file, make, row
from tests.support.volumes import near, unmount

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]


def test_message_right_after_the_opening_is_processed() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    close(storage)
    gates.forget()
    assert gates.is_closed(storage.alias)
    registered(storage).reopen()  # by another process, which also sends the message
    run_all([row(storage, name).pk])
    assert row(storage, name).state == State.TRANSFERRED


def test_message_right_after_the_mount_is_processed() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    volume = unmount()
    run_all([row(storage, name).pk])
    assert gates.is_closed(storage.alias)
    near().rmdir()
    volume.rename(near())
    run_all([row(storage, name).pk])
    assert row(storage, name).state == State.TRANSFERRED
