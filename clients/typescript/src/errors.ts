/** Errors that the client throws. */

import type { CommandRecord } from "./results.js";

/** Base class of all errors in this package. */
export class TocsinError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** What is wrong with one part of a request. `pointer` is a JSON pointer, for example `#/mentions/0`. */
export interface FieldError {
  readonly pointer: string;
  readonly detail: string;
}

/**
 * Thrown when the request or the command is refused. This is final: a retry gets the same response.
 *
 * `status` and `body` are those of the HTTP response or of the command's outcome. `commandId` is set if the command had
 * been accepted and was refused when a worker applied it.
 */
export class Refused extends TocsinError {
  readonly status: number;
  readonly body: unknown;
  readonly commandId: string | undefined;
  /** What is wrong, in a sentence. */
  readonly detail: string;
  /** The reason as a word, for example `no_project_access`, if the server gave one (RFC 9457). */
  readonly code: string | undefined;
  /** What is wrong with each part of the request. Empty if the refusal is not about parts. */
  readonly errors: readonly FieldError[];

  constructor(status: number, body: unknown, commandId?: string) {
    const problem = problemOf(body);
    super(`${status}: ${[problem.detail, ...problem.errors.map(describe)].join("; ")}`);
    this.status = status;
    this.body = body;
    this.commandId = commandId;
    this.detail = problem.detail;
    this.code = problem.code;
    this.errors = problem.errors;
  }
}

/**
 * Thrown when the server fails: the command is dead or was discarded, or the gateway returned an error (5xx).
 *
 * `command` is the command's record, if the server returned one. The server's operators can see dead commands.
 */
export class Failed extends TocsinError {
  readonly command: CommandRecord | undefined;
  readonly commandId: string | undefined;

  constructor(error: string, command?: CommandRecord, commandId?: string) {
    super(error);
    this.command = command;
    this.commandId = command?.id ?? commandId;
  }
}

/**
 * Thrown by `BulkResult.throwForRefused` when some commands of a bulk request were not applied.
 *
 * `errors` has an error for each of them, by the command's position in the request, counted from 0.
 */
export class NotApplied extends TocsinError {
  readonly errors: ReadonlyMap<number, Refused | Failed>;

  constructor(errors: ReadonlyMap<number, Refused | Failed>, total: number) {
    const [[position, first] = []] = errors;
    super(
      `${errors.size} of ${total} commands were not applied; the first is command ${position}: ${first?.message}`,
    );
    this.errors = errors;
  }
}

/**
 * Thrown when no server accepted the request in time, despite retries.
 *
 * The retries end after `patienceSeconds` or, if that is earlier, with the time that the call may wait. The command may
 * have been accepted nevertheless. If it is posted again with the same `key`, it still takes effect only once.
 */
export class Unreachable extends TocsinError {
  readonly key: string | undefined;

  constructor(reason: string, key?: string) {
    super(reason);
    this.key = key;
  }
}

/**
 * Thrown when a wait ends before every command has an outcome. The commands have been accepted and stay accepted.
 *
 * To get the outcomes later, wait for each of the `commandIds`. If no server responded, `cause` says why.
 */
export class TimedOut extends TocsinError {
  readonly commandIds: readonly string[];

  constructor(commandIds: readonly string[], options?: ErrorOptions) {
    super(`accepted, but not finished in time: ${commandIds.slice(0, 3).join(", ")}`, options);
    this.commandIds = commandIds;
  }
}

/** Thrown when a message does not come from tocsin, was changed on its way, or is too old. Answer it with 400. */
export class InvalidWebhook extends TocsinError {}

interface Problem {
  readonly detail: string;
  readonly code: string | undefined;
  readonly errors: readonly FieldError[];
}

/** Return what an error body says: problem details (RFC 9457), or the plain JSON of a rejected command's outcome. */
function problemOf(body: unknown): Problem {
  if (!isObject(body)) {
    return { detail: typeof body === "string" ? body : JSON.stringify(body ?? null), code: undefined, errors: [] };
  }
  if (typeof body["title"] === "string" && Array.isArray(body["errors"])) {
    const code = typeof body["code"] === "string" ? body["code"] : undefined;
    return { detail: String(body["detail"] ?? body["title"]), code, errors: body["errors"] as FieldError[] };
  }
  if ("detail" in body) {
    return { detail: String(body["detail"]), code: undefined, errors: [] };
  }
  return { detail: "the request has invalid fields", code: undefined, errors: [...fieldErrors(body, "#")] };
}

function* fieldErrors(value: unknown, pointer: string): Generator<FieldError> {
  if (Array.isArray(value)) {
    for (const each of value) yield* fieldErrors(each, pointer);
  } else if (isObject(value)) {
    for (const [name, inner] of Object.entries(value)) {
      yield* fieldErrors(inner, `${pointer}/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`);
    }
  } else {
    yield { pointer, detail: String(value) };
  }
}

function describe(error: FieldError): string {
  return `${error.pointer}: ${error.detail}`;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
