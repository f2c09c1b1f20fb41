"""The settings of a package's own tests; with SUITE_STORAGE=queued, the default storage is queued.

It is alone in a directory of the path, because packages call their own tests ``tests``, too.
"""

import os
from importlib import import_module

from storages_of_suites import APPS, with_default

_theirs = import_module(os.environ["SUITE_SETTINGS"])
globals().update({name: getattr(_theirs, name) for name in dir(_theirs) if name.isupper()})

_default = "queued_storage.backends.QueuedStorage"
STORAGES = with_default(
    getattr(_theirs, "STORAGES", {}), getattr(_theirs, "CLASS_OF_QUEUED", _default)
)
INSTALLED_APPS = [*_theirs.INSTALLED_APPS, *APPS]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
# No file is transferred meanwhile.
QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}
