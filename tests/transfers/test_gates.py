from typing import Any

import pytest

from queued_storage.conf import settings as ledger_settings
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.sql.clock import seconds_from_now
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


def test_remotes_that_opened_lately(settings: Any) -> None:
    storage = make()
    remote = remotes().register(storage.alias, storage.remote_place)
    gates.forget()
    assert gates.opened_lately() >= {storage.alias}
    assert gates.are_settled
    long_ago = seconds_from_now(-2 * ledger_settings.max_wait)
    remotes().filter(pk=remote.pk).update(since=long_ago)
    gates.forget()
    assert storage.alias not in gates.opened_lately()
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"MAX_WAIT": "8w"}
    gates.forget()
    assert storage.alias in gates.opened_lately()
