import pytest

from queued_storage.reporting.counts import counted

pytestmark = pytest.mark.one_database


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 files were"),
        (1, "1 file was"),
        (2, "2 files were"),
        (1_234_567, "1,234,567 files were"),
    ],
)
def test_counted(count: int, text: str) -> None:
    assert counted(count, "{} file was", "{} files were") == text
