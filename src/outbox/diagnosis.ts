import { pino } from 'pino';
import { type Check, check } from '../db/diagnosis.ts';
import { createPool } from '../db/pool.ts';
import { trackSockets } from '../db/sockets.ts';
import { toAppError } from '../db/sqlstate.ts';
import { startListener } from './listener.ts';
import { createOutageLog } from './outage-log.ts';

/** The database was reached before: these say that notifications do not arrive, not that nobody could find out. */
const ANSWERS: ReadonlySet<string> = new Set(['LISTEN_UNAVAILABLE', 'DB_FAILED', 'DB_POOLER_UNSUITABLE']);

/** Listens as the relay does, and is notified over another connection. */
export function diagnoseListening(databaseUrl: string): Promise<Check> {
  return check('notifications', async () => {
    const db = createPool({ databaseUrl, max: 1 });
    const sockets = trackSockets();
    try {
      const listener = await startListener({
        databaseUrl,
        db,
        sockets,
        outage: createOutageLog({ log: pino({ level: 'silent' }), server: 'PostgreSQL' }),
        onWake: () => undefined,
        onChange: () => undefined,
      });
      await listener.close();
      return { result: 'ok', found: 'a NOTIFY of another connection arrived' };
    } catch (error) {
      const failure = toAppError(error);
      if (!ANSWERS.has(failure.code)) throw failure;
      return {
        result: 'failed',
        found: `${failure.code}: ${failure.message}`,
        todo: 'The worker needs LISTEN: point DATABASE_URL at the server itself, or at a session pooler.',
      };
    } finally {
      await db.end();
      sockets.destroyAll();
    }
  });
}
