import json
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError
from pytest_django import Settings

from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.uploaders import Uploader
from tests.support.command import run, save
from tests.support.outages import ERROR, close, registered

pytestmark = pytest.mark.django_db(transaction=True)

DEFAULT = '"alias": "default"'
CLOSED = [RemoteState.AWAY, RemoteState.REFUSED]


def error_of(*arguments: str) -> tuple[str, int]:
    with pytest.raises(CommandError) as caught:
        run("remotes", *arguments)
    return str(caught.value), caught.value.returncode


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let each probe succeed."""
    monkeypatch.setattr(Uploader, "write_probe", lambda uploader: None)


# The list


def listed() -> list[str]:
    """The lines about "default". Other tests may have created storages, which are open."""
    lines = run("remotes").splitlines()
    return [line for line in lines if line.startswith(("default ", " "))]


def test_list_of_a_remote_that_is_open(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    [line] = listed()
    assert line.split()[:2] == ["default", "open"]
    assert line.endswith(f"{storage.remote_place.description}, not used yet, 2 files wait")


@pytest.mark.parametrize("state", CLOSED)
def test_list_of_a_remote_that_is_closed(storage: Any, state: str) -> None:
    save(storage, "a.txt")
    remote = close(storage, state)
    registered(storage).postpone_probe(state, ERROR, 610)
    first, second = listed()
    assert first.split()[:2] == ["default", state]
    assert f"since {remote.since:%Y-%m-%d %H:%M:%S}" in first
    assert first.endswith("1 probe failed, next probe in 10 minutes, 1 file waits")
    assert second.strip() == ERROR


def test_list_as_json(storage: Any) -> None:
    save(storage, "a.txt")
    close(storage, ago=60)
    [shown] = [
        json.loads(line) for line in run("remotes", "--json").splitlines() if DEFAULT in line
    ]
    assert shown.pop("since")
    assert shown.pop("age") == pytest.approx(60, abs=10)
    assert shown.pop("next_probe_in") == pytest.approx(20, abs=10)
    assert shown == {
        "alias": "default",
        "place": storage.remote_place.description,
        "state": "away",
        "probes": 0,
        "last_error": ERROR,
        "is_configured": True,
        "is_mirror": False,
        "is_previous": False,
        "name": "far",
        "waiting": 1,
    }


def test_list_has_places_of_earlier_days(storage: Any) -> None:
    save(storage, "a.txt")
    close(storage)
    remotes().update(digest=5, place="s3://old/place")
    now, before, error = listed()
    assert now.endswith("1 file waits")
    assert "the storage uploads to another place now" in before
    assert error.strip() == ERROR


# Pausing and resuming


def test_pause_and_resume(storage: Any) -> None:
    save(storage, "a.txt")
    assert "is paused. Files can be saved" in run("remotes", "pause", "default")
    assert run("remotes", "pause", "default") == "The remote of 'default' is paused already.\n"
    assert registered(storage).get().state == RemoteState.PAUSED
    storage.queue.messages.clear()
    assert run("remotes", "resume", "default") == (
        "The remote of 'default' is open. 1 file waits for it.\n"
    )
    assert storage.queue.messages
    assert run("remotes", "resume", "default") == "The remote of 'default' is not paused.\n"


@pytest.mark.parametrize("state", CLOSED)
def test_resume_of_what_is_not_paused(storage: Any, state: str) -> None:
    close(storage, state)
    text, code = error_of("resume", "default")
    assert code == 1
    assert f"is not paused, but {state}" in text
    assert "remotes probe default" in text


# Probing


def test_probe_that_opens(storage: Any, probes: Any) -> None:
    save(storage, "a.txt")
    close(storage)
    assert run("remotes", "probe", "default") == (
        "The remote of 'default' works again. 1 file waits for it.\n"
    )


def test_probe_that_fails(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    close(storage, ago=12 * 60)

    def fail(uploader: Uploader) -> None:
        raise ConnectionRefusedError("The remote is down.")

    monkeypatch.setattr(Uploader, "write_probe", fail)
    text, code = error_of("probe", "default")
    assert code == 1
    assert "has been away for 12 minutes: ConnectionRefusedError: The remote is down; 0 " in text


def test_probe_of_a_paused_remote(storage: Any) -> None:
    close(storage, RemoteState.PAUSED)
    text, code = error_of("probe", "default")
    assert code == 1
    assert "remotes resume default" in text


def test_probe_of_an_open_remote(storage: Any) -> None:
    assert "check-remote default" in run("remotes", "probe", "default")


def test_probe_of_an_open_mirror_without_a_name(settings: Settings) -> None:
    mirror = {"BACKEND": "tests.support.scripted.ScriptedStorage", "OPTIONS": {"place": "second"}}
    options = {**settings.STORAGES["default"]["OPTIONS"], "mirrors": [mirror]}
    settings.STORAGES = settings.STORAGES | {
        "default": settings.STORAGES["default"] | {"OPTIONS": options}
    }
    storage: Any = storages["default"]
    save(storage, "a.txt")
    assert storage.queue.deliver() == {}
    place = storage.with_each_mirror[0].remote_place.description
    out = run("remotes", "probe", "default", place)
    assert out.endswith("is open, so there is nothing to find out.\n")


# Arguments


@pytest.mark.parametrize("action", ["pause", "resume", "probe"])
def test_alias_that_does_not_exist(storage: Any, action: str) -> None:
    text, code = error_of(action, "defualt")
    assert code == 2
    assert "'defualt'" in text
    assert "'default'" in text
    assert not remotes().exists()


@pytest.mark.parametrize("action", ["pause", "resume", "probe"])
def test_alias_that_is_missing(storage: Any, action: str) -> None:
    text, code = error_of(action)
    assert code == 2
    assert "'default'" in text


def test_action_that_does_not_exist() -> None:
    with pytest.raises(CommandError, match=r"'pasue'.*pause"):
        run("remotes", "pasue", "default")
