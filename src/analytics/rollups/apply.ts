import { givingWay } from '../../db/giving-way.ts';
import type { Pool, Queryable } from '../../db/pool.ts';
import { type UnderLockOptions, underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { anewOf } from './advice.ts';
import { type BuildWatch, buildRollup } from './build.ts';
import { checkDeclarations } from './check.ts';
import type { Declarations, RefreshedView, Rollup } from './declaration.ts';
import { assertTablesThere, findMissingGuards, type MissingGuard } from './guards.ts';
import { buildIndexes, type IndexWork, indexStatements } from './indexes.ts';
import { buildSql, clearSql, forgetSql, readSql, settleSql, wipeSql } from './merge.ts';
import { TRIGGER } from './names.ts';
import { existingRoles, type Found, madeName, missingRoles, resolveRollup, withTables } from './resolve.ts';
import { mendStatements, type Resolved, tableStatements, triggerStatements, viewStatements } from './statements.ts';
import { refreshView, viewRemedy } from './views.ts';

export interface ApplyOptions extends BuildWatch, Pick<UnderLockOptions, 'maxTries' | 'onBusy' | 'lockedForAtMostMs'> {
  /** Told which view is filled, which takes as long as its query does. */
  readonly onFill?: ((view: string) => void) | undefined;
}

export interface AppliedRollup {
  readonly kind: 'rollup' | 'view';
  readonly name: string;
  readonly of: string;
  readonly status: 'made' | 'finished' | 'mended' | 'already' | 'left' | 'would be made' | 'would be mended';
  readonly statements: readonly string[];
  /** Roles that are to read it, and are not there. */
  readonly rolesLeftOut: readonly string[];
  /** Why a view was left without rows, and what helps. */
  readonly left?: string;
}

/**
 * What there would be done, as the SQL that would run, and judged by the server. Changes nothing.
 * @throws AppError ROLLUP_DECLARATION_INVALID, ROLLUP_DIFFERS, ROLLUP_TABLE_MISSING, ROLLUP_BUSY, STOPPED, DB_*
 */
export async function planRollups(
  db: Pool,
  declarations: Declarations,
  patience: Pick<ApplyOptions, 'stop' | 'maxTries' | 'onBusy'> = {},
): Promise<readonly AppliedRollup[]> {
  // First: a view over what is gone would be refused for that.
  await assertTablesThere(
    db,
    declarations.rollups.map(({ name }) => name),
  );
  await checkDeclarations(db, declarations, patience);
  const planned: AppliedRollup[] = [];
  const begun = new Set<string>();
  for (const rollup of declarations.rollups) {
    const resolved = await resolveRollup(db, declarations, rollup);
    const { source } = resolved;
    if ((await stateOf(db, rollup)) !== undefined) {
      planned.push(await planMending(db, resolved));
      continue;
    }
    const isFirst = !begun.has(source.name) && !(await isRecorded(db, source.name));
    begun.add(source.name);
    planned.push({
      kind: 'rollup',
      name: await madeName(db, rollup),
      of: source.name,
      status: 'would be made',
      statements: [
        ...tableStatements(resolved),
        ...triggerStatements(resolved, source.name, isFirst),
        ...(isFirst ? await indexStatements(db, source) : []),
      ],
      rolesLeftOut: await missingRoles(db, readersOf(rollup)),
    });
  }
  for (const view of declarations.views) planned.push(await planView(db, declarations, view));
  return planned;
}

/** What there would be put back for a rollup that there is. */
async function planMending(db: Queryable, resolved: Resolved & { readonly source: Found }): Promise<AppliedRollup> {
  const { rollup, source } = resolved;
  const missing = await findMissingGuards(db, [rollup.name]);
  return {
    kind: 'rollup',
    name: await madeName(db, rollup),
    of: source.name,
    status: missing.length === 0 ? 'already' : 'would be mended',
    statements: [
      ...(losesRows(missing) ? mendStatements(resolved, source.name, missing) : []),
      ...(missing.some(({ loses }) => loses === 'nothing') ? await indexStatements(db, source) : []),
    ],
    rolesLeftOut: await missingRoles(db, readersOf(rollup)),
  };
}

const readersOf = ({ readers }: Rollup): readonly string[] => [
  ...readers.all,
  ...readers.some.flatMap(({ roles }) => roles),
];

const losesRows = (missing: readonly MissingGuard[]): boolean => missing.some(({ loses }) => loses !== 'nothing');

/**
 * Makes the rollups and views that there are not yet: tables, then, under a lock of the source that gives way, its column and triggers; then the
 * index beside whoever writes; then what there is of before, month by month. Run again, it goes on where it was, and puts back what counts and is gone.
 * @throws AppError ROLLUP_DECLARATION_INVALID, ROLLUP_DIFFERS, ROLLUP_TABLE_MISSING, ROLLUP_BUSY, ROLLUP_TOO_LONG, STOPPED, DB_*
 */
export async function applyRollups(
  pool: Pool,
  declarations: Declarations,
  options: ApplyOptions,
): Promise<readonly AppliedRollup[]> {
  // All before any: a fault of one shows while nothing has been changed.
  const planned = await planRollups(pool, declarations, options);
  const missing = await findMissingGuards(pool);
  const applied: AppliedRollup[] = [];
  for (const [at, rollup] of declarations.rollups.entries()) {
    const plan = planned[at];
    if (plan !== undefined)
      applied.push(
        await applyRollup(pool, declarations, {
          rollup,
          plan,
          missing: missing.filter((each) => each.rollup === rollup.name),
          options,
        }),
      );
  }
  for (const [at, view] of declarations.views.entries()) {
    const plan = planned[declarations.rollups.length + at];
    if (plan !== undefined) applied.push(await applyView(pool, { view, plan, options }));
  }
  return applied;
}

async function applyRollup(
  pool: Pool,
  declarations: Declarations,
  {
    rollup,
    plan,
    missing,
    options,
  }: { rollup: Rollup; plan: AppliedRollup; missing: readonly MissingGuard[]; options: ApplyOptions },
): Promise<AppliedRollup> {
  const before = await stateOf(pool, rollup);
  if (before === 'ready' && plan.status === 'already') return plan;
  const resolved = await resolveRollup(pool, declarations, rollup);
  const { source } = resolved;
  if (before === undefined) await install(pool, resolved, options);
  // As it was before: what is put back for one rollup is there for the next of its source, which lost rows too.
  else if (losesRows(missing)) await mend(pool, resolved, { missing, options });
  const work: IndexWork = { pool, maxTries: options.maxTries, stop: options.stop, onBusy: options.onBusy };
  await buildIndexes(work, source);
  if (before === 'ready') return { ...plan, status: 'mended' };
  await buildRollup(pool, rollup.name, options, before === 'building' ? undefined : { everything: true });
  return { ...plan, status: before === undefined ? 'made' : 'finished' };
}

async function install(
  pool: Pool,
  resolved: Resolved & { readonly source: Found },
  options: ApplyOptions,
): Promise<void> {
  const { rollup, source } = resolved;
  await underLock(pool, { room: 'ROLLUP', what: source.name, ...patienceOf(options) }, async (tx) => {
    await tx.query(tableStatements(resolved).join(';\n'));
    await tx.query(
      `insert into rollups.rollups (name, declaration, sources, state, read_sql, build_sql, settle_sql, clear_sql, forget_sql, wipe_sql)
       values ($1, $2, $3, 'installing', $4, $5, $6, $7, $8, $9)`,
      [
        rollup.name,
        JSON.stringify(rollup),
        resolved.sources,
        ...[readSql, buildSql, settleSql, clearSql, forgetSql, wipeSql].map((make) => make(rollup)),
      ],
    );
    const work = async () => {
      const isFirst = !(await isRecorded(tx, source.name));
      await tx.query(triggerStatements(resolved, source.name, isFirst).join(';\n'));
    };
    return { names: [source.name], locksLater: 0, work };
  });
}

async function mend(
  pool: Pool,
  resolved: Resolved & { readonly source: Found },
  { missing, options }: { missing: readonly MissingGuard[]; options: ApplyOptions },
): Promise<void> {
  const { name } = resolved.source;
  await underLock(pool, { room: 'ROLLUP', what: name, ...patienceOf(options) }, async (tx) => ({
    names: [name],
    locksLater: 0,
    work: () => tx.query(mendStatements(resolved, name, missing).join(';\n')),
  }));
}

/** Whether another rollup has made the column and its trigger already. */
async function isRecorded(db: Queryable, source: string): Promise<boolean> {
  const { rowCount } = await db.query('select from pg_trigger where tgrelid = $1::regclass and tgname = $2', [
    source,
    TRIGGER.recorded,
  ]);
  return rowCount === 1;
}

/** @throws AppError ROLLUP_DIFFERS where it was declared otherwise */
async function stateOf(db: Queryable, rollup: Rollup): Promise<string | undefined> {
  const { rows } = await db.query<{ state: string; isSame: boolean }>(
    'select state, declaration = $2::jsonb as "isSame" from rollups.rollups where name = $1',
    [rollup.name, JSON.stringify(rollup)],
  );
  const [known] = rows;
  if (known?.isSame === false) throw differs(rollup.name);
  return known?.state;
}

const differs = (name: string): AppError =>
  new AppError('ROLLUP_DIFFERS', `${name} was made from another declaration. To make it anew: ${anewOf(name)}.`);

async function planView(db: Queryable, declarations: Declarations, view: RefreshedView): Promise<AppliedRollup> {
  const name = await madeName(db, view);
  const { rows } = await db.query<{ isSame: boolean; isThere: boolean }>(
    'select declaration = $2::jsonb as "isSame", to_regclass(name) is not null as "isThere" from rollups.views where name = $1',
    [name, JSON.stringify(view)],
  );
  const [known] = rows;
  if (known?.isSame === false) throw differs(view.name);
  const rolesLeftOut = await missingRoles(db, view.readers);
  if (known?.isThere === true) return { kind: 'view', name, of: '', status: 'already', statements: [], rolesLeftOut };
  const query = await withTables(db, declarations, view.query);
  const statements = viewStatements(view, query, await existingRoles(db, view.readers));
  return { kind: 'view', name, of: '', status: 'would be made', statements, rolesLeftOut };
}

async function applyView(
  pool: Pool,
  { view, plan, options }: { view: RefreshedView; plan: AppliedRollup; options: ApplyOptions },
): Promise<AppliedRollup> {
  if (plan.status !== 'already') {
    await givingWay(pool, { code: 'ROLLUP_BUSY', what: plan.name, ...patienceOf(options) }, async (tx) => {
      await tx.query(plan.statements.join(';\n'));
      await tx.query(
        `insert into rollups.views (name, declaration, every) values ($1, $2, $3 * interval '1 minute')
         on conflict (name) do update set declaration = excluded.declaration, every = excluded.every`,
        [plan.name, JSON.stringify(view), view.everyMinutes],
      );
    });
  }
  const { rowCount } = await pool.query('select from pg_class where oid = to_regclass($1) and relispopulated', [
    plan.name,
  ]);
  if (rowCount === 1) return plan;
  options.onFill?.(plan.name);
  const { status, error, isNotUnique } = await refreshView(pool, plan.name, { stop: options.stop });
  if (status === 'failed') return { ...plan, status: 'left', left: `${error}; ${viewRemedy(view.name, isNotUnique)}` };
  return { ...plan, status: plan.status === 'already' ? 'finished' : 'made' };
}

const patienceOf = ({ stop, maxTries, onBusy, lockedForAtMostMs }: ApplyOptions) => ({
  stop,
  maxTries,
  onBusy,
  lockedForAtMostMs,
});
