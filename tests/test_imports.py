"""The modules that the app imports in every command."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.one_database

# Checks a project that uploads to S3, and prints the imported modules.
CODE = """
import json, sys
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

from django.core.management import call_command

call_command("check")
print(json.dumps(sorted(sys.modules)))
"""
HEAVY = {"boto3", "botocore", "s3transfer", "obstore", "google", "azure", "paramiko"}
HEAVY |= {"celery", "kombu", "dramatiq", "rq", "redis", "huey", "procrastinate", "django_q"}
HEAVY |= {"django_tasks", "prometheus_client", "opentelemetry", "matplotlib"}
# Modules of this package, and modules that they import
FOR_WORKERS = {"attempt", "executor", "lanes", "leases", "naming", "proxies", "removal", "work"}
FOR_OTHERS = {"queued_storage.admin", "queued_storage.serving.peers", "storages.backends.s3"}


def test_check_imports_no_optional_or_worker_modules() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", CODE], check=True, stdout=subprocess.PIPE, text=True, timeout=100
    )
    modules = json.loads(answer.stdout.splitlines()[-1])
    assert "queued_storage.checks" in modules
    assert not HEAVY & {name.partition(".")[0] for name in modules}
    assert not {f"queued_storage.transfers.{name}" for name in FOR_WORKERS} & set(modules)
    assert not FOR_OTHERS & set(modules)
