import io

import pytest

pytest.importorskip("puremagic")

from PIL import Image  # after the check

from queued_storage.steps import PASS, REJECT
from queued_storage.steps.types import MatchType
from tests.steps.test_images import InMemory, photo

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]


def picture(kind: str) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (8, 8)).save(target, kind)
    return target.getvalue()


EXE = b"MZ\x90\0" + b"\0" * 200
PDF = b"%PDF-1.4\n1 0 obj\n"
HTML = b"<html><body><script>alert(1)</script></body></html>"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jpg", photo()),
        ("a.JPEG", picture("JPEG")),
        ("a.png", picture("PNG")),
        ("a.gif", picture("GIF")),
        ("a.webp", picture("WEBP")),
        ("a.pdf", PDF),
        ("a.html", HTML),
        ("a.txt", b"BM is not a bitmap here"),
        ("a.csv", b"a,b\n1,2\n"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("README", b"no extension"),
        ("a.txt", b""),
        ("archive.unknown", EXE),
    ],
)
def test_files_that_are_what_they_say(name: str, data: bytes) -> None:
    assert MatchType().run(InMemory(data, name)) is PASS


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jpg", EXE),
        ("a.jpg", HTML),
        ("a.jpg", b"just text"),
        ("a.png", picture("GIF")),
        ("a.pdf", EXE),
        ("a.txt", EXE),
        ("a.csv", PDF),
    ],
)
def test_files_that_are_something_else(name: str, data: bytes) -> None:
    assert isinstance(MatchType().run(InMemory(data, name)), REJECT)


@pytest.mark.parametrize(
    ("name", "data", "is_allowed"),
    [
        ("a.jpg", photo(), True),
        ("a.pdf", PDF, True),
        ("a.txt", b"text", False),
        ("unknown", EXE, False),
        ("unknown", photo(), True),
    ],
)
def test_only_some_types_are_allowed(name: str, data: bytes, is_allowed: bool) -> None:
    found = MatchType(allowed=["image/*", "application/pdf"]).run(InMemory(data, name))
    assert (found is PASS) == is_allowed
