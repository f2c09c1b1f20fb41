import pytest

from queued_storage.reporting.counts import about, counted

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 seconds"),
        (1, "1 second"),
        (119.9, "119 seconds"),
        (120, "2 minutes"),
        (119 * 60, "119 minutes"),
        (7200, "2 hours"),
        (47 * 3600, "47 hours"),
        (400 * 86400, "400 days"),
    ],
)
def test_about(seconds: float, text: str) -> None:
    assert about(seconds) == text
