import shutil
from collections.abc import Iterator

import pytest
from django.conf import settings
from wagtail.models import Collection

from tests.support import services
from tests.support.services import S3Server

# Files that Wagtail and django-storages leave for the garbage collector to close
LEFT_OPEN = ["Unclosed file <tempfile.SpooledTemporaryFile", "unclosed file <_io.FileIO name="]


def pytest_configure(config: pytest.Config) -> None:
    settings.DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    for message in LEFT_OPEN:
        config.addinivalue_line("filterwarnings", f"ignore:{message}:ResourceWarning")


def pytest_unconfigure() -> None:
    shutil.rmtree(settings.DIRECTORY, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    services.require("s3")
    with S3Server() as server:
        yield server


@pytest.fixture
def collection(db: None) -> Collection:
    """Wagtail's root collection. The browser's test deletes it when it flushes the tables."""
    return Collection.get_first_root_node() or Collection.add_root(name="Root")
