import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { createServer } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { freePort, type LocalServer } from '../../src/db/server.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import { startOldPostgres } from '../support/old-postgres.ts';
import { expectRefusal } from '../support/refusal.ts';

const ON_NOTHING = { DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/nothing' };

describe('wrong usage', () => {
  it.each<[string, RegExp, string[]]>([
    ['no command', /which command\? See: liventix --help$/m, []],
    ['an unknown command', /unknown command 'migrat'.*migrate\?.*See: liventix --help/, ['migrat']],
    [
      'a subcommand that resembles none',
      /unknown command 'everything'\. See: liventix migrate --help$/m,
      ['migrate', 'everything', 'twice'],
    ],
    ['a group without its command', /which command\? See: liventix outbox endpoint --help$/m, ['outbox', 'endpoint']],
    ['an unknown flag', /unknown option '--frobnicate'/, ['migrate', '--frobnicate']],
    ['an argument too many', /too many arguments.* See: liventix books verify --help$/m, ['books', 'verify', 'twice']],
    [
      'a required flag that is missing',
      /required option '--url <url>' not specified/,
      ['outbox', 'endpoint', 'add', '--topic', '*'],
    ],
    ['a flag without its value', /'--url <url>' argument missing/, ['outbox', 'endpoint', 'add', '--url']],
    ['a number that is none', /'ten' is invalid\. Give a whole number from 1 to /, ['demo', '--wallets', 'ten']],
    ['a number with a fraction', /'1\.5' is invalid/, ['worker', '--concurrency', '1.5']],
    ['a number with an exponent', /'1e3' is invalid/, ['demo', '--transactions', '1e3']],
    ['a number below its bound', /'-1' is invalid\. Give a whole number from 0/, ['demo', '--transactions', '-1']],
    ['a number above its bound', /from 0 to 86400/, ['doctor', '--max-transaction-seconds', '86401']],
    ['a number beyond what a double holds', /is invalid/, ['worker', '--drain-ms', '9'.repeat(40)]],
  ])('%s', (_what, says, args) => expectRefusal({ code: 'USAGE', says }, args, ON_NOTHING));

  it.each([
    ['migrate statsu', 'statsu', 'status'],
    ['backfill rnu', 'rnu', 'run'],
    ['books verfy --json', 'verfy', 'verify'],
    ['outbox endpont', 'endpont', 'endpoint'],
    ['outbox endpoint lits', 'lits', 'list'],
  ])('%s: suggests what was meant', (line, typed, meant) => {
    const says = new RegExp(`unknown command '${typed}' \\(Did you mean ${meant}\\?\\) See: liventix [a-z ]+ --help`);
    return expectRefusal({ code: 'USAGE', says }, line.split(' '), ON_NOTHING);
  });
});

describe('what is misspelt of a known set', () => {
  it.each<[line: string, meant: string]>([
    ['books verify --jsn', '--json'],
    ['outbox endpoint list --delete', '--deleted'],
    ['ledger account open --typ cash --currency USD --name x', '--type'],
    ['outbox endpoint add --urll=https://example.com --topic x', '--url'],
    ['states show tickt', 'ticket'],
    ['states install escrow propsal', 'proposal'],
    ['ledger export --format becount', 'beancount'],
    ['books trial-balance --by=effectve', 'effective'],
    ['outbox deliveries --state ded', 'dead'],
    ['outbox endpoint rotate-secret x --kind v1aa', 'v1a'],
    ['partitions schedule pgcron', 'pg_cron'],
    ['embeddings models use evnt m@1', 'event'],
  ])('%s: suggests %s', (line, meant) => {
    const says = new RegExp(`\\(Did you mean ${meant}\\?\\) See: liventix [a-z -]+ --help`);
    return expectRefusal({ code: 'USAGE', says }, line.split(' '), ON_NOTHING);
  });

  it('suggests several that are as near, and nothing where nothing is', async () => {
    await expectRefusal({ code: 'USAGE', says: /Did you mean one of bash, zsh\?/ }, ['completion', 'bsh'], ON_NOTHING);
    await expectRefusal({ code: 'USAGE', says: /^(?!.*Did you mean)/ }, ['completion', 'powershell'], ON_NOTHING);
  });
});

describe('a wrong environment', () => {
  it('reports all its faults at once, and none of its secrets', async () => {
    const env = {
      DATABASE_URL: 'mysql://root:hunter2@localhost/x',
      REDIS_URL: 'localhost:6379',
      OUTBOX_EGRESS_ALLOW: '10.0.0.0/8, everywhere, 10/8, 127.1, 010.0.0.0/8, 10.0.0.0/33',
      OUTBOX_EGRESS_DENY: '169.254.0.0/33',
      LIVENTIX_POOL_MAX: '0',
      LIVENTIX_SEAL_INTERVAL_S: '86401',
      LIVENTIX_ROLLUP_INTERVAL_S: '-1',
      LOG_LEVEL: 'loud',
    };
    const run = await liventix(['migrate'], env);
    expect(run).toMatchObject({ exitCode: 2, stdout: '' });
    expect(run.stderr).toMatch(/^liventix: CONFIG_INVALID: [^\n]+\n$/);
    for (const name of Object.keys(env)) expect(run.stderr).toContain(name);
    for (const network of ['everywhere', '10/8', '127.1', '010.0.0.0/8', '10.0.0.0/33', '169.254.0.0/33']) {
      expect(run.stderr).toContain(`"${network}" is not a CIDR`);
    }
    expect(run.stderr).not.toContain('hunter2');
  });

  it.each([
    ['no URL at all', 'nonsense'],
    ['of another protocol', 'https://localhost/x'],
    ['without its slashes', 'postgresql:localhost'],
  ])('refuses a DATABASE_URL: %s', (_what, url) =>
    expectRefusal(
      { code: 'CONFIG_INVALID', says: /DATABASE_URL must be a URL that starts with postgres/ },
      ['migrate'],
      {
        DATABASE_URL: url,
      },
    ),
  );

  it.each([
    ['that is no number', 'postgresql://user:hunter2@localhost:abc/x'],
    ['that is too large', 'postgresql://user:hunter2@localhost:99999/x'],
    ['after an IPv6 address', 'postgresql://[::1]:hunter2/x'],
  ])('refuses a DATABASE_URL by its port %s, and does not repeat it', (_what, url) =>
    expectRefusal(
      { code: 'CONFIG_INVALID', says: /^(?!.*hunter2).*DATABASE_URL must have a port that is/ },
      ['migrate'],
      {
        DATABASE_URL: url,
      },
    ),
  );

  it.each(['hunter/2', 'hunter@2/3', '12/34', 'hunter#2', '12?34'])(
    'refuses a DATABASE_URL with the unencoded password %s, and repeats no part of it',
    (password) =>
      expectRefusal(
        { code: 'CONFIG_INVALID', says: /^(?!.*(hunter|12|34)).* percent-encoded: @ as %40/ },
        ['migrate'],
        {
          DATABASE_URL: `postgresql://user:${password}@localhost/x`,
        },
      ),
  );

  it.each([
    [
      'an sslmode that there is not',
      '?sslmode=on',
      /DATABASE_URL must have an sslmode of disable, allow, prefer, require, /,
    ],
    ['verify-ca without the CA', '?sslmode=verify-ca', /DATABASE_URL must name the CA's certificate .*sslrootcert=/],
    [
      'a CA that is not there',
      '?sslmode=verify-full&sslrootcert=/no/ca.pem',
      /sslrootcert that cannot be read: \/no\/ca\.pem/,
    ],
  ])('refuses a DATABASE_URL with %s', (_what, parameters, says) =>
    expectRefusal({ code: 'CONFIG_INVALID', says }, ['migrate'], {
      DATABASE_URL: `postgresql://localhost/x${parameters}`,
    }),
  );

  it.each([
    ['whose password is not encoded', 'redis://:pa%ss@localhost', /must have every % .* written as %25/],
    ['that is of another protocol', 'http://localhost', /must be a URL that starts with redis:\/\/ or rediss:\/\//],
    ['of a cluster by another scheme', 'redis-cluster://a,redis://b', /must be a URL that starts with redis:/],
    ['whose second server has no scheme', 'redis://a:7000,b:7000', /or several, separated by commas/],
    ['whose second server has neither scheme nor port', 'redis://a,b', /or several, separated by commas/],
    ['that ends with a comma', 'redis://a,redis://b,', /or several, separated by commas/],
    ['with two passwords', 'redis://:hunter2@a,redis://:hunter3@b', /must have the same scheme, user and password/],
    [
      'of which one server has no password',
      'redis://:hunter2@a,redis://b',
      /must have the same scheme, user and password/,
    ],
    ['that mixes TLS and none', 'redis://a,rediss://b', /must have the same scheme, user and password/],
    ['of a cluster with a database', 'redis://a/1,redis://b/1', /must have no database in its URLs/],
    ['with a prefix for keys', 'redis://a?keyPrefix=x', /must not have the parameter keyPrefix/],
  ])('refuses a REDIS_URL %s', async (_what, url, says) => {
    const refused = await liventix(['worker'], { DATABASE_URL: 'postgresql://localhost/x', REDIS_URL: url });
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: CONFIG_INVALID: REDIS_URL [^\n]+\n$/);
    expect(refused.stderr).toMatch(says);
    expect(refused.stderr).not.toContain('hunter');
  });

  it.each([
    ['migrate'],
    ['migrate status'],
    ['backfill run'],
    ['books verify'],
    ['outbox status'],
    ['worker'],
    ['doctor'],
  ])('tells %s to have DATABASE_URL set', (command) =>
    expectRefusal({ code: 'CONFIG_DATABASE_URL_MISSING', says: /Set it to postgresql:/ }, command.split(' '), {
      DATABASE_URL: '',
    }),
  );
});

// Every command that opens the database, in each of the ways it does.
const COMMANDS = [['migrate'], ['migrate', 'status'], ['books', 'verify'], ['worker']];

describe('a database that cannot be used', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());
  const changed = (change: {
    password?: string;
    port?: string;
    pathname?: string;
    hostname?: string;
    username?: string;
  }) => Object.assign(new URL(database.url), change).href;

  describe.each(COMMANDS.map((args) => [args.join(' '), args] as const))('%s', (_name, args) => {
    it('names DB_UNREACHABLE when nobody listens', async () =>
      expectRefusal({ code: 'DB_UNREACHABLE', says: /ECONNREFUSED.*Check that it runs/ }, args, {
        DATABASE_URL: changed({ port: `${await freePort()}` }),
      }));

    it('names DB_UNREACHABLE when the host has no address', () =>
      expectRefusal({ code: 'DB_UNREACHABLE', says: /DATABASE_URL names its host and port, .*percent-encoded/ }, args, {
        DATABASE_URL: changed({ hostname: 'no-such-host.invalid' }),
      }));

    it('names DB_AUTH_FAILED when the password is wrong, and does not repeat it', async () => {
      const env = { DATABASE_URL: changed({ password: 'hunter2' }) };
      await expectRefusal(
        { code: 'DB_AUTH_FAILED', says: /^(?!.*hunter2).*Check the user and the password/ },
        args,
        env,
      );
    });

    it('names DB_AUTH_FAILED, and the missing password, when there is none', () =>
      expectRefusal({ code: 'DB_AUTH_FAILED', says: /asks for a password, and DATABASE_URL has none/ }, args, {
        DATABASE_URL: changed({ password: '' }),
      }));

    it('names DB_AUTH_FAILED when the user does not exist', () =>
      expectRefusal({ code: 'DB_AUTH_FAILED', says: /nobody_here/ }, args, {
        DATABASE_URL: changed({ username: 'nobody_here' }),
      }));

    it('names DB_NOT_FOUND when the database does not exist', () =>
      expectRefusal({ code: 'DB_NOT_FOUND', says: /"no_such_database" does not exist.*Create it/ }, args, {
        DATABASE_URL: changed({ pathname: '/no_such_database' }),
      }));
  });

  it.each<[line: string, code: ErrorCode, meant: string]>([
    ['ledger account open --type revenu --currency USD --name x', 'LEDGER_ACCOUNT_TYPE_UNKNOWN', 'revenue'],
    ['states transition escrow 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 relese', 'STATE_EVENT_UNKNOWN', 'release'],
    ['partitions plan --table analytics.event_impresions', 'PARTITIONS_TABLE_UNKNOWN', 'analytics.event_impressions'],
    ['restructure plan --table ticketz', 'RESTRUCTURE_TABLE_UNKNOWN', 'tickets'],
  ])('suggests of what it knows: %s', (line, code, meant) =>
    expectRefusal({ code, says: new RegExp(`\\(Did you mean ${meant}\\?\\)`) }, line.split(' '), {
      DATABASE_URL: database.url,
    }),
  );

  it('names DB_UNREACHABLE within its bound when the port takes connections and says nothing', async () => {
    const silent = createServer(() => undefined).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const address = silent.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    try {
      await expectRefusal({ code: 'DB_UNREACHABLE', says: /timeout/ }, ['migrate', 'status'], {
        DATABASE_URL: changed({ port: `${port}` }),
      });
    } finally {
      silent.close();
    }
  });

  it('names MIGRATIONS_PENDING on a database that was never migrated, and leaves it as it was', async () => {
    const empty = await createDatabase({ template: EMPTY });
    try {
      for (const args of [['books', 'verify'], ['backfill', 'run'], ['outbox', 'status'], ['worker']]) {
        await expectRefusal({ code: 'MIGRATIONS_PENDING', says: /Run: liventix migrate/ }, args, {
          DATABASE_URL: empty.url,
        });
      }
      const { rows } = await empty.pool.query(
        `select nspname from pg_namespace where nspname !~ '^pg_' and nspname not in ('public', 'information_schema')`,
      );
      expect(rows).toEqual([]);
    } finally {
      await empty.drop();
    }
  });

  it('names DB_PERMISSION_DENIED when the role may not migrate, and leaves nothing half-written', async () => {
    const empty = await createDatabase({ template: EMPTY });
    const stranger = `${empty.name}_stranger`;
    await empty.pool.query(`create role ${stranger} login password 'stranger'`);
    try {
      await expectRefusal({ code: 'DB_PERMISSION_DENIED', says: /permission denied.*owner/ }, ['migrate'], {
        DATABASE_URL: Object.assign(new URL(empty.url), { username: stranger, password: 'stranger' }).href,
      });
      const { rows } = await empty.pool.query(`select nspname from pg_namespace where nspname = 'liventix'`);
      expect(rows).toEqual([]);
    } finally {
      await empty.drop();
      await database.pool.query(`drop role ${stranger}`);
    }
  });
});

