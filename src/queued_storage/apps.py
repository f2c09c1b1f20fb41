"""The app: what each process of a project imports of it, and what only checks and workers need."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Tags, register
from django.utils.translation import gettext_lazy as _

# Queues whose workers need to know no task of a library
OWN_QUEUES = frozenset(
    f"queued_storage.queues.{path}"
    for path in (
        "threads.ThreadQueue",
        "worker.WorkerQueue",
        "immediate.ImmediateQueue",
        "dummy.DummyQueue",
    )
)
# Where no class of a project is, which could be a queued storage with a queue of its own
KNOWN_BACKENDS = ("django.", "storages.", "whitenoise.", "queued_storage.backends.")


class QueuedStorageConfig(AppConfig):
    name = "queued_storage"
    verbose_name = _("Queued storage")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        register(run_checks, "queued_storage")
        register(run_deployment_checks, "queued_storage", deploy=True)
        register(run_database_checks, "queued_storage", Tags.database)
        if "queued_storage.storage.composition" in sys.modules or not all(map(_is_own, _queues())):
            from .storage.composition import load_queues

            load_queues()


# The checks import every storage, which a process that serves requests may never use.


def run_checks(**kwargs: Any) -> list[CheckMessage]:
    from .checks import ALWAYS

    return [message for check in ALWAYS for message in check(**kwargs)]


def run_deployment_checks(**kwargs: Any) -> list[CheckMessage]:
    from .checks import DEPLOY

    return [message for check in DEPLOY for message in check(**kwargs)]


def run_database_checks(**kwargs: Any) -> list[CheckMessage]:
    from .checks import ledger_is_migrated

    return ledger_is_migrated(**kwargs)


def _queues() -> Iterator[Any]:
    """Yield the queues in the settings, and whatever may have one.

    Without one of a library, nothing has to be imported before a file is saved or read. What is
    wrong with the settings is reported by the checks.
    """
    given = getattr(settings, "QUEUED_STORAGE", {})
    if isinstance(given, Mapping) and (queue := given.get("QUEUE")):
        yield queue
    specs: list[Any] = list(settings.STORAGES.values())
    for spec in specs:
        backend = spec.get("BACKEND") if isinstance(spec, Mapping) else spec
        if not (isinstance(backend, str) and backend.startswith(KNOWN_BACKENDS)):
            yield backend
        elif queue := (spec.get("OPTIONS") or {}).get("queue"):
            yield queue


def _is_own(queue: object) -> bool:
    if isinstance(queue, Mapping):
        queue = queue.get("BACKEND")
    return isinstance(queue, str) and queue in OWN_QUEUES
