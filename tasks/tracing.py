"""Spans for OpenTelemetry: one trace per command, from the HTTP request to its deliveries.

Spans are exported if ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` is set, and the extra
``otel`` is installed. OpenTelemetry's other variables, such as ``OTEL_TRACES_SAMPLER``, apply as well. Otherwise
nothing here does anything.

A request's span becomes the parent of all later spans, because commands and events keep its ``traceparent``. Batches
handle the commands of many traces, so each command or event has a span of its own with the times of its batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from models.messaging.trace import Traced
from tasks.startup import StartupError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span, SpanKind, Tracer

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

NOT_INSTALLED: Final = "{} is set, but OpenTelemetry is not installed: pip install 'tocsin[otel]', or unset it"

_provider: TracerProvider | None = None
_tracer: Tracer | None = None


class TracedCommand(Traced, Protocol):
    """A command or an event, with the type that names its span."""

    @property
    def id(self) -> object:
        """Its id."""

    @property
    def type(self) -> str:
        """Its type."""


def configure_tracing(process: str) -> None:
    """Export the spans of this process, if an endpoint is set. Call it after a fork, not before.

    :raises StartupError: if an endpoint is set, but OpenTelemetry is not installed.
    """
    configured = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if configured is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise StartupError(NOT_INSTALLED.format(configured)) from None
    trace_with(BatchSpanProcessor(OTLPSpanExporter()), process)


def trace_with(processor: SpanProcessor, process: str) -> None:
    """Send the spans of this process to a span processor."""
    global _provider, _tracer
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    _provider = TracerProvider(resource=Resource.create({"service.name": f"tocsin-{process}"}))
    _provider.add_span_processor(processor)
    _tracer = _provider.get_tracer("tocsin")


def stop_tracing() -> None:
    """Export what is left. Nothing is traced afterwards."""
    global _provider, _tracer
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None


class RequestSpan:
    """The span of a request that is being handled. ``traceparent`` names it as the parent of what follows."""

    def __init__(self, span: Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, method: str, route: str | None, status: int | None) -> None:
        """End the span and give it its name and attributes (OpenTelemetry's semantic conventions for HTTP servers)."""
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{method} {route}" if route else method)
        self._span.set_attribute("http.request.method", method)
        if route is not None:
            self._span.set_attribute("http.route", route)
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if status is None or status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def start_request_span(traceparent: str | None) -> RequestSpan | None:
    """Start the span of a request, in the trace of its ``traceparent`` header if it has one.

    Return ``None`` if nothing is traced. A span that is never ended is not exported.
    """
    if _tracer is None:
        return None
    from opentelemetry.trace import SpanKind

    return RequestSpan(_tracer.start_span("request", _context_of(traceparent), SpanKind.SERVER))


def record_spans(verb: str, traced: Iterable[TracedCommand], *, seconds: float, error: str | None = None) -> None:
    """Record a span that has just ended for each command or event that belongs to a trace.

    The span's name is the verb and the type. ``seconds`` is how long it lasted.
    """
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind

    for each in traced:
        if each.traceparent is not None:
            about = {"tocsin.id": str(each.id), "tocsin.type": each.type}
            _record(_tracer, f"{verb} {each.type}", each.traceparent, SpanKind.INTERNAL, seconds, error, about)


def is_tracing() -> bool:
    """Whether spans are recorded in this process."""
    return _tracer is not None


def record_delivery_span(
    channel: str, traceparent: str, *, seconds: float, error: str | None, delivery: object
) -> None:
    """Record a span that has just ended for an attempt to send a delivery."""
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind

    about = {"tocsin.id": str(delivery), "tocsin.channel": channel}
    _record(_tracer, f"deliver {channel}", traceparent, SpanKind.CLIENT, seconds, error, about)


def _record(
    tracer: Tracer,
    name: str,
    traceparent: str,
    kind: SpanKind,
    seconds: float,
    error: str | None,
    attributes: Mapping[str, str],
) -> None:
    from opentelemetry.trace import StatusCode

    ended = time.time_ns()
    started = ended - int(seconds * 1e9)
    span = tracer.start_span(name, _context_of(traceparent), kind, dict(attributes), start_time=started)
    if error is not None:
        span.set_status(StatusCode.ERROR, error)
    span.end(ended)


def _context_of(traceparent: str | None) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {} if traceparent is None else {"traceparent": traceparent}
    return TraceContextTextMapPropagator().extract(carrier, Context())
