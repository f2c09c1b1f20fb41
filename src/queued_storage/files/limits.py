"""The limits of a local storage, as the options of a queued storage give them."""

import difflib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import Storage

from ..runtime.documentation import see
from ..runtime.quantities import parse_duration, parse_size
from .localfiles import has_paths
from .spelling import root_of

LIMITS = ("keep_local", "max_pending_bytes", "when_full")  # options of a queued storage
KEYS = ("max_bytes", "min_free", "min_age")  # of the option "keep_local"
WHEN_FULL = ("refuse", "remote")
AHEAD_MAX = 16  # the part of "max_bytes" that is freed for files to come, at most
DOCS = see("limits#let-workers-make-room")


class FreeSpace(NamedTuple):
    """The space of a disk that must be free: a number of bytes, or a share of the disk."""

    bytes: int = 0
    share: float = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """A size such as ``20G``, or a percentage such as ``15%``; else ``ValueError``."""
        number = text.strip().removesuffix("%")
        if number == text.strip():
            return cls(bytes=parse_size(text))
        if not number.replace(".", "", 1).isdecimal():
            raise ValueError(f"{text!r} is not a valid percentage; use for example 15%")
        share = float(number) / 100
        if share >= 1:
            raise ValueError(f"{text!r} is not less than 100%")
        return cls(share=share)

    def missing(self, disk: "Disk") -> int:
        """How many more bytes must become free on a disk; negative if none."""
        return self.bytes + round(disk.size * self.share) - disk.free


NO_SPACE = FreeSpace()


class Disk(NamedTuple):
    """How large a disk is, and how much of it is free, in bytes."""

    size: int
    free: int

    @classmethod
    def of(cls, storage: Storage) -> Self | None:
        """That of a local storage; None if it has no directory."""
        root = root_of(storage) if has_paths(storage) else ""
        if not (root and os.path.isdir(root)):
            return None
        usage = shutil.disk_usage(root)
        return cls(usage.total, usage.free)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a local storage may hold."""

    max_bytes: int | None = None  # of all local copies, as far as they can be evicted
    min_free: FreeSpace = NO_SPACE
    min_age: float = 0  # seconds since a file was saved or read
    max_pending_bytes: int | None = None  # of the files that only the local storage has
    when_full: str = WHEN_FULL[0]

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Read the options; ``ImproperlyConfigured`` says what is wrong with one."""
        keep = options.get("keep_local") or {}
        if not isinstance(keep, Mapping):
            raise ImproperlyConfigured(
                f'keep_local must be a dictionary such as {{"max_bytes": "20G"}}, not {keep!r}. '
                f"{DOCS}"
            )
        for key in keep:
            if key not in KEYS:
                nearest = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0)[0]
                raise ImproperlyConfigured(
                    f"keep_local has an unknown key {key!r}. Did you mean {nearest!r}? {DOCS}"
                )
        when_full = options.get("when_full", WHEN_FULL[0])
        if when_full not in WHEN_FULL:
            raise ImproperlyConfigured(
                f"when_full must be 'refuse' or 'remote', not {when_full!r}. {DOCS}"
            )
        return cls(
            max_bytes=_size(keep, "max_bytes", "keep_local['max_bytes']"),
            min_free=_free_space(keep.get("min_free")),
            min_age=_seconds(keep.get("min_age")),
            max_pending_bytes=_size(options, "max_pending_bytes", "max_pending_bytes"),
            when_full=when_full,
        )

    @property
    def evict(self) -> bool:
        """Whether workers evict files by themselves."""
        return self.max_bytes is not None or self.min_free != NO_SPACE

    @property
    def are_given(self) -> bool:
        """Whether the project has set any of them."""
        return self.evict or self.max_pending_bytes is not None or self.when_full != WHEN_FULL[0]

    def excess(self, local_bytes: int, disk: Disk | None, *, ahead: int = 0) -> int:
        """How many bytes must be evicted; 0 if none.

        ``ahead`` are the bytes that will soon be saved.
        """
        found = [0]
        if self.max_bytes is not None:
            found.append(local_bytes - self.max_bytes + min(ahead, self.max_bytes // AHEAD_MAX))
        if self.min_free != NO_SPACE and disk:
            found.append(self.min_free.missing(disk))
        return max(found)


def _size(options: Mapping[str, Any], key: str, name: str) -> int | None:
    value = options.get(key)
    if value is None:
        return None
    problem = f"{name} must be a number of bytes or a size such as '20G', not {value!r}. {DOCS}"
    if isinstance(value, str):
        try:
            value = parse_size(value)
        except ValueError as error:
            raise ImproperlyConfigured(problem) from error
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ImproperlyConfigured(problem)
    return value


def _free_space(value: Any) -> FreeSpace:
    if value is None:
        return NO_SPACE
    problem = (
        f"keep_local['min_free'] must be a number of bytes, a size such as '20G' or a share of "
        f"the disk such as '10%', not {value!r}. {DOCS}"
    )
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return FreeSpace(value)
    if not isinstance(value, str):
        raise ImproperlyConfigured(problem)
    try:
        return FreeSpace.parse(value)
    except ValueError as error:
        raise ImproperlyConfigured(problem) from error


def _seconds(value: Any) -> float:
    if value is None:
        return 0
    problem = (
        f"keep_local['min_age'] must be a number of seconds or a time such as '1h', not "
        f"{value!r}. {DOCS}"
    )
    if isinstance(value, str):
        try:
            value = parse_duration(value)
        except ValueError as error:
            raise ImproperlyConfigured(problem) from error
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 10**9:
        raise ImproperlyConfigured(problem)
    return float(value)
