"""A project of a few files in a directory of its own, whose commands run in other processes."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SETTINGS = """
SECRET_KEY = "only for tests"
INSTALLED_APPS = ["site_app"]
ROOT_URLCONF = "site_urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STORAGES = {
    "default": {
        "BACKEND": "queued_storage.backends.QueuedStorage",
        "OPTIONS": {"local": "disk", "remote": "far"},
    },
    "disk": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "far": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
}
"""
PLAIN = """
from django.db import models

class Report(models.Model):
    file = models.FileField()
"""


class Site:
    """A project of a few files."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.write("site_settings", SETTINGS)
        self.write("site_urls", "urlpatterns = []")
        self.write("site_app/__init__", "")
        self.write("site_app/models", PLAIN)

    def write(self, module: str, text: str) -> None:
        path = self.place / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "django", *command],
            cwd=self.place,
            env=os.environ
            | {
                "DJANGO_SETTINGS_MODULE": "site_settings",
                "PYTHONPATH": f"{self.place}{os.pathsep}{ROOT / 'src'}",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout + done.stderr
