from typing import Any

import pytest
from django.core.files.storage import storages


@pytest.fixture
def storage() -> Any:
    return storages["default"]
