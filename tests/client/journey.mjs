// A service that uses the TypeScript client: it posts comments in every way while it follows their events.
//
// Arguments: the gateway's URL. Prints a line for each outcome, and the results as JSON in the last line.

import { Tocsin } from "tocsin-client";

const log = [];
const options = { organization: "acme", patienceSeconds: 120, log: (line) => log.push(line) };
const bot = new Tocsin(process.argv[2], "dev-bot", options);
const mem = new Tocsin(process.argv[2], "dev-mem", options);
const waitSeconds = 120;

const opened = await bot.post({ type: "incident.open", title: "Killed gateways", projects: ["p1"] }, { waitSeconds });
const incident = opened.body.identifier;
const comment = (text) => ({ type: "comment.post", incident, comment: text });
const posted = {};

function record(text, outcome) {
  posted[text] = outcome.body.id;
  console.log(`applied ${text}`);
}

async function postOneAfterAnother(lane) {
  for (let number = 0; number < 15; number++) {
    const text = `lane ${lane}, number ${number}`;
    record(text, await mem.post(comment(text), { waitSeconds }));
  }
}

async function postInBulk(round) {
  const texts = Array.from({ length: 40 }, (_, number) => `bulk ${round}, number ${number}`);
  const result = await mem.bulk(texts.map(comment), { waitSeconds });
  for (const [number, { outcome }] of result.throwForRefused().records.entries()) record(texts[number], outcome);
}

async function submitAndWait() {
  const texts = Array.from({ length: 20 }, (_, number) => `submitted ${number}`);
  const records = [];
  for (const text of texts) records.push(await mem.submit(comment(text)));
  for (const [number, each] of records.entries()) record(texts[number], await mem.wait(each, { seconds: waitSeconds }));
}

async function follow(onFirstEvent) {
  const events = [];
  for await (const event of mem.follow({ incident, fromStart: true })) {
    events.push({ id: event.id, sequence: event.sequence, comment: event.data.activity?.comment ?? null });
    onFirstEvent();
    if (event.type === "incident.status_changed") return events;
  }
}

let following;
await new Promise((onFirstEvent) => (following = follow(onFirstEvent)));
await Promise.all([
  postOneAfterAnother(1),
  postOneAfterAnother(2),
  postOneAfterAnother(3),
  submitAndWait(),
  (async () => {
    for (let round = 0; round < 3; round++) await postInBulk(round);
  })(),
]);
await mem.post({ type: "incident.set_status", incident, status: 2 }, { waitSeconds });
const events = await following;

const activities = [];
for await (const { id, type, comment } of mem.activities(incident, { oldestFirst: true })) {
  if (type === 3) activities.push({ id, comment });
}
console.log(JSON.stringify({ incident, posted, events, activities, log }));
