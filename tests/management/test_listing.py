"""``list`` and ``show``."""

import io
import json
import shlex
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.management import CommandError
from django.core.management.base import OutputWrapper
from django.core.management.color import color_style
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.preparations import Preparation, PreparationState
from queued_storage.ledger.remotes import RemoteState
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.ledger.states import State
from queued_storage.management.terminal import Terminal
from queued_storage.management.verbs.listing import List
from queued_storage.operations import remotes as steering
from tests.support.command import run, save, transferred
from tests.support.outages import close
from tests.support.scripted import file, make

pytestmark = pytest.mark.django_db(transaction=True)

ROW_KEYS = {
    *("alias", "name", "state", "bytes", "is_local", "host", "attempts", "error", "due_at"),
    *("is_claimed", "priority", "saved_at", "transferred_at", "evicted_at"),
}
DETAIL_KEYS = ROW_KEYS | {
    *("remote_name", "place", "remote_state", "local_path", "checksum", "content_type"),
    *("verified", "generation", "failures", "copies", "steps", "tiers", "command"),
}


def names(*arguments: str) -> list[str]:
    lines = run("list", *arguments, "--json").splitlines()
    return [json.loads(line)["name"] for line in lines]


def test_the_newest_files_are_listed_first(storage: Any) -> None:
    save(storage, "a.txt", "b.txt", "c.txt")
    assert names() == ["c.txt", "b.txt", "a.txt"]
    assert names("--limit", "2") == ["c.txt", "b.txt"]
    out = run("list", "--limit", "2")
    assert "The newest 2 files are shown; there are more." in out
    assert "there are more" not in run("list", "--limit", "3")
    assert run("list", "--limit", "0").endswith("3 files.\n")


def test_filters(storage: Any) -> None:
    transferred(storage, "done.txt")
    save(storage, "Photos/cat.jpg", "b.txt")
    ledger().filter(name="b.txt").update(state=State.FAILED, last_error="OSError: 100% Full")
    assert names("--state", "failed") == ["b.txt"]
    assert names("--state", "transferred") == ["done.txt"]
    assert names("--error", "100% full") == ["b.txt"]
    assert names("--error", "100_") == []
    assert names("photos/CAT") == ["Photos/cat.jpg"]
    ledger().filter(name="b.txt").update(name="Größe.txt")
    assert names("Größe") == names("größe") == ["Größe.txt"]
    assert names("--storage", "default", "--state", "pending") == ["Photos/cat.jpg"]
    assert run("list", "nothing") == (
        "No index serves the search for a part of a name, so this reads all files. "
        "'show NAME' finds a whole name at once.\n0 files.\n"
    )


def test_a_line_has_the_error_and_the_next_attempt(storage: Any) -> None:
    save(storage, "a.txt")
    assert "An attempt is due." in run("list")
    ledger().update(last_error="OSError: It broke.", due_at=seconds_from_now(600))
    out = run("list")
    assert "OSError: It broke." in out
    assert "Next attempt in 9 minutes." in out
    assert ledger().filter(pk=ledger().get().pk).make_due()
    assert ledger().claim(ledger().get().pk)
    assert "In progress." in run("list")
    ledger().update(due_at=seconds_from_now(-1))
    assert "In progress under an expired lease" in run("list")
    ledger().update(lease_token="", state=State.PENDING)
    close(storage)
    assert "It waits for the remote, which is closed." in run("list")


def test_keys_of_the_json(storage: Any) -> None:
    save(storage, "a.txt")
    [line] = run("list", "--json").splitlines()
    found = json.loads(line)
    assert set(found) == ROW_KEYS
    assert (found["alias"], found["state"], found["bytes"]) == ("default", "pending", 1000)
    shown = json.loads(run("show", "a.txt", "--json"))
    assert set(shown) == DETAIL_KEYS
    assert {key: shown[key] for key in ROW_KEYS} == found


def test_the_advice_is_not_printed_as_an_error() -> None:
    errors = OutputWrapper(io.StringIO())
    style = color_style(force_color=True)
    errors.isatty = lambda: True  # type: ignore[method-assign]
    errors.style_func = style.ERROR
    verb = List(Terminal(OutputWrapper(io.StringIO())), Terminal(errors), style)
    options = dict.fromkeys(("storage", "state", "error", "json")) | {"limit": 1, "text": "a"}
    verb.execute(options)
    assert errors.getvalue().startswith(style.WARNING("No index").partition("No")[0])


