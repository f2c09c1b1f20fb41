"""Remembers in the cache which files are transferred."""

import hashlib
import re
from binascii import b2a_base64
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from django.core.cache import BaseCache, InvalidCacheBackendError, caches
from django.core.cache.backends.locmem import LocMemCache

from ..conf import settings
from ..ledger.names import StoredName, is_own
from ..reporting.logs import logger
from ..reporting.reasons import reason

PER_PROCESS_TIMEOUT = 5  # seconds that a process may trust an entry another one has removed
MARK_TIMEOUT = 60  # seconds; longer than a reader takes from its query to remember()
_UNSETTLED = ""
_SAFE = re.compile(r"[!-~]{1,100}")  # memcached allows no other characters, and few of them


class Route(NamedTuple):
    """Where a transferred file is."""

    remote_name: str
    place: int  # the digest


class Routes:
    """The names of one alias that are transferred, each with its name on the remote.

    Only this fact is cached, and only to save a query: every answer is the same without a cache.
    Forgetting leaves a mark, so that a reader that queried the ledger before a change cannot put
    the old answer back after it.
    """

    def __init__(self, alias: str, prefix: str) -> None:
        self._alias = alias
        self._prefix = prefix if _SAFE.fullmatch(prefix) else _digest(prefix)

    def key(self, name: str) -> str:
        """Return the cache key of a name."""
        return _key(self._alias, self._prefix, name)

    def find(self, name: str, places: Collection[int]) -> Route | None:
        """Return where the file is, if that is remembered, and one of these places."""
        found = _ask(lambda cache: cache.get(self.key(name)))
        return self._read(places, name, found) if found else None

    def find_many(self, names: Iterable[str], places: Collection[int]) -> dict[str, Route]:
        keys = {self.key(name): name for name in names}
        found = _ask(lambda cache: cache.get_many(keys)) or {}
        routes = {keys[key]: self._read(places, keys[key], found[key]) for key in found}
        return {name: route for name, route in routes.items() if route}

    def _read(self, places: Collection[int], name: str, found: object) -> Route | None:
        """Return what ``remember()`` wrote; a task of the ancestor's sets the key to True."""
        if not isinstance(found, tuple | list) or len(found) != len(Route._fields):
            return None
        if found[1] in places:
            return Route._make(found)
        self.forget(name)  # otherwise the present place could not be remembered
        return None

    def remember(self, name: str, route: Route) -> None:
        """Remember where a file was transferred to, unless a mark says that it was just changed."""
        key, value = self.key(name), tuple(route)
        _ask(lambda cache: cache.add(key, value, _timeout(cache)))

    def forget(self, name: str) -> None:
        """Remember nothing of the file for ``MARK_TIMEOUT`` seconds."""
        self.forget_all([name])

    def forget_all(self, names: Iterable[str]) -> None:
        """Do the same for several files."""
        marks = dict.fromkeys(map(self.key, names), _UNSETTLED)
        _ask(lambda cache: cache.set_many(marks, min(_timeout(cache), MARK_TIMEOUT)))


@lru_cache(100)
def routes_of(alias: str, prefix: str) -> Routes:
    return Routes(alias, prefix)


@lru_cache(1000)  # a page shows the same files again and again
def _key(alias: str, prefix: str, name: str) -> str:
    digest = _digest(f"{alias}\0{name}")
    return f"{prefix}_{digest}"


def _digest(text: str) -> str:
    """Return a short digest: Django's caches check each character of a key."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return b2a_base64(digest[:21], newline=False).decode()


def name_at_once(alias: str, prefix: str, name: str | None, place: int) -> str | None:
    """Return the remote name that ``find()`` finds, in as few steps as possible.

    Most URLs of a page are found so. "" is returned if the cache has no answer, and None for
    whatever takes a closer look.
    """
    key, cache = _key_if_recorded(alias, prefix, name), settings.cache
    if not key or cache is None:
        return None
    try:
        found = caches[cache].get(key)
    except Exception as error:
        _note_failure(error)
        return ""
    match found:
        case (known, at) if at == place:
            remote_name: str = known
            return remote_name
    return None if found else ""


@lru_cache(1000)  # for the same reason
def _key_if_recorded(alias: str, prefix: str, name: str | None) -> str:
    """Return the key of a name as the ledger may have it; "" for any other, and any spelling."""
    is_plain = name is not None and StoredName.of(name) == (name, "") and not is_own(name)
    return routes_of(alias, prefix).key(name) if name and is_plain else ""


def _ask(question: Callable[[BaseCache], Any]) -> Any:
    """Return the cache's answer; None without a cache, and from one that fails."""
    alias = settings.cache
    if alias is None:
        return None
    try:
        return question(caches[alias])
    except Exception as error:
        _note_failure(error)
        return None


def _note_failure(error: Exception) -> None:
    if isinstance(error, InvalidCacheBackendError):
        raise error  # the settings are wrong
    logger.warning("The cache is not used: %s", reason(error))


def remembers_at_once() -> bool:
    """Return whether it takes no request to remember a name, so that those of a page may be."""
    return bool(_ask(is_per_process))


def is_per_process(cache: BaseCache) -> bool:
    return isinstance(cache, LocMemCache)


def _timeout(cache: BaseCache) -> float:
    longest = PER_PROCESS_TIMEOUT if is_per_process(cache) else settings.cache_timeout
    return min(longest, settings.cache_timeout)
