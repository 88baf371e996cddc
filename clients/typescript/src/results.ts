/** Values that the client returns about commands, messages and events. Times are ISO 8601 in UTC. */

import { Failed, NotApplied, Refused } from "./errors.js";

/** The result of an applied command: the HTTP status and the JSON body of its own endpoint. */
export interface Outcome<Body = any> {
  readonly commandId: string;
  readonly status: number;
  readonly body: Body;
  /** Whether the command had already been accepted in an earlier request with the same idempotency key. */
  readonly isReplay: boolean;
}

/** An operator's hold, which keeps commands from being applied. `releaseAt` is null if it has no planned end. */
export interface Hold {
  readonly hold: string;
  readonly scope: "queue" | "type" | "channel" | "organization";
  readonly target: string;
  readonly reason: string;
  readonly since: string;
  readonly releaseAt: string | null;
}

export type CommandStatus = "accepted" | "applied" | "rejected" | "dead" | "discarded";

/** A command's record in the ledger. Every status but `accepted` is final. */
export interface CommandRecord {
  readonly id: string;
  readonly type: string;
  readonly status: CommandStatus;
  /** The organization's slug; null if the command concerns only the caller's preferences. */
  readonly organization: string | null;
  readonly acceptedAt: string;
  readonly finishedAt: string | null;
  readonly attempts: number;
  readonly heldBy: Hold | null;
  readonly outcome: { readonly status: number; readonly body: any } | null;
  readonly error: string | null;
}

/** The records of the commands in a bulk request, in the order of the request. */
export class BulkResult implements Iterable<CommandRecord> {
  constructor(readonly records: readonly CommandRecord[]) {}

  [Symbol.iterator](): Iterator<CommandRecord> {
    return this.records[Symbol.iterator]();
  }

  /**
   * Return this result, unless a command was rejected, is dead or was discarded.
   *
   * @throws {NotApplied} if there is such a command, with an error for each of them. A command that has no outcome yet
   *   is none of them.
   */
  throwForRefused(): this {
    const errors = new Map<number, Refused | Failed>();
    for (const [position, record] of this.records.entries()) {
      const error = isFinal(record) ? errorOf(record) : undefined;
      if (error) errors.set(position, error);
    }
    if (errors.size) throw new NotApplied(errors, this.records.length);
    return this;
  }
}

/** The caller's preferences for messages: the JSON document, and its version for `replacePreferences`. */
export interface Preferences {
  readonly document: Record<string, any>;
  readonly version: string;
}

/**
 * A decision on whether a person is notified of an activity through a channel, and the rule that decided it.
 *
 * `activity` and `event` are ids, `explanation` is a sentence. `at` is null if the decision is not recorded.
 */
export interface Decision {
  readonly activity: string;
  readonly event: string;
  readonly channel: string;
  readonly outcome: "delivered" | "pending" | "deferred" | "suppressed" | "failed";
  readonly rule: string;
  readonly detail: string;
  readonly explanation: string;
  readonly at: string | null;
}

/** A CloudEvent. The events of one `subject` are numbered without gaps by `sequence`. */
export interface Event {
  readonly id: string;
  readonly type: string;
  readonly source: string;
  readonly subject: string;
  readonly time: string;
  readonly sequence: number;
  readonly data: Record<string, any>;
}

/**
 * Parse the JSON text of a CloudEvent.
 *
 * @throws {SyntaxError} if the text is not the JSON of an event.
 */
export function parseEvent(text: string): Event {
  const event: any = JSON.parse(text);
  const words = ["id", "type", "source", "subject", "time", "sequence"];
  if (!words.every((name) => typeof event?.[name] === "string") || typeof event.data !== "object") {
    throw new SyntaxError("the JSON is not an event");
  }
  const { id, type, source, subject, time, data } = event;
  return { id, type, source, subject, time, sequence: Number(event.sequence), data };
}

/** Return whether a command's status is final. */
export function isFinal(record: CommandRecord): boolean {
  return record.status !== "accepted";
}

/**
 * Return the outcome of a finished command.
 *
 * @throws {Refused} if the command was rejected.
 * @throws {Failed} if the command is dead or was discarded.
 */
export function outcomeOf(record: CommandRecord): Outcome {
  const error = errorOf(record);
  if (error) throw error;
  const { status, body } = record.outcome!;
  return { commandId: record.id, status, body, isReplay: false };
}

function errorOf(record: CommandRecord): Refused | Failed | undefined {
  if (record.outcome === null) return new Failed(record.error ?? `the command is ${record.status}`, record);
  const { status, body } = record.outcome;
  return status >= 400 ? new Refused(status, body, record.id) : undefined;
}
