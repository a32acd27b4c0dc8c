import type { Logger } from 'pino';
import { within } from './deadline.ts';
import type { Backend } from './queue-backend.ts';

/** Work that is due again and again, whichever worker does it. Done twice it does no harm: the database says what is due. */
export interface ClockJob {
  readonly name: string;
  readonly everyMs: number;
  run(): Promise<void>;
}

export interface ClockJobs {
  stop(): Promise<void>;
}

/** How often it is looked whether the queue still knows of them: one that was emptied forgets. */
const REMIND_MS = 60_000;
const STOP_MS = 5_000;
/** Nothing of it is kept: what became of it, the database knows. */
const KEEPS_NOTHING = { removeOnComplete: true, removeOnFail: true };

/** Has the queue's job scheduler call for each of them, once for all workers. What fails is logged, and is due again the next time. */
export async function startClockJobs(
  backend: Backend,
  jobs: readonly ClockJob[],
  { log, onError }: { readonly log: Logger; readonly onError: (error: unknown) => void },
): Promise<ClockJobs> {
  const byName = new Map(jobs.map((job) => [job.name, job]));
  const { queue, worker } = backend.openClock(async (name) => {
    // One that another version of the worker has: that one does it.
    await byName
      .get(name)
      ?.run()
      .catch((error: unknown) => log.warn({ err: error, job: name }, 'a job by the clock failed: it is due again'));
  });
  queue.on('error', onError);
  worker.on('error', onError);
  const remind = async () => {
    for (const { name, everyMs } of jobs) {
      if ((await queue.getJobScheduler(name)) === undefined) {
        await queue.upsertJobScheduler(name, { every: everyMs }, { name, opts: KEEPS_NOTHING });
      }
    }
  };
  await backend.answer(remind());
  const reminder = setInterval(() => void backend.answer(remind()).catch(onError), REMIND_MS);
  return {
    stop: async () => {
      clearInterval(reminder);
      // What is under way is waited for where somebody answers; who does not is broken with its connections.
      if (backend.answers()) await within(STOP_MS, worker.close());
      void worker.close(true).catch(() => undefined);
      await queue.close().catch(() => undefined);
    },
  };
}
