"""The options of a storage about the steps that its files have to pass."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..ledger.aliases import AliasedStorage
from ..steps import Step

STEP_OPTIONS = ("steps", "publish", "list_unpublished")
PUBLISH_MODES = ("at_once", "after_steps")


class SteppingStorage(AliasedStorage):
    """The part of a queued storage that knows its steps."""

    _options: dict[str, Any]

    def _require_valid_steps(self) -> None:
        """Raise ``ImproperlyConfigured`` unless the options have a valid form."""
        given = self._options.get("steps", ())
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ImproperlyConfigured(f"steps must be a list of steps, not {given!r}.")
        if (publish := self._options.get("publish", PUBLISH_MODES[0])) not in PUBLISH_MODES:
            raise ImproperlyConfigured(
                f"publish must be 'at_once' or 'after_steps', not {publish!r}."
            )
        if given and self._options.get("when_full") == "remote":
            raise ImproperlyConfigured(
                "when_full='remote' cannot be used with steps, which need a local copy."
            )
        if publish == "after_steps" and not given:
            raise ImproperlyConfigured(
                "publish='after_steps' needs the option 'steps' with at least one step."
            )

    @property
    def has_steps(self) -> bool:
        """Whether files have to pass steps before they are transferred."""
        return bool(self._options.get("steps"))

    @property
    def steps(self) -> list[Step]:
        """The steps, made once for this storage.

        Raises ``ImproperlyConfigured`` if one cannot be made.
        """
        made: list[Step] | None = vars(self).get("_steps")
        if made is None:
            made = [_made(given) for given in self._options.get("steps", ())]
            vars(self)["_steps"] = made
        return made

    @property
    def publish(self) -> str:
        """When readers get new files: one of ``PUBLISH_MODES``."""
        return str(self._options.get("publish", PUBLISH_MODES[0]))

    @property
    def is_gated(self) -> bool:
        """Whether files are published after their steps only."""
        return self.publish == "after_steps"

    @property
    def lists_unpublished(self) -> bool:
        """Whether ``listdir()`` lists files that are not published."""
        return bool(self._options.get("list_unpublished", True))


def _made(given: Any) -> Step:
    options: dict[str, Any] = {}
    if isinstance(given, Mapping):
        unknown = set(given) - {"BACKEND", "OPTIONS"}
        if unknown or "BACKEND" not in given:
            raise ImproperlyConfigured(
                f"A step that is a dictionary has the keys 'BACKEND' and 'OPTIONS', not "
                f"{', '.join(map(repr, given))}."
            )
        given, options = given["BACKEND"], dict(given.get("OPTIONS") or {})
    shown = given
    if isinstance(given, str):
        try:
            given = import_string(given)
        except ImportError as error:
            raise ImproperlyConfigured(f"The step {given!r} cannot be imported: {error}") from error
    if isinstance(given, type) and issubclass(given, Step):
        try:
            return given(**options)
        except TypeError as error:
            raise ImproperlyConfigured(f"The step {shown!r} cannot be made: {error}") from error
    if isinstance(given, Step) and not options:
        return given
    raise ImproperlyConfigured(
        f"The step {shown!r} is not a subclass of queued_storage.steps.Step."
    )
