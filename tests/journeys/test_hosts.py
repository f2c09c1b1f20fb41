"""Hosts that share the database and the remote but have their own local disks."""

import contextlib
import io
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from django.conf import settings as django_settings
from django.core import signing
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.test import Client, override_settings
from pytest_django import Settings

from queued_storage.checks import hosts
from queued_storage.exceptions import FileElsewhere, LocalFileMissing
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.operations.status import backlogs, troubles
from queued_storage.queues.base import BaseQueue, run_all
from queued_storage.queues.dummy import DummyQueue
from queued_storage.queues.immediate import ImmediateQueue
from queued_storage.queues.threads import ThreadQueue
from queued_storage.serving import peers
from queued_storage.transfers.gates import gates
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.forks import ended, forks
from tests.support.scripted import LONG_AGO, files_in
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]


class NamedQueue(BaseQueue):
    """Keeps its name and its messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: list[list[int]] = []

    def enqueue(self, pks: list[int]) -> None:
        self.messages.append(pks)


NAMED = {"BACKEND": f"{__name__}.NamedQueue", "OPTIONS": {"name": "uploads-{host}"}}


def disk_of(host: str) -> Path:
    return Path(django_settings.DIRECTORY) / "disk" / host


def host_settings(host: str, **changes: Any) -> dict[str, Any]:
    """Return the settings of one host."""
    disk = django_settings.STORAGES["disk"]
    disk = disk | {"OPTIONS": disk["OPTIONS"] | {"location": disk_of(host)}}
    return {
        "QUEUED_STORAGE": {
            **django_settings.QUEUED_STORAGE,
            "LOCAL_PER_HOST": True,
            "HOST": host,
            **changes,
        },
        "STORAGES": django_settings.STORAGES | {"disk": disk},
    }


@contextlib.contextmanager
def on_host(host: str, **changes: Any) -> Iterator[Any]:
    """Use the settings of a host; yield its default storage."""
    with override_settings(**host_settings(host, **changes)):
        gates.forget()  # each host has a process of its own
        yield storages["default"]


def file(data: bytes = b"bytes") -> ContentFile:
    return ContentFile(data)


def read(storage: Any, name: str, mode: str = "rb") -> Any:
    with storage.open(name, mode) as opened:
        return opened.read()


def on_disk(host: str) -> list[str]:
    return files_in(disk_of(host))


def work() -> None:
    """Process every due file, as a worker on this host."""
    run_all(list(ledger().due().order_by("pk").values_list("pk", flat=True)))


@pytest.fixture
def saved() -> str:
    """Return the name of a pending file that was saved on the host "one"."""
    with on_host("one") as storage:
        return str(storage.save("a.txt", file()))


# Files are transferred by the host that has them


def test_file_is_transferred_by_its_own_host(saved: str) -> None:
    with on_host("two"):
        work()
        assert ledger().claim_due(9, ["default"]) == []
        assert ledger().get().attempts == 0
    with on_host("one") as storage:
        work()
        assert storage.using_remote(saved)


def test_any_host_transfers_files_of_shared_storage(saved: str) -> None:
    with override_settings(
        QUEUED_STORAGE={**host_settings("two")["QUEUED_STORAGE"], "LOCAL_PER_HOST": False}
    ):
        assert [row.name for row in ledger().claim_due(9, ["default"])] == [saved]


def test_queue_of_its_host_is_notified() -> None:
    with on_host("one", QUEUE=NAMED) as storage:
        storage.save("a.txt", file())
        assert storage.queue.name == "uploads-one"
        [[pk]] = storage.queue.messages
    with on_host("two", QUEUE=NAMED) as storage:
        storage.save("b.txt", file())
        ledger().update(due_at=LONG_AGO)
        assert sweep() == 2
        there = storage.queue_for("one")
        # A process that has just found the volume of a storage notifies workers once more.
        assert (there.name, there.messages[0]) == ("uploads-one", [pk])
        assert there.messages.count([pk]) == len(there.messages)
        assert len(storage.queue.messages) == 2

        there.messages.clear()
        storage.transfer("a.txt")
        assert there.messages == [[pk]]
        there.messages.clear()
        storage.delete("a.txt")
        assert there.messages == [[pk]]
        assert len(storage.queue.messages) == 2


def test_any_host_deletes_files_without_local_copy() -> None:
    with on_host("one", QUEUE=NAMED) as storage:
        name = storage.save("a.txt", file())
        work()
    ledger().update(is_local=False)
    with on_host("two", QUEUE=NAMED) as storage:
        storage.delete(name)
        assert len(storage.queue.messages) == 1
        work()
        assert not storages["far"].exists(name)
    assert not ledger().exists()


def test_hosts_with_shared_storage_use_one_queue() -> None:
    queue = {**host_settings("one", QUEUE=NAMED)["QUEUED_STORAGE"], "LOCAL_PER_HOST": False}
    with override_settings(QUEUED_STORAGE=queue):
        storage: Any = storages["default"]
        assert storage.queue_for("another") is storage.queue
        assert storage.queue.name == "uploads-one"


# Readers on another host


def test_reader_on_another_host_gets_file_elsewhere(saved: str) -> None:
    with on_host("two") as storage:
        with pytest.raises(FileElsewhere, match="on host 'one'") as caught:
            storage.open(saved)
        assert caught.value.host == "one"
        assert isinstance(caught.value, LocalFileMissing)
        assert storage.exists(saved)
        assert storage.size(saved) == 5
        assert storage.get_modified_time(saved) == ledger().get().saved_at
        with pytest.raises(NotImplementedError):
            storage.path(saved)
    with on_host("one") as storage:
        work()
    with on_host("two") as storage:
        assert read(storage, saved) == b"bytes"
        assert storage.url(saved) == f"https://far.example/{saved}"


def test_unrecorded_local_file_is_not_read(saved: str) -> None:
    with on_host("two") as storage:
        storages["disk"].save(saved, file(b"not recorded"))
        with pytest.raises(FileElsewhere):
            storage.open(saved)
        assert storage.size(saved) == 5
    with on_host("one"):
        work()
    with on_host("two") as storage:
        assert read(storage, saved) == b"bytes"
        assert storage.save(saved, file(b"more")) != saved


def test_reader_on_another_host_waits(saved: str, start: Callable[..., Any]) -> None:
    statements: list[str] = []

    def count(execute: Any, sql: str, *args: Any) -> Any:
        statements.append(sql)
        if len(statements) == 4:  # the reader is waiting
            start("one", work)
        return execute(sql, *args)

    with (
        on_host("two", OTHER_HOST="wait", OTHER_HOST_TIMEOUT=30) as storage,
        connection.execute_wrapper(count),
    ):
        assert read(storage, saved) == b"bytes"
    assert len(statements) > 4


def test_wait_for_another_host_times_out(saved: str) -> None:
    with (
        on_host("two", OTHER_HOST="wait", OTHER_HOST_TIMEOUT=0.05) as storage,
        pytest.raises(FileElsewhere, match=r"not transferred within 0\.05 seconds"),
    ):
        storage.open(saved)


def test_reader_does_not_wait_for_a_deleted_file(saved: str) -> None:
    with on_host("two", OTHER_HOST="wait", OTHER_HOST_TIMEOUT=60) as storage:
        storage.delete(saved)
        with pytest.raises(FileNotFoundError, match="deleted"):
            storage.open(saved)


@pytest.fixture
def start(child_environment: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a process on a host."""
    with contextlib.ExitStack() as stack:

        def start(host: str, function: Callable[..., object], *args: Any, **changes: Any) -> Any:
            there = SimpleNamespace(**host_settings(host, **changes))
            return stack.enter_context(forks(child_environment, there)).start(function, *args)

        yield start


