"""Processes of two versions that share a ledger, as in a rolling upgrade."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import default_storage, storages
from django.core.management import CommandError, call_command
from django.db import DatabaseError, models, transaction
from django.test import Client

from queued_storage import health
from queued_storage.admin.overview import OTHER, overview
from queued_storage.exceptions import TransferError
from queued_storage.ledger import measures, schema
from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.models import QueuedFile
from queued_storage.operations import status
from queued_storage.queues.base import run_all
from queued_storage.testing import drain
from queued_storage.transfers import work
from queued_storage.transfers.executor import Executor
from tests.admin.pages import LIST, staff
from tests.support.command import run
from tests.support.rows import snapshot
from tests.support.scripted import LONG_AGO, file, make, on_disk, read, row
from tests.support.stepping import EICAR
from tests.support.versions import (
    ROOT,
    UNKNOWN_STATES,
    UPGRADED,
    VERSIONS,
    checkout,
    newer_table,
    no_table,
    older_table,
)
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


def in_state(storage: Any, state: str, name: str = "a.txt", **columns: Any) -> QueuedFile:
    """Save a file, and let a newer version give it a state of its own."""
    storage.save(name, file())
    ledger().filter(name=name).update(state=state, **{"due_at": LONG_AGO} | columns)
    return row(storage, name)


# Unknown states


@pytest.fixture(params=UNKNOWN_STATES)
def state(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def claims(storage: Any, pk: int) -> list[Any]:
    return [
        ledger().claim(pk),
        *ledger().claim_due(10, [storage.alias]),
        *ledger().claim_all([pk]),
        ledger().claim_settled(pk),
        work.run(pk),
        *drain(storage).values(),
    ]


def test_no_worker_claims_an_unknown_state(state: str) -> None:
    storage = make()
    found = in_state(storage, state)
    before = snapshot()
    assert not any(claims(storage, found.pk))
    assert snapshot() == before
    assert on_disk("far") == []


def test_known_files_behind_unknown_ones_are_claimed() -> None:
    storage = make()
    for number in range(5):
        in_state(storage, "checking", f"{number}.txt")
    storage.save("known.txt", file())
    assert [found.name for found in ledger().claim_due(1, [storage.alias])] == ["known.txt"]


def test_threads_leave_an_unknown_state_alone(caplog: pytest.LogCaptureFixture) -> None:
    storage = make()
    found = in_state(storage, "checking")
    before = snapshot()
    threads = Executor(2, 0.05, lambda: [storage.alias])
    threads.start()
    threads.notify([found.pk])
    storage.save("known.txt", file())
    until(lambda: on_disk("far") == ["known.txt"])
    assert threads.stop(30)
    assert snapshot()[0] == before[0]
    assert [record for record in caplog.records if "a.txt" in record.getMessage()] == []


def test_a_worker_until_empty_ends_despite_unknown_states() -> None:
    in_state(make(), "checking")
    assert "Stopped." in run("worker", "--until-empty", "--poll", "0.05")


VERBS = [
    ["retry", "--all"],
    ["cancel", "--all"],
    ["evict", "--all"],
    ["restore", "--all"],
    ["verify"],
    ["reconcile", "--repair", "missing-remote"],
    ["sweep"],
    ["prune", "--all", "--yes"],
    ["status"],
    ["status", "--json"],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_verbs_leave_an_unknown_state_alone(verb: list[str], state: str) -> None:
    storage = make()
    in_state(storage, state)
    before = snapshot()
    run(*verb, *(["--storage", storage.alias] if verb[0] in ("retry", "cancel") else []))
    assert snapshot() == before


def test_a_lost_host_leaves_an_unknown_state_alone(settings: Any) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LOCAL_PER_HOST": True}
    found = in_state(make(), "checking", host="gone")
    before = snapshot()
    ledger().give_up("gone")
    assert snapshot() == before
    assert ledger().filter(pk=found.pk).with_local_copy_on("gone").count() == 0


@pytest.mark.parametrize("due_at", [None, LONG_AGO, "later"])
def test_released_row_keeps_its_due_time(due_at: Any) -> None:
    storage = make()
    storage.save("a.txt", file())
    claimed = ledger().claim(row(storage, "a.txt").pk)
    assert claimed
    due_at = seconds_from_now(1000) if due_at == "later" else due_at
    ledger().filter(pk=claimed.pk).update(state="checking", due_at=due_at)
    before = row(storage, "a.txt").due_at
    assert ledger().release_claim(claimed) == 1
    after = row(storage, "a.txt")
    assert (after.state, after.due_at, after.lease_token) == ("checking", before, "")


def test_an_unknown_state_ends_a_running_transfer() -> None:
    storage = make()
    storage.save("a.txt", file())
    pk = row(storage, "a.txt").pk

    def reject(name: str) -> None:
        ledger().filter(pk=pk).update(state="approved", due_at=LONG_AGO)

    storage.remote.before["_save"] = reject
    assert drain(storage) == {}
    found = row(storage, "a.txt")
    assert (found.state, found.due_at, found.transferred_at) == ("approved", LONG_AGO, None)


READS: dict[str, Callable[[Any], Any]] = {
    "open": lambda storage: read(storage, "a.txt"),
    "size": lambda storage: storage.size("a.txt"),
    "exists": lambda storage: storage.exists("a.txt"),
    "using_remote": lambda storage: storage.using_remote("a.txt"),
    "url": lambda storage: storage.url("a.txt"),
    "urls": lambda storage: storage.urls(["a.txt"])["a.txt"],
}


@pytest.mark.parametrize("place", ["local", "remote"])
def test_reads_go_to_where_a_copy_is(place: str, state: str) -> None:
    storage = make()
    storage.save("a.txt", file())
    storage.queue.deliver()
    is_local = place == "local"
    url = storage.local.url("a.txt") if is_local else storage.remote.url("a.txt")
    storage.remote.delete("a.txt") if is_local else storage.local.delete("a.txt")
    ledger().update(state=state, is_local=is_local)
    for _again in range(2):  # nothing is cached
        answers = [ask(storage) for ask in READS.values()]
        assert answers == [b"bytes", 5, True, not is_local, url, url]
    ledger().update(state="pending", is_local=True)
    assert not storage.using_remote("a.txt")


def test_a_transfer_asked_for_names_the_state() -> None:
    storage = make()
    in_state(storage, "checking")
    before = snapshot()
    result = storage.transfer("a.txt")
    assert result.state == "checking"
    with pytest.raises(TransferError, match="state 'checking'"):
        result.get(timeout=5)
    for names in (None, ["a.txt"]):
        with pytest.raises(TransferError, match="state 'checking'"):
            storage.wait(names, timeout=5)
    with pytest.raises(CommandError, match="1 file is in a state"):
        run("flush", "--wait", "--storage", storage.alias)
    assert run("flush", "--storage", storage.alias).startswith("1 file is in a state")
    assert snapshot() == before


def test_counts_show_unknown_states() -> None:
    storage = make()
    in_state(storage, "checking")
    in_state(storage, "vetted", "b.txt", due_at=None)
    storage.save("c.txt", file())
    found = {tally.state: tally.files for tally in status.tallies()}
    assert found == {"checking": 1, "pending": 1, "vetted": 1}
    assert {each.state for each in measures.unsettled()} == set(found)
    assert "vetted" in run("status")
    troubles = [text for text in status.troubles() if "does not know" in text]
    assert len(troubles) == 2
    assert "1 file of" in troubles[0]
    assert "is in the state 'checking'" in troubles[0]
    assert overview().total.piles[OTHER].files == 2


@pytest.mark.parametrize("page", ["", "dashboard/", "?state=checking", "{pk}/change/"])
def test_pages_show_unknown_states(page: str) -> None:
    found = in_state(make(), "checking")
    client: Client = staff("view_queuedfile")
    answer = client.get(LIST + page.format(pk=found.pk))
    assert answer.status_code == 200
    expected = "other states" if page == "dashboard/" else "checking"
    assert expected in answer.content.decode()


def test_delete_and_overwrite_count_in_any_state(state: str) -> None:
    storage = make()
    in_state(storage, state)
    in_state(storage, state, "b.txt")
    storage.delete("a.txt")
    with storage.open("b.txt", "wb") as opened:
        opened.write(b"new")
    drain(storage)
    assert storage.queued_file("a.txt") is None
    assert (row(storage, "b.txt").state, read(storage, "b.txt")) == ("transferred", b"new")


# A newer table


def with_default(**options: Any) -> models.Field:
    return models.PositiveIntegerField(**{"default": 5} | options)


def test_an_older_process_works_on_a_newer_table() -> None:
    storage = make()
    storage.save("before.txt", file())
    columns = {"urgency": with_default(db_default=5), "shelf": models.TextField(null=True)}
    with newer_table(**columns):
        storage.save("after.txt", file())
        with storage.open("written.txt", "wb") as opened:
            opened.write(b"bytes")
        assert drain(storage) == {}
        assert on_disk("far") == ["after.txt", "before.txt", "written.txt"]
        storage.delete("before.txt")
        (storage.local.save("no-row.txt", file()), storage.delete("no-row.txt"))
        assert drain(storage) == {}
        assert on_disk() == on_disk("far") == ["after.txt", "written.txt"]
        out = io.StringIO()
        call_command("queued_storage", "status", stdout=out)
        assert "transferred" in out.getvalue()


def write(storage: Any) -> None:
    with storage.open("new.txt", "wb") as opened:
        opened.write(b"bytes")


SAVES: dict[str, Callable[[Any], Any]] = {
    "save": lambda storage: storage.save("new.txt", file()),
    "write": write,
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_row_without_a_required_value_fails_cleanly(save: Callable[[Any], Any]) -> None:
    storage = make()
    storage.save("before.txt", file())
    with newer_table(urgency=with_default()):
        with pytest.raises(DatabaseError, match="urgency"):
            save(storage)
        assert on_disk() == ["before.txt"]
        assert [found.name for found in ledger().all()] == ["before.txt"]
        assert drain(storage) == {}
    assert on_disk("far") == ["before.txt"]


# New code before its migrations

OLDER = {
    "column": (lambda: older_table("content_type"), "'content_type'"),
    "table": (no_table, "'queued_storage_queuedfile'"),
}


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next missing column be logged, even if another test has logged it."""
    monkeypatch.setattr(schema, "_reported", ("", 0.0))


