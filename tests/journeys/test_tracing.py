"""A command's trace contains a span of every process that handles it, as an OpenTelemetry collector receives them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.journeys.stack import ACME, running_stack
from tests.journeys.subprocesses import public_temp_dir
from tests.waiting import eventually

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector:
    """An OTLP endpoint. ``spans`` holds what it has received, each span with the name of its service."""

    url: str
    spans: list[tuple[str, Any]] = field(default_factory=list)

    def receive(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            [service] = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]

    def names(self, trace: str) -> set[tuple[str, str]]:
        """Return the service and the name of each span of a trace."""
        return {(service, span.name) for service, span in self.spans if span.trace_id.hex() == trace}


@contextlib.contextmanager
def running_collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.receive(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_every_process_that_handles_a_command_adds_a_span_to_its_trace() -> None:
    with (
        running_collector() as collector,
        public_temp_dir() as folder,
        running_stack(
            folder / "data", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="200"
        ) as stack,
    ):
        with stack.client(traceparent=f"00-{TRACE}-{PARENT}-01") as mem:
            comment = {"comment": "Look at this.", "mentions": ["user:12"]}
            mem.post(f"{ACME}/incidents/1/comments/", json=comment).raise_for_status()
        expected = {
            ("tocsin-gateway", "POST /api/0/organizations/{organization}/incidents/{identifier}/comments/"),
            ("tocsin-worker", "apply comment.post"),
            ("tocsin-relay", "publish incident.comment_posted"),
            ("tocsin-notifier", "plan incident.comment_posted"),
            ("tocsin-worker", "deliver email"),
        }
        eventually(lambda: expected <= collector.names(TRACE), within_seconds=30)

    spans = [span for _, span in collector.spans if span.trace_id.hex() == TRACE]
    [request] = [span for span in spans if span.name.startswith("POST ")]
    assert request.parent_span_id.hex() == PARENT
    assert {span.parent_span_id for span in spans if span is not request} == {request.span_id}
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    assert not any(name.endswith(("/livez", "/readyz")) for _, span in collector.spans for name in [span.name])
