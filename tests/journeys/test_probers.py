"""Processes that probe a closed remote, and are killed meanwhile."""

import signal
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, storages
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import Remote, RemoteState, remotes
from queued_storage.ledger.sql.clock import database_time
from queued_storage.ledger.states import State
from queued_storage.queues.base import BaseQueue, run_all
from queued_storage.remotes.places import Place
from queued_storage.signals import remote_changed
from queued_storage.transfers import probing, watching
from queued_storage.transfers.gates import gates
from queued_storage.transfers.watching import Watch
from tests.support.failpoints import FailPoint
from tests.support.forks import ended, forks
from tests.support.outages import close, registered
from tests.support.scripted import LONG_AGO, ScriptedStorage, file, make
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

HOLD = 0.5  # seconds for which a probe is for one process
FILES = 3


class NotingQueue(BaseQueue):
    """A broker that is a file: other processes find the ids there."""

    @staticmethod
    def messages() -> Path:
        return Path(django_settings.DIRECTORY) / "messages"

    def enqueue(self, pks: list[int]) -> None:
        with self.messages().open("a") as file:
            file.write("".join(f"{pk}\n" for pk in pks))

    @classmethod
    def take(cls) -> set[int]:
        """Return the ids of all messages, and remove them."""
        found = {int(line) for line in cls.messages().read_text().split()}
        cls.messages().write_text("")
        return found


class Answering(FileSystemStorage):
    """A remote in a directory, which denies what the file beside it says: "nothing", "own writes"
    or "everything"."""

    @staticmethod
    def denied() -> Path:
        return Path(django_settings.DIRECTORY) / "denied"

    def _save(self, name: str, content: Any) -> str:
        is_own = name.startswith(".queued-storage")
        denied = self.denied().read_text()
        if denied == "everything" or (denied == "own writes" and is_own):
            raise PermissionError(13, "denied")
        return str(super()._save(name, content))


@pytest.fixture
def site(settings: Settings) -> Iterator[Any]:
    """A storage with files that no queue knows."""
    options = {"location": str(Path(settings.DIRECTORY) / "far")}
    far = {"BACKEND": f"{__name__}.Answering", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"far": far}
    settings.QUEUED_STORAGE = {"QUEUE": f"{__name__}.NotingQueue", "PROBE_EVERY": 1.0}
    Answering.denied().write_text("nothing")
    storage: Any = storages["default"]
    for number in range(FILES):
        storage.save(f"{number}.txt", ContentFile(b"%d" % number))
    assert len(NotingQueue.take()) == FILES  # the messages came while the remote was closed
    yield storage
    NotingQueue.messages().unlink()
    Answering.denied().unlink()


@pytest.fixture
def fork(child_environment: dict[str, str], settings: Settings) -> Iterator[Callable[..., Any]]:
    with forks(child_environment, settings) as found:
        yield found.start


def watch_for_ever() -> None:
    """Do what any worker does after each message."""
    probing.HOLD = HOLD
    watching.watch_if_closed()
    threading.Event().wait()


def remote() -> Remote:
    return remotes().get()


AWAY, REFUSED = RemoteState.AWAY, RemoteState.REFUSED
CASES = [
    ("probe taken", AWAY, "nothing"),
    ("probe written", AWAY, "nothing"),
    ("probe written", AWAY, "own writes"),
    ("probed by file", REFUSED, "own writes"),
    ("probe postponed", REFUSED, "everything"),
    ("reopened", REFUSED, "nothing"),
    ("opening announced", AWAY, "nothing"),
]


@pytest.mark.parametrize(("point", "state", "denied"), CASES)
def test_another_process_opens_and_enqueues(
    point: str, state: str, denied: str, site: Any, fork: Callable[..., Any], tmp_path: Path
) -> None:
    close(site, state, probe_in=0)
    Answering.denied().write_text(denied)
    prober = fork(watch_for_ever, point=FailPoint(point, tmp_path / "reached"))
    assert ended(prober) == -signal.SIGKILL
    next_at = remote().next_probe_at
    assert next_at
    assert next_at - database_time("default") <= timedelta(seconds=2)  # two probe intervals

    if denied == "everything":
        Answering.denied().write_text("nothing")
    fork(watch_for_ever)
    until(lambda: remote().is_open and remote().next_probe_at is None)
    left = set(ledger().exclude(state=State.TRANSFERRED).values_list("pk", flat=True))
    assert left <= NotingQueue.take()
    gates.forget()
    run_all(left)
    assert set(ledger().values_list("state", "attempts")) == {(State.TRANSFERRED, 1)}


def test_hold_is_shorter_than_two_intervals() -> None:
    assert probing.HOLD <= 2 * 30


# The thread that probes


class Moment:
    """Stands in for ``connections`` in the thread that is about to end, and calls a function."""

    def __init__(self, original: Any, action: Callable[[], object]) -> None:
        self._original = original
        self._actions = [action]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __getitem__(self, alias: str) -> Any:
        return self._original[alias]

    def close_all(self) -> None:
        if isinstance(threading.current_thread(), Watch) and self._actions:
            self._actions.pop()()
        self._original.close_all()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The aliases of remotes that were opened."""
    monkeypatch.setattr(probing, "HOLD", HOLD)
    found: list[str] = []

    def receiver(alias: str, state: str, **kwargs: Any) -> None:
        found.extend([alias] if state == RemoteState.OPEN else [])

    remote_changed.connect(receiver)
    yield found
    remote_changed.disconnect(receiver)


def shut(storage: Any) -> None:
    """Close a remote that works, and have it probed."""
    close(storage, probe_in=0)
    watching.watch()


def test_ending_thread_is_replaced(opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make(remote=ScriptedStorage())
    moment = Moment(watching.connections, lambda: shut(storage))
    monkeypatch.setattr(watching, "connections", moment)
    registered(storage)
    watching.watch()  # finds nothing closed
    until(lambda: opened == [storage.alias])


def test_needed_thread_looks_again(opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make(remote=ScriptedStorage())
    ends, closers = Watch._ends, [lambda: shut(storage)]

    def ending(self: Watch) -> bool:
        if closers:
            closers.pop()()
        return ends(self)

    monkeypatch.setattr(Watch, "_ends", ending)
    registered(storage)
    watching.watch()
    until(lambda: opened == [storage.alias])


def test_thread_ignores_remotes_of_others(opened: list[str]) -> None:
    storage = make(remote=ScriptedStorage())
    other = remotes().register(storage.alias, Place("s3", "host/before"))
    remotes().filter(pk=other.pk).close(RemoteState.AWAY, "moved since", 0)
    close(storage, probe_in=20)
    assert Watch("default")._pause() > 10


def test_thread_that_hangs_is_replaced(
    opened: list[str], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"STALL_TIMEOUT": 0.2, "LEASE": 0.6}
    goes_on = threading.Event()

    class Hanging(ScriptedStorage):
        def _save(self, name: str, content: Any) -> str:
            if name == "hangs.txt":
                goes_on.wait(60)
                raise ConnectionError("reset")
            return str(super()._save(name, content))

    storage = make(remote=Hanging())
    storage.save("hangs.txt", file())
    storage.save("other.txt", file())
    registered(storage).update(is_probed_by_files=True)
    close(storage, RemoteState.REFUSED, probe_in=0)
    watching.watch()
    first = watching._watch
    try:
        until(lambda: first and first.hangs)
        until(lambda: not ledger().probes().exists())  # the failure is recorded
        registered(storage).update(next_probe_at=LONG_AGO)
        watching.watch()
        until(lambda: opened == [storage.alias])
    finally:
        goes_on.set()
        if first:
            first.join(10)
