import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { givingWay } from '../../db/giving-way.ts';
import type { Pool } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { AppError } from '../../errors.ts';
import { qualified } from '../statements.ts';
import { indexNameFor } from './columns.ts';
import { TENANT_COLUMN } from './conditions.ts';
import type { TenantTable } from './declaration.ts';
import type { Member } from './ground.ts';
import type { Work } from './work.ts';

const { escapeIdentifier: ident } = pg;

/** The columns that policies compare with what the caller is. */
export function comparedColumns({ organization, groups, user, owner, kind }: TenantTable): readonly string[] {
  if (kind === 'global' || kind === 'system') return [];
  const ofOrganization = organization === undefined ? [] : ['of' in organization ? TENANT_COLUMN : organization.column];
  return [
    ...new Set([
      ...ofOrganization,
      ...Object.values(groups),
      ...(user ?? []).map((each) => each.column),
      ...(owner === undefined ? [] : [owner.by]),
    ]),
  ];
}

export interface NamedIndex {
  readonly schema: string;
  readonly name: string;
}

/**
 * Builds an index that begins with the column, beside whoever writes, where there is none. One that an interrupted run left unfinished is
 * built anew.
 * @returns what was made, now or by an interrupted run; null where there was one
 * @throws AppError RESTRUCTURE_BUSY where it was stopped; DB_*
 */
export async function buildIndex(work: Work, leaf: Member, column: string): Promise<NamedIndex | null> {
  const index = { schema: leaf.schema, name: indexNameFor(leaf.name, column) };
  const [name, on] = [qualified(index.schema, index.name), qualified(leaf.schema, leaf.name)];
  const { rows } = await work.pool.query<{ name: string; isValid: boolean }>(
    `select i.relname as name, x.indisvalid as "isValid"
     from pg_index x join pg_class i on i.oid = x.indexrelid
     join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
     where x.indrelid = $1 and a.attname = $2 and x.indpred is null`,
    [leaf.oid, column],
  );
  const ours = rows.find((each) => each.name === index.name);
  if (rows.some(({ isValid }) => isValid)) return ours?.isValid === true ? index : null;
  const statements = [
    ...(ours === undefined ? [] : [`drop index concurrently ${name}`]),
    `create index concurrently ${ident(index.name)} on ${on} (${ident(column)})`,
  ];
  if (work.wouldDo !== null) {
    work.wouldDo.push({ object: `tenant index ${index.schema}.${index.name}`, statements });
    return null;
  }
  for (const statement of statements) await besideOthers(work, statement, { index: name, on });
  return index;
}

/** How often it is looked at for whom a statement waits. */
const LOOK_EVERY_MS = 1_000;
const CANCEL_EVERY_MS = 100;

/**
 * Runs a statement that waits for the transactions of everybody and keeps nobody waiting: for as long as that takes, or until it is stopped.
 * Who keeps it waiting is told to whoever watches.
 */
async function besideOthers(work: Work, statement: string, of: { index: string; on: string }): Promise<void> {
  const { pool, options } = work;
  const { stop, onWaiting } = options;
  const client = await pool.connect();
  try {
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
    const pid = rows[0]?.pid;
    const running = client.query(statement);
    const ended = running.then(
      () => true,
      () => true,
    );
    const pausing = () => pause(LOOK_EVERY_MS, false, stop === undefined ? {} : { signal: stop }).catch(() => false);
    while (!(await Promise.race([ended, pausing()]))) {
      if (stop?.aborted === true) {
        // Again, should it have come before the statement did.
        await pool.query('select pg_cancel_backend($1)', [pid]);
        await Promise.race([ended, pause(CANCEL_EVERY_MS)]);
        continue;
      }
      const holders = await holdersOf(pool, pid);
      if (holders !== '') onWaiting?.(`the index ${of.index}`, holders);
    }
    await running;
  } catch (error) {
    if (stop?.aborted !== true) throw toAppError(error);
    throw new AppError(
      'RESTRUCTURE_BUSY',
      `Its index ${of.index} was not waited for any longer. ${await clearAway(work, of)}`,
      {
        cause: error,
      },
    );
  } finally {
    client.release();
  }
}

/** Who a session waits for, in words for whoever has to talk to them. */
async function holdersOf(pool: Pool, pid: number | undefined): Promise<string> {
  const { rows } = await pool.query<{ holders: string | null }>(
    `select string_agg(concat('process ', a.pid, ' (', concat_ws(', ', nullif(a.usename, ''), nullif(a.application_name, ''), a.state,
       'since ' || to_char(a.xact_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'), ')'), ', ' order by a.xact_start) as holders
     from pg_stat_activity a where a.pid = any (pg_blocking_pids($1))`,
    [pid],
  );
  return rows[0]?.holders ?? '';
}

const TRIES_TO_CLEAR_AWAY = 5;

/** What was built of an index would cost whoever writes, and serve nobody. */
async function clearAway({ pool }: Work, { index, on }: { index: string; on: string }): Promise<string> {
  const giving = { code: 'RESTRUCTURE_BUSY', what: on, maxTries: TRIES_TO_CLEAR_AWAY } as const;
  try {
    await givingWay(pool, giving, (tx) => tx.query(`drop index if exists ${index}`));
    return 'What there was of it is gone.';
  } catch (error) {
    if (!(error instanceof AppError) || error.code !== 'RESTRUCTURE_BUSY') throw error;
    return 'What there is of it stays until isolate is run again: somebody uses the table.';
  }
}
