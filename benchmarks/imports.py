"""How much the app adds to the start of every command, and of a web process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .rows import Options, Row, by_turns, spent_by_children

SETTINGS = """
SECRET_KEY = "benchmark"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", {apps}]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}}}
DEBUG = True
MEDIA_ROOT = {media!r}
STORAGES = {{
    "default": {storage},
    "staticfiles": {{"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}},
}}
"""
WEB = """
from {name} import *
ROOT_URLCONF = "{name}_urls"
"""
URLS = """
from django.urls import include, path

urlpatterns = [{urls}]
"""
PLAIN = '{"BACKEND": "django.core.files.storage.FileSystemStorage"}'
QUEUED = """{
    "BACKEND": "queued_storage.backends.QueuedStorage",
    "OPTIONS": {
        "local": "django.core.files.storage.FileSystemStorage",
        "remote": "storages.backends.s3.S3Storage",
        "remote_options": {"bucket_name": "bench"},
    },
}"""
# What a server of web processes does before the first request. Prints the number of threads, and
# of connections to a database, also once the storage exists.
START = """
import django
import importlib
import sys
import threading
from django.conf import settings
from django.core.wsgi import get_wsgi_application

django.setup()
importlib.import_module(settings.ROOT_URLCONF)
get_wsgi_application()
if "look" in sys.argv:
    from django.core.files.storage import storages
    from django.db import connections

    storages["default"]
    is_open = [each.connection is not None for each in connections.all(initialized_only=True)]
    print(threading.active_count(), sum(is_open))
"""


def rows(options: Options) -> Iterator[Row]:
    place = options.directory
    media = str(place.absolute() / "media")
    included = "path('queued/', include('queued_storage.urls'))"
    for name, apps, storage, urls in (
        ("plain", "", PLAIN, ""),
        ("queued", '"queued_storage"', QUEUED, included),
    ):
        text = SETTINGS.format(apps=apps, storage=storage, media=media)
        (place / f"{name}.py").write_text(text)
        (place / f"{name}_web.py").write_text(WEB.format(name=name))
        (place / f"{name}_urls.py").write_text(URLS.format(urls=urls))
    yield _row(
        options,
        ["-m", "django", "check"],
        "",
        key="imports.check",
        what="time that the app adds to 'manage.py check'",
        goal=20,
    )
    found = _run(place, ["-c", START, "look"], "queued_web").split()
    assert found == ["1", "0"], f"threads and connections before the first save: {found}"
    yield _row(
        options,
        ["-c", START],
        "_web",
        key="imports.web",
        what="time that the app adds to the start of a web process",
        goal=20,
        more={"before the first save": "one thread, and no connection to a database"},
    )


def _row(
    options: Options,
    arguments: list[str],
    suffix: str,
    *,
    more: dict[str, str] | None = None,
    **row: Any,
) -> Row:
    used: dict[str, list[float]] = {"plain": [], "queued": []}

    def run(settings: str) -> None:
        before = spent_by_children()
        _run(options.directory, arguments, f"{settings}{suffix}")
        used[settings].append(spent_by_children() - before)

    found = by_turns(
        {name: lambda number, name=name: run(name) for name in used}, options.rounds(15)
    )
    seconds = {name: sorted(times)[len(times) // 2] for name, times in used.items()}
    return Row(
        **row,
        is_at_most=True,
        ratio=round((seconds["queued"] - seconds["plain"]) * 1000, 1),
        unit="ms",
        details={
            "of": "processor time of the whole process, with S3Storage as the remote",
            **{f"{name}, ms": round(value * 1000, 1) for name, value in seconds.items()},
            "by the clock, ms": round((found["queued"] - found["plain"]) * 1000, 1),
            **(more or {}),
        },
    )


def _run(place: Path, arguments: list[str], settings: str) -> str:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": settings,
        "PYTHONPATH": str(place),
        # Compile all modules once, as an installation does, even if the directory of the sources
        # is not writable.
        "PYTHONPYCACHEPREFIX": str(place / "compiled"),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, check=True, capture_output=True, cwd=place, env=environment, text=True
    )
    return done.stdout
