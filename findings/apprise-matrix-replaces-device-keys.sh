#!/usr/bin/env bash
# Apprise 2.3.0, Matrix, an access token: every `Apprise` object gives the token's device new identity keys.
#
# A sender with one access token has one device, and a device's identity keys are made once and kept: other people's
# clients verify them, and warn when they change. So one would guess that a second message from the same token uses the
# device as it is, or that a process that sends one message touches no keys at all. In fact, Apprise keeps the keys in the
# memory of the object (or in a persistent store, if one is configured). Two objects with the same URL, such as two runs
# of the `apprise` command, upload two different pairs of keys for the same device to a homeserver over HTTPS.
#
# The script runs a small homeserver on loopback that knows one room, which is encrypted, and shows the uploads.
# It fails if the behaviour changes. tocsin therefore posts to Matrix without Apprise's encryption (docs/chat.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check apprise==2.3.0 cryptography==50.0.2
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 \
    -addext subjectAltName=IP:127.0.0.1 -keyout "$folder/key.pem" -out "$folder/certificate.pem" 2> /dev/null
cat > "$folder/two_messages.py" << 'PYTHON'
import http.server
import json
import ssl
import sys
import threading
import warnings

import apprise

warnings.simplefilter("ignore")
USER, DEVICE, ROOM = "@bot:127.0.0.1", "ONEDEVICE", "!room:127.0.0.1"
ANSWERS = {
    "whoami": {"user_id": USER, "device_id": DEVICE},
    "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
    "joined_members": {"joined": {USER: {}}},
    "upload": {"one_time_key_counts": {}},
    "query": {"device_keys": {}},
}
uploads = []


class Homeserver(http.server.BaseHTTPRequestHandler):
    def answer(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        name = self.path.partition("?")[0].rpartition("/")[2]
        if name == "upload":
            uploads.append(body["device_keys"])
        known = ".well-known" not in self.path
        content = json.dumps(ANSWERS.get(name, {"room_id": ROOM, "event_id": "$event"})).encode() if known else b""
        self.send_response(200 if known else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Homeserver)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
for text in ("disk full", "disk full again"):
    sender = apprise.Apprise()
    assert sender.add(f"matrixs://access-token@127.0.0.1:{server.server_port}/{ROOM}?verify=no")
    assert sender.notify(text)

print("apprise", apprise.__version__)
for number, keys in enumerate(uploads, 1):
    print(f"upload {number}: device {keys['device_id']}, ed25519 {keys['keys'][f'ed25519:{DEVICE}']}")
assert [keys["device_id"] for keys in uploads] == [DEVICE, DEVICE], uploads
assert uploads[0]["keys"] != uploads[1]["keys"], "the keys were kept"
print("two messages with one access token uploaded two different pairs of identity keys for one device")
PYTHON
"$folder/venv/bin/python" "$folder/two_messages.py" "$folder/certificate.pem" "$folder/key.pem" 2> "$folder/log" ||
    { cat "$folder/log"; exit 1; }
