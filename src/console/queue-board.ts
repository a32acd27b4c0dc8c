import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { FastifyAdapter } from '@bull-board/fastify';
import type { FastifyInstance } from 'fastify';
import { openQueueView, type QueueView, type QueueViewOptions } from '../outbox/queue-view.ts';
import { failureOf } from './failure.ts';
import type { Surroundings } from './server.ts';

/** Bull Board over the queue of the deliveries. It is connected to when somebody first looks, and again when that failed. */
export interface QueueBoard {
  /** Where the queue is kept. */
  readonly backend: 'Redis' | 'PostgreSQL';
  /** Undefined: there is none yet. @throws AppError QUEUE_UNREACHABLE, DB_* */
  count(): Promise<Readonly<Record<string, number>> | undefined>;
  serve(server: FastifyInstance, surroundings: Pick<Surroundings, 'log'>): Promise<void>;
  close(): Promise<void>;
}

// It takes every backend's, and names the type of one.
type AnyQueue = ConstructorParameters<typeof BullMQAdapter>[0];

export const BOARD_PATH = '/queue/board';

/**
 * As loose as its pages need it: they name their own base, have pictures of theirs in their styles, and draw what they are waited for with
 * styles of their own, which is taken out.
 */
const BOARD_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "font-src 'self'",
  "connect-src 'self'",
  "base-uri 'self'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const DESCRIPTION =
  'Read only. PostgreSQL keeps what is to be delivered; these jobs are a cache of it, and are not touched by hand.';

export function createQueueBoard(options: QueueViewOptions): QueueBoard {
  const adapter = new FastifyAdapter();
  adapter.setBasePath(BOARD_PATH);
  const board = createBullBoard({
    queues: [],
    serverAdapter: adapter,
    options: {
      uiConfig: {
        boardTitle: 'Queue, read only',
        miscLinks: [{ text: 'Back to the console', url: '/outbox' }],
        // Of other databases of the same Redis, nothing is anybody's affair.
        hideRedisDetails: true,
        showWorkers: false,
        hideDocsLink: true,
        pollingInterval: { showSetting: true, forceInterval: 5 },
      },
    },
  });
  let opening: Promise<QueueView | undefined> | undefined;
  const begin = async (): Promise<QueueView | undefined> => {
    try {
      const view = await openQueueView(options);
      if (view === undefined) opening = undefined;
      else board.addQueue(new BullMQAdapter(view.queue as AnyQueue, { readOnlyMode: true, description: DESCRIPTION }));
      return view;
    } catch (error) {
      opening = undefined;
      throw error;
    }
  };
  const open = (): Promise<QueueView | undefined> => {
    opening ??= begin();
    return opening;
  };
  const count = async () => (await open())?.count();
  return {
    backend: options.redisUrl === undefined ? 'PostgreSQL' : 'Redis',
    count,
    serve: async (server, { log }) => {
      await server.register(
        async (scope) => {
          scope.addHook('onRequest', async (request, reply) => {
            if (request.method === 'GET' || request.method === 'HEAD') return;
            return reply.code(405).header('allow', 'GET, HEAD').type('text/plain').send(`${DESCRIPTION}\n`);
          });
          scope.addHook('preHandler', async (request, reply) => {
            if (request.url.startsWith(`${BOARD_PATH}/static/`)) return;
            try {
              if ((await count()) !== undefined) return;
              return reply.redirect('/queue', 303);
            } catch (error) {
              const { status, error: failure } = failureOf(error, { log, wasAction: false });
              // Its page tells why.
              if (!request.url.startsWith(`${BOARD_PATH}/api/`)) return reply.redirect('/queue', 303);
              return reply.code(status).send({ error: failure.code });
            }
          });
          scope.addHook('onSend', async (_request, reply, payload) => {
            reply.header('content-security-policy', BOARD_POLICY);
            const isPage = String(reply.getHeader('content-type')).startsWith('text/html');
            return isPage && typeof payload === 'string' ? ownOnly(payload) : payload;
          });
          await scope.register(adapter.registerPlugin());
        },
        { prefix: BOARD_PATH },
      );
    },
    close: async () => {
      const view = await opening?.catch(() => undefined);
      await view?.close();
    },
  };
}

/** Without the fonts of another server, and without what is shown until its script runs, which has styles of its own. */
const ownOnly = (page: string): string =>
  page
    .replaceAll(/<link[^>]+href="https?:[^>]*>/g, '')
    .replace(/<div id="root">.*<\/div>(?=\s*<script)/s, '<div id="root"></div>');
