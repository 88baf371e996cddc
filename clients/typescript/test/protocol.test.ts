import assert from "node:assert/strict";
import { test } from "node:test";

import { Failed, NotApplied, rawCommand, Refused, TimedOut, Unreachable, type Command } from "tocsin-client";

import { aRecord, anAppliedRecord, FakeServer } from "./fakes.js";

const LOOK = { type: "comment.post", incident: 1, comment: "Look at this." } as const satisfies Command;
const COMMENTS = "/api/0/organizations/acme/incidents/1/comments/";
const COMMANDS = "/api/0/organizations/acme/commands/";
const CREATED = { status: 201, headers: { "command-id": "c-1" }, body: { id: "7" } };

// --- one command -------------------------------------------------------------------------------------------------

test("a post is sent to the command's own endpoint and returns its outcome", async () => {
  const server = new FakeServer(() => CREATED);

  const outcome = await server.protocol.post({ ...LOOK, mentions: ["user:12"] }, undefined, 30);

  assert.deepEqual(outcome, { commandId: "c-1", status: 201, body: { id: "7" }, isReplay: false });
  const [request] = server.requests;
  assert.deepEqual([request?.method, request?.path], ["POST", COMMENTS]);
  assert.deepEqual(JSON.parse(request?.body ?? ""), { comment: "Look at this.", mentions: ["user:12"] });
  assert.equal(request?.headers["Authorization"], "Bearer dev-mem");
  assert.equal(request?.headers["Prefer"], "wait=30, handling=strict");
  assert.equal(request?.timeoutSeconds, 40);
});

test("a command without an endpoint of its own, or about a deduplication key, is posted in bulk", async () => {
  for (const command of [
    { type: "incident.set_status", incident: 1, status: 2 } as const,
    { type: "comment.post", incident: "dedup:checkout", comment: "Look." } as const,
    rawCommand("trigger.delete", { alertRule: "3", id: "5" }),
    rawCommand("constructor", {}),
  ]) {
    const server = new FakeServer(() => ({ status: 200, body: { commands: [anAppliedRecord("c-1")] } }));

    const outcome = await server.protocol.post(command, undefined, 30);

    assert.equal(server.requests[0]?.path, COMMANDS);
    assert.deepEqual(JSON.parse(server.requests[0]?.body ?? ""), { commands: [command] });
    assert.deepEqual([outcome.status, outcome.body], [201, { id: "7" }]);
  }
});

test("times are sent in ISO 8601, and numbers that JSON cannot express are errors", async () => {
  const server = new FakeServer(() => CREATED);
  const observation = { type: "metric.observe", alertRule: 5, project: "p1", timestamp: new Date(0) } as const;

  await server.protocol.post({ ...observation, value: 1 }, undefined, 30);

  assert.equal(JSON.parse(server.requests[0]?.body ?? "").timestamp, "1970-01-01T00:00:00.000Z");
  await assert.rejects(async () => server.protocol.post({ ...observation, value: NaN }, undefined, 30), RangeError);
});

test("a retry carries the key of the first try, and is a replay if the first try was accepted", async () => {
  for (const key of ["mine", undefined]) {
    const replayed = { ...CREATED, headers: { "command-id": "c-1", "idempotent-replayed": "true" } };
    const answers = [undefined, { status: 503 }, { status: 429 }, { status: 502 }, { status: 504 }, replayed];
    const server = new FakeServer((_, number) => answers[number - 1]);

    const outcome = await server.protocol.post(LOOK, key, 30);

    const keys = server.sent("Idempotency-Key");
    assert.equal(keys.length, 6);
    assert.equal(new Set(keys).size, 1);
    assert.match(keys[0] ?? "", key === undefined ? /^[0-9a-f-]{36}$/ : /^mine$/);
    assert.equal(outcome.isReplay, true);
    assert.match(server.log[0] ?? "", /^POST \S+ failed, retrying in \d\.\d s: ECONNREFUSED$/);
  }
});

test("two posts have different keys", async () => {
  const server = new FakeServer(() => CREATED);

  await server.protocol.post(LOOK, undefined, 30);
  await server.protocol.post(LOOK, undefined, 30);

  assert.equal(new Set(server.sent("Idempotency-Key")).size, 2);
});

test("a post whose outcome is late waits for it with further requests", async () => {
  const server = new FakeServer((request, number) => {
    if (request.method === "POST") return { status: 202, body: aRecord("c-1") };
    return { status: 200, body: number < 3 ? aRecord("c-1") : anAppliedRecord("c-1") };
  });

  const outcome = await server.protocol.post(LOOK, undefined, 30);

  assert.deepEqual([outcome.commandId, outcome.status], ["c-1", 201]);
  assert.deepEqual(
    server.requests.map((request) => request.path),
    [COMMENTS, "/api/0/commands/c-1/", "/api/0/commands/c-1/"],
  );
});

