"""The options that limit a local storage."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from queued_storage.files.limits import Disk, FreeSpace, Limits

GIGABYTE = 1024**3


def limits(**options: Any) -> Limits:
    return Limits.from_options(options)


def test_sizes_and_times_are_numbers_or_texts() -> None:
    as_texts = limits(
        keep_local={"max_bytes": "20G", "min_free": "10%", "min_age": "1h"},
        max_pending_bytes="1.5M",
    )
    assert as_texts == Limits(20 * GIGABYTE, FreeSpace(share=0.1), 3600.0, 1572864)
    as_numbers = limits(
        keep_local={"max_bytes": 500, "min_free": 100, "min_age": 60}, max_pending_bytes=7
    )
    assert as_numbers == Limits(500, FreeSpace(100), 60.0, 7)
    assert limits(keep_local={"min_free": "1k"}).min_free == FreeSpace(1024)


def test_no_limits_by_default() -> None:
    assert not limits().are_given
    assert not limits(keep_local={}).are_given
    assert limits(when_full="remote").are_given
    assert not limits(max_pending_bytes=1).evict
    assert limits(keep_local={"min_free": 1}).evict


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"keep_local": "20G"}, "keep_local must be a dictionary"),
        ({"keep_local": {"max_byte": 1}}, "Did you mean 'max_bytes'"),
        ({"keep_local": {"age": "1h"}}, "Did you mean 'min_age'"),
        ({"keep_local": {"max_bytes": "much"}}, r"keep_local\['max_bytes'\] must be a number"),
        ({"keep_local": {"max_bytes": 0}}, r"keep_local\['max_bytes'\] must be"),
        ({"keep_local": {"max_bytes": True}}, r"keep_local\['max_bytes'\] must be"),
        ({"keep_local": {"min_free": "100%"}}, r"keep_local\['min_free'\] must be"),
        ({"keep_local": {"min_free": "-1%"}}, r"keep_local\['min_free'\] must be"),
        ({"keep_local": {"min_free": 1.5}}, r"keep_local\['min_free'\] must be"),
        ({"keep_local": {"min_age": "soon"}}, r"keep_local\['min_age'\] must be"),
        ({"keep_local": {"min_age": -1}}, r"keep_local\['min_age'\] must be"),
        ({"keep_local": {"min_age": "9" * 400 + "w"}}, r"keep_local\['min_age'\] must be"),
        ({"max_pending_bytes": "20%"}, "max_pending_bytes must be"),
        ({"when_full": "wait"}, "when_full must be 'refuse' or 'remote'"),
    ],
)
def test_invalid_values_say_what_to_do(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=problem) as raised:
        limits(**options)
    assert "/limits.html#" in str(raised.value)


def test_the_excess_is_that_of_the_worst_limit() -> None:
    both = limits(keep_local={"max_bytes": 1000, "min_free": "50%"})
    disk = Disk(size=10_000, free=4_900)
    assert both.excess(900, disk) == 100
    assert both.excess(1500, disk) == 500
    assert both.excess(900, None) == 0
    assert limits().excess(10**12, disk) == 0


def test_growth_is_freed_ahead_up_to_a_share() -> None:
    one = limits(keep_local={"max_bytes": 1600})
    assert one.excess(1600, None, ahead=30) == 30
    assert one.excess(1600, None, ahead=10**9) == 100
    assert one.excess(1000, None, ahead=30) == 0
