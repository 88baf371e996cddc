"""The gateway behind real reverse proxies, which end TLS, compress, keep connections and add a prefix to the path."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from sqlalchemy.engine import Engine

from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, Worker
from tests.http.pages import links
from tests.http.reverse_proxies import ReverseProxy, running_proxy
from tests.http.streams import listening_with, record_event

CONNECTIONS: Final = 64
POSTS: Final = 150
"""How many requests are sent before and after the pause, over so many connections."""

DEFAULT_KEEP_ALIVE_SECONDS: Final = 5.0
"""After how long Uvicorn would close idle connections, at the moment when the proxy uses them again."""


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest, unlimited_gateway: Gateway, tmp_path: Path) -> Iterator[ReverseProxy]:
    with running_proxy(request.param, unlimited_gateway.url, tmp_path) as running:
        yield running


def client(proxy: ReverseProxy, **headers: str) -> httpx.Client:
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"Authorization": "Bearer dev-mem"}
    return httpx.Client(base_url=proxy.url, verify=proxy.context, headers=sent, timeout=60)


def test_every_url_in_a_response_can_be_followed(proxy: ReverseProxy) -> None:
    with client(proxy, Prefer="respond-async") as caller:
        listed = caller.get(f"{ACME}/incidents/?per_page=1")
        accepted = caller.post(COMMENTS, json=A_COMMENT)
        redirected = caller.get(f"{ACME}/members")
        urls = [links(listed)["next"][0], accepted.headers["location"], redirected.headers["location"]]
        followed = [caller.get(url).status_code for url in urls]

    assert all(url.startswith(f"{proxy.url}/api/0/") for url in urls), urls
    assert followed == [200, 200, 200]


def test_a_tag_that_the_proxy_weakened_is_a_valid_condition(proxy: ReverseProxy, busy_worker: Worker) -> None:
    with client(proxy, Prefer="wait=30") as caller:
        read = caller.get(f"{ACME}/incidents/1/")
        changed = caller.put(f"{ACME}/incidents/1/", json={"status": 2}, headers={"If-Match": read.headers["etag"]})
        late = caller.put(f"{ACME}/incidents/1/", json={"status": 2}, headers={"If-Match": read.headers["etag"]})

    assert read.headers["content-encoding"] == "gzip"
    assert (changed.status_code, late.status_code) == (200, 412)


def test_events_are_streamed_without_delay(proxy: ReverseProxy, ledger: Engine, incident: int) -> None:
    with client(proxy) as caller, listening_with(caller) as listener:
        listener.wait_for(record_event(ledger, incident))


@pytest.mark.slow
def test_connections_that_were_idle_for_five_seconds_carry_the_next_request(
    proxy: ReverseProxy, unlimited_gateway: Gateway
) -> None:
    async def send() -> Counter[int]:
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        headers = {"Authorization": "Bearer dev-mem", "Prefer": "respond-async"}
        async with httpx.AsyncClient(
            base_url=proxy.url, verify=proxy.context, headers=headers, limits=limits, timeout=120
        ) as caller:
            statuses: Counter[int] = Counter()
            for pause in (DEFAULT_KEEP_ALIVE_SECONDS, 0):
                responses = await asyncio.gather(*(caller.post(COMMENTS, json=A_COMMENT) for _ in range(POSTS)))
                statuses.update(response.status_code for response in responses)
                await asyncio.sleep(pause)
            return statuses

    assert asyncio.run(send()) == {202: 2 * POSTS}
