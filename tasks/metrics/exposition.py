"""A process's registry of metrics, and how it is exposed: the formats of Prometheus, over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version

import structlog
from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from tasks.log_config import ProcessKind
from tasks.settings import MetricsAddress
from tasks.startup import StartupError

log = structlog.get_logger(__name__)


def new_registry(kind: ProcessKind) -> CollectorRegistry:
    """Return a registry that exports the kind and the version of the process, and no ``_created`` series."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(_BuildInfo(kind))
    return registry


def render(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Return all metrics in the format that an ``Accept`` header asks for, and their content type.

    Without the header it is the text format 0.0.4.
    """
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def serve_metrics(registry: CollectorRegistry, address: MetricsAddress) -> int:
    """Serve the registry's metrics over HTTP, in threads that end with the process, and return the port.

    It is the first port in the range that is free, and is logged.

    :raises StartupError: none of them can be used.
    """
    reason = ""
    for port in range(address.first_port, address.last_port + 1):
        try:
            start_http_server(port, addr=address.host, registry=registry)
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            log.info("metrics.served", host=address.host, port=port)
            return port
    raise StartupError(
        f"metrics cannot be served on {address} ({reason.lower()}): free a port there, or change TOCSIN_METRICS"
    )


class _BuildInfo(Collector):
    """The kind and the version of the process, as labels."""

    def __init__(self, kind: ProcessKind) -> None:
        self._labels = [kind.value, version("tocsin")]

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "tocsin_build_info", "The kind and the version of the process", labels=["kind", "version"]
        )
        family.add_metric(self._labels, 1)
        yield family


class Readings(Collector):
    """Counters and gauges without labels, whose values are read at each scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._families: list[Callable[[], Metric]] = []
        registry.register(self)

    def count(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Export a counter. Its name is given without the suffix ``_total``."""
        self._families.append(lambda: CounterMetricFamily(name, text, value=read()))

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Export a gauge."""
        self._families.append(lambda: GaugeMetricFamily(name, text, value=read()))

    def collect(self) -> Iterator[Metric]:
        """Read all values."""
        return (family() for family in self._families)
