import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asSuperuser, createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';

// `liventix restructure accesses …`, as whoever is at the terminal sees it.

const ACCESSES = {
  accesses: [
    { table: 'orders', op: 'select', select: 'id, lines(what)', filters: ['eq:id', 'single'] },
    { table: 'lines', op: 'insert', columns: ['order_id', 'what'] },
    { table: 'avatars', op: 'other' },
    { rpc: 'order_count', args: [] },
  ],
};

let database: TestDatabase;
let folder: string;
const inFolder = (name: string) => join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'liventix-'));
  await writeFile(inFolder('accesses.json'), JSON.stringify(ACCESSES));
  database = await createDatabase({ template: EMPTY });
  await asSuperuser(
    database,
    `create table orders (id integer primary key);
     create table lines (id bigserial primary key, order_id integer not null references orders, what text);
     insert into orders values (1), (2);
     insert into lines (order_id, what) values (1, 'hat'), (1, 'coat');
     create function order_count() returns bigint language sql security definer return (select count(*) from public.orders);
     grant all on all tables in schema public to service_role, anon;
     grant all on all sequences in schema public to service_role, anon`,
  );
});
afterAll(async () => {
  await database.drop();
  await rm(folder, { recursive: true });
});

const accesses = (args: readonly string[], url = database.adminUrl) =>
  liventix(['restructure', 'accesses', ...args], { DATABASE_URL: url });
const record = (...args: string[]) =>
  accesses(['record', '--accesses', inFolder('accesses.json'), '--output', inFolder('before.json'), ...args]);
const compare = (...args: string[]) => accesses(['compare', '--recording', inFolder('before.json'), ...args]);

describe('accesses', () => {
  it('are recorded, and compare the same until something changes', async () => {
    expect(await record()).toMatchObject({
      exitCode: 0,
      stdout:
        'left out  other avatars: avatars is a bucket of the file storage, no table\n' +
        '3 accesses as service, anonymous: 6 answers, 0 refusals.\n',
    });
    expect(await compare()).toMatchObject({ exitCode: 0, stdout: '6 answers compared, 0 differ.\n' });
    expect(JSON.parse((await compare('--json')).stdout)).toEqual({ compared: 6, notApplicable: 1, differences: [] });
    await asSuperuser(database, 'revoke insert on lines from anon');
    expect(await compare()).toMatchObject({
      exitCode: 1,
      stdout:
        'differs  1 insert lines as anonymous: was answered, is refused with 42501: permission denied for table lines\n' +
        '6 answers compared, 1 differ.\n',
    });
    const { differences } = JSON.parse((await compare('--json')).stdout);
    expect(differences).toMatchObject([{ number: 1, caller: 'anonymous', access: { table: 'lines', op: 'insert' } }]);
    await asSuperuser(database, 'grant insert on lines to anon');
  });

  it('say in JSON what was recorded', async () => {
    expect(JSON.parse((await record('--json', '--seed', '7')).stdout)).toMatchObject({
      accesses: 3,
      callers: [{ name: 'service' }, { name: 'anonymous' }],
      answered: 6,
      refused: 0,
      notApplicable: [{ number: 2 }],
    });
  });

  it('do not name the database in the recording, and are of that database alone', async () => {
    await record();
    expect(await readFile(inFolder('before.json'), 'utf8')).not.toContain(database.name);
    const other = database.adminUrl.replace(database.name, 'postgres');
    expect(await accesses(['compare', '--recording', inFolder('before.json')], other)).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining('RESTRUCTURE_OTHER_DATABASE'),
    });
  });

  it.each([
    ['no recording', 'recorded.json', undefined, /is not there\. Make one: liventix restructure accesses record/],
    ['no JSON', 'recorded.json', '{', /is no recording/],
    [
      'another version',
      'recorded.json',
      '{"version":2,"callers":[],"notApplicable":[],"prepared":[],"results":[]}',
      /another version/,
    ],
  ])('refuse %s', async (_, name, text, says) => {
    if (text !== undefined) await writeFile(inFolder(name), text);
    const { exitCode, stderr } = await accesses(['compare', '--recording', inFolder(name)]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: expect.stringMatching(says) });
  });

  it.each([
    ['are not there', 'nowhere.json', undefined, /cannot be read/],
    ['are no JSON', 'odd.json', 'no', /is no JSON/],
    ['are none', 'odd.json', '{"accesses":[{"table":"orders","op":"look"}]}', /accesses\.0/],
  ])('that %s are not recorded', async (_, name, text, says) => {
    if (text !== undefined) await writeFile(inFolder(name), text);
    const { exitCode, stderr } = await accesses(['record', '--accesses', inFolder(name)]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: expect.stringMatching(says) });
  });

  it('cannot be sent by who may not take on the roles of the API', async () => {
    const { exitCode, stderr } = await accesses(
      ['record', '--accesses', inFolder('accesses.json'), '--output', inFolder('never.json')],
      database.url,
    );
    expect({ exitCode, stderr }).toEqual({ exitCode: 3, stderr: expect.stringContaining('DB_PERMISSION_DENIED') });
  });

  it('are explained with examples, in lines that fit', async () => {
    for (const command of ['record', 'compare']) {
      const { stdout } = await accesses([command, '--help']);
      expect(stdout).toContain(`liventix restructure accesses ${command}\n`);
      expect(stdout.split('\n').filter((line) => line.length > 140)).toEqual([]);
    }
  });
});
