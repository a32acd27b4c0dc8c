import type { Pool } from '../../db/pool.ts';
import { type Access, isCall, type NotApplicable, nameOfAccess } from '../accesses/access.ts';
import { type ApiCaller, chooseCallers, userCaller } from '../accesses/api-callers.ts';
import { readApiSchema } from '../accesses/api-schema.ts';
import { prepareAccesses } from '../accesses/prepare.ts';
import { isRefusal, type PreparedAccess, type Sql } from '../accesses/prepared.ts';
import { apiOf, translate } from '../accesses/translate.ts';
import type { Queries, Query } from './queries.ts';
import { failureOf, reading, textRows } from './session.ts';

/** What is measured, with the values it is asked with: the same before and after. Serialisable. */
export interface Material {
  readonly seed: number;
  readonly tables: readonly string[];
  readonly queries: readonly DrawnQuery[];
  readonly callers: readonly ApiCaller[];
  readonly accesses: readonly PreparedAccess[];
  /** Those that ask for what was not there; a recording of before they were kept has none. */
  readonly notApplicable?: readonly NotApplicable[];
}

/** A query with what its parameters stand for, once for each time it is asked. */
interface DrawnQuery {
  readonly query: Query;
  /** As whom it is asked; null for whoever is connected. */
  readonly caller: ApiCaller | null;
  readonly values: readonly (readonly (string | null)[])[];
  /** Why there are none. */
  readonly failure: string | null;
  /** The SQLSTATE, where asking for them failed. */
  readonly code?: string;
}

/** `control` is the same work on any database: it says how fast the machine is. */
type Kind = 'control' | 'dashboard' | 'access';
/** By the query of before, or by the one that is meant to take its place. */
type Way = 'old' | 'new';

/** Something to be asked, again and again. */
export interface Subject {
  /** The same before and after. */
  readonly id: string;
  readonly way: Way;
  readonly kind: Kind;
  readonly title: string;
  readonly caller: ApiCaller | null;
  readonly isOrdered: boolean;
  /** What is sent, for each set of values: mostly one statement. */
  readonly sets: readonly (readonly Sql[])[];
  /** The same, giving a column `row`, the text of a JSON value; and whether a count comes beside it. */
  readonly answers: readonly { readonly rows: Sql | null; readonly count: Sql | null }[];
}

/** What cannot be asked here, and what could not even be drawn. */
type Unasked = Pick<Subject, 'id' | 'way' | 'kind' | 'title'> &
  (
    | { readonly status: 'left out'; readonly reason: string }
    | { readonly status: 'failed'; readonly sql: string; readonly code: string; readonly message: string }
  );

/** For how long a signed-in user of Supabase's API is let wait, and an access here. */
const ACCESS_TIMEOUT_MS = 8_000;
/** There are hundreds of accesses: one of them gets so much of a query's time. */
const ACCESS_SHARE = 0.05;

/** What is spent on a subject. Pure. */
export const limitsOf = <T extends { readonly timeoutMs: number; readonly budgetMs: number }>(
  { kind }: Pick<Subject, 'kind'>,
  limits: T,
): T =>
  kind === 'access'
    ? {
        ...limits,
        timeoutMs: Math.min(limits.timeoutMs, ACCESS_TIMEOUT_MS),
        budgetMs: limits.budgetMs * ACCESS_SHARE,
      }
    : limits;

/** A query is asked with so many sets of values at most. */
const MOST_SETS = 5;
/** More rows than any dashboard shows; an answer that is longer is not compared. */
export const MOST_ROWS = 200_000;

/**
 * Draws what everything is asked with from the rows that there are.
 * @throws AppError DB_*
 */
export async function drawMaterial(
  pool: Pool,
  { queries, tables }: Queries,
  accesses: readonly Access[],
  { seed, timeoutMs, onProgress }: DrawOptions,
): Promise<Material> {
  const drawn: DrawnQuery[] = [];
  for (const [at, query] of queries.entries()) {
    onProgress('drawing values', at, queries.length + accesses.length);
    drawn.push(await drawQuery(pool, query, timeoutMs));
  }
  // What is written would be refused: the connections read only.
  const reads = accesses.filter((access) => isCall(access) || access.op === 'select');
  const { prepared, notApplicable } = await prepareAccesses(pool, reads, {
    seed,
    onProgress: (done) => onProgress('drawing values', queries.length + done, queries.length + reads.length),
  });
  const callers = reads.length === 0 ? [] : await chooseCallers(pool);
  return { seed, tables, queries: drawn, callers, accesses: prepared, notApplicable };
}

interface DrawOptions {
  readonly seed: number;
  readonly timeoutMs: number;
  readonly onProgress: (what: string, done: number, total: number) => void;
}

async function drawQuery(pool: Pool, query: Query, timeoutMs: number): Promise<DrawnQuery> {
  let [caller, what]: [ApiCaller | null, string] = [null, 'its caller'];
  const client = await pool.connect();
  const rowsOf = (text: string) =>
    reading(client, { caller, timeoutMs }, () => textRows(client, { text, parameters: [] }));
  try {
    if (query.caller !== undefined) {
      const [[id] = []] = await rowsOf(query.caller);
      if (id == null) return { query, caller, values: [], failure: 'nobody to ask as' };
      caller = userCaller('caller', id);
    }
    what = 'its parameters';
    const values = query.parameters === undefined ? [[]] : (await rowsOf(query.parameters)).slice(0, MOST_SETS);
    return { query, caller, values, failure: values.length === 0 ? 'no row to ask about' : null };
  } catch (error) {
    const { code, message } = failureOf(error);
    return { query, caller, values: [], failure: `${what}: ${message}`, code };
  } finally {
    client.release();
  }
}

