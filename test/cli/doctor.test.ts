import pg from 'pg';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { type Check, diagnoseDatabase } from '../../src/db/diagnosis.ts';
import { freePort } from '../../src/db/server.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { cutOver } from '../../src/replay/cut-over.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { createLegacyTestDatabase, givenWallet } from '../support/legacy.ts';
import { liventix, type Run } from '../support/liventix.ts';
import { type PgBouncerOptions, startPgBouncer } from '../support/pgbouncer.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await database.pool.query(`alter database ${database.name} set idle_in_transaction_session_timeout = '60s'`);
});
afterAll(() => database.drop());

function doctor(env: Record<string, string> = {}, flags: readonly string[] = []): Promise<Run> {
  return liventix(['doctor', '--json', ...flags], { DATABASE_URL: database.url, ...env });
}

function checksOf(run: Run): Record<string, Check> {
  const { checks } = JSON.parse(run.stdout) as { checks: Check[] };
  return Object.fromEntries(checks.map((entry) => [entry.name, entry]));
}

function onServer(change: { password?: string; port?: string; pathname?: string; username?: string }): string {
  return Object.assign(new URL(database.url), change).href;
}

describe('doctor on a healthy database', () => {
  it('exits with 0, and says what it found in every check', async () => {
    const run = await doctor();
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(JSON.parse(run.stdout)).toMatchObject({ healthy: true });
    const checks = checksOf(run);
    expect(Object.keys(checks)).toEqual([
      'database',
      'connection',
      'migrations',
      'clock',
      'transactions',
      'idle-timeout',
      'role',
      'extensions',
      'guards',
      'replay',
      'attachments',
      'endpoints',
      'letters',
      'machines',
      'restructuring',
      'partitions',
      'rollups',
      'embeddings',
      'notifications',
      'redis',
      'redis-cluster',
      'redis-persistence',
      'redis-eviction',
    ]);
    // Other tests share the server, and their transactions are honestly reported.
    const { transactions: _shared, ...ours } = checks;
    const results = Object.fromEntries(Object.entries(ours).map(([name, { result }]) => [name, result]));
    expect(results).toEqual({
      database: 'ok',
      connection: 'ok',
      migrations: 'ok',
      clock: 'ok',
      'idle-timeout': 'ok',
      role: 'ok',
      extensions: 'ok',
      guards: 'ok',
      replay: 'ok',
      attachments: 'ok',
      endpoints: 'ok',
      letters: 'ok',
      machines: 'skipped',
      restructuring: 'skipped',
      partitions: 'skipped',
      rollups: 'skipped',
      embeddings: 'skipped',
      notifications: 'ok',
      redis: 'skipped',
      'redis-cluster': 'skipped',
      'redis-persistence': 'skipped',
      'redis-eviction': 'skipped',
    });
    expect(checks['database']?.found).toMatch(
      new RegExp(`^PostgreSQL ${inject('postgresMajor')}\\..*; the client is pg \\d+\\.\\d+\\.\\d+ on Node \\d+`),
    );
    expect(checks['role']?.found).toBe('liventix owns the database, has CREATEROLE, and is no superuser');
    expect(checks['extensions']?.found).toMatch(/^pg_cron (is absent|could be created), vector /);
    expect(checks['redis']?.found).toBe('REDIS_URL is not set: BullMQ runs on PostgreSQL');
  });

  it('prints one aligned line a check for people, and a verdict', async () => {
    const run = await liventix(['doctor'], { DATABASE_URL: database.url });
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout).toMatch(/^ok {6}database {11}PostgreSQL \d+/);
    expect(run.stdout).toMatch(/\nok {6}connection {9}straight to the server\n/);
    expect(run.stdout).toMatch(/\nHealthy(, with \d+ warnings?)?\.\n$/);
  });

  it('leaves nothing behind', async () => {
    const tables = `select count(*) as n from pg_class where relkind in ('r', 'S', 'i')`;
    const before = await database.pool.query(tables);
    await doctor();
    expect((await database.pool.query(tables)).rows).toEqual(before.rows);
  });
});