test("a submitted command's record is returned at once", async () => {
  const accepted = new FakeServer(() => ({ status: 202, body: aRecord("c-1") }));
  const replayed = new FakeServer((request) =>
    request.method === "POST" ? CREATED : { status: 200, body: anAppliedRecord("c-1") },
  );

  assert.equal((await accepted.protocol.submit(LOOK, undefined)).status, "accepted");
  assert.equal(accepted.requests[0]?.headers["Prefer"], "respond-async, handling=strict");
  assert.equal((await replayed.protocol.submit(LOOK, "mine")).status, "applied");
});

test("a service can act for a member, and a client need not be strict", async () => {
  const server = new FakeServer(() => CREATED, { actAs: 11, strict: false });

  await server.protocol.post(LOOK, undefined, 0);

  assert.deepEqual([server.sent("Act-As"), server.sent("Prefer")], [["user:11"], ["respond-async"]]);
});

// --- time limits -------------------------------------------------------------------------------------------------

test("a wait limits a call that no server accepts", async () => {
  const server = new FakeServer(() => undefined);

  await assert.rejects(server.protocol.post(LOOK, "mine", 2), (error) => {
    return error instanceof Unreachable && error.key === "mine" && error.message === "ECONNREFUSED";
  });
  assert.ok(server.clock.time <= 1002);
  await assert.rejects(server.protocol.bulk([LOOK], undefined, 2), Unreachable);
  assert.ok(server.clock.time <= 1004);
});

test("patience limits a call that may wait longer", async () => {
  const server = new FakeServer(() => undefined);

  await assert.rejects(server.protocol.post(LOOK, undefined, 600), Unreachable);

  assert.ok(server.clock.time > 1050 && server.clock.time <= 1060);
});

test("a retry heeds Retry-After and asks the server to wait only for the rest of the time", async () => {
  const server = new FakeServer((_, number) => (number === 1 ? { status: 503, headers: { "retry-after": "12" } } : CREATED));

  await server.protocol.post(LOOK, undefined, 20);

  assert.deepEqual(server.sent("Prefer"), ["wait=20, handling=strict", "wait=8, handling=strict"]);
  assert.equal(server.requests[1]?.timeoutSeconds, 18);
});

test("a wait for an accepted command outlasts an outage and ends in time", async () => {
  const server = new FakeServer(() => undefined);

  await assert.rejects(server.protocol.wait("c-1", server.clock.time + 300), (error) => {
    return error instanceof TimedOut && error.commandIds[0] === "c-1" && error.cause instanceof Unreachable;
  });

  assert.ok(server.clock.time > 1280 && server.clock.time <= 1300);
});

test("a wait for a held command does not poll continuously", async () => {
  const server = new FakeServer(() => ({ status: 200, body: aRecord("c-1", { heldBy: { hold: "7" } }) }));

  await assert.rejects(server.protocol.wait("c-1", server.clock.time + 120), TimedOut);

  assert.equal(server.clock.time, 1120);
  assert.ok(server.requests.length < 30);
});

// --- failures ----------------------------------------------------------------------------------------------------

