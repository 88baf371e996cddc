/** The client side of tocsin's HTTP API: what to send, when to retry, and how to read the responses. */

import { randomUUID } from "node:crypto";

import type { Command } from "./commands.js";
import { Failed, Refused, TimedOut, Unreachable } from "./errors.js";
import { ConnectionLost, type HttpRequest, type HttpResponse, type HttpTransport } from "./http.js";
import { BulkResult, isFinal, outcomeOf, type CommandRecord, type Outcome } from "./results.js";
import { ownEndpoint } from "./routes.js";

/** The longest time that the server lets one request wait for an outcome. */
const MAX_WAIT_SECONDS = 30;

/** The time that a response may take in addition to the requested wait. */
const RESPONSE_MARGIN_SECONDS = 10;

const FIRST_BACKOFF_SECONDS = 0.2;
const MAX_BACKOFF_SECONDS = 10;

/** The response statuses after which a request is retried, because the gateway has not accepted it. */
export const RETRYABLE_STATUSES: ReadonlySet<number> = new Set([429, 502, 503, 504]);

/** Takes a line for a log: an interruption, a retry or a reconnection. */
export type Log = (line: string) => void;

/** Time as the protocol sees it. Everything is in seconds, and `now` never goes back. */
export interface Clock {
  now(): number;
  /** Wait for some seconds, or until the signal is aborted. */
  sleep(seconds: number, signal?: AbortSignal): Promise<void>;
}

/** What the requests of one client have in common. */
export interface ProtocolOptions {
  readonly token: string;
  readonly organization: string;
  /** The id of the member for whom a service acts. */
  readonly actAs: number | string | undefined;
  /** The time limit for retrying one request. */
  readonly patienceSeconds: number;
  /** Whether the server should refuse fields and query parameters that it does not know. */
  readonly strict: boolean;
  readonly log: Log;
  readonly clock: Clock;
}

/** The requests of one caller in one organization. */
export class HttpProtocol {
  constructor(
    readonly transport: Pick<HttpTransport, "send" | "stream">,
    readonly options: ProtocolOptions,
  ) {}

  // --- commands --------------------------------------------------------------------------------------------------

  /** Submit a command and wait up to `waitSeconds` for its outcome. */
  post(command: Command, key: string | undefined, waitSeconds: number): Promise<Outcome> {
    return this.postRequest(this.commandRequest(command, key), waitSeconds);
  }

  /** Send the request that submits a command, and wait up to `waitSeconds` for the command's outcome. */
  async postRequest(request: HttpRequest, waitSeconds: number): Promise<Outcome> {
    const until = this.options.clock.now() + waitSeconds;
    const response = singleResponse(await this.send(request, { until }));
    if (response.status === 202) return this.wait((response.body as CommandRecord).id, until);
    return {
      commandId: response.headers.get("command-id") ?? "",
      status: response.status,
      body: checkedBody(response),
      isReplay: response.headers.get("idempotent-replayed") !== null,
    };
  }

  /** Submit a command and return its record as soon as it is accepted. */
  async submit(command: Command, key: string | undefined): Promise<CommandRecord> {
    const response = singleResponse(await this.send(this.commandRequest(command, key)));
    const body = checkedBody(response);
    return response.status === 202 ? body : this.record(response.headers.get("command-id") ?? "");
  }

  /** Submit many commands in one request. With `waitSeconds`, wait that long until every command has an outcome. */
  async bulk(
    commands: readonly Command[],
    key: string | undefined,
    waitSeconds: number | undefined,
  ): Promise<BulkResult> {
    const request = this.request("POST", this.path("commands/"), { commands }, key ?? newKey());
    const until = waitSeconds === undefined ? undefined : this.options.clock.now() + waitSeconds;
    let accepted: string[] = [];
    for (let attempt = 0; ; attempt++) {
      // Repeating the request with its key changes nothing and returns the current records.
      const response = await this.send(request, { until }).catch((error: unknown) => {
        throw accepted.length && error instanceof Unreachable ? new TimedOut(accepted, { cause: error }) : error;
      });
      const records: CommandRecord[] = checkedBody(response).commands;
      if (until === undefined || response.status === 200) return new BulkResult(records);
      accepted = records.map((record) => record.id);
      await this.pauseBeforePoll(accepted, attempt, until);
    }
  }

