import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { freePort } from '../../src/db/server.ts';
import { browse } from '../support/browsing.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix, type RunningLiventix, startLiventix } from '../support/liventix.ts';

let database: TestDatabase;
let env: Record<string, string>;
beforeAll(async () => {
  database = await createDatabase();
  env = { DATABASE_URL: database.url };
});
afterAll(() => database.drop());

/** Once it has said that it is ready. */
async function started(args: readonly string[] = [], more: Record<string, string> = {}) {
  const port = await freePort();
  const running = startLiventix(['console', '--http', `127.0.0.1:${port}`, ...args], { ...env, ...more });
  await ready(running);
  return { running, port, url: `http://127.0.0.1:${port}` };
}

async function ready({ stdout, done }: RunningLiventix): Promise<void> {
  const ended = done.then(({ stderr }) => Promise.reject(new Error(`ended before it was ready: ${stderr}`)));
  for (let said = ''; !said.includes('liventix console ready: '); ) {
    const [part] = (await Promise.race([once(stdout, 'data'), ended])) as [string];
    said += part;
  }
  ended.catch(() => undefined);
}

describe('liventix console', () => {
  it('says where it is and who reaches it, and ends on Ctrl-C', async () => {
    const { running, url } = await started();
    expect((await browse(url).get('/books')).text).toContain('Do the books balance?');
    running.kill('SIGINT');
    const { exitCode, stdout, stderr } = await running.done;
    expect(exitCode).toBe(0);
    expect(stdout).toBe(`liventix console ready: ${url}\n`);
    expect(stderr.split('\n').filter((line) => !line.startsWith('{'))).toEqual([
      'Only this machine reaches it. Ctrl-C ends it.',
      'liventix console stopping',
      '',
    ]);
  });

  it('says whose port it is when another one has it', async () => {
    const { running, port } = await started();
    const second = await liventix(['console', '--http', `127.0.0.1:${port}`], env);
    running.kill('SIGTERM');
    await running.done;
    expect(second).toMatchObject({ exitCode: 3, stdout: '' });
    expect(second.stderr).toBe(
      `liventix: HTTP_UNAVAILABLE: 127.0.0.1:${port} cannot be listened on: another process listens there. Give another address with --http.\n`,
    );
  });

  it.each([
    [['--http', '0.0.0.0:9465'], {}, 'CONSOLE_EXPOSED'],
    [['--http', '[::]:9465', '--auth', 'password'], {}, 'CONSOLE_EXPOSED'],
    [['--auth', 'proxy'], {}, 'USAGE: --auth proxy needs LIVENTIX_CONSOLE_PROXY'],
    [['--auth', 'password', '--as', 'viewer'], {}, 'USAGE: --as is for --auth none'],
    [['--http', 'here'], {}, 'Give an address such as 127.0.0.1:9465.'],
    [['--origin', 'https://a.example/path'], {}, 'Give scheme and host alone'],
    [['--orign', 'x'], {}, 'Did you mean --origin?'],
    [['usr'], {}, '(Did you mean user?)'],
    [
      [],
      { LIVENTIX_CONSOLE_ORIGIN: 'console' },
      'CONFIG_INVALID: LIVENTIX_CONSOLE_ORIGIN must be scheme and host alone',
    ],
    [
      [],
      { LIVENTIX_CONSOLE_GROUPS: 'staff=king' },
      'CONFIG_INVALID: LIVENTIX_CONSOLE_GROUPS must be groups and their roles',
    ],
    [
      [],
      { LIVENTIX_CONSOLE_USER_HEADER: 'x y' },
      'CONFIG_INVALID: LIVENTIX_CONSOLE_USER_HEADER must be the name of a header',
    ],
    [[], { DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/none' }, 'DB_UNREACHABLE'],
  ])('refuses %j with %j in one line', async (args, more, line) => {
    const { exitCode, stdout, stderr } = await liventix(['console', ...args], { ...env, ...more });
    expect([2, 3]).toContain(exitCode);
    expect([stdout, stderr.split('\n').length]).toEqual(['', 2]);
    expect(stderr).toContain(line);
  });

  it('lets those in whom console user knows, and shows a made password once', async () => {
    const tried = await liventix(['console', 'user', 'set', 'ada', '--role', 'finance', '--dry-run'], env);
    expect(tried).toEqual({ exitCode: 0, stdout: 'ada would be added: finance.\n', stderr: 'Nothing was changed.\n' });
    const added = await liventix(['console', 'user', 'set', 'ada', '--role', 'finance', 'operator'], env);
    const [, password = ''] =
      /^ada is added: finance, operator\. Password, shown once: (\S+)\n$/.exec(added.stdout) ?? [];
    expect(password.length).toBeGreaterThanOrEqual(20);
    const { running, url } = await started(['--auth', 'password']);
    const browsing = browse(url);
    expect((await browsing.submit('/sign-in', { name: 'ada', password })).status).toBe(303);
    expect((await browsing.get('/books')).text).toContain('title="finance, operator"');
    expect((await liventix(['console', 'user', 'list'], env)).stdout).toMatch(
      /^ada {2}finance, operator {2}1 signed in, last seen \d{4}-\d\d-\d\dT[\d:.]+Z\n$/,
    );

    const spared = await liventix(['console', 'user', 'disable', 'ada', '--dry-run'], env);
    expect(spared.stdout).toBe('ada would be signed out.\n');
    expect((await browsing.get('/books')).status).toBe(200);
    const disabled = await liventix(['console', 'user', 'disable', 'ada'], env);
    expect(disabled.stdout).toBe('ada cannot sign in any more, and is signed out.\n');
    expect((await browsing.get('/books')).status).toBe(303);
    expect((await browsing.submit('/sign-in', { name: 'ada', password })).status).toBe(401);
    running.kill('SIGTERM');
    await running.done;
    const listed = await liventix(['console', 'user', 'list', '--json'], env);
    expect(JSON.parse(listed.stdout)).toMatchObject({ users: [{ name: 'ada', disabledAt: expect.any(String) }] });
  });

  it('takes a password from standard input, without the line break that echo ends it with', async () => {
    const setting = startLiventix(['console', 'user', 'set', 'bob', '--role', 'viewer', '--password-stdin'], env, {
      stdin: true,
    });
    setting.stdin.end('a password of bob\n');
    expect(await setting.done).toMatchObject({ exitCode: 0, stdout: 'bob is added: viewer.\n', stderr: '' });
    const { running, url } = await started(['--auth', 'password']);
    const { status } = await browse(url).submit('/sign-in', { name: 'bob', password: 'a password of bob' });
    running.kill('SIGTERM');
    await running.done;
    expect(status).toBe(303);
  });

  it.each([
    [['set', 'Ada Lovelace', '--role', 'viewer'], 'is no name of a user'],
    [['set', 'ada'], "required option '--role <role...>' not specified"],
    [['set', 'ada', '--role', 'king'], 'Allowed choices are viewer, operator, finance'],
    [['disable', 'nobody'], 'The console has no user "nobody"'],
  ])('console user %j is refused in one line', async (args, line) => {
    const { exitCode, stderr } = await liventix(['console', 'user', ...args], env);
    expect([exitCode, stderr.split('\n').length]).toEqual([2, 2]);
    expect(stderr).toContain(line);
  });
});

describe('books verify --record', () => {
  it('is shown by the console, with the certificate that it would have written', async () => {
    const { exitCode, stdout } = await liventix(['books', 'verify', '--record', '--json'], env);
    expect(exitCode).toBe(0);
    const { running, url } = await started();
    const { text } = await browse(url).get('/books');
    expect(text).toContain('Yes: the books balance.');
    expect(text).toContain(', by liventix books verify');
    const { text: certificate } = await browse(url).get('/books/verifications/1/certificate');
    running.kill('SIGTERM');
    await running.done;
    const { verifiedAt } = JSON.parse(stdout) as { verifiedAt: string };
    expect(JSON.parse(certificate)).toMatchObject({
      certificate: 'liventix books verify',
      book: 'all',
      balance: true,
      verifiedAt,
    });
  });

  it('does not begin while another one is recorded', async () => {
    const { rows } = await database.pool.query<{ id: string }>(
      `insert into console.verifications (asked_by) values ('ada') returning verification_id::text as id`,
    );
    const { exitCode, stderr } = await liventix(['books', 'verify', '--record'], env);
    await database.pool.query(
      `update console.verifications set state = 'failed', ended_at = now() where verification_id = $1`,
      [rows[0]?.id],
    );
    expect(exitCode).toBe(3);
    expect(stderr).toMatch(/^liventix: VERIFICATION_RUNNING: Verification 2 is at work since .*, for ada\./);
  });
});
