"""Django's tasks, with the worker of django-tasks-db."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import django
import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import connection, transaction
from django_tasks_db.models import DBTaskResult
from pytest_django import Settings

from queued_storage.exceptions import InvalidQueue
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.queues.django_tasks import DjangoTasksQueue

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

PATH = f"{DjangoTasksQueue.__module__}.DjangoTasksQueue"
DATABASE = "django_tasks_db.DatabaseBackend"
TASKS = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"


@pytest.fixture
def storage(settings: Settings) -> Any:
    settings.QUEUED_STORAGE = {"QUEUE": PATH, "RETRIES": 0}
    return storages["default"]


@pytest.fixture
def work(child_settings: Callable[..., dict[str, str]], settings: Settings) -> Callable[..., None]:
    """Run a worker until no task is left."""
    command = [sys.executable, "-m", "django", "db_worker", "--batch", "--no-startup-delay"]

    def work(*arguments: str) -> None:
        env = child_settings(QUEUED_STORAGE=settings.QUEUED_STORAGE, TASKS=settings.TASKS)
        subprocess.run([*command, *arguments], env=env, check=True, timeout=60)

    return work


def test_db_worker_transfers_what_is_saved(storage: Any, work: Callable[..., None]) -> None:
    with transaction.atomic():
        names = [storage.save(f"{number}.txt", ContentFile(b"content")) for number in range(3)]
        assert not DBTaskResult.objects.exists()  # not before the commit
    (task,) = DBTaskResult.objects.all()
    pks = list(QueuedFile.objects.order_by("pk").values_list("pk", flat=True))
    assert task.args_kwargs == {"args": [pks], "kwargs": {}}
    assert task.task_path == f"{DjangoTasksQueue.__module__}.run"
    work()
    for name in names:
        assert storage.using_remote(name)
        with storages["far"].open(name) as file:
            assert file.read() == b"content"
    (task,) = DBTaskResult.objects.all()
    assert (task.status, task.return_value) == ("SUCCESSFUL", None)


def test_a_failed_transfer_is_a_successful_task(storage: Any, work: Callable[..., None]) -> None:
    """The error is stored in the ledger. More people may see the row of the task."""
    storages["disk"].delete(storage.save("a.txt", ContentFile(b"a")))
    work()
    row = QueuedFile.objects.get()
    assert row.state == State.FAILED
    (task,) = DBTaskResult.objects.all()
    assert (task.status, task.traceback) == ("SUCCESSFUL", "")


def test_a_lost_task_is_made_up_for(storage: Any, work: Callable[..., None]) -> None:
    name = storage.save("a.txt", ContentFile(b"a"))
    DBTaskResult.objects.all().delete()
    work()
    assert storage.using_local(name)
    assert sweep() == 1
    work()
    assert storage.using_remote(name)


def test_a_rolled_back_save_enqueues_nothing(storage: Any) -> None:
    with transaction.atomic():
        storage.save("a.txt", ContentFile(b"a"))
        transaction.set_rollback(True)
    assert not DBTaskResult.objects.exists()


def test_a_missing_table_is_logged(
    storage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(DBTaskResult._meta, "db_table", "nowhere")
    storage.save("a.txt", ContentFile(b"a"))
    assert "DjangoTasksQueue could not be notified that 1 file is due" in caplog.text
    assert ledger().due().count() == 1


def test_options_choose_backend_queue_and_priority(
    settings: Settings, storage: Any, work: Callable[..., None]
) -> None:
    options = {"backend": "slow", "queue_name": "media", "priority": 7}
    settings.TASKS = {
        "default": {"BACKEND": f"{TASKS}.backends.dummy.DummyBackend"},
        "slow": {"BACKEND": DATABASE, "QUEUES": ["media", "mail"]},
    }
    settings.QUEUED_STORAGE = {"QUEUE": {"BACKEND": PATH, "OPTIONS": options}}
    name = storage.save("a.txt", ContentFile(b"a"))
    (task,) = DBTaskResult.objects.all()
    assert (task.backend_name, task.queue_name, task.priority) == ("slow", "media", 7)
    work("--backend", "slow", "--queue-name", "media")
    assert storage.using_remote(name)


@pytest.mark.parametrize(
    ("queues", "chosen"), [(["media", "mail"], "mail"), (["default", "a"], "default")]
)
def test_the_default_queue_exists(
    settings: Settings, storage: Any, work: Callable[..., None], queues: list[str], chosen: str
) -> None:
    settings.TASKS = {"default": {"BACKEND": DATABASE, "QUEUES": queues}}
    name = storage.save("a.txt", ContentFile(b"a"))
    assert DBTaskResult.objects.get().queue_name == chosen
    work("--queue-name", chosen)
    assert storage.using_remote(name)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"backend": "nowhere"}, "nowhere"),
        ({"queue_name": "nowhere"}, "nowhere"),
        ({"priority": 1000}, "priority"),
    ],
)
def test_invalid_options_are_an_error(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidQueue, match=problem):
        DjangoTasksQueue(**options)


def test_enqueueing_takes_one_statement(
    storage: Any, django_assert_num_queries: Callable[[int], Any]
) -> None:
    queue = DjangoTasksQueue()
    with django_assert_num_queries(1):
        queue.enqueue([1, 2])
    assert connection.in_atomic_block is False
