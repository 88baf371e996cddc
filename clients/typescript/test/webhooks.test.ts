import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { test } from "node:test";

import { InvalidWebhook, TocsinError, verifyWebhook } from "tocsin-client";

const EVENT = {
  specversion: "1.0", id: "01a20830-fc2a-777a-930b-7054e159c667", source: "/organizations/acme",
  subject: "incidents/1", type: "incident.comment_posted", time: "2026-11-23T11:35:57.754598Z",
  sequence: "00000000000000000003", data: { activity: { id: "7", comment: "Größe" } },
};
const BODY = Buffer.from(JSON.stringify(EVENT));
const NOW = 1_790_000_000;

function newSecret(): string {
  return `whsec_${randomBytes(32).toString("base64")}`;
}

function signed(secrets: string[], body: Uint8Array = BODY): Record<string, string> {
  const signatures = secrets.map((secret) => {
    const key = Buffer.from(secret.slice("whsec_".length), "base64");
    return `v1,${createHmac("sha256", key).update(`message-1.${NOW}.`).update(body).digest("base64")}`;
  });
  return { "webhook-id": "message-1", "webhook-timestamp": String(NOW), "webhook-signature": signatures.join(" ") };
}

const at = (seconds: number) => ({ now: new Date(seconds * 1000) });

test("a signed message is verified, whatever holds its headers and its body", () => {
  const secret = newSecret();
  const headers = signed([secret]);
  const capitals = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toUpperCase(), [value]]));

  for (const each of [headers, capitals, new Headers(headers)]) {
    for (const body of [BODY, new Uint8Array(BODY), BODY.toString()]) {
      const event = verifyWebhook(each, body, secret, at(NOW));

      assert.deepEqual([event.id, event.type, event.sequence], [EVENT.id, EVENT.type, 3]);
      assert.deepEqual(event.data, EVENT.data);
    }
  }
});

test("while rotating either side may have both secrets", () => {
  const [fresh, old, other] = [newSecret(), newSecret(), newSecret()];

  for (const [headers, secrets] of [
    [signed([fresh, old]), old],
    [signed([fresh, old]), [fresh]],
    [signed([old]), [fresh, old]],
    [signed([fresh]), [fresh, old]],
  ] as const) {
    assert.equal(verifyWebhook(headers, BODY, secrets, at(NOW)).type, EVENT.type);
  }
  assert.throws(() => verifyWebhook(signed([fresh, old]), BODY, other, at(NOW)), /no signature matches/);
});

test("a message that was changed is refused", () => {
  const secret = newSecret();
  const headers = signed([secret]);
  const cases: [Record<string, string>, Uint8Array, RegExp][] = [
    [{}, Buffer.concat([BODY, Buffer.from(" ")]), /no signature matches/],
    [{ "webhook-id": "message-2" }, BODY, /no signature matches/],
    [{ "webhook-timestamp": String(NOW + 1) }, BODY, /no signature matches/],
    [{ "webhook-signature": "v1," }, BODY, /no signature matches/],
    [{ "webhook-signature": "v1,AAAA" }, BODY, /no signature matches/],
    [{ "webhook-signature": headers["webhook-signature"]!.replace("v1,", "v2,") }, BODY, /no signature matches/],
    [{ "webhook-signature": headers["webhook-signature"]!.replace("=", "!") }, BODY, /no signature matches/],
    [{ "webhook-id": "" }, BODY, /webhook-id is missing/],
    [{ "webhook-signature": "" }, BODY, /webhook-signature is missing/],
    [{ "webhook-timestamp": "yesterday" }, BODY, /not a Unix timestamp/],
    [{ "webhook-timestamp": "1e9" }, BODY, /not a Unix timestamp/],
    [{ "webhook-timestamp": "\u0661" }, BODY, /not a Unix timestamp/],
  ];

  for (const [changes, body, message] of cases) {
    assert.throws(
      () => verifyWebhook({ ...headers, ...changes }, body, secret, at(NOW)),
      (error) => error instanceof InvalidWebhook && error instanceof TocsinError && message.test(error.message),
      JSON.stringify(changes),
    );
  }
});

test("a message is valid for five minutes, or as long as the receiver chooses", () => {
  const secret = newSecret();

  for (const difference of [-300, 0, 300]) {
    assert.ok(verifyWebhook(signed([secret]), BODY, secret, at(NOW + difference)));
  }
  assert.throws(() => verifyWebhook(signed([secret]), BODY, secret, at(NOW + 301)), /too old: 301 s/);
  assert.throws(() => verifyWebhook(signed([secret]), BODY, secret, at(NOW - 301)), /too far ahead: 301 s/);
  assert.ok(verifyWebhook(signed([secret]), BODY, secret, { ...at(NOW + 3600), toleranceSeconds: 3600 }));
});

test("a malformed secret, or none, is an error of the program", () => {
  for (const secret of ["", "whsec_", "whsec_-_-_", "whsec_ä", "whsec_a", "whsec_AAA", []]) {
    assert.throws(() => verifyWebhook(signed([newSecret()]), BODY, secret), TypeError);
  }
});

test("a signed body that is not an event is refused", () => {
  const secret = newSecret();

  for (const text of ["", "[]", "{}", "null", '"text"', '{"id": "1"}', "\xff"]) {
    const body = Buffer.from(text, "latin1");
    assert.throws(() => verifyWebhook(signed([secret], body), body, secret, at(NOW)), /no event/, text);
  }
});
