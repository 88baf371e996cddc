import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { inspect } from "node:util";

import { Refused, Tocsin, type TocsinOptions } from "tocsin-client";

import { ConnectionLost, HttpTransport } from "../dist/http.js";

type Handler = (request: IncomingMessage, response: ServerResponse, number: number) => void;

/** Run a server and a client of it, and close the server afterwards, with all connections. */
async function withServer(
  handle: Handler,
  use: (client: Tocsin, url: string) => Promise<void>,
  options: Partial<TocsinOptions> = {},
): Promise<void> {
  let number = 0;
  const server = createServer((request, response) => handle(request, response, ++number));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  try {
    await use(new Tocsin(`${url}/`, "dev-mem", { organization: "acme", ...options }), url);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

function json(response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(body));
}

// --- connections -------------------------------------------------------------------------------------------------

test("a post over a faulty connection is repeated with its key", async () => {
  const keys: unknown[] = [];
  const handle: Handler = (request, response, number) => {
    keys.push(request.headers["idempotency-key"]);
    if (number === 1) return void request.socket.destroy();
    if (number === 2) {
      // The connection breaks within the response.
      response.writeHead(201, { "Content-Length": "100" }).write('{"id":');
      return void setImmediate(() => request.socket.destroy());
    }
    json(response, 201, { id: "7" }, { "command-id": "c-1" });
  };

  await withServer(handle, async (client) => {
    const outcome = await client.post({ type: "comment.post", incident: 1, comment: "Look." });

    assert.deepEqual([outcome.status, outcome.body.id], [201, "7"]);
    assert.equal(keys.length, 3);
    assert.equal(new Set(keys).size, 1);
  });
});

test("a redirect is refused and not followed", async () => {
  const paths: unknown[] = [];
  const handle: Handler = (request, response) => {
    paths.push(request.url);
    response.writeHead(307, { Location: "/elsewhere/" }).end();
  };

  await withServer(handle, async (client) => {
    await assert.rejects(client.incident(1), (error) => error instanceof Refused && error.message === "307: /elsewhere/");
    assert.deepEqual(paths, ["/api/0/organizations/acme/incidents/1/"]);
  });
});

test("a response that does not come in time is a lost connection", async () => {
  const handle: Handler = (request, response) => {
    if (request.url === "/stream") response.writeHead(200).write(": the only data\n");
  };

  await withServer(handle, async (_, url) => {
    const transport = new HttpTransport(url, fetch);
    const request = { method: "GET", path: "/", headers: {}, timeoutSeconds: 0.2 };

    await assert.rejects(transport.send(request), /no data for 0\.2 s/);
    await assert.rejects(transport.send(request), ConnectionLost);
    const { text } = await transport.stream({ ...request, path: "/stream" });
    await assert.rejects(async () => {
      for await (const _part of text);
    }, /no data for 0\.2 s/);
  });
});

test("each part of a stream has the whole time limit", { timeout: 30_000 }, async () => {
  const limits: unknown[] = [];
  const setTimer = globalThis.setTimeout;
  const handle: Handler = (_, response) => {
    response.writeHead(200).write("first");
    limitsReached(1, () => response.end("last"));
  };
  const limitsReached = (parts: number, then: () => void) => {
    setTimer(() => (limits.length > parts ? then() : limitsReached(parts, then)), 5);
  };

  await withServer(handle, async (_, url) => {
    globalThis.setTimeout = ((run: () => void, milliseconds: number) => {
      if (milliseconds === 77_000) limits.push(milliseconds);
      return setTimer(run, milliseconds);
    }) as typeof setTimeout;
    try {
      const transport = new HttpTransport(url, fetch);
      const { text } = await transport.stream({ method: "GET", path: "/", headers: {}, timeoutSeconds: 77 });
      const parts: string[] = [];
      for await (const part of text) parts.push(part);

      assert.deepEqual(parts, ["first", "last"]);
      assert.equal(limits.length, 3);
    } finally {
      globalThis.setTimeout = setTimer;
    }
  });
});

test("logging a client does not show its token", () => {
  const client = new Tocsin("http://127.0.0.1:9", "very-secret", { organization: "acme" });

  assert.doesNotMatch(inspect(client, { depth: 9 }), /very-secret/);
  assert.doesNotMatch(JSON.stringify(client), /very-secret/);
});

// --- lists -------------------------------------------------------------------------------------------------------

test("a list is read over all pages, as far as it is iterated over", async () => {
  const queries: string[] = [];
  const handle: Handler = (request, response) => {
    const { searchParams } = new URL(request.url ?? "", "http://x.test");
    queries.push(searchParams.toString());
    const page = Number(searchParams.get("cursor") ?? 0);
    const next = `<http://x.test/?cursor=${page + 1}>; rel="next"; results="${page < 2}"; cursor="${page + 1}"`;
    const link = `<http://x.test/?cursor=9>; rel="previous"; results="true"; cursor="9", ${next}`;
    json(response, 200, [{ identifier: `${page}a` }, { identifier: `${page}b` }], { Link: link });
  };

  await withServer(handle, async (client) => {
    const numbers: string[] = [];
    for await (const incident of client.incidents({ status: "open", projects: ["p1", "p2"] })) {
      numbers.push(incident.identifier);
    }
    for await (const _incident of client.incidents()) break;

    assert.deepEqual(numbers, ["0a", "0b", "1a", "1b", "2a", "2b"]);
    const filter = "status=open&projectSlug=p1&projectSlug=p2&per_page=100";
    assert.deepEqual(queries, [filter, `${filter}&cursor=1`, `${filter}&cursor=2`, "per_page=100"]);
  });
});

// --- preferences -------------------------------------------------------------------------------------------------

test("preferences are replaced only if they have not changed since they were read", async () => {
  const sent: unknown[] = [];
  const handle: Handler = (request, response) => {
    if (request.method === "GET") return json(response, 200, { digest: {} }, { ETag: '"4-abc"' });
    sent.push(request.headers["if-match"], typeof request.headers["idempotency-key"]);
    json(response, 412, { detail: "The resource has changed since you read it." });
  };

  await withServer(handle, async (client) => {
    const { document, version } = await client.preferences();

    await assert.rejects(client.replacePreferences(document, { version }), /412: The resource has changed/);
    assert.deepEqual(sent, ['"4-abc"', "string"]);
  });
});

// --- following ---------------------------------------------------------------------------------------------------

function message(id: string): string {
  const event = {
    id, type: "incident.comment_posted", source: "/organizations/acme", subject: "incidents/1",
    time: "2026-11-23T11:35:57Z", sequence: id.padStart(20, "0"), data: { comment: "Größe" },
  };
  return `id: ${id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
}

test("following resumes after every kind of interruption and yields each event once", async () => {
  const resumed: unknown[] = [];
  const log: string[] = [];
  const handle: Handler = (request, response, number) => {
    resumed.push(request.headers["last-event-id"]);
    if (number === 2) return void request.socket.destroy();
    if (number === 3) return void response.writeHead(503).end();
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    if (number === 1) {
      // The first message has a position only, and the last one is cut off.
      response.write("retry: 1000\n\nid: 0\n\n" + message("1") + message("2") + message("3").slice(0, 40));
      setImmediate(() => request.socket.destroy());
    } else {
      response.write(message("2") + message("3") + message("4"));
    }
  };

  await withServer(
    handle,
    async (client) => {
      const ids: string[] = [];
      for await (const event of client.follow()) {
        ids.push(event.id);
        assert.deepEqual([event.sequence, event.data], [Number(event.id), { comment: "Größe" }]);
        if (event.id === "4") break;
      }

      assert.deepEqual(ids, ["1", "2", "3", "4"]);
      assert.deepEqual(resumed, [undefined, "2", "2", "2"]);
      assert.equal(log.filter((line) => line.startsWith("the event stream was interrupted, reconnecting in")).length, 3);
      assert.match(log[2] ?? "", /: 503$/);
      assert.equal(log[3], "following events again, after the event 2");
    },
    { log: (line) => log.push(line) },
  );
});

test("following can begin at the start, at an id, or for one incident", async () => {
  const requests: unknown[] = [];
  const handle: Handler = (request, response) => {
    requests.push([request.url, request.headers["last-event-id"]]);
    response.writeHead(200, { "Content-Type": "text/event-stream" }).write(message("1"));
  };

  await withServer(handle, async (client) => {
    for await (const _event of client.follow({ fromStart: true })) break;
    for await (const _event of client.follow({ lastId: "7", incident: 3 })) break;

    const path = "/api/0/organizations/acme/events/";
    assert.deepEqual(requests, [
      [path, "00000000-0000-0000-0000-000000000000"],
      [`${path}?incident=3`, "7"],
    ]);
    await assert.rejects(client.follow({ lastId: "7", fromStart: true }).next(), TypeError);
  });
});

test("following without access is refused", async () => {
  const handle: Handler = (_, response) => {
    json(response, 403, { title: "Forbidden", detail: "No.", code: "scope_missing", errors: [] });
  };

  await withServer(handle, async (client) => {
    await assert.rejects(client.follow().next(), (error) => error instanceof Refused && error.code === "scope_missing");
  });
});

test("a signal ends following, while it waits for events and while it is disconnected", async () => {
  for (const answer of [200, 503]) {
    const controller = new AbortController();
    const handle: Handler = (_, response) => {
      response.writeHead(answer, { "Content-Type": "text/event-stream" }).write(":\n\n");
      if (answer !== 200) response.end();
      setImmediate(() => controller.abort());
    };

    await withServer(handle, async (client) => {
      assert.deepEqual(await client.follow({ signal: controller.signal }).next(), { done: true, value: undefined });
    });
  }
});
