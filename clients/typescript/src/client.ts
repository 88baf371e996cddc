/** The client: every operation with its parameters and its documentation. */

import { performance } from "node:perf_hooks";
import { setTimeout } from "node:timers/promises";

import type { Command, OutcomeBody } from "./commands.js";
import { EventCursor, type FollowOptions } from "./event-cursor.js";
import { ConnectionLost, HttpTransport, type Fetch } from "./http.js";
import { HttpProtocol, type Clock, type Log } from "./protocol.js";
import * as reads from "./reads.js";
import type { Activity, Incident, Notification } from "./resources.js";
import type { BulkResult, CommandRecord, CommandStatus, Decision, Event, Outcome, Preferences } from "./results.js";
import { parseMessages } from "./sse.js";

export interface TocsinOptions {
  /** The organization's slug. */
  organization: string;
  /** The id of the member for whom a service acts. */
  actAs?: number | string;
  /** How long a request that no server accepts is retried, and at most as long as the call may wait. 60 by default. */
  patienceSeconds?: number;
  /** If false, fields of commands and query parameters that the server does not know are ignored, not refused. */
  strict?: boolean;
  /** The function that sends requests, for example one with a proxy. `fetch` by default. */
  fetch?: Fetch;
  /** Takes a line for each retry, interruption and reconnection, for example `console.warn`. */
  log?: Log;
}

export interface PostOptions {
  /** The idempotency key; by default a new one. Pass your own if another process might repeat the command. */
  key?: string;
  /** How long the whole call may take, retries included. 30 by default. */
  waitSeconds?: number;
}

const DEFAULT_WAIT_SECONDS = 30;
const ENDED = "the server ended it";

/** A client for one organization. It holds no resources of its own, so it need not be closed. */
export class Tocsin {
  private readonly protocol: HttpProtocol;

  constructor(baseUrl: string, token: string, options: TocsinOptions) {
    const { organization, actAs, patienceSeconds = 60, strict = true, log = () => {} } = options;
    const send: Fetch = options.fetch ?? ((url, init) => fetch(url, init));
    const transport = new HttpTransport(baseUrl.replace(/\/+$/, ""), send);
    const shared = { token, organization, actAs, patienceSeconds, strict, log, clock: systemClock };
    this.protocol = new HttpProtocol(transport, shared);
    // Inspecting or logging a client must not show the token.
    Object.defineProperty(this, "protocol", { enumerable: false });
  }

  // --- commands --------------------------------------------------------------------------------------------------

  /**
   * Submit a command and wait up to `waitSeconds` for its outcome.
   *
   * The request carries an idempotency key, which is `key` or a new one, and is retried with that key until a server
   * accepts it, so the command takes effect only once. `waitSeconds` limits the whole call, retries included: no request
   * begins later, and a server that does not respond ends the call 10 s later.
   *
   * @throws {Refused} if the request is refused, or if the command is refused when it is applied.
   * @throws {Failed} if the server fails, for example because every attempt to apply the command failed.
   * @throws {TimedOut} if the command has been accepted, but has no outcome yet.
   * @throws {Unreachable} if no server accepted the request in time.
   */
  post<C extends Command>(command: C, { key, waitSeconds }: PostOptions = {}): Promise<Outcome<OutcomeBody<C>>> {
    return this.protocol.post(command, key, waitSeconds ?? DEFAULT_WAIT_SECONDS);
  }

  /** Submit a command and return its record once it is accepted. `key` and the errors are as in {@link post}. */
  submit(command: Command, { key }: { key?: string } = {}): Promise<CommandRecord> {
    return this.protocol.submit(command, key);
  }

  /**
   * Submit up to 1,000 commands and return their records in the same order.
   *
   * Either all commands are accepted or none, and commands with the same subject are applied in order. Each can still be
   * rejected when it is applied.
   *
   * If `waitSeconds` is set, wait that long, as in {@link post}, until every command has an outcome. A command that was
   * rejected or failed does not throw an error here: call `throwForRefused()` on the result, or read the `status` and
   * `outcome` of each record.
   *
   * @throws {Refused} if the request is refused. No command has been accepted then.
   * @throws {TimedOut} if some commands have no outcome after `waitSeconds`.
   * @throws {Unreachable} if no server accepted the request in time.
   */
  bulk(commands: readonly Command[], { key, waitSeconds }: PostOptions = {}): Promise<BulkResult> {
    return this.protocol.bulk(commands, key, waitSeconds);
  }