def serve(port_file: Path) -> None:
    """Run a web server of the project and write its port to a file."""
    with make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet) as server:
        draft = port_file.with_suffix(".draft")
        draft.write_text(str(server.server_port))
        draft.rename(port_file)
        server.serve_forever()


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def host_one(start: Callable[..., Any], tmp_path: Path) -> Iterator[FaultProxy]:
    """A proxy to the web server of the host "one"."""
    port_file = tmp_path / "port"
    start("one", serve, port_file)
    until(port_file.exists)
    with FaultProxy(int(port_file.read_text())) as proxy:
        yield proxy


def fetching(host_one: FaultProxy, **changes: Any) -> Any:
    urls = {"one": f"{host_one.endpoint_url}/queued/"}
    return on_host("two", **{"OTHER_HOST": "fetch", "HOST_URLS": urls, **changes})


def test_reader_on_another_host_fetches_the_file(saved: str, host_one: FaultProxy) -> None:
    with fetching(host_one) as storage:
        assert read(storage, saved) == b"bytes"
        assert read(storage, saved, "r") == "bytes"
        with storage.local_path(saved) as path:
            assert Path(path).read_bytes() == b"bytes"
        with storage.open(saved, "ab") as opened:
            opened.write(b" and more")
        assert read(storage, saved) == b"bytes and more"  # the new content is stored on this host
        assert ledger().get().host == "two"
    assert len(host_one.requests) == 4
    assert on_disk("two") == [saved]


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.STATUS_500, Mode.RESET_MID_BODY, Mode.HANG])
def test_failing_host_raises_file_elsewhere(mode: Mode, saved: str, host_one: FaultProxy) -> None:
    host_one.mode = mode
    with fetching(host_one, OTHER_HOST_TIMEOUT=0.5) as storage:
        with pytest.raises(FileElsewhere, match="It could not be downloaded") as caught:
            storage.open(saved)
        assert peers.ticket_for(ledger().get())[:20] not in str(caught.value)
    assert caught.value.host == "one"


