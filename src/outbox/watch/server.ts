import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { AppError } from '../../errors.ts';

export interface HttpAddress {
  readonly host: string;
  readonly port: number;
}

export interface Answer {
  readonly statusCode: number;
  readonly contentType: string;
  readonly body: string;
}

export type Pages = Readonly<Record<string, () => Answer | Promise<Answer>>>;

/** Whoever asks is a probe or a scraper: few, short, and on a network of ours. */
const MAX_CONNECTIONS = 64;
const REQUEST_TIMEOUT_MS = 5_000;

export function asJson(statusCode: number, body: unknown): Answer {
  return { statusCode, contentType: 'application/json; charset=utf-8', body: `${JSON.stringify(body)}\n` };
}

/**
 * Answers GET and HEAD of a few paths. Node's own server: a framework has nothing to do where nothing is parsed.
 * @throws AppError HTTP_UNAVAILABLE
 */
export async function serve(address: HttpAddress, pages: Pages): Promise<{ close(): void }> {
  const answer = async ({ method = '', url = '' }: IncomingMessage): Promise<Answer> => {
    const [path = ''] = url.split('?', 1);
    const page = Object.hasOwn(pages, path) ? pages[path] : undefined;
    if (page === undefined) return asJson(404, { error: `there is ${Object.keys(pages).join(', ')}` });
    if (method !== 'GET' && method !== 'HEAD') return asJson(405, { error: 'only GET is answered' });
    return page();
  };
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
    answer(request).then(
      (given) => send(response, given),
      () => send(response, asJson(500, { error: 'this page could not be made' })),
    );
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.listen(address.port, address.host);
  try {
    await once(server, 'listening');
  } catch (cause) {
    throw unavailable(address, cause);
  }
  return {
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

function send(response: ServerResponse, { statusCode, contentType, body }: Answer): void {
  response.writeHead(statusCode, {
    'content-type': contentType,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
  });
  response.end(response.req.method === 'HEAD' ? undefined : body);
}

function unavailable({ host, port }: HttpAddress, cause: unknown): AppError {
  const { code } = cause as { code?: string };
  const why = code === 'EADDRINUSE' ? 'another process listens there' : (code ?? 'it was refused');
  return new AppError(
    'HTTP_UNAVAILABLE',
    `${host}:${port} cannot be listened on: ${why}. Give another address with --http or LIVENTIX_HTTP, or leave it out.`,
    { cause },
  );
}
