"""A project with SQLite, whose background threads write while its requests do."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.one_database

ROOT = Path(__file__).parent.parent.parent
QUICKSTART = ROOT / "docs" / "quickstart.md"
PROJECT = """
import json, sys, threading
import django
from django.conf import settings

directory, options = sys.argv[1], json.loads(sys.argv[2])
files = "django.core.files.storage.FileSystemStorage"
settings.configure(
    SECRET_KEY="x" * 50,
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "queued_storage"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    QUEUED_STORAGE={"CACHE": None, "QUEUE": {
        "BACKEND": "queued_storage.queues.threads.ThreadQueue", "OPTIONS": {"poll": 0.05}}},
    DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": directory + "/db", "OPTIONS": options}},
    STORAGES={
        "default": {
            "BACKEND": "queued_storage.backends.QueuedStorage",
            "OPTIONS": {"local": "disk", "remote": "far"},
        },
        "disk": {"BACKEND": files, "OPTIONS": {"location": directory + "/disk"}},
        "far": {"BACKEND": files, "OPTIONS": {"location": directory + "/far"}},
    },
)
django.setup()
from django.core.checks import run_checks
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.management import call_command
from django.db import OperationalError, connection, transaction

call_command("migrate", verbosity=0)
from django.contrib.auth.models import Group

failed = []


def request(number):
    try:
        with transaction.atomic():
            Group.objects.count()
            default_storage.save("x.txt", ContentFile(b"x"))
            Group.objects.create(name=str(number))
    except OperationalError as error:
        failed.append(str(error))


def requests(user):
    for number in range(40):
        request(f"{user} {number}")
    connection.close()


users = [threading.Thread(target=requests, args=[user]) for user in range(3)]
for user in users:
    user.start()
for user in users:
    user.join()
default_storage.wait(timeout=60)
found = [message for message in run_checks(tags=["queued_storage"]) if message.id[-4:] == "W007"]
print(json.dumps({"failed": failed, "hints": [message.hint for message in found]}))
"""


def run(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    (directory / "project.py").write_text(PROJECT)
    done = subprocess.run(
        [sys.executable, str(directory / "project.py"), str(directory), json.dumps(options)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def quickstart_options() -> dict[str, Any]:
    text = QUICKSTART.read_text()
    found = re.search(r'"OPTIONS"(?:\]\s*=|:) (\{[^}]*"transaction_mode".*?\})', text, re.S)
    assert found
    options: dict[str, Any] = ast.literal_eval(found[1])
    return options


def test_the_quickstart_lets_requests_wait(tmp_path: Path) -> None:
    assert run(tmp_path, quickstart_options()) == {"failed": [], "hints": []}


def test_a_new_project_is_told_what_to_set(tmp_path: Path) -> None:
    """SQLite refuses to let some requests write, which no other thread can prevent."""
    [hint] = run(tmp_path, {})["hints"]
    found = re.search(r"'OPTIONS': (\{.*?\})", hint)
    assert found
    assert ast.literal_eval(found[1]) == quickstart_options()
