"""Spans of requests and of what follows from them, in memory."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tasks.startup import StartupError
from tasks.tracing import configure_tracing, is_tracing, stop_tracing, trace_with
from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, Worker

NOT_SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    memory = InMemorySpanExporter()
    trace_with(SimpleSpanProcessor(memory), "test")
    yield memory
    stop_tracing()


def named(exporter: InMemorySpanExporter, start: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name.startswith(start)]


def test_a_request_without_a_trace_begins_one(gateway: Gateway, worker: Worker, exporter: InMemorySpanExporter) -> None:
    gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async")
    worker.apply()

    [request], [applied] = named(exporter, "POST "), named(exporter, "apply comment.post")
    assert applied.parent is not None
    assert request.context is not None
    assert (request.parent, applied.parent.span_id) == (None, request.context.span_id)
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": f"{ACME.replace('acme', '{organization}')}/incidents/{{identifier}}/comments/",
        "http.response.status_code": 202,
    }


def test_a_caller_who_does_not_sample_gets_no_spans(
    gateway: Gateway, worker: Worker, exporter: InMemorySpanExporter
) -> None:
    gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async", traceparent=NOT_SAMPLED)
    worker.apply()

    assert exporter.get_finished_spans() == ()


def test_health_checks_are_not_traced(gateway: Gateway, exporter: InMemorySpanExporter) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        gateway.get(path, by=None)

    assert exporter.get_finished_spans() == ()


def test_without_an_endpoint_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)

    configure_tracing("test")

    assert not is_tracing()


def test_an_endpoint_without_the_library_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: Any, **named_arguments: Any) -> Any:
        if name.startswith("opentelemetry.exporter"):
            raise ImportError(name)
        return original(name, *arguments, **named_arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(StartupError, match=r"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, but .* 'tocsin\[otel\]'"):
        configure_tracing("test")
