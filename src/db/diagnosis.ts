import { createRequire } from 'node:module';
import pg from 'pg';
import type { ErrorCode } from '../errors.ts';
import { clockSkew, sampleClock } from './clock.ts';
import { describeHolder, findHorizonHolders } from './horizon.ts';
import { findMigrationsOwner, migrationStatus } from './migrate.ts';
import { assertSupportedServer, connectionConfig, type Queryable } from './pool.ts';
import { toAppError } from './sqlstate.ts';

/** What one check of `liventix doctor` found. `failed` means that something will not work, `warning` that it may not. */
export interface Check {
  readonly name: string;
  readonly result: 'ok' | 'warning' | 'failed' | 'skipped';
  readonly found: string;
  /** What to do about it; null when there is nothing to do. */
  readonly todo: string | null;
  /** Why the check could not find out, when it could not. */
  readonly code?: ErrorCode;
}

export type Finding = Omit<Check, 'name' | 'todo'> & { readonly todo?: string };

/** One of several things that a check found, and what to do about it. */
export interface Said {
  readonly found: string;
  readonly todo: string;
}

/** All of them as one finding; what is to be done about several is said once. */
export const findingOf = (result: Finding['result'], said: readonly Said[]): Finding => ({
  result,
  found: said.map(({ found }) => found).join('; '),
  todo: [...new Set(said.map(({ todo }) => todo))].join(' '),
});

/** Runs one check. Whatever it throws is a finding too: the other checks are still wanted. */
export async function check(name: string, look: () => Promise<Finding>): Promise<Check> {
  try {
    return { name, todo: null, ...(await look()) };
  } catch (error) {
    const { code, message } = toAppError(error);
    return { name, result: 'failed', found: `${code}: ${message}`, todo: `See ${code} in docs/errors.md.`, code };
  }
}

export function skipped(name: string, found: string): Check {
  return { name, result: 'skipped', found, todo: null };
}

export interface DatabaseDiagnosisOptions {
  readonly databaseUrl: string;
  /** From this age on an open transaction is a warning. */
  readonly maxTransactionSeconds: number;
  /** Milliseconds since 1970 by this machine's clock. */
  readonly now: () => number;
  /** What the rooms above want to know of the database, asked last. */
  readonly further?: readonly DatabaseCheck<Queryable>[];
  /** Told which check begins. */
  readonly onBegin?: (name: string, nth: number, of: number) => void;
}

interface DatabaseCheck<Asked> {
  readonly name: string;
  readonly look: (asked: Asked) => Promise<Finding>;
}

interface Subject extends DatabaseDiagnosisOptions {
  readonly client: DiagnosisClient;
  readonly reconnect: () => Promise<DiagnosisClient>;
  /** False when something between here and the server refuses the settings that every connection of ours asks for. */
  readonly acceptsSettings: boolean;
}

/** `processID` is what the connection was told when it opened; the types leave it out. */
type DiagnosisClient = pg.Client & { readonly processID: number };

const QUERY_TIMEOUT_MS = 5_000;
const POOLER_PROBES = 3;
const CLOCK_SAMPLES = 5;
const CLOCK_SKEW_LIMIT_MS = 1_000;
const NAMED_HOLDERS = 5;

const CHECKS: readonly DatabaseCheck<Subject>[] = [
  { name: 'database', look: judgeServer },
  { name: 'connection', look: judgeConnection },
  { name: 'migrations', look: judgeMigrations },
  { name: 'clock', look: judgeClock },
  { name: 'transactions', look: judgeTransactions },
  { name: 'idle-timeout', look: judgeIdleTimeout },
  { name: 'role', look: judgeRole },
  { name: 'extensions', look: lookForExtensions },
];

/** Everything that Liventix stands on in the database, one check after the other. Changes nothing. */
export async function diagnoseDatabase(options: DatabaseDiagnosisOptions): Promise<readonly Check[]> {
  let connected: Awaited<ReturnType<typeof connect>> | undefined;
  const further = (options.further ?? []).map(
    ({ name, look }): DatabaseCheck<Subject> => ({ name, look: ({ client }) => look(client) }),
  );
  const checks: Check[] = [];
  try {
    const all = [...CHECKS, ...further];
    for (const [nth, { name, look }] of all.entries()) {
      options.onBegin?.(name, nth, all.length);
      const inVain = checks.length > 0 && connected === undefined;
      checks.push(
        inVain
          ? skipped(name, 'the database was not reached')
          : await check(name, async () => {
              connected ??= await connect(options.databaseUrl);
              return look({ ...options, ...connected });
            }),
      );
    }
    return checks;
  } finally {
    await connected?.client.end().catch(() => undefined);
  }
}

