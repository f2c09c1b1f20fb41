"""For Django's own tests of files, whose runner makes its settings itself."""

import tempfile

INSTALLED_APPS = [
    "apps_of_suites.FileSystemStorageIsReplaced",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sites",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.admin.apps.SimpleAdminConfig",
    "django.contrib.staticfiles",
    "file_storage",
    "file_uploads",
    "model_fields",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True},
]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
MEDIA_ROOT = tempfile.mkdtemp(prefix="media-")
MEDIA_URL = "media/"
ROOT_URLCONF = "urls"
SECRET_KEY = "of tests"
SITE_ID = 1
STATIC_URL = "static/"
USE_TZ = False
