import { givingWay } from '../db/giving-way.ts';
import type { Pool, Queryable } from '../db/pool.ts';
import { type SessionLock, takeSessionLock } from '../db/session-lock.ts';
import { isDependedOn, toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { type Present, presentOn } from './installations.ts';
import type { Machine } from './machine.ts';
import {
  createTriggerSql,
  dropTriggerSql,
  fingerprintOf,
  impliedMoneySql,
  surveySql,
  takingInTrigger,
  triggersOf,
} from './sql/install-sql.ts';
import { identifier, literal } from './sql/literals.ts';
import { getMachineTable, type MachineTable } from './table.ts';
import { byLabel, countLeft, type InstallWatch, type Mapped, takeRowsIn, takingIn } from './take-in.ts';

/** What the states of rows of before imply in their accounts, and no account has yet. */
interface Implied {
  readonly currency: string;
  readonly rows: number;
  readonly amountCents: bigint;
}

export interface Installed {
  /** `repaired`: it was on the table, and a trigger of it was gone, off, or of another declaration. */
  readonly status: 'installed' | 'repaired' | 'already';
  readonly machine: string;
  readonly table: string;
  /** What was changed in place, by label. */
  readonly mapped: readonly Mapped[];
  /** What is booked with it, by currency. */
  readonly implied: readonly Implied[];
  /** Checks of the old platform that were taken off, by name. */
  readonly dropped: readonly string[];
  /** What runs first, in one transaction; none where it is there. */
  readonly statements: readonly string[];
  /** What runs when every row is taken in. */
  readonly afterwards: readonly string[];
}

export interface Uninstalled {
  readonly status: 'uninstalled' | 'already';
  readonly machine: string;
  /** null: the table is gone. */
  readonly table: string | null;
  /** Accounts that keep money, which nobody watches from then on, and how much, by currency. */
  readonly kept: readonly Implied[];
  /** Checks that were put back; those that rows no longer fit hold for new rows alone. */
  readonly restored: readonly { readonly name: string; readonly holdsForAll: boolean }[];
  readonly statements: readonly string[];
}

const LOCK_PATIENCE_MS = 2_000;

/** What is to be done, of which no row is looked at but for whether it has a state. */
interface Assessed extends Omit<Installed, 'mapped' | 'implied'> {
  readonly on: MachineTable;
  /** How many rows are to be taken in. */
  readonly left: number;
}

/**
 * Whatever would keep `install` from its work, but that the table is in use, and what the work is. Changes nothing.
 * @throws AppError STATE_TABLE_UNSUITABLE, STATE_MACHINE_UNKNOWN where the machine's migration is not applied, DB_*
 */
export async function assessInstall(db: Queryable, machine: Machine, tableName?: string): Promise<Assessed> {
  const present = await presentOn(db, machine);
  const table = await getMachineTable(db, machine, tableName ?? present?.table ?? machine.table);
  if (present !== null && present.table !== null && present.oid !== table.oid) {
    throw new AppError(
      'STATE_TABLE_UNSUITABLE',
      `Machine ${machine.name} is installed on ${present.table} already. Take it off there first: liventix states uninstall ${machine.name}.`,
    );
  }
  const left = await countLeft(db, table);
  const colliding = await findColliding(db, machine, table);
  const isOn = present !== null && table.hasState;
  const isWhole = isOn && colliding.length === 0 && (await findMissingTriggers(db, machine, table.name)).length === 0;
  const isDone = isOn && left === 0;
  const isAlready = isDone && isWhole;
  return {
    status: isAlready ? 'already' : isDone ? 'repaired' : 'installed',
    machine: machine.name,
    table: table.name,
    dropped: colliding.map(({ name }) => name),
    statements: isAlready ? [] : installStatements(machine, table, colliding),
    afterwards: isAlready ? [] : [dropTriggerSql(takingInTrigger(machine, table.name))],
    on: table,
    left,
  };
}

/** What `install` would do, row by row; changes nothing. @throws AppError as `assessInstall` */
export async function planInstall(db: Queryable, machine: Machine, tableName?: string): Promise<Installed> {
  const { on, left, ...assessed } = await assessInstall(db, machine, tableName);
  if (left === 0) return { ...assessed, mapped: [], implied: [] };
  return { ...assessed, mapped: await survey(db, machine, on), implied: await findImplied(db, machine, on) };
}

/**
 * Lets a table go by a machine from now on. First a transaction that gives way to whoever uses the table after 50 ms: the column `state`,
 * which is empty, and the triggers; from then on every change is judged, by old code too. Then the rows of before are taken in, so many a
 * transaction: each gets the state that its old label says, a history that says so, and the money that it implies; nothing else of it
 * changes. Stopped or struck anywhere, it goes on where it was when it is run again.
 * @throws AppError as `assessInstall`; STATE_TABLE_BUSY, STOPPED, STATE_MONEY_KEPT and LEDGER_* where a row's money cannot be booked
 */
export async function install(
  pool: Pool,
  machine: Machine,
  options: InstallWatch & { readonly table?: string | undefined } = {},
): Promise<Installed> {
  const { table: tableName, ...watch } = options;
  const lock = await lockMachine(pool, machine);
  try {
    const { on, left, ...assessed } = await assessInstall(pool, machine, tableName);
    if (assessed.status === 'already') return { ...assessed, mapped: [], implied: [] };
    const implied = left === 0 ? [] : await findImplied(pool, machine, on);
    const run = (statements: readonly string[]) =>
      takingIn(pool, on, watch, async (tx) => {
        for (const statement of statements) await tx.query(statement);
      });
    await run(assessed.statements);
    const mapped = await takeRowsIn(pool, machine, on, watch, lock.assertHeld);
    await run(assessed.afterwards);
    return { ...assessed, mapped, implied };
  } finally {
    await lock.release();
  }
}

/** What `uninstall` would do; changes nothing. @throws AppError DB_* */
export async function planUninstall(db: Queryable, machine: Machine): Promise<Uninstalled> {
  const present = await presentOn(db, machine);
  const { name } = machine;
  if (present === null)
    return { status: 'already', machine: name, table: null, kept: [], restored: [], statements: [] };
  return {
    status: 'uninstalled',
    machine: name,
    table: present.table,
    kept: await findKept(db, machine),
    restored:
      present.table === null ? [] : Object.keys(present.dropped).map((check) => ({ name: check, holdsForAll: false })),
    statements: uninstallStatements(machine, present),
  };
}

/**
 * Undoes `install`: the column and the triggers go, the checks of the old platform come back, and old labels stay as they are. What
 * happened stays in the history, and what was booked in the books: installed again, each row goes on from the state that its history ends
 * in, where its label may still stand for that.
 * @throws AppError STATE_TABLE_BUSY, STATE_TABLE_UNSUITABLE where a view reads the column, DB_*
 */
export async function uninstall(pool: Pool, machine: Machine, watch: InstallWatch = {}): Promise<Uninstalled> {
  const lock = await lockMachine(pool, machine);
  try {
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
  } catch (error) {
    if (!isDependedOn(error instanceof AppError ? error.cause : error)) throw error;
    throw new AppError(
      'STATE_TABLE_UNSUITABLE',
      `Something stands on the column state of ${machine.name}'s table: ${toAppError(error).details?.['detail'] ?? 'a view, perhaps'}. Drop that first.`,
      { cause: error },
    );
  } finally {
    await lock.release();
  }
}

/** Two who put a machine on, or take it off, take turns; one of them is told so. */
function lockMachine(pool: Pool, { name }: Machine): Promise<SessionLock> {
  return takeSessionLock(pool, {
    name: `liventix.states.${name}`,
    number: 0,
    patienceMs: LOCK_PATIENCE_MS,
    taken: (cause) =>
      new AppError(
        'STATE_TABLE_BUSY',
        `Another run installs ${name}, or takes it off. Run it again when that has ended.`,
        { cause },
      ),
  });
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
  return [
    `alter table ${table.name} add column if not exists state states.${name}_state`,
    `comment on column ${table.name}.state is ${literal(`Machine ${name}: see docs/states/${name}.md. Changed along its edges alone.`)}`,
    ...colliding.map((check) => `alter table ${table.name} drop constraint ${identifier(check.name)}`),
    `update states.machines set relation = ${literal(table.name)}::regclass, installed_at = coalesce(installed_at, clock_timestamp()), dropped_constraints = dropped_constraints || ${literal(dropped)} where name = ${literal(name)}`,
    ...triggersOf(machine, table.name).flatMap(createTriggerSql),
    ...(machine.old === undefined ? [] : createTriggerSql(takingInTrigger(machine, table.name))),
  ];
}

function uninstallStatements(machine: Machine, { table, dropped }: Present): readonly string[] {
  const triggers = [...triggersOf(machine, table ?? ''), takingInTrigger(machine, table ?? '')];
  // Of a table that is gone, what the ledger has of the machine is left.
  const left = table === null ? triggers.filter((trigger) => trigger.table.startsWith('payments.')) : triggers;
  const checks = table === null ? [] : Object.entries(dropped);
  return [
    ...left.map(dropTriggerSql),
    ...(table === null ? [] : [`alter table ${table} drop column if exists state`]),
    ...checks.map(
      ([name, definition]) =>
        `alter table ${table} add constraint ${identifier(name)} ${definition.replace(/ NOT VALID$/, '')} not valid`,
    ),
    `update states.machines set relation = null, installed_at = null, dropped_constraints = '{}' where name = ${literal(machine.name)}`,
  ];
}

async function survey(db: Queryable, machine: Machine, table: MachineTable): Promise<readonly Mapped[]> {
  const { rows } = await db.query<{ label: string | null; state: string; rows: bigint }>(surveySql(machine, table));
  return rows.map((row) => ({ ...row, rows: Number(row.rows) })).sort(byLabel);
}

async function findImplied(db: Queryable, machine: Machine, table: MachineTable): Promise<readonly Implied[]> {
  const sql = impliedMoneySql(machine, table);
  if (sql === undefined) return [];
  return amountsOf(db, sql, []);
}

async function amountsOf(db: Queryable, sql: string, values: readonly unknown[]): Promise<readonly Implied[]> {
  const { rows } = await db.query<{ currency: string; rows: bigint; amountCents: bigint }>(sql, [...values]);
  return rows.map((row) => ({ ...row, rows: Number(row.rows) }));
}

/** What the accounts have that the machine opened for its rows. */
function findKept(db: Queryable, { name, money }: Machine): Promise<readonly Implied[]> {
  return amountsOf(
    db,
    `select b.currency, count(*) as rows, sum(b.balance_cents)::bigint as "amountCents"
     from states.ledger_events l
     join payments.account_balances b on b.account_id = l.event_id and b.book_id = 1
     where l.machine = $1 and b.type = $2 and b.balance_cents <> 0
     group by b.currency
     order by b.currency`,
    [name, money?.kept && money.accounts[money.kept.account]?.type],
  );
}

/** Triggers that are gone, switched off, or of another declaration, by name. */
export async function findMissingTriggers(db: Queryable, machine: Machine, table: string): Promise<readonly string[]> {
  const wanted = triggersOf(machine, table);
  const { rows } = await db.query<{ name: string }>(
    `select w.name
     from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality as w (name, relation, function, fingerprint, nth)
     where not exists (
       select from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
       join pg_class c on c.oid = t.tgrelid join pg_namespace o on o.oid = c.relnamespace
       -- By its name as text: who may not look into a schema cannot have one of its names resolved.
       where format('%I.%I', o.nspname, c.relname) = w.relation and t.tgname = w.name and t.tgenabled = 'A'
         and n.nspname || '.' || p.proname = w.function and obj_description(t.oid, 'pg_trigger') = w.fingerprint)
     order by w.nth`,
    [
      wanted.map(({ name }) => name),
      wanted.map((each) => each.table),
      wanted.map(({ runs }) => runs.split('(')[0]),
      wanted.map(fingerprintOf),
    ],
  );
  return rows.map(({ name }) => name);
}

async function validates(pool: Pool, table: string, constraint: string): Promise<boolean> {
  try {
    await pool.query(`alter table ${table} validate constraint ${identifier(constraint)}`);
    return true;
  } catch (error) {
    const failure = toAppError(error);
    if (failure.details?.['sqlstate'] === '23514') return false;
    throw failure;
  }
}
