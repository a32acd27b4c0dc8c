import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { post } from '../../src/ledger/ledger.ts';
import { compareWithRebuild, type RebuildOptions, rebuildProjections } from '../../src/ledger/rebuild/rebuild.ts';
import { liveState, type TestAccounts, transfer } from '../support/books.ts';
import { damage } from '../support/damage.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { startLiventix } from '../support/liventix.ts';
import { fillEveryProjection } from '../support/rebuild-book.ts';

const KILLS = process.env['LIVENTIX_DRILLS'] === 'full' ? 20 : 2;
const SWAP = { keep: true, stepEvents: 5, swap: { maxRows: 1_000n } } as const;
const DAMAGE = `
  update payments.entries set amount_cents = amount_cents + 1 where id = (select max(id) from payments.entries);
  update payments.balances set balance_cents = 1 where balance_cents > 0;
  delete from payments.periods`;
const DAMAGED_ROWS = 3n;

let database: TestDatabase;
let accounts: TestAccounts;
beforeAll(async () => {
  database = await createDatabase();
  accounts = await fillEveryProjection(database.pool);
});
afterAll(() => database.drop());

const die = () => {
  throw new Error('killed here');
};
/** Dies when it is asked for the nth time. */
const dieAt = (nth: number) => {
  let calls = 0;
  return () => {
    calls += 1;
    if (calls === nth) die();
  };
};

async function goesOnAfter(crash: () => Promise<unknown>): Promise<void> {
  await damage(database.pool, DAMAGE);
  const before = await liveState(database.pool);
  await crash();
  expect(await liveState(database.pool)).toBe(before);
  await post(database.pool, transfer(accounts.yen, accounts.yen, { currency: 'JPY' }));
  expect((await rebuildProjections(database.pool, SWAP)).swap?.rows).toBe(DAMAGED_ROWS);
  expect((await compareWithRebuild(database.pool)).filter(({ isEqual }) => !isEqual)).toEqual([]);
}

describe('a rebuild that ends', () => {
  it.each<[where: string, watch: Partial<RebuildOptions>]>([
    ['after its first step', { onStep: dieAt(1) }],
    ['after its fourth step', { onStep: dieAt(4) }],
    ['while it compares', { onCompare: dieAt(3) }],
    ['between the comparison and the swap', { onCheck: die }],
  ])('%s leaves the live tables as they were, and goes on when run again', async (_where, watch) => {
    await goesOnAfter(async () => {
      await expect(rebuildProjections(database.pool, { ...SWAP, ...watch })).rejects.toThrow('killed here');
      const { rows } = await database.pool.query<{ position: bigint }>('select position from payments_rebuilt.run');
      expect(rows[0]?.position).toBeGreaterThan(0n);
      const found = await rebuildProjections(database.pool, { keep: true });
      expect(found.resumedAt).toBe(rows[0]?.position);
    });
  });

  it.each([
    ['when it has taken the triggers out of the way', 'disable trigger'],
    ['when it has replaced the rows, and the triggers are coming back', 'enable always trigger'],
  ])('%s, its connection cut by the server, leaves the live tables as they were', async (_where, text) => {
    await asSuperuser(
      database,
      `
      create function public.cut() returns event_trigger language plpgsql as $$
      begin
        if current_query() like '%${text}%' then perform pg_terminate_backend(pg_backend_pid()); end if;
      end $$`,
    );
    await goesOnAfter(async () => {
      await asSuperuser(
        database,
        `create event trigger cut on ddl_command_end when tag in ('ALTER TABLE') execute function public.cut()`,
      );
      try {
        await expect(rebuildProjections(database.pool, SWAP)).rejects.toMatchObject({ code: 'DB_UNREACHABLE' });
      } finally {
        await asSuperuser(database, 'drop event trigger cut; drop function public.cut()');
      }
    });
  });

  it('because its process was killed, at any moment, leaves nothing that keeps the next from making it right', async () => {
    await damage(database.pool, DAMAGE);
    for (let kill = 0; kill < KILLS; kill += 1) {
      const running = startLiventix(['replay', 'rebuild', '--swap'], { DATABASE_URL: database.url });
      const killed = AbortSignal.timeout(300 + Math.floor(Math.random() * 1_500));
      killed.addEventListener('abort', () => running.kill('SIGKILL'));
      await running.done;
    }
    await rebuildProjections(database.pool, SWAP);
    expect((await compareWithRebuild(database.pool)).filter(({ isEqual }) => !isEqual)).toEqual([]);
  }, 120_000);

  it('because it was told to stop, does so after the step under way', async () => {
    const stop = new AbortController();
    await goesOnAfter(async () => {
      const steps: bigint[] = [];
      const stopped = rebuildProjections(database.pool, {
        ...SWAP,
        stop: stop.signal,
        onStep: (position) => {
          steps.push(position);
          if (steps.length === 2) stop.abort('SIGINT');
        },
      });
      await expect(stopped).rejects.toMatchObject({ code: 'STOPPED' });
      expect(steps).toHaveLength(2);
    });
  });
});
