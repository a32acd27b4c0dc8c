import { readFile } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import pg from 'pg';
import { expect } from 'vitest';
import { connectionConfig, type Queryable } from '../../src/db/pool.ts';
import type { TestDatabase } from './database.ts';
import { eventually } from './eventually.ts';
import { createLegacyTestDatabase } from './legacy.ts';

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
export type Row = { readonly [column: string]: Json };
type Role = 'anon' | 'authenticated' | 'service_role';
type ByTable<T> = { readonly [table: string]: T };

/** The facts about one of the functions: `wallet-function-cases.json` is a list of them. */
export interface WalletFunction {
  readonly name: string;
  readonly args: readonly { readonly name: string; readonly type: string; readonly default?: string | number | null }[];
  readonly returns: {
    readonly kind: 'value' | 'rows' | 'void';
    readonly type?: string;
    readonly columns?: readonly { readonly name: string; readonly type: string }[];
  };
  readonly executable_by: readonly Role[];
  readonly cases: readonly WalletFunctionCase[];
}

/**
 * What is there, what is called, and what comes of it: `changes` where the functions do as they did, `should_be` where
 * they do better. `<id 1>` is an id that is made, the same name the same id; `<now>` the time of a call's transaction;
 * `<now - 40 days>` that long before `given` was inserted.
 */
export interface WalletFunctionCase {
  readonly id: string;
  readonly title: string;
  readonly given: ByTable<readonly Row[]>;
  /** One after the other, each in its own transaction; two `concurrent` ones overlap. */
  readonly calls: readonly Call[];
  readonly concurrent?: boolean;
  readonly changes?: ByTable<Partial<Changes>>;
  readonly should?: string;
  readonly should_be?: ShouldBe;
}

interface Call {
  readonly function?: string;
  readonly args?: Row;
  /** In place of a function. */
  readonly insert?: { readonly table: string; readonly row: Row };
  readonly role: Role;
  readonly claims: Row;
  readonly result?: Json;
  readonly error?: { readonly sqlstate: string; readonly message: string };
  /** Beside the error that is named, 42501 is right as well. */
  readonly refusal_is_right_too?: boolean;
  readonly waited?: boolean;
}

interface ShouldBe {
  /** Per call: a value, `{error: code or "any"}`, `{one_of: […]}`, `"<any success>"`. */
  readonly results?: readonly Json[];
  /** By table, id and column. */
  readonly final?: ByTable<{ readonly [id: string]: Row }>;
  readonly final_at_most?: ByTable<{ readonly [id: string]: { readonly [column: string]: number } }>;
  readonly new_rows?: ByTable<number>;
  readonly nothing_changes?: boolean;
}

interface Changes {
  readonly inserted: readonly Row[];
  readonly updated: readonly { readonly id: string; readonly before: Row; readonly after: Row }[];
  readonly deleted: readonly Row[];
}

type Outcome = { readonly answer: Json } | { readonly error: { readonly sqlstate: string; readonly message: string } };

/** What was seen of a case. */
export interface CaseRun {
  readonly outcomes: readonly Outcome[];
  /** Whether the second of two concurrent calls waited for the first. */
  readonly hasWaited: boolean | undefined;
  readonly before: Tables;
  readonly after: Tables;
  readonly instants: Instants;
}

type Tables = ReadonlyMap<string, readonly Row[]>;

interface Instants {
  /** What `<now - 40 days>` and the like stood for. */
  readonly given: ReadonlyMap<string, string>;
  readonly calls: readonly string[];
}

/** In the order in which `given` is inserted: whatever refers to a table comes after it. */
const GIVEN_TABLES = [
  'auth.users',
  'organizations',
  'org_memberships',
  'wallets',
  'org_wallets',
  'invoices',
  'wallet_transactions',
  'org_wallet_transactions',
  'credit_lots',
  'dead_letter_webhooks',
];
const TABLES = [...GIVEN_TABLES, 'user_profiles', 'ad_spend_ledger'];

const qualified = (table: string): string => (table.includes('.') ? table : `public.${table}`);

