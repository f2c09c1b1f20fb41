"""Tells whether two sides of a queued storage lead to one place."""

from collections.abc import Iterator
from enum import Enum, auto
from itertools import chain, combinations, product
from typing import NamedTuple

from django.core.files.storage import Storage

from ..remotes.classes import LIBRARY
from ..remotes.places import (
    IN_PROCESS,
    QUEUED,
    Place,
    are_apart,
    has_fixed_place,
    place_of,
    same_place,
)
from .sides import Side, Sides


class Kind(Enum):
    """How the sides are connected."""

    SAME = auto()
    INSIDE = auto()  # one contains the other
    CIRCLE = auto()  # a queued storage is, in the end, its own side


class Clash(NamedTuple):
    """Two sides that are not two places, so that what is done to one copy is done to the other."""

    kind: Kind
    reason: str


def clash_of(sides: Sides) -> Clash | None:
    """Return how the final places of two sides are connected; None if all are different places.

    The final places of a queued storage are those of its own sides. No request is made, and no
    library is imported that this does not need.
    """
    try:
        finals = [list(_final_sides(side, (sides,))) for side in sides]
    except _Circle as circle:
        return Clash(
            Kind.CIRCLE,
            f"{circle.side.name}={circle.side.given!r} leads back to this storage, so a file "
            f"would be uploaded to itself.",
        )
    pairs = (pair for two in combinations(finals, 2) for pair in product(*two))
    return next(filter(None, (_compare(*pair) for pair in pairs)), None)


def place_of_side(side: Side) -> Place:
    """Return where a side keeps its files; of a queued storage, its final places."""
    return place_of_made(side.storage)


def place_of_made(storage: Storage) -> Place:
    """Return the same for the storage of a side."""
    inner = getattr(storage, "sides", None)
    if not isinstance(inner, Sides):
        return place_of(storage)
    present = chain(_present_sides(inner.local), _present_sides(inner.remote))
    finals = [place_of(each.storage) for each in present]
    if not all(place.digest for place in finals):
        return Place(QUEUED, "", only=id(storage))
    return Place(QUEUED, " and ".join(place.description for place in finals))


def is_fixed(side: Side) -> bool:
    """Return whether the place of a side is certainly the same in every thread."""
    return all(has_fixed_place(each.storage) for each in _present_sides(side))


class _Circle(Exception):
    def __init__(self, side: Side) -> None:
        super().__init__()
        self.side = side


def _final_sides(side: Side, around: tuple[Sides, ...]) -> Iterator[Side]:
    inner = _inner_of(side)
    if inner is None:
        yield side
        return
    if any(inner is each for each in around):
        raise _Circle(side)
    for each in inner:
        yield from _final_sides(each, (*around, inner))


def _present_sides(side: Side) -> Iterator[Side]:
    """Yield the final sides that new files get to: a storage is at one place while files are moved
    there from previous remotes."""
    inner = _inner_of(side)
    if inner is None:
        yield side
        return
    for each in (inner.local, inner.remote):
        yield from _present_sides(each)


def _inner_of(side: Side) -> Sides | None:
    inner = None if _is_of_library(side) else getattr(side.storage, "sides", None)
    return inner if isinstance(inner, Sides) else None


def _compare(one: Side, other: Side) -> Clash | None:
    if _is_of_library(one) != _is_of_library(other):
        made = other if _is_of_library(one) else one
        if place_of(made.storage).kind in IN_PROCESS:
            return None
    places = place_of(one.storage), place_of(other.storage)
    if are_apart(*places):
        return None
    first, second = (place.description for place in places)
    names = f"{one.name} and {other.name}"
    if same_place(*places):
        return Clash(
            Kind.SAME,
            f"{names} point to the same location, {first!r}: {_danger(one, other)}.",
        )
    return Clash(
        Kind.INSIDE,
        f"one of the locations of {names} contains the other ({first!r} and {second!r}), "
        f"so a file of one may be taken for a file of the other.",
    )


def _danger(one: Side, other: Side) -> str:
    if one.name == "local":
        return "evicting the local copy would delete the only copy"
    if other.name == "mirrors":
        return "a file would not get a second copy there"
    return "removing the old one would delete the only copy"


def _is_of_library(side: Side) -> bool:
    """Return whether the side is made by django-storages, which takes long to import."""
    spec, _options = side.specification()
    return isinstance(spec, str) and spec.startswith(LIBRARY)
