"""The absolute URLs in responses: from TOCSIN_PUBLIC_URL, from the request, or from the headers of trusted proxies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Any, Final

import pytest
from sqlalchemy.engine import Engine

from gateway.http.parsing import Headers
from gateway.http.public_url import PublicUrl
from gateway.settings import GatewaySettings
from models.settings import SettingsError
from tests.handlers.acme import Acme
from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, running_gateway
from tests.http.pages import links
from tests.http.streams import listening
from tests.http.test_notifications import a_notification
from tests.waiting import eventually

FORWARDED: Final = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "tocsin.x.test", "X-Forwarded-Prefix": "/base"}
SEEN: Final = "https://tocsin.x.test/base"


def urls_of(gateway: Gateway, **headers: str) -> dict[str, str]:
    """Return the start of each kind of absolute URL that the gateway's responses contain."""
    listed = gateway.get(f"{ACME}/incidents/", **headers)
    accepted = gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async", **headers)
    redirected = gateway.get(f"{ACME}/members?query=a%20n", **headers)
    inbox = gateway.get(f"{ACME}/notifications/", by="dev-ana", **headers).json()
    assert redirected.status_code == 307
    return {
        "Link": links(listed)["next"][0].partition(f"{ACME}/incidents/?")[0],
        "Location": accepted.headers["location"].removesuffix(f"/api/0/commands/{accepted.headers['command-id']}/"),
        "redirect": redirected.headers["location"].removesuffix(f"{ACME}/members/?query=a%20n"),
        "link": inbox[0]["link"].removesuffix("/organizations/acme/alerts/1/"),
    }


def everywhere(url: str) -> dict[str, str]:
    return dict.fromkeys(("Link", "Location", "redirect", "link"), url)


def test_urls_start_with_the_scheme_and_host_of_the_request(gateway: Gateway, ledger: Engine) -> None:
    a_notification(ledger, comment="new")

    assert urls_of(gateway) == everywhere(gateway.url)
    assert urls_of(gateway, Host="own.x.test:8080") == everywhere("http://own.x.test:8080")


def test_urls_start_with_the_public_url_and_its_path(
    acme: Acme, ledger: Engine, settings: Callable[..., GatewaySettings]
) -> None:
    a_notification(ledger, comment="new")

    with running_gateway(settings(public_url="https://public.x.test/sub/")) as gateway:
        assert urls_of(gateway, **FORWARDED) == everywhere("https://public.x.test/sub")


def test_a_proxy_on_the_loopback_interface_says_how_callers_reach_the_gateway(gateway: Gateway, ledger: Engine) -> None:
    a_notification(ledger, comment="new")

    assert urls_of(gateway, **FORWARDED) == everywhere(SEEN)


def test_headers_of_proxies_that_are_not_trusted_do_not_count(
    acme: Acme, ledger: Engine, settings: Callable[..., GatewaySettings]
) -> None:
    a_notification(ledger, comment="new")

    with running_gateway(settings(trusted_proxies="10.0.0.0/8")) as gateway:
        assert urls_of(gateway, **FORWARDED) == everywhere(gateway.url)


def test_links_in_a_stream_start_as_those_in_other_responses(gateway: Gateway, ledger: Engine) -> None:
    with listening(gateway, "dev-ana", **FORWARDED) as listener:
        a_notification(ledger, comment="new")
        [told] = eventually(lambda: [event for event in listener.events if event["type"] == "notification.created"])

    assert told["data"]["notification"]["link"] == f"{SEEN}/organizations/acme/alerts/1/"


def test_the_origin_that_a_trusted_proxy_serves_is_the_gateways_own(gateway: Gateway) -> None:
    own = gateway.get(f"{ACME}/", Origin="https://tocsin.x.test", **FORWARDED)
    other = gateway.get(f"{ACME}/", Origin="https://other.x.test", **FORWARDED)

    assert (own.status_code, other.status_code) == (200, 400)


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/livez/", "/livez"),
        (f"{ACME}/alert-rules/a%20b", f"{ACME}/alert-rules/a%20b/"),
        ("/docs/files/nothing", None),
        ("/nothing", None),
        ("/nothing/", None),
    ],
)
def test_only_paths_that_differ_by_a_slash_are_redirected(gateway: Gateway, path: str, location: str | None) -> None:
    response = gateway.get(path)

    assert response.status_code == (307 if location else 404)
    assert response.headers.get("location") == (location and gateway.url + location)


# --- which values count ----------------------------------------------------------------------------------------


def base_url(peer: str, headers: Mapping[str, str], *trusted: str, scheme: str = "http") -> str:
    raw = [(b"host", b"own.x.test"), *((name.lower().encode(), value.encode()) for name, value in headers.items())]
    scope: dict[str, Any] = {"scheme": scheme, "client": (peer, 1), "server": ("127.0.0.1", 8400), "headers": raw}
    return PublicUrl(None, [ip_network(each) for each in trusted]).of_request(scope, Headers(raw))


@pytest.mark.parametrize(
    ("peer", "trusted", "counts"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("fd00::1", "fd00::/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("not an address", "0.0.0.0/0", False),
    ],
)
def test_a_peer_is_trusted_by_its_network(peer: str, trusted: str, counts: bool) -> None:
    assert base_url(peer, FORWARDED, trusted) == (SEEN if counts else "http://own.x.test")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Forwarded-Proto": "HTTPS"}, "https://own.x.test"),
        ({"X-Forwarded-Proto": "ftp"}, "http://own.x.test"),
        ({"X-Forwarded-Host": "spoofed.x.test, seen.x.test:444"}, "http://seen.x.test:444"),
        ({"X-Forwarded-Host": "[fd00::1]:80"}, "http://[fd00::1]:80"),
        ({"X-Forwarded-Host": "a.test/>; rel=x"}, "http://own.x.test"),
        ({"X-Forwarded-Prefix": "/a/b/"}, "http://own.x.test/a/b"),
        ({"X-Forwarded-Prefix": "/"}, "http://own.x.test"),
        ({"X-Forwarded-Prefix": "//other.test"}, "http://own.x.test"),
        ({"X-Forwarded-Prefix": "/a b"}, "http://own.x.test"),
        ({"X-Forwarded-For": "1.2.3.4"}, "http://own.x.test"),
    ],
)
def test_an_invalid_value_is_ignored_and_the_last_of_several_counts(headers: dict[str, str], expected: str) -> None:
    assert base_url("127.0.0.1", headers, "127.0.0.0/8") == expected


def test_an_invalid_host_is_not_repeated() -> None:
    raw = [(b"host", b"a>; rel=x")]
    scope: dict[str, Any] = {"scheme": "http", "client": None, "server": ("127.0.0.1", 8400), "headers": raw}

    assert PublicUrl().of_request(scope, Headers(raw)) == "http://127.0.0.1:8400"


# --- settings --------------------------------------------------------------------------------------------------


def test_networks_of_proxies_are_checked_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://x")
    monkeypatch.setenv("BROKER_URL", "redis://x")
    monkeypatch.setenv("TOCSIN_TRUSTED_PROXIES", "10.0.0.0/8, proxy")

    with pytest.raises(SettingsError, match="TOCSIN_TRUSTED_PROXIES is invalid: it must be a list of networks"):
        GatewaySettings.from_environment()


def test_idle_connections_are_kept_for_75_seconds_unless_set_otherwise(
    acme: Acme, settings: Callable[..., GatewaySettings]
) -> None:
    kept = [Gateway(each) for each in (settings(), settings(keep_alive=5))]

    assert [gateway.server.config.timeout_keep_alive for gateway in kept] == [75, 5]
