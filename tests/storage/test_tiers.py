"""A queued storage that is the remote of another one."""

import asyncio
import json
import re
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django import Settings

from queued_storage.exceptions import TransferError, TransferTimeout
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import tiers
from tests.support.command import run
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


# What operators see


def lines_of(text: str, alias: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith((f"{alias} ", "   "))]


def test_status_says_what_has_not_reached_the_last_place(outer: Any) -> None:
    for number in range(3):
        outer.save(f"{number}.txt", file())
    archive: Any = storages["archive"]
    through = f"by mid to .*{re.escape(archive.location)}"

    def shown() -> str:
        [found] = [line for line in run("status").splitlines() if re.search(through, line)]
        return found.partition(": ")[2]

    assert shown() == "0 files are not there yet"
    deliver("default")
    assert shown() == "3 files are not there yet"
    ledger().filter(alias="mid", name="0.txt").update(state=State.FAILED, due_at=None)
    ledger().filter(alias="mid", name="1.txt").update(state=State.HELD, due_at=None)
    assert shown() == "1 file is not there yet, 1 held, 1 failed"
    [chain] = json.loads(run("status", "--json"))["tiers"]
    assert chain.pop("place").endswith(archive.location)
    assert chain == {
        "alias": "default",
        "through": ["mid"],
        "pending": 1,
        "held": 1,
        "failed": 1,
    }
    deliver("mid")
    assert shown() == "0 files are not there yet, 1 held, 1 failed"


def test_remotes_show_the_last_place(outer: Any) -> None:
    outer.save("a.txt", file())
    deliver("default")
    archive: Any = storages["archive"]
    run("remotes", "pause", "mid")
    shown = run("remotes")
    assert re.search(
        rf"\n +handed on by 'mid' to .*{archive.location} \(paused\), 1 file is not there yet\n",
        shown,
    )
    [default] = [
        json.loads(line)
        for line in run("remotes", "--json").splitlines()
        if '"alias": "default"' in line
    ]
    assert default["tiers"]["pending"] == 1
    assert default["tiers"]["through"] == ["mid"]


def test_the_admin_shows_how_far_a_file_has_got(outer: Any, admin_client: Any) -> None:
    storages["mid"].save("a.txt", file(b"another"))
    name = outer.save("a.txt", file())
    row = outer.queued_file(name)
    page = reverse("admin:queued_storage_queuedfile_change", args=[row.pk])
    assert "<td>mid</td>" not in admin_client.get(page).content.decode()
    deliver("default")
    inner: Any = storages["mid"]
    there = inner.queued_file(outer.queued_file(name).remote_name)
    link = reverse("admin:queued_storage_queuedfile_change", args=[there.pk])
    shown = admin_client.get(page).content.decode()
    assert f'<a href="{link}">pending</a>' in shown
    assert storages["archive"].location in shown  # type: ignore[attr-defined]
    ledger().filter(pk=there.pk).update(state=State.FAILED, last_error="It is full.")
    shown = admin_client.get(page).content.decode()
    assert f'<a href="{link}">failed</a>' in shown
    assert "It is full." in shown
    listed = admin_client.get(reverse("admin:queued_storage_queuedfile_changelist"))
    text = re.sub(r"<[^>]+>|\s+", " ", listed.content.decode())
    assert re.search("transferred +→ mid +failed", text)


def test_a_file_that_the_next_tier_does_not_know(outer: Any, admin_client: Any) -> None:
    name = outer.save("a.txt", file())
    deliver("default")
    ledger().filter(alias="mid").delete()
    page = reverse("admin:queued_storage_queuedfile_change", args=[outer.queued_file(name).pk])
    assert "<td>unknown</td>" in admin_client.get(page).content.decode()


def test_an_outage_behind_the_next_tier_delays_no_transfer(outer: Any) -> None:
    storages["archive"].refuses = True  # type: ignore[attr-defined]
    name = outer.save("a.txt", file())
    deliver("default")
    assert outer.queued_file(name).state == State.TRANSFERRED
    assert storages["archive"].calls.total() == 0  # type: ignore[attr-defined]


def test_an_object_of_an_interrupted_upload_is_found_again(outer: Any) -> None:
    name = outer.save("a.txt", file())
    storages["mid"].save(name, file())
    outer_row = ledger().filter(alias="default")
    outer_row.update(unconfirmed=f"5 {outer.queued_file(name).checksum} token")
    deliver("default")
    assert outer.queued_file(name).remote_name == name
    assert ledger().filter(alias="mid").count() == 1


def test_three_tiers(settings: Settings, outer: Any) -> None:
    settings.STORAGES = settings.STORAGES | {
        "mid": queued("near", "last"),
        "last": queued("farther", "archive"),
        "farther": scripted("far/farther"),
    }
    name = storages["default"].save("a.txt", file())

    def states() -> list[tuple[str, str | None]]:
        row = ledger().get(alias="default", name=name)
        ways = tiers.ways([row]).get(row.pk, [])
        return [(tier.storage.alias, tier.row and tier.row.state) for tier in ways]

    assert states() == []
    deliver("default")
    assert states() == [("mid", State.PENDING)]
    deliver("mid")
    assert states() == [("mid", State.TRANSFERRED), ("last", State.PENDING)]
    assert "by mid, last to" in run("status")
    deliver("last")
    assert states() == [("mid", State.TRANSFERRED), ("last", State.TRANSFERRED)]


def test_without_tiers_nothing_is_asked(settings: Settings) -> None:
    storage: Any = storages["default"]
    name = storage.save("a.txt", file())
    deliver("default")
    row = storage.queued_file(name)
    with CaptureQueriesContext(connection) as queries:
        assert tiers.ways([row]) == {}
        assert [each for each in tiers.chains() if each.alias == "default"] == []
    assert len(queries) == 0
