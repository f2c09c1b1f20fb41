"""Which texts can be names of files."""

import posixpath
from os import PathLike
from typing import NoReturn

from ..exceptions import InvalidName
from .models import NAME_MAX_BYTES, NAME_MAX_LENGTH

COMPONENT_MAX_BYTES = 255  # on the file systems in use
LEADS_OUT = "it leads out of the storage; give a relative name without '..'"

Name = str | PathLike[str]


def tidy(name: Name) -> str:
    """The one spelling of a name: forward slashes, no ``./`` and no ``//``."""
    text = str(name).replace("\\", "/")
    return posixpath.normpath(text) if text else text


def tidy_new(name: Name | None) -> str:
    """The same for a file to be written; ``InvalidName`` for what the one spelling would hide."""
    if name is None or isinstance(name, int | bytes):  # the name of a temporary file may be that
        _refuse(name, "it is no text; give the file a name")
    text = str(name).replace("\\", "/")
    if ".." in text.split("/"):
        _refuse(text, LEADS_OUT)
    if text.endswith("/"):
        _refuse(text, "it is a directory's; add the file's own name")
    return tidy(text)


def can_be_recorded(name: str) -> bool:
    """Whether a row can have this (tidied) name; any other never reaches the database."""
    return not _problem(name)


def require_storable(name: str, *, on_file_system: bool) -> None:
    """Raise ``InvalidName`` for a name that could not be kept as it is."""
    problem = _problem(name)
    if not problem and on_file_system:
        longest = max(name.split("/"), key=lambda component: len(component.encode()))
        if len(longest.encode()) > COMPONENT_MAX_BYTES:
            problem = (
                f"one part has {len(longest.encode())} bytes in UTF-8, more than the "
                f"{COMPONENT_MAX_BYTES} that file systems take; shorten it"
            )
    if problem:
        _refuse(name, problem)


def _problem(name: str) -> str:
    if not name or name == ".":
        return "it is empty; give the file a name"
    if "\0" in name:
        return "it has a NUL character; remove it"
    if name.startswith("/") or ".." in name.split("/"):
        return LEADS_OUT
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it is no valid Unicode; decode it properly first"
    if len(name) > NAME_MAX_LENGTH or size > NAME_MAX_BYTES:
        return f"it has {len(name)} characters, more than the {NAME_MAX_LENGTH} of the ledger"
    return ""


def _refuse(name: object, problem: str) -> NoReturn:
    shown = repr(name)
    shown = shown if len(shown) <= 80 else shown[:77] + "…"
    raise InvalidName(f"{shown} cannot be the name of a stored file: {problem}.")
