"""Words that the docs and messages avoid, and the terms to use instead."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "queued_storage"
PAGES = sorted(ROOT.glob("docs/*.md")) + [ROOT / f"{name}.md" for name in ("README", "CHANGELOG")]

REPLACED = {
    r"old doors?": "upgrade, compatibility",
    r"some(body|one) (else|must|who)|whoever": "a process, a worker, another process",
    r"put up with|puts up with": "allow, tolerate",
    r"(is|are|was|were|be|been) told of": "is notified of, is reported",
    r"carr(y|ies|ied|ying) ((the|its|a|every|each) )?(files?|bytes|cop(y|ies))": "upload",
    r"br(ings?|ought) back": "restore",
    r"on (its|their) way": "pending, transferring",
    r"(take|taken|takes) for lost": "declare lost",
    r"heard of( again)?": "expired lease",
    r"(?<!there )is no (text|number|time|name|storage|queue|function)": "is not a …",
    r"a text that is not empty": "a non-empty string",
    r"links? that lasts?": "stable URL",
    r"(free|freed|frees|freeing) ((the|its|a|every|each) )?(files?|local|cop(y|ies))": "evict",
}
WORDS = {re.compile(rf"\b({word})\b", re.I): better for word, better in REPLACED.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_uses_the_terms_of_the_field(page: Path) -> None:
    assert not list(found_in(page.read_text()))


def test_no_page_calls_a_url_an_address() -> None:
    for page in PAGES:
        # Code may contain socket addresses. Prose may mention IP and e-mail addresses.
        prose = re.sub(r"`[^`]*`", "", page.read_text())
        found = re.findall(r"(\S+)\s+address(?:es)?\b", prose, re.I)
        assert {word.lower() for word in found} <= {"ip", "e-mail", "email"}, page.stem


def test_messages_use_the_terms_of_the_field() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {problem}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in texts_of(path)
        for problem in found_in(text)
    ]
    assert not wrong, "\n".join(wrong)


def found_in(text: str) -> Iterator[str]:
    for word, better in WORDS.items():
        for match in word.finditer(text):
            yield f"{match[0]!r}: write {better!r}"


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and text of all string literals of a module, including docstrings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
