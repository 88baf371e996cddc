/** The position in the event stream: where to resume, and which events have been received. */

import type { HttpRequest, HttpResponse } from "./http.js";
import { checkedBody, RETRYABLE_STATUSES, type HttpProtocol } from "./protocol.js";
import { parseEvent, type Event } from "./results.js";
import type { Message } from "./sse.js";

/** Three heartbeat intervals. An event stream that sends no data for this long is considered broken. */
const STREAM_TIMEOUT_SECONDS = 45;

const MAX_REMEMBERED_EVENTS = 10_000;

/** An id that no event has. To resume after it, the server replays all events that it keeps for the stream. */
const UNKNOWN_ID = "00000000-0000-0000-0000-000000000000";

/** Where to begin to follow events. */
export interface FollowOptions {
  /** The number of an incident: only its events. */
  incident?: number | string;
  /** The id of the last event already handled. */
  lastId?: string;
  /** Begin with the events of the last 24 hours, which is as long as the server keeps them for streams. */
  fromStart?: boolean;
}

/** A client's position in the event stream. */
export class EventCursor {
  private lastId: string | undefined;
  private attempt = 0;
  /** In order of arrival. */
  private readonly seenIds = new Set<string>();

  constructor(
    private readonly protocol: HttpProtocol,
    private readonly from: FollowOptions,
  ) {
    if (from.fromStart && from.lastId !== undefined) throw new TypeError("follow takes lastId or fromStart, not both");
    this.lastId = from.fromStart ? UNKNOWN_ID : from.lastId;
  }

  /** Return the request that opens the stream after the last event. */
  request(): HttpRequest {
    const { incident } = this.from;
    const headers = { ...this.protocol.headers(), Accept: "text/event-stream, application/problem+json" };
    if (this.lastId !== undefined) Object.assign(headers, { "Last-Event-ID": this.lastId });
    const query = incident === undefined ? "" : `?incident=${encodeURIComponent(incident)}`;
    const path = this.protocol.path("events/") + query;
    return { method: "GET", path, headers, timeoutSeconds: STREAM_TIMEOUT_SECONDS };
  }

  /**
   * Return whether the response is an event stream. If not, the request should be retried.
   *
   * @throws {Refused} if the caller may not follow these events.
   */
  opens(response: HttpResponse): boolean {
    if (RETRYABLE_STATUSES.has(response.status) || response.status >= 500) return false;
    checkedBody(response);
    if (this.attempt) this.protocol.options.log(`following events again, after the event ${this.lastId}`);
    this.attempt = 0;
    return true;
  }

  /**
   * Move past a message in the stream and return its event.
   *
   * Return undefined if the message has no event, or one that was received before.
   */
  advance({ id, data }: Message): Event | undefined {
    this.lastId = id || this.lastId;
    if (data === "" || (id && this.seenIds.has(id))) return undefined;
    if (id) this.remember(id);
    return parseEvent(data);
  }

  /** Return the delay in seconds before the stream is opened again. `reason` says why it ended, for the log. */
  backoff(reason: string): number {
    const seconds = this.protocol.backoff(this.attempt++);
    this.protocol.options.log(`the event stream was interrupted, reconnecting in ${seconds.toFixed(1)} s: ${reason}`);
    return seconds;
  }

  private remember(id: string): void {
    this.seenIds.add(id);
    if (this.seenIds.size > MAX_REMEMBERED_EVENTS) {
      const [oldest] = this.seenIds;
      this.seenIds.delete(oldest!);
    }
  }
}