const FUNCTIONS_SQL = new URL('../../compat/wallet-functions.sql', import.meta.url);
const DEAD_LETTERS_SQL = new URL('../../fixtures/legacy/dead-letters.sql', import.meta.url);

export const walletFunctionsSql = (): Promise<string> => readFile(FUNCTIONS_SQL, 'utf8');

/** A migrated database with the empty legacy tables, dead letters among them, and the functions in their new form. */
export async function createWalletFunctionsDatabase(): Promise<TestDatabase> {
  const database = await createLegacyTestDatabase(undefined, { isCaptured: false });
  await database.pool.query(await readFile(DEAD_LETTERS_SQL, 'utf8'));
  await database.pool.query(await walletFunctionsSql());
  return database;
}

interface CaseHooks {
  afterEmptied?(): Promise<void>;
  afterGiven?(): Promise<void>;
}

export interface CaseRunner {
  /**
   * Runs a case on tables that it empties first.
   * @param hooks.afterEmptied called when nothing is there any more
   * @param hooks.afterGiven called when `given` is there, before anything is called
   */
  run(theCase: WalletFunctionCase, hooks?: CaseHooks): Promise<CaseRun>;
  close(): Promise<void>;
}

/** Keeps two connections open that can take any role. */
export async function openCaseRunner(
  database: TestDatabase,
  functions: readonly WalletFunction[],
): Promise<CaseRunner> {
  const open = () => new pg.Client(connectionConfig({ databaseUrl: database.adminUrl }));
  const [first, second] = [open(), open()];
  await Promise.all([first.connect(), second.connect()]);
  const callOf = (call: Call) => ({ ...call, ...statementOf(call, functions) });

  return {
    run: async (theCase, hooks) => {
      await database.pool.query(
        [...TABLES]
          .reverse()
          .map((table) => `delete from ${qualified(table)}`)
          .join(';'),
      );
      await hooks?.afterEmptied?.();
      const given = await insertGiven(database.pool, theCase.given);
      await hooks?.afterGiven?.();
      const before = await readTables(database.pool);
      const calls = theCase.calls.map(callOf);
      const { ran, hasWaited } = theCase.concurrent
        ? await callAtOnce(database.pool, [first, second], calls)
        : { ran: await callInTurn(first, calls), hasWaited: undefined };
      return {
        outcomes: ran.map(({ outcome }) => outcome),
        hasWaited,
        before,
        after: await readTables(database.pool),
        instants: { given, calls: ran.map(({ now }) => now) },
      };
    },
    close: async () => {
      await Promise.all([first.end(), second.end()]);
    },
  };
}

// -------------------------------------------------------------------------------------------------------- running

/** All in one transaction. Answers what each placeholder of an instant stood for. */
async function insertGiven(pool: TestDatabase['pool'], given: ByTable<readonly Row[]>): Promise<Map<string, string>> {
  const tx = await pool.connect();
  try {
    await tx.query('begin');
    const instants = await instantsOf(tx, given);
    for (const table of GIVEN_TABLES) {
      for (const row of given[table] ?? []) {
        const entries = Object.entries(row).map(([column, value]) => [column, instants.get(String(value)) ?? value]);
        const { text, values } = insertion(table, Object.fromEntries(entries));
        await tx.query(text, values);
      }
    }
    await tx.query('commit');
    return instants;
  } finally {
    tx.release();
  }
}

async function instantsOf(db: Queryable, given: ByTable<readonly Row[]>): Promise<Map<string, string>> {
  const names = [...new Set(JSON.stringify(given).match(/<now - [^>]+>/g))];
  const { rows } = await db.query<{ name: string; instant: string }>(
    `select name, to_jsonb(now() - substring(name from '<now - (.*)>')::interval) #>> '{}' as instant
     from unnest($1::text[]) as name
     union all select '<given time>', to_jsonb(now()) #>> '{}'`,
    [names],
  );
  return new Map(rows.map(({ name, instant }) => [name, instant]));
}

interface Statement {
  readonly text: string;
  readonly values: unknown[];
  readonly answersRows: boolean;
}

