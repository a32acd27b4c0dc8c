import pg from 'pg';
import type { Pool, Queryable } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import { type Answered, readAnswers } from './answers.ts';
import { type Cold, type Forgetting, timeCold } from './cold.ts';
import { countIndexScans, indexUses } from './indexes.ts';
import { type LoadOptions, underLoad } from './load.ts';
import { type Plan, type PlanNode, readPlan, readRelations } from './plans.ts';
import { FORMAT, type Load, type Recording, type Result } from './recording.ts';
import { failureOf, reading } from './session.ts';
import { limitsOf, type Material, type Subject, subjectsOf } from './subjects.ts';
import { type Timed, timeRounds } from './timings.ts';

const { escapeIdentifier: ident } = pg;

export interface MeasureOptions {
  readonly now: Date;
  readonly program: string;
  readonly rounds: number;
  readonly budgetMs: number;
  readonly timeoutMs: number;
  /** How shared buffers are emptied, or why nothing is measured cold. */
  readonly forgetting: Forgetting | { readonly why: string };
  /** The same under load: by our own pool, and through a pooler. */
  readonly loads: readonly Pick<LoadOptions, 'databaseUrl' | 'poolerUrl' | 'clients' | 'poolSize' | 'seconds'>[];
  readonly signal: AbortSignal;
  readonly onProgress: (what: string, done: number, total: number) => void;
}

/** What takes longer would be all that goes on under load, and nothing would be said of the connections. */
const LONGEST_UNDER_LOAD_MS = 1_000;

/**
 * Asks everything, and says how long it took and how it was done: answers first, then plans, then the clock. Nothing is written.
 * @throws AppError DB_*
 */
export async function measure(pool: Pool, material: Material, options: MeasureOptions): Promise<Recording> {
  const { now, program, onProgress } = options;
  const about = await aboutServer(pool);
  const rows = await countRows(pool, material.tables, options);
  const { subjects, unasked } = await subjectsOf(pool, material);
  const scansBefore = await countIndexScans(pool);
  const asked = await askEach(pool, subjects, options);
  const able = subjects.filter((subject) => asked.get(subject)?.answered.status === 'answered');
  const client = await pool.connect();
  try {
    const warm = await timeRounds(client, able, {
      ...options,
      tookMs: (subject) => tookMs(asked.get(subject)),
      onProgress: (done, total) => onProgress('warm runs', done, total),
    });
    const cold = await timeCold(
      client,
      able.filter(({ kind }) => kind === 'dashboard'),
      {
        ...options,
        onProgress: (done, total) => onProgress('cold runs', done, total),
      },
    );
    const quick = able.filter((each) => each.kind !== 'control' && tookMs(asked.get(each)) <= LONGEST_UNDER_LOAD_MS);
    const load = await loadEach(client, quick, options);
    await client.query('select pg_stat_force_next_flush()');
    const results = [
      ...subjects.flatMap((subject) => resultOf(subject, asked.get(subject), { warm, cold }) ?? []),
      ...unasked,
    ];
    return {
      format: FORMAT,
      program,
      ...about,
      recordedAt: now.toISOString(),
      rows,
      material,
      cold: cold.status === 'measured' ? { status: cold.status, how: cold.how } : cold,
      results,
      indexes: [...indexUses(scansBefore, await countIndexScans(client), tablesRead(results))],
      load,
    };
  } finally {
    client.release();
  }
}

async function loadEach(watcher: Queryable, subjects: readonly Subject[], options: MeasureOptions): Promise<Load[]> {
  const loads: Load[] = [];
  for (const load of options.loads) {
    const what = load.poolerUrl === null ? 'under load' : 'under load, through the pooler';
    const onProgress = (done: number, total: number) => options.onProgress(what, done, total);
    loads.push(await underLoad(watcher, subjects, { ...options, ...load, onProgress }));
  }
  return loads;
}

interface Asked {
  readonly answered: Answered;
  readonly plan: Plan | null;
}

const tookMs = (asked: Asked | undefined): number =>
  asked?.answered.status === 'answered' ? asked.answered.tookMs : 0;