older = pytest.mark.parametrize(("older", "missing"), OLDER.values(), ids=OLDER)


@older
def test_the_health_check_names_migrate(older: Any, missing: str, caplog: Any) -> None:
    limits = [{}, {"max_failed": 0}]
    with older():
        for limit in limits:
            found = health.check(health.Limits(**limit))
            assert found.problems == (health.OUTDATED,)
            assert not found.is_reachable
    assert all(health.check(health.Limits(**limit)).is_well for limit in limits)
    assert missing in caplog.text
    assert "Run 'manage.py migrate'." in caplog.text


@older
@pytest.mark.parametrize("verb", [["status"], ["status", "--check"], ["worker", "--until-empty"]])
def test_the_command_names_migrate(older: Any, missing: str, verb: list[str]) -> None:
    with older(), pytest.raises(CommandError, match=f"{missing}.* Run 'manage.py mig") as caught:
        run(*verb)
    assert caught.value.returncode == 1


@pytest.mark.usefixtures("unreported")
@older
def test_threads_wait_quietly_for_migrate(older: Any, missing: str, caplog: Any) -> None:
    storage = make()
    storage.save("a.txt", file())
    searches = count()
    searched: list[int] = []

    def aliases() -> list[str]:
        searched.append(next(searches))
        return [storage.alias]

    threads = Executor(1, 0.05, aliases)
    try:
        with older():
            threads.start()
            threads.notify([1, 2, 3])
            until(lambda: len(searched) > 3)
            assert [record.exc_info for record in caplog.records] == [None], caplog.text
            assert "Run 'manage.py migrate'." in caplog.text
        until(lambda: on_disk("far") == ["a.txt"])
    finally:
        assert threads.stop(60)