/** What the row leaves out takes its default. */
function insertion(table: string, row: Row): Statement {
  const columns = Object.keys(row).join(', ');
  return {
    text: `insert into ${qualified(table)} (${columns})
      select ${columns} from jsonb_populate_record(null::${qualified(table)}, $1)`,
    values: [JSON.stringify(row)],
    answersRows: false,
  };
}

function statementOf(call: Call, functions: readonly WalletFunction[]): Statement {
  if (call.insert !== undefined) return insertion(call.insert.table, call.insert.row);
  const called = functions.find(({ name }) => name === call.function);
  if (called === undefined) throw new Error(`no facts about ${call.function}`);
  const args = Object.entries(call.args ?? {});
  const named = args.map(([name], index) => {
    const type = called.args.find((arg) => arg.name === name)?.type;
    return `${name} => $${index + 1}::${type}`;
  });
  const invocation = `public.${called.name}(${named.join(', ')})`;
  return {
    text: {
      rows: `select to_jsonb(r) as answer from (select * from ${invocation}) r`,
      value: `select to_jsonb(${invocation}) as answer`,
      void: `select from ${invocation}`,
    }[called.returns.kind],
    values: args.map(([, value]) => (typeof value === 'object' && value !== null ? JSON.stringify(value) : value)),
    answersRows: called.returns.kind === 'rows',
  };
}

type CallStatement = Call & Statement;
interface Ran {
  readonly outcome: Outcome;
  readonly now: string;
}

async function callInTurn(client: pg.Client, calls: readonly CallStatement[]): Promise<Ran[]> {
  const ran: Ran[] = [];
  for (const call of calls) {
    const { now } = await begin(client, call);
    const outcome = await attempt(client, call);
    await end(client, outcome);
    ran.push({ outcome, now });
  }
  return ran;
}

/** The second call starts when the first has returned, which commits when the second has returned or waits for it. */
async function callAtOnce(
  pool: Queryable,
  [one, other]: readonly [pg.Client, pg.Client],
  [first, second]: readonly CallStatement[],
): Promise<{ ran: Ran[]; hasWaited: boolean }> {
  if (first === undefined || second === undefined) throw new Error('a concurrent case has two calls');
  const { now } = await begin(one, first);
  const outcome = await attempt(one, first);
  const { now: otherNow, pid } = await begin(other, second);
  let isDone = false;
  const pending = attempt(other, second).finally(() => {
    isDone = true;
  });
  const state = await eventually('the second call returns or waits', async () => {
    const { rowCount } = await pool.query('select where cardinality(pg_blocking_pids($1)) > 0', [pid]);
    if (isDone) return 'done';
    return rowCount === 1 && 'waiting';
  });
  await end(one, outcome);
  const otherOutcome = await pending;
  await end(other, otherOutcome);
  return {
    ran: [
      { outcome, now },
      { outcome: otherOutcome, now: otherNow },
    ],
    hasWaited: state === 'waiting',
  };
}

async function begin(client: pg.Client, { role, claims }: Call): Promise<{ now: string; pid: number }> {
  await client.query('begin');
  const { rows } = await client.query<{ now: string; pid: number }>(
    `select set_config('request.jwt.claims', $1, true), set_config('role', $2, true),
       to_jsonb(now()) #>> '{}' as now, pg_backend_pid() as pid`,
    [JSON.stringify(claims), role],
  );
  return rows[0] ?? { now: '', pid: 0 };
}

async function attempt(client: pg.Client, call: CallStatement): Promise<Outcome> {
  try {
    const { rows } = await client.query<{ answer?: Json }>(call.text, call.values);
    const answers = rows.map(({ answer }) => answer ?? null);
    return { answer: call.answersRows ? answers : (answers[0] ?? null) };
  } catch (error) {
    if (!(error instanceof pg.DatabaseError)) throw error;
    return { error: { sqlstate: error.code ?? '', message: error.message } };
  }
}

const end = (client: pg.Client, outcome: Outcome) => client.query('error' in outcome ? 'rollback' : 'commit');

