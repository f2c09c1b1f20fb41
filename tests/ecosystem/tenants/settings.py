"""Settings of a project with a schema for each tenant, and the ledger in the shared one."""

import os
import tempfile
from pathlib import Path

from tests.support.services import address

BASE = Path(tempfile.mkdtemp(prefix="queued-tenants-"))
SERVER = address("postgres")

SECRET_KEY = "only for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SHARED_APPS = [
    "django_tenants",
    "django.contrib.contenttypes",
    "tests.ecosystem.tenants.customers",
    "queued_storage",
]
TENANT_APPS = ["tests.ecosystem.tenants.documents"]
INSTALLED_APPS = list(dict.fromkeys([*SHARED_APPS, *TENANT_APPS]))
TENANT_MODEL = "customers.Customer"
TENANT_DOMAIN_MODEL = "customers.Domain"
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
DATABASES = {
    "default": {
        "ENGINE": "django_tenants.postgresql_backend",
        "NAME": "postgres",
        "HOST": SERVER.hostname,
        "PORT": SERVER.port,
        "USER": SERVER.username,
        "PASSWORD": SERVER.password or "",
        "TEST": {"NAME": f"test_queued_tenants_{os.getpid()}"},
    }
}
MEDIA_ROOT = BASE / "media"
STORAGES = {
    "default": {
        "BACKEND": "queued_storage.backends.QueuedStorage",
        "OPTIONS": {
            "local": "disk",
            "remote": "far",
            "task": "queued_storage.tasks.TransferAndDelete",
        },
    },
    "disk": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": BASE / "disk"},
    },
    "far": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": BASE / "far"},
    },
    # Its directory is that of the tenant whose request the thread processes.
    "per-tenant": {
        "BACKEND": "queued_storage.backends.QueuedStorage",
        "OPTIONS": {
            "local": "disk",
            "remote": {"BACKEND": "django_tenants.files.storage.TenantFileSystemStorage"},
        },
    },
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}
