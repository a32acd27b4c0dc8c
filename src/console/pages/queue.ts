import { z } from 'zod';
import { toAppError } from '../../db/sqlstate.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, type View } from '../../html/view.ts';
import { definePage } from '../page.ts';
import { tiles } from '../parts.ts';
import { BOARD_PATH, type QueueBoard } from '../queue-board.ts';

/** In their order, those that the relay's jobs are ever in. */
const STATES = {
  waiting: 'wait for a worker',
  active: 'are at a worker',
  delayed: 'wait for their time',
  failed: 'failed, and are looked for',
} as const;

/** What stands around Bull Board: what the queue is, and whether it answers. */
export const queuePage = (board: QueueBoard) =>
  definePage({
    section: 'queue',
    path: '/queue',
    query: z.object({}),
    show: async ({ view }) => ({
      title: 'The queue between relay and workers',
      body: html`${await standing(board, view)}
<p>PostgreSQL keeps what is to be delivered, and when. The queue, BullMQ on ${board.backend}, is a cache of it: it may be emptied at any moment, and the relay fills it again. So its jobs are looked at here, and touched by nobody: to retry or replay something, go to <a href="/outbox/dead-letters">Dead letters</a>.</p>
<p class="faint">A job holds up to 32 attempts, by the numbers of their deliveries, and is gone when they are made.</p>`,
    }),
  });

async function standing(board: QueueBoard, view: View): Promise<Markup> {
  try {
    const counts = await board.count();
    if (counts === undefined) {
      return html`<p class="empty">There is no queue yet: the first worker makes it. To start one: <code>liventix worker</code></p>`;
    }
    return html`${tiles(
      Object.entries(STATES).map(([state, what]) => ({ figure: formatCount(counts[state] ?? 0, view), what })),
    )}<p><a href="${BOARD_PATH}/queue/deliveries">Look at the jobs in Bull Board</a>, which needs JavaScript.</p>`;
  } catch (error) {
    const { code, message } = toAppError(error);
    return html`<div class="verdict bad"><strong>The queue does not answer.</strong>
<p>${message} Nothing is lost meanwhile: the workers go on when it is back.</p><p class="faint"><code>${code}</code></p></div>`;
  }
}
