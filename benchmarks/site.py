"""The site of ``serving`` as a WSGI application, in a process of its own."""

import json
import os
from pathlib import Path
from typing import Any

from django.core.wsgi import get_wsgi_application

from .project import SITE, configure, on_sqlite

ALIAS = "bench"


def settings_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with which the site serves the files, and others save them."""
    place = Path(spec["directory"])
    sendfile = {"HEADER": "X-Accel-Redirect", "ROOT": "/protected/"}
    return SITE | {
        "DATABASES": {"default": on_sqlite(place) | {"CONN_MAX_AGE": None}},
        "MEDIA_ROOT": str(place / "files"),
        "QUEUED_STORAGE": {
            "QUEUE": "queued_storage.queues.dummy.DummyQueue",
            **({"SENDFILE": sendfile} if spec["sendfile"] else {}),
        },
    }


def storage_of(spec: dict[str, Any]) -> Any:
    from django.core.files.storage import FileSystemStorage

    from queued_storage.backends import QueuedStorage

    place = Path(spec["directory"])
    near, far = FileSystemStorage(place / "files"), FileSystemStorage(place / "far")
    return QueuedStorage(near, far, alias=ALIAS, url_mode="stable", delayed=True)


def application(environ: dict[str, Any], start_response: Any) -> Any:
    return _handler(environ, start_response)


if text := os.environ.get("BENCH_SITE"):
    _spec = json.loads(text)
    configure(Path(_spec["directory"]), **settings_of(_spec))
    _handler = get_wsgi_application()
    _storage = storage_of(_spec)
