"""The contract, for every adapter that works in one process; and how a queue is found."""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from io import StringIO
from multiprocessing import Value
from typing import Any

import django
import pytest
import rq
from celery import Celery
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage
from django.core.management import call_command
from django.db import connection
from django.test import TransactionTestCase
from django_q.conf import Conf
from django_q.models import OrmQ
from django_q.queues import Queue
from django_q.worker import worker
from django_rq import get_queue as get_rq_queue
from django_tasks_db.models import DBTaskResult
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidQueue, MissingLibrary
from queued_storage.queues import BaseQueue, get_queue
from queued_storage.queues.celery import CeleryQueue
from queued_storage.queues.django_q import DjangoQQueue
from queued_storage.queues.django_tasks import DjangoTasksQueue
from queued_storage.queues.dummy import DummyQueue
from queued_storage.queues.immediate import ImmediateQueue
from queued_storage.queues.rq import RQQueue
from queued_storage.queues.threads import ThreadQueue
from queued_storage.queues.worker import WorkerQueue
from queued_storage.storage.composition import load_queues
from queued_storage.testing import Fault, FaultyStorage, QueueContract
from queued_storage.transfers import leases
from tests.support import services
from tests.support.waiting import until

pytestmark = pytest.mark.one_database


class TestThreads(QueueContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        self.queue = ThreadQueue(threads=2, poll=0.05)
        self.addCleanup(self.queue.stop)
        return self.queue

    def run_workers(self) -> None:
        assert self.queue.stop(timeout=20)


class TestImmediate(QueueContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        return ImmediateQueue()

    def run_workers(self) -> None:
        """It has none."""


class TestDummy(QueueContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        self.queue = DummyQueue()
        return self.queue

    def run_workers(self) -> None:
        self.queue.deliver()

    def messages(self) -> list[str]:
        return [str(message) for message in self.queue.messages]


class TestWorker(QueueContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        return WorkerQueue()

    def run_workers(self) -> None:
        call_command("queued_storage", "worker", "--until-empty", "--poll=0.05", stdout=StringIO())


class TestCelery(QueueContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        self.app = Celery("contract", broker="memory://", set_as_current=False)
        self.app.conf.task_default_queue = uuid.uuid4().hex
        return CeleryQueue(self.app)

    def run_workers(self) -> None:
        for message in self.take():
            task = self.app.tasks[message.headers["task"]]
            args, kwargs, _embed = json.loads(message.body)
            task(*args, **kwargs)

    def messages(self) -> list[str]:
        return [f"{message.headers} {message.body}" for message in self.take()]

    def take(self) -> Iterator[Any]:
        with self.app.connection_for_read() as broker:
            queue = self.app.amqp.queues[self.app.conf.task_default_queue](broker.default_channel)
            while message := queue.get(no_ack=True):
                yield message


@pytest.mark.django_db(transaction=True)
class TestDjangoTasks(QueueContract):
    def make_queue(self) -> BaseQueue:
        return DjangoTasksQueue()

    def run_workers(self) -> None:
        for row in DBTaskResult.objects.order_by("enqueued_at"):
            call = row.args_kwargs
            row.task.call(*call["args"], **call["kwargs"])

    def messages(self) -> list[str]:
        table = connection.ops.quote_name(DBTaskResult._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {table}")
            return [str(row) for row in cursor.fetchall()]


class Burst(rq.SimpleWorker):
    """Does what is there, in this thread, with the signal handlers of the test run."""

    def _install_signal_handlers(self) -> None:
        pass

    def subscribe(self) -> None:
        """To commands; that thread takes a second to end."""


class TestRQ(QueueContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        services.require("redis")
        self.name = f"contract-{uuid.uuid4().hex}"
        self.enterContext(self.settings(RQ_QUEUES={self.name: {"URL": services.url("redis")}}))
        self.server = get_rq_queue(self.name)
        self.addCleanup(self.server.connection.close)
        self.addCleanup(self.server.delete)
        return RQQueue(self.name)

    def run_workers(self) -> None:
        Burst([self.server], connection=self.server.connection).work(burst=True)

    def messages(self) -> list[str]:
        return [f"{job.to_dict()} {job.func_name} {job.args}" for job in self.server.jobs]


@pytest.mark.django_db(transaction=True)
class TestDjangoQ(QueueContract):
    @pytest.fixture(autouse=True)
    def database_as_broker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Conf, "ORM", "default")

    def make_queue(self) -> BaseQueue:
        return DjangoQQueue()

    def run_workers(self) -> None:
        tasks = [row.task for row in OrmQ.objects.order_by("pk")]
        given, results = Queue(), Queue()
        for task in [*tasks, "STOP"]:
            given.put(task)
        worker(given, results, Value("f", -1))
        assert all(results.get()["success"] for _task in tasks)
        for queue in (given, results):
            queue.close()
            queue.join_thread()

    def messages(self) -> list[str]:
        return [str(row.task) for row in OrmQ.objects.all()]


# How a queue is found


@pytest.mark.parametrize(
    ("adapter", "extra", "libraries"),
    [
        ("celery.CeleryQueue", "celery", ["celery"]),
        ("django_tasks.DjangoTasksQueue", "django-tasks", ["django.tasks", "django_tasks"]),
        ("django_q.DjangoQQueue", "django-q", ["django_q.brokers"]),
        ("rq.RQQueue", "rq", ["django_rq"]),
        ("dramatiq.DramatiqQueue", "dramatiq", ["dramatiq"]),
        ("huey.HueyQueue", "huey", ["huey"]),
        ("procrastinate.ProcrastinateQueue", "procrastinate", ["procrastinate"]),
    ],
)
def test_a_missing_library_is_an_error_that_names_the_extra(
    adapter: str, extra: str, libraries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"queued_storage.queues.{adapter}"
    monkeypatch.delitem(sys.modules, path.rpartition(".")[0], raising=False)
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibrary, match=rf"pip install 'django-queued-storage\[{extra}\]'"):
        get_queue({"BACKEND": path, "OPTIONS": {"priority": 1}})


def test_an_unknown_option_is_an_error() -> None:
    for path in (
        "celery.CeleryQueue",
        "django_q.DjangoQQueue",
        "django_tasks.DjangoTasksQueue",
        "dramatiq.DramatiqQueue",
        "huey.HueyQueue",
        "rq.RQQueue",
    ):
        queue = f"queued_storage.queues.{path}"
        with pytest.raises(InvalidQueue, match="queue_nam"):
            get_queue({"BACKEND": queue, "OPTIONS": {"queue_nam": "a"}})


@pytest.mark.parametrize(
    "options",
    [
        *({"threads": threads} for threads in (0, -1, "4", None)),
        *({"poll": poll} for poll in (0, -1.5, "5", float("inf"), float("nan"))),
        *({"exit_wait": seconds} for seconds in (-1, "10", float("inf"))),
    ],
    ids=str,
)
def test_threads_that_would_do_nothing_are_an_error(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(InvalidQueue, match=f"{name} must be"):
        get_queue({"BACKEND": "queued_storage.queues.threads.ThreadQueue", "OPTIONS": options})


# So says Python 3.12, rightly: the child is what is tested.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("what", ["executor", "heart"])
def test_a_child_process_does_not_wait_for_what_its_parent_was_just_starting(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = os.getpid()
    has_begun, goes_on = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, *args: object) -> None:
            pass

        def start(self) -> None:
            if os.getpid() == parent:
                has_begun.set()
                goes_on.wait(60)

        def tell(self, pks: list[int]) -> None:
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
def test_the_threads_of_settings_that_were_changed_end(settings: Settings) -> None:
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


@pytest.mark.parametrize("options", [["threads"], "threads", 4])
def test_options_that_are_no_dict_are_an_error(options: Any) -> None:
    with pytest.raises(InvalidQueue, match="A queue must be configured as"):
        get_queue({"BACKEND": "queued_storage.queues.threads.ThreadQueue", "OPTIONS": options})


STARTED = """
import sys, django
django.setup()
print([name for name in ("celery", "kombu") if name in sys.modules])
"""


@pytest.mark.parametrize("queue", ["celery.CeleryQueue", "dummy.DummyQueue"])
@pytest.mark.parametrize("where", ["setting", "storage"])
def test_a_start_imports_the_adapters_in_use_and_no_other(
    child_settings: Any, settings: Settings, queue: str, where: str
) -> None:
    path = f"queued_storage.queues.{queue}"
    storages = settings.STORAGES
    changes: dict[str, Any] = {}
    if where == "setting":
        changes["QUEUED_STORAGE"] = {"QUEUE": path}
    else:
        options = storages["default"]["OPTIONS"] | {"queue": {"BACKEND": path}}
        changes["STORAGES"] = storages | {"default": storages["default"] | {"OPTIONS": options}}
    run = subprocess.run(
        [sys.executable, "-c", STARTED],
        env=child_settings(**changes),
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    assert ("celery" in run.stdout) == ("celery" in queue)


def test_the_queue_of_a_storage_made_inline_is_loaded_too() -> None:
    class Noted(DummyQueue):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            Noted.made += 1

    storage = QueuedStorage("disk", "far", alias="inline-noted", queue=Noted)
    load_queues()
    assert Noted.made == 1
    assert isinstance(storage.queue, Noted)


def test_a_start_survives_a_queue_that_is_none(child_settings: Any) -> None:
    """The system checks say what is wrong; a start that fails could not run them."""
    env = child_settings(QUEUED_STORAGE={"QUEUE": "nowhere.Queue"})
    check = [sys.executable, "-m", "django", "check"]
    run = subprocess.run(check, env=env, text=True, capture_output=True, check=False)
    assert run.returncode == 1
    assert "queued_storage.E006" in run.stderr
    assert "nowhere" in run.stderr


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("engine", ["immediate", "celery", "django_tasks"])
def test_get_raises_the_original_where_an_engine_runs_inline(
    engine: str, settings: Settings
) -> None:
    tasks = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
    settings.TASKS = {"default": {"BACKEND": f"{tasks}.backends.immediate.ImmediateBackend"}}
    app = Celery("inline", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    queues: dict[str, Any] = {
        "immediate": ImmediateQueue,
        "celery": lambda: CeleryQueue(app),
        "django_tasks": DjangoTasksQueue,
    }
    storage = QueuedStorage(
        local=InMemoryStorage(),
        remote=FaultyStorage(fault=Fault.REFUSE),
        queue=queues[engine](),
        alias=f"inline-{engine}-{uuid.uuid4().hex}",
        delayed=True,
    )
    storage.save("a.txt", ContentFile(b"a"))
    with pytest.raises(ConnectionError, match="refused"):
        storage.transfer("a.txt").get()
    storage.remote.fault = None  # type: ignore[attr-defined]
    assert storage.transfer("a.txt").get()
