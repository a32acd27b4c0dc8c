import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';

interface ReceivedWebhook {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  /** The bytes as they came. */
  readonly body: string;
}

export interface TestReceiver {
  readonly url: string;
  readonly received: readonly ReceivedWebhook[];
  /** How often anybody connected, whatever came of it. */
  connections(): number;
  /** What came to one path, in order of arrival. */
  at(path: string): readonly ReceivedWebhook[];
  stop(): Promise<void>;
}

type Respond = (response: ServerResponse, webhook: ReceivedWebhook) => void;

type Keep = (webhook: ReceivedWebhook) => ReceivedWebhook;

/**
 * A real HTTP server on loopback. Answers 204 unless `respond` does otherwise; every request is kept.
 * @param keep what is kept of one, where there are so many that all of them whole would fill the memory
 */
export async function startReceiver(
  respond: Respond = answer(204),
  keep: Keep = (webhook) => webhook,
): Promise<TestReceiver> {
  const received: ReceivedWebhook[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const webhook = {
        path: request.url ?? '',
        headers: request.headers,
        body: Buffer.concat(chunks).toString('utf8'),
      };
      received.push(keep(webhook));
      respond(response, webhook);
    });
  });
  let connections = 0;
  server.on('connection', () => {
    connections += 1;
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    url: `http://127.0.0.1:${port}`,
    received,
    connections: () => connections,
    at: (path) => received.filter((webhook) => webhook.path === path),
    stop: async () => {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

export function answer(statusCode: number, headers: Record<string, string> = {}, body = ''): Respond {
  return (response) => response.writeHead(statusCode, headers).end(body);
}
