"""Filters of the ledger."""

import pytest

from queued_storage.ledger.database import ledger
from tests.support.rows import new_row

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("name", ["there", "There", "there "])
def test_with_object_compares_exactly(name: str) -> None:
    row = new_row(remote_name="there")
    new_row("b.txt", remote_name="elsewhere")
    found = ledger().with_object([name])
    assert found == ([row] if name == "there" else [])


@pytest.mark.parametrize("name", ["there", "There"])
def test_with_object_finds_unconfirmed_uploads(name: str) -> None:
    row = new_row("there", unconfirmed="16 crc32:1a2b3c4d token")
    new_row("there", alias="two", remote_name="other", unconfirmed="16 crc32:1a2b3c4d token")
    new_row("There.txt", remote_name="")
    new_row("There", alias="three", remote_name="elsewhere")
    found = ledger().with_object([name])
    assert found == ([row] if name == "there" else [])
