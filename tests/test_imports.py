"""The modules that the app imports in every command."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.one_database

# Starts a project that uploads to S3, and prints the imported modules, and then what was started.
START = """
import json, sys, threading
import django
from django.conf import settings

queued = {
    "BACKEND": "queued_storage.backends.QueuedStorage",
    "OPTIONS": {
        "local": "django.core.files.storage.FileSystemStorage",
        "remote": "storages.backends.s3.S3Storage",
        "remote_options": {"bucket_name": "bucket"},
    },
}
static = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
settings.configure(
    DEBUG=True,
    INSTALLED_APPS=["queued_storage"],
    SECRET_KEY="x",
    MEDIA_ROOT="/srv/media",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    STORAGES={"default": queued, "staticfiles": static},
)
django.setup()


def tell():
    from django.db import connections

    opened = [each.alias for each in connections.all() if each.connection is not None]
    started = [each.name for each in threading.enumerate() if each is not threading.main_thread()]
    print(json.dumps([sorted(sys.modules), opened + started]))


"""
CHECK = """
from django.core.management import call_command

call_command("check")
tell()
"""
USE = """
from django.core.files.storage import default_storage

assert default_storage.alias == "default"
assert default_storage.queue
tell()
"""
HEAVY = {"boto3", "botocore", "s3transfer", "obstore", "google", "azure", "paramiko"}
HEAVY |= {"celery", "kombu", "dramatiq", "rq", "redis", "huey", "procrastinate", "django_q"}
HEAVY |= {"django_tasks", "prometheus_client", "opentelemetry", "matplotlib"}
# Modules of this package, and modules that they import
FOR_WORKERS = {"attempt", "executor", "lanes", "leases", "naming", "proxies", "removal", "work"}
FOR_OTHERS = {"queued_storage.admin", "queued_storage.serving.peers", "storages.backends.s3"}
FOR_OTHERS |= {f"queued_storage.operations.{name}" for name in ("status", "mirrors", "space")}


# Wings and modules that every process of a project imports: the models, and what they need
AT_START = {"apps", "conf", "exceptions", "ledger", "models", "reporting", "runtime"}
# Parts of the ledger that only storages and workers need
LATER = {"aliases", "availability", "bindings", "measures", "names", "unplaced"}


def told_by(code: str) -> tuple[set[str], list[str]]:
    answer = subprocess.run(
        [sys.executable, "-c", START + code],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
    )
    modules, started = json.loads(answer.stdout.splitlines()[-1])
    return set(modules), started


def test_a_start_imports_only_the_models() -> None:
    modules, started = told_by("tell()")
    ours = {name.split(".", 1)[1] for name in modules if name.startswith("queued_storage.")}
    assert {name.partition(".")[0] for name in ours} == AT_START
    assert not {f"ledger.{name}" for name in LATER} & ours
    assert not HEAVY & {name.partition(".")[0] for name in modules}
    assert not started


def test_nothing_is_started_before_the_first_save() -> None:
    modules, started = told_by(USE)
    assert "queued_storage.storage.saving" in modules
    assert not started


def test_check_imports_no_optional_or_worker_modules() -> None:
    modules, _started = told_by(CHECK)
    assert "queued_storage.checks" in modules
    assert not HEAVY & {name.partition(".")[0] for name in modules}
    assert not {f"queued_storage.transfers.{name}" for name in FOR_WORKERS} & modules
    assert not FOR_OTHERS & modules
