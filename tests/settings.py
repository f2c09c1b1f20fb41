"""Settings of the tests.

A child process gets the database and the directory of its test from the environment. See the
fixture `child_environment`.
"""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from tests.support import services

DATABASE = os.environ.get("QUEUED_STORAGE_TEST_DATABASE", "sqlite")
DATABASE_NAME = os.environ.get("QUEUED_STORAGE_TEST_DATABASE_NAME")
# tests/conftest.py creates and deletes it. Other users of these settings do not need it.
DIRECTORY = os.environ.get(
    "QUEUED_STORAGE_TEST_DIRECTORY", f"{tempfile.gettempdir()}/queued-storage-{os.getpid()}"
)
BASE = Path(DIRECTORY)

if DATABASE == "sqlite":
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATABASE_NAME or ":memory:",
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
            },
            "TEST": {"NAME": BASE / "test.sqlite3"},
        }
    }
elif DATABASE in ("postgres", "mariadb"):
    if DATABASE == "mariadb" and not find_spec("MySQLdb"):
        import pymysql

        pymysql.install_as_MySQLdb()
    address = services.address(DATABASE)
    engine = {"postgres": "postgresql", "mariadb": "mysql"}[DATABASE]
    DATABASES = {
        "default": {
            "ENGINE": f"django.db.backends.{engine}",
            "NAME": DATABASE_NAME or {"postgres": "postgres", "mariadb": "mysql"}[DATABASE],
            "HOST": address.hostname,
            "PORT": address.port,
            "USER": unquote(address.username or ""),
            "PASSWORD": unquote(address.password or ""),
            # One database for each run, so that parallel runs do not share it.
            "TEST": {"NAME": f"test_queued_storage_{os.getpid()}"},
        }
    }
    DATABASES["default"]["OPTIONS"] = {
        "mariadb": {"charset": "utf8mb4"},
        # A test may lose its last commits if the server crashes, but need not wait for the disk.
        "postgres": {"options": "-c synchronous_commit=off"},
    }[DATABASE]
else:
    raise ValueError(f"QUEUED_STORAGE_TEST_DATABASE={DATABASE}: sqlite, postgres or mariadb")

PROCRASTINATE = DATABASE == "postgres" and find_spec("procrastinate")  # requires PostgreSQL

SECRET_KEY = "only for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.support.urls"
STATIC_URL = "/static/"
MEDIA_URL = "/media/"
MEDIA_ROOT = BASE / "disk"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    *(["django_tasks"] if find_spec("django_tasks") else []),
    *(["django_tasks_db"] if find_spec("django_tasks_db") else []),
    *(["django_q"] if find_spec("django_q") else []),
    *(["procrastinate.contrib.django"] if PROCRASTINATE else []),
    "queued_storage",
    "tests.support.testapp",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

STORAGES = {
    "default": {
        "BACKEND": "queued_storage.backends.QueuedStorage",
        "OPTIONS": {"local": "disk", "remote": "far"},
    },
    "disk": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": BASE / "disk", "base_url": "/media/"},
    },
    "far": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": BASE / "far", "base_url": "https://far.example/"},
    },
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}
if find_spec("django_tasks_db"):
    TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
MIGRATION_MODULES = {"django_q": None}  # creates its tables in one step instead of twenty
Q_CLUSTER = {"name": "tests", "timeout": 60, "retry": 90, "log_level": "WARNING"}
