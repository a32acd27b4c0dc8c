import { execFile, spawn } from 'node:child_process';
import { chown, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { freePort, isAlive } from '../../src/db/server.ts';
import { eventually } from './eventually.ts';
import { query } from './query.ts';

export interface Replica {
  /** Of the superuser, to the database `postgres`. */
  readonly adminUrl: string;
  stop(): Promise<void>;
}

/** A physical replica of a server of the test's own: a backup of its files, made while it runs, that follows it. */
export async function startReplica(primaryUrl: string): Promise<Replica> {
  const primary = new pg.Client({ connectionString: primaryUrl });
  await primary.connect();
  const { rows } = await primary.query<{ dir: string }>(`select current_setting('data_directory') as dir`);
  const source = rows[0]?.dir ?? '';
  const dir = join(dirname(source), 'replica');
  await primary.query(`select pg_backup_start('replica', true)`);
  // Files come and go while they are copied, of which cp complains; what the backup's label has replayed makes up for it.
  await promisify(execFile)('cp', ['-a', source, dir]).catch(() => undefined);
  const label = await primary.query<{ labelfile: string }>('select labelfile from pg_backup_stop()');
  await primary.end();

  const pid = Number((await readFile(join(source, 'postmaster.pid'), 'utf8')).split('\n')[0]);
  const { uid, gid } = await stat(`/proc/${pid}`);
  await rm(join(dir, 'postmaster.pid'));
  const files = {
    backup_label: label.rows[0]?.labelfile ?? '',
    'standby.signal': '',
    'postgresql.auto.conf': `primary_conninfo = '${primaryUrl}'\n`,
  };
  for (const [name, text] of Object.entries(files)) {
    await writeFile(join(dir, name), text);
    await chown(join(dir, name), uid, gid);
  }
  const port = await freePort();
  const [program = '', ...args] = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0').slice(0, -1);
  const asReplica = args.map((arg) => (arg === source ? dir : arg.replace(/^port=\d+$/, `port=${port}`)));
  const child = spawn(program, asReplica, { uid, gid, cwd: '/', detached: true, stdio: 'ignore' });
  child.unref();
  const adminUrl = Object.assign(new URL(primaryUrl), { port: String(port) }).href;
  await eventually('the replica answers', () => query(adminUrl, 'select').catch(() => undefined));
  return {
    adminUrl,
    stop: async () => {
      const replica = child.pid ?? 0;
      process.kill(replica, 'SIGINT');
      await eventually('the replica is gone', () => !isAlive(replica));
      await rm(dir, { recursive: true, force: true });
    },
  };
}
