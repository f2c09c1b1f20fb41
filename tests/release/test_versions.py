"""The version, and what the page about versions lists as public."""

import re
import tomllib
from pathlib import Path

import pytest

from queued_storage import __version__
from tests.test_docs import blocks, page
from tests.test_public_names import NAMES

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_public_modules_are_those_whose_names_are_tested() -> None:
    [listed] = blocks(page("versions"), "text")
    assert listed.splitlines() == sorted(NAMES)


def test_changelog_has_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert __version__ in headings


def test_status_fits_the_version() -> None:
    is_candidate = bool(re.search(r"(a|b|rc|dev)\d+$", __version__))
    status = "4 - Beta" if is_candidate else "5 - Production/Stable"
    assert f"Development Status :: {status}" in PROJECT["classifiers"]
