// What each program for Node does, in words: the calls themselves are those of the generated client.
export const [url, name] = process.argv.slice(2) as [string, string];
export const organization = "acme";

export const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });

/** Call until the result is not undefined, for at most a minute. */
export async function eventually<T>(call: () => Promise<T | undefined>): Promise<T> {
  for (const end = Date.now() + 60_000; Date.now() < end; await new Promise((wake) => setTimeout(wake, 200))) {
    const result = await call();
    if (result !== undefined) return result;
  }
  throw new Error("waited for a minute in vain");
}

/** Return the value that was expected, or fail with the response's error. */
export function expect<T>(value: T | undefined, error?: unknown): T {
  if (value === undefined) throw new Error(`refused: ${JSON.stringify(error)}`);
  return value;
}

/** What every program prints. */
export interface Result {
  incident: string;
  comment: string;
  bulk: string[];
  status: number;
  fired: string[];
  read: number;
  alerts: string[];
  refused: string;
}