  /**
   * Wait for the outcome of an accepted command, given by its record or id.
   *
   * `seconds` limits the whole call, as `waitSeconds` does in {@link post}. Until then, requests are retried even if no
   * server responds.
   *
   * @throws {Refused} if the command was refused when it was applied, or if the caller may not read it.
   * @throws {Failed} if the server fails, for example because every attempt to apply the command failed.
   * @throws {TimedOut} if the command has no outcome yet. If no server responded, the error's `cause` says why.
   */
  wait(command: CommandRecord | string, { seconds = DEFAULT_WAIT_SECONDS } = {}): Promise<Outcome> {
    return this.protocol.wait(idOf(command), systemClock.now() + seconds);
  }

  /** Return the current record of a command, given by its id or an earlier record. */
  record(command: CommandRecord | string): Promise<CommandRecord> {
    return this.protocol.record(idOf(command));
  }

  /**
   * Iterate over the commands that the caller has submitted in this organization, newest first.
   *
   * `types` holds names of commands, such as `comment.post`. The list is read page by page, as far as it is iterated
   * over.
   *
   * @throws {Refused} if the caller may not read it, or a filter has an unknown value.
   * @throws {Unreachable} if no server responded.
   */
  commands(
    { states, types }: { states?: readonly CommandStatus[]; types?: readonly string[] } = {},
  ): AsyncGenerator<CommandRecord, void, void> {
    return reads.readAll(this.protocol, "commands/", { state: states, type: types });
  }

  /**
   * Cancel one of the caller's commands, given by its record or id, and return its record: it is discarded.
   *
   * @throws {Refused} with the status 409, if a worker has begun to apply the command, or it is already finished.
   * @throws {Unreachable} if no server responded. The command may be cancelled nevertheless.
   */
  cancel(command: CommandRecord | string): Promise<CommandRecord> {
    return this.protocol.cancel(idOf(command));
  }

  // --- reads -----------------------------------------------------------------------------------------------------

  /**
   * Return the JSON of a resource; `path` is relative to the organization, for example `teams/`.
   *
   * @throws {Refused} if the resource does not exist, or the caller may not read it.
   * @throws {Unreachable} if no server responded.
   */
  read(path: string, query: reads.Query = {}): Promise<any> {
    return reads.read(this.protocol, path, query);
  }

  /** Return an incident, given by its number. The errors are as in {@link read}. */
  incident(number: number | string): Promise<Incident> {
    return reads.read(this.protocol, `incidents/${encodeURIComponent(number)}/`);
  }

  /**
   * Iterate over incidents, those that started last first.
   *
   * The list is read page by page, as far as it is iterated over. `status` is `open` for every status but closed.
   * `projects` holds slugs, or `["$all"]`; by default, the list has the projects of the caller's teams, or all projects
   * for a service. `title` is a part of the title in any case. `dedupKey` finds one incident: the open one with that
   * key, or else the latest. The errors are as in {@link read}.
   */
  incidents(
    filter: {
      status?: "open" | "warning" | "critical" | "closed";
      projects?: readonly string[];
      title?: string;
      dedupKey?: string;
    } = {},
  ): AsyncGenerator<Incident, void, void> {
    const { status, projects, title, dedupKey } = filter;
    return reads.readAll(this.protocol, "incidents/", { status, projectSlug: projects, title, dedupKey });
  }

  /**
   * Iterate over the activities on an incident, given by its number, newest first unless `oldestFirst` is true.
   *
   * The list is read page by page, as far as it is iterated over. The errors are as in {@link read}.
   */
  activities(incident: number | string, { oldestFirst = false } = {}): AsyncGenerator<Activity, void, void> {
    const path = `incidents/${encodeURIComponent(incident)}/activity/`;
    return reads.readAll(this.protocol, path, { desc: oldestFirst ? "0" : "1" });
  }

  /**
   * Iterate over the caller's notifications in this organization, newest first.
   *
   * `unread` leaves out those that have been read or retracted. The list is read page by page, as far as it is iterated
   * over.
   *
   * @throws {Refused} if the caller is not a person and does not act for one.
   * @throws {Unreachable} if no server responded.
   */
  inbox({ unread = false } = {}): AsyncGenerator<Notification, void, void> {
    return reads.readAll(this.protocol, "notifications/", { unread: unread ? "1" : undefined });
  }

