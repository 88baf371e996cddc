"""nginx and HAProxy in front of a gateway, as people run them: with TLS, compression, keep-alive and a path prefix."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
import trustme

from tasks.startup import free_port
from tests.waiting import eventually

PREFIX: Final = "/base"
"""The path under which the proxies serve the gateway, which knows nothing of it."""

NGINX: Final = """
daemon off;
pid {folder}/pid;
error_log {folder}/log;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_types application/json application/problem+json;
    gzip_min_length 1;
    upstream gateway {{ server {gateway}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/certificate.pem;
        keepalive_requests 100000;
        location {prefix}/ {{
            proxy_pass http://gateway/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Prefix {prefix};
            # Otherwise it repeats what failed, and hides what this test looks for.
            proxy_next_upstream off;
        }}
    }}
}}
"""

HAPROXY: Final = """
global
    maxconn 1024
defaults
    mode http
    timeout connect 10s
    timeout client 120s
    timeout server 120s
    retries 0
    http-reuse always
frontend callers
    bind 127.0.0.1:{port} ssl crt {folder}/certificate.pem
    http-request set-header X-Forwarded-Proto https
    http-request set-header X-Forwarded-Host %[req.hdr(Host)]
    http-request set-header X-Forwarded-Prefix {prefix}
    http-request replace-path {prefix}(/.*) \\1
    compression algo gzip
    compression type application/json application/problem+json
    default_backend gateway
backend gateway
    server gateway {gateway}
"""


@dataclass(frozen=True, slots=True)
class ReverseProxy:
    """A running proxy. ``url`` is where it serves the gateway, and ``context`` trusts its certificate."""

    url: str
    context: ssl.SSLContext


@contextlib.contextmanager
def running_proxy(name: str, gateway: str, folder: Path) -> Iterator[ReverseProxy]:
    """Run nginx or haproxy in front of the gateway at this URL for the duration of the block."""
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        if "CI" in os.environ:
            pytest.fail(f"{name} is missing: CI installs it")
        pytest.skip(f"{name} is missing: install it to test behind it (Debian and Ubuntu: apt install {name})")
    authority, port = trustme.CA(), free_port("127.0.0.1", 0)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "certificate.pem")
    configuration = folder / "configuration"
    configuration.write_text(
        (NGINX if name == "nginx" else HAPROXY).format(
            folder=folder,
            port=port,
            prefix=PREFIX,
            gateway=urlsplit(gateway).netloc,
            user="user root;" if os.geteuid() == 0 else "",
        )
    )
    log = folder / "output"
    words = f"-c {configuration} -p {folder} -e {folder}/log" if name == "nginx" else f"-f {configuration}"
    with log.open("wb") as output:
        process = subprocess.Popen([program, *words.split()], stdout=output, stderr=output)
    try:
        eventually(lambda: _accepts_connections(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        context = ssl.create_default_context()
        authority.configure_trust(context)
        yield ReverseProxy(f"https://127.0.0.1:{port}{PREFIX}", context)
    finally:
        process.terminate()
        process.wait(20)


def _accepts_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
