from typing import Any

import pytest
from django.core.files.storage import storages

from tests.support.scripted import make


@pytest.fixture
def storage() -> Any:
    return make()


@pytest.fixture
def default() -> Any:
    return storages["default"]
