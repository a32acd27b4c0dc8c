import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createDatabase, EMPTY } from './support/database.ts';

const run = promisify(execFile);
const root = fileURLToPath(new URL('..', import.meta.url));
const NPM_QUIET = ['--no-audit', '--no-fund', '--loglevel=error'];
const INSTALL_TIMEOUT_MS = 300_000;

// The machine's own Node and npm, not the pinned ones that npm scripts put first: a user of the package has no others.
const machine = {
  PATH: (process.env['PATH'] ?? '')
    .split(delimiter)
    .filter((folder) => !folder.includes('node_modules') && !folder.includes('node-gyp-bin'))
    .join(delimiter),
  HOME: process.env['HOME'] ?? '',
};

let scratch: string;
let app: string;
let packed: readonly string[];
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'liventix-package-'));
  app = join(scratch, 'app');
  await mkdir(app);
  // `prepack` builds.
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', scratch, ...NPM_QUIET], {
    cwd: root,
    env: machine,
  });
  const [tarball] = JSON.parse(stdout.slice(stdout.indexOf('[\n'))) as [
    { filename: string; files: { path: string }[] },
  ];
  packed = tarball.files.map(({ path }) => path);
  await writeFile(join(app, 'package.json'), '{ "name": "app", "private": true, "type": "module" }\n');
  await run('npm', ['install', '--omit=optional', join(scratch, tarball.filename), ...NPM_QUIET], {
    cwd: app,
    env: machine,
  });
}, INSTALL_TIMEOUT_MS);
afterAll(() => rm(scratch, { recursive: true, force: true }));

function npx(args: readonly string[], env: Record<string, string> = {}): Promise<{ stdout: string; stderr: string }> {
  return run('npx', ['--no-install', 'liventix', ...args], { cwd: app, env: { ...machine, ...env } });
}

it('holds the build, the migrations, the fixtures and the error codes, and neither sources nor tests', () => {
  const names = new Set(packed.map((path) => path.split('/')[0]));
  // npm packs a README whether it is listed or not.
  names.delete('README.md');
  expect([...names].sort()).toEqual([
    'bin',
    'compat',
    'dist',
    'docs',
    'fixtures',
    'mappings',
    'migrations',
    'package.json',
    'scripts',
  ]);
  expect(packed).toEqual(
    expect.arrayContaining([
      'bin/liventix',
      'compat/wallet-functions.sql',
      'dist/cli/main.js',
      'dist/console/browser/console.css',
      'dist/console/browser/console.js',
      'dist/ledger/ledger.js',
      'dist/ledger/ledger.d.ts',
      'docs/errors.md',
      'docs/proofs.md',
      'docs/wallet-compatibility.md',
      'fixtures/legacy/wallets.sql',
      'migrations/0001_reference_currencies.sql',
    ]),
  );
  expect(packed.filter((path) => path.startsWith('scripts/'))).toEqual(['scripts/check-proof.py']);
  expect(packed.filter((path) => path.startsWith('dist/') && /(?<!\.d)\.ts$/.test(path))).toEqual([]);
});

it('holds nothing of sources that are gone', async () => {
  const sources = packed
    .filter((path) => /^dist\/.*\.js$/.test(path))
    .map((path) => path.replace(/^dist/, 'src'))
    // What a browser runs is not compiled.
    .map((path) => (path.startsWith('src/console/browser/') ? path : path.replace(/js$/, 'ts')));
  for (const source of sources) await expect(readFile(join(root, source)), source).resolves.toBeDefined();
});

it("runs under the machine's own Node, of 20.18.1 or newer", async () => {
  const { stdout } = await run('node', ['--version'], { env: machine });
  const [major = 0, minor = 0] = stdout.slice(1).split('.').map(Number);
  expect(major * 1_000 + minor).toBeGreaterThanOrEqual(20_018);
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string };
  expect(await npx(['--version'])).toMatchObject({ stdout: `${version}\n` });
  expect((await npx(['--help'])).stdout).toContain('Usage: liventix [options] [command]');
});

