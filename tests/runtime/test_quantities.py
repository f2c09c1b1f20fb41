import pytest

from queued_storage.runtime.quantities import parse_duration, parse_size

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), (" 30D ", 2592000), ("1.5h", 5400), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("500", 500), ("20M", 20 << 20), ("1.5GiB", 3 << 29), ("2 kb", 2048), ("1T", 1 << 40)],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "5", "-5s", "1h30m", "inf", "٣s", "9" * 400 + "s"])
def test_texts_that_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|too long"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "-1", "much", "10%", "nan", "1e3", "9" * 400])
def test_texts_that_are_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|too large"):
        parse_size(text)
