"""Texts of statements for several rows."""

from collections import Counter

import pytest

from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql import statements
from queued_storage.ledger.sql.statements import returns_rows
from queued_storage.ledger.states import Content
from queued_storage.ledger.texts import due_text, promote_text, rounded, take_text

pytestmark = pytest.mark.django_db


def test_texts_exist_for_few_numbers_of_rows() -> None:
    assert [rounded(count) for count in range(1, 10)] == [1, 2, 3, 4, 6, 6, 8, 8, 12]
    for count in range(1, 2_000):
        assert count <= rounded(count) <= count * 1.5
        assert rounded(rounded(count)) == rounded(count)
    assert len({rounded(count) for count in range(1, 101)}) == 14


def test_claims_and_promotions_of_any_number_share_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "_texts", {})
    for count in range(1, 14):
        content = Content(3, "crc32:00000001")
        names = [f"{count}/{number}" for number in range(count)]
        pks = [ledger().record("one", name, content, held=False) for name in names]
        other = ledger().record("one", f"{count}/other", content, held=True)
        taken = ledger().claim_due(count, ["one"])
        assert {row.pk for row in taken} == set(pks)
        assert len(taken) == count
        assert {row.attempts for row in taken} == {1}
        if returns_rows(ledger().db):
            given = [row.pk for row in taken]
            promoted = ledger().promote_all(given, 1, taken[0].lease_token, "size")
            assert promoted == set(pks)
        ledger().filter(pk=other).delete()
        ledger().filter(pk__in=pks).delete()
    compiled = Counter(key[1] for key in statements._texts)  # type: ignore[index]  # a tuple
    assert compiled[take_text] == 8
    assert compiled[due_text] == 8
    assert compiled[promote_text] == (8 if returns_rows(ledger().db) else 0)
