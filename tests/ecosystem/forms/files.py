"""Helpers for the files on both sides."""

import io
import json
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command

from queued_storage.files.markers import MARKER

DIRECTORIES = {"local": "disk", "remote": "far"}


def upload(name: str = "a.txt", content: bytes = b"text") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content, "text/plain")


def files(side: str) -> dict[str, bytes]:
    """Return the content of all files on "disk" or "far" by name, including drafts, without the
    marker of the local storage."""
    root: Path = settings.BASE / side
    found = (path for path in root.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def orphans(side: str) -> list[str]:
    """Return the names that ``orphans`` lists, after backdating all files."""
    lines = io.StringIO()
    for path in (path for path in (settings.BASE / DIRECTORIES[side]).rglob("*") if path.is_file()):
        os.utime(path, (0, 0))
    call_command("queued_storage", "orphans", side, "--json", stdout=lines)
    return [json.loads(line)["name"] for line in lines.getvalue().splitlines()]


def evict() -> None:
    """Evict the local copies of all transferred files."""
    call_command("queued_storage", "evict", "--all", verbosity=0, stderr=io.StringIO())
    assert files("disk") == {}


def state(file: Any) -> str:
    """Return the state of a model's file in the ledger."""
    return file.storage.queued_file(file.name).state