test("a refusal says what is wrong, where, and why", async () => {
  const problem = {
    type: "about:blank", title: "Bad Request", status: 400, detail: "The request has invalid fields; errors lists them.",
    code: "bad_request", errors: [{ pointer: "#/comment", detail: "This field may not be blank." }],
  };
  const server = new FakeServer(() => ({ status: 400, body: problem }));

  await assert.rejects(server.protocol.post(LOOK, undefined, 30), (error) => {
    assert.ok(error instanceof Refused);
    assert.deepEqual([error.status, error.code, error.commandId], [400, "bad_request", undefined]);
    assert.deepEqual(error.errors, problem.errors);
    assert.match(error.message, /^400: The request .*; #\/comment: This field may not be blank\.$/);
    return true;
  });
});

test("the refusal of a single command that is posted in bulk names its fields as any other", async () => {
  const errors = [{ pointer: "#/commands/0/status", detail: "Unknown." }];
  const server = new FakeServer(() => ({ status: 400, body: { title: "Bad Request", detail: "Wrong.", errors } }));

  await assert.rejects(
    server.protocol.post({ type: "incident.set_status", incident: 1, status: 2 }, undefined, 30),
    (error) => error instanceof Refused && error.errors[0]?.pointer === "#/status",
  );
});

test("a command that a worker rejects is refused with its id, and a dead one has failed", async () => {
  const answers = [
    aRecord("c-1", { status: "rejected", outcome: { status: 400, body: { mentions: ["Unknown."], "a/b": { c: ["No."] } } } }),
    aRecord("c-1", { status: "dead", error: "It broke." }),
    aRecord("c-1", { status: "discarded" }),
  ];
  const server = new FakeServer((_, number) => ({ status: 200, body: answers[number - 1] }));
  const wait = () => server.protocol.wait("c-1", server.clock.time + 10);

  await assert.rejects(wait(), (error) => {
    assert.ok(error instanceof Refused && error.commandId === "c-1");
    assert.deepEqual(error.errors, [
      { pointer: "#/mentions", detail: "Unknown." },
      { pointer: "#/a~1b/c", detail: "No." },
    ]);
    return true;
  });
  await assert.rejects(wait(), (error) => error instanceof Failed && error.message === "It broke.");
  await assert.rejects(wait(), (error) => error instanceof Failed && error.command?.status === "discarded");
});

test("a server error is a failure, and a redirect a refusal", async () => {
  const broken = new FakeServer(() => ({ status: 500, headers: { "command-id": "c-1" }, body: "Oops" }));
  const elsewhere = new FakeServer(() => ({ status: 307, headers: { location: "https://elsewhere.test/" } }));

  await assert.rejects(broken.protocol.post(LOOK, undefined, 30), (error) => {
    return error instanceof Failed && error.commandId === "c-1" && error.message === "500: Oops";
  });
  await assert.rejects(elsewhere.protocol.record("c-1"), (error) => {
    return error instanceof Refused && error.message === "307: https://elsewhere.test/";
  });
  assert.equal(broken.requests.length, 1);
});

// --- bulk --------------------------------------------------------------------------------------------------------

test("a bulk waits until every command is finished, with one key", async () => {
  const server = new FakeServer((_, number) => {
    const commands = number < 3 ? [aRecord("c-1"), aRecord("c-2")] : [anAppliedRecord("c-1"), anAppliedRecord("c-2")];
    return { status: number < 3 ? 202 : 200, body: { commands } };
  });

  const result = await server.protocol.bulk([LOOK, LOOK], undefined, 60);

  assert.deepEqual([...result.throwForRefused()].map((record) => record.id), ["c-1", "c-2"]);
  assert.equal(server.requests.length, 3);
  assert.equal(new Set(server.sent("Idempotency-Key")).size, 1);
});

test("a bulk that was accepted times out with the ids of its commands", async () => {
  for (const afterwards of [undefined, { status: 202, body: { commands: [aRecord("c-1")] } }]) {
    const server = new FakeServer((_, number) =>
      number === 1 ? { status: 202, body: { commands: [aRecord("c-1")] } } : afterwards,
    );

    await assert.rejects(server.protocol.bulk([LOOK], undefined, 5), (error) => {
      return error instanceof TimedOut && error.commandIds[0] === "c-1";
    });
    assert.ok(server.clock.time <= 1005);
  }
});

test("commands of a bulk that were not applied can be thrown, but not unfinished ones", async () => {
  const rejected = aRecord("c-2", { status: "rejected", outcome: { status: 404, body: { detail: "Not found." } } });
  const dead = aRecord("c-3", { status: "dead", error: "It broke." });
  const records = [anAppliedRecord("c-1"), rejected, dead, aRecord("c-4")];
  const server = new FakeServer(() => ({ status: 202, body: { commands: records } }));

  const result = await server.protocol.bulk([LOOK, LOOK, LOOK, LOOK], undefined, undefined);

  assert.throws(
    () => result.throwForRefused(),
    (error) => {
      assert.ok(error instanceof NotApplied);
      assert.equal(error.message, "2 of 4 commands were not applied; the first is command 1: 404: Not found.");
      assert.deepEqual([...error.errors.keys()], [1, 2]);
      assert.ok(error.errors.get(1) instanceof Refused && error.errors.get(2) instanceof Failed);
      return true;
    },
  );
});

// --- cancelling --------------------------------------------------------------------------------------------------

test("a cancellation whose response was lost is repeated and succeeds", async () => {
  const server = new FakeServer((request, number) => {
    if (number === 1) return undefined;
    if (request.method === "POST") return { status: 409, body: { detail: "The command has already been discarded." } };
    return { status: 200, body: aRecord("c-1", { status: "discarded" }) };
  });

  assert.equal((await server.protocol.cancel("c-1")).status, "discarded");
});

test("a cancellation that comes too late is refused", async () => {
  const server = new FakeServer((request) => {
    if (request.method === "POST") return { status: 409, body: { detail: "The command has already been applied." } };
    return { status: 200, body: anAppliedRecord("c-1") };
  });

  await assert.rejects(server.protocol.cancel("c-1"), (error) => error instanceof Refused && error.status === 409);
});
