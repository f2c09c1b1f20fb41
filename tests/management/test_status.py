import json
import shlex
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.management import CommandError

from queued_storage.ledger.database import ledger
from queued_storage.ledger.jobs import Action, jobs
from queued_storage.ledger.remotes import RemoteState
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from tests.support.command import run, save, states, transferred
from tests.support.outages import ERROR, close, registered
from tests.support.scripted import LONG_AGO

pytestmark = pytest.mark.django_db(transaction=True)


def test_status_of_an_empty_ledger() -> None:
    assert run("status") == "The ledger is empty.\n"


def test_status_shows_counts_sizes_and_errors(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"x" * 2048))
    name = storage.save("b.txt", ContentFile(b"b"))
    QueuedFile.objects.filter(name=name).update(state=State.FAILED, last_error="no such bucket")
    out = run("status")
    assert [line.split()[:4] for line in out.splitlines()[:3]] == [
        ["Files"],
        ["default", "failed", "1", "1"],
        ["default", "pending", "1", "2.0"],
    ]
    assert "1 file of 'default' (b.txt) failed; its retries are used up:\n    no such bucket" in out


def test_status_as_json(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    answer = json.loads(run("status", "--json"))
    assert (answer["troubles"], answer["errors"]) == ([], [])
    assert answer["files"][0]["state"] == "pending"
    assert answer["files"][0]["bytes"] == 3


def test_status_check_sets_the_exit_code(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    run("status", "--check")
    QueuedFile.objects.update(state=State.FAILED)
    with pytest.raises(CommandError, match="failed") as caught:
        run("status", "--check")
    assert caught.value.returncode == 1


def test_status_check_has_limits(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    ledger().filter(name="a.txt").update(saved_at=LONG_AGO)
    run("status", "--check")
    run("status", "--check", "--max-age", "9999w", "--max-bytes", "2000")
    with pytest.raises(CommandError, match="1 file has been pending") as caught:
        run("status", "--check", "--max-age", "2h")
    assert caught.value.returncode == 1
    with pytest.raises(CommandError, match="2,000 bytes are pending"):
        run("status", "--check", "--max-bytes", "1999")
    ledger().update(state=State.FAILED, due_at=None)
    with pytest.raises(CommandError, match="2 files"):
        run("status", "--check", "--max-failures", "1")
    run("status", "--check", "--max-failures", "2")


def test_status_shows_the_workers(storage: Any) -> None:
    transferred(storage, "done.txt")
    save(storage, "waiting.txt", "moving.txt", "silent.txt")
    for name in ("moving.txt", "silent.txt"):
        assert ledger().claim(ledger().get(name=name).pk)
    ledger().filter(name="silent.txt").update(due_at=LONG_AGO)
    out = run("status")
    assert "1 in progress, 1 with an expired lease (worker may be dead); last transfer at " in out
    workers = json.loads(run("status", "--json"))["workers"]
    assert (workers["moving"], workers["silent"]) == (1, 1)
    assert workers["last"]
    assert workers["waiting_since"]


def test_status_shows_unfinished_jobs(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    job = jobs().request(Action.EVICT, "default", "", list(range(4000)), "anna")
    jobs().request(Action.EVICT, "default", "", [1], "anna")
    jobs().exclude(pk=job.pk).cancel()
    jobs().filter(pk=job.pk).update(state="running", position=1200, succeeded=1197, failed=3)
    assert (
        f"job {job.pk}: evict files of default, running: 1,200 of 4,000 processed, 3 failed, "
        f"requested by anna\n"
    ) in run("status")
    [shown] = json.loads(run("status", "--json"))["jobs"]
    assert shown.pop("requested_at")
    assert shown == {
        "id": job.pk,
        "action": "evict",
        "alias": "default",
        "host": "",
        "state": "running",
        "requested_by": "anna",
        "files": 4000,
        "position": 1200,
        "succeeded": 1197,
        "failed": 3,
    }


# Closed remotes


def test_banner_of_a_remote_that_is_away(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    close(storage, ago=12 * 60 + 1, probe_in=610)
    lines = run("status").splitlines()
    assert lines[0] == "Closed remotes"
    assert lines[1] == (
        f"  The remote of 'default' ({storage.remote_place.description}) has been away for 12 "
        f"minutes: {ERROR[:-1]}; 2 files wait; next probe in 10 minutes. "
        "To probe it at once, run 'manage.py queued_storage remotes probe default'."
    )
    assert len([line for line in lines if "The remote" in line]) == 1


def test_banner_of_a_paused_remote(storage: Any) -> None:
    save(storage, "a.txt")
    close(storage, RemoteState.PAUSED, ago=130)
    assert (
        run("status")
        .splitlines()[1]
        .endswith(
            "has been paused for 2 minutes; 1 file waits until an operator runs 'manage.py "
            "queued_storage remotes resume default'."
        )
    )


def of_default(answer: Any) -> Any:
    """The remote of "default". Other tests may have created storages."""
    [found] = [remote for remote in answer["remotes"] if remote["alias"] == "default"]
    return found


def test_remotes_as_json(storage: Any) -> None:
    save(storage, "a.txt")
    shown = of_default(json.loads(run("status", "--json")))
    assert (shown["state"], shown["waiting"]) == ("open", 1)
    close(storage, ago=400)
    answer = json.loads(run("status", "--json"))
    shown = of_default(answer)
    assert (shown["state"], shown["last_error"], shown["waiting"]) == ("away", ERROR, 1)
    [trouble] = answer["troubles"]
    assert "has been away for 6 minutes" in trouble


@pytest.mark.parametrize("state", [RemoteState.AWAY, RemoteState.REFUSED, RemoteState.PAUSED])
def test_check_of_a_closed_remote(storage: Any, state: str) -> None:
    close(storage, state, ago=290)
    run("status", "--check")
    with pytest.raises(CommandError, match="The remote of 'default'") as caught:
        run("status", "--check", "--max-away", "4m")
    assert caught.value.returncode == 1
    close(storage, state, ago=310)
    with pytest.raises(CommandError, match="The remote of 'default'"):
        run("status", "--check")
    run("status", "--check", "--max-away", "6m")


def test_status_shows_priorities_if_there_are_several(storage: Any) -> None:
    save(storage, "a.txt", "b.txt", "c.txt")
    assert "with the priority" not in run("status")
    ledger().filter(name="b.txt").update(priority=1)
    out = run("status")
    assert "2 files are due with the priority 'normal'" in out
    assert "1 file is due with the priority 'low'" in out
    assert json.loads(run("status", "--json"))["due"] == [
        {"alias": "default", "priority": 0, "files": 2},
        {"alias": "default", "priority": 1, "files": 1},
    ]


# Errors

DENIED = "ClientError: An error occurred (AccessDenied) for '{}', id 1A2B3C4D5E6F7A8B."


def failed(names: list[str], error: str = DENIED, **columns: Any) -> None:
    for name in names:
        rows = ledger().filter(name=name)
        assert rows.update(last_error=error.format(name), attempts=2, **columns)


def test_an_error_is_shown_once(storage: Any) -> None:
    names = [f"{number}.txt" for number in range(30)]
    save(storage, *names)
    failed(names[:20], state=State.FAILED, due_at=None)
    failed(names[20:], due_at=seconds_from_now(600))
    out = run("status")
    assert out.count("AccessDenied") == 6  # two errors, each with two commands
    assert "20 files of 'default' (19.txt, for example) failed; their retries are used up:" in out
    assert "10 files of 'default' (29.txt, for example) failed; next attempt in 9 minutes:" in out
    first, second = json.loads(run("status", "--json"))["errors"]
    assert (first["files"], first["is_failed"], first["next_attempt"]) == (20, True, None)
    assert (second["files"], second["is_failed"], second["alias"]) == (10, False, "default")
    assert second["next_attempt"]
    assert first["error"] == DENIED.format("\N{HORIZONTAL ELLIPSIS}").replace(
        "1A2B3C4D5E6F7A8B", "\N{HORIZONTAL ELLIPSIS}"
    )


def test_the_commands_of_an_error_work(storage: Any) -> None:
    save(storage, "a.txt", "b.txt", "it's.txt")
    failed(["a.txt", "it's.txt"], state=State.FAILED, due_at=None)
    failed(["b.txt"], "OSError: It is 100% full_.", state=State.FAILED, due_at=None)
    commands = [
        line.split(None, 2)[2] for line in run("status").splitlines() if " --error " in line
    ]
    assert [command.split()[0] for command in commands] == ["list", "retry"] * 2
    assert "'" not in shlex.split(commands[0])[-1]
    listed = run(*shlex.split(commands[0]))
    assert "a.txt" in listed
    assert "it's.txt" in listed
    assert "b.txt" not in listed
    assert run(*shlex.split(commands[3])) == "1 file will be retried.\n"
    assert states() == [State.FAILED, State.PENDING, State.FAILED]
    assert run(*shlex.split(commands[1])) == "2 files will be retried.\n"


def test_errors_that_wait_for_a_closed_remote_are_no_others(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    failed(["a.txt"])
    assert "Errors\n" in run("status")
    close(storage)
    out = run("status")
    assert "Errors\n" not in out
    assert ERROR[:-1] in out


def test_titles(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    out = run("status")
    assert [line for line in out.splitlines() if line and line[0] != " "] == [
        *("Files", "Workers", "Nothing needs attention.")
    ]
    failed(["a.txt"], state=State.FAILED, due_at=None)
    titles = [line for line in run("status").splitlines() if line and line[0] != " "]
    assert titles == ["Files", "Workers", "Errors", "Needs attention"]


# The limits of --check without options


def test_check_of_files_that_nobody_processes(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    ledger().update(due_at=seconds_from_now(-290))
    run("status", "--check")
    ledger().update(due_at=seconds_from_now(-310))
    with pytest.raises(CommandError) as caught:
        run("status", "--check")
    assert str(caught.value) == (
        "2 files of 'default' have been due for more than 5 minutes, and no worker has processed "
        "any of the storage since. Run a worker: 'manage.py queued_storage worker'."
    )
    run("status", "--check", "--max-idle", "6m")
    assert ledger().claim(ledger().first().pk)  # a worker has one in hand
    run("status", "--check")


def test_busy_workers_are_not_idle(storage: Any) -> None:
    transferred(storage, "done.txt")
    save(storage, "a.txt")
    ledger().filter(name="a.txt").update(due_at=seconds_from_now(-3000))
    run("status", "--check")
    ledger().filter(name="done.txt").update(transferred_at=seconds_from_now(-3000))
    registered(storage).update(since=seconds_from_now(-4000))
    with pytest.raises(CommandError, match="1 file of 'default' has been due"):
        run("status", "--check")
    close(storage)
    run("status", "--check")  # it waits for the remote


def test_workers_have_time_after_an_outage(storage: Any) -> None:
    save(storage, "a.txt")
    ledger().update(due_at=seconds_from_now(-3000))
    close(storage)
    registered(storage).reopen()
    run("status", "--check")


def test_check_if_all_recent_attempts_failed(storage: Any) -> None:
    transferred(storage, "done.txt")
    save(storage, "a.txt", "b.txt", "c.txt")
    failed(["a.txt", "b.txt"], due_at=seconds_from_now(60))
    run("status", "--check")
    failed(["c.txt"], due_at=seconds_from_now(60))
    with pytest.raises(CommandError) as caught:
        run("status", "--check")
    assert str(caught.value).startswith("No attempt to transfer a file of 'default' has succeeded")
    assert "'manage.py queued_storage check-remote default'" in str(caught.value)
    run("status", "--check", "--max-failing", "3")
    transferred(storage, "new.txt")  # a later file succeeds
    run("status", "--check")


def test_failures_before_a_success_are_no_trouble(storage: Any) -> None:
    save(storage, *"abcd")
    failed(list("abcd"), due_at=seconds_from_now(60))
    with pytest.raises(CommandError, match="since the beginning"):
        run("status", "--check")
    close(storage)
    run("status", "--check")
