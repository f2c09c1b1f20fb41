"""A small Django site that saves images to the local disk and uploads them to S3."""

import os
import tempfile
from pathlib import Path

import s3server

DATA = Path(tempfile.mkdtemp(prefix="queued-storage-demo-"))  # demo.py removes it
S3 = s3server.S3Server(DATA / "s3")

# All that QueuedStorage needs: the app, and a storage that consists of two others.

INSTALLED_APPS = ["queued_storage", "gallery"]

STORAGES = {
    "default": {
        "BACKEND": "queued_storage.backends.QueuedStorage",
        "OPTIONS": {"local": "disk", "remote": "s3"},
    },
    "disk": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": DATA / "disk", "base_url": "/media/"},
    },
    "s3": {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": s3server.BUCKET,
            "access_key": s3server.ACCESS_KEY,
            "secret_key": s3server.SECRET_KEY,
            "endpoint_url": S3.endpoint,
            "region_name": s3server.REGION,
            "client_config": s3server.CLIENT_CONFIG,
        },
    },
}

# A switch, "make demo SCAN=1": nobody gets a picture before it was scanned.
SCAN = os.environ.get("SCAN", "") not in ("", "0")
if SCAN:
    STORAGES["default"]["OPTIONS"] |= {
        "steps": ["gallery.scan.Scan"],
        "publish": "after_steps",
        "url_mode": "stable",
    }

# People watch the demo: short delays, and a poll of the ledger every second.
QUEUED_STORAGE = {
    "QUEUE": {"BACKEND": "queued_storage.queues.threads.ThreadQueue", "OPTIONS": {"poll": 1}},
    "RETRY_DELAY": 1,
    "RETRY_MAX_DELAY": 5,
    "PROBE_EVERY": 5,  # seconds after which the remote is probed again while it is away
    "LEASE": 3,  # the progress of a transfer is stored every third of it
}

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA / "db.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    }
}

# Any site has the rest.

SECRET_KEY = "insecure, for a site on this machine only"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "gallery.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
FILE_UPLOAD_TEMP_DIR = DATA  # on the local disk, so that large uploads are moved, not copied
CSRF_COOKIE_NAME = "demo_csrf"
MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {
        "django.server": {"level": "ERROR"},  # the page polls the site
        "django.request": {"level": "ERROR"},  # the page reports files that aren't images
        "queued_storage": {"level": "ERROR"},  # the page shows the state of S3
    },
}