  /** Read a command's record. */
  async record(id: string): Promise<CommandRecord> {
    return checkedBody(await this.send(this.request("GET", commandPath(id))));
  }

  /** Wait for the outcome of an accepted command until a time of the clock. */
  async wait(id: string, until: number): Promise<Outcome> {
    for (let attempt = 0; ; attempt++) {
      const request = this.request("GET", commandPath(id));
      const response = await this.send(request, { until, isPatient: true }).catch((error: unknown) => {
        throw error instanceof Unreachable ? new TimedOut([id], { cause: error }) : error;
      });
      const record: CommandRecord = checkedBody(response);
      if (isFinal(record)) return outcomeOf(record);
      await this.pauseBeforePoll([id], attempt, until);
    }
  }

  /** Cancel a command that no worker has begun to apply, and return its record. */
  async cancel(id: string): Promise<CommandRecord> {
    const response = await this.send(this.request("POST", `${commandPath(id)}cancel/`));
    if (response.status === 409) {
      // An earlier attempt, whose response was lost, may have cancelled it.
      const record = await this.record(id);
      if (record.status === "discarded") return record;
    }
    return checkedBody(response);
  }

  /** Pause before unfinished commands are read again. If one is held, the server does not wait itself. */
  private async pauseBeforePoll(ids: readonly string[], attempt: number, until: number): Promise<void> {
    const remaining = until - this.options.clock.now();
    if (remaining <= 0) throw new TimedOut(ids);
    await this.options.clock.sleep(Math.min(this.backoff(attempt), remaining));
  }

  // --- requests --------------------------------------------------------------------------------------------------

  /** Return the path of one of the organization's resources. */
  path(suffix: string): string {
    return `/api/0/organizations/${encodeURIComponent(this.options.organization)}/${suffix}`;
  }

  /** Return the headers that every request carries: the credentials and the accepted media types. */
  headers(): Record<string, string> {
    const { token, actAs } = this.options;
    const headers = { Authorization: `Bearer ${token}`, Accept: "application/json, application/problem+json" };
    return actAs === undefined ? headers : { ...headers, "Act-As": `user:${actAs}` };
  }

  /** Return a request, which submits a command if it has an idempotency key. */
  request(method: string, path: string, body?: unknown, key?: string): HttpRequest {
    const headers = this.headers();
    if (key !== undefined) Object.assign(headers, { "Idempotency-Key": key, "Content-Type": "application/json" });
    const request = { method, path, headers, timeoutSeconds: RESPONSE_MARGIN_SECONDS };
    return body === undefined ? request : { ...request, body: encodeJson(body) };
  }

  private commandRequest(command: Command, key: string = newKey()): HttpRequest {
    const endpoint = ownEndpoint(command);
    if (endpoint === undefined) return this.request("POST", this.path("commands/"), { commands: [command] }, key);
    return this.request(endpoint.method, this.path(endpoint.path), endpoint.body, key);
  }

  /**
   * Send a request, and retry it until a server accepts or refuses it.
   *
   * Without `until`, the server responds at once. If it is set, a time of the clock, the server waits for outcomes until
   * then, and no attempt begins later. Attempts end after `patienceSeconds`, unless `isPatient` is true.
   *
   * @throws {Unreachable} if no server accepted or refused the request in time.
   */
  async send(
    request: HttpRequest,
    { until, isPatient = false }: { until?: number | undefined; isPatient?: boolean } = {},
  ): Promise<HttpResponse> {
    const { clock, log, patienceSeconds } = this.options;
    const giveUp = Math.min(isPatient ? Infinity : clock.now() + patienceSeconds, until ?? Infinity);
    for (let attempt = 0; ; attempt++) {
      const reply = await this.attempt(this.withPreferences(request, until));
      if (!(reply instanceof ConnectionLost) && !RETRYABLE_STATUSES.has(reply.status)) return reply;
      const pause = retryAfter(reply) + this.backoff(attempt);
      if (clock.now() + pause > giveUp) throw new Unreachable(reasonOf(reply), request.headers["Idempotency-Key"]);
      log(`${request.method} ${request.path} failed, retrying in ${pause.toFixed(1)} s: ${reasonOf(reply)}`);
      await clock.sleep(pause);
    }
  }