async function readTables(db: Queryable): Promise<Tables> {
  const { rows } = await db.query<{ name: string; rows: Row[] }>(
    TABLES.map(
      (table) =>
        `select '${table}' as name, coalesce(jsonb_agg(to_jsonb(t) order by t.created_at), '[]') as rows
         from ${qualified(table)} t`,
    ).join(' union all '),
  );
  return new Map(rows.map(({ name, rows: found }) => [name, found]));
}

// --------------------------------------------------------------------------------------------------------- judging

/** Fails unless what was seen of a case is what its facts promise. */
export function expectAsPromised(theCase: WalletFunctionCase, run: CaseRun): void {
  const placeholders = new Placeholders(run.instants);
  const changes = changesOf(run.before, run.after);
  for (const { waited } of theCase.calls) {
    if (waited !== undefined) expect({ waited: run.hasWaited }).toEqual({ waited });
  }
  if (theCase.should_be !== undefined) {
    expectAsItShouldBe(theCase.should_be, { run, changes, placeholders });
    return;
  }
  theCase.calls.forEach((call, index) => {
    expectOutcome(expectationOf(call), run.outcomes[index], placeholders);
  });
  const expected = Object.entries(theCase.changes ?? {}).map(
    ([table, change]) => [table, withoutStamps(change)] as const,
  );
  const resolved = placeholders.resolve(
    Object.fromEntries(expected.filter(([, change]) => hasChange(change))) as unknown as Json,
    changes as unknown as Json,
  );
  expect(changes).toEqual(resolved);
}

function expectAsItShouldBe(
  shouldBe: ShouldBe,
  { run, changes, placeholders }: { run: CaseRun; changes: ByTable<Partial<Changes>>; placeholders: Placeholders },
): void {
  shouldBe.results?.forEach((result, index) => {
    expectOutcome(result, run.outcomes[index], placeholders);
  });
  if (shouldBe.nothing_changes) expect(changes).toEqual({});
  for (const [table, rows] of Object.entries(shouldBe.final ?? {})) {
    for (const [id, columns] of Object.entries(rows)) expect(rowOf(run.after, table, id)).toMatchObject(columns);
  }
  for (const [table, rows] of Object.entries(shouldBe.final_at_most ?? {})) {
    for (const [id, columns] of Object.entries(rows)) {
      for (const [column, bound] of Object.entries(columns)) {
        expect(rowOf(run.after, table, id)[column]).toBeLessThanOrEqual(bound);
      }
    }
  }
  for (const [table, count] of Object.entries(shouldBe.new_rows ?? {})) {
    expect([table, rowsOf(run.after, table).length - rowsOf(run.before, table).length]).toEqual([table, count]);
  }
}

const rowsOf = (tables: Tables, table: string): readonly Row[] => tables.get(table) ?? [];

function rowOf(tables: Tables, table: string, id: string): Row {
  const row = rowsOf(tables, table).find((candidate) => candidate['id'] === id);
  if (row === undefined) throw new Error(`${table} has no row ${id}`);
  return row;
}

/** In place of a constraint's error any refusal is right; what a function says itself stays, and so do other codes. */
function expectationOf(call: Call): Json {
  if (call.error === undefined) return call.result ?? null;
  const { sqlstate, message } = call.error;
  if (/^2[23]/.test(sqlstate)) return { error: 'any' };
  const expected = sqlstate === 'P0001' ? { error: sqlstate, message } : { error: sqlstate };
  return call.refusal_is_right_too ? { one_of: [expected, { error: '42501' }] } : expected;
}

function expectOutcome(expected: Json, outcome: Outcome | undefined, placeholders: Placeholders): void {
  if (outcome !== undefined && fits(expected, outcome, placeholders)) return;
  expect(outcome).toEqual(expected);
  expect.fail(`expected ${JSON.stringify(expected)}, got ${JSON.stringify(outcome)}`);
}