// A real one: its binaries come from npm, as the embedded server's do.
describe('a PostgreSQL below 15', () => {
  let old: LocalServer;
  beforeAll(async () => {
    old = await startOldPostgres();
  }, 300_000);
  afterAll(() => old.stop());

  it.each(COMMANDS.map((args) => [args.join(' '), args] as const))('is refused by %s', (_name, args) =>
    expectRefusal(
      { code: 'DB_TOO_OLD', says: /The server is PostgreSQL 14\.\d+.*; 15 or newer is needed\. Upgrade it/ },
      args,
      {
        DATABASE_URL: old.adminUrl,
      },
    ),
  );

  it('is called too old by doctor, which exits with 1', async () => {
    const run = await liventix(['doctor', '--json'], { DATABASE_URL: old.adminUrl });
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    const { checks } = JSON.parse(run.stdout) as { checks: { name: string }[] };
    expect(checks[0]).toMatchObject({
      name: 'database',
      result: 'failed',
      found: expect.stringMatching(/^PostgreSQL 14\./),
      todo: expect.stringMatching(/^DB_TOO_OLD: /),
    });
  });
});

describe('an output that cannot be written', () => {
  it('is SYSTEM_FAILED on a full disk, in one line', () => {
    const full = openSync('/dev/full', 'w');
    const run = spawnSync(process.execPath, ['bin/liventix', '--help'], {
      encoding: 'utf8',
      stdio: ['ignore', full, 'pipe'],
    });
    closeSync(full);
    expect(run.stderr).toMatch(/^liventix: SYSTEM_FAILED: [^\n]*ENOSPC[^\n]*\n$/);
    expect(run.status).toBe(3);
  });

  it('ends without a word when nobody reads it, but not as if it had been read', async () => {
    const child = spawn(process.execPath, ['bin/liventix', '--help'], { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.destroy();
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      stderr += chunk;
    });
    const [exitCode] = await once(child, 'close');
    expect({ exitCode, stderr }).toEqual({ exitCode: 3, stderr: '' });
  });
});

it('writes help and version to stdout, and exits with 0', async () => {
  const help = await startLiventix(['--help']).done;
  expect(help).toMatchObject({ exitCode: 0, stderr: '' });
  expect(help.stdout).toContain('Exit codes: 0 holds or done, 1 does not hold, 2 wrong usage, 3 could not find out.');
  const version = await startLiventix(['--version']).done;
  expect(version).toMatchObject({ exitCode: 0, stderr: '', stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) });
});
