import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { putEmbeddings } from '../../src/analytics/embeddings/write.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { uuidOf } from '../support/embeddings.ts';
import { liventix } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await database.pool.query('create table public.events (id uuid primary key)');
  await database.pool.query(`insert into events values ('${uuidOf(1)}'), ('${uuidOf(2)}'), ('${uuidOf(3)}')`);
});
afterAll(() => database.drop());

const run = (line: string) => liventix(line.split(' '), { DATABASE_URL: database.url });
const embeddings = (line: string) => run(`embeddings ${line}`);
const refuses = (code: Parameters<typeof expectRefusal>[0]['code'], says: RegExp, line: string) =>
  expectRefusal({ code, says }, `embeddings ${line}`.split(' '), { DATABASE_URL: database.url });
const doctorsLine = async () => (await run('doctor')).stdout.split('\n').find((line) => line.includes('embeddings'));

describe('liventix embeddings, on a server without pgvector', () => {
  it('says that there is nothing yet, and what to do', async () => {
    expect((await embeddings('status')).stdout).toBe(
      [
        'searched   exactly, over arrays: the server has no pgvector',
        'events     by no model: liventix embeddings models use',
        'sponsors   by no model: liventix embeddings models use',
        'packages   by no model: liventix embeddings models use',
        '',
      ].join('\n'),
    );
    expect(await doctorsLine()).toMatch(/^skipped +embeddings +nothing is searched by embeddings$/);
  });

  it('adds a version once, and has a kind searched by it', async () => {
    expect((await embeddings('models add small@1 --dimensions 3 --dry-run')).stdout).toBe('small@1 added\n');
    await refuses('EMBEDDING_MODEL_UNKNOWN', /There is no model version 'small@1'/, 'models use event small@1');
    expect((await embeddings('models add small@1 --dimensions 3')).stdout).toBe('small@1 added\n');
    expect((await embeddings('models add small@1 --dimensions 3')).stdout).toBe('small@1 is there already\n');
    expect((await embeddings('models use event small@1')).stdout).toBe(
      'events are searched by small@1: 0 are found no longer\n',
    );
    await refuses('EMBEDDING_MODEL_FIXED', /makes 3 components, not 4/, 'models add small@1 --dimensions 4');
    await refuses('USAGE', /Give one of event, sponsor, package/, 'models use user small@1');
    await refuses('EMBEDDING_INVALID', /is no model@version/, 'models use event small');
  });

  it('warns that nobody sees what is tied to no table, and ties it', async () => {
    const made = [1, 2].map((at) => ({ id: uuidOf(at), embedding: [at, 1, 0], content: '' }));
    await putEmbeddings(database.pool, { kind: 'event', embeddings: made });
    expect(await doctorsLine()).toMatch(/^WARNING +embeddings +nobody but the owner sees the embeddings of events/);
    const tried = await embeddings('attach --dry-run');
    expect(tried.stdout).toContain('events     would be tied to public.events\n');
    expect(tried.stderr).toBe('Nothing was changed.\n');
    expect((await embeddings('status')).stdout).toContain('tied to no table');
    expect((await embeddings('attach')).stdout).toBe(
      'events     tied to public.events\nsponsors   no table of them is here\npackages   no table of them is here\n',
    );
    expect((await embeddings('status')).stdout).toContain('events     by small@1: 2, 1 without; of public.events\n');
    expect(await doctorsLine()).toMatch(
      /^ok +embeddings +events by small@1; exactly, over arrays: the server has no pgvector$/,
    );
    await refuses('EMBEDDING_SUBJECTS_UNSUITABLE', /public\.nowhere is no table/, 'attach --event public.nowhere');
  });

  it('changes the version when nothing is missing, or as many as may be', async () => {
    await embeddings('models add small@2 --dimensions 2');
    await refuses(
      'EMBEDDING_INCOMPLETE',
      /^.*2 of the events that are found now have no embedding by small@2/,
      'models use event small@2',
    );
    expect((await embeddings('models use event small@2 --dry-run')).stdout).toBe(
      'events would be searched by small@2: 2 would be found no longer\n',
    );
    await putEmbeddings(database.pool, {
      kind: 'event',
      model: 'small@2',
      embeddings: [{ id: uuidOf(1), embedding: [1, 0], content: '' }],
    });
    expect((await embeddings('models list')).stdout).toBe(
      'small@1  3 dimensions\n  events                2  current\nsmall@2  2 dimensions\n  events                1  1 missing\n',
    );
    await refuses('EMBEDDING_MODEL_IN_USE', /small@1 is searched by/, 'models retire small@1');
    expect((await embeddings('models use event small@2 --may-miss 1')).exitCode).toBe(0);
    expect((await embeddings('models retire small@1')).stdout).toBe('small@1 retired\n');
    expect((await embeddings('models list --json')).stdout).toContain(
      '"name":"small@1","dimensions":3,"metric":"cosine"',
    );
  });

  it('does not warn of what there is no table for, and has a kind searched by none again', async () => {
    await embeddings('models add lone@1 --dimensions 2');
    await embeddings('models use sponsor lone@1');
    expect(await doctorsLine()).toMatch(
      /^ok +embeddings +events by small@2, sponsors by lone@1; nobody but the owner sees those of sponsors: no table of them is here \(by another name: liventix embeddings attach --help\); exactly/,
    );
    await putEmbeddings(database.pool, {
      kind: 'sponsor',
      embeddings: [{ id: uuidOf(1), embedding: [1, 0], content: '' }],
    });
    await refuses('EMBEDDING_MODEL_IN_USE', /lone@1 is searched by/, 'models retire lone@1');
    expect(await embeddings('models use sponsor --none --dry-run')).toEqual({
      exitCode: 0,
      stdout: 'sponsors would be searched by no model: 1 would be found no longer\n',
      stderr: 'Nothing was changed.\n',
    });
    expect((await embeddings('models use sponsor --none --json')).stdout).toBe(
      '{"kind":"sponsor","model":null,"missing":1,"dryRun":false}\n',
    );
    expect((await embeddings('models use sponsor --none')).stdout).toBe(
      'sponsors are searched by no model: 0 are found no longer\n',
    );
    expect((await embeddings('status')).stdout).toContain('sponsors   by no model: liventix embeddings models use\n');
    expect(await doctorsLine()).toMatch(/^ok +embeddings +events by small@2; exactly/);
    expect((await embeddings('models retire lone@1')).stdout).toBe('lone@1 retired\n');
    await database.pool.query('delete from ml.sponsor_embeddings');
    for (const neither of ['models use event', 'models use event small@2 --none'])
      await refuses('USAGE', /Give a model version, or --none/, neither);
    await refuses('USAGE', /cannot be used with/, 'models use event --none --may-miss 1');
  });

  it('refuses what wants pgvector, and has nothing to drop', async () => {
    await refuses('EMBEDDING_EXTENSION_MISSING', /This server has no pgvector\. Install it there/, 'index');
    expect((await embeddings('downgrade')).stdout).toBe('there is none\n');
    const upgrade = await embeddings('upgrade');
    expect(upgrade).toMatchObject({ exitCode: 3, stdout: '' });
    expect(upgrade.stderr).toContain('liventix: EMBEDDING_EXTENSION_MISSING: This server has no pgvector.');
    await refuses('USAGE', /Give a size such as 512MB or 2GB/, 'index --memory lots');
  });

  it('verifies, and exits with 1 where a guard is gone', async () => {
    expect(await embeddings('verify')).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('3 embeddings') });
    await database.pool.query('alter table ml.model_versions disable trigger model_versions_fixed');
    const failing = await embeddings('verify --json');
    expect(failing.exitCode).toBe(1);
    expect(failing.stdout).toContain('"faults":["trigger model_versions_fixed of ml.model_versions"]');
    expect(await doctorsLine()).toMatch(
      /^FAILED +embeddings +embeddings lack what guards them: trigger model_versions_fixed/,
    );
  });
});
