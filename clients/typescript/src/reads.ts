/** Reading resources: single ones, lists over all pages, preferences and decisions. */

import { checkedBody, newKey, type HttpProtocol } from "./protocol.js";
import type { Decision, Outcome, Preferences } from "./results.js";

/** Query parameters. One with several values is repeated; one that is undefined is left out. */
export type Query = Readonly<Record<string, QueryValue | readonly QueryValue[] | undefined>>;

type QueryValue = string | number;

/** The number of items to read in one request, the most that the server returns. */
const PAGE_SIZE = 100;

const PREFERENCES_PATH = "/api/0/users/me/preferences/";

/** Read one of the organization's resources and return its JSON. */
export async function read(protocol: HttpProtocol, path: string, query: Query = {}): Promise<any> {
  return checkedBody(await protocol.send(protocol.request("GET", protocol.path(path) + queryText(query))));
}

/** Iterate over the items of a list. A page is read when the iteration gets there. */
export async function* readAll<T>(protocol: HttpProtocol, path: string, query: Query): AsyncGenerator<T, void, void> {
  let cursor: string | undefined;
  do {
    const target = protocol.path(path) + queryText({ ...query, per_page: PAGE_SIZE, cursor });
    const response = await protocol.send(protocol.request("GET", target));
    yield* checkedBody(response) as T[];
    cursor = /rel="next"; results="true"; cursor="([^"]*)"/.exec(response.headers.get("link") ?? "")?.[1];
  } while (cursor !== undefined);
}

/** Read the decisions behind a notification, or about an incident and a person. */
export async function readDecisions(protocol: HttpProtocol, path: string, query: Query = {}): Promise<Decision[]> {
  return (await read(protocol, path, query)).decisions;
}

/** Read the caller's preferences for messages. */
export async function preferences(protocol: HttpProtocol): Promise<Preferences> {
  const response = await protocol.send(protocol.request("GET", PREFERENCES_PATH));
  return { document: checkedBody(response), version: response.headers.get("etag") ?? "" };
}

/** Replace the caller's preferences and wait up to `waitSeconds` for the outcome. */
export function replacePreferences(
  protocol: HttpProtocol,
  document: Readonly<Record<string, unknown>>,
  version: string | undefined,
  key: string | undefined,
  waitSeconds: number,
): Promise<Outcome> {
  const request = protocol.request("PUT", PREFERENCES_PATH, document, key ?? newKey());
  const headers = version === undefined ? request.headers : { ...request.headers, "If-Match": version };
  return protocol.postRequest({ ...request, headers }, waitSeconds);
}

function queryText(query: Query): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined) parameters.append(name, String(each));
    }
  }
  const text = parameters.toString();
  return text && `?${text}`;
}
