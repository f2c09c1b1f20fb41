from datetime import timedelta
from time import sleep
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError
from django.utils import timezone

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.management.verbs import transfers
from queued_storage.models import QueuedFile
from queued_storage.queues.base import run_all
from tests.support.command import run, save, states
from tests.support.outages import ERROR, close, registered
from tests.support.scripted import LONG_AGO

pytestmark = pytest.mark.django_db(transaction=True)


# transfer


def test_transfer_runs_in_this_process(storage: Any) -> None:
    name = storage.save("a.txt", ContentFile(b"abc"))
    assert run("transfer", name) == "a.txt (default) is transferred.\n"
    assert storages["far"].exists(name)
    assert run("transfer", name) == "a.txt (default) is transferred.\n"


@pytest.mark.parametrize("state", [State.HELD, State.FAILED])
def test_transfer_of_held_and_failed_files(storage: Any, state: State) -> None:
    name = storage.save("a.txt", ContentFile(b"abc"))
    QueuedFile.objects.update(state=state, due_at=None, attempts=9)
    run("transfer", name)
    assert storage.using_remote(name)


def test_transfer_dry_run(storage: Any) -> None:
    name = storage.save("a.txt", ContentFile(b"abc"))
    assert "(default) is pending. It would be transferred." in run("transfer", name, "--dry-run")
    assert not storages["far"].exists(name)
    assert storage.queued_file(name).attempts == 0
    run("transfer", name)
    assert "(default) is transferred. It would not be changed." in run(
        "transfer", name, "--dry-run"
    )


def test_transfer_reports_its_error(storage: Any) -> None:
    name = storage.save("a.txt", ContentFile(b"abc"))
    storages["disk"].delete(name)
    with pytest.raises(CommandError, match=r"is failed\. "):
        run("transfer", name)


def test_transfer_of_an_unknown_name() -> None:
    with pytest.raises(CommandError, match=r"no file 'nothing\.txt'"):
        run("transfer", "nothing.txt")


@pytest.mark.parametrize("name", ["caf\udce9.txt", "a\0.txt"])
def test_invalid_name_is_unknown(name: str) -> None:
    with pytest.raises(CommandError, match="no file"):
        run("transfer", name)
    with pytest.raises(CommandError, match="no file"):
        run("verify", name)


def test_transfer_requires_a_storage_for_ambiguous_names(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    other = QueuedStorage("disk", "far", alias="other")
    storages["disk"].delete("a.txt")
    assert other.save("a.txt", ContentFile(b"xyz")) == "a.txt"
    with pytest.raises(CommandError, match="--storage"):
        run("transfer", "a.txt")
    assert "(other) is transferred" in run("transfer", "a.txt", "--storage", "other")


# retry and cancel


def test_retry(storage: Any) -> None:
    save(storage, "a.txt", "b.txt", "c.txt")
    ledger().exclude(name="c.txt").update(state=State.FAILED, due_at=None)
    assert run("retry", "--all", "--dry-run") == "3 files would be retried.\n"
    assert states() == [State.FAILED, State.FAILED, State.PENDING]
    assert run("retry", "--all") == "3 files will be retried.\n"
    assert states() == [State.PENDING] * 3
    assert storage.queue.deliver() == {}
    assert run("retry", "--all") == "0 files will be retried.\n"


def test_cancel(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    assert run("cancel", "--all", "--dry-run") == "2 files would be held.\n"
    assert states() == [State.PENDING] * 2
    assert run("cancel", "b.txt").startswith("1 file is held. ")
    assert states() == [State.PENDING, State.HELD]
    assert run("cancel", "--all").startswith("1 file is held. ")
    assert run("cancel", "--all").startswith("0 files are held.")


# flush


def test_flush(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    storage.queue.messages.clear()
    later = timezone.now() + timedelta(hours=1)
    ledger().filter(name="b.txt").update(due_at=later)
    assert run("flush", "--dry-run") == "2 files would be transferred.\n"
    assert storage.queue.messages == []
    assert run("flush") == "2 files are being transferred.\n"
    assert storage.queue.deliver() == {}
    assert run("flush", "--wait") == "All files are on the remote, except for held files.\n"


def test_flush_waits(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save(storage, "a.txt", "b.txt")
    seen = []

    def transfer_one(seconds: float) -> None:
        seen.append(states())
        pk = ledger().filter(state=State.PENDING).values_list("pk", flat=True)[0]
        assert run_all([pk]) == {}

    monkeypatch.setattr(transfers, "sleep", transfer_one)
    assert run("flush", "--wait").startswith("All files")
    assert [found.count(State.PENDING) for found in seen] == [2, 1]


@pytest.mark.parametrize("timeout", ["0.1s", "0s"])
def test_flush_timeout(storage: Any, monkeypatch: pytest.MonkeyPatch, timeout: str) -> None:
    def pause(seconds: float) -> None:
        assert timeout != "0s"
        sleep(seconds)

    monkeypatch.setattr(transfers, "POLL_EVERY", 0.01)
    monkeypatch.setattr(transfers, "sleep", pause)
    save(storage, "a.txt")
    with pytest.raises(CommandError, match="1 file is not transferred"):
        run("flush", "--wait", "--timeout", timeout)


def test_flush_timeout_says_why(storage: Any) -> None:
    save(storage, "a.txt")
    close(storage)
    with pytest.raises(CommandError, match=rf"not transferred yet\. The remote .*{ERROR[:-1]}"):
        run("flush", "--wait", "--timeout", "0s")
    registered(storage).reopen()
    ledger().update(last_error="OSError: too odd")
    with pytest.raises(CommandError, match=r"yet\. The last attempt .* failed: OSError: too odd"):
        run("flush", "--wait", "--timeout", "0s")


def test_flush_reports_failed_files(storage: Any) -> None:
    save(storage, "a.txt")
    ledger().update(state=State.FAILED, due_at=None)
    with pytest.raises(CommandError, match="1 file has failed"):
        run("flush", "--wait")


# prioritize


def test_prioritize_changes_files_that_wait(storage: Any) -> None:
    for name in ("a.txt", "b.txt"):
        storage.save(name, ContentFile(b"abc"))
    assert run("prioritize", "low", "--all", "--dry-run") == (
        "2 files would get the priority 'low'.\n"
    )
    assert run("prioritize", "low", "a.txt") == "1 file has the priority 'low' now.\n"
    assert run("prioritize", "low", "--all") == "1 file has the priority 'low' now.\n"
    assert set(ledger().values_list("priority", flat=True)) == {1}
    with pytest.raises(CommandError):
        run("prioritize", "urgent", "--all")
    storage.queue.deliver()
    assert run("prioritize", "high", "--all") == "0 files have the priority 'high' now.\n"


def test_sweep_enqueues_by_priority(storage: Any) -> None:
    pks = {}
    for name, priority in (("low", 1), ("old", 1), ("normal", 0), ("high", -1)):
        pks[name] = storage.queued_file(storage.save(name, ContentFile(b"abc"))).pk
        ledger().filter(pk=pks[name]).update(priority=priority)
    ledger().filter(pk=pks["old"]).update(due_at=LONG_AGO)
    storage.queue.messages.clear()
    run("sweep")
    found = [pk for message in storage.queue.messages for pk in message]
    assert found == [pks[name] for name in ("old", "high", "normal", "low")]
