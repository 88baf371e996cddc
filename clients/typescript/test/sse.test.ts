import assert from "node:assert/strict";
import { test } from "node:test";

import { parseMessages, type Message } from "../dist/sse.js";

async function* pieces(...texts: string[]): AsyncGenerator<string> {
  yield* texts;
}

async function parsed(...texts: string[]): Promise<Message[]> {
  const messages: Message[] = [];
  for await (const message of parseMessages(pieces(...texts))) messages.push(message);
  return messages;
}

test("messages have ids and data, in every form that the standard allows", async () => {
  const text =
    ":\n\nretry: 1000\n\nid: 1\nevent: x\ndata: a\ndata:b\ndata\n\n" + // several lines of data
    "id:2\r\ndata:  c \r\n\r\n" + // one space is dropped
    "id\rdata: d\r\r" + // an empty id
    "id: 3\0\nid: 4\n\n" + // a position without data
    "id: 5\ndata: cut off";

  assert.deepEqual(await parsed(text), [
    { id: "1", data: "a\nb\n" },
    { id: "2", data: " c " },
    { id: "", data: "d" },
    { id: "4", data: "" },
  ]);
});

test("a stream may be cut anywhere", async () => {
  for (const end of ["\n", "\r\n", "\r"]) {
    const text = ["id: 1", "data: a:b", "", ":", "", "id: 2", "data: Größe", "", ""].join(end);
    const whole = await parsed(text);

    assert.deepEqual(whole, [{ id: "1", data: "a:b" }, { id: "2", data: "Größe" }]);
    for (let at = 0; at <= text.length; at++) {
      assert.deepEqual(await parsed(text.slice(0, at), text.slice(at)), whole, `${JSON.stringify(end)} at ${at}`);
    }
  }
});
