"""What a project is told that uses a queued storage without the app."""

import pytest

from tests.support.small_site import PLAIN, SETTINGS, Site

pytestmark = pytest.mark.one_database

FIELDS = PLAIN.replace("models.FileField()", "fields.QueuedFileField()")
INLINE = PLAIN.replace("FileField()", 'FileField(storage=backends.QueuedStorage("disk", "far"))')
OLD = PLAIN.replace(
    "FileField()", 'FileField(storage=backend.QueuedRemoteStorage("disk", remote="far"))'
)
USES = {
    "fields": "from queued_storage import fields" + FIELDS,
    "inline": "from queued_storage import backends" + INLINE,
    "0.3": "from queued_storage import backend" + OLD,
    "models": "from queued_storage.models import QueuedFile" + PLAIN,
}
SAVE = """
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage, storages
try:
    default_storage.save("a.txt", ContentFile(b"a"))
finally:
    print("written:", storages["disk"].exists("a.txt"))
"""


@pytest.mark.parametrize("models", USES.values(), ids=USES)
def test_check_names_the_missing_app(site: Site, models: str) -> None:
    """Also if the settings are wrong, which keeps most checks from running."""
    site.write("site_app/models", models)
    site.write("site_settings", f"{SETTINGS}QUEUED_STORAGE = {{'RETRYS': 3}}")
    shown = site.run("check")
    assert "(queued_storage.E002)" in shown
    assert "Add 'queued_storage' to INSTALLED_APPS and run 'manage.py migrate'" in shown


def test_included_urls_name_the_missing_app(site: Site) -> None:
    site.write(
        "site_urls",
        "from django.urls import include, path\n"
        "urlpatterns = [path('queued/', include('queued_storage.urls'))]",
    )
    assert "ImproperlyConfigured: A queued storage is used, but" in site.run("check")


def test_save_names_the_missing_app(site: Site) -> None:
    """Nothing of the package is imported before, so no check can report it."""
    assert "queued_storage" not in site.run("check")
    shown = site.run("shell", "-c", SAVE)
    assert "ImproperlyConfigured: A queued storage is used, but 'queued_storage' is not" in shown
    assert "Add 'queued_storage' to INSTALLED_APPS" in shown
    assert "written: False" in shown
