"""For the tests of django-private-storage, whose distribution has no settings."""

import tempfile

from storages_of_suites import IS_QUEUED

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "private_storage",
    "private_storage.tests",
]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
PRIVATE_STORAGE_ROOT = tempfile.mkdtemp(prefix="private-")
ROOT_URLCONF = "private_storage.urls"
SECRET_KEY = "of tests"

if IS_QUEUED:
    PRIVATE_STORAGE_CLASS = "queued_of_suites.PrivateStorage"
