import type { Logger } from 'pino';

/**
 * Tells of an outage when it begins, once a minute while it lasts, and when it is over, however often it is met: a server
 * that is away fails every poll, every reconnection and every attempt. One that comes and goes, as a cluster does while its
 * nodes find out, has one outage, over when it has worked for `HOLDS_MS`.
 */
export interface OutageLog {
  /** @param witness who will find out that it works again */
  failed(witness: Witness, error: unknown): void;
  /** The outage is over when everybody who is to find out has, and it has held. */
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
}

const REPEAT_MS = 60_000;
const HOLDS_MS = 2_000;

export function createOutageLog({ log, server }: OutageLogOptions): OutageLog {
  const waiting = new Set<Witness>();
  let isTold = false;
  let end: NodeJS.Timeout | undefined;
  let [beganAt, loggedAt, failures] = [0, 0, 0];
  const now = () => performance.now();
  const lastedMs = () => Math.round(now() - beganAt);
  return {
    failed: (witness, error) => {
      clearTimeout(end);
      waiting.add(witness);
      const begins = !isTold;
      isTold = true;
      if (begins) [beganAt, failures] = [now(), 0];
      failures += 1;
      if (!begins && now() - loggedAt < REPEAT_MS) return;
      loggedAt = now();
      if (begins) log.error({ err: error }, `${server} fails; trying again, and nothing is lost meanwhile`);
      else log.error({ err: error, lastedMs: lastedMs(), failures }, `${server} still fails`);
    },
    works: (witness) => {
      if (!waiting.delete(witness) || waiting.size > 0) return;
      const outage = { lastedMs: lastedMs(), failures };
      end = setTimeout(() => {
        isTold = false;
        log.warn(outage, `${server} works again`);
      }, HOLDS_MS).unref();
    },
    lasts: () => waiting.size > 0,
  };
}