  /** Return the delay in seconds after an attempt (counted from 0). It grows exponentially and has jitter. */
  backoff(attempt: number): number {
    return Math.min(FIRST_BACKOFF_SECONDS * 2 ** attempt, MAX_BACKOFF_SECONDS) * (0.5 + Math.random() / 2);
  }

  private async attempt(request: HttpRequest): Promise<HttpResponse | ConnectionLost> {
    try {
      return await this.transport.send(request);
    } catch (error) {
      if (error instanceof ConnectionLost) return error;
      throw error;
    }
  }

  /** Return the request with its `Prefer` header, and with a timeout that allows the server to wait. */
  private withPreferences(request: HttpRequest, until: number | undefined): HttpRequest {
    const remaining = until === undefined ? 0 : Math.round(until - this.options.clock.now());
    const seconds = Math.max(0, Math.min(remaining, MAX_WAIT_SECONDS));
    const preferences: string[] = [];
    if (seconds) preferences.push(`wait=${seconds}`);
    else if ("Idempotency-Key" in request.headers) preferences.push("respond-async");
    if (this.options.strict) preferences.push("handling=strict");
    const headers = preferences.length ? { ...request.headers, Prefer: preferences.join(", ") } : request.headers;
    return { ...request, headers, timeoutSeconds: seconds + RESPONSE_MARGIN_SECONDS };
  }
}

/** Return a new idempotency key. */
export function newKey(): string {
  return randomUUID();
}

/**
 * Return the body of a response.
 *
 * @throws {Refused} if the response is a refusal.
 * @throws {Failed} if the server failed.
 */
export function checkedBody(response: HttpResponse): any {
  const id = response.headers.get("command-id") ?? undefined;
  if (response.status >= 500) throw new Failed(reasonOf(response), undefined, id);
  if (response.status >= 300) {
    throw new Refused(response.status, response.body ?? response.headers.get("location"), id);
  }
  return response.body;
}

/**
 * Convert the response to a bulk request with one command into the response of the command's own endpoint.
 *
 * Return any other response unchanged.
 */
function singleResponse(response: HttpResponse): HttpResponse {
  const { status, headers } = response;
  const body = response.body as any;
  if (status === 400 && Array.isArray(body?.errors)) {
    const errors = body.errors.map((each: any) => ({ ...each, pointer: each.pointer.replace(/^#\/commands\/0/, "#") }));
    return { status, headers, body: { ...body, errors } };
  }
  if ((status !== 200 && status !== 202) || !Array.isArray(body?.commands)) return response;
  const record: CommandRecord = body.commands[0];
  if (status === 202) return { status, headers, body: record };
  const outcome = outcomeOf(record);
  return { status: outcome.status, headers, body: outcome.body };
}

/** Encode a value as JSON. `JSON.stringify` would turn a number that JSON cannot express into null. */
function encodeJson(value: unknown): string {
  return JSON.stringify(value, (name, each: unknown) => {
    if (typeof each === "number" && !Number.isFinite(each)) throw new RangeError(`${name} must be finite: ${each}`);
    return each;
  });
}

function commandPath(id: string): string {
  return `/api/0/commands/${encodeURIComponent(id)}/`;
}

function retryAfter(reply: HttpResponse | ConnectionLost): number {
  const value = reply instanceof ConnectionLost ? null : reply.headers.get("retry-after");
  return /^[0-9]+$/.test(value ?? "") ? Number(value) : 0;
}

function reasonOf(reply: HttpResponse | ConnectionLost): string {
  if (reply instanceof ConnectionLost) return reply.message;
  return `${reply.status}: ${typeof reply.body === "string" ? reply.body : JSON.stringify(reply.body)}`;
}
