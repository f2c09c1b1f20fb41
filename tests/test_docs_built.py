"""The built docs: their search, the API reference, and the index for language models."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support import services
from tests.support.waiting import until
from tests.test_docs import DOCS, PACKAGE, PAGES, ROOT, is_gone
from tests.test_public_names import NAMES

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

# What users search for, and the section that helps them. The first result must be this page.
SYMPTOMS = {
    "403": "403-forbidden-accessdenied",
    "AccessDenied": "403-forbidden-accessdenied",
    "stuck": "files-stay-pending-or-seem-stuck",
    "nothing is uploaded": "files-stay-pending-or-seem-stuck",
    "wrong password": "wrong-password-wrong-key",
    "SignatureDoesNotMatch": "wrong-password-wrong-key",
    "404": "404-not-found",
    "not found after deploy": "404-not-found",
    "disk full": "disk-full",
    "No space left on device": "disk-full",
    "database is locked": "database-is-locked",
    "no such table": "no-such-table",
    "permission denied": "permission-denied",
    "connection refused": "connection-refused",
    "too many connections": "too-many-connections",
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages that `make docs` has built, which takes a minute; or a new build."""
    place = DOCS / "_build" / "html"
    if is_current(place):
        return place
    place = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(place)]
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert found.returncode == 0, found.stderr
    return place


def is_current(place: Path) -> bool:
    last = place / "llms.txt"  # what a build writes at its end
    sources = [*DOCS.glob("*.*"), *PACKAGE.rglob("*.py"), *(ROOT / "deploy").rglob("*.*")]
    return last.exists() and last.stat().st_mtime > max(each.stat().st_mtime for each in sources)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    services.require("browser")
    with services.chromium() as driver:
        yield driver


@pytest.mark.timeout(400)
def test_search_finds_the_symptoms(built: Path, browser: Any) -> None:
    found = {}
    for words in SYMPTOMS:
        browser.get(f"{(built / 'search.html').as_uri()}?{urlencode({'q': words})}")
        links = until(lambda: browser.find_elements("css selector", "ul.search li a"))
        found[words] = links[0].get_attribute("href").rpartition("/")[2]
    assert {words: place.partition(".")[0] for words, place in found.items()} == dict.fromkeys(
        SYMPTOMS, "troubleshooting"
    )


def test_symptoms_have_a_section() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    headings = re.findall(r"^### (.*)$", text, re.M)
    titles = [re.sub(r"\W+", "-", heading.lower()) for heading in headings]
    for section in SYMPTOMS.values():
        assert [title for title in titles if title.startswith(section)], section


@pytest.mark.timeout(400)
def test_every_page_is_in_the_index_for_models(built: Path) -> None:
    text = (built / "llms.txt").read_text()
    links = re.findall(r"^- \[.+?\]\((.+?)\): .{20}", text, re.M)
    assert sorted(links) == sorted(f"{page}.html" for page in PAGES if page != "index")
    assert all((built / link).is_file() for link in links)


# The API reference

OTHER_PAGES = {"queued_storage.urls"}  # which has nothing to call
DIRECTIVE = re.compile(r"^\.\. auto\w+:: (\S+)$", re.M)


def documented() -> dict[str, list[str]]:
    """The names in the API reference, by module."""
    pieces = re.split(r"^\.\. py:module:: (\S+)$", (DOCS / "api.md").read_text(), flags=re.M)
    return {
        module: DIRECTIVE.findall(text)
        for module, text in zip(pieces[1::2], pieces[2::2], strict=True)
    }


def test_every_public_name_is_in_the_api_reference() -> None:
    from queued_storage import backends

    expected = {
        module: sorted(
            name
            for name in names
            if not (module == backends.__name__ and is_gone(getattr(backends, name)))
        )
        for module, names in NAMES.items()
        if module not in OTHER_PAGES
    }
    found = {module: sorted(names) for module, names in documented().items()}
    found["queued_storage.queues.base"].append("BaseQueue")  # has an entry in queued_storage.queues
    assert {module: sorted(names) for module, names in found.items()} == expected


@pytest.mark.timeout(400)
def test_every_public_name_has_a_docstring(built: Path) -> None:
    html = (built / "api.html").read_text()
    for module, names in documented().items():
        for name in names:
            shown = re.search(rf'id="{module}.{name}">.*?<dd>(.*?)</dd>', html, re.S)
            assert shown, name
            assert re.search(r"<p>(?!Bases: )", shown[1]), f"{module}.{name}"
