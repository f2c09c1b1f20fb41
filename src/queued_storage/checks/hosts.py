"""Checks of projects with several hosts."""

from collections.abc import Iterator

from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from ..conf import settings
from ..queues.dummy import DummyQueue
from ..queues.threads import ThreadQueue
from ..queues.worker import WorkerQueue
from ..runtime.documentation import see
from .registration import check, storages


@check
def hosts_have_urls() -> Iterator[CheckMessage]:
    if settings.local_per_host and settings.other_host == "fetch" and not settings.host_urls:
        yield Error(
            "QUEUED_STORAGE['OTHER_HOST'] is 'fetch', but HOST_URLS is empty.",
            hint="Set the URL of each host, for example "
            "{'web-1': 'http://10.0.0.1:8000/queued/'}. "
            f"{see('hosts#read-files-on-other-hosts')}",
            id="queued_storage.E009",
        )


@check
def hosts_have_queues() -> Iterator[CheckMessage]:
    if not settings.local_per_host:
        return
    for storage in storages():
        try:
            queue = storage.queue
            is_one_for_all = storage.queue_for("one") is storage.queue_for("another")
        except ImproperlyConfigured:  # E006 reports it
            continue
        finds_its_own = isinstance(queue, ThreadQueue | DummyQueue | WorkerQueue)
        if is_one_for_all and not finds_its_own:
            yield Warning(
                f"{storage.alias}: each host has its own local storage, but "
                f"{type(queue).__name__} sends all messages to the same workers.",
                hint="Put '{host}' into the name of the queue, or run "
                "'manage.py queued_storage worker' on each host too. "
                f"{see('hosts#send-messages-to-the-right-host')}",
                obj=storage,
                id="queued_storage.W004",
            )
