/**
 * A client for tocsin that posts commands, waits for their outcomes, and follows events.
 *
 * Every post carries an `Idempotency-Key` and is retried with that key until a server responds, so it takes effect only
 * once, however often the connection breaks.
 */

export { Tocsin, type PostOptions, type TocsinOptions } from "./client.js";
export { rawCommand } from "./commands.js";
export type * from "./commands.js";
export * from "./errors.js";
export type { FollowOptions } from "./event-cursor.js";
export type { Fetch } from "./http.js";
export type { Log } from "./protocol.js";
export type { Query } from "./reads.js";
export type * from "./resources.js";
export { BulkResult } from "./results.js";
export type * from "./results.js";
export type * from "./rule-commands.js";
export { verifyWebhook, type VerifyOptions, type WebhookHeaders } from "./webhooks.js";