async function connect(databaseUrl: string): Promise<Omit<Subject, keyof DatabaseDiagnosisOptions>> {
  const config = {
    ...connectionConfig({ databaseUrl, applicationName: 'liventix-doctor' }),
    query_timeout: QUERY_TIMEOUT_MS,
  };
  try {
    return { client: await open(config), reconnect: () => open(config), acceptsSettings: true };
  } catch (error) {
    if (!refusesSettings(error)) throw error;
    const { options: _refused, ...plain } = config;
    return { client: await open(plain), reconnect: () => open(plain), acceptsSettings: false };
  }
}

async function open(config: pg.ClientConfig): Promise<DiagnosisClient> {
  const client = new pg.Client(config) as DiagnosisClient;
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

// PgBouncer's answer to a start-up parameter that it neither tracks nor was told to ignore.
function refusesSettings(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.message.includes('unsupported startup parameter');
}

async function judgeServer({ client }: Subject): Promise<Finding> {
  const { version } = await first<{ version: string }>(client, `select current_setting('server_version') as version`);
  const driver = createRequire(import.meta.url)('pg/package.json') as { version: string };
  const found = `PostgreSQL ${version}; the client is pg ${driver.version} on Node ${process.versions.node}`;
  const tooOld = await assertSupportedServer(client).then(
    () => undefined,
    (error: unknown) => toAppError(error),
  );
  if (tooOld === undefined) return { result: 'ok', found };
  if (tooOld.code !== 'DB_TOO_OLD') throw tooOld;
  return { result: 'failed', found, todo: `${tooOld.code}: ${tooOld.message}` };
}

async function judgeConnection(subject: Subject): Promise<Finding> {
  // A pooler makes up the process id that it tells its clients; the server tells its own.
  const isDirect = (await backendPid(subject.client)) === subject.client.processID;
  if (isDirect) return { result: 'ok', found: 'straight to the server' };
  if (!(await keepsSession(subject))) {
    return {
      result: 'failed',
      found: 'through a transaction pooler: LISTEN, advisory locks and session settings are lost between statements',
      todo: 'Point DATABASE_URL at the server itself, or at a session pooler (on Supabase: the direct connection, port 5432).',
    };
  }
  if (!subject.acceptsSettings) {
    return {
      result: 'failed',
      found: "through a pooler that keeps sessions but refuses the start-up parameter 'options'",
      todo: 'Add options to its ignore_startup_parameters, or point DATABASE_URL at the server itself.',
    };
  }
  return { result: 'ok', found: 'through a pooler that keeps sessions' };
}

/**
 * Whether a session stays on one server connection. Others occupy, each with a transaction, the server connections that
 * were given back; one that moved then finds itself on another, or waits for one that is not there.
 */
async function keepsSession({ client, reconnect }: Subject): Promise<boolean> {
  const before = await backendPid(client);
  const others: DiagnosisClient[] = [];
  try {
    for (let probe = 0; probe < POOLER_PROBES; probe += 1) {
      const other = await reconnect();
      others.push(other);
      await other.query('begin');
      await backendPid(other);
      const after = await backendPid(client).catch(() => undefined);
      if (after !== before) return false;
    }
    return true;
  } finally {
    for (const other of others) await other.end().catch(() => undefined);
  }
}

async function backendPid(client: DiagnosisClient): Promise<number> {
  return (await first<{ pid: number }>(client, 'select pg_backend_pid() as pid')).pid;
}

/** Whoever may not read them may not read what most of the other checks look at either. */
async function judgeMigrations({ client }: Subject): Promise<Finding> {
  try {
    return await compareMigrations(client);
  } catch (error) {
    const { code, message } = toAppError(error);
    const owner = code === 'DB_PERMISSION_DENIED' ? await findMigrationsOwner(client) : undefined;
    if (owner === undefined) throw error;
    return {
      result: 'failed',
      found: `${code}: ${message}`,
      todo: `Run liventix doctor as ${owner}, who owns the migrations.`,
      code,
    };
  }
}

async function compareMigrations(client: pg.Client): Promise<Finding> {
  const { applied, pending, unknown } = await migrationStatus(client);
  if (unknown.length > 0) {
    return {
      result: 'failed',
      found: `${unknown.length} of ${applied.length} come from another version of Liventix: ${unknown.join(', ')}`,
      todo: 'Install the version that migrated it, or a newer one.',
    };
  }
  if (pending.length === 0) return { result: 'ok', found: `all ${applied.length} are applied` };
  return {
    result: 'failed',
    found: `${pending.length} of ${applied.length + pending.length} are not applied: ${pending.join(', ')}`,
    todo: 'Run: liventix migrate',
  };
}

async function judgeClock({ client, now }: Subject): Promise<Finding> {
  const samples = [];
  for (let count = 0; count < CLOCK_SAMPLES; count += 1) samples.push(await sampleClock(client, now));
  const { aheadMs, errorMs, sample } = clockSkew(samples);
  const difference = `${Math.abs(Math.round(aheadMs))} ms ${aheadMs < 0 ? 'behind' : 'ahead of'} this machine's, give or take ${Math.ceil(errorMs)} ms`;
  if (Math.abs(aheadMs) - errorMs <= CLOCK_SKEW_LIMIT_MS) {
    return { result: 'ok', found: `the server's clock is ${difference}` };
  }
  const [ours, theirs] = [sample.receivedAtMs, sample.serverAtMs].map((ms) => new Date(ms).toISOString());
  return {
    result: 'warning',
    found: `this machine says ${ours}, the server ${theirs}: ${difference}`,
    todo: 'Let both machines take their time from NTP: receivers refuse webhooks whose timestamp is minutes away.',
  };
}

async function judgeTransactions({ client, maxTransactionSeconds }: Subject): Promise<Finding> {
  const { holders, hidden, role } = await findHorizonHolders(client, maxTransactionSeconds);
  if (holders.length === 0 && hidden.length === 0) {
    return {
      result: 'ok',
      found: `none has been open for ${maxTransactionSeconds} s, and no abandoned replication slot`,
    };
  }
  const named = holders.slice(0, NAMED_HOLDERS).map(describeHolder);
  const more = holders.length > named.length ? [`${holders.length - named.length} more`] : [];
  const unseen = hidden.map(({ pid, user }) => `pid ${pid} of ${user}, since when is hidden from ${role}`);
  return {
    result: 'warning',
    found: `these hold back the horizon: ${[...named, ...more, ...unseen].join('; ')}`,
    todo: [
      ...holders.slice(0, NAMED_HOLDERS).map((holder) => holder.todo),
      ...(hidden.length > 0 ? [`Have an administrator run: grant pg_read_all_stats to ${role}.`] : []),
    ].join(' '),
  };
}

async function judgeIdleTimeout({ client }: Subject): Promise<Finding> {
  const { timeout, database } = await first<{ timeout: string; database: string }>(
    client,
    `select current_setting('idle_in_transaction_session_timeout') as timeout, quote_ident(current_database()) as database`,
  );
  if (timeout !== '0') return { result: 'ok', found: `idle_in_transaction_session_timeout is ${timeout}` };
  return {
    result: 'warning',
    found: 'idle_in_transaction_session_timeout is off: one forgotten transaction holds back the horizon for ever',
    todo: `Run: alter database ${database} set idle_in_transaction_session_timeout = '60s'`,
  };
}

interface Role {
  readonly role: string;
  readonly isSuperuser: boolean;
  readonly createsRoles: boolean;
  readonly isOwner: boolean;
  readonly createsSchemas: boolean;
}

async function judgeRole({ client }: Subject): Promise<Finding> {
  const found = await first<Role>(
    client,
    `select current_user as role, rolsuper as "isSuperuser", rolcreaterole as "createsRoles",
            pg_has_role(current_user, datdba, 'usage') as "isOwner",
            has_database_privilege(current_database(), 'create') as "createsSchemas"
     from pg_roles, pg_database
     where rolname = current_user and datname = current_database()`,
  );
  if (found.isSuperuser) {
    return {
      result: 'warning',
      found: `${found.role} is a superuser, whom no privilege binds: not those that keep the ledger append-only either`,
      todo: 'Give the database to an ordinary role with CREATEROLE, and connect as that.',
    };
  }
  if (!found.isOwner && !found.createsSchemas) {
    return {
      result: 'warning',
      found: `${found.role} neither owns the database nor may create schemas in it, so it cannot migrate`,
      todo: "Run liventix migrate as the database's owner.",
    };
  }
  const owns = found.isOwner ? 'owns the database' : 'may create schemas';
  return {
    result: 'ok',
    found: `${found.role} ${owns}, ${found.createsRoles ? 'has CREATEROLE' : 'has no CREATEROLE'}, and is no superuser`,
  };
}

const OPTIONAL_EXTENSIONS = ['pg_cron', 'vector'];

async function lookForExtensions({ client }: Subject): Promise<Finding> {
  const { rows } = await client.query<{ name: string; installed: string | null }>(
    'select name, installed_version as installed from pg_available_extensions where name = any($1)',
    [OPTIONAL_EXTENSIONS],
  );
  const states = OPTIONAL_EXTENSIONS.map((name) => {
    const row = rows.find((candidate) => candidate.name === name);
    if (row === undefined) return `${name} is absent`;
    return row.installed === null ? `${name} could be created` : `${name} ${row.installed} is there`;
  });
  return { result: 'ok', found: `${states.join(', ')}; none is needed` };
}

async function first<T extends pg.QueryResultRow>(client: pg.Client, sql: string): Promise<T> {
  const { rows } = await client.query<T>(sql);
  const [row] = rows;
  if (row === undefined) throw new Error(`no row: ${sql}`);
  return row;
}
