"""The contract for adapters, as far as they work in one process."""

import json
import uuid
from collections.abc import Iterator
from io import StringIO
from multiprocessing import Value
from typing import Any

import pytest
import rq
from celery import Celery
from django.core.management import call_command
from django.db import connection
from django.test import TransactionTestCase
from django_q.conf import Conf
from django_q.models import OrmQ
from django_q.queues import Queue
from django_q.worker import worker
from django_rq import get_queue as get_rq_queue
from django_tasks_db.models import DBTaskResult

from queued_storage.queues import BaseQueue
from queued_storage.queues.celery import CeleryQueue
from queued_storage.queues.django_q import DjangoQQueue
from queued_storage.queues.django_tasks import DjangoTasksQueue
from queued_storage.queues.dummy import DummyQueue
from queued_storage.queues.immediate import ImmediateQueue
from queued_storage.queues.rq import RQQueue
from queued_storage.queues.threads import ThreadQueue
from queued_storage.queues.worker import WorkerQueue
from tests.queues.contracts import AdapterContract
from tests.support import services

pytestmark = pytest.mark.one_database


class TestThreads(AdapterContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        self.queue = ThreadQueue(threads=2, poll=0.05)
        self.addCleanup(self.queue.stop)
        return self.queue

    def run_workers(self) -> None:
        assert self.queue.stop(timeout=20)


class TestImmediate(AdapterContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        return ImmediateQueue()

    def run_workers(self) -> None:
        """There are none."""


class TestDummy(AdapterContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        self.queue = DummyQueue()
        return self.queue

    def run_workers(self) -> None:
        self.queue.deliver()

    def messages(self) -> list[str]:
        return [str(message) for message in self.queue.messages]


class TestWorker(AdapterContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        return WorkerQueue()

    def run_workers(self) -> None:
        call_command("queued_storage", "worker", "--until-empty", "--poll=0.05", stdout=StringIO())


class TestCelery(AdapterContract, TransactionTestCase):
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
class TestDjangoTasks(AdapterContract):
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
    """Processes all jobs in this thread, with the signal handlers of the test run."""

    def _install_signal_handlers(self) -> None:
        pass

    def subscribe(self) -> None:
        """Don't listen for commands: that thread takes a second to end."""


class TestRQ(AdapterContract, TransactionTestCase):
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
class TestDjangoQ(AdapterContract):
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
