from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.files.storage import storages

from queued_storage.ledger.aliases import registry
from tests.support.small_site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(autouse=True)
def only_storages_of_this_test() -> Iterator[None]:
    """The checks look at every storage that lives; let it be those of STORAGES, and new ones."""
    before = registry.living_storages()
    registry.reset(keep=[storages["default"]])
    yield
    registry.reset(keep=before)