  // --- messages --------------------------------------------------------------------------------------------------

  /**
   * Return why the caller has this notification in their inbox: the decisions on its activity, newest first.
   *
   * @throws {Refused} if the inbox has no such notification that the caller may read.
   * @throws {Unreachable} if no server responded.
   */
  explain(notification: number | string): Promise<Decision[]> {
    return reads.readDecisions(this.protocol, `notifications/${encodeURIComponent(notification)}/explain/`);
  }

  /**
   * Return why a person was, or was not, notified of an incident's comments and status changes, newest first.
   *
   * `incident` is the incident's number. `user` is a person's id; only managers and owners may ask for others. Without
   * it, the decisions are those about the caller.
   *
   * @throws {Refused} if there is no such incident or person, or if the caller may not ask.
   * @throws {Unreachable} if no server responded.
   */
  explainIncident(
    incident: number | string,
    { user }: { user?: number | string } = {},
  ): Promise<Decision[]> {
    return reads.readDecisions(this.protocol, `incidents/${encodeURIComponent(incident)}/explain/`, { user });
  }

  /**
   * Return the caller's preferences for messages, with their version.
   *
   * @throws {Refused} if the caller is not a person and does not act for one.
   * @throws {Unreachable} if no server responded.
   */
  preferences(): Promise<Preferences> {
    return reads.preferences(this.protocol);
  }

  /**
   * Replace the caller's preferences for messages; the outcome's body is the new document.
   *
   * What the document omits gets its default, except the muted incidents. If `version` is set, to that of
   * {@link preferences}, preferences that have changed since are not replaced. The other options and the errors are as
   * in {@link post}.
   */
  replacePreferences(
    document: Readonly<Record<string, unknown>>,
    { version, key, waitSeconds = DEFAULT_WAIT_SECONDS }: PostOptions & { version?: string } = {},
  ): Promise<Outcome> {
    return reads.replacePreferences(this.protocol, document, version, key, waitSeconds);
  }

  /** Mute an incident for the caller, until a time or without end. The other options and errors are as in {@link post}. */
  mute(
    incident: number | string,
    { until, ...options }: PostOptions & { until?: Date | string } = {},
  ): Promise<Outcome<{ readonly until: string | null }>> {
    const command = { type: "incident.mute", incident } as const;
    return this.post(until === undefined ? command : { ...command, until }, options);
  }

  /** Unmute an incident for the caller. The options and errors are as in {@link post}. */
  unmute(incident: number | string, options: PostOptions = {}): Promise<Outcome<null>> {
    return this.post({ type: "incident.unmute", incident }, options);
  }

  // --- events ----------------------------------------------------------------------------------------------------

  /**
   * Iterate over every event once, as it happens, and reconnect after an interruption.
   *
   * Without `lastId` or `fromStart`, the stream starts with the next event. Leaving the loop releases the connection, and
   * so does aborting `signal`, which ends the iteration.
   *
   * @throws {Refused} if the caller may not follow these events, or loses access.
   * @throws {TypeError} if both `lastId` and `fromStart` are given.
   */
  async *follow(options: FollowOptions & { signal?: AbortSignal } = {}): AsyncGenerator<Event, void, void> {
    const { signal, ...from } = options;
    const cursor = new EventCursor(this.protocol, from);
    while (!signal?.aborted) {
      let reason = ENDED;
      try {
        const response = await this.protocol.transport.stream(cursor.request(), signal);
        if (cursor.opens(response)) {
          for await (const message of parseMessages(response.text)) {
            const event = cursor.advance(message);
            if (event) yield event;
          }
        } else {
          reason = String(response.status);
        }
      } catch (error) {
        if (!(error instanceof ConnectionLost)) throw error;
        reason = error.message;
      }
      if (!signal?.aborted) await systemClock.sleep(cursor.backoff(reason), signal);
    }
  }
}

const systemClock: Clock = {
  now: () => performance.now() / 1000,
  async sleep(seconds, signal) {
    await setTimeout(seconds * 1000, undefined, signal && { signal }).catch((error: unknown) => {
      if (!signal?.aborted) throw error;
    });
  },
};

function idOf(command: CommandRecord | string): string {
  return typeof command === "string" ? command : command.id;
}
