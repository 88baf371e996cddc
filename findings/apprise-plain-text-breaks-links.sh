#!/usr/bin/env bash
# Apprise 2.3.0: a link in a plain-text message is broken on its way to Rocket.Chat, and not on its way to Mattermost.
#
# `body_format=TEXT` says that the body is plain text, so one would guess that it reaches a chat service as written, and
# that services with similar Markdown are treated alike. In fact, Apprise converts the text to Markdown for the services
# that it counts as Markdown services, and escapes the characters of a URL, too: `example.org` becomes `example\.org`,
# and `=` and `_` in a query get a backslash. Rocket.Chat gets such a link; Mattermost, whose messages are Markdown as
# well, gets the text unchanged. Declaring the text to be Markdown leaves the link alone on both.
#
# The script runs a server on loopback that both services' plugins post to, and shows the three texts.
# It fails if the behaviour changes. tocsin declares its texts to be Markdown for such services (docs/chat.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check apprise==2.3.0 2> /dev/null
cat > "$folder/links.py" << 'PYTHON'
import http.server
import json
import threading
import warnings

import apprise

warnings.simplefilter("ignore")
LINK = "https://example.org/alerts/7?from=my_mail"
posted = []


class ChatServer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        posted.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["text"])
        self.send_response(200)
        self.send_header("content-length", "16")
        self.end_headers()
        self.wfile.write(b'{"success":true}')

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ChatServer)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = f"127.0.0.1:{server.server_port}"
ROCKET, MATTERMOST = f"rocket://web/hook@{host}/#ops", f"mmost://{host}/3ccdd113474722377935511fc85d3dd4"
TEXT, MARKDOWN = apprise.NotifyFormat.TEXT, apprise.NotifyFormat.MARKDOWN
for url, format_ in ((ROCKET, TEXT), (MATTERMOST, TEXT), (ROCKET, MARKDOWN)):
    sender = apprise.Apprise()
    assert sender.add(url)
    assert sender.notify(f"Read on: {LINK}", body_format=format_)

print("apprise", apprise.__version__)
for name, text in zip(("Rocket.Chat, text", "Mattermost, text", "Rocket.Chat, markdown"), posted, strict=True):
    print(f"{name:22} {text}")
assert posted == [r"Read on: https://example\.org/alerts/7?from\=my\_mail", f"Read on: {LINK}", f"Read on: {LINK}"]
PYTHON
"$folder/venv/bin/python" "$folder/links.py"
