"""``python -m benchmarks.worker SPEC worker --threads 8``: ``manage.py queued_storage worker`` in a
project with one storage, which the measuring process creates in the same way."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.services import S3Server

from .project import configure, on_postgres, on_sqlite


def storage_of(spec: dict[str, Any]) -> Any:
    from django.core.files.storage import FileSystemStorage
    from storages.backends.s3 import S3Storage

    from queued_storage.backends import QueuedStorage

    return QueuedStorage(
        FileSystemStorage(spec["local"]),
        S3Storage(**spec["remote"], client_config=S3Server.client_config(read_timeout=60)),
        alias=spec["alias"],
        delayed=True,
        uploader=spec["uploader"],
    )


def _settings(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a worker whose ledger is in PostgreSQL."""
    if not spec["postgres"]:
        return {}
    sqlite = on_sqlite(Path(spec["directory"]))
    postgres = {**on_postgres(), "NAME": spec["postgres"]}
    values = {"QUEUE": "queued_storage.queues.dummy.DummyQueue", "DATABASE": "postgres"}
    return {"DATABASES": {"default": sqlite, "postgres": postgres}, "QUEUED_STORAGE": values}


def main(text: str, *arguments: str) -> None:
    spec = json.loads(text)
    configure(Path(spec["directory"]), **_settings(spec))
    from django.core.management import call_command

    storage = storage_of(spec)
    assert storage.alias == spec["alias"]
    call_command("queued_storage", *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