describe('doctor exits with 3 when it cannot find out, and still reports the rest', () => {
  it('names DB_UNREACHABLE when nobody listens on the port', async () => {
    const run = await doctor({ DATABASE_URL: onServer({ port: `${await freePort()}` }) });
    expect(run).toMatchObject({ exitCode: 3, stderr: '' });
    expect(JSON.parse(run.stdout)).toMatchObject({ healthy: false });
    const checks = checksOf(run);
    expect(checks['database']).toMatchObject({ result: 'failed', code: 'DB_UNREACHABLE' });
    expect(checks['database']?.found).toMatch(/^DB_UNREACHABLE: .*ECONNREFUSED/);
    expect(checks['migrations']).toMatchObject({ result: 'skipped', found: 'the database was not reached' });
    expect(Object.keys(checks)).toHaveLength(23);
  });

  it('gives the unreachable database one line, with its code and what to do', async () => {
    const run = await liventix(['doctor'], { DATABASE_URL: onServer({ port: `${await freePort()}` }) });
    expect(run).toMatchObject({ exitCode: 3, stderr: '' });
    expect(run.stdout).toMatch(
      /^FAILED {2}database {11}DB_UNREACHABLE: .*DATABASE_URL names its host and port\.\n {27}→ See DB_UNREACHABLE in docs\/errors\.md\.\n/,
    );
  });

  it.each([
    ['DB_AUTH_FAILED', 'the password is wrong', { password: 'wrong' }],
    ['DB_NOT_FOUND', 'the database does not exist', { pathname: '/no_such_database' }],
  ])('names %s when %s', async (code, _when, change) => {
    const run = await doctor({ DATABASE_URL: onServer(change) });
    expect(run.exitCode).toBe(3);
    expect(checksOf(run)['database']).toMatchObject({ result: 'failed', code });
  });

  it('names QUEUE_UNREACHABLE when Redis is away, with the database checked all the same', async () => {
    const run = await doctor({ REDIS_URL: `redis://127.0.0.1:${await freePort()}` });
    expect(run.exitCode).toBe(3);
    const checks = checksOf(run);
    expect(checks['redis']).toMatchObject({ result: 'failed', code: 'QUEUE_UNREACHABLE' });
    expect(checks['redis']?.found).toContain('ECONNREFUSED');
    expect(checks['redis-eviction']).toMatchObject({ result: 'skipped', found: 'Redis was not reached' });
    expect(checks['migrations']).toMatchObject({ result: 'ok' });
  });
});

it('exits with 1 and names every migration that is missing', async () => {
  const empty = await createDatabase({ template: EMPTY });
  try {
    const run = await doctor({ DATABASE_URL: empty.url });
    expect(run.exitCode).toBe(1);
    const { migrations, guards } = checksOf(run);
    expect(migrations).toMatchObject({ result: 'failed', todo: 'Run: liventix migrate' });
    expect(migrations?.found).toMatch(/^(\d+) of \1 are not applied: 0001_reference_currencies, 0002_/);
    expect(guards).toMatchObject({ result: 'skipped', found: 'the database has no ledger yet' });
  } finally {
    await empty.drop();
  }
});

it('warns of an idle transaction timeout that is off', async () => {
  const unset = await createDatabase();
  try {
    const run = await doctor({ DATABASE_URL: unset.url });
    expect(run.exitCode).toBe(0);
    expect(checksOf(run)['idle-timeout']).toMatchObject({
      result: 'warning',
      todo: `Run: alter database ${unset.name} set idle_in_transaction_session_timeout = '60s'`,
    });
  } finally {
    await unset.drop();
  }
});

