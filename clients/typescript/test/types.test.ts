import assert from "node:assert/strict";
import { test } from "node:test";

import type { Activity, Command, Incident, OutcomeBody, PostComment } from "tocsin-client";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

test("the compiler refuses commands with wrong fields, and knows the bodies of outcomes", () => {
  const bodies: [
    Equal<OutcomeBody<PostComment>, Activity>,
    Equal<OutcomeBody<{ type: "incident.open"; title: string; projects: [] }>, Incident>,
  ] = [true, true];
  const commands: Command[] = [
    // @ts-expect-error The field is called mentions.
    { type: "comment.post", incident: 1, comment: "Look.", mention: ["user:12"] },
    // @ts-expect-error There is no such command.
    { type: "comment.pst", incident: 1, comment: "Look." },
    // @ts-expect-error An incident has no such status.
    { type: "incident.set_status", incident: 1, status: 3 },
    // @ts-expect-error It needs one of ids, upTo, incident and all.
    { type: "notification.read" },
    { type: "notification.read", all: true },
  ];

  assert.deepEqual([bodies, commands.length], [[true, true], 5]);
});
