"""The test suites of other projects, which use the embedded threads without a thought."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

pytestmark = pytest.mark.one_lane

ROOT = Path(__file__).parent.parent.parent

SETTINGS = """
import os, tempfile
BASE = tempfile.mkdtemp(dir=os.path.dirname(__file__))
SECRET_KEY = "x"
ROOT_URLCONF = "urls"
STATIC_URL, MEDIA_URL, MEDIA_ROOT = "/static/", "/media/", BASE + "/disk"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "queued_storage"]
STORAGES = {
    "default": {
        "BACKEND": "queued_storage.backends.QueuedStorage",
        "OPTIONS": {"local": "disk", "remote": "far"},
    },
    "disk": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "far": {
        "BACKEND": "queued_storage.testing.FaultyStorage",
        "OPTIONS": {
            "storage": "django.core.files.storage.FileSystemStorage",
            "location": BASE + "/far",
        },
    },
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
QUEUED_STORAGE = {"CACHE": None}
"""
URLS = """
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.http import HttpResponse
from django.urls import path

def save(request):
    return HttpResponse(default_storage.save("live.txt", ContentFile(b"live")))

urlpatterns = [path("save/", save)]
"""
HEAD = """
from urllib.request import urlopen
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import LiveServerTestCase, TestCase, TransactionTestCase
from queued_storage.models import QueuedFile

def save(count):
    for number in range(count):
        default_storage.save(f"{number}.txt", ContentFile(b"a"))
    assert QueuedFile.objects.count() == count
"""
TESTS = f"""{HEAD}
class Saves(TransactionTestCase):
    def test_many(self):
        save(20)

    def test_wait(self):
        save(3)
        default_storage.wait(timeout=60)
        assert not QueuedFile.objects.exclude(state="transferred").exists()

    def test_the_remote_is_slow(self):
        default_storage.remote.fault = "slow"
        default_storage.remote.delay = 0.3
        self.addCleanup(setattr, default_storage.remote, "fault", None)
        save(2)

class SavesMore(Saves):
    pass

class Live(LiveServerTestCase):
    def test_requests(self):
        for _number in range(10):
            urlopen(self.live_server_url + "/save/").read()
        assert QueuedFile.objects.count() == 10

class InTransaction(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.name = default_storage.save("data.txt", ContentFile(b"data"))

    def test_open(self):
        with self.captureOnCommitCallbacks(execute=True):
            default_storage.save("other.txt", ContentFile(b"other"))
        assert default_storage.open(self.name).read() == b"data"
"""
HANGS = f"""{HEAD}
from queued_storage.queues import threads

threads.FLUSH_WAIT = threads.MEMORY_WAIT = 1

class Hangs(TransactionTestCase):
    def tearDown(self):
        default_storage.remote.fault = None

    def test_save(self):
        default_storage.remote.fault = "hang"
        save(1)
        assert default_storage.open("0.txt").read() == b"a"

    def test_save_again(self):
        self.test_save()
"""
RUNNER = """
from django.test.runner import DiscoverRunner
from queued_storage.testing import QueuedStorageRunnerMixin

class Runner(QueuedStorageRunnerMixin, DiscoverRunner):
    pass
"""
SERIALIZED = f"""{HEAD}
class Serialized(TransactionTestCase):
    serialized_rollback = True  # Django then sends no signal when it flushes

    def test_the_remote_is_slow(self):
        default_storage.remote.fault = "slow"
        default_storage.remote.delay = 0.3
        save(2)
"""
PYTEST = f"""{HEAD}
import threading
import pytest

@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_save(number):
    save(10)

@pytest.fixture
def after(transactional_db):
    yield
    names = [each.name for each in threading.enumerate()]
    assert [name for name in names if name[-1:].isdigit() and "queued" in name] == []

def test_threads_end_before_fixtures(after):
    save(3)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    settings = connection.settings_dict
    test = {"NAME": None if connection.vendor == "sqlite" else f"test_suites_{os.getpid()}"}
    keys = ("ENGINE", "HOST", "PORT", "USER", "PASSWORD")
    database: dict[str, Any] = {key: settings[key] for key in keys} | {"TEST": test}
    names = {"sqlite": str(tmp_path / "db.sqlite3"), "postgresql": "postgres", "mysql": "mysql"}
    database["NAME"] = names[connection.vendor]
    text = f"DATABASES = {{'default': {database!r}}}\n"
    if connection.vendor == "mysql":
        text += "try:\n    import MySQLdb\nexcept ImportError:\n"
        text += "    import pymysql\n    pymysql.install_as_MySQLdb()\n"
    write(tmp_path, "project_settings", SETTINGS + text)
    write(tmp_path, "urls", URLS)
    return tmp_path


def write(project: Path, module: str, text: str) -> None:
    (project / f"{module}.py").write_text(textwrap.dedent(text))


def run(project: Path, *args: str) -> None:
    python_path = os.pathsep.join([str(project), str(ROOT / "src")])
    environment = {"PYTHONPATH": python_path, "DJANGO_SETTINGS_MODULE": "project_settings"}
    ended = subprocess.run(
        [sys.executable, "-m", *args],
        cwd=project,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "Traceback" not in said
    assert "Error" not in said


def run_django(project: Path, *args: str) -> None:
    run(project, "django", "test", "--noinput", *args)


@pytest.mark.parametrize("args", [(), ("--parallel=2",)])
def test_a_suite_ends_cleanly(project: Path, args: tuple[str, ...]) -> None:
    for number in range(2):
        write(project, f"test_{number}", TESTS)
    run_django(project, *args)


def test_a_suite_ends_although_the_remote_hangs(project: Path) -> None:
    write(project, "test_hangs", HANGS)
    run_django(project)


def test_the_runner_waits_for_files_in_progress(project: Path) -> None:
    write(project, "test_serialized", SERIALIZED)
    write(project, "runner", RUNNER)
    run_django(project, "--testrunner=runner.Runner")


def test_a_suite_of_pytest_ends_cleanly(project: Path) -> None:
    write(project, "test_saves", PYTEST)
    plugins = ["-p", "no:cacheprovider", "-p", "queued_storage.pytest_plugin"]
    run(project, "pytest", "-q", f"--rootdir={project}", "-c", os.devnull, *plugins)
