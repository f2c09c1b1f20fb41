"""URLs of the project in files that are read elsewhere, as on a package index."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from queued_storage.runtime import documentation

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
URLS: dict[str, str] = PROJECT["urls"]
DOCS, SOURCE = URLS["Documentation"], URLS["Source"]
RAW = SOURCE.replace("github.com", "raw.githubusercontent.com")
FILES = [
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "README.md",
    "SECURITY.md",
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(".github/**/*.*"))),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md"))),
]
FORMS = ("/issues", "/security/advisories/new")  # pages without a file


def urls(file: str) -> list[str]:
    found = re.findall(r"https://[^\s)\]>\"'`]+", (ROOT / file).read_text())
    name = SOURCE.rpartition("/")[2]
    return [url.rstrip(".,") for url in found if f"/{name}" in url]


@pytest.mark.parametrize("file", FILES)
def test_urls_of_the_project_lead_to_files(file: str) -> None:
    for url in urls(file):
        assert leads_to_a_page(url), url


def leads_to_a_page(url: str) -> bool:
    url = url.partition("#")[0]
    if url.startswith(DOCS):
        page = url.removeprefix(DOCS).removesuffix(".html") or "index"
        return (ROOT / "docs" / f"{page}.md").is_file()
    for prefix in (f"{SOURCE}/blob/main/", f"{RAW}/main/"):
        if url.startswith(prefix):
            return (ROOT / url.removeprefix(prefix)).is_file()
    return url == SOURCE or url in [f"{SOURCE}{form}" for form in FORMS]


def test_messages_and_metadata_have_the_same_documentation() -> None:
    assert documentation.DOCS == DOCS


def test_project_urls_lead_to_pages() -> None:
    assert all(leads_to_a_page(url) for url in URLS.values())


def test_links_of_the_readme_are_absolute() -> None:
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.M)
    assert links
    assert all(link.startswith("https://") for link in links)


def test_references_of_the_readme_exist_and_are_used() -> None:
    text = (ROOT / "README.md").read_text()
    defined = re.findall(r"^\[([^\]]+)\]: ", text, re.M)
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.M | re.S)
    used = re.findall(r"(?<![!\]])\[([^\]]+)\](?![(:])", prose)
    assert sorted(set(used), key=str.lower) == sorted(defined, key=str.lower)


@pytest.mark.parametrize("template", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")))
def test_templates_of_issues(template: Path) -> None:
    form = yaml.safe_load(template.read_text())
    if template.name == "config.yml":
        assert form["contact_links"]
        return
    assert form["name"]
    assert form["description"]
    fields = [field["id"] for field in form["body"]]
    assert len(fields) == len(set(fields))


def test_hooks_call_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    [local] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        make, target = hook["entry"].split()
        assert make == "make"
        assert target in targets


def test_read_the_docs_builds_with_the_makefile() -> None:
    build = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())["build"]
    assert build["commands"][0] == "make docs"
    assert f"Programming Language :: Python :: {build['tools']['python']}" in PROJECT["classifiers"]
