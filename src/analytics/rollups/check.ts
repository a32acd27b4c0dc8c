import pg from 'pg';
import { type GivingWay, givingWay } from '../../db/giving-way.ts';
import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { withSavepoint } from '../../db/transaction.ts';
import { AppError } from '../../errors.ts';
import { type Declarations, invalidDeclaration, type RefreshedView, type Rollup } from './declaration.ts';
import { readSql } from './merge.ts';
import { existingRoles, type Found, madeName, resolveRollup, withTables } from './resolve.ts';
import { type Resolved, readableStatements, tableStatements, viewStatements } from './statements.ts';

const { escapeIdentifier: ident } = pg;

/**
 * Has the server judge what is not made yet, before anything of it is there: makes all but the triggers, in a transaction that leaves nothing of it.
 * @throws AppError ROLLUP_DECLARATION_INVALID with every fault at once, ROLLUP_BUSY, STOPPED, DB_*
 */
export async function checkDeclarations(
  pool: Pool,
  declarations: Declarations,
  patience: Pick<GivingWay, 'stop' | 'maxTries' | 'onBusy'>,
): Promise<void> {
  const faults = await givingWay(
    pool,
    { ...patience, code: 'ROLLUP_BUSY', what: 'A table that the file names' },
    async (tx) => {
      await tx.query('savepoint nothing');
      const found = await faultsOf(tx, declarations);
      await tx.query('rollback to savepoint nothing');
      return found;
    },
  );
  if (faults.length > 0) throw invalidDeclaration(`${faults.join('; ')}.`);
}

async function faultsOf(tx: Tx, declarations: Declarations): Promise<readonly string[]> {
  const faults: string[] = [];
  const faulty: string[] = [];
  for (const rollup of declarations.rollups) {
    const found = await rollupFaults(tx, declarations, rollup);
    if (found.length === 0) continue;
    faulty.push(rollup.name);
    faults.push(`The rollup ${rollup.name}: ${found.join('; ')}`);
  }
  for (const view of declarations.views) {
    // What it would say of a rollup that could not be made is said.
    if (faulty.some((name) => view.query.includes(`{${name}}`))) continue;
    const found = await viewFaults(tx, declarations, view);
    if (found.length > 0) faults.push(`The view ${view.name}: ${found.join('; ')}`);
  }
  return faults;
}

async function rollupFaults(tx: Tx, declarations: Declarations, rollup: Rollup): Promise<readonly string[]> {
  const resolved = await resolveRollup(tx, declarations, rollup).catch(faultIn);
  if (typeof resolved === 'string') return [resolved];
  const { rowCount: known } = await tx.query('select from rollups.rollups where name = $1', [rollup.name]);
  if (known !== 0) return [];
  // As a trigger has it: without what is the system's of a row.
  const source = `(select * from ${resolved.source.name})`;
  const faults = await schemaFaults(tx, rollup);
  for (const [at, column] of rollup.group.entries()) {
    // Groups are found by an index, which wants an order.
    const ordered = `explain select s.${ident(column)} from ${source} s order by s.${ident(column)}`;
    faults.push(...(await faultOf(tx, `group.${at}`, () => inOurPath(tx, ordered))));
  }
  if (rollup.distinct !== undefined) {
    // Of one row at a time: no aggregate, and nothing that makes more rows of one.
    const viewers = `explain select from ${source} s where (${rollup.distinct.of})::text is null`;
    faults.push(...(await faultOf(tx, 'distinct.of', () => inOurPath(tx, viewers))));
  }
  return faults.length > 0 ? faults : makingFaults(tx, resolved);
}

async function makingFaults(tx: Tx, resolved: Resolved & { readonly source: Found }): Promise<readonly string[]> {
  const among = new Map(readableStatements(resolved).map((made, at) => [made, `readers.some.${at}.among`]));
  const faults: string[] = [];
  for (const statement of tableStatements(resolved)) {
    const key = among.get(statement);
    // What stands on a query that was refused would be refused for that.
    if (key === undefined && faults.length > 0) return faults;
    faults.push(...(await faultOf(tx, key, () => tx.query(statement))));
  }
  const { rollup, source } = resolved;
  const { rowCount } = await tx.query(
    `select from pg_attribute where attrelid = $1 and attname = 'recorded_xid' and not attisdropped`,
    [source.oid],
  );
  const recorded = rowCount === 1 ? source.name : `(select *, null::xid8 as recorded_xid from ${source.name})`;
  const counting = `explain ${readSql(rollup).replaceAll('{source}', recorded)}`;
  return faultOf(tx, undefined, () => inOurPath(tx, counting, ['1', '1']));
}

async function viewFaults(tx: Tx, declarations: Declarations, view: RefreshedView): Promise<readonly string[]> {
  const { rowCount: known } = await tx.query(
    'select from rollups.views where name = $1 and to_regclass(name) is not null',
    [await madeName(tx, view)],
  );
  if (known !== 0) return [];
  const faults = await schemaFaults(tx, view);
  if (faults.length > 0) return faults;
  const query = await withTables(tx, declarations, view.query).catch((error: unknown) => ({ fault: faultIn(error) }));
  if (typeof query !== 'string') return [`query: ${query.fault}`];
  const keys = ['query', 'unique'];
  for (const [at, statement] of viewStatements(view, query, await existingRoles(tx, view.readers)).entries()) {
    faults.push(...(await faultOf(tx, keys[at], () => tx.query(statement))));
    if (faults.length > 0) break;
  }
  return faults;
}

async function schemaFaults(db: Queryable, { schema }: { readonly schema: string }): Promise<string[]> {
  const { rowCount } = await db.query('select from pg_namespace where nspname = $1', [schema]);
  return rowCount === 1 ? [] : [`schema: there is no schema ${schema}`];
}

/** Works as the trigger and the counting do, and leaves nothing of it. */
async function inOurPath(tx: Tx, statement: string, values?: string[]): Promise<void> {
  await tx.query('savepoint path; set local search_path = pg_catalog, pg_temp');
  await tx.query(statement, values);
  await tx.query('rollback to savepoint path');
}

/** What the server refuses in a piece of the file, with the key of that; what has another cause is thrown on. */
async function faultOf(tx: Tx, key: string | undefined, work: () => Promise<unknown>): Promise<readonly string[]> {
  try {
    await withSavepoint(tx, work);
    return [];
  } catch (error) {
    if (!(error instanceof AppError) || error.code !== 'DB_FAILED') throw error;
    return [`${key === undefined ? '' : `${key}: `}${error.message.replace(/\.$/, '')}`];
  }
}

function faultIn(error: unknown): string {
  if (error instanceof AppError && error.code === 'ROLLUP_DECLARATION_INVALID')
    return String(error.details['fault']).replace(/\.$/, '');
  throw error;
}
