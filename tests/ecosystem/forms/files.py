"""What the tests look at: the files on both sides."""

import io
import json
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command

DIRECTORIES = {"local": "disk", "remote": "far"}


def upload(name: str = "a.txt", content: bytes = b"text") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content, "text/plain")


def files(side: str) -> dict[str, bytes]:
    """All files on "disk" or "far" by name, drafts included."""
    root: Path = settings.BASE / side
    found = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def orphans(side: str) -> list[str]:
    """What the verb of this name lists, made as if all files were old."""
    lines = io.StringIO()
    for path in (path for path in (settings.BASE / DIRECTORIES[side]).rglob("*") if path.is_file()):
        os.utime(path, (0, 0))
    call_command("queued_storage", "orphans", side, "--json", stdout=lines)
    return [json.loads(line)["name"] for line in lines.getvalue().splitlines()]


def evict() -> None:
    """Free the local copies of all that is transferred."""
    call_command("queued_storage", "evict", "--all", verbosity=0, stderr=io.StringIO())
    assert files("disk") == {}


def state(file: Any) -> str:
    """The state in the ledger of a model's file."""
    return file.storage.queued_file(file.name).state