function fits(expected: Json, outcome: Outcome, placeholders: Placeholders): boolean {
  if (isRow(expected) && Array.isArray(expected['one_of'])) {
    return expected['one_of'].some((option) => fits(option, outcome, placeholders));
  }
  if (isRow(expected) && typeof expected['error'] === 'string') {
    if (!('error' in outcome)) return false;
    const { sqlstate, message } = outcome.error;
    const { error: code, message: text = message } = expected;
    return (code === 'any' ? REFUSAL.test(sqlstate) : sqlstate === code) && text === message;
  }
  if ('error' in outcome) return false;
  return (
    expected === '<any success>' || isDeepStrictEqual(placeholders.resolve(expected, outcome.answer), outcome.answer)
  );
}

/** Said on purpose, by a constraint, a grant, a function or the ledger; any other error is a defect of the function. */
const REFUSAL = /^(2[23]|P0001|42501|LV)/;

const isRow = (value: Json | undefined): value is Row =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

class Placeholders {
  readonly #ids = new Map<string, string>();
  readonly #instants: Instants;

  constructor(instants: Instants) {
    this.#instants = instants;
  }

  /** The expected with what its placeholders stand for; where that is not what is found, a placeholder stays. */
  resolve(expected: Json, found: Json | undefined): Json {
    if (typeof expected === 'string') return expected.startsWith('<') ? this.#meaning(expected, found) : expected;
    if (Array.isArray(expected)) {
      const others = Array.isArray(found) ? found : [];
      return expected.map((element, index) => this.resolve(element, others[index]));
    }
    if (!isRow(expected)) return expected;
    const other: Row = isRow(found) ? found : {};
    return Object.fromEntries(Object.entries(expected).map(([key, value]) => [key, this.resolve(value, other[key])]));
  }

  #meaning(name: string, found: Json | undefined): Json {
    const given = this.#instants.given.get(name);
    if (given !== undefined) return given;
    if (typeof found !== 'string') return name;
    if (name === '<now>') return this.#instants.calls.includes(found) ? found : name;
    const known = this.#ids.get(name);
    if (known !== undefined) return known;
    if (!UUID.test(found) || [...this.#ids.values()].includes(found)) return name;
    this.#ids.set(name, found);
    return found;
  }
}

function changesOf(before: Tables, after: Tables): ByTable<Partial<Changes>> {
  const changed = TABLES.map((table) => [table, tableChanges(rowsOf(before, table), rowsOf(after, table))] as const);
  return Object.fromEntries(changed.filter(([, change]) => hasChange(change)));
}

/** The key of a row: not every table has an id. */
const keyOf = (row: Row): string => String(row['id'] ?? `${row['org_id']}/${row['user_id']}`);

function tableChanges(before: readonly Row[], after: readonly Row[]): Partial<Changes> {
  const old = new Map(before.map((row) => [keyOf(row), row]));
  const kept = new Set(after.map(keyOf));
  const updated = after.flatMap((row) => {
    const former = old.get(keyOf(row));
    if (former === undefined) return [];
    const columns = Object.keys(row).filter(
      (column) => !isDeepStrictEqual(row[column] ?? null, former[column] ?? null),
    );
    const pick = (from: Row) => Object.fromEntries(columns.map((column) => [column, from[column] ?? null]));
    return [{ id: keyOf(row), before: pick(former), after: pick(row) }];
  });
  return withoutStamps({
    inserted: after.filter((row) => !old.has(keyOf(row))),
    updated,
    deleted: before.filter((row) => !kept.has(keyOf(row))),
  });
}

/** Which `updated_at` moves is nobody's promise; what is empty is left out. */
function withoutStamps({ inserted = [], updated = [], deleted = [] }: Partial<Changes>): Partial<Changes> {
  const moved = updated
    .map(({ id, before, after }) => ({ id, before: withoutStamp(before), after: withoutStamp(after) }))
    .filter(({ after }) => Object.keys(after).length > 0)
    .sort((a, b) => (a.id < b.id ? -1 : 1));
  return {
    ...(inserted.length > 0 ? { inserted } : {}),
    ...(moved.length > 0 ? { updated: moved } : {}),
    ...(deleted.length > 0 ? { deleted } : {}),
  };
}

const withoutStamp = (row: Row): Row =>
  Object.fromEntries(Object.entries(row).filter(([column]) => column !== 'updated_at'));

const hasChange = (change: Partial<Changes>): boolean => Object.keys(change).length > 0;