it('exits with 1 and says how to put back guards of the ledger that were disabled or dropped', async () => {
  const unguarded = await createDatabase();
  try {
    await unguarded.pool.query(
      `alter table payments.events disable trigger events_append_only; drop trigger balances_not_removed on payments.balances`,
    );
    const run = await doctor({ DATABASE_URL: unguarded.url });
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    const { guards } = checksOf(run);
    expect(guards).toMatchObject({
      result: 'failed',
      found:
        'trigger balances_not_removed on payments.balances is missing; trigger events_append_only on payments.events is disabled',
    });
    const [, repair = ''] =
      guards?.todo?.match(/^Run as the tables' owner: (.*;) Then see .*: liventix books verify$/) ?? [];
    await unguarded.pool.query(repair);
    expect(checksOf(await doctor({ DATABASE_URL: unguarded.url }))['guards']).toMatchObject({
      result: 'ok',
      todo: null,
    });
  } finally {
    await unguarded.drop();
  }
});

it('exits with 1 and says where a function comes from whose body was replaced, and the SQL for the rest', async () => {
  const unguarded = await createDatabase();
  try {
    await unguarded.pool.query(
      `create or replace function payments.refuse_change() returns trigger language plpgsql as 'begin return null; end';
       alter table payments.events disable trigger events_append_only`,
    );
    const run = await doctor({ DATABASE_URL: unguarded.url });
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    expect(checksOf(run)['guards']).toMatchObject({
      result: 'failed',
      found:
        'trigger events_append_only on payments.events is disabled; function payments.refuse_change was given another body, other settings or another owner',
      todo: 'Run as the tables\' owner: alter table payments.events enable always trigger events_append_only; Restore payments.refuse_change: run its definition in migrations/0002_ledger_tables.sql as "create or replace". Then see what changed meanwhile: liventix books verify',
    });
  } finally {
    await unguarded.drop();
  }
});

it('finds the guards in place where the search_path of the database holds payments', async () => {
  const other = await createDatabase();
  try {
    await other.pool.query(`alter database ${other.name} set search_path = public, payments`);
    expect(checksOf(await doctor({ DATABASE_URL: other.url }))['guards']).toMatchObject({ result: 'ok' });
  } finally {
    await other.drop();
  }
});

it('exits with 1 where a trigger of the mirror or of the capture is gone, and says what was missed by that', async () => {
  const live = await createLegacyTestDatabase();
  const replay = async () => {
    const run = await doctor({ DATABASE_URL: live.url });
    return { exitCode: run.exitCode, ...checksOf(run)['replay'] };
  };
  try {
    await givenWallet(live.pool);
    await runBackfill(live.pool, { settleMs: 0 });
    await cutOver(live.pool, { owners: 'all', settleMs: 0 });
    expect(await replay()).toMatchObject({
      exitCode: 0,
      result: 'ok',
      found: expect.stringContaining('keeps 1 wallets'),
    });
    await live.pool.query('alter table payments.entries disable trigger entries_mirrored');
    expect(await replay()).toMatchObject({
      exitCode: 1,
      result: 'failed',
      todo: expect.stringMatching(/backfill cutover, of each owner whom the ledger keeps/),
    });
    await cutOver(live.pool, { owners: 'all', settleMs: 0 });
    expect(await replay()).toMatchObject({ exitCode: 0, result: 'ok' });
    await live.pool.query('alter table wallets disable trigger liventix_capture');
    expect(await replay()).toMatchObject({
      exitCode: 1,
      result: 'failed',
      todo: expect.stringMatching(/rollback --all/),
    });
  } finally {
    await live.drop();
  }
});

describe('doctor on open transactions', () => {
  async function withOpenTransaction<T>(url: string, statement: string, work: (pid: number) => Promise<T>): Promise<T> {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      await client.query(`begin isolation level repeatable read`);
      await client.query(statement);
      const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
      return await work(rows[0]?.pid ?? 0);
    } finally {
      await client.end();
    }
  }

  it('names the pid, the user and the age of one that has written', () =>
    withOpenTransaction(database.url, 'select pg_current_xact_id()', async (pid) => {
      const run = await doctor({}, ['--max-transaction-seconds', '0']);
      expect(run.exitCode).toBe(0);
      const { transactions } = checksOf(run);
      expect(transactions?.result).toBe('warning');
      expect(transactions?.found).toMatch(
        new RegExp(`pid ${pid} of liventix in ${database.name}, idle in transaction, open for \\d+ s, it has written`),
      );
      expect(transactions?.todo).toContain(`select pg_terminate_backend(${pid})`);
    }));

  it('says of one that only reads that it holds back vacuum alone', () =>
    withOpenTransaction(database.url, 'select 1', async (pid) => {
      const { transactions } = checksOf(await doctor({}, ['--max-transaction-seconds', '0']));
      expect(transactions?.found).toMatch(
        new RegExp(`pid ${pid} of liventix in ${database.name}, [^;]*, it only reads, so it holds back vacuum alone`),
      );
    }));

  it('does not mind one that is younger than the bound', () =>
    withOpenTransaction(database.url, 'select pg_current_xact_id()', async (pid) => {
      const { transactions } = checksOf(await doctor({}, ['--max-transaction-seconds', '3600']));
      expect(transactions?.found).not.toContain(`pid ${pid} `);
    }));

  it("says when another role's are hidden, and which right would show them", () =>
    withOpenTransaction(database.adminUrl, 'select pg_current_xact_id()', async (pid) => {
      const { transactions } = checksOf(await doctor());
      expect(transactions?.result).toBe('warning');
      expect(transactions?.found).toContain(`pid ${pid} of postgres, since when is hidden from liventix`);
      expect(transactions?.todo).toContain('grant pg_read_all_stats to liventix');
    }));
});

it.each([
  ['ahead of', -5_000],
  ['behind', 5_000],
])("warns when the server's clock is %s this machine's, with both times", async (word, shiftMs) => {
  const checks = await diagnoseDatabase({
    databaseUrl: database.url,
    maxTransactionSeconds: 60,
    now: () => Date.now() + shiftMs,
  });
  const clock = checks.find(({ name }) => name === 'clock');
  expect(clock?.result).toBe('warning');
  expect(clock?.found).toMatch(
    new RegExp(`^this machine says 20\\S+Z, the server 20\\S+Z: (4|5)\\d{3} ms ${word} this machine's`),
  );
});

