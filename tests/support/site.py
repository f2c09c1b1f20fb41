"""A site of its own, with its own database and local storage, for one process of a test.

``python -m tests.support.site SITE REMOTE DEPLOYMENT COMMAND...`` runs commands on the site in the
directory SITE, such as ``save:a.txt:data``, and prints their results as JSON.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import django
from django.conf import settings

FILES = "django.core.files.storage.FileSystemStorage"


def set_up(site: Path, remote: dict[str, Any], deployment: str | None) -> None:
    is_new = not site.exists()
    site.mkdir(exist_ok=True)
    settings.configure(
        SECRET_KEY="only for tests",
        USE_TZ=True,
        INSTALLED_APPS=["django.contrib.contenttypes", "queued_storage"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": site / "ledger.sqlite3",
                "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        STORAGES={
            "default": {
                "BACKEND": "queued_storage.backends.QueuedStorage",
                "OPTIONS": {"local": "disk", "remote": "far"},
            },
            "disk": {"BACKEND": FILES, "OPTIONS": {"location": site / "disk"}},
            "far": remote,
        },
        QUEUED_STORAGE={
            "QUEUE": "queued_storage.queues.dummy.DummyQueue",
            "CACHE": None,
            "DEPLOYMENT": deployment,
        },
    )
    django.setup()
    if is_new:
        from django.core.management import call_command

        call_command("migrate", verbosity=0)


def run(command: str, name: str = "", data: str = "") -> Any:
    from django.core.files.base import ContentFile
    from django.core.files.storage import storages

    from queued_storage.operations.status import troubles
    from queued_storage.operations.writers import accept_writer
    from queued_storage.testing import drain
    from queued_storage.transfers.writers import PlaceMarker

    storage: Any = storages["default"]
    match command:
        case "save":
            storage.save(name, ContentFile(data.encode()))
        case "overwrite":
            with storage.open(name, "wb") as file:
                file.write(data.encode())
        case "delete":
            storage.delete(name)
        case "drain":
            return sorted(type(error).__name__ for error in drain().values())
        case "accept":
            return accept_writer(storage)
        case "troubles":
            return troubles()
        case "die-before-the-marker":
            PlaceMarker.write = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
        case "wait":  # until all processes of a race are ready
            print("ready", flush=True)
            sys.stdin.readline()
        case _:
            raise ValueError(command)
    return None


if __name__ == "__main__":
    site, remote, deployment, *commands = sys.argv[1:]
    set_up(Path(site), json.loads(remote), deployment or None)
    print(json.dumps([run(*each.split(":")) for each in commands]))
