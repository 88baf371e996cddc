/** A clock and a server that run in no time. */

import { ConnectionLost, type HttpRequest, type HttpResponse } from "../dist/http.js";
import { HttpProtocol, type Clock, type ProtocolOptions } from "../dist/protocol.js";

/** A clock that moves only when somebody sleeps. */
export class FakeClock implements Clock {
  time = 1000;

  now(): number {
    return this.time;
  }

  async sleep(seconds: number): Promise<void> {
    this.time += seconds;
  }
}

/** What a fake server answers; undefined breaks the connection. */
export type Answer = { status: number; headers?: Record<string, string>; body?: unknown } | undefined;

/** A protocol whose requests are answered by a function, with the requests that it has sent. */
export class FakeServer {
  readonly requests: HttpRequest[] = [];
  readonly clock = new FakeClock();
  readonly log: string[] = [];
  readonly protocol: HttpProtocol;

  constructor(answer: (request: HttpRequest, number: number) => Answer, options: Partial<ProtocolOptions> = {}) {
    const send = async (request: HttpRequest): Promise<HttpResponse> => {
      this.requests.push(request);
      const found = answer(request, this.requests.length);
      if (found === undefined) throw new ConnectionLost("ECONNREFUSED");
      return { status: found.status, headers: new Headers(found.headers), body: found.body ?? null };
    };
    const stream = () => Promise.reject(new Error("not a stream"));
    this.protocol = new HttpProtocol(
      { send, stream },
      {
        token: "dev-mem",
        organization: "acme",
        actAs: undefined,
        patienceSeconds: 60,
        strict: true,
        log: (line) => this.log.push(line),
        clock: this.clock,
        ...options,
      },
    );
  }

  /** The values of a header in all requests so far. */
  sent(header: string): (string | undefined)[] {
    return this.requests.map((request) => request.headers[header]);
  }
}

/** Return the resource of a comment command. */
export function aRecord(id: string, fields: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    id,
    type: "comment.post",
    status: "accepted",
    organization: "acme",
    acceptedAt: "2026-11-23T11:35:57Z",
    finishedAt: null,
    attempts: 0,
    heldBy: null,
    outcome: null,
    error: null,
    ...fields,
  };
}

/** Return the resource of an applied comment command. */
export function anAppliedRecord(id: string): Record<string, unknown> {
  return aRecord(id, { status: "applied", outcome: { status: 201, body: { id: "7" } } });
}
