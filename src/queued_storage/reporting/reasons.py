"""Error texts that can be stored and shown, because they contain no secrets."""

import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote

from django.core.files.storage import Storage

from ..exceptions import QueuedStorageError
from .redaction import CUT, without_secrets

MAX_LENGTH = 2000  # characters
# Not subclasses, such as the HTTPError of urllib, whose path is a URL
_SYSTEM_ERRORS = frozenset({OSError, *OSError.__subclasses__()})


def reason(error: BaseException, *storages: Storage) -> str:
    """Return the class and message of an error, without credentials and signed URLs."""
    text = _message_of(error)[: 2 * MAX_LENGTH]  # some contain a whole response
    for secret in sorted(set(_secrets_of(storages, set())), key=len, reverse=True):
        text = text.replace(secret, CUT)
    # The paths of a system call are known to be paths, and messages of this package to be harmless
    # but for what they quote.
    is_ours = isinstance(error, QueuedStorageError)
    text = _around(_path_in(error), text, lambda part: without_secrets(part, by_look=not is_ours))
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = text.replace("\x00", "\\0")  # PostgreSQL cannot store it
    text = text.encode(errors="backslashreplace").decode()  # lone surrogates, as in file names
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"


def _path_in(error: BaseException) -> str:
    """Return the path that an error of a system call is about."""
    path = getattr(error, "filename", None) if type(error) in _SYSTEM_ERRORS else None
    return path if isinstance(path, str) and path.startswith("/") else ""


def _around(kept: str, text: str, clean: Callable[[str], str]) -> str:
    return kept.join(map(clean, text.split(kept))) if kept else clean(text)


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # raised by its own __str__
        return ""


def _secrets_of(holder: object, seen: set[int]) -> Iterator[str]:
    """Yield the values of secret options, plain and quoted as in a URL.

    Options of storages inside are included.
    """
    if id(holder) in seen:
        return
    seen.add(id(holder))
    if isinstance(holder, Storage):
        yield from _secrets_of(vars(holder), seen)
    elif isinstance(holder, list | tuple):
        for item in holder:
            yield from _secrets_of(item, seen)
    elif isinstance(holder, Mapping):
        for name, value in list(holder.items()):
            if isinstance(value, str) and len(value) > 3 and is_secret(str(name)):
                yield from (value, quote(value), quote(value, safe=""))
            else:
                yield from _secrets_of(value, seen)


def one_line(text: str) -> str:
    """Escape characters that could break or forge a line of a log, such as newlines."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


_SECRET = re.compile(
    r"secret|passw|token|credential|signer|connection_string|(^|_)p?key(_id)?$|^sas", re.I
)


def is_secret(option: str) -> bool:
    """Whether a storage's option of this name contains a secret."""
    return _SECRET.search(option) is not None