describe('doctor on roles', () => {
  it('warns of a superuser, whom no privilege binds', async () => {
    const run = await doctor({ DATABASE_URL: database.adminUrl });
    expect(checksOf(run)['role']).toMatchObject({ result: 'warning' });
    expect(run.exitCode).toBe(0);
  });

  it('warns of a role that could not migrate, and says as whom to run it where it may not read the migrations', async () => {
    await database.pool.query(`create role ${database.name}_reader login password 'reader'`);
    try {
      const run = await doctor({
        DATABASE_URL: onServer({ username: `${database.name}_reader`, password: 'reader' }),
      });
      expect(run.exitCode).toBe(3);
      expect(checksOf(run)).toMatchObject({
        migrations: {
          result: 'failed',
          code: 'DB_PERMISSION_DENIED',
          todo: 'Run liventix doctor as liventix, who owns the migrations.',
        },
        role: { result: 'warning', todo: "Run liventix migrate as the database's owner." },
        replay: { result: 'skipped', found: 'this role may not read what is replayed' },
        // Whoever only looks sees them all the same.
        guards: { result: 'ok' },
      });
    } finally {
      await database.pool.query(`drop role ${database.name}_reader`);
    }
  });
});

describe('doctor behind PgBouncer', () => {
  async function through(options: Omit<PgBouncerOptions, 'databaseUrl'>): Promise<Run> {
    const pooler = await startPgBouncer({ databaseUrl: database.url, ...options });
    try {
      return await doctor({ DATABASE_URL: pooler.url });
    } finally {
      await pooler.stop();
    }
  }

  it('finds the transaction pooler, and that notifications do not arrive through it', async () => {
    const run = await through({ poolMode: 'transaction', ignoresOptions: true });
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    const { connection, notifications } = checksOf(run);
    expect(connection).toMatchObject({ result: 'failed' });
    expect(connection?.found).toMatch(/^through a transaction pooler/);
    expect(notifications).toMatchObject({ result: 'failed' });
    expect(notifications?.found).toMatch(/^LISTEN_UNAVAILABLE: /);
    expect(notifications?.code).toBeUndefined();
  });

  it('finds it also when it refuses our settings, and checks the rest without them', async () => {
    const run = await through({ poolMode: 'transaction' });
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    const { connection, notifications, migrations } = checksOf(run);
    expect(connection?.found).toMatch(/^through a transaction pooler/);
    expect(notifications).toMatchObject({ result: 'failed' });
    expect(migrations).toMatchObject({ result: 'ok' });
  });

  it('accepts a session pooler that lets our settings through', async () => {
    const run = await through({ poolMode: 'session', ignoresOptions: true });
    const { connection, notifications } = checksOf(run);
    expect(connection).toMatchObject({ result: 'ok', found: 'through a pooler that keeps sessions' });
    expect(notifications).toMatchObject({ result: 'ok' });
    expect(run.exitCode).toBe(0);
  });

  it('says what to set in a session pooler that refuses our settings', async () => {
    const run = await through({ poolMode: 'session' });
    expect(run.exitCode).toBe(1);
    expect(checksOf(run)['connection']?.todo).toContain('ignore_startup_parameters');
  });
});

describe('doctor on Redis', () => {
  let redis: TestRedis;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());

  it('warns of one without an append-only file that evicts', async () => {
    await redis.client.config('SET', 'maxmemory-policy', 'allkeys-lru');
    const run = await doctor({ REDIS_URL: redis.url });
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    const checks = checksOf(run);
    expect(checks['redis']).toMatchObject({ result: 'ok', found: expect.stringMatching(/^Redis \d+\.\d+/) });
    expect(checks['redis-persistence']).toMatchObject({
      result: 'warning',
      found: expect.stringMatching(/^appendonly no/),
    });
    expect(checks['redis-eviction']).toMatchObject({ result: 'warning', found: expect.stringMatching(/allkeys-lru/) });
  });

  it('is content with appendonly yes and noeviction', async () => {
    await redis.client.config('SET', 'maxmemory-policy', 'noeviction');
    await redis.client.config('SET', 'appendonly', 'yes');
    const checks = checksOf(await doctor({ REDIS_URL: redis.url }));
    expect(checks['redis-persistence']).toMatchObject({ result: 'ok', todo: null });
    expect(checks['redis-eviction']).toMatchObject({ result: 'ok', todo: null });
  });

  it('names QUEUE_UNREACHABLE when the password is missing', async () => {
    await redis.client.config('SET', 'requirepass', 'secret');
    const run = await doctor({ REDIS_URL: redis.url });
    expect(run.exitCode).toBe(3);
    expect(checksOf(run)['redis']?.found).toMatch(/^QUEUE_UNREACHABLE: .*NOAUTH/);
    const { port } = new URL(redis.url);
    const known = await doctor({ REDIS_URL: `redis://:secret@127.0.0.1:${port}` });
    expect(checksOf(known)['redis']).toMatchObject({ result: 'ok' });
  });
});
