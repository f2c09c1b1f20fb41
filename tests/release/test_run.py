"""The lanes of .ci/run make up the whole of the tests."""

import re
import shlex
from pathlib import Path

import pytest

from tests.support.lanes import FOR_EACH

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

SCRIPT = (Path(__file__).parent.parent.parent / ".ci/run").read_text()
COMMANDS = [shlex.split(line.strip()) for line in SCRIPT.splitlines() if "make pytest" in line]
[LANES] = re.findall(r'LANES="(.*?)"', SCRIPT)


def databases(command: list[str]) -> list[str]:
    [found] = [word for word in command if word.startswith("DATABASES=")]
    return found.removeprefix("DATABASES=").split()


def test_each_lane_runs_once() -> None:
    assert sorted(each for command in COMMANDS for each in databases(command)) == sorted(
        LANES.split()
    )
    for command in COMMANDS:
        assert "${lanes[@]}" in command


def test_the_lane_without_tests_for_one_database() -> None:
    """The Makefile runs them on the last database of a run only."""
    others = [each for command in COMMANDS for each in databases(command)[:-1]]
    assert others == [FOR_EACH]
