import type { Pool } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';

/** The tables that are made from the log. */
export const PROJECTIONS = [
  'accounts',
  'entries',
  'balances',
  'account_changes',
  'holds',
  'hold_entries',
  'reversals',
  'periods',
  'account_slots',
];

/** Runs SQL as the tables' owner can who means harm: with every trigger off, and put back afterwards as if nothing had been. */
export async function damage(pool: Pool, sql: string): Promise<void> {
  await withTransaction(pool, async (tx) => {
    // As every posting does first: whoever posts meanwhile waits, and meets no deadlock.
    await tx.query(`select pg_advisory_xact_lock(hashtext('liventix.period'), b.book_id) from payments.books b`);
    const { rows } = await tx.query<{ off: string; on: string }>(
      `select format('alter table %s disable trigger %I', t.tgrelid::regclass, t.tgname) as off,
              format('alter table %s enable %s trigger %I', t.tgrelid::regclass,
                case t.tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end, t.tgname) as on
       from pg_trigger t
       where t.tgrelid = any (select format('payments.%s', name)::regclass from unnest($1::text[]) as name)
         and not t.tgisinternal and t.tgenabled <> 'D'`,
      [PROJECTIONS],
    );
    await tx.query([...rows.map(({ off }) => off), sql, ...rows.map(({ on }) => on)].join('; '));
  });
}
