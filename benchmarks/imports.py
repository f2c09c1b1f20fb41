"""How much the app adds to the start of every command."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
PLAIN = '{"BACKEND": "django.core.files.storage.FileSystemStorage"}'
QUEUED = """{
    "BACKEND": "queued_storage.backends.QueuedStorage",
    "OPTIONS": {
        "local": "django.core.files.storage.FileSystemStorage",
        "remote": "storages.backends.s3.S3Storage",
        "remote_options": {"bucket_name": "bench"},
    },
}"""


def rows(options: Options) -> Iterator[Row]:
    place = options.directory
    media = str(place.absolute() / "media")
    (place / "plain.py").write_text(SETTINGS.format(apps="", storage=PLAIN, media=media))
    (place / "queued.py").write_text(
        SETTINGS.format(apps='"queued_storage"', storage=QUEUED, media=media)
    )
    used: dict[str, list[float]] = {"plain": [], "queued": []}

    def check(settings: str) -> None:
        before = spent_by_children()
        _check(place, settings)
        used[settings].append(spent_by_children() - before)

    found = by_turns(
        {name: lambda number, name=name: check(name) for name in used}, options.rounds(15)
    )
    seconds = {name: sorted(times)[len(times) // 2] for name, times in used.items()}
    yield Row(
        key="imports.check",
        what="time that the app adds to 'manage.py check'",
        goal=30,
        is_at_most=True,
        ratio=round((seconds["queued"] - seconds["plain"]) * 1000, 1),
        unit="ms",
        details={
            "of": "processor time of the whole process, with S3Storage as the remote",
            **{f"{name}, ms": round(value * 1000, 1) for name, value in seconds.items()},
            "by the clock, ms": round((found["queued"] - found["plain"]) * 1000, 1),
        },
    )


def _check(place: Path, settings: str) -> None:
    command = [sys.executable, "-m", "django", "check"]
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": settings,
        "PYTHONPATH": str(place),
        # Compile all modules once, as an installation does, even if the directory of the sources
        # is not writable.
        "PYTHONPYCACHEPREFIX": str(place / "compiled"),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    subprocess.run(command, check=True, capture_output=True, cwd=place, env=environment)
