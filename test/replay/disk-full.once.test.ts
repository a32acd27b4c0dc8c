import { spawnSync } from 'node:child_process';
import { chown, mkdtemp, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, inject, it } from 'vitest';
import {
  backfill,
  booksHold,
  failure,
  legacyDatabases,
  progressOf,
  ROWS,
  undisturbedDigest,
} from '../support/backfill.ts';
import type { TestDatabase } from '../support/database.ts';
import { booksDigest } from '../support/legacy.ts';
import { query } from '../support/query.ts';

/** Only root may mount a disk as small as this one. */
const isRoot = process.getuid?.() === 0;
const [SMALL, LARGE] = ['1m', '64m'];
const TABLESPACE = 'small_disk';

const { filled } = legacyDatabases();
let disk = '';

const mount = (...args: string[]) => {
  const { status, stderr } = spawnSync('mount', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`mount ${args.join(' ')}: ${stderr}`);
};
const rowsInLog = async ({ pool }: TestDatabase) => {
  const { rows } = await pool.query<{ n: bigint }>(
    `select count(*) as n from payments.events where payload -> 'metadata' ? 'legacy'`,
  );
  return rows[0]?.n;
};
afterEach(async () => {
  if (disk === '') return;
  spawnSync('umount', [disk]);
  await rm(disk, { recursive: true, force: true });
});

it.runIf(isRoot)(
  'a disk that fills ends a run with one line, and with room again it goes on to the same books',
  async () => {
    const undisturbed = await undisturbedDigest();
    const database = await filled();
    const adminUrl = inject('adminUrl');
    const [server] = await query<{ dir: string }>(adminUrl, `select current_setting('data_directory') as dir`);
    const { uid, gid } = await stat(server?.dir ?? '');
    disk = await mkdtemp(join('/var/tmp', 'liventix-disk-'));
    mount('-t', 'tmpfs', '-o', `size=${SMALL}`, 'tmpfs', disk);
    await chown(disk, uid, gid);
    await query(adminUrl, `create tablespace ${TABLESPACE} location '${disk}'`);
    try {
      await query(database.adminUrl, `alter table payments.entries set tablespace ${TABLESPACE}`);
      expect(await backfill(database, '--chunk', '100')).toEqual(
        failure('DB_DISK_FULL', 'No space left on device.*run again'),
      );
      const rows = await progressOf(database.pool);
      expect(rows).toBeGreaterThan(0n);
      expect(rows).toBeLessThan(ROWS);
      expect(await rowsInLog(database)).toBe(rows);
      // It is full still.
      expect(await backfill(database, '--chunk', '100')).toEqual(failure('DB_DISK_FULL'));
      expect(await progressOf(database.pool)).toBe(rows);
      mount('-o', `remount,size=${LARGE}`, disk);
      expect(await backfill(database)).toMatchObject({ exitCode: 0, stderr: '' });
      expect(await booksDigest(database.pool)).toBe(undisturbed);
      await booksHold(database.pool);
    } finally {
      await query(database.adminUrl, 'alter table payments.entries set tablespace pg_default');
      await query(adminUrl, `drop tablespace ${TABLESPACE}`);
    }
  },
);
