import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { booksHold } from '../support/backfill.ts';
import { type CrashingServer, startCrashingServer } from '../support/crashing-server.ts';
import type { TestDatabase } from '../support/database.ts';
import { COMMANDS, databaseBefore, drill, type Strike, undisturbed } from '../support/drill.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import { query } from '../support/query.ts';
import { startWire } from '../support/wire.ts';

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';
const LONG_MS = 1_800_000;
/** Statements of a run: amid its chunks, and how far from there to where what was captured is drained. */
const [AMID, LATER] = [50, 25];

describe('a server that crashes and recovers', () => {
  let server: CrashingServer;
  beforeAll(async () => {
    server = await startCrashingServer();
  });
  afterAll(() => server.stop());

  /** Rows that a checkpoint had before a crash and had not any more after it. */
  let forgotten = 0n;
  const crashed = (nth: number): Strike => ({
    at: { nth, when: 'during' },
    by: async (_, { adminUrl }) => {
      const before = await rowsByCheckpoint(adminUrl);
      await server.crash();
      forgotten += before - (await rowsByCheckpoint(adminUrl));
    },
  });
  const named = (name: string) => COMMANDS.filter((command) => command.name === name);

  it.each(FULL ? COMMANDS : named('cutover'))(
    'at any statement of $name leaves what is gone on with, however often',
    async (command) => {
      const { struck, isFollowed, history } = await drill(command, growing(crashed), { server, writesAfter: 2 });
      expect(struck).toBeGreaterThan(1);
      expect(history).toBe(await undisturbed(command, { isFollowed, server }));
    },
    LONG_MS,
  );

  it.each(named('run'))(
    'amid the chunks of $name forgets rows and checkpoint together, and the next run brings them again',
    async (command) => {
      forgotten = 0n;
      const expected = await undisturbed(command, { isFollowed: true, server });
      let struck = 0;
      for (let nth = FULL ? 1 : AMID; FULL || struck < 2; nth += FULL ? 1 : LATER) {
        const outcome = await drill(command, [crashed(nth)], { server });
        if (outcome.struck === 0) break;
        struck += 1;
        expect({ nth, history: outcome.history }).toEqual({ nth, history: expected });
      }
      expect(struck).toBeGreaterThan(1);
      expect(forgotten).toBeGreaterThan(0n);
    },
    LONG_MS,
  );
});

describe('a process that is killed for real', () => {
  let database: TestDatabase | undefined;
  afterEach(() => database?.drop());

  it.each([
    ['cutover', 40],
    ['rollback', 40],
    ['finish', 12],
  ] as const)('in the middle of %s leaves what the same command goes on with', async (name, nth) => {
    const command = COMMANDS.find((each) => each.name === name) ?? COMMANDS[0];
    if (command === undefined) throw new Error('no such command');
    database = await databaseBefore(command);
    const args = ['backfill', name, ...(name === 'finish' ? [] : ['--all'])];
    const kill = () => running.kill('SIGKILL');
    const wire = await startWire({ databaseUrl: database.url, at: { nth, when: 'during' }, strike: kill });
    const running = startLiventix(args, { DATABASE_URL: wire.url });
    expect(await running.done).toEqual({ exitCode: null, stdout: '', stderr: '' });
    await wire.stop();
    expect(await liventix(args, { DATABASE_URL: database.url })).toMatchObject({ exitCode: 0, stderr: '' });
    await booksHold(database.pool);
  });
});

function* growing(strike: (nth: number) => Strike): Generator<Strike> {
  for (let nth = FULL ? 1 : 8; ; nth *= FULL ? 2 : 4) yield strike(nth);
}

async function rowsByCheckpoint(url: string): Promise<bigint> {
  const [found] = await query<{ rows: string }>(
    url,
    'select coalesce(sum(rows), 0)::text as rows from replay.progress',
  );
  return BigInt(found?.rows ?? 0);
}
