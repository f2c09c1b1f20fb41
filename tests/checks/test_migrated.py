"""What users are told before the migrations were run, in place of a missing table."""

from contextlib import nullcontext
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import DatabaseError, transaction
from django.test import Client

from tests.admin.pages import staff
from tests.support.small_site import SETTINGS, Site
from tests.support.versions import no_table

pytestmark = pytest.mark.django_db(transaction=True)

MIGRATE = r"'queued_storage_queuedfile' of the ledger\. Run 'manage\.py migrate'\. See https://"
PAGES = ["queuedfile/", "queuedfile/dashboard/", "queuedfile/1/change/", "preparation/"]


@pytest.mark.parametrize("is_atomic", [False, True])
def test_save_names_migrate(is_atomic: bool) -> None:
    storage = storages["default"]
    block = transaction.atomic() if is_atomic else nullcontext()
    with no_table(), pytest.raises(DatabaseError, match=MIGRATE), block:
        storage.save("a.txt", ContentFile(b"a"))
    assert not storages["disk"].exists("a.txt")


@pytest.mark.parametrize("method", ["open", "exists", "delete", "size", "path", "transfer"])
def test_methods_name_migrate(method: str) -> None:
    with no_table(), pytest.raises(DatabaseError, match=MIGRATE):
        getattr(storages["default"], method)("a.txt")


def test_other_errors_of_the_database_stay() -> None:
    """Such as those of a table of the project that is missing."""
    storage: Any = storages["default"]

    class Content(ContentFile):
        def chunks(self, chunk_size: int | None = None) -> Any:
            with transaction.get_connection().cursor() as cursor:
                cursor.execute("SELECT * FROM no_such_table")

    with pytest.raises(DatabaseError, match="no_such_table") as caught:
        storage.save("a.txt", Content(b"a"))
    assert "migrate" not in str(caught.value)


def test_check_of_the_database_names_migrate() -> None:
    def found(**options: Any) -> list[str]:
        messages = run_checks(**options)
        return [each.msg for each in messages if each.id == "queued_storage.W015"]

    assert found(databases=["default"]) == []
    with no_table():
        [text] = found(databases=["default"])
        assert text.endswith("of the ledger. Run 'manage.py migrate'.")
        assert found() == []


@pytest.mark.parametrize("page", PAGES)
def test_admin_names_migrate(page: str) -> None:
    client: Client = staff("view_queuedfile", "view_preparation")
    with no_table():
        answer = client.get(f"/admin/queued_storage/{page}")
    assert answer.status_code == 503
    assert "Run &#x27;manage.py migrate&#x27;." in answer.content.decode()


@pytest.mark.one_database
def test_a_new_site_is_told_once(site: Site) -> None:
    text = SETTINGS.replace('["site_app"]', '["site_app", "queued_storage"]')
    site.write("site_settings", text)
    assert "Run 'manage.py migrate'." in site.run("check", "--database", "default")
    shown = site.run("migrate")
    assert "Applying queued_storage.0001_initial... OK" in shown
    assert "Run 'manage.py migrate'." not in shown
    assert "Run 'manage.py migrate'." not in site.run("check", "--database", "default")
