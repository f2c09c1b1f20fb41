"""The storages of the settings, plain or queued by SUITE_STORAGE."""

import os
import tempfile

IS_QUEUED = os.environ["SUITE_STORAGE"] == "queued"
APPS = ["queued_storage"] if IS_QUEUED else []
FILES = "django.core.files.storage.filesystem.FileSystemStorage"


def with_default(theirs, queued="queued_storage.backends.QueuedStorage"):
    storages = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    } | theirs
    if IS_QUEUED:
        storages["local"] = {"BACKEND": FILES}
        storages["remote"] = {
            "BACKEND": FILES,
            "OPTIONS": {"location": tempfile.mkdtemp(prefix="remote-")},
        }
        storages["default"] = {
            "BACKEND": queued,
            "OPTIONS": {"local": "local", "remote": "remote"},
        }
    return storages
