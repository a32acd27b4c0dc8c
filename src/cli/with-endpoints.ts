import type { Pool } from '../db/pool.ts';
import { judgeSecrets, keyFits, settleSecrets } from '../outbox/endpoint-secrets.ts';
import { createKeyRing, type KeyRing } from '../outbox/key-ring.ts';
import { type CommandContext, withDatabase } from './context.ts';

/** As `withDatabase`, and where there is a key of this database, what was kept in plain text before 0042 is encrypted on the way. */
export async function withEndpoints(
  context: CommandContext,
  { dryRun = false }: { dryRun?: boolean },
  work: (pool: Pool, keyRing: KeyRing) => Promise<void>,
): Promise<void> {
  const keyRing = createKeyRing(context.config.encryptionKeys);
  await withDatabase(context, async (pool) => {
    const settles = keyRing.keyId !== undefined && !dryRun && keyFits(await judgeSecrets(pool, keyRing));
    if (settles) await settleSecrets(pool, keyRing);
    await work(pool, keyRing);
  });
}
