"""OpenTelemetry spans for saves, steps, attempts, evictions and purges."""

from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType

from .exceptions import LeaseLost, MissingLibrary
from .reporting.spans import Fact, Span, trace_with

try:
    from opentelemetry import trace
except ImportError as error:
    raise MissingLibrary("OpenTelemetry's API", "opentelemetry", "Tracing") from error


def instrument(provider: "trace.TracerProvider | None" = None) -> None:
    """Send spans to this provider, by default to the global provider of OpenTelemetry."""
    tracer = trace.get_tracer("queued_storage", tracer_provider=provider)
    trace_with(partial(_OpenTelemetrySpan, tracer))


def uninstrument() -> None:
    """Stop sending spans."""
    trace_with(None)


class _OpenTelemetrySpan(Span):
    """Records only the class of an error, because its text may contain secrets or file names."""

    def __init__(self, tracer: "trace.Tracer", operation: str, facts: dict[str, Fact]) -> None:
        self._block: AbstractContextManager[trace.Span] = tracer.start_as_current_span(
            f"queued_storage.{operation}",
            attributes=_attributes(facts),
            record_exception=False,
            set_status_on_exception=False,
        )

    def __enter__(self) -> Span:
        self._span = self._block.__enter__()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exception_type is not None:
            self._span.set_attribute("error.type", exception_type.__qualname__)
            if not issubclass(exception_type, LeaseLost):  # superseded, which is no error
                self._span.set_status(trace.StatusCode.ERROR)
        self._block.__exit__(None, None, None)

    def note(self, **facts: Fact) -> None:
        self._span.set_attributes(_attributes(facts))


def _attributes(facts: dict[str, Fact]) -> dict[str, Fact]:
    return {f"queued_storage.{name}": fact for name, fact in facts.items()}