it('migrates an empty database, and says afterwards that nothing is pending', async () => {
  const database = await createDatabase({ template: EMPTY });
  try {
    const env = { DATABASE_URL: database.url };
    expect((await npx(['migrate'], env)).stdout).toMatch(/^applied 0001_reference_currencies\napplied 0002_/);
    expect(JSON.parse((await npx(['migrate', 'status', '--json'], env)).stdout)).toMatchObject({ pending: [] });
    expect(JSON.parse((await npx(['doctor', '--json'], env)).stdout)).toMatchObject({ healthy: true });
  } finally {
    await database.drop();
  }
});

it('lets an application post through liventix/ledger', async () => {
  const database = await createDatabase();
  try {
    await writeFile(
      join(app, 'post.js'),
      `import pg from 'pg';
       import { openAccounts, post } from 'liventix/ledger';
       const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
       const [cash, revenue] = await openAccounts(pool, [
         { type: 'cash', currency: 'USD', name: 'cash' },
         { type: 'revenue', currency: 'USD', name: 'revenue' },
       ]);
       const posted = await post(pool, {
         entries: [
           { accountId: cash, amountCents: 500n, currency: 'USD' },
           { accountId: revenue, amountCents: -500n, currency: 'USD' },
         ],
       });
       console.log(posted.status);
       await pool.end();`,
    );
    await run('npm', ['install', 'pg', ...NPM_QUIET, '--omit=optional'], { cwd: app, env: machine });
    const { stdout } = await run('node', ['post.js'], { cwd: app, env: { ...machine, DATABASE_URL: database.url } });
    expect(stdout).toBe('posted\n');
    const { rows } = await database.pool.query('select sum(amount_cents) as sum, count(*) as n from payments.entries');
    expect(rows).toEqual([{ sum: '0', n: 2n }]);
  } finally {
    await database.drop();
  }
});

it('lets an application announce through liventix/outbox, by a schema of its own zod', async () => {
  const database = await createDatabase();
  try {
    await writeFile(
      join(app, 'announce.js'),
      `import pg from 'pg';
       import { z } from 'zod';
       import { announce } from 'liventix/outbox/announce';
       import { registerTopic } from 'liventix/outbox/topics';
       const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
       await client.connect();
       await registerTopic(client, { topic: 'ticket.sold', schema: z.object({ seat: z.string() }) });
       await client.query('begin');
       await announce(client, { topic: 'ticket.sold', payload: { seat: 'A1' } });
       console.log(await announce(client, { topic: 'ticket.sold', payload: { seat: 1 } }).catch(({ code }) => code));
       await client.query('commit');
       await client.end();`,
    );
    await run('npm', ['install', 'pg', 'zod', ...NPM_QUIET, '--omit=optional'], { cwd: app, env: machine });
    const { stdout } = await run('node', ['announce.js'], {
      cwd: app,
      env: { ...machine, DATABASE_URL: database.url },
    });
    expect(stdout).toBe('OUTBOX_PAYLOAD_INVALID\n');
    const { rows } = await database.pool.query('select topic, payload from public.outbox');
    expect(rows).toEqual([{ topic: 'ticket.sold', payload: { seat: 'A1' } }]);
  } finally {
    await database.drop();
  }
});

it('types liventix/ledger for an application in TypeScript', async () => {
  await writeFile(
    join(app, 'typed.ts'),
    `import { type NewTransaction, post } from 'liventix/ledger';
     const transaction: NewTransaction = { entries: [{ accountId: 'a', amountCents: 1n, currency: 'USD' }] };
     // @ts-expect-error: cents are bigint
     const wrong: NewTransaction = { entries: [{ accountId: 'a', amountCents: 1, currency: 'USD' }] };
     export const posted: (db: Parameters<typeof post>[0]) => Promise<'posted' | 'duplicate'> =
       async (db) => (await post(db, transaction)).status;
     export { wrong };\n`,
  );
  const compilerOptions = {
    target: 'es2023',
    module: 'nodenext',
    strict: true,
    skipLibCheck: true,
    noEmit: true,
    types: [],
  };
  await writeFile(join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['typed.ts'] }));
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const { stdout } = await run(process.execPath, [tsc], { cwd: app }).catch((error: { stdout: string }) => error);
  expect(stdout).toBe('');
});
