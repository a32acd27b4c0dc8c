import type { IncomingHttpHeaders } from 'node:http';
import type { Dispatcher } from 'undici';

/** Why a request was broken off. */
export type BreakOff = 'timeout' | 'worker_stopped';

/** What one request came to, before anybody judges it. */
export type Ending =
  | { readonly status: 'answered'; readonly statusCode: number; readonly retryAfter?: string; readonly excerpt: Buffer }
  | { readonly status: 'broken_off'; readonly reason: BreakOff }
  | {
      readonly status: 'failed';
      readonly error: Error;
      /** The connection had served before, and was lost without a byte of an answer. */
      readonly isStale: boolean;
    };

/** As much of a response's body as is read and kept. */
const RESPONSE_LIMIT_BYTES = 8 * 1024;
/** RFC 9110 sets no bound to informational responses, and the limit on headers begins anew with each. */
const MAX_INFORMATIONAL = 16;
const ENOUGH = new Error('no more of the response is wanted');

/**
 * One request as undici's dispatcher tells of it: no stream and no signal, which cost as much as the rest of the request.
 *
 *   sent      → answered by the body's end, by its limit, or, once there is a status line, by whatever ends it
 *             → failed without one
 *   any state → broken off, when there is no status line yet
 *
 * The connection is kept after a body that ended, and closed in every other case.
 */
export class Exchange implements Dispatcher.DispatchHandler {
  readonly ended: Promise<Ending>;
  readonly #isOpening: () => boolean;
  #resolve: ((ending: Ending) => void) | undefined;
  #controller: Dispatcher.DispatchController | undefined;
  #isReused = false;
  #hasBytes = false;
  #informational = 0;
  #statusCode = 0;
  #retryAfter: string | undefined;
  #chunks: Buffer[] = [];
  #length = 0;

  /** @param isOpening whether a connection is just being given the request that it was made for */
  constructor(isOpening: () => boolean) {
    this.#isOpening = isOpening;
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  breakOff(reason: BreakOff): void {
    this.#end({ status: 'broken_off', reason });
    this.#controller?.abort(ENOUGH);
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    // It was broken off while it waited for its connection. undici sends nothing of what is aborted here.
    if (this.#resolve === undefined) controller.abort(ENOUGH);
    this.#isReused = !this.#isOpening();
  }

  onResponseStarted(): void {
    this.#hasBytes = true;
  }

  onResponseStart(controller: Dispatcher.DispatchController, statusCode: number, headers: IncomingHttpHeaders): void {
    if (statusCode < 200) {
      this.#informational += 1;
      if (this.#informational > MAX_INFORMATIONAL) controller.abort(new InformationalFloodError());
      return;
    }
    this.#statusCode = statusCode;
    const retryAfter: string | string[] | undefined = headers['retry-after'];
    this.#retryAfter = Array.isArray(retryAfter) ? retryAfter[0] : retryAfter;
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    if (this.#length < RESPONSE_LIMIT_BYTES) return;
    this.#end();
    controller.abort(ENOUGH);
  }

  onResponseEnd(): void {
    this.#end();
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.#end({ status: 'failed', error, isStale: this.#isReused && !this.#hasBytes });
  }

  /** The status line, once it is there, outweighs `otherwise`. */
  #end(otherwise?: Ending): void {
    const resolve = this.#resolve;
    if (resolve === undefined) return;
    this.#resolve = undefined;
    if (otherwise !== undefined && this.#statusCode === 0) {
      resolve(otherwise);
      return;
    }
    const [first = Buffer.alloc(0), ...more] = this.#chunks;
    const body = more.length === 0 ? first : Buffer.concat(this.#chunks);
    resolve({
      status: 'answered',
      statusCode: this.#statusCode,
      excerpt: body.subarray(0, RESPONSE_LIMIT_BYTES),
      ...(this.#retryAfter === undefined ? {} : { retryAfter: this.#retryAfter }),
    });
  }
}

/** It answered with nothing but promises of an answer. */
export class InformationalFloodError extends Error {
  override readonly name = 'InformationalFloodError';

  constructor() {
    super(`more than ${MAX_INFORMATIONAL} informational responses (1xx) and no other`);
  }
}
