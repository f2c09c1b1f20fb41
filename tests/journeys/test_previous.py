"""Storages whose files are partly at a previous remote."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages
from django.core.management import CommandError, call_command

from queued_storage.exceptions import RemoteChanged
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import errands
from queued_storage.storage.sides import Sides
from tests.support.moving import Switch, on, saved
from tests.support.scripted import file, make, read, row

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]


def test_reads_go_to_the_place_of_each_file(switch: Switch) -> None:
    old = saved(switch("old"), "old.txt", b"old", evict=True)
    storage = switch("new", "old")
    new = saved(storage, "new.txt", b"new", evict=True)
    for _cached in range(2):
        assert read(storage, old) == b"old"
        assert read(storage, new) == b"new"
        assert storage.url(old) == "https://old.example/old.txt"
        assert storage.urls([new, old]) == {
            new: "https://new.example/new.txt",
            old: "https://old.example/old.txt",
        }
    with storage.local_path(old) as path, open(path, "rb") as opened:
        assert opened.read() == b"old"
    assert storage.using_remote(old)
    assert storage.get_storage(old) is storages["old"]
    assert (on("old"), on("new")) == ([old], [new])


def test_urls_make_no_call_to_any_remote(switch: Switch) -> None:
    old = saved(switch("old"), "old.txt", evict=True)
    storage = switch("new", "old")
    storage.url(old)
    storage.urls([old])
    assert storages["old"].calls == storages["new"].calls == {}


def test_both_configurations_read_every_file(switch: Switch) -> None:
    old = saved(switch("old"), "old.txt", b"old", evict=True)
    new = saved(switch("new", "old"), "new.txt", b"new", evict=True)
    storage = switch("old", "new")
    assert (read(storage, old), read(storage, new)) == (b"old", b"new")
    back = saved(storage, "back.txt", evict=True)
    assert on("old") == [back, old]
    assert storage.url(new) == "https://new.example/new.txt"


def test_deletes_reach_the_place_of_the_file(switch: Switch) -> None:
    old = saved(switch("old"), "old.txt")
    storage = switch("new", "old")
    storage.delete(old)
    assert storage.queue.deliver() == {}
    assert on("old") == []
    assert not ledger().exists()


def test_eviction_and_restore_at_the_previous_place(switch: Switch) -> None:
    old = saved(switch("old"), "old.txt", b"old")
    switch("new", "old")
    assert errands.evict(ledger().filter(name=old)) == 1
    assert errands.restore(ledger().filter(name=old)) == 1
    with storages["disk"].open(old) as opened:
        assert opened.read() == b"old"
    assert on("new") == []


def test_what_was_not_sent_goes_to_the_new_remote(switch: Switch) -> None:
    storage = switch("old")
    name = storage.save("a.txt", file())
    waiting = storage.queue
    storage = switch("new", "old")
    assert waiting.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED
    assert (on("old"), on("new")) == ([], [name])


def test_stable_url_of_a_file_at_the_previous_remote(switch: Switch, client: Any) -> None:
    old = saved(switch("old"), "old.txt", evict=True)
    storage = switch("new", "old")
    response = client.get(storage.stable_url(old, expire=60))
    assert response["Location"] == "https://old.example/old.txt"


def test_listing_and_names_of_all_remotes(switch: Switch) -> None:
    storage = switch("new", "old")
    storages["old"].save("legacy.txt", file(b"legacy"))
    saved(storage, "new.txt", evict=True)
    assert storage.listdir("")[1] == ["legacy.txt", "new.txt"]
    assert storage.exists("legacy.txt")
    assert storage.size("legacy.txt") == 6
    assert read(storage, "legacy.txt") == b"legacy"
    assert not storage.exists("other.txt")


def test_without_previous_the_error_names_it(switch: Switch) -> None:
    old = saved(switch("old"), "old.txt", evict=True)
    storage = switch("new")
    with pytest.raises(RemoteChanged, match="'previous'"):
        storage.open(old)


def test_status_is_content_with_a_previous_remote(switch: Switch) -> None:
    saved(switch("old"), "old.txt", evict=True)
    switch("new", "old")
    call_command("queued_storage", "status", check=True)


def test_verify_compares_with_the_previous_remote(switch: Switch) -> None:
    old = saved(switch("old"), "old.txt", b"old", evict=True)
    switch("new", "old")
    call_command("queued_storage", "verify", content=True)
    with open(storages["old"].path(old), "wb") as opened:
        opened.write(b"bad")
    with pytest.raises(CommandError, match="1 copy differs"):
        call_command("queued_storage", "verify", content=True)


@pytest.mark.parametrize("previous", ["old", {"old"}, 5])
def test_previous_must_be_a_list(previous: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="previous must be a list"):
        Sides.from_options({"local": "disk", "remote": "far", "previous": previous}, "Storage")


def test_previous_needs_an_alias() -> None:
    storage = make(remote="far", previous=["staticfiles"], alias=None)
    with pytest.raises(ImproperlyConfigured, match="'alias'"):
        storage.alias  # noqa: B018


def test_remote_is_not_its_own_previous_one(switch: Switch) -> None:
    storage = switch("new", "new")
    with pytest.raises(ImproperlyConfigured, match="remote and previous point to the same"):
        storage.require_two_places()
