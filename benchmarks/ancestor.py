"""django-queued-storage 0.8 with the workload of ``workers.py``.

This module is both its web process, when run as a program, and the app of its Celery worker. They
run in a separate environment with Python 3.10.
"""

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

import django
from celery import Celery
from celery.signals import worker_process_init
from django.conf import settings

SPEC = json.loads(os.environ["BENCH_ANCESTOR"])
LOOK = 0.05  # seconds
PATIENCE = 120

settings.configure(
    SECRET_KEY="benchmark",
    INSTALLED_APPS=["queued_storage"],
    CACHES={
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": SPEC["redis"],
            "KEY_PREFIX": SPEC["name"],
        }
    },
)
django.setup()

app = Celery("ancestor", broker=SPEC["redis"], set_as_current=True)
app.conf.update(
    imports=["queued_storage.tasks"],
    # All of its keys in Redis contain this name.
    task_default_queue=SPEC["name"],
    worker_enable_remote_control=False,
    broker_transport_options={
        f"{key}_key": f"{SPEC['name']}:{key}"
        for key in ("unacked", "unacked_index", "unacked_mutex")
    },
)
app.set_default()


@worker_process_init.connect
def end_with_parent(**kwargs: Any) -> None:
    """Otherwise, Celery's children would keep running after the benchmark is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def carry(storage: Any, prefix: str, files: int, size: int) -> float:
    """Return the seconds from the first message until all files are known to be on the remote."""
    from django.core.cache import cache
    from django.core.files.base import ContentFile

    content = ContentFile(os.urandom(size))
    names = [storage.local.save(f"{prefix}/{number}", content) for number in range(files)]
    keys = [storage.get_cache_key(name) for name in names]
    started = time.perf_counter()
    for name in names:
        storage.transfer(name)
    while len(cache.get_many(keys)) < files:
        if time.perf_counter() - started > PATIENCE:
            sys.exit(f"The ancestor has not brought {files} files in {PATIENCE} seconds.")
        time.sleep(LOOK)
    return time.perf_counter() - started


def main() -> None:
    from queued_storage.backends import QueuedStorage

    storage = QueuedStorage(
        local="django.core.files.storage.FileSystemStorage",
        local_options={"location": SPEC["local"]},
        remote="storages.backends.s3.S3Storage",
        remote_options=SPEC["remote"],
        task="queued_storage.tasks.Transfer",
    )
    for line in sys.stdin:
        prefix, files, size = line.split()
        print(carry(storage, prefix, int(files), int(size)), flush=True)


if __name__ == "__main__":
    main()
