import { givingWay } from '../../db/giving-way.ts';
import type { Pool, Tx } from '../../db/pool.ts';
import { qualified } from '../statements.ts';
import { fillStatement, type Source } from './columns.ts';
import type { Member } from './ground.ts';

/** How many pages are written in one transaction: some hundred to some thousand rows. */
const PAGES_A_BATCH = 16;

export interface FillOptions {
  readonly stop?: AbortSignal | undefined;
  readonly maxTries?: number | undefined;
  readonly onProgress?: ((pages: number, total: number) => void) | undefined;
  readonly onBusy?: ((tries: number) => void) | undefined;
}

/**
 * Gives the rows that were there before the trigger their organization, some pages a transaction, in the order in which they lie. What is
 * written meanwhile has it by the trigger, wherever it lands. Run again, it gives what is still without.
 *
 * The old triggers must not fire: one of them stamps updated_at, another counts versions. Where the role may set it, the session is a
 * replica's, as a restore's is; where not, they are switched off and on in the same transaction, which keeps writers away while it lasts.
 * @returns how many rows were given one
 */
export async function fillColumn(pool: Pool, leaf: Member, source: Source, options: FillOptions): Promise<bigint> {
  const { rows } = await pool.query<{ pages: bigint; mayReplicate: boolean }>(
    `select pg_relation_size($1::oid) / current_setting('block_size')::int8 as pages,
       has_parameter_privilege('session_replication_role', 'set') as "mayReplicate"`,
    [leaf.oid],
  );
  const total = Number(rows[0]?.pages ?? 0n);
  const quieten = rows[0]?.mayReplicate === true ? asReplica : await triggersOff(pool, leaf);
  const { onProgress: _, ...giving } = options;
  let filled = 0n;
  for (let page = 0; page < total && options.stop?.aborted !== true; page += PAGES_A_BATCH) {
    options.onProgress?.(page, total);
    filled += await givingWay(
      pool,
      { ...giving, code: 'RESTRUCTURE_BUSY', what: qualified(leaf.schema, leaf.name) },
      async (tx) => {
        // Rows that row security hides from us would be left without, and nobody told.
        await tx.query('set local row_security = off');
        await quieten.before(tx);
        const { rowCount } = await tx.query(fillStatement(leaf, source), [
          `(${page},0)`,
          `(${page + PAGES_A_BATCH},0)`,
        ]);
        await quieten.after(tx);
        return BigInt(rowCount ?? 0);
      },
    );
  }
  return filled;
}

/** What keeps the old triggers from firing in a transaction. */
interface Quietening {
  before(tx: Tx): Promise<unknown>;
  after(tx: Tx): Promise<unknown>;
}

const asReplica: Quietening = {
  before: (tx) => tx.query('set local session_replication_role = replica'),
  after: async () => undefined,
};

async function triggersOff(pool: Pool, leaf: Member): Promise<Quietening> {
  const { rows } = await pool.query<{ name: string }>(
    `select quote_ident(tgname) as name from pg_trigger
     where tgrelid = $1 and not tgisinternal and tgenabled = 'O' and tgname <> 'zz_organization' order by 1`,
    [leaf.oid],
  );
  const switched = (state: string) => (tx: Tx) =>
    rows.length === 0
      ? Promise.resolve()
      : tx.query(
          `alter table ${qualified(leaf.schema, leaf.name)} ${rows.map(({ name }) => `${state} trigger ${name}`).join(', ')}`,
        );
  return { before: switched('disable'), after: switched('enable') };
}
