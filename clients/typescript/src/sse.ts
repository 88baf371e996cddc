/** Parsing of server-sent events, as the WHATWG's HTML standard defines the format. */

/** A message: its id, if it has one, and its data, which is empty if it has none. */
export interface Message {
  readonly id: string | undefined;
  readonly data: string;
}

/** Split the text of a stream, which may be cut anywhere, into messages. A message without its end is dropped. */
export async function* parseMessages(text: AsyncIterable<string>): AsyncGenerator<Message> {
  let id: string | undefined;
  let data: string[] = [];
  for await (const line of lines(text)) {
    if (line === "") {
      if (id !== undefined || data.length) yield { id, data: data.join("\n") };
      id = undefined;
      data = [];
      continue;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") data.push(value);
    if (name === "id" && !value.includes("\0")) id = value;
  }
}

async function* lines(text: AsyncIterable<string>): AsyncGenerator<string> {
  let rest = "";
  let endedWithReturn = false;
  for await (const part of text) {
    if (part === "") continue;
    // The line that a carriage return has ended may end with a line feed, too.
    const found = (rest + (endedWithReturn && part.startsWith("\n") ? part.slice(1) : part)).split(/\r\n|\r|\n/);
    endedWithReturn = part.endsWith("\r");
    rest = found.pop() ?? "";
    yield* found;
  }
}
