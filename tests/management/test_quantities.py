import re
from datetime import timedelta

import pytest
from django.core.management import CommandError

from queued_storage.management import quantities
from tests.support.command import run

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("30D", 2592000), ("1w", 604800)]
)
def test_parse_duration(text: str, seconds: int) -> None:
    assert quantities.parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("text", "count"), [("500", 500), ("20M", 20 << 20), ("1.5GiB", 3 << 29), ("2 kb", 2048)]
)
def test_parse_size(text: str, count: int) -> None:
    assert quantities.parse_size(text) == count


@pytest.mark.one_database
def test_format_duration() -> None:
    assert [quantities.format_duration(seconds) for seconds in (5, 65, 3665)] == [
        "0:05",
        "1:05",
        "1:01:05",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--older-than", "5"],
        ["--older-than", "9999999d"],
        ["--older-than", f"{'9' * 40}w"],
        ["--older-than", f"{'9' * 400}s"],
        ["--size", "much"],
        ["--size", "9" * 400],
        ["--until-free", "100%"],
        ["--until-free", "9" * 400],
    ],
)
def test_invalid_durations_and_sizes(arguments: list[str]) -> None:
    with pytest.raises(CommandError, match=re.escape(arguments[1])):
        run("evict", *arguments)
