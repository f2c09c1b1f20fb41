"""A queued storage that is the remote of another one."""

import asyncio
from typing import Any

import pytest
from django.core.files.storage import storages
from pytest_django import Settings

from queued_storage.exceptions import TransferError, TransferTimeout
from tests.support.scripted import file

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]


def queued(local: str, remote: str, **options: Any) -> dict[str, Any]:
    backend = "queued_storage.backends.QueuedStorage"
    return {"BACKEND": backend, "OPTIONS": {"local": local, "remote": remote, **options}}


def scripted(place: str) -> dict[str, Any]:
    return {"BACKEND": "tests.support.scripted.ScriptedStorage", "OPTIONS": {"place": place}}


@pytest.fixture
def outer(settings: Settings, request: pytest.FixtureRequest) -> Any:
    """From the disk to "far", a queued storage, and from there to "archive"."""
    settings.STORAGES = settings.STORAGES | {
        "default": queued("disk", "mid"),
        "mid": queued("near", "archive", **getattr(request, "param", {})),
        "near": scripted("far/near"),
        "archive": scripted("far/archive"),
    }
    return storages["default"]


def deliver(alias: str) -> None:
    assert storages[alias].queue.deliver() == {}  # type: ignore[attr-defined]


def test_wait_sees_the_last_tier(outer: Any) -> None:
    name = outer.save("a.txt", file())
    with pytest.raises(TransferTimeout):
        outer.wait([name], timeout=0)
    deliver("default")
    with pytest.raises(TransferTimeout):
        outer.wait([name], timeout=0)
    with pytest.raises(TransferTimeout):
        outer.wait(timeout=0)
    outer.wait([name], timeout=0, tier="mid")
    deliver("mid")
    outer.wait([name], timeout=0)
    outer.wait(timeout=0, tier="archive")
    assert storages["archive"].exists(name)


def test_wait_asks_for_the_name_in_the_next_tier(outer: Any) -> None:
    storages["mid"].save("a.txt", file(b"another"))
    deliver("mid")
    name = outer.save("a.txt", file())
    deliver("default")
    assert outer.queued_file(name).remote_name != name
    with pytest.raises(TransferTimeout):
        outer.wait([name], timeout=0)
    deliver("mid")
    outer.wait([name], timeout=0)


def test_coroutine_sees_the_last_tier(outer: Any) -> None:
    name = outer.save("a.txt", file())
    deliver("default")

    async def wait(**options: Any) -> None:
        await outer.await_transferred([name], timeout=0, **options)

    asyncio.run(wait(tier="mid"))
    with pytest.raises(TransferTimeout):
        asyncio.run(wait())


@pytest.mark.parametrize("outer", [{"delayed": True}], indirect=True)
def test_held_files_of_the_next_tier(outer: Any) -> None:
    name = outer.save("a.txt", file())
    deliver("default")
    outer.wait(timeout=0)  # nobody asked for these
    with pytest.raises(TransferError, match="is held"):
        outer.wait([name], timeout=0)
    with pytest.raises(TransferError, match="is held"):
        outer.wait(timeout=0, tier="archive")


def test_unknown_tier(outer: Any) -> None:
    with pytest.raises(ValueError, match="but to 'mid', 'archive'"):
        outer.wait(tier="nowhere")
