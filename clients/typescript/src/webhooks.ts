/** Verification of the messages that tocsin sends to webhooks (Standard Webhooks 1.0). */

import { createHmac, timingSafeEqual } from "node:crypto";

import { InvalidWebhook } from "./errors.js";
import { parseEvent, type Event } from "./results.js";

const DEFAULT_TOLERANCE_SECONDS = 300;

const PREFIX = "whsec_";

/** The headers of a request: those of `fetch`, or an object as in `node:http`, with names in any case. */
export type WebhookHeaders =
  | { get(name: string): string | null }
  | Readonly<Record<string, string | readonly string[] | undefined>>;

export interface VerifyOptions {
  /** How far the message's timestamp may be from the present time. 300 by default. */
  toleranceSeconds?: number;
  /** The present time; by default, that of this host's clock. */
  now?: Date;
}

/**
 * Return the event in a message to a webhook, after verifying the message's signature and age.
 *
 * @param headers the request's headers.
 * @param body the request's body, exactly as it arrived. Parsed and serialized again, it would have other bytes.
 * @param secrets the webhook's secret or, while it is being rotated, both secrets.
 * @throws {InvalidWebhook} if the message is not valid.
 * @throws {TypeError} if a secret is malformed, or if there is none.
 */
export function verifyWebhook(
  headers: WebhookHeaders,
  body: Uint8Array | string,
  secrets: string | readonly string[],
  { toleranceSeconds = DEFAULT_TOLERANCE_SECONDS, now = new Date() }: VerifyOptions = {},
): Event {
  const keys = (typeof secrets === "string" ? [secrets] : secrets).map(keyOf);
  if (keys.length === 0) throw new TypeError("verifyWebhook needs at least one secret");
  const id = required(headers, "webhook-id");
  const timestamp = required(headers, "webhook-timestamp");
  const signatures = signaturesIn(required(headers, "webhook-signature"));
  if (!/^[0-9]+$/.test(timestamp)) {
    throw new InvalidWebhook(`webhook-timestamp is not a Unix timestamp: ${JSON.stringify(timestamp.slice(0, 40))}`);
  }

  const bytes = Buffer.from(body as Uint8Array);
  const expected = keys.map((key) => createHmac("sha256", key).update(`${id}.${timestamp}.`).update(bytes).digest());
  if (!signatures.some((theirs) => expected.some((ours) => isEqual(theirs, ours)))) {
    throw new InvalidWebhook("no signature matches: the secret is another one, or the body was changed on its way");
  }
  const difference = now.getTime() / 1000 - Number(timestamp);
  if (Math.abs(difference) > toleranceSeconds) {
    const age = difference > 0 ? "old" : "far ahead";
    const seconds = Math.abs(difference).toFixed(0);
    throw new InvalidWebhook(`the message is too ${age}: ${seconds} s; compare the hosts' clocks`);
  }
  return eventIn(bytes);
}

function keyOf(secret: string): Buffer {
  const key = decodeBase64(secret.startsWith(PREFIX) ? secret.slice(PREFIX.length) : secret);
  if (key === undefined) throw new TypeError(`a webhook's secret is ${PREFIX} followed by standard base64`);
  return key;
}

function required(headers: WebhookHeaders, name: string): string {
  const value = headerOf(headers, name);
  if (!value) throw new InvalidWebhook(`the header ${name} is missing`);
  return value;
}

function headerOf(headers: WebhookHeaders, name: string): string | undefined {
  if (typeof headers["get"] === "function") return headers["get"](name) ?? undefined;
  const entry = Object.entries(headers).find(([each]) => each.toLowerCase() === name);
  return entry && [entry[1]].flat().join(" ");
}

function signaturesIn(header: string): Buffer[] {
  return header.split(/\s+/).flatMap((each) => {
    const comma = each.indexOf(",");
    const signature = each.slice(0, comma) === "v1" ? decodeBase64(each.slice(comma + 1)) : undefined;
    return signature ?? [];
  });
}

/** Decode standard base64. Return undefined for anything else, which `Buffer.from` would accept in part. */
function decodeBase64(text: string): Buffer | undefined {
  return text.length % 4 === 0 && /^[A-Za-z0-9+/]+={0,2}$/.test(text) ? Buffer.from(text, "base64") : undefined;
}

function isEqual(theirs: Buffer, ours: Buffer): boolean {
  return theirs.length === ours.length && timingSafeEqual(theirs, ours);
}

function eventIn(body: Buffer): Event {
  try {
    return parseEvent(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    throw new InvalidWebhook("the body is signed, but it is no event");
  }
}