@pytest.mark.usefixtures("unreported")
@older
def test_messages_are_quiet_before_migrate(older: Any, missing: str, caplog: Any) -> None:
    storage = make()
    for name in ("a.txt", "b.txt"):
        storage.save(name, file())
    pks = [found.pk for found in ledger().all()]
    with older():
        assert list(run_all(pks)) == pks
        assert [record.exc_info for record in caplog.records] == [None], caplog.text
    assert run_all(pks) == {}
    assert on_disk("far") == ["a.txt", "b.txt"]


def test_a_long_wait_is_logged_again(caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "REPEAT_AFTER", 0)
    with no_table():
        for _time in range(2):
            with pytest.raises(DatabaseError) as caught:
                ledger().count()
            assert schema.is_explained(caught.value)
    assert len(caplog.records) == 2
    assert not schema.is_explained(caught.value)
    assert not schema.is_explained(ValueError())


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
@older
def test_a_save_before_migrate_fails_cleanly(older: Any, missing: str, save: Any) -> None:
    storage = make()
    with older():
        for scope in (nullcontext, transaction.atomic):
            with pytest.raises(DatabaseError, match=missing.strip("'")), scope():
                save(storage)
            assert on_disk() == []
    assert not ledger().exists()
    assert save(storage) in ("new.txt", None)
    assert drain(storage) == {}
    assert on_disk("far") == ["new.txt"]


