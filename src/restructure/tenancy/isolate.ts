import type { Pool, Tx } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { reloadPostgrest } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { asOnlyRun } from '../apply.ts';
import { replacementSteps } from '../foundation.ts';
import { readStanding, standingKeys } from '../journal.ts';
import { lockHolders } from '../lock-holders.ts';
import type { Mapping } from '../mapping.ts';
import { qualified } from '../statements.ts';
import { type AccessStep, functionSteps, viewSteps } from './access.ts';
import { callerFunctionSteps } from './callers.ts';
import {
  columnStep,
  countLeftStatement,
  fillStatement,
  followStep,
  notNullStatements,
  type Source,
  sourceOf,
} from './columns.ts';
import { cutOffWriters } from './cut-off.ts';
import { inFillingOrder, type TenantTable } from './declaration.ts';
import { definerSteps } from './definers.ts';
import { fillColumn } from './fill.ts';
import { type Member, readGround } from './ground.ts';
import { buildIndex, comparedColumns, type NamedIndex } from './indexes.ts';
import { type AskedOnce, callsInUse, oldPoliciesStep } from './old-policies.ts';
import { keepsColumns, policyStep } from './policies.ts';
import { otherPrivileged, privilegeStep } from './privileges.ts';
import { assertNoRecursion } from './recursion.ts';
import { alone, type IsolateOptions, inTurn, objectOf, take, type Work, type WouldDo } from './work.ts';

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
  /** What is no table of the tenancy, and stayed as it was, with the reason. */
  readonly left: readonly string[];
  /** What passes by policies and is somebody else's to change. */
  readonly ofOthers: readonly string[];
  readonly isStopped: boolean;
  /** What would be done, where nothing was. */
  readonly wouldDo: readonly WouldDo[];
}

/**
 * Sees to it that whose rows are whose is held by the database: who the caller is, the organization of every row, its index, and policies
 * on every table and partition; then views and functions that passed them by. The old policies stay. Each step is one of the journal,
 * gives way, and is not done twice; interrupted and run again, it goes on where it was. A table that is in use is skipped, with those whose
 * organization is its rows'.
 * @throws AppError RESTRUCTURE_MAPPING_INVALID where the mapping says nothing of it; RESTRUCTURE_RUNNING, DB_*
 */
export async function isolate(pool: Pool, mapping: Mapping, given: IsolateOptions = {}): Promise<Isolation> {
  const { tenancy } = mapping;
  if (tenancy === undefined) {
    throw new AppError(
      'RESTRUCTURE_MAPPING_INVALID',
      'The mapping has no tenancy: it does not say whose rows are whose.',
    );
  }
  return asOnlyRun(pool, given, async (options) => {
    const ground = await readGround(pool, mapping, tenancy);
    await assertNoRecursion(pool, ground, tenancy);
    for (const warning of await cutOffWriters(pool, mapping, ground)) options.onWarning?.(warning);
    const standing = new Set(standingKeys(await readStanding(pool)));
    const wouldDo: WouldDo[] = [];
    const work: Work = {
      pool,
      mapping,
      tenancy,
      ground,
      standing,
      wouldDo: options.dryRun === true ? wouldDo : null,
      options,
    };
    const calls = await makeFunctions(work);
    const tables = await isolateTables(work, calls);
    const isStopped = options.stop?.aborted === true;
    const bypasses = isStopped ? { left: [], ofOthers: [] } : await closeBypasses(work);
    if (options.dryRun !== true) await reloadPostgrest(pool);
    return { tables, ...bypasses, isStopped, wouldDo };
  });
}

/** The functions that policies ask. @returns what old policies call for every row, and what they ask instead */
async function makeFunctions(work: Work): Promise<readonly AskedOnce[]> {
  const { pool, tenancy, ground } = work;
  for (const { reads, ...step } of callerFunctionSteps(ground.context)) {
    const what = `${work.mapping.from}.${reads}, which ${step.object} reads,`;
    await take(work, { kind: 'tenant function', relations: [], ...step }, what);
  }
  for (const step of await replacementSteps(pool, tenancy.functions.replacements, 'tenant replacement'))
    await take(work, { relations: [], ...step });
  const calls = await callsInUse(pool, tenancy.policies, membersOf(work));
  for (const { by } of calls) {
    if (by === undefined) continue;
    const [statements, inverse] = [[by.definition.join('\n')], [`drop function ${by.function}`]];
    await take(work, {
      kind: 'tenant function',
      object: by.function,
      relations: [],
      statements,
      inverse,
      mayChange: [],
    });
  }
  return calls;
}

