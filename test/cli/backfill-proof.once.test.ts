import { createHash, randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runBackfill } from '../../src/replay/backfill.ts';
import { type ProofDocument, textOfProof } from '../../src/replay/proof/file.ts';
import type { TestDatabase } from '../support/database.ts';
import { createLegacyTestDatabase, givenRow, givenWallet, setBalance } from '../support/legacy.ts';
import { liventix } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';

const SIZE = { wallets: 20, orgWallets: 4, transactions: 400, seed: 5 };

let database: TestDatabase;
let directory: string;
const file = (name: string) => join(directory, name);
beforeAll(async () => {
  database = await createLegacyTestDatabase(SIZE);
  directory = await mkdtemp(join(tmpdir(), 'liventix-proof-'));
});
afterAll(async () => {
  await database.drop();
  await rm(directory, { recursive: true });
});

const run = (...args: string[]) => liventix(['backfill', ...args], { DATABASE_URL: database.url });
const proof = (...args: string[]) => run('proof', ...args);
const refused = (code: Parameters<typeof expectRefusal>[0]['code'], says: RegExp, ...args: string[]) =>
  expectRefusal({ code, says }, ['backfill', 'proof', ...args], { DATABASE_URL: database.url });
const read = async (name: string) =>
  JSON.parse(await readFile(file(name), 'utf8')) as ProofDocument & { sha256: string };
/** As somebody would who knows how the digest is made. */
const forge = async (name: string, change: (document: ProofDocument) => void) => {
  const { sha256: _, ...document } = await read('first.json');
  change(document);
  await writeFile(file(name), textOfProof(document));
};

