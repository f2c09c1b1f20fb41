"""A step that compares bytes with names: ``queued_storage.steps.types.MatchType``."""

import mimetypes
import os
from collections.abc import Sequence
from fnmatch import fnmatch

from ..exceptions import MissingLibrary
from . import PASS, REJECT, Outcome, Step, StepFile

try:
    import puremagic
except ImportError as error:
    raise MissingLibrary("puremagic", "types", "The step MatchType") from error

HEAD = 64 * 1024  # bytes that are looked at
CERTAIN = 0.3  # the confidence of a signature of three bytes; a text may begin with fewer
# Types whose files always begin with a signature, so that bytes without one are something else
SIGNED = ("image/*", "audio/*", "video/*", "application/pdf", "application/zip", "application/gzip")
TEXTS = ("text/*", "image/svg+xml", "application/json", "application/xml", "application/javascript")


class MatchType(Step):
    """Reject files whose bytes are of another type than their names say.

    With ``allowed``, content types such as ``"image/*"`` or ``"application/pdf"``, files of other
    types are rejected too. Texts have no signature, so their type is that of their name.
    """

    def __init__(self, *, allowed: Sequence[str] | None = None) -> None:
        self._allowed = None if allowed is None else tuple(allowed)

    def run(self, file: StepFile) -> Outcome:
        named = mimetypes.guess_type(file.name)[0] or ""
        with file.open() as opened:
            found = _signatures(opened.read(HEAD))
        kinds = {kind for _extension, kind in found}
        if not found:
            if _is_one_of(named, SIGNED) and not _is_one_of(named, TEXTS):
                return REJECT(f"The name says {named}, but the bytes are of no known type.")
            kinds = {named}
        elif named and not self._is_same(file.name, named, found):
            shown = ", ".join(sorted(filter(None, kinds))) or "something else"
            return REJECT(f"The name says {named}, but the bytes say {shown}.")
        if self._allowed is not None and not any(_is_one_of(each, self._allowed) for each in kinds):
            shown = ", ".join(sorted(filter(None, kinds))) or "unknown type"
            return REJECT(f"Files of the type {shown} are not allowed.")
        return PASS

    @staticmethod
    def _is_same(name: str, named: str, found: list[tuple[str, str]]) -> bool:
        extension = os.path.splitext(name)[1].lower()
        return any(extension == each or named == kind for each, kind in found)


def _signatures(head: bytes) -> list[tuple[str, str]]:
    """Return the extensions and content types that the bytes may be of."""
    try:
        found = puremagic.magic_string(head) if head else []
    except puremagic.PureError:
        return []
    return [
        (f".{match.extension.lstrip('.')}".lower(), match.mime_type or "")
        for match in found
        if match.confidence >= CERTAIN
    ]


def _is_one_of(kind: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(kind, pattern) for pattern in patterns)
