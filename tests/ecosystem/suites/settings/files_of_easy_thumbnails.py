"""For easy-thumbnails, most of whose tests make a storage of a class of their own."""

from importlib import import_module

from storages_of_suites import IS_QUEUED

_theirs = import_module("easy_thumbnails.tests.settings")
globals().update({name: getattr(_theirs, name) for name in dir(_theirs) if name.isupper()})

STATIC_URL = "/static/"  # of a command that they call
if IS_QUEUED:
    INSTALLED_APPS = [*_theirs.INSTALLED_APPS, "apps_of_suites.TemporaryStorageIsReplaced"]
    STORAGES = _theirs.STORAGES | {
        "easy_thumbnails": {"BACKEND": "queued_of_suites.TemporaryStorage"}
    }
