"""Spans around the work on a file, for a tracer such as OpenTelemetry's."""

from collections.abc import Callable
from types import TracebackType

Fact = str | int


class Span:
    """A piece of work. This class ignores it; a tracer uses a subclass."""

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
        """Add facts that were unknown when the span began."""


Tracer = Callable[[str, dict[str, Fact]], Span]

_SILENT = Span()
_tracer: Tracer | None = None


def span(operation: str, **facts: Fact) -> Span:
    """Return a span of this name for a ``with`` block; it costs little without a tracer."""
    return _tracer(operation, facts) if _tracer else _SILENT


def trace_with(tracer: Tracer | None) -> None:
    """Use this tracer for all spans from now on; None turns tracing off."""
    global _tracer
    _tracer = tracer
