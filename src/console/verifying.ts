import type { Logger } from 'pino';
import { interruptible } from '../db/interrupt.ts';
import { connectionsOf, createPool, type Pool } from '../db/pool.ts';
import { verifyBooksAndWallets } from '../replay/verify.ts';
import { checkMoneyOfStates } from '../states/verify.ts';
import { type Begun, beginVerification, keepVerification, type VerificationSubject } from './verifications.ts';

/** Verifies beside the pages: whoever asked may leave. */
export interface VerificationRunner {
  begin(subject: VerificationSubject): Promise<Begun>;
  /** Ends what is at work, which is written down as failed. */
  stop(): Promise<void>;
}

/** @param owner writes down how far it is and what came of it; it is looked at over connections of its own, with all rights, in a snapshot that changes nothing. */
export function createRunner(
  owner: Pool,
  { databaseUrl, version, log }: { readonly databaseUrl: string; readonly version: string; readonly log: Logger },
): VerificationRunner {
  const stopping = new AbortController();
  const running = new Set<Promise<void>>();

  const run = async (verificationId: bigint, { bookId, independently = false }: VerificationSubject) => {
    const pool = createPool({ databaseUrl, max: 1 });
    try {
      await keepVerification(owner, { verificationId, bookId, version }, (watch) =>
        interruptible({ signal: stopping.signal, databaseUrl, connections: () => connectionsOf(pool) }, () =>
          verifyBooksAndWallets(pool, watch, { bookId, independently, summaries: true, beside: checkMoneyOfStates }),
        ),
      );
    } catch (err) {
      log.error({ err, verificationId: verificationId.toString() }, 'a verification failed');
    } finally {
      await pool.end();
    }
  };

  return {
    begin: async (subject) => {
      const begun = await beginVerification(owner, subject);
      if (begun.status === 'begun') {
        const done = run(begun.verificationId, subject).finally(() => running.delete(done));
        running.add(done);
      }
      return begun;
    },
    stop: async () => {
      stopping.abort('the end of the console');
      await Promise.all(running);
    },
  };
}