# Processes of an older version, on one database with this one

START = """
import django, os
django.setup()
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage, storages
from queued_storage.ledger.database import ledger
"""
SAVE = "for name in {names!r}: default_storage.save(name, ContentFile(b'bytes'))"
CLAIM = "assert ledger().claim(ledger().get(name={name!r}).pk); os._exit(0)"
DELETE = "default_storage.delete({name!r})"


class OlderVersion:
    """Starts processes of an older version."""

    def __init__(self, environment: dict[str, str], spawn: Any, log: Path) -> None:
        self._options: dict[str, Any] = {"env": environment, "stderr": subprocess.STDOUT}
        self._spawn = spawn
        self._log = log

    def start(self, *arguments: str) -> Any:
        with self._log.open("a") as log:
            return self._spawn([sys.executable, *arguments], stdout=log, **self._options)

    def run(self, script: str) -> None:
        self._require(self.start("-c", START + script))

    def work(self) -> None:
        self._require(self.start("-m", "django", "queued_storage", "worker", "--until-empty"))

    def serve(self) -> Any:
        return self.start("-m", "django", "queued_storage", "worker", "--poll", "0.05")

    def stop(self, worker: Any) -> None:
        worker.send_signal(signal.SIGTERM)
        self._require(worker)

    def _require(self, process: Any) -> None:
        assert process.wait(60) == 0, self._log.read_text()
        assert "Traceback" not in self._log.read_text()


@pytest.fixture(params=UPGRADED)
def version(
    request: pytest.FixtureRequest, child_environment: Any, spawn: Any, tmp_path: Path
) -> Iterator[OlderVersion]:
    """Processes of the version whose last migration this is, and a database with that migration."""
    source = checkout(VERSIONS[request.param], tmp_path)
    if source is None:
        pytest.skip("the history of the repository is not there")
    call_command("migrate", "queued_storage", request.param, verbosity=0)
    environment = child_environment | {"PYTHONPATH": f"{source}{os.pathsep}{ROOT}"}
    older_version = OlderVersion(environment, spawn, tmp_path / "log")
    older_version.run(f"import queued_storage as q; assert q.__file__.startswith({str(source)!r})")
    yield older_version
    call_command("migrate", "queued_storage", verbosity=0)


def migrate() -> None:
    call_command("migrate", "queued_storage", verbosity=0)


