"""A plugin of pytest: give a queued storage a database in tests that don't know of it.

All tests may use the database. What a queued storage does after the commit, it does at once if
there is no other transaction than that of the test, which is never committed.
"""

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import SimpleTestCase

_on_commit = BaseDatabaseWrapper.on_commit


def on_commit(self, func, robust=False):
    is_ours = getattr(func, "func", func).__module__.startswith("queued_storage.")
    # Django knows such transactions, too, to check durable ones.
    if is_ours and all(block._from_testcase for block in self.atomic_blocks):
        func()
    else:
        _on_commit(self, func, robust)


def pytest_configure():
    SimpleTestCase.databases = "__all__"
    BaseDatabaseWrapper.on_commit = on_commit


@pytest.fixture(autouse=True)
def _database(db):
    pass
