/** Sending requests with `fetch`. All waits are bounded. */

/** An HTTP request. `path` starts at the server's root. */
export interface HttpRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** For a whole response or, in a stream, for each part of it. */
  readonly timeoutSeconds: number;
  readonly body?: string;
}

/** An HTTP response. `body` is parsed JSON, or text if it is not JSON. */
export interface HttpResponse {
  readonly status: number;
  readonly headers: { get(name: string): string | null };
  readonly body: unknown;
}

/** The failure of a connection before the response was complete. */
export class ConnectionLost extends Error {}

/** The part of `fetch` that the client uses. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** Sends requests to one server. */
export class HttpTransport {
  constructor(
    private readonly baseUrl: string,
    private readonly fetch: Fetch,
  ) {}

  /**
   * Send a request and return the whole response.
   *
   * @throws {ConnectionLost} if the connection failed or the response is not complete in time.
   */
  async send(request: HttpRequest): Promise<HttpResponse> {
    const timeout = new Timeout(request.timeoutSeconds);
    try {
      return await completeResponse(await this.start(request, timeout));
    } catch (error) {
      throw connectionLost(error, timeout);
    } finally {
      timeout.stop();
    }
  }

  /**
   * Send a request and return the response's status, headers and, if the status is 200, its text as it arrives.
   *
   * A response with any other status is read as a whole. When `signal` is aborted, the text ends with an error.
   *
   * @throws {ConnectionLost} if the connection failed or no data arrives in time, also while the text is read.
   */
  async stream(request: HttpRequest, signal?: AbortSignal): Promise<HttpResponse & { text: AsyncIterable<string> }> {
    const timeout = new Timeout(request.timeoutSeconds, signal);
    try {
      const response = await this.start(request, timeout);
      if (response.status === 200 && response.body) {
        const { status, headers } = response;
        return { status, headers, body: null, text: textOf(response.body, timeout) };
      }
      const complete = await completeResponse(response);
      timeout.stop();
      return { ...complete, text: nothing() };
    } catch (error) {
      timeout.stop();
      throw connectionLost(error, timeout);
    }
  }

  private start(request: HttpRequest, timeout: Timeout): Promise<Response> {
    return this.fetch(this.baseUrl + request.path, {
      method: request.method,
      headers: request.headers,
      body: request.body ?? null,
      // The token must not be sent to a server that the caller did not choose.
      redirect: "manual",
      signal: timeout.signal,
    });
  }
}

/** Aborts a request if no progress is made for some seconds, or when the caller's signal is aborted. */
class Timeout {
  private readonly controller = new AbortController();
  private readonly abort = () => this.controller.abort();
  private timer: NodeJS.Timeout | undefined;
  hasExpired = false;

  constructor(
    readonly seconds: number,
    private readonly callersSignal?: AbortSignal,
  ) {
    callersSignal?.addEventListener("abort", this.abort);
    if (callersSignal?.aborted) this.abort();
    this.restart();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  restart(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.hasExpired = true;
      this.abort();
    }, this.seconds * 1000);
  }

  stop(): void {
    clearTimeout(this.timer);
    this.callersSignal?.removeEventListener("abort", this.abort);
  }

  /** Stop, and end the request. */
  close(): void {
    this.stop();
    this.abort();
  }
}

async function completeResponse(response: Response): Promise<HttpResponse> {
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: parseBody(text) };
}

function parseBody(text: string): unknown {
  if (text === "") return null;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

async function* textOf(body: ReadableStream<Uint8Array>, timeout: Timeout): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      timeout.restart();
      yield decoder.decode(value, { stream: true });
    }
  } catch (error) {
    throw connectionLost(error, timeout);
  } finally {
    timeout.close();
  }
}

async function* nothing(): AsyncGenerator<string> {}

function connectionLost(error: unknown, timeout: Timeout): ConnectionLost {
  if (timeout.hasExpired) return new ConnectionLost(`no data for ${timeout.seconds} s`);
  const { name, message, cause } = error as Error & { cause?: { code?: string; message?: string } };
  const reason = cause ? [cause.code, cause.message].filter(Boolean).join(": ") : message;
  return new ConnectionLost(`${name}: ${reason || message}`);
}