def test_fetched_content_must_match_the_ledger(saved: str, host_one: FaultProxy) -> None:
    (disk_of("one") / saved).write_bytes(b"spoil")
    with (
        fetching(host_one) as storage,
        pytest.raises(FileElsewhere, match="differs from what was saved"),
    ):
        storage.open(saved)


def test_host_without_url_raises_file_elsewhere(saved: str) -> None:
    urls = {"three": "http://three.example/"}
    with (
        on_host("two", OTHER_HOST="fetch", HOST_URLS=urls) as storage,
        pytest.raises(FileElsewhere, match="HOST_URLS has no URL of 'one'"),
    ):
        storage.open(saved)


def test_file_transferred_during_fetch_is_read_from_remote(
    saved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def transfer_first(*args: Any) -> Any:
        with on_host("one"):
            work()
        return fetch(*args)

    fetch = peers.fetch
    monkeypatch.setattr(peers, "fetch", transfer_first)
    with on_host("two", OTHER_HOST="fetch") as storage:
        assert read(storage, saved) == b"bytes"


# Stable URLs


@pytest.fixture
def stable_url_mode(settings: Settings) -> None:
    default = settings.STORAGES["default"]
    options = {**default["OPTIONS"], "url_mode": "stable"}
    settings.STORAGES = settings.STORAGES | {"default": {**default, "OPTIONS": options}}


def get(url: str) -> Any:
    response = Client().get(url)
    body = b"" if response.status_code == 302 else response.getvalue()
    return SimpleNamespace(status=response.status_code, headers=response.headers, body=body)


def test_stable_url_of_a_file_on_another_host(stable_url_mode: None) -> None:
    with on_host("one") as storage:
        name = storage.save("a.txt", file())
        url = storage.url(name)
        assert get(url).body == b"bytes"
    with on_host("two") as storage:
        assert storage.url(name) == url
        storages["disk"].save(name, file(b"not recorded"))
        answer = get(url)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    with on_host("one"):
        work()
    with on_host("two"):
        assert get(url).headers["Location"] == f"https://far.example/{name}"


def test_stable_url_serves_a_fetched_file(
    stable_url_mode: None, saved: str, host_one: FaultProxy
) -> None:
    with fetching(host_one, OTHER_HOST_TIMEOUT=30) as storage:
        answer = get(storage.url(saved))
        assert (answer.status, answer.body) == (200, b"bytes")
    with on_host("two", OTHER_HOST="fetch", HOST_URLS={"one": "http://127.0.0.1:1/"}) as storage:
        assert get(storage.url(saved)).status == 503


# URLs of local copies for other hosts


def ask(ticket: str, host: str = "one") -> Any:
    with on_host(host):
        response = Client().get(f"/queued/{peers.PATH}{ticket}")
        return SimpleNamespace(
            status_code=response.status_code, headers=response.headers, body=response.getvalue()
        )


def test_ticket_is_valid_for_one_generation(saved: str) -> None:
    ticket = peers.ticket_for(ledger().get())
    answer = ask(ticket)
    assert (answer.status_code, answer.body) == (200, b"bytes")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in answer.headers["Cache-Control"]
    assert saved not in ticket
    assert ask(ticket, host="two").status_code == 404
    ledger().update(generation=2)
    assert ask(ticket).status_code == 404


def test_forged_ticket_is_refused(saved: str) -> None:
    ticket = peers.ticket_for(ledger().get())
    assert ask("made up").status_code == 403
    assert ask(ticket[:-1] + ("a" if ticket[-1] != "a" else "b")).status_code == 403
    assert ask(signing.dumps([ledger().get().pk, 1])).status_code == 403
    with on_host("one"):
        assert Client().post(f"/queued/{peers.PATH}{ticket}").status_code == 405


def test_ticket_for_a_missing_volume_is_unavailable(saved: str) -> None:
    ticket = peers.ticket_for(ledger().get())
    place = disk_of("one")
    volume = place.rename(place.with_name("volume"))
    place.mkdir()
    answer = ask(ticket)
    place.rmdir()
    volume.rename(place)
    assert (answer.status_code, answer.body) == (503, b"")
    assert "no-store" in answer.headers["Cache-Control"]
    assert ask(ticket).status_code == 200


def test_ticket_expires(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = peers.ticket_for(ledger().get())
    monkeypatch.setattr(peers, "TICKET_AGE", -1)
    assert ask(ticket).status_code == 403


@pytest.mark.parametrize("state", [State.DELETING, State.TRANSFERRED])
def test_ticket_for_a_removed_copy_is_not_found(state: State, saved: str) -> None:
    ticket = peers.ticket_for(ledger().get())
    ledger().update(state=state, is_local=state == State.DELETING)
    assert ask(ticket).status_code == 404


def test_ticket_for_a_missing_file_is_not_found(saved: str) -> None:
    ticket = peers.ticket_for(ledger().get())
    (disk_of("one") / saved).unlink()
    assert ask(ticket).status_code == 404


# Deletes and new content


def test_delete_removes_the_copy_on_its_own_host(saved: str) -> None:
    with on_host("two") as storage:
        storages["disk"].save(saved, file(b"not recorded"))
        storage.delete(saved)
        assert not storage.exists(saved)
        work()
        assert on_disk("two") == [saved]
    assert on_disk("one") == [saved]
    with on_host("one"):
        work()
    assert on_disk("one") == []
    assert not ledger().exists()


def test_new_content_from_another_host_wins(saved: str) -> None:
    with on_host("two") as storage:
        with storage.open(saved, "wb") as opened:
            opened.write(b"newer")
        assert read(storage, saved) == b"newer"
    with on_host("one") as storage:
        with pytest.raises(FileElsewhere):
            storage.open(saved)
        work()
    with on_host("two") as storage:
        work()
        assert read(storages["far"], saved) == b"newer"
    with on_host("one") as storage:
        assert read(storage, saved) == b"newer"


# A host that is down, or lost for good


def test_status_names_the_host(saved: str) -> None:
    with on_host("two"):
        (backlog,) = backlogs()
        assert (backlog.host, backlog.files, backlog.bytes) == ("one", 1, 5)
        assert backlog.overdue == ledger().get().due_at
        assert "only on one" in command("status")
        assert troubles() == []
        ledger().update(due_at=LONG_AGO)
        (trouble,) = troubles()
        assert "1 file on the host 'one' has been due for an hour" in trouble
        assert "give-up one" in trouble
    with override_settings(
        QUEUED_STORAGE={**host_settings("two")["QUEUED_STORAGE"], "LOCAL_PER_HOST": False}
    ):
        assert backlogs() == []
        # The files of the other host are not on this one's disk.
        assert all("not mounted" in trouble for trouble in troubles())


def command(*args: str) -> str:
    out = io.StringIO()
    call_command("queued_storage", *args, stdout=out)
    return out.getvalue()


def test_give_up_marks_lost_files_as_failed(saved: str) -> None:
    with on_host("one") as storage:
        there = storage.save("there.txt", file())
        run_all([storage.queued_file(there).pk])
        deleted = storage.save("deleted.txt", file())
    with on_host("two") as storage:
        here = storage.save("here.txt", file())
        storage.delete(deleted)
        assert command("give-up", "one", "--dry-run") == "3 files would be given up.\n"
        assert storage.queued_file(saved).state == State.PENDING
        assert command("give-up", "one") == "3 files were given up.\n"
        row = storage.queued_file(saved)
        assert (row.state, row.due_at) == (State.FAILED, None)
        assert "only copy was on the host 'one'" in row.last_error
        work()
        assert storage.queued_file(deleted) is None
        assert storage.using_remote(here)
        assert read(storage, there) == b"bytes"
        row = storage.queued_file(there)
        assert (row.is_local, row.evicted_at is None) == (False, False)

    with on_host("one") as storage:  # the host is back
        assert read(storage, saved) == b"bytes"
        storage.transfer(saved)
        work()
        assert storage.using_remote(saved)


def test_running_host_is_not_given_up(saved: str) -> None:
    with on_host("one"):
        assert ledger().claim(ledger().get().pk)
        with pytest.raises(CommandError, match="is the host that runs this command"):
            command("give-up", "one")
    with on_host("two"):
        assert "a worker on the host 'one' is running" in command("give-up", "one")
        assert ledger().get().state == State.TRANSFERRING


def test_give_up_requires_local_per_host(saved: str) -> None:
    with pytest.raises(CommandError, match="LOCAL_PER_HOST"):
        command("give-up", "one")


def test_transfer_command_names_the_host(saved: str) -> None:
    with on_host("two"), pytest.raises(CommandError, match="on host 'one'"):
        command("transfer", saved)
    with on_host("one"):
        assert "transferred" in command("transfer", saved)


# Checks


@pytest.mark.parametrize(
    ("queue", "is_warned"),
    [
        (NAMED, False),
        (f"{ThreadQueue.__module__}.ThreadQueue", False),
        (f"{DummyQueue.__module__}.DummyQueue", False),
        (f"{ImmediateQueue.__module__}.ImmediateQueue", True),
        ({**NAMED, "OPTIONS": {"name": "uploads"}}, True),
        ({**NAMED, "OPTIONS": {}}, False),  # reported by E006
    ],
)
def test_w004_queue_is_not_per_host(queue: Any, is_warned: bool) -> None:
    with on_host("one", QUEUE=queue):
        # The registry may contain storages of other tests.
        found = [m.id for m in hosts.hosts_have_queues() if m.obj.alias == "default"]
    assert found == ["queued_storage.W004"] * is_warned
    with override_settings(QUEUED_STORAGE={"QUEUE": queue}):
        assert hosts.hosts_have_queues() == []


def test_e009_fetching_without_host_urls() -> None:
    with on_host("one", OTHER_HOST="fetch"):
        assert [message.id for message in hosts.hosts_have_urls()] == ["queued_storage.E009"]
    with on_host("one", OTHER_HOST="fetch", HOST_URLS={"two": "http://two.example/"}):
        assert hosts.hosts_have_urls() == []
    with on_host("one"):
        assert hosts.hosts_have_urls() == []


# Two hosts at the same time

FILES = 500 if connection.vendor == "postgresql" else 100  # for each host
HOSTS = ["one", "two"]


def content_of(name: str) -> bytes:
    return name.encode() * 1000


def save_many(host: str) -> None:
    storage: Any = storages["default"]
    for number in range(FILES):
        name = f"{host}/{number}.bin"
        assert storage.save(name, ContentFile(content_of(name))) == name


def delete_some(other: str) -> None:
    """Delete every tenth file of the other host."""
    storage: Any = storages["default"]
    for number in range(0, FILES, 10):
        storage.delete(f"{other}/{number}.bin")


def run_worker() -> None:
    with open(os.devnull, "w") as devnull:
        call_command("queued_storage", "worker", "--threads", "2", "--poll", "0.05", stdout=devnull)


class Host:
    """Kills and restarts its worker each time after a random number of transfers."""

    def __init__(self, name: str, start: Callable[..., Any]) -> None:
        self.name = name
        self.kills = 0
        self._start = partial(start, name, LEASE=1)
        self._worker = self._start(run_worker)
        self._next = self._some_more()

    def run(self, function: Callable[..., object], *args: Any) -> Any:
        return self._start(function, *args)

    def tend(self) -> None:
        if self._moved() < self._next:
            return
        self._worker.kill()
        self._worker.join()
        self.kills += 1
        self._worker = self._start(run_worker)
        self._next = self._moved() + self._some_more()

    def _moved(self) -> int:
        return ledger().filter(host=self.name, state=State.TRANSFERRED).count()

    @staticmethod
    def _some_more() -> int:
        return random.randint(1, FILES // 10)


@pytest.mark.timeout(400)
def test_two_hosts_transfer_despite_killed_workers(
    start: Callable[..., Any], settings: Settings
) -> None:
    default = settings.STORAGES["default"]
    options = default["OPTIONS"] | {"task": "queued_storage.tasks.TransferAndDelete"}
    settings.STORAGES = settings.STORAGES | {"default": default | {"OPTIONS": options}}
    hosts = [Host(name, start) for name in HOSTS]

    def run_everywhere(function: Callable[..., object], args: list[str]) -> None:
        running = [host.run(function, arg) for host, arg in zip(hosts, args, strict=True)]
        while any(child.is_alive() for child in running):
            tend()
        assert [ended(child) for child in running] == [0, 0]

    def tend() -> None:
        for host in hosts:
            host.tend()
        time.sleep(0.02)

    def is_over() -> bool:
        tend()
        return not ledger().exclude(state=State.TRANSFERRED, is_local=False).exists()

    run_everywhere(save_many, HOSTS)
    run_everywhere(delete_some, HOSTS[::-1])
    until(is_over, timeout=200)
    kept = {f"{host}/{n}.bin" for host in HOSTS for n in range(FILES) if n % 10}
    assert set(ledger().values_list("name", flat=True)) == kept
    assert {row.name: row.host for row in ledger().all()} == {
        name: name.partition("/")[0] for name in kept
    }
    assert on_disk("one") == on_disk("two") == []
    far = Path(django_settings.DIRECTORY) / "far"
    found = {str(path.relative_to(far)) for path in far.rglob("*") if path.is_file()}
    assert found == kept
    assert all((far / name).read_bytes() == content_of(name) for name in kept)
    assert min(host.kills for host in hosts) > 1  # a fast machine kills fewer workers
