"""Projects with two databases, one of which holds the ledger."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from queued_storage.ledger.names import WRITER_NAME
from tests.conftest import ROOT

pytestmark = pytest.mark.one_database

START = """
import io, json
import django
django.setup()
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import call_command
from django.db import connections, transaction
from queued_storage.checks.databases import ledger_is_beside_the_models
from queued_storage.maintenance import sweep
from queued_storage.ledger.database import ledger
from queued_storage.models import QueuedFile

for alias in connections:
    call_command("migrate", database=alias, verbosity=0)
storage = storages["default"]

def is_there(alias):
    tables = connections[alias].introspection.table_names()
    return "queued_storage_queuedfile" in tables

def save(name, using, keep):
    with transaction.atomic(using=using):
        storage.save(name, ContentFile(b"bytes"))
        transaction.set_rollback(not keep, using=using)

def names():
    return sorted(ledger().values_list("name", flat=True))
"""

WORK = """
save("kept.txt", "media", keep=True)
save("undone.txt", "media", keep=False)
assert storage.queue.messages == [[ledger().get().pk]]
call_command("queued_storage", "worker", "--until-empty", "--poll", "0.01", stdout=io.StringIO())
answer = {
    "database": ledger().db,
    "names": names(),
    "remote": sorted(storage.remote.listdir("")[1]),
    "warnings": [message.id for message in ledger_is_beside_the_models()],
    "tables": [alias for alias in connections if is_there(alias)],
    "in default": QueuedFile.objects.using("default").count() if is_there("default") else 0,
}
print(json.dumps(answer))
"""

ROUTER = """
class Router:
    def db_for_write(self, model, **hints):
        return "media" if model._meta.app_label in APPS else None

    db_for_read = db_for_write

    def allow_migrate(self, db, app_label, **hints):
        return (db == "media") == (app_label in APPS)

APPS = {"queued_storage", "testapp"}
"""


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Run a script in a process with the databases "default" and "media"."""

    def database(name: str) -> dict[str, Any]:
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / name)}

    def run(script: str, **changes: Any) -> Any:
        (tmp_path / "script.py").write_text(START + script)
        changes["DATABASES"] = {"default": database("default"), "media": database("media")}
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.support.worker_settings",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "src")]),
            "QUEUED_STORAGE_TEST_DIRECTORY": str(tmp_path / "files"),
            "QUEUED_STORAGE_TEST_SETTINGS": json.dumps(changes),
            "QUEUED_STORAGE_TEST_DATABASE": "sqlite",
        }
        command = [sys.executable, str(tmp_path / "script.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def queue(**changes: Any) -> dict[str, Any]:
    return {"QUEUE": "queued_storage.queues.dummy.DummyQueue", **changes}


def test_the_setting_chooses_the_database(run: Any) -> None:
    answer = run(WORK, QUEUED_STORAGE=queue(DATABASE="media"))
    assert answer == {
        "database": "media",
        "names": ["kept.txt"],
        "remote": [WRITER_NAME, "kept.txt"],
        "warnings": ["queued_storage.W003"] * 3,  # the models of the tests are in "default"
        "tables": ["default", "media"],
        "in default": 0,
    }


def test_a_router_chooses_the_database(run: Any, tmp_path: Path) -> None:
    (tmp_path / "router.py").write_text(ROUTER)
    answer = run(WORK, QUEUED_STORAGE=queue(), DATABASE_ROUTERS=["router.Router"])
    assert answer == {
        "database": "media",
        "names": ["kept.txt"],
        "remote": [WRITER_NAME, "kept.txt"],
        "warnings": [],
        "tables": ["media"],
        "in default": 0,
    }


def test_a_rollback_in_another_database_keeps_the_row(
    run: Any,
) -> None:
    script = """
save("undone.txt", "default", keep=False)
answer = {"names": names(), "warnings": [str(m.msg) for m in ledger_is_beside_the_models()]}
print(json.dumps(answer))
"""
    answer = run(script, QUEUED_STORAGE=queue(DATABASE="media"))
    assert answer["names"] == ["undone.txt"]
    assert all("a rolled-back save would still be transferred" in w for w in answer["warnings"])
    assert len(answer["warnings"]) == 3
