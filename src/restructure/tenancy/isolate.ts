import type { Pool } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { AppError } from '../../errors.ts';
import { lockRestructuring } from '../apply.ts';
import { replacementSteps } from '../foundation.ts';
import { readStanding, standingKeys } from '../journal.ts';
import type { Mapping } from '../mapping.ts';
import { qualified } from '../statements.ts';
import { reloadPostgrest } from '../under-lock.ts';
import { functionSteps, viewSteps } from './access.ts';
import { callerFunctionSteps } from './callers.ts';
import { columnStep, countLeftStatement, followStep, notNullStatements, type Source, sourceOf } from './columns.ts';
import { inFillingOrder, type TenantTable } from './declaration.ts';
import { fillColumn } from './fill.ts';
import { type Member, readGround } from './ground.ts';
import { buildIndex, comparedColumns, type NamedIndex } from './indexes.ts';
import { policyStep } from './policies.ts';
import { privilegeStep } from './privileges.ts';
import { assertNoRecursion } from './recursion.ts';
import { alone, type IsolateOptions, objectOf, take, type Work } from './work.ts';

interface Isolated {
  readonly table: string;
  readonly status: 'isolated' | 'already' | 'skipped';
  /** Rows that were given their organization. */
  readonly filled: bigint;
  /** Rows that belong to no organization; null where the table has no column for it of ours. */
  readonly without: bigint | null;
  readonly reason?: string;
}

export interface Isolation {
  readonly tables: readonly Isolated[];
  readonly isStopped: boolean;
}

/**
 * Sees to it that whose rows are whose is held by the database: who the caller is, the organization of every row, its index, and policies
 * on every table and partition; then views and functions that passed them by. The old policies stay. Each step is one of the journal,
 * gives way, and is not done twice; interrupted and run again, it goes on where it was.
 * @throws AppError RESTRUCTURE_MAPPING_INVALID where the mapping says nothing of it; RESTRUCTURE_RUNNING, DB_*
 */
export async function isolate(pool: Pool, mapping: Mapping, options: IsolateOptions = {}): Promise<Isolation> {
  const { tenancy } = mapping;
  if (tenancy === undefined) {
    throw new AppError(
      'RESTRUCTURE_MAPPING_INVALID',
      'The mapping has no tenancy: it does not say whose rows are whose.',
    );
  }
  const lock = await lockRestructuring(pool);
  try {
    const ground = await readGround(pool, mapping, tenancy);
    await assertNoRecursion(pool, ground, tenancy);
    const standing = new Set(standingKeys(await readStanding(pool)));
    const work: Work = { pool, mapping, tenancy, ground, standing, options };
    for (const step of callerFunctionSteps(ground.context))
      await take(work, { kind: 'tenant function', relations: [], ...step });
    for (const step of await replacementSteps(pool, tenancy.functions.replacements, 'tenant replacement'))
      await take(work, { relations: [], ...step });
    const tables = await isolateTables(work, () => lock.assertHeld());
    const isStopped = options.stop?.aborted === true;
    if (!isStopped) await closeBypasses(work);
    await reloadPostgrest(pool);
    return { tables, isStopped };
  } finally {
    await lock.release();
  }
}

/** Columns first, of all tables: a policy of one may read another's, and a row follows what it belongs to. */
async function isolateTables(work: Work, assertHeld: () => void): Promise<readonly Isolated[]> {
  const tables = inFillingOrder(work.tenancy.tables);
  const results = new Map<string, Isolated>();
  const phases = [fillTable, protectTable];
  for (const [phase, isolateTable] of phases.entries()) {
    for (const [at, table] of tables.entries()) {
      if (work.options.stop?.aborted === true) break;
      assertHeld();
      work.options.onProgress?.(`tenancy of ${table.table}`, phase * tables.length + at, phases.length * tables.length);
      const former = results.get(table.table);
      if (former?.status === 'skipped') continue;
      const found = await orSkipped(() => isolateTable(work, table));
      results.set(table.table, { ...nothing(table), ...former, ...found });
    }
  }
  return [...results.values()];
}

const nothing = ({ table }: TenantTable): Isolated => ({ table, status: 'already', filled: 0n, without: null });

async function orSkipped(isolateTable: () => Promise<Partial<Isolated>>): Promise<Partial<Isolated>> {
  try {
    return await isolateTable();
  } catch (error) {
    if (!(error instanceof AppError) || !['RESTRUCTURE_BUSY', 'RESTRUCTURE_CHANGED_MORE'].includes(error.code))
      throw error;
    return { status: 'skipped', reason: error.message };
  }
}

/** The column that says whose a row is, with a value in every row, and indexes. */
async function fillTable(work: Work, table: TenantTable): Promise<Partial<Isolated>> {
  const members = work.ground.members.get(table.table) ?? [];
  const [root] = members;
  if (root === undefined) return { status: 'skipped', reason: `there is no table ${table.table}` };
  const source = sourceOf(table, work.ground.context);
  const filled = source === null ? {} : await addOrganization(work, { table, root, members, source });
  for (const column of comparedColumns(table)) await addIndexes(work, table, column);
  return filled;
}

