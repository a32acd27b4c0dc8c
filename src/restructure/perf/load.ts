import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import type { Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { checkTransactionPooling } from './pooled-settings.ts';
import { openConsole } from './pooler-console.ts';
import type { Load } from './recording.ts';
import { beginAs, textRows } from './session.ts';
import { spreadOf } from './statistics.ts';
import { limitsOf, type Subject } from './subjects.ts';

export interface LoadOptions {
  readonly databaseUrl: string;
  /** A pooler in front of the same database, or null for our own pool. */
  readonly poolerUrl: string | null;
  readonly clients: number;
  /** Connections that our own pool may open. */
  readonly poolSize: number;
  readonly seconds: number;
  readonly timeoutMs: number;
  readonly budgetMs: number;
  readonly signal: AbortSignal;
  readonly onProgress: (done: number, total: number) => void;
}

/** How often it is looked at who is connected. */
const SAMPLE_EVERY_MS = 250;
/** So long connections may take to go away when everybody has hung up. */
const SETTLING_MS = 2_000;
const MOST_ERRORS = 20;
/** A client that is refused at once does not ask again at once. */
const AFTER_FAILURE_MS = 50;

/**
 * Lets clients ask for what was timed, in turn, without a rest, and looks meanwhile at who is connected; afterwards at who still is.
 * @param watcher a connection that is there already, and is not counted
 * @throws AppError DB_UNREACHABLE where the first connection cannot be made
 */
export async function underLoad(watcher: Queryable, subjects: readonly Subject[], options: LoadOptions): Promise<Load> {
  const { poolerUrl, clients, seconds, signal, onProgress } = options;
  const name = `liventix-load-${process.pid}-${poolerUrl === null ? 'direct' : 'pooler'}`;
  const entrance = poolerUrl === null ? ownPool(name, options) : throughPooler(name, { ...options, poolerUrl });
  const console = poolerUrl === null ? undefined : await openConsole(poolerUrl);
  const tally = new Tally();
  const pids = new Set<number>();
  const samples: Load['samples'][number][] = [];
  const from = performance.now();
  const isOver = () => signal.aborted || performance.now() - from >= seconds * 1_000;
  try {
    await entrance.open();
    const working = Promise.all(
      Array.from({ length: clients }, (_, client) => workAs(client, entrance, { subjects, tally, isOver, options })),
    );
    while (!isOver()) {
      const { pids: seen, ...now } = await lookAt(watcher, name);
      for (const pid of seen) pids.add(pid);
      const waiting = console === undefined ? entrance.waiting() : await console.waiting();
      samples.push({ atMs: Math.round(performance.now() - from), ...now, waiting });
      onProgress(Math.round(performance.now() - from), seconds * 1_000);
      await pause(SAMPLE_EVERY_MS);
    }
    await working;
  } finally {
    await entrance.close();
    console?.close();
  }
  const tookS = (performance.now() - from) / 1_000;
  return {
    way: poolerUrl === null ? 'direct' : 'pooler',
    clients,
    poolSize: poolerUrl === null ? options.poolSize : (console?.poolSize() ?? null),
    seconds: tookS,
    ...tally.sums(),
    connections: pids.size,
    samples,
    afterwards: await settled(watcher, name, poolerUrl === null),
    checks: poolerUrl === null ? [] : [...(await checkTransactionPooling(poolerUrl))],
    notes: console === undefined ? [] : [console.note],
  };
}

/** Where a client gets a connection from. */
interface Entrance {
  open(): Promise<void>;
  take(client: number): Promise<{ readonly client: pg.ClientBase; release(error?: Error): void }>;
  /** Clients that wait for one, as far as we can tell. */
  waiting(): number | null;
  close(): Promise<void>;
}

function ownPool(name: string, { databaseUrl, poolSize }: LoadOptions): Entrance {
  const pool = new pg.Pool({ connectionString: databaseUrl, application_name: name, max: poolSize });
  pool.on('error', () => undefined);
  return {
    open: async () => {
      const client = await pool.connect().catch(thrown);
      client.release();
    },
    take: async () => {
      const client = await pool.connect();
      return { client, release: (error) => client.release(error) };
    },
    waiting: () => pool.waitingCount,
    close: () => pool.end(),
  };
}

const thrown = (error: unknown): never => {
  throw toAppError(error);
};

/** Each client has one of its own to the pooler, which has fewer to the server. What a session would set at its start is not sent. */
function throughPooler(name: string, { poolerUrl, clients }: LoadOptions & { readonly poolerUrl: string }): Entrance {
  const all = Array.from({ length: clients }, () => {
    const client = new pg.Client({ connectionString: poolerUrl, application_name: name });
    client.on('error', () => undefined);
    return client;
  });
  return {
    open: async () => {
      await Promise.all(all.map((client) => client.connect())).catch(thrown);
    },
    take: async (at) => {
      const client = all[at];
      if (client === undefined) throw new RangeError(`there is no client ${at}`);
      return { client, release: () => undefined };
    },
    waiting: () => null,
    close: async () => {
      await Promise.all(all.map((client) => client.end().catch(() => undefined)));
    },
  };
}

interface Work {
  readonly subjects: readonly Subject[];
  readonly tally: Tally;
  readonly isOver: () => boolean;
  readonly options: LoadOptions;
}

async function workAs(client: number, entrance: Entrance, { subjects, tally, isOver, options }: Work): Promise<void> {
  for (let turn = client * 31; !isOver() && subjects.length > 0; turn += 1) {
    const subject = subjects[turn % subjects.length];
    if (subject === undefined) return;
    await askOnce(client, entrance, { subject, set: turn, tally, ...limitsOf(subject, options) }).catch(
      async (error: unknown) => {
        tally.fail(error);
        await pause(AFTER_FAILURE_MS);
      },
    );
  }
}

/** One transaction, as the API would: begun as somebody, one question, ended. */
async function askOnce(
  place: number,
  entrance: Entrance,
  { subject, set, tally, timeoutMs }: { subject: Subject; set: number; tally: Tally; timeoutMs: number },
): Promise<void> {
  const from = performance.now();
  const { client, release } = await entrance.take(place);
  let broken: Error | undefined;
  try {
    await client.query(beginAs({ caller: subject.caller, timeoutMs }));
    const begun = performance.now();
    for (const sql of subject.sets[set % subject.sets.length] ?? []) await textRows(client, sql);
    tally.add({ waitMs: begun - from, queryMs: performance.now() - begun });
  } finally {
    await client.query('rollback').catch((error: Error) => {
      broken = error;
    });
    release(broken);
  }
}

/** What the clients met. */
class Tally {
  readonly #waits: number[] = [];
  readonly #queries: number[] = [];
  readonly #errors = new Map<string, { readonly code: string; readonly message: string; count: number }>();

  add({ waitMs, queryMs }: { readonly waitMs: number; readonly queryMs: number }): void {
    this.#waits.push(waitMs);
    this.#queries.push(queryMs);
  }

  fail(error: unknown): void {
    const { code, message } = error as { code?: string; message?: string };
    const known = this.#errors.get(`${code}`);
    if (known !== undefined) known.count += 1;
    else if (this.#errors.size < MOST_ERRORS)
      this.#errors.set(`${code}`, { code: code ?? 'none', message: message ?? '', count: 1 });
  }

  sums(): Pick<Load, 'transactions' | 'waitMs' | 'queryMs' | 'errors'> {
    return {
      transactions: this.#queries.length,
      waitMs: spreadOf(this.#waits),
      queryMs: spreadOf(this.#queries),
      errors: [...this.#errors.values()],
    };
  }
}

interface Seen extends Pick<Load['samples'][number], 'open' | 'active' | 'idleInTransaction'> {
  readonly pids: readonly number[];
}

async function lookAt(watcher: Queryable, name: string): Promise<Seen> {
  const { rows } = await watcher.query<Seen>(
    `select coalesce(array_agg(pid), '{}') as pids, count(*)::int4 as open, count(*) filter (where state = 'active')::int4 as active,
       count(*) filter (where state like 'idle in transaction%')::int4 as "idleInTransaction"
     from pg_stat_activity where application_name = $1 and datname = current_database()`,
    [name],
  );
  return rows[0] ?? { pids: [], open: 0, active: 0, idleInTransaction: 0 };
}

/** Our own connections go away when they are closed; a pooler's stay, and are idle. */
async function settled(watcher: Queryable, name: string, goAway: boolean): Promise<Load['afterwards']> {
  const until = performance.now() + SETTLING_MS;
  for (;;) {
    const { open, idleInTransaction, active } = await lookAt(watcher, name);
    const isQuiet = idleInTransaction === 0 && active === 0 && (!goAway || open === 0);
    if (isQuiet || performance.now() > until) return { open, idleInTransaction };
    await pause(SAMPLE_EVERY_MS);
  }
}