/** All tables and partitions, by oid. */
const membersOf = ({ ground }: Work): readonly number[] =>
  [...ground.members.values()].flatMap((members) => members.map(({ oid }) => oid));

/** Columns first, of all tables: a policy of one may read another's, and a row follows what it belongs to. */
async function isolateTables(work: Work, calls: readonly AskedOnce[]): Promise<readonly Isolated[]> {
  const tables = inFillingOrder(work.tenancy.tables);
  const results = new Map<string, Isolated>();
  const phases = [fillTable, protectTable];
  for (const [phase, isolateTable] of phases.entries()) {
    for (const [at, table] of tables.entries()) {
      if (work.options.stop?.aborted === true) break;
      work.options.onProgress?.(`tenancy of ${table.table}`, phase * tables.length + at, phases.length * tables.length);
      const former = results.get(table.table);
      if (former?.status === 'skipped') continue;
      const source = sourceName(table);
      const found =
        phase === 0 && results.get(source)?.status === 'skipped'
          ? { status: 'skipped' as const, reason: `its organization is that of ${source}, which was left` }
          : await orSkipped(work, table, () => isolateTable(work, table, calls));
      results.set(table.table, { ...nothing(table), ...former, ...found });
    }
  }
  return [...results.values()];
}

/** The table whose rows say whose these are. */
const sourceName = ({ organization }: TenantTable): string =>
  organization !== undefined && 'of' in organization ? organization.of : '';

const nothing = ({ table }: TenantTable): Isolated => ({ table, status: 'already', filled: 0n, without: null });

async function orSkipped(
  work: Work,
  { table }: TenantTable,
  isolateTable: () => Promise<Partial<Isolated>>,
): Promise<Partial<Isolated>> {
  try {
    return await isolateTable();
  } catch (error) {
    const reason = reasonToSkip(error);
    const relations = (work.ground.members.get(table) ?? []).map(({ oid }) => oid);
    const holders = isBusy(error) ? await lockHolders(work.pool, relations) : [];
    return { status: 'skipped', reason: [reason, ...holders.map((holder) => `Held by ${holder}.`)].join(' ') };
  }
}

const isBusy = (error: unknown): boolean => error instanceof AppError && error.code === 'RESTRUCTURE_BUSY';

/** What concerns one object alone, in words. @throws anything else */
function reasonToSkip(error: unknown): string {
  if (error instanceof AppError && (isBusy(error) || error.code === 'RESTRUCTURE_CHANGED_MORE')) return error.message;
  throw error;
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
  if (work.wouldDo !== null) {
    work.wouldDo.push({ object: `pages of ${about.object}`, statements: [fillStatement(root, source)] });
    if (isPromised(table)) await promiseNotNull(work, root, about);
    return {};
  }
  let filled = 0n;
  for (const leaf of members.filter(({ isLeaf }) => isLeaf)) {
    filled += await fillColumn(pool, leaf, source, {
      stop: options.stop,
      maxTries: options.maxTries,
      onProgress: (page, pages) => options.onProgress?.(`pages of ${leaf.name}`, page, pages),
      onBusy: (tries) => options.onBusy?.(leaf.name, tries),
    });
  }
  if (options.stop?.aborted === true) return { filled };
  const { rows } = await inTurn(work, { what: about.object }, (tx) =>
    tx.query<{ left: bigint }>(countLeftStatement(root)),
  );
  const without = rows[0]?.left ?? 0n;
  if (isPromised(table) && without === 0n) await promiseNotNull(work, root, about);
  return { filled, without };
}

const namePath = ({ mapping }: Work): readonly string[] => [mapping.from, ...mapping.schemas.map(({ name }) => name)];

const isPromised = ({ organization }: TenantTable): boolean =>
  organization !== undefined && 'of' in organization && organization.notNull;

/** What waits for this lock keeps nobody waiting who reads or writes; a vacuum that the server does by itself lets go after a second. */
const PATIENCE_WITH_VACUUM_MS = 2_000;

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
    await alone(work, about.object, validate, PATIENCE_WITH_VACUUM_MS);
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
    const index = await buildIndex(work, leaf, column);
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

