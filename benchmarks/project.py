"""The Django project of a group."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import django
from django.conf import settings

from tests.support import services

# Settings of a project with the admin
SITE: dict[str, Any] = {
    "INSTALLED_APPS": [
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "queued_storage",
    ],
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    "TEMPLATES": [
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
    ],
    "ROOT_URLCONF": "benchmarks.urls",
    "STATIC_URL": "/static/",
    "ALLOWED_HOSTS": ["*"],
}


def configure(
    directory: Path, postgres: bool = False, mariadb: bool = False, **changes: Any
) -> None:
    """Set Django up with a database in ``directory``, and on servers if their argument is true."""
    databases: dict[str, Any] = {"default": on_sqlite(directory)}
    if postgres:
        databases["postgres"] = on_postgres()
    if mariadb:
        databases["mariadb"] = _on_server("mariadb", "mysql", "mysql", "")
    values: dict[str, Any] = {
        "INSTALLED_APPS": ["queued_storage"],
        "SECRET_KEY": "benchmark",
        "USE_TZ": True,
        "DATABASES": databases,
        "QUEUED_STORAGE": {"QUEUE": "queued_storage.queues.dummy.DummyQueue"},
    }
    settings.configure(**values | changes)
    django.setup()


def on_sqlite(directory: Path, name: str = "db") -> dict[str, Any]:
    path = str(directory / f"{name}.sqlite3")
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
        "TEST": {"NAME": path},
    }


def on_postgres(name: str = "") -> dict[str, Any]:
    """Return the settings of a database of this run. ``name`` tells several from each other."""
    return _on_server("postgres", "postgresql", "postgres", name)


def _on_server(service: str, engine: str, existing: str, name: str) -> dict[str, Any]:
    address = services.address(service)
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": existing,
        "HOST": address.hostname,
        "PORT": address.port,
        "USER": unquote(address.username or ""),
        "PASSWORD": unquote(address.password or ""),
        "CONN_MAX_AGE": None,
        "OPTIONS": {"charset": "utf8mb4"} if engine == "mysql" else {},
        "TEST": {"NAME": f"bench_queued_storage_{os.getpid()}{name}"},
    }


@contextlib.contextmanager
def databases() -> Iterator[list[str]]:
    """Create the tables in every database, and drop them afterwards."""
    from django.db import connections

    for alias in connections:
        connections[alias].creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        yield list(connections)
    finally:
        for alias in connections:
            connections[alias].creation.destroy_test_db("postgres", verbosity=0)


@contextlib.contextmanager
def queued_storage(**changes: Any) -> Iterator[None]:
    """Use these values of QUEUED_STORAGE in the block, without the signal of a changed setting."""
    from django.conf import settings

    from queued_storage import conf

    before = getattr(settings, "QUEUED_STORAGE", {})
    settings.QUEUED_STORAGE = {**before, **changes}
    conf.settings.reset()
    try:
        yield
    finally:
        settings.QUEUED_STORAGE = before
        conf.settings.reset()
