"""Queues and their configurations."""

import subprocess
import sys
import uuid
from typing import Any

import django
import pytest
from celery import Celery
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidQueue, MissingLibrary
from queued_storage.queues import get_queue
from queued_storage.queues.celery import CeleryQueue
from queued_storage.queues.django_tasks import DjangoTasksQueue
from queued_storage.queues.dummy import DummyQueue
from queued_storage.queues.immediate import ImmediateQueue
from queued_storage.storage.composition import load_queues
from queued_storage.testing import Fault, FaultyStorage

pytestmark = pytest.mark.one_database


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
def test_a_missing_library_names_its_extra(
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


@pytest.mark.parametrize("options", [["threads"], "threads", 4])
def test_options_must_be_a_dict(options: Any) -> None:
    with pytest.raises(InvalidQueue, match="A queue must be configured as"):
        get_queue({"BACKEND": "queued_storage.queues.threads.ThreadQueue", "OPTIONS": options})


STARTED = """
import sys, django
django.setup()
print([name for name in ("celery", "kombu") if name in sys.modules])
"""


@pytest.mark.parametrize("queue", ["celery.CeleryQueue", "dummy.DummyQueue"])
@pytest.mark.parametrize("where", ["setting", "storage"])
def test_a_start_imports_only_used_adapters(
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


def test_queues_of_inline_storages_are_loaded() -> None:
    class Noted(DummyQueue):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            Noted.made += 1

    storage = QueuedStorage("disk", "far", alias="inline-noted", queue=Noted)
    load_queues()
    assert Noted.made == 1
    assert isinstance(storage.queue, Noted)


def test_an_invalid_queue_does_not_prevent_a_start(child_settings: Any) -> None:
    """Otherwise, the system checks could not report it."""
    env = child_settings(QUEUED_STORAGE={"QUEUE": "nowhere.Queue"})
    check = [sys.executable, "-m", "django", "check"]
    run = subprocess.run(check, env=env, text=True, capture_output=True, check=False)
    assert run.returncode == 1
    assert "queued_storage.E006" in run.stderr
    assert "nowhere" in run.stderr


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("engine", ["immediate", "celery", "django_tasks"])
def test_get_raises_the_exception_of_inline_attempts(engine: str, settings: Settings) -> None:
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