# One file


def test_show_a_file_that_failed(storage: Any) -> None:
    save(storage, "it's a.txt")
    storage.local.delete("it's a.txt")
    [error] = storage.queue.deliver().values()
    ledger().update(state=State.FAILED, due_at=None)
    out = run("show", "./it's a.txt")
    assert "state         failed, 1 attempt" in out
    assert "Failed attempts" in out
    assert f"attempt 1 on {ledger().get().failures[0]['host']}" in out
    assert type(error).__name__ in out
    assert "manage.py queued_storage retry 'it'\"'\"'s a.txt' --storage default'" in out
    shown = json.loads(run("show", "it's a.txt", "--json"))
    assert [failure["attempt"] for failure in shown["failures"]] == [1]
    assert shown["command"].startswith("To retry it now")


def test_the_command_for_a_name_like_an_option(storage: Any) -> None:
    save(storage, "-rf.txt")
    ledger().update(state=State.FAILED, due_at=None)
    command = json.loads(run("show", "--json", "--", "-rf.txt"))["command"]
    _before, found, rest = command.partition("run 'manage.py queued_storage ")
    assert found
    words = shlex.split(rest.removesuffix("'."))
    assert run(*words) == "1 file will be retried.\n"
    assert ledger().get().state == State.PENDING


def test_show_a_transferred_file(storage: Any) -> None:
    transferred(storage, "a.txt")
    out = run("show", "a.txt")
    assert f"local         {storage.local.path('a.txt')}" in out
    assert f"remote        verified by {ledger().get().verified}, " in out
    assert storage.remote_place.description in out
    assert "What is next" not in out
    ledger().update(is_local=False, remote_name="other.txt")
    out = run("show", "a.txt")
    assert "local         no copy" in out
    assert "named 'other.txt' there" in out


def test_show_a_file_of_a_closed_remote(storage: Any) -> None:
    save(storage, "a.txt")
    close(storage, RemoteState.REFUSED)
    assert "remotes probe default" in run("show", "a.txt")
    assert json.loads(run("show", "a.txt", "--json"))["remote_state"] == "refused"


@pytest.mark.one_database
def test_show_the_steps(storage: Any) -> None:
    save(storage, "a.txt")
    row = ledger().get()
    Preparation.objects.create(
        file=row,
        state=PreparationState.REJECTED,
        generation=row.generation,
        reason="It is a virus.",
        last_error="ClamdError: late",
        saved_at=row.saved_at,
    )
    out = run("show", "a.txt")
    assert "rejected, 0 passed, 0 attempts at the present one" in out
    assert "It is a virus." in out
    assert "manage.py queued_storage release a.txt --storage default" in out
    assert json.loads(run("show", "a.txt", "--json"))["steps"]["reason"] == "It is a virus."
    assert names("--error", "clamd") == ["a.txt"]


def test_unknown_file(storage: Any) -> None:
    save(storage, "docs/report.txt")
    with pytest.raises(CommandError, match=r"'docs/report\.txt'") as caught:
        run("show", "docs/reprot.txt")
    assert caught.value.returncode == 1
    with pytest.raises(CommandError) as caught:
        run("show", "docs/report.txt", "--storage", "defualt")
    assert caught.value.returncode == 2


def test_a_name_that_two_storages_have(storage: Any) -> None:
    other = make()
    other.save("b.txt", file())
    save(storage, "a.txt")
    ledger().filter(name="b.txt").update(name="a.txt")
    with pytest.raises(CommandError, match="--storage") as caught:
        run("show", "a.txt")
    assert caught.value.returncode == 2
    assert run("show", "a.txt", "--storage", other.alias).startswith("a.txt\n")


@pytest.mark.one_database
def test_show_a_file_of_an_unknown_storage(storage: Any) -> None:
    save(storage, "a.txt")
    ledger().update(alias="gone")
    out = run("show", "a.txt")
    assert "storage       gone" in out
    assert json.loads(run("show", "a.txt", "--json"))["local_path"] == ""


@pytest.mark.one_database
def test_show_the_host_and_a_paused_remote(storage: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LOCAL_PER_HOST": True, "HOST": "web-1"}
    storage.save("a.txt", ContentFile(b"abc"))
    steering.pause("default")
    out = run("show", "a.txt")
    assert f"local         {storage.local.path('a.txt')} on web-1" in out
    assert "remotes resume default" in out
