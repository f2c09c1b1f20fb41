"""A project that uses django-tenants on PostgreSQL."""

import shutil
import unittest
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django_tenants.utils import schema_context

from queued_storage.exceptions import RemoteChanged
from queued_storage.ledger.aliases import storage_for
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.transfers.executor import Executor
from tests.ecosystem.tenants.customers.models import Customer
from tests.ecosystem.tenants.documents.models import Document
from tests.support.services import require
from tests.support.waiting import until

try:
    require("postgres")
except unittest.SkipTest as skipped:
    pytest.skip(str(skipped), allow_module_level=True)

pytestmark = pytest.mark.django_db(transaction=True)

TENANTS = ("one", "two")


@pytest.fixture(autouse=True)
def _tenants() -> Iterator[None]:
    connection.set_schema_to_public()
    for name in TENANTS:
        Customer(schema_name=name).save(verbosity=0)
    yield
    connection.set_schema_to_public()
    for customer in Customer.objects.all():
        customer.delete(force_drop=True)
    shutil.rmtree(settings.BASE, ignore_errors=True)


def work(alias: str = "default") -> dict[int, Exception]:
    """Deliver the messages in a thread of its own, whose connection has no tenant."""
    answers: list[dict[int, Exception]] = []

    def deliver() -> None:
        storage: Any = storage_for(alias)
        answers.append(storage.queue.deliver())
        connection.close()

    thread = Thread(target=deliver)
    thread.start()
    thread.join()
    return answers[0]


def save(tenant: str) -> str:
    with schema_context(tenant):
        document = Document.objects.create(file=ContentFile(tenant.encode(), "a.txt"))
        return str(document.file.name)


def test_each_tenant_reads_its_own_file() -> None:
    names = [save(tenant) for tenant in TENANTS]
    assert names == ["one/documents/a.txt", "two/documents/a.txt"]
    assert work() == {}
    assert set(ledger().values_list("state", "is_local")) == {(State.TRANSFERRED, False)}
    for tenant in TENANTS:
        with schema_context(tenant), Document.objects.get().file.open() as opened:
            assert opened.read() == tenant.encode()
    assert not list((settings.BASE / "disk").rglob("*.txt"))


def test_a_rolled_back_save_of_a_tenant_is_not_transferred() -> None:
    with transaction.atomic():
        save("one")
        transaction.set_rollback(True)
    assert not ledger().exists()


def test_a_delete_by_a_tenant() -> None:
    name = save("one")
    work()
    with schema_context("one"):
        document = Document.objects.get()
        document.file.delete()
    work()
    assert not ledger().filter(name=name).exists()
    assert not list((settings.BASE / "far").rglob("*.txt"))


def test_a_directory_per_thread_is_refused() -> None:
    storage: Any = storages["per-tenant"]
    with schema_context("one"):
        name = storage.save("a.txt", ContentFile(b"one"))
    [error] = work("per-tenant").values()
    assert isinstance(error, RemoteChanged)
    assert "queued_storage_place" in str(error)
    row = ledger().get(name=name)
    assert (row.state, row.is_local) == (State.PENDING, True)
    with schema_context("one"), storage.open(name) as opened:
        assert opened.read() == b"one"


def test_a_worker_waits_for_the_table(caplog: pytest.LogCaptureFixture) -> None:
    """As if the app were in TENANT_APPS only, so that the public schema has no table."""
    searches: list[int] = []

    def aliases() -> list[str]:
        searches.append(len(searches))
        return ["default"]

    rename("queued_storage_queuedfile", "elsewhere")
    executor = Executor(threads=1, poll=0.05, aliases=aliases)
    try:
        with pytest.raises(CommandError, match="does not have the table"):
            call_command("queued_storage", "status")
        executor.start()
        until(lambda: len(searches) > 3)
    finally:
        rename("elsewhere", "queued_storage_queuedfile")
        assert executor.stop(10)
    warnings = [record.message for record in caplog.records if "table" in record.message]
    assert len(warnings) == 1
    assert "No file is processed until then." in warnings[0]


def rename(table: str, to: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {to}")