/** In the order in which an engineer goes; each goes on from the ones before. */
describe('liventix backfill proof', () => {
  it('is refused before the backfill has finished, and leaves no file', async () => {
    await refused('BACKFILL_UNFINISHED', /liventix backfill run$/m, 'write', file('first.json'));
    await expect(readFile(file('first.json'))).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('is written at the end of a run, as a file of its own that nothing takes the place of', async () => {
    const ran = await run('run', '--proof', file('first.json'), '--json');
    expect(ran).toMatchObject({ exitCode: 0, stderr: '' });
    const written = await readFile(file('first.json'), 'utf8');
    const sha256 = createHash('sha256').update(written).digest('hex');
    expect(JSON.parse(ran.stdout)).toMatchObject({
      finished: true,
      proof: { holds: true, file: file('first.json'), sha256, rows: 400, holders: 24 },
    });
    expect(await read('first.json')).toMatchObject({
      format: 'liventix backfill proof 1',
      database: database.name,
      holds: true,
    });
    const body = written.slice(0, written.lastIndexOf('\n"sha256"'));
    expect(JSON.parse(written).sha256).toBe(createHash('sha256').update(body).digest('hex'));
    await refused('USAGE', /is there already/, 'write', file('first.json'));
    await expectRefusal(
      { code: 'USAGE', says: /--proof.*--dry-run|--dry-run.*--proof/ },
      ['backfill', 'run', '--dry-run', '--proof', file('x.json')],
      {
        DATABASE_URL: database.url,
      },
    );
  });

  it('is verified, and once more after old code went on', async () => {
    const verified = await proof('verify', file('first.json'));
    expect(verified).toMatchObject({ exitCode: 0, stderr: '' });
    expect(verified.stdout).toMatch(
      /^400 rows and the balances of 24 holders compared\nBoth are what the proof of 20\S+Z says of them, up to seal 1\.\n$/,
    );
    const wallet = await givenWallet(database.pool);
    await givenRow(database.pool, wallet, { type: 'adjustment', referenceType: 'system', delta: 5 });
    await setBalance(database.pool, wallet, 5);
    await database.pool.query(
      'update wallet_transactions set credits_delta = 1 where id in (select id from wallet_transactions order by id limit 1)',
    );
    const waiting = await proof('verify', file('first.json'));
    expect(waiting).toMatchObject({ exitCode: 0, stderr: '' });
    expect(waiting.stdout).toMatch(
      /^2 captured changes wait and were put back before the comparison: liventix backfill run$/m,
    );
    expect(await run('run')).toMatchObject({ exitCode: 0 });
    expect(JSON.parse((await proof('verify', file('first.json'), '--json')).stdout)).toMatchObject({
      holds: true,
      faults: [],
      seal: 1,
      notCompared: { pendingChanges: 0 },
    });
  });

  it('names what differs, exits with 1, and says so in the file as well', async () => {
    const { pool } = database;
    const { rows } = await pool.query<{ id: string }>('select id from org_wallet_transactions order by id limit 1');
    const id = rows[0]?.id;
    await pool.query(
      'alter table org_wallet_transactions disable trigger user; update org_wallet_transactions set credits_delta = credits_delta - 1 where id = (select id from org_wallet_transactions order by id limit 1)',
    );
    const verified = await proof('verify', file('first.json'));
    expect(verified).toMatchObject({ exitCode: 1, stderr: '' });
    expect(verified.stdout).toMatch(
      new RegExp(`^ {2}org_wallet_transactions ${id}: -?\\d+ credits, in the log -?\\d+$`, 'm'),
    );
    expect(verified.stdout).toMatch(/\nThey are NOT what the proof of 20\S+Z says of them\.\n$/);
    const written = await proof('write', file('differs.json'));
    expect(written).toMatchObject({ exitCode: 1, stderr: '' });
    expect(written.stdout).toMatch(new RegExp(`^ {2}org_wallet_transactions ${id}: `, 'm'));
    expect(written.stdout).toMatch(/^The old tables and the log are NOT the same\.$/m);
    expect(await read('differs.json')).toMatchObject({ holds: false });
    await pool.query(
      'update org_wallet_transactions set credits_delta = credits_delta + 1 where id = (select id from org_wallet_transactions order by id limit 1)',
    );
    expect((await proof('verify', file('first.json'))).exitCode).toBe(0);
    const differed = await proof('verify', file('differs.json'));
    expect(differed.exitCode).toBe(1);
    expect(differed.stdout).toMatch(/^ {2}the two sides were not the same when the proof was taken$/m);
  });

  it('is changed by nobody unnoticed: neither its figures, with its digest made anew, nor a byte', async () => {
    const text = await readFile(file('first.json'), 'utf8');
    await writeFile(file('byte.json'), text.replace('"holds": true', '"holds":true '));
    await refused('PROOF_FILE_CHANGED', /SHA-256/, 'verify', file('byte.json'));
    for (const [change, says] of [
      [
        (d: ProofDocument) => d.rows.splice(0, 1),
        /^ {2}the rows in chunk \d+ of org_wallet_transactions are not those of the proof: the log was changed$/m,
      ],
      [
        (d: ProofDocument) => d.balances[0]?.old.splice(1, 1, 1),
        /^ {2}the balances in chunk \d+ of org_wallets are not those of the proof: the old tables/m,
      ],
      [
        (d: ProofDocument) => d.rows[0]?.log_recomputed.splice(0, 1, 77),
        /^ {2}the rows in chunk \d+ of org_wallet_transactions are not those of the proof: the log was changed$/m,
      ],
      [
        (d: ProofDocument) => Object.assign(d.seal, { root: 'ab'.repeat(32) }),
        /^ {2}seal 1 is not the one that the proof names$/m,
      ],
    ] as const) {
      await forge('forged.json', change);
      const verified = await proof('verify', file('forged.json'));
      expect(verified).toMatchObject({ exitCode: 1, stderr: '' });
      expect(verified.stdout).toMatch(says);
    }
  });

  it('is refused in one line: no proof, cut off, a newer format, another database, no file', async () => {
    const text = await readFile(file('first.json'), 'utf8');
    const cases = [
      ['no.json', '{"certificate": "liventix books verify"}', 'PROOF_FILE_INVALID', /is no proof of a backfill/],
      ['empty.json', '', 'PROOF_FILE_INVALID', /is no proof of a backfill/],
      ['binary.json', '\u0000\u0001', 'PROOF_FILE_INVALID', /is no proof of a backfill/],
      ['cut.json', text.slice(0, -200), 'PROOF_FILE_INVALID', /is cut off/],
      [
        'newer.json',
        text.replace('proof 1"', 'proof 2"'),
        'PROOF_FILE_INVALID',
        /has the format "liventix backfill proof 2", and this version reads "liventix backfill proof 1"/,
      ],
    ] as const;
    for (const [name, content, code, says] of cases) {
      await writeFile(file(name), content);
      await refused(code, says, 'verify', file(name));
    }
    await forge('unknown.json', (document) => Object.assign(document, { more: 1 }));
    await refused('PROOF_FILE_INVALID', /lacks a field, or has one too many/, 'verify', file('unknown.json'));
    await refused('USAGE', /names no file/, 'verify', file(`${randomUUID()}.json`));
    await refused('USAGE', /names no file/, 'verify', file('.'));
    await refused('USAGE', /is there already/, 'write', file('.'));
    const other = await createLegacyTestDatabase(SIZE);
    try {
      await runBackfill(other.pool);
      await expectRefusal(
        {
          code: 'PROOF_OTHER_DATABASE',
          says: new RegExp(`of database ${database.name}, .* in ${other.name} it is not there`),
        },
        ['backfill', 'proof', 'verify', file('first.json')],
        {
          DATABASE_URL: other.url,
        },
      );
    } finally {
      await other.drop();
    }
  });
});