def take_over() -> None:
    ledger().exclude(lease_token="").update(due_at=LONG_AGO)


def test_files_in_flight_survive_an_upgrade(version: OlderVersion) -> None:
    version.run(SAVE.format(names=["a.txt", "b.txt"]))
    version.run(CLAIM.format(name="b.txt"))
    worker = version.serve()
    until(lambda: on_disk("far") == ["a.txt"])
    migrate()
    default_storage.save("c.txt", file())
    version.run(SAVE.format(names=["d.txt"]))
    until(lambda: on_disk("far") == ["a.txt", "c.txt", "d.txt"])
    version.stop(worker)
    take_over()
    assert drain(default_storage) == {}
    assert on_disk("far") == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert set(ledger().values_list("state", flat=True)) == {"transferred"}


def test_both_versions_finish_what_the_other_began(version: OlderVersion) -> None:
    migrate()
    default_storage.save("new.txt", file())
    assert ledger().claim(row(default_storage, "new.txt").pk)
    version.run(SAVE.format(names=["old.txt"]))
    version.run(CLAIM.format(name="old.txt"))
    take_over()
    ledger().filter(name="old.txt").update(due_at=None)
    version.work()
    assert on_disk("far") == ["new.txt"]
    ledger().filter(name="old.txt").update(due_at=LONG_AGO)
    assert drain(default_storage) == {}
    assert on_disk("far") == ["new.txt", "old.txt"]
    version.run(DELETE.format(name="new.txt"))
    assert drain(default_storage) == {}
    default_storage.delete("old.txt")
    version.work()
    assert on_disk() == on_disk("far") == []
    assert not ledger().exists()


def test_new_code_before_its_migrations(version: OlderVersion, caplog: Any) -> None:
    is_incomplete = bool(schema.problem())  # a migration may add no more than an index
    assert health.check().is_well != is_incomplete
    try:
        default_storage.save("a.txt", file())
    except DatabaseError:
        assert on_disk() == []
    threads = Executor(1, 0.05, lambda: ["default"])
    threads.start()
    try:
        version.run(SAVE.format(names=["b.txt"]))
        migrate()
        until(lambda: "b.txt" in on_disk("far"))
    finally:
        assert threads.stop(60)
    assert [record for record in caplog.records if record.exc_info] == []
    assert health.check().is_well
    assert on_disk() == on_disk("far")


READ = """
for name in {names!r}:
    for read in (default_storage.open, default_storage.path):
        try:
            read(name)
        except (FileNotFoundError, NotImplementedError):
            continue
        raise SystemExit(f"{{name}} can be read by {{read}}")
"""


# Later versions know files whose steps have not passed
@pytest.mark.parametrize("version", ["0001_initial", "0002_job", "0007_localside"], indirect=True)
def test_older_processes_leave_unpublished_files_alone(
    version: OlderVersion, settings: Any
) -> None:
    migrate()
    default = settings.STORAGES["default"]
    options = {"steps": ["tests.support.stepping.Scanning"], "publish": "after_steps"}
    options |= default["OPTIONS"]
    settings.STORAGES = settings.STORAGES | {"default": default | {"OPTIONS": options}}
    storage: Any = storages["default"]
    storage.save("bad.txt", file(EICAR))
    assert drain(storage) == {}
    storage.save("waiting.txt", file())
    before = on_disk()
    version.work()
    version.run(READ.format(names=["bad.txt", "waiting.txt"]))
    version.run("from queued_storage.maintenance import sweep; sweep()")
    assert on_disk() == before
    assert on_disk("far") == []
    version.run(DELETE.format(name="bad.txt"))
    version.work()  # cannot delete the row, which the preparation refers to
    assert storage.queued_file("bad.txt")
    ledger().filter(state="deleting").update(due_at=LONG_AGO)
    assert drain(storage) == {}
    assert storage.queued_file("bad.txt") is None
    assert on_disk() == on_disk("far") == ["waiting.txt"]