async function askEach(
  pool: Pool,
  subjects: readonly Subject[],
  options: MeasureOptions,
): Promise<ReadonlyMap<Subject, Asked>> {
  const relations = await readRelations(pool);
  const asked = new Map<Subject, Asked>();
  const client = await pool.connect();
  try {
    for (const [at, subject] of subjects.entries()) {
      options.onProgress('answers and plans', at, subjects.length);
      const limits = limitsOf(subject, options);
      const answered = await readAnswers(client, subject, limits);
      const isRun = answered.status === 'answered' && answered.tookMs <= limits.budgetMs;
      const isAble = answered.status === 'answered';
      asked.set(subject, {
        answered,
        plan: isAble ? await readPlan(client, subject, { ...limits, relations, isRun }) : null,
      });
    }
    return asked;
  } finally {
    client.release();
  }
}

function resultOf(
  subject: Subject,
  asked: Asked | undefined,
  { warm, cold }: { readonly warm: ReadonlyMap<Subject, Timed>; readonly cold: Cold },
): Result | undefined {
  const { id, way, kind, title } = subject;
  const about = { id, way, kind, title };
  if (asked === undefined) return undefined;
  const { answered, plan } = asked;
  const sql = subject.sets[0]?.map(({ text }) => text).join(';\n') ?? '';
  if (answered.status === 'writes') return { ...about, status: 'left out', reason: 'it writes' };
  if (answered.status === 'failed')
    return { ...about, status: 'failed', sql, code: answered.code, message: answered.message };
  const warmly = warm.get(subject) ?? NEVER;
  const coldly = cold.status === 'measured' ? cold.times.get(subject) : undefined;
  const failures = [...warmly.failures, ...(coldly?.failures ?? [])];
  const [failure] = failures;
  if (failure !== undefined && warmly.roundsMs.length === 0) return { ...about, status: 'failed', sql, ...failure };
  return {
    ...about,
    status: 'measured',
    sql,
    answers: [...answered.answers] as Extract<Result, { status: 'measured' }>['answers'],
    rows: answered.rows,
    warmMs: warmly.roundsMs.map((round) => round.map(micro)),
    coldMs: coldly?.roundsMs.map((round) => round.map(micro)) ?? null,
    failed: failure === undefined ? null : { count: failures.length, ...failure },
    plan: plan as Extract<Result, { status: 'measured' }>['plan'],
  };
}

const NEVER: Timed = { roundsMs: [], failures: [] };

/** To the microsecond: what is below is the clock's. */
const micro = (ms: number): number => Math.round(ms * 1_000) / 1_000;

const tablesOf = ({ relation, table, children }: PlanNode): readonly string[] => [
  ...(relation === null ? [] : [relation]),
  ...(table === null ? [] : [table]),
  ...children.flatMap(tablesOf),
];

const tablesRead = (results: readonly Result[]): ReadonlySet<string> =>
  new Set(
    results.flatMap((each) => (each.status === 'measured' && each.plan !== null ? tablesOf(each.plan.root) : [])),
  );

/** Those that decide on how fast a query is. */
const SETTINGS = [
  'shared_buffers',
  'work_mem',
  'effective_cache_size',
  'random_page_cost',
  'jit',
  'max_parallel_workers_per_gather',
];

async function aboutServer(db: Queryable): Promise<Pick<Recording, 'server' | 'settings'>> {
  const { rows } = await db.query<{ server: string; settings: Record<string, string> }>(
    `select current_setting('server_version') as server,
       (select json_object_agg(s, current_setting(s, true)) from unnest($1::text[]) s) as settings`,
    [SETTINGS],
  );
  const [here] = rows;
  if (here === undefined) throw new AppError('INTERNAL', 'The server did not say which version it is.');
  return here;
}

/** How many rows there are of what must be the same before and after. */
async function countRows(
  pool: Pool,
  tables: readonly string[],
  { timeoutMs, onProgress }: MeasureOptions,
): Promise<Recording['rows']> {
  const counted: Record<string, number | null> = {};
  const client = await pool.connect();
  try {
    for (const [at, table] of tables.entries()) {
      onProgress('counting rows', at, tables.length);
      const [schema = '', name = ''] = table.split('.');
      const text = `select count(*)::text as count from ${ident(schema)}.${ident(name)}`;
      counted[table] = await reading(client, { caller: null, timeoutMs }, () => client.query<{ count: string }>(text))
        .then(({ rows }) => Number(rows[0]?.count))
        .catch((error: unknown) => {
          failureOf(error);
          return null;
        });
    }
    return counted;
  } finally {
    client.release();
  }
}