/** What readers lose, the old policies, and ours. */
async function protectTable(work: Work, table: TenantTable, calls: readonly AskedOnce[]): Promise<Partial<Isolated>> {
  const members = work.ground.members.get(table.table) ?? [];
  const [root] = members;
  const object = objectOf(work, table);
  if (root === undefined) return {};
  const relations = members.map(({ oid }) => oid);
  if (!work.standing.has(`old policies ${object}`)) {
    const old = await namingAll(work, (tx) => oldPoliciesStep(tx, members, calls));
    if (old !== null) await take(work, { kind: 'old policies', object, relations, ...old });
  }
  if (work.standing.has(`policies ${object}`)) return {};
  const { context } = work.ground;
  const writers = [
    ...(work.mapping.roles?.writers ?? []),
    ...(work.mapping.roles === undefined ? [] : [work.mapping.roles.write]),
  ];
  // Before the policies, which are what says that a table is done.
  const privileges = await privilegeStep(work.pool, relations, work.mapping);
  if (privileges !== null) await take(work, { kind: 'privileges', object, ...privileges });
  const policies = policyStep(table, members, { ...context, writers });
  // Columns that are the server's are so by both names.
  const withViews = members.flatMap(({ oid, standIn }) => (keepsColumns(table) ? [oid, standIn ?? []].flat() : [oid]));
  await take(work, { kind: 'policies', object, relations: withViews, ...policies });
  return { status: 'isolated' };
}

/** Asks a transaction in which the server writes names with their schemas. */
const namingAll = <T>({ pool }: Work, ask: (tx: Tx) => Promise<T>): Promise<T> =>
  withTransaction(pool, async (tx) => {
    await tx.query(`set local search_path = ''`);
    return ask(tx);
  });

/** Views and functions with their owner's rights are a way around every policy, and so is what no policy is asked about. */
async function closeBypasses(work: Work): Promise<Pick<Isolation, 'left' | 'ofOthers'>> {
  const { pool, tenancy, mapping } = work;
  const left: string[] = [];
  const takeOrLeave = (step: AccessStep) =>
    take(work, step).catch((error: unknown) => void left.push(`${step.kind} ${step.object}: ${reasonToSkip(error)}`));
  const accesses = await namingAll(work, async (tx) => [
    ...(await viewSteps(tx, tenancy, mapping)),
    ...(await functionSteps(tx, tenancy, mapping)),
  ]);
  for (const step of accesses) await takeOrLeave(step);
  const others = await otherPrivileged(pool, mapping, coveredBy(work));
  const covered = new Set<number>();
  for (const { oid, object } of others.filter(({ isOurs }) => isOurs)) {
    if (covered.has(oid)) continue;
    const privileges = await privilegeStep(pool, [oid], mapping);
    for (const each of privileges?.covers ?? []) covered.add(each);
    if (privileges !== null) await takeOrLeave({ kind: 'privileges', object, ...privileges });
  }
  const usual = await usualPath(work);
  // After those that are made to run as their owner, or no longer do.
  const definers = await namingAll(work, (tx) => definerSteps(tx, mapping, usual));
  const isReplacedFirst = ({ object }: AccessStep) =>
    work.wouldDo?.some((each) => each.object === `tenant replacement ${object}`) ?? false;
  for (const step of definers.steps) if (!isReplacedFirst(step)) await takeOrLeave(step);
  const ofOthers = others.filter(({ isOurs }) => !isOurs).map(({ object, owner }) => `${object} of ${owner}`);
  return { left, ofOthers: [...ofOthers, ...definers.ofOthers] };
}

/** Tables of the tenancy, and the views under their old names. */
const coveredBy = ({ ground }: Work): readonly number[] =>
  [...ground.members.values()].flatMap((members) => members.flatMap(({ oid, standIn }) => [oid, standIn ?? []].flat()));

/** Where a function looks names up that says nothing of it: as we do, and where tables went. */
async function usualPath(work: Work): Promise<readonly string[]> {
  const { rows } = await work.pool.query<{ path: string[] }>('select current_schemas(false)::text[] as path');
  return [...new Set([...namePath(work), ...(rows[0]?.path ?? [])])];
}
