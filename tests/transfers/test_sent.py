import io

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage

from queued_storage.files.streams import MeasuredFile
from queued_storage.models import QueuedFile
from queued_storage.transfers.leases import Lease
from queued_storage.transfers.proxies import LocalProxy

pytestmark = pytest.mark.one_database


@pytest.fixture
def lease():
    return Lease(QueuedFile(name="a.bin"))


@pytest.fixture
def watched(lease):
    storage = InMemoryStorage()
    storage.save("a.bin", ContentFile(bytes(100)))
    with LocalProxy(storage, lease).open("a.bin") as file:
        yield file


def test_sent_grows_with_what_is_read(watched, lease):
    assert watched.read(30)
    assert lease.sent == 30
    assert watched.read()
    assert lease.sent == 100


@pytest.mark.parametrize("whence", [io.SEEK_SET, io.SEEK_END])
def test_sent_follows_a_rewinding_reader(watched, lease, whence):
    """boto3 reads a file for its checksum, and again for its signature, before it sends it."""
    for _pass in range(3):
        watched.read()
        watched.seek(0 if whence == io.SEEK_SET else -100, whence)
    watched.read(40)
    assert lease.sent == 40


def test_sent_follows_what_an_uploader_reads(watched, lease):
    outgoing = MeasuredFile(watched, "a.bin")
    outgoing.read()
    outgoing.seek(0)
    for _piece in outgoing.chunks(10):
        pass
    assert lease.sent == 100