async function addOrganization(
  work: Work,
  { table, root, members, source }: { table: TenantTable; root: Member; members: readonly Member[]; source: Source },
): Promise<Partial<Isolated>> {
  const { pool, options } = work;
  const about = { object: objectOf(work, table), relations: members.map(({ oid }) => oid) };
  await take(work, { kind: 'tenant column', ...about, ...columnStep(root, source) });
  // Before rows are given theirs, lest one is given what is another's by the time that it is written.
  const parents = (work.ground.members.get(source.of.table) ?? []).map(({ oid }) => oid);
  const follow = followStep(root, source, namePath(work));
  await take(work, { kind: 'tenant follows', object: about.object, relations: parents, ...follow });
  let filled = 0n;
  for (const leaf of members.filter(({ isLeaf }) => isLeaf)) {
    filled += await fillColumn(pool, leaf, source, {
      stop: options.stop,
      onProgress: (page, pages) => options.onProgress?.(`pages of ${leaf.name}`, page, pages),
      onBusy: (tries) => options.onBusy?.(leaf.name, tries),
    });
  }
  if (options.stop?.aborted === true) return { filled };
  const { rows } = await pool.query<{ left: bigint }>(countLeftStatement(root));
  const without = rows[0]?.left ?? 0n;
  if (isPromised(table) && without === 0n) await promiseNotNull(work, root, about);
  return { filled, without };
}

const namePath = ({ mapping }: Work): readonly string[] => [mapping.from, ...mapping.schemas.map(({ name }) => name)];

const isPromised = ({ organization }: TenantTable): boolean =>
  organization !== undefined && 'of' in organization && organization.notNull;

async function promiseNotNull(
  work: Work,
  root: Member,
  about: { object: string; relations: readonly number[] },
): Promise<void> {
  const { promise, validate, step, takeBack } = notNullStatements(root);
  if (!work.standing.has(`tenant not null ${about.object}`)) {
    // An interrupted run may have left it.
    await alone(work, about.object, takeBack);
    await alone(work, about.object, promise);
    await withTransaction(work.pool, (tx) => tx.query(validate));
    await take(work, { kind: 'tenant not null', ...about, ...step });
  }
  await alone(work, about.object, takeBack);
}

async function addIndexes(work: Work, table: TenantTable, column: string): Promise<void> {
  const object = `${objectOf(work, table)} (${column})`;
  if (work.standing.has(`tenant index ${object}`)) return;
  const leaves = (work.ground.members.get(table.table) ?? []).filter(({ isLeaf }) => isLeaf);
  const made: NamedIndex[] = [];
  for (const leaf of leaves) {
    const index = await buildIndex(work.pool, leaf, column);
    if (index !== null) made.push(index);
  }
  if (made.length === 0) return;
  // Built beside writers, and therefore outside of any transaction: the journal has it once it is there.
  await work.pool.query('select restructure.note_made($1, $2, $3, $4, $5, $6)', [
    'tenant index',
    object,
    leaves.map(({ oid }) => oid),
    '',
    made.map(({ schema, name }) => `drop index ${qualified(schema, name)}`),
    made.map(({ name }) => `index ${name}`),
  ]);
}

/** What readers lose, and the policies. */
async function protectTable(work: Work, table: TenantTable): Promise<Partial<Isolated>> {
  const members = work.ground.members.get(table.table) ?? [];
  const [root] = members;
  const object = objectOf(work, table);
  if (root === undefined || work.standing.has(`policies ${object}`)) return {};
  const { context } = work.ground;
  const writers = [
    ...(work.mapping.roles?.writers ?? []),
    ...(work.mapping.roles === undefined ? [] : [work.mapping.roles.write]),
  ];
  // Before the policies, which are what says that a table is done.
  const privileges = await privilegeStep(work.pool, members, work.mapping);
  if (privileges !== null) await take(work, { kind: 'privileges', object, ...privileges });
  const policies = policyStep(table, members, { ...context, writers });
  // Columns that are fixed are fixed by both names.
  const relations = members.flatMap(({ oid, standIn }) =>
    table.fixed.length === 0 ? [oid] : [oid, standIn ?? []].flat(),
  );
  await take(work, { kind: 'policies', object, relations, ...policies });
  return { status: 'isolated' };
}

/** Views and functions with their owner's rights are a way around every policy. */
async function closeBypasses(work: Work): Promise<void> {
  const { pool, tenancy, mapping } = work;
  const steps = await withTransaction(pool, async (tx) => {
    // So that the server writes the names of functions and of their types with their schemas.
    await tx.query(`set local search_path = ''`);
    return [...(await viewSteps(tx, tenancy, mapping)), ...(await functionSteps(tx, tenancy, mapping))];
  });
  for (const step of steps) await take(work, step);
}
