import { givingWay } from '../db/giving-way.ts';
import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { takeSessionLock } from '../db/session-lock.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import type { Machine } from './machine.ts';
import { createTriggerSql, dropTriggerSql, surveySql, takingInTrigger, triggersOf } from './sql/install-sql.ts';
import { getMachineTable, type MachineTable } from './table.ts';

export interface InstallWatch {
  readonly stop?: AbortSignal | undefined;
  /** Told how often the table was not free. */
  readonly onBusy?: ((tries: number) => void) | undefined;
  /** Told how many rows have been taken in, of how many. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** Rows of one old label, and the state that they have now. */
export interface Mapped {
  /** null: the column was null. */
  readonly label: string | null;
  readonly state: string;
  readonly rows: number;
}

export interface Installed {
  readonly status: 'installed' | 'already';
  readonly machine: string;
  readonly table: string;
  /** What was changed in place, by label. */
  readonly mapped: readonly Mapped[];
  /** Checks of the old platform that were taken off, by name. */
  readonly dropped: readonly string[];
  readonly statements: readonly string[];
}

export interface Uninstalled {
  readonly status: 'uninstalled' | 'already';
  readonly machine: string;
  readonly table: string | null;
  /** Checks that were put back; those that rows no longer fit hold for new rows alone. */
  readonly restored: readonly { readonly name: string; readonly holdsForAll: boolean }[];
  readonly statements: readonly string[];
}

const ROWS_A_BATCH = 500;
const LOCK_PATIENCE_MS = 2_000;

/**
 * What `install` would do; changes nothing.
 * @throws AppError STATE_TABLE_UNSUITABLE, STATE_MACHINE_UNKNOWN where the machine's migration is not applied, DB_*
 */
export async function planInstall(db: Queryable, machine: Machine, tableName = machine.table): Promise<Installed> {
  const table = await getMachineTable(db, machine, tableName);
  const present = await findInstallation(db, machine);
  if (present !== null && present.oid !== table.oid) {
    throw new AppError(
      'STATE_TABLE_UNSUITABLE',
      `Machine ${machine.name} is installed on ${present.table} already. Take it off there first: liventix states uninstall ${machine.name}.`,
    );
  }
  const isWhole =
    present !== null && table.hasState && (await findMissingTriggers(db, machine, table.name)).length === 0;
  const left = isWhole ? await countLeft(db, table) : undefined;
  const colliding = await findColliding(db, machine, table);
  return {
    status: left === 0 ? 'already' : 'installed',
    machine: machine.name,
    table: table.name,
    mapped: left === 0 ? [] : await survey(db, machine, table),
    dropped: colliding.map(({ name }) => name),
    statements: isWhole ? [] : installStatements(machine, table, colliding),
  };
}

/**
 * Lets a table go by a machine from now on. First a transaction that gives way to whoever uses the table after 50 ms: the column `state`,
 * which is empty, and the triggers; from then on every change is judged, by old code too. Then the rows of before are taken in, so many a
 * transaction: each gets the state that its old label says, a history that says so, and the money that it implies; nothing else of it
 * changes. Stopped or struck anywhere, it goes on where it was when it is run again.
 * @throws AppError as `planInstall`; STATE_TABLE_BUSY, STOPPED, STATE_MONEY_KEPT and LEDGER_* where a row's money cannot be booked
 */
export async function install(
  pool: Pool,
  machine: Machine,
  options: InstallWatch & { readonly table?: string | undefined } = {},
): Promise<Installed> {
  const { table: tableName, ...watch } = options;
  const lock = await takeSessionLock(pool, {
    name: `liventix.states.${machine.name}`,
    number: 0,
    patienceMs: LOCK_PATIENCE_MS,
    taken: (cause) =>
      new AppError(
        'STATE_TABLE_BUSY',
        `Another run installs ${machine.name}, or takes it off. Run it again when that has ended.`,
        { cause },
      ),
  });
  try {
    const planned = await planInstall(pool, machine, tableName);
    const table = await getMachineTable(pool, machine, tableName ?? machine.table);
    if (planned.statements.length > 0) await putOn(pool, machine, table, planned.statements, watch);
    const done = await takeRowsIn(pool, machine, table, watch, lock.assertHeld);
    await takingIn(pool, table, watch, (tx) => tx.query(dropTriggerSql(takingInTrigger(machine, table.name))));
    return { ...planned, mapped: planned.status === 'already' ? [] : done };
  } finally {
    await lock.release();
  }
}

/** What `uninstall` would do; changes nothing. @throws AppError DB_* */
export async function planUninstall(db: Queryable, machine: Machine): Promise<Uninstalled> {
  const present = await findInstallation(db, machine);
  if (present === null) return { status: 'already', machine: machine.name, table: null, restored: [], statements: [] };
  return {
    status: 'uninstalled',
    machine: machine.name,
    table: present.table,
    restored: Object.keys(present.dropped).map((name) => ({ name, holdsForAll: false })),
    statements: uninstallStatements(machine, present),
  };
}

/**
 * Undoes `install`: the column and the triggers go, the checks of the old platform come back, and old labels stay as they are. What
 * happened stays in the history, and what was booked in the books: installed again, it goes on from there.
 * @throws AppError STATE_TABLE_BUSY, DB_*
 */
export async function uninstall(pool: Pool, machine: Machine, watch: InstallWatch = {}): Promise<Uninstalled> {
  const what = `The table of ${machine.name}`;
  const planned = await givingWay(pool, { ...watch, code: 'STATE_TABLE_BUSY', what }, async (tx) => {
    const plan = await planUninstall(tx, machine);
    for (const statement of plan.statements) await tx.query(statement);
    return plan;
  });
  const restored: Uninstalled['restored'][number][] = [];
  for (const { name } of planned.restored) {
    restored.push({ name, holdsForAll: await validates(pool, planned.table ?? '', name) });
  }
  return { ...planned, restored };
}

interface Installation {
  readonly oid: string;
  readonly table: string;
  /** Definitions of the checks that were taken off, by name. */
  readonly dropped: Readonly<Record<string, string>>;
}

/** @throws AppError STATE_MACHINE_UNKNOWN */
async function findInstallation(db: Queryable, { name }: Machine): Promise<Installation | null> {
  const { rows } = await db.query<{ oid: string | null; table: string | null; dropped: Record<string, string> }>(
    `select c.oid::text as oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) as "table", m.dropped_constraints as dropped
     from states.machines m
     left join (pg_class c join pg_namespace n on n.oid = c.relnamespace) on c.oid = m.relation
     where m.name = $1`,
    [name],
  );
  const [found] = rows;
  if (found === undefined) {
    throw new AppError('STATE_MACHINE_UNKNOWN', `The database has no machine ${name} yet. Run: liventix migrate`);
  }
  return found.oid === null || found.table === null
    ? null
    : { oid: found.oid, table: found.table, dropped: found.dropped };
}

interface Check {
  readonly name: string;
  readonly definition: string;
}

async function findColliding(db: Queryable, { old }: Machine, { oid }: MachineTable): Promise<readonly Check[]> {
  const { rows } = await db.query<Check>(
    `select conname as name, pg_get_constraintdef(oid) as definition from pg_constraint
     where conrelid = $1::oid and contype = 'c' and conname = any ($2)
     order by conname`,
    [oid, old?.colliding ?? []],
  );
  return rows;
}

function installStatements(machine: Machine, table: MachineTable, colliding: readonly Check[]): readonly string[] {
  const { name } = machine;
  const dropped = JSON.stringify(Object.fromEntries(colliding.map((check) => [check.name, check.definition])));
  const quoted = (text: string) => `'${text.replaceAll("'", "''")}'`;
  return [
    `alter table ${table.name} add column if not exists state states.${name}_state`,
    ...colliding.map((check) => `alter table ${table.name} drop constraint "${check.name}"`),
    `update states.machines set relation = ${quoted(table.name)}::regclass, dropped_constraints = dropped_constraints || ${quoted(dropped)} where name = ${quoted(name)}`,
    ...triggersOf(machine, table.name).flatMap(createTriggerSql),
    ...(machine.old === undefined ? [] : createTriggerSql(takingInTrigger(machine, table.name))),
  ];
}

function uninstallStatements(machine: Machine, { table, dropped }: Installation): readonly string[] {
  return [
    ...[...triggersOf(machine, table), takingInTrigger(machine, table)].map(dropTriggerSql),
    `alter table ${table} drop column if exists state`,
    ...Object.entries(dropped).map(
      ([name, definition]) =>
        `alter table ${table} add constraint "${name}" ${definition.replace(/ NOT VALID$/, '')} not valid`,
    ),
    `update states.machines set relation = null, dropped_constraints = '{}' where name = '${machine.name}'`,
  ];
}

async function putOn(
  pool: Pool,
  machine: Machine,
  table: MachineTable,
  statements: readonly string[],
  watch: InstallWatch,
): Promise<void> {
  await givingWay(pool, { ...watch, code: 'STATE_TABLE_BUSY', what: table.name }, async (tx) => {
    for (const statement of statements) await tx.query(statement);
    await tx.query(
      `comment on column ${table.name}.state is 'Machine ${machine.name}: see docs/states/${machine.name}.md. Changed along its edges alone.'`,
    );
  });
}

/** Takes in whatever has no state yet, in the order of ids. Answers what was mapped, label by label. */
async function takeRowsIn(
  pool: Pool,
  machine: Machine,
  table: MachineTable,
  watch: InstallWatch,
  assertAlone: () => void,
): Promise<readonly Mapped[]> {
  const total = await countLeft(pool, table);
  const counts = new Map<string, Mapped>();
  let done = 0;
  for (let after = FIRST_ID; ; ) {
    assertAlone();
    if (watch.stop?.aborted) throw stopped(table, done, total);
    const batch = await takingIn(pool, table, watch, (tx) => takeBatchIn(tx, machine, table, after));
    if (batch === undefined) return [...counts.values()].sort(byLabel);
    for (const { label, state, rows } of batch.mapped) {
      const key = JSON.stringify([label, state]);
      counts.set(key, { label, state, rows: rows + (counts.get(key)?.rows ?? 0) });
      done += rows;
    }
    after = batch.last;
    watch.onProgress?.(done, total);
  }
}

const FIRST_ID = '00000000-0000-0000-0000-000000000000';

const takingIn = <T>(
  pool: Pool,
  { name }: MachineTable,
  watch: InstallWatch,
  work: (tx: Tx) => Promise<T>,
): Promise<T> =>
  givingWay(pool, { ...watch, code: 'STATE_TABLE_BUSY', what: name, left: 'What was taken in is kept.' }, work);

const stopped = ({ name }: MachineTable, done: number, total: number): AppError =>
  new AppError('STOPPED', `Stopped: ${done} of ${total} rows of ${name} were taken in. Run it again to go on.`);

/** Undefined where there is none left behind an id. Whoever inserts meanwhile gives his rows a state himself. */
async function takeBatchIn(
  tx: Tx,
  { name, old }: Machine,
  table: MachineTable,
  after: string,
): Promise<{ mapped: readonly Mapped[]; last: string } | undefined> {
  const label = old === undefined ? 'null::text' : `t.${old.column}::text`;
  const { rows } = await tx.query<{ label: string | null; state: string; rows: bigint; last: string }>(
    `with batch as materialized (
       select t.id, states.adopted_state('${name}', t) as state from ${table.name} t
       where t.id >= $1 and t.state is null
       order by t.id
       limit ${ROWS_A_BATCH}
     ), taken as (
       update ${table.name} t set state = b.state::states.${name}_state
       from batch b
       where t.id = b.id and t.state is null
       returning ${label} as label, t.state::text as state
     )
     select label, state, count(*) as rows, (select max(b.id::text) from batch b) as last from taken group by label, state`,
    [after],
  );
  const [first] = rows;
  return (
    first && {
      mapped: rows.map(({ label: was, state, rows: count }) => ({ label: was, state, rows: Number(count) })),
      last: first.last,
    }
  );
}

async function countLeft(db: Queryable, { name, hasState }: MachineTable): Promise<number> {
  const { rows } = await db.query<{ left: bigint }>(
    `select count(*) as left from ${name}${hasState ? ' where state is null' : ''}`,
  );
  return Number(rows[0]?.left ?? 0n);
}

async function survey(db: Queryable, machine: Machine, table: MachineTable): Promise<readonly Mapped[]> {
  const { rows } = await db.query<{ label: string | null; state: string; rows: bigint }>(surveySql(machine, table));
  return rows.map((row) => ({ ...row, rows: Number(row.rows) }));
}

/** Triggers that are gone or switched off, by name. */
export async function findMissingTriggers(db: Queryable, machine: Machine, table: string): Promise<readonly string[]> {
  const wanted = triggersOf(machine, table);
  const { rows } = await db.query<{ name: string }>(
    `select w.name
     from unnest($1::text[], $2::text[], $3::text[]) with ordinality as w (name, relation, function, nth)
     where not exists (
       select from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
       where t.tgrelid = to_regclass(w.relation) and t.tgname = w.name and t.tgenabled = 'A'
         and n.nspname || '.' || p.proname = w.function)
     order by w.nth`,
    [wanted.map(({ name }) => name), wanted.map((each) => each.table), wanted.map(({ runs }) => runs.split('(')[0])],
  );
  return rows.map(({ name }) => name);
}

async function validates(pool: Pool, table: string, constraint: string): Promise<boolean> {
  try {
    await pool.query(`alter table ${table} validate constraint "${constraint}"`);
    return true;
  } catch (error) {
    const failure = toAppError(error);
    if (failure.details?.['sqlstate'] === '23514') return false;
    throw failure;
  }
}

const byLabel = (one: Mapped, other: Mapped) =>
  `${one.label} ${one.state}` < `${other.label} ${other.state}` ? -1 : 1;
