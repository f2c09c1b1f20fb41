"""What the tests look at: the files on both sides."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile


def upload(name: str = "a.txt", content: bytes = b"text") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content, "text/plain")


def files(side: str) -> dict[str, bytes]:
    """All files on "disk" or "far" by name, drafts included."""
    root: Path = settings.BASE / side
    found = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def state(file: Any) -> str:
    """The state in the ledger of a model's file."""
    return file.storage.queued_file(file.name).state
