"""The priority with which a file is saved."""

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.db import connections, transaction

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.database import ledger
from tests.support.scripted import make

pytestmark = pytest.mark.django_db(transaction=True)


def priority(name: str) -> int:
    return int(ledger().values_list("priority", flat=True).get(name=name))


def saved(storage: QueuedStorage, content: Any = None) -> int:
    return priority(storage.save("a.txt", content or ContentFile(b"a")))


@pytest.mark.parametrize(("value", "number"), [(None, 0), ("high", -1), ("low", 1), (1, 1)])
def test_the_option_of_a_storage(value: Any, number: int) -> None:
    assert saved(make(priority=value)) == number


@pytest.mark.parametrize("value", ["urgent", 7, True, ""])
def test_an_invalid_option(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="priority must be 'high'"):
        make(priority=value)


def test_the_option_as_a_class_attribute() -> None:
    class Archive(QueuedStorage):
        priority = "low"

    storage = Archive(local=make().local, remote=make().remote, alias="archive")
    assert saved(storage) == 1
    with storage.priority("high"):
        assert saved(storage) == -1


def test_blocks_are_nested() -> None:
    storage, other = make(priority="high"), make(alias="other")
    with storage.priority("low"):
        assert (saved(storage), saved(other)) == (1, 0)
        with storage.priority("normal"):
            assert saved(storage) == 0
        assert saved(storage) == 1
    assert saved(storage) == -1


def test_an_invalid_block_changes_nothing() -> None:
    storage = make()
    with pytest.raises(ValueError, match="priority must be"), storage.priority("urgent"):
        pass
    assert saved(storage) == 0


def test_the_attribute_of_the_content_goes_first() -> None:
    storage = make(priority="low")
    content: Any = ContentFile(b"a")
    content.priority = "high"
    with storage.priority("normal"):
        assert saved(storage, content) == -1
    content.priority = "urgent"
    with pytest.raises(ValueError, match="priority must be"):
        storage.save("b.txt", content)
    assert not storage.local.exists("b.txt")


def test_an_overwrite_has_the_priority_of_the_new_content() -> None:
    storage = make(priority="low")
    name = storage.save("a.txt", ContentFile(b"a"))
    with storage.priority("high"), storage.open(name, "wb") as file:
        file.write(b"b")
    assert priority(name) == -1
    with storage.open(name, "wb") as file:
        file.write(b"c")
    assert priority(name) == 1


def test_a_deleted_name_has_the_priority_of_the_new_file() -> None:
    storage = make(priority="low")
    name = storage.save("a.txt", ContentFile(b"a"))
    storage.delete(name)
    with storage.priority("high"):
        assert storage.save("a.txt", ContentFile(b"b")) == name
    assert priority(name) == -1


def test_other_threads_have_a_priority_of_their_own() -> None:
    storage = make()
    found: list[int] = []

    def save() -> None:
        found.append(saved(storage))
        connections.close_all()

    with storage.priority("low"):
        thread = threading.Thread(target=save)
        thread.start()
        thread.join(20)
        found.append(saved(storage))
    assert found == [0, 1]


def test_tasks_of_an_event_loop_have_a_priority_of_their_own() -> None:
    storage = make()

    async def save(value: str, name: str, entered: asyncio.Event, other: asyncio.Event) -> int:
        with storage.priority(value):
            entered.set()
            await other.wait()  # both tasks are in their blocks
            name = await storage.asave(name, ContentFile(b"a"))
        return await sync_to_async(priority)(name)

    async def save_both() -> list[int]:
        first, second = asyncio.Event(), asyncio.Event()
        found = await asyncio.gather(
            save("low", "a.txt", first, second), save("high", "b.txt", second, first)
        )
        await sync_to_async(connections.close_all)()  # of the thread that made the queries
        return found

    assert asyncio.run(save_both()) == [1, -1]


def test_a_transaction_notifies_of_high_priorities_first() -> None:
    storage = make()
    with transaction.atomic():
        names = []
        for value in ("low", "high", "normal", "high"):
            with storage.priority(value):
                names.append(storage.save("a.txt", ContentFile(b"a")))
    (message,) = storage.queue.messages
    by_key = dict(ledger().values_list("pk", "name"))
    assert [by_key[pk] for pk in message] == [names[1], names[3], names[2], names[0]]
