import pg from 'pg';
import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import { isCall } from './access.ts';
import type { ApiCaller } from './api-callers.ts';
import { EXPOSED, readApiSchema, tableBehind } from './api-schema.ts';
import { type Effect, forgetEffects, readEffects } from './effects.ts';
import { type Outcome, outcomeOf, type RawOutcome } from './outcome.ts';
import { isRefusal, type PreparedAccess, type Statement } from './prepared.ts';
import { refusalOf } from './refusal.ts';
import { type Api, apiOf, translate } from './translate.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

export interface RunOptions {
  readonly caller: ApiCaller;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** What an access gave somebody. */
export interface AccessResult {
  /** The access's place among those that it was read with. */
  readonly number: number;
  /** The caller's name. */
  readonly caller: string;
  readonly outcome: Outcome;
}

/** Above what Supabase allows a request: one that takes longer is refused in both runs alike. */
const STATEMENT_TIMEOUT_MS = 60_000;

/**
 * Sends each access as PostgREST would for this caller, one after the other, and undoes it. What may vary from run to run is sent a second
 * time when all have been sent once, so that time has passed, and what differs between the two is left out of the result.
 * @throws AppError DB_PERMISSION_DENIED where whoever is connected may not take on the caller's role; DB_*
 */
export async function runAccesses(
  pool: Pool,
  prepared: readonly PreparedAccess[],
  { caller, onProgress }: RunOptions,
): Promise<readonly AccessResult[]> {
  const api = apiOf(await readApiSchema(pool));
  const now = await readClock(pool);
  const again = prepared.filter((each) => mayVary(each, api));
  const total = prepared.length + again.length;
  let done = 0;
  const send = async (each: PreparedAccess): Promise<readonly [number, RawOutcome]> => {
    const outcome = await runOnce(pool, each, { api, caller });
    done += 1;
    onProgress?.(done, total);
    return [each.number, outcome];
  };
  const first = await inTurn(prepared, send);
  const second = new Map(await inTurn(again, send));
  return first.map(([number, outcome]) => {
    const other = second.get(number);
    return { number, caller: caller.name, outcome: outcomeOf(outcome, other && { second: other, now }) };
  });
}

async function readClock(db: Queryable): Promise<Date> {
  const { rows } = await db.query<{ now: Date }>('select now()');
  const [clock] = rows;
  if (clock === undefined) throw new AppError('INTERNAL', 'The server did not say what time it is.');
  return clock.now;
}

/** One after the other: two at a time would wait for each other's rows. */
async function inTurn<T, R>(all: readonly T[], work: (each: T) => Promise<R>): Promise<readonly R[]> {
  const results: R[] = [];
  for (const each of all) results.push(await work(each));
  return results;
}

/** Whatever is more than rows of tables as they are. */
function mayVary({ access }: PreparedAccess, { schema }: Api): boolean {
  if (isCall(access) || access.op !== 'select') return true;
  const relation = schema.exposed.get(access.table);
  return relation !== undefined && tableBehind(relation) === undefined;
}

async function runOnce(
  pool: Pool,
  prepared: PreparedAccess,
  { api, caller }: { api: Api; caller: ApiCaller },
): Promise<RawOutcome> {
  const statement = translate(api, prepared);
  if (isRefusal(statement)) return { status: 'refused', by: 'api', ...statement };
  const isRead = !isCall(prepared.access) && prepared.access.op === 'select';
  const tx = await pool.connect();
  try {
    if (!isRead) await forgetEffects(tx);
    await tx.query(beginAs(caller));
    const outcome = await answer(tx, statement);
    if (outcome.status === 'refused' || isRead) return outcome;
    await tx.query('reset role');
    return { ...outcome, effects: await readEffects(tx) };
  } finally {
    await tx.query('rollback').finally(() => tx.release());
  }
}

/** What the API says to the database before it asks. */
const beginAs = ({ role, claims }: ApiCaller): string =>
  [
    'begin',
    `set local statement_timeout = ${STATEMENT_TIMEOUT_MS}`,
    `set local role ${ident(role)}`,
    `set local search_path = ${ident(EXPOSED)}`,
    `select set_config('request.jwt.claims', ${literal(JSON.stringify(claims))}, true)`,
  ].join('; ');

const NO_EFFECTS: readonly Effect[] = [];

async function answer(tx: Tx, { rows, count, isOrdered, cardinality }: Statement): Promise<RawOutcome> {
  try {
    const read = rows && (await tx.query<{ row: string }>(rows.text, [...rows.parameters])).rows.map(({ row }) => row);
    const counted = count && (await tx.query<{ count: bigint }>(count.text, [...count.parameters])).rows[0]?.count;
    // What is checked when a transaction ends: the API's would end here.
    await tx.query('set constraints all immediate');
    const found = read ?? [];
    if (found.length > 1 ? cardinality !== undefined : found.length === 0 && cardinality === 'single') {
      return { status: 'refused', by: 'api', code: 'not-single', message: `there are ${found.length} rows` };
    }
    const total = counted === undefined ? null : Number(counted);
    return { status: 'rows', rows: found, isOrdered, total, effects: NO_EFFECTS };
  } catch (error) {
    return { status: 'refused', by: 'database', ...refusalOf(error) };
  }
}
