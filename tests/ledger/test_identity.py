"""The id of the ledger, and whether its database is one for tests."""

from types import SimpleNamespace

import pytest

from queued_storage.ledger import identity


@pytest.mark.parametrize(
    ("vendor", "name", "expected"),
    [
        ("postgresql", "site", False),
        ("postgresql", "test_site", True),
        ("postgresql", "chosen", True),
        ("sqlite", "chosen_gw0", True),
        ("sqlite", "chosen_2.sqlite3", True),
        ("sqlite", "/srv/test_site/ledger.sqlite3", False),
        ("sqlite", "test_ledger.sqlite3", False),
        ("sqlite", "file:memorydb_default?mode=memory&cache=shared", True),
    ],
)
def test_databases_for_tests(
    monkeypatch: pytest.MonkeyPatch, vendor: str, name: str, expected: bool
) -> None:
    connection = SimpleNamespace(
        vendor=vendor,
        settings_dict={
            "NAME": name,
            "TEST": {"NAME": "chosen.sqlite3" if vendor == "sqlite" else "chosen"},
        },
        is_in_memory_db=lambda: "mode=memory" in name,
    )
    monkeypatch.setattr(identity, "ledger_database", lambda: "ledger")
    monkeypatch.setattr(identity, "connections", {"ledger": connection})
    assert identity.is_for_tests() is expected
