"""Settings of a project with packages that create thumbnails."""

import os
import tempfile
from pathlib import Path

DIRECTORY = Path(tempfile.gettempdir()) / f"queued-storage-pictures-{os.getpid()}"
SECRET_KEY = "for tests only"
DEBUG = False
USE_TZ = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.ecosystem.pictures.urls"
STATIC_URL = "/static/"
MEDIA_URL = "/media/"
MEDIA_ROOT = DIRECTORY / "media"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "tests.ecosystem.pictures.gallery",
    "queued_storage",
    "easy_thumbnails",
    "sorl.thumbnail",
    "imagekit",
    "wagtail.sites",
    "wagtail.users",
    "wagtail.documents",
    "wagtail.images",
    "wagtail.search",
    "wagtail.admin",
    "wagtail",
    "modelcluster",
    "taggit",
    "django_filters",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            # Both packages call their tag library "thumbnail".
            "libraries": {
                "easy_thumbnail": "easy_thumbnails.templatetags.thumbnail",
                "sorl_thumbnail": "sorl.thumbnail.templatetags.thumbnail",
            },
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DIRECTORY / "db.sqlite3",
        # A file, because the live server writes to it from other threads.
        "TEST": {"NAME": DIRECTORY / "test.sqlite3"},
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 60,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF",
        },
    }
}
# Wagtail's migrations have hundreds of steps and create the same tables.
UNMIGRATED = "core admin users docs images sites search"
MIGRATION_MODULES = {f"wagtail{part}": None for part in UNMIGRATED.split()}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

# The tests replace the default storage with S3.
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# Files are transferred only when a test does so.
QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}

THUMBNAIL_DEBUG = True  # of both packages: an error is raised
WAGTAIL_SITE_NAME = "Pictures"
WAGTAILADMIN_BASE_URL = "http://localhost"
WAGTAIL_ENABLE_UPDATE_CHECK = False
