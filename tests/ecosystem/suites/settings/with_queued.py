"""The settings of a package's own tests; with SUITE_STORAGE=queued, the default storage is queued.

It is alone in a directory of the path, because packages call their own tests ``tests``, too.
"""

import os
import tempfile
from importlib import import_module

_theirs = import_module(os.environ["SUITE_SETTINGS"])
globals().update({name: getattr(_theirs, name) for name in dir(_theirs) if name.isupper()})

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
} | getattr(_theirs, "STORAGES", {})
INSTALLED_APPS = [*_theirs.INSTALLED_APPS, "queued_storage"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}

if os.environ["SUITE_STORAGE"] == "queued":
    STORAGES["local"] = STORAGES["default"]
    STORAGES["remote"] = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": tempfile.mkdtemp(prefix="remote-")},
    }
    STORAGES["default"] = {
        "BACKEND": "queued_storage.backends.QueuedStorage",
        "OPTIONS": {"local": "local", "remote": "remote"},
    }
    # No file is transferred meanwhile.
    QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}
