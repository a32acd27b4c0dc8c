import { setTimeout as pause } from 'node:timers/promises';
import { assertNonePending, migrationStatus } from '../../db/migrate.ts';
import type { Pool } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import type { RunningWorker } from '../worker.ts';
import { readDue } from './due.ts';
import type { Pulse } from './pulse.ts';
import type { Readiness } from './readiness.ts';

export interface RoundsOptions {
  readonly pool: Pool;
  readonly worker: RunningWorker;
  readonly pulse: Pulse;
  readonly readiness: Readiness;
  readonly until: AbortSignal;
}

const ROUND_MS = 2_000;

/** Asks the parts of a worker how they are, again and again, so that whoever looks is answered at once. */
export async function goRounds(options: RoundsOptions): Promise<void> {
  const { until, pulse } = options;
  while (!until.aborted) {
    await askOnce(options);
    // What was asked for the first time is known from now on.
    if (pulse.stage.name === 'starting') pulse.enter('running');
    await pause(ROUND_MS, undefined, { signal: until }).catch(() => undefined);
  }
}

async function askOnce({ pool, worker, pulse, readiness, until }: RoundsOptions): Promise<void> {
  let jobsWait = false;
  await readiness.ask(
    {
      postgresql: () => pool.query('select'),
      migrations: () => assertMigratedAsFarAsKnown(pool),
      queue: async () => {
        // First, because it says why.
        jobsWait = await worker.queue.hasWaiting();
        if (!worker.queue.answers()) throw new AppError('QUEUE_UNREACHABLE', 'A connection to the queue is lost.');
      },
      listener: async () => {
        if (!worker.state().listens) throw new AppError('DB_UNREACHABLE', 'The connection that listens is lost.');
      },
    },
    until,
  );
  const { leads, isCutOff } = worker.state();
  const works = !isCutOff && !readiness.fails('postgresql') && !readiness.fails('queue');
  const due = leads && works ? await readDue(pool).catch(() => undefined) : undefined;
  const now = performance.now();
  pulse.standstills.jobs.observe(works && jobsWait, `${pulse.lastBeat('attempts')}`, now);
  pulse.standstills.deliveries.observe(due?.isDue ?? false, due?.mark ?? '', now);
}

// That the database does not answer is said once, by another part.
async function assertMigratedAsFarAsKnown(pool: Pool): Promise<void> {
  const status = await migrationStatus(pool).catch(() => undefined);
  if (status !== undefined) assertNonePending(status);
}
