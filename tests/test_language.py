"""Words that a Django developer would have to translate, and what to write in their place."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_database

ROOT = Path(__file__).parent.parent
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
    r"is no (text|number|time|name|storage|queue|function)": "is not a …",
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
        # Code has sockets; prose may name the address of a host, or of a mailbox.
        prose = re.sub(r"`[^`]*`", "", page.read_text())
        found = re.findall(r"(\S+)\s+address(?:es)?\b", prose, re.I)
        assert {word.lower() for word in found} <= {"ip", "e-mail", "email"}, page.stem


def found_in(text: str) -> Iterator[str]:
    for word, better in WORDS.items():
        for match in word.finditer(text):
            yield f"{match[0]!r}: write {better!r}"
