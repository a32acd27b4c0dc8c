import type { Pool, Tx } from '../../../src/db/pool.ts';
import { callersPool } from '../callers.ts';
import { createDatabase } from '../database.ts';
import { type Belongings, type Breach, belongingsOf } from './attacks.ts';
import { findPeople, type People, type Person } from './people.ts';
import { isolatedPlatform } from './platform.ts';
import { type Legacy, legacyTables } from './rows.ts';

/** Those who try to come to what is others'. */
export const ATTACKERS = ['nobody', 'inA', 'attendee', 'host', 'sponsor'] as const;

type Attack = (tx: Tx, table: Legacy, person: Person, belongings: Belongings) => Promise<readonly Breach[]>;

/** A platform whose tenants are kept apart, for whoever tries something on every table of it. */
export interface Besieged {
  readonly pool: Pool;
  readonly people: People;
  readonly tables: readonly Legacy[];
  /** What came through, in a transaction that is undone, after `setting`. */
  onEveryTable(person: Person, attack: Attack, setting?: string): Promise<readonly Breach[]>;
  close(): Promise<void>;
}

export async function besiegedPlatform(): Promise<Besieged> {
  const database = await createDatabase({ template: await isolatedPlatform(), poolMax: 1 });
  const pool = callersPool(database);
  const tables = await legacyTables(pool);
  return {
    pool,
    people: await findPeople(pool),
    tables,
    async onEveryTable(person, attack, setting = '') {
      const tx = await pool.connect();
      try {
        await tx.query(`begin; ${setting}`);
        const belongings = await belongingsOf(tx, person);
        const breaches = [];
        for (const table of tables) breaches.push(...(await attack(tx, table, person, belongings)));
        return breaches;
      } finally {
        await tx.query('rollback');
        tx.release();
      }
    },
    async close() {
      await pool.end();
      await database.drop();
    },
  };
}
