"""Where a tracer is told of what is done with a file."""

from collections.abc import Callable
from types import TracebackType

Fact = str | int


class Span:
    """One piece of work while it is done; this one tells nobody."""

    def __enter__(self) -> "Span":
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def note(self, **facts: Fact) -> None:
        """Add what is known only now."""


Tracer = Callable[[str, dict[str, Fact]], Span]

_SILENT = Span()
_tracer: Tracer | None = None


def span(operation: str, **facts: Fact) -> Span:
    """A span of this name, for a ``with`` block; without a tracer it costs next to nothing."""
    return _tracer(operation, facts) if _tracer else _SILENT


def trace_with(tracer: Tracer | None) -> None:
    """Have this tracer told from now on, or nobody."""
    global _tracer
    _tracer = tracer
