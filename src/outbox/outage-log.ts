import type { Logger } from 'pino';

/**
 * Tells of an outage when it begins, once a minute while it lasts, and when it is over, however often it is met: a server
 * that is away fails every poll, every reconnection and every attempt.
 */
export interface OutageLog {
  /** @param witness who will find out that it works again */
  failed(witness: Witness, error: unknown): void;
  /** The outage is over when everybody who is to find out has. */
  works(witness: Witness): void;
  /** Whether somebody waits for it to work again. */
  lasts(): boolean;
}

/** The relay asks all servers at every look; the others have connections of their own. */
type Witness = 'relay' | 'listener' | 'presence' | 'sealer';

export interface OutageLogOptions {
  readonly log: Logger;
  /** What fails: `Redis`, `PostgreSQL`, `Sealing`. */
  readonly server: string;
  /** In milliseconds; only differences count. */
  readonly now?: () => number;
}

const REPEAT_MS = 60_000;

export function createOutageLog({ log, server, now = () => performance.now() }: OutageLogOptions): OutageLog {
  const waiting = new Set<Witness>();
  let [beganAt, loggedAt, failures] = [0, 0, 0];
  const lastedMs = () => Math.round(now() - beganAt);
  return {
    failed: (witness, error) => {
      const begins = waiting.size === 0;
      waiting.add(witness);
      if (begins) [beganAt, failures] = [now(), 0];
      failures += 1;
      if (!begins && now() - loggedAt < REPEAT_MS) return;
      loggedAt = now();
      if (begins) log.error({ err: error }, `${server} fails; trying again, and nothing is lost meanwhile`);
      else log.error({ err: error, lastedMs: lastedMs(), failures }, `${server} still fails`);
    },
    works: (witness) => {
      if (!waiting.delete(witness) || waiting.size > 0) return;
      log.warn({ lastedMs: lastedMs(), failures }, `${server} works again`);
    },
    lasts: () => waiting.size > 0,
  };
}
