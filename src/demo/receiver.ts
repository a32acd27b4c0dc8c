import { isUtf8 } from 'node:buffer';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';

export interface ReceiverOptions {
  /** Standard Webhooks secrets (`whsec_…`): a request that any one of them signed is genuine. */
  readonly secrets: readonly string[];
  /** A free port when left out. */
  readonly port?: number;
}

interface ReceiverCounts {
  /** Requests whose body arrived, good or bad. */
  readonly received: number;
  readonly verified: number;
  readonly rejected: number;
  /** Different `webhook-id`s among the verified: delivered twice counts once. */
  readonly distinctMessages: number;
  /** Verified requests by topic: the body's `type`. */
  readonly byTopic: Readonly<Record<string, number>>;
}

export interface Receiver {
  readonly url: string;
  /** Replaces the secrets; what is being received is verified by the new ones. */
  setSecrets(secrets: readonly string[]): void;
  counts(): ReceiverCounts;
  /** Waits until the counts satisfy the condition. Resolves false when `timeoutMs` pass first. */
  until(condition: (counts: ReceiverCounts) => boolean, timeoutMs: number): Promise<boolean>;
  /** Closes every connection. Safe to call twice. */
  stop(): Promise<void>;
}

const MAX_BODY_BYTES = 1024 * 1024;
const REQUEST_TIMEOUT_MS = 10_000;
const NO_TOPIC = '(none)';

type Verdict = { readonly status: 204; readonly messageId: string; readonly topic: string } | { readonly status: 401 };

/**
 * A webhook endpoint on loopback that believes nothing: it verifies each request over the bytes as they came, by the
 * `standardwebhooks` library. Answers 204 to a genuine request, 401 to any other, 413 past 1 MiB, 405 to other methods.
 */
export async function startReceiver(options: ReceiverOptions): Promise<Receiver> {
  const tally = new Tally();
  let webhooks = options.secrets.map((secret) => new Webhook(secret));
  const server = createServer((request, response) => {
    receive(request, response).then(
      (body) => {
        if (body === undefined) return;
        const verdict = judge(body, request.headers, webhooks);
        tally.add(verdict);
        response.writeHead(verdict.status).end();
      },
      // The sender went away in the middle of its body: there is nobody to answer.
      () => response.destroy(),
    );
  });
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.listen(options.port ?? 0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  return {
    url: `http://127.0.0.1:${port}/webhooks`,
    setSecrets: (secrets) => {
      webhooks = secrets.map((secret) => new Webhook(secret));
    },
    counts: () => tally.counts(),
    until: (condition, timeoutMs) => tally.until(condition, timeoutMs),
    stop: async () => {
      if (!server.listening) return;
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}

/** The body, or undefined when the request has been refused already. */
async function receive(request: IncomingMessage, response: ServerResponse): Promise<Buffer | undefined> {
  if (request.method !== 'POST') return refuse(response, 405);
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) return refuse(response, 413);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function refuse(response: ServerResponse, status: 405 | 413): undefined {
  // Closed afterwards: the rest of the body is not read.
  response.writeHead(status, { connection: 'close' }).end();
  return undefined;
}

function judge(body: Buffer, headers: IncomingMessage['headers'], webhooks: readonly Webhook[]): Verdict {
  const messageId = headers['webhook-id'];
  // The library verifies text. Bytes that are not UTF-8 would be replaced first, so that another body could pass.
  if (typeof messageId !== 'string' || !isUtf8(body)) return { status: 401 };
  const genuine = webhooks.some((webhook) => verifies(webhook, body, headers as Record<string, string>));
  return genuine ? { status: 204, messageId, topic: topicOf(body) } : { status: 401 };
}

function verifies(webhook: Webhook, body: Buffer, headers: Record<string, string>): boolean {
  try {
    webhook.verify(body, headers, { jsonParse: false });
    return true;
  } catch {
    // The library's only way to say no; whatever else it throws is no signature either.
    return false;
  }
}

function topicOf(body: Buffer): string {
  try {
    const { type } = JSON.parse(body.toString()) as { type?: unknown };
    return typeof type === 'string' ? type : NO_TOPIC;
  } catch {
    return NO_TOPIC;
  }
}

class Tally {
  readonly #messageIds = new Set<string>();
  readonly #byTopic = new Map<string, number>();
  readonly #waiting = new Set<() => void>();
  #verified = 0;
  #rejected = 0;

  add(verdict: Verdict): void {
    if (verdict.status === 204) {
      this.#verified += 1;
      this.#messageIds.add(verdict.messageId);
      this.#byTopic.set(verdict.topic, (this.#byTopic.get(verdict.topic) ?? 0) + 1);
    } else {
      this.#rejected += 1;
    }
    for (const look of this.#waiting) look();
  }

  counts(): ReceiverCounts {
    return {
      received: this.#verified + this.#rejected,
      verified: this.#verified,
      rejected: this.#rejected,
      distinctMessages: this.#messageIds.size,
      byTopic: Object.fromEntries(this.#byTopic),
    };
  }

  until(condition: (counts: ReceiverCounts) => boolean, timeoutMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const settle = (holds: boolean): void => {
        this.#waiting.delete(look);
        clearTimeout(timer);
        resolve(holds);
      };
      const look = (): void => {
        if (condition(this.counts())) settle(true);
      };
      const timer = setTimeout(() => settle(false), timeoutMs);
      this.#waiting.add(look);
      look();
    });
  }
}
