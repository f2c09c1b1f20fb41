"""Background threads."""

import os
import signal
import threading
from typing import Any

import pytest
from django.core.files.base import ContentFile
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidQueue
from queued_storage.ledger.database import ledger
from queued_storage.ledger.jobs import Action, JobState, jobs
from queued_storage.operations.jobs import request
from queued_storage.queues import get_queue
from queued_storage.queues.threads import ThreadQueue
from queued_storage.transfers import leases
from tests.support.waiting import until

pytestmark = pytest.mark.one_database


@pytest.mark.parametrize(
    "options",
    [
        *({"threads": threads} for threads in (0, -1, "4", None)),
        *({"poll": poll} for poll in (0, -1.5, "5", float("inf"), float("nan"))),
        *({"exit_wait": seconds} for seconds in (-1, "10", float("inf"))),
    ],
    ids=str,
)
def test_invalid_options_of_threads_are_an_error(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(InvalidQueue, match=f"{name} must be"):
        get_queue({"BACKEND": "queued_storage.queues.threads.ThreadQueue", "OPTIONS": options})


# Python 3.12 warns about forks with threads, which this tests.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("what", ["executor", "heart"])
def test_a_fork_during_a_start_does_not_hang(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    has_begun, goes_on = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, *args: object) -> None:
            pass

        def start(self) -> None:
            if os.getpid() == parent:
                has_begun.set()
                goes_on.wait(60)

        def notify(self, pks: list[int]) -> None:
            pass

    monkeypatch.setattr("queued_storage.transfers.executor.Executor", Slow)
    monkeypatch.setattr(leases, "_Heart", Slow)
    monkeypatch.setattr(leases, "_heart", None)
    monkeypatch.setattr("atexit.register", lambda *args: None)
    queue = ThreadQueue()
    begin = {"executor": lambda: queue.enqueue([1]), "heart": leases._beating_heart}[what]
    first = threading.Thread(target=begin)
    first.start()
    assert has_begun.wait(60)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        begin()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    goes_on.set()
    first.join(60)
    assert not first.is_alive()


@pytest.mark.django_db(transaction=True)
def test_threads_end_when_settings_change(settings: Settings) -> None:
    def threads() -> list[threading.Thread]:
        return [
            each
            for each in threading.enumerate()
            if each.name.startswith("queued-storage-") and each.name[-1].isdigit()
        ]

    before = threads()
    for number in (1, 2):
        settings.QUEUED_STORAGE = {
            "QUEUE": {
                "BACKEND": "queued_storage.queues.threads.ThreadQueue",
                "OPTIONS": {"threads": number, "poll": 0.05},
            }
        }
        storage = QueuedStorage("disk", "far", alias=f"threads-{number}")
        storage.save("a.txt", ContentFile(b"a"))
        storage.wait(timeout=60)
    settings.QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}
    until(lambda: not set(threads()) - set(before))


@pytest.mark.django_db(transaction=True)
def test_threads_carry_out_jobs(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.threads.ThreadQueue"}
    storage = QueuedStorage("disk", "far", alias="threads-jobs")
    storage.save("a.txt", ContentFile(b"a"))
    storage.wait(timeout=60)
    [job] = request(Action.EVICT, ledger().filter(alias="threads-jobs"))
    until(lambda: jobs().get(pk=job.pk).state == JobState.DONE)
    assert not storage.local.exists("a.txt")
    assert storage.queue.stop(30)