/** The same values, and by each query's name what takes its place now, which may have been written since. Pure. */
export function withReplacements<T extends { readonly material: Material }>(recording: T, { queries }: Queries): T {
  const byName = new Map(queries.map((query) => [query.name, query]));
  const replaced = recording.material.queries.map(({ query, ...drawn }): DrawnQuery => {
    const { after, promised } = byName.get(query.name) ?? query;
    const { after: _after, promised: _promised, ...kept } = query;
    return {
      ...drawn,
      query: { ...kept, ...(after === undefined ? {} : { after }), ...(promised === undefined ? {} : { promised }) },
    };
  });
  return { ...recording, material: { ...recording.material, queries: replaced } };
}

/**
 * What takes as long on any database: the round trip alone, and some 10 ms of work that reads no table. Asked among all others, they say how
 * fast the machine was.
 */
export const ROUND_TRIP = 'control round-trip';
export const WORK = 'control work';
const CONTROLS: readonly Subject[] = [
  controlOf(ROUND_TRIP, 'the machine: a query of nothing', 'select 1 as one'),
  controlOf(WORK, 'the machine: a fixed computation', 'select sum(n % 7) from generate_series(1, 100000) n'),
];

function controlOf(id: string, title: string, text: string): Subject {
  const sql = { text, parameters: [] };
  return {
    id,
    way: 'old',
    kind: 'control',
    title,
    caller: null,
    isOrdered: false,
    sets: [[sql]],
    answers: [answerOf(sql)],
  };
}

/** What can be asked of this database, and what cannot. @throws AppError DB_* */
export async function subjectsOf(
  pool: Pool,
  material: Material,
): Promise<{ readonly subjects: readonly Subject[]; readonly unasked: readonly Unasked[] }> {
  const needed = material.queries.flatMap(({ query }) => query.after?.needs ?? []);
  const there = await relationsThere(pool, [...new Set(needed)]);
  const all = [
    ...CONTROLS,
    ...material.queries.flatMap((drawn) => ofQuery(drawn, there)),
    ...(material.accesses.length === 0 ? [] : await ofAccesses(pool, material)),
    ...(material.notApplicable ?? []).map(ofNotApplicable),
  ];
  return {
    subjects: all.flatMap((each) => ('status' in each ? [] : [each])),
    unasked: all.flatMap((each) => ('status' in each ? [each] : [])),
  };
}

async function relationsThere(pool: Pool, names: readonly string[]): Promise<ReadonlySet<string>> {
  const { rows } = await pool.query<{ name: string }>(
    `select name from unnest($1::text[]) t (name)
     where exists (
       select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname || '.' || c.relname = name)`,
    [names],
  );
  return new Set(rows.map(({ name }) => name));
}

function ofQuery(
  { query, caller, values, failure, code }: DrawnQuery,
  there: ReadonlySet<string>,
): readonly (Subject | Unasked)[] {
  const { name, title, after } = query;
  const about = { id: `dashboard ${name}`, kind: 'dashboard' as const, title: `${name}: ${title}` };
  if (failure !== null && code !== undefined)
    return [{ ...about, way: 'old', status: 'failed', sql: query.before, code, message: failure }];
  if (failure !== null) return [{ ...about, way: 'old', status: 'left out', reason: failure }];
  const asked = (way: Way, text: string): Subject => {
    const sets = values.map((parameters) => ({ text, parameters }));
    return {
      ...about,
      way,
      caller,
      isOrdered: query.isOrdered,
      sets: sets.map((each) => [each]),
      answers: sets.map(answerOf),
    };
  };
  const missing = after?.needs.filter((relation) => !there.has(relation)) ?? [];
  return [
    asked('old', query.before),
    ...(after === undefined
      ? []
      : missing.length > 0
        ? [
            {
              ...about,
              way: 'new' as const,
              status: 'left out' as const,
              reason: `not there yet: ${missing.join(', ')}`,
            },
          ]
        : [asked('new', after.sql)]),
  ];
}

function answerOf({ text, parameters }: Sql): Subject['answers'][number] {
  return {
    rows: { text: `select to_jsonb(q)::text as row from (\n${text}\n) q limit ${MOST_ROWS + 1}`, parameters },
    count: null,
  };
}

async function ofAccesses(pool: Pool, { accesses, callers }: Material): Promise<readonly (Subject | Unasked)[]> {
  const api = apiOf(await readApiSchema(pool));
  return accesses.flatMap((prepared) => {
    const statement = translate(api, prepared);
    const { number, access } = prepared;
    return callers.map((caller) => {
      const title = `${number} ${nameOfAccess(access)} as ${caller.name}`;
      const about = { id: `access ${number} ${caller.name}`, way: 'old' as const, kind: 'access' as const, title };
      if (isRefusal(statement))
        return { ...about, status: 'left out' as const, reason: `the API refuses it: ${statement.message}` };
      const { rows = null, count = null, isOrdered } = statement;
      const sent = [rows, count].flatMap((each) => each ?? []);
      return { ...about, caller, isOrdered, sets: [sent], answers: [{ rows, count }] };
    });
  });
}

/** Once, and not for each caller: nobody could ask it. */
const ofNotApplicable = ({ number, access, reason }: NotApplicable): Unasked => ({
  id: `access ${number}`,
  way: 'old',
  kind: 'access',
  title: `${number} ${nameOfAccess(access)}`,
  status: 'left out',
  reason,
});
