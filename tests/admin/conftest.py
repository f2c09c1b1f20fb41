from typing import Any

import pytest
from django.core.files.storage import storages
from django.test import Client

from tests.admin.pages import staff


@pytest.fixture
def storage() -> Any:
    return storages["default"]


@pytest.fixture
def viewer(db: None) -> Client:
    return staff("view_queuedfile")
