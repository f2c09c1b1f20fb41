"""A project that uses the installed wheel: it migrates, saves a file, transfers it, and shows it.

``python -I tests/release/installed.py DIRECTORY`` runs it in an environment without the sources.
"""

import sys
from importlib import resources
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.management import call_command

FILES = "django.core.files.storage.FileSystemStorage"
TEMPLATES = "django.template.backends.django.DjangoTemplates"
CONTEXT = [
    "django.template.context_processors.request",
    "django.contrib.auth.context_processors.auth",
    "django.contrib.messages.context_processors.messages",
]
REQUIRED = (
    "py.typed",
    "locale/de/LC_MESSAGES/django.mo",
    "management/commands/queued_storage.py",
    "migrations/0001_initial.py",
    "static/queued_storage/admin.css",
    "templates/queued_storage/dashboard.html",
)

urlpatterns: list[Any] = []


def configure(directory: Path) -> None:
    contrib = ("admin", "auth", "contenttypes", "messages", "sessions", "staticfiles")
    sessions = "django.contrib.sessions.middleware.SessionMiddleware"
    auth = "django.contrib.auth.middleware.AuthenticationMiddleware"
    messages = "django.contrib.messages.middleware.MessageMiddleware"
    settings.configure(
        SECRET_KEY="only for this check",
        DEBUG=True,
        INSTALLED_APPS=[*(f"django.contrib.{name}" for name in contrib), "queued_storage"],
        MIDDLEWARE=[sessions, auth, messages],
        ROOT_URLCONF=__name__,
        TEMPLATES=[
            {
                "BACKEND": TEMPLATES,
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": CONTEXT},
            }
        ],
        STATIC_URL="static/",
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": directory / "db.sqlite3",
                "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
            }
        },
        STORAGES={
            "default": {
                "BACKEND": "queued_storage.backends.QueuedStorage",
                "OPTIONS": {"local": "disk", "remote": "far"},
            },
            "disk": {"BACKEND": FILES, "OPTIONS": {"location": directory / "disk"}},
            "far": {"BACKEND": FILES, "OPTIONS": {"location": directory / "far"}},
            "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
        },
        QUEUED_STORAGE={"QUEUE": "queued_storage.queues.worker.WorkerQueue"},
    )
    django.setup()

    from django.contrib import admin  # needs the settings
    from django.urls import path

    urlpatterns.append(path("admin/", admin.site.urls))


def transfer(directory: Path) -> None:
    from django.core.files.storage import default_storage

    call_command("check")
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
    call_command("migrate", verbosity=0)
    name = default_storage.save("hello.txt", ContentFile(b"Hello"))
    call_command("queued_storage", "worker", "--until-empty")
    assert (directory / "far" / name).read_bytes() == b"Hello"
    call_command("queued_storage", "verify")


def look_at_the_admin() -> None:
    from django.contrib.auth.models import User
    from django.contrib.staticfiles import finders
    from django.test import Client
    from django.utils.translation import gettext, override

    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    settings.ALLOWED_HOSTS.append("testserver")
    for page in ("", "dashboard/"):
        answer = client.get(f"/admin/queued_storage/queuedfile/{page}")
        assert answer.status_code == 200, page
    with override("de"):
        assert gettext("transferred") == "übertragen"
    assert finders.find("queued_storage/dashboard.js")


def main() -> None:
    directory = Path(sys.argv[1])
    configure(directory)

    package = resources.files("queued_storage")
    assert "site-packages" in str(package), package
    missing = [name for name in REQUIRED if not package.joinpath(name).is_file()]
    assert not missing, missing
    transfer(directory)
    look_at_the_admin()


if __name__ == "__main__":
    main()
