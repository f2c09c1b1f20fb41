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


def configure(
    directory: Path, postgres: bool = False, mariadb: bool = False, **changes: Any
) -> None:
    """Set Django up with a database in ``directory``, and on servers if their argument is true."""
    databases: dict[str, Any] = {"default": _sqlite(directory)}
    if postgres:
        databases["postgres"] = _on_server("postgres", "postgresql", "postgres")
    if mariadb:
        databases["mariadb"] = _on_server("mariadb", "mysql", "mysql")
    values: dict[str, Any] = {
        "INSTALLED_APPS": ["queued_storage"],
        "SECRET_KEY": "benchmark",
        "USE_TZ": True,
        "DATABASES": databases,
        "QUEUED_STORAGE": {"QUEUE": "queued_storage.queues.dummy.DummyQueue"},
    }
    settings.configure(**values | changes)
    django.setup()


def _sqlite(directory: Path) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(directory / "db.sqlite3"),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
        "TEST": {"NAME": str(directory / "db.sqlite3")},
    }


def _on_server(service: str, engine: str, name: str) -> dict[str, Any]:
    address = services.address(service)
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": name,
        "HOST": address.hostname,
        "PORT": address.port,
        "USER": unquote(address.username or ""),
        "PASSWORD": unquote(address.password or ""),
        "CONN_MAX_AGE": None,
        "OPTIONS": {"charset": "utf8mb4"} if engine == "mysql" else {},
        "TEST": {"NAME": f"bench_queued_storage_{os.getpid()}"},
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
