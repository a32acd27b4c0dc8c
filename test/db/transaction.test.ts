import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { withTransaction } from '../../src/db/transaction.ts';
import { AppError } from '../../src/errors.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ template: EMPTY });
  await database.pool.query(
    'create table counter (id int primary key, n int not null); insert into counter values (1, 0), (2, 0)',
  );
});
afterAll(() => database.drop());

const serializable = { mode: 'isolation level serializable' };

describe('withTransaction', () => {
  it('commits what the work returns, and rolls back when it throws', async () => {
    await expect(
      withTransaction(database.pool, async (tx) => {
        await tx.query('update counter set n = 100');
        throw new AppError('LEDGER_INVALID', 'no');
      }),
    ).rejects.toMatchObject({ code: 'LEDGER_INVALID' });
    const result = await withTransaction(database.pool, (tx) => tx.query('select max(n) as n from counter'));
    expect(result.rows).toEqual([{ n: 0 }]);
  });

  it('runs the whole of the work again after a serialization failure, and loses no update', async () => {
    let tries = 0;
    const increment = () =>
      withTransaction(
        database.pool,
        async (tx) => {
          tries += 1;
          const { rows } = await tx.query<{ n: number }>('select n from counter where id = 1');
          await tx.query('update counter set n = $1 where id = 1', [(rows[0]?.n ?? 0) + 1]);
        },
        { ...serializable, maxTries: 50 },
      );
    await Promise.all(Array.from({ length: 8 }, increment));
    const { rows } = await database.pool.query('select n from counter where id = 1');
    expect(rows).toEqual([{ n: 8 }]);
    expect(tries).toBeGreaterThan(8);
  });

  it('runs the loser of a deadlock again', async () => {
    let arrived = 0;
    let meet: () => void = () => undefined;
    const both = new Promise<void>((resolve) => {
      meet = resolve;
    });
    const cross = (first: number, second: number) =>
      withTransaction(database.pool, async (tx) => {
        await tx.query('update counter set n = n + 1 where id = $1', [first]);
        arrived += 1;
        if (arrived >= 2) meet();
        await both;
        await tx.query('update counter set n = n + 1 where id = $1', [second]);
      });
    await Promise.all([cross(1, 2), cross(2, 1)]);
    expect(arrived).toBe(3);
  });

  it('gives up after a bounded number of tries, with a code that says that nothing was written', async () => {
    let tries = 0;
    const work = withTransaction(
      database.pool,
      async (tx) => {
        tries += 1;
        await tx.query(`do $$ begin raise exception 'again' using errcode = '40001'; end $$`);
      },
      { maxTries: 3, random: () => 0 },
    );
    await expect(work).rejects.toMatchObject({ code: 'DB_CONFLICT', exitCode: 3 });
    expect(tries).toBe(3);
  });

  it('survives a connection that dies in the middle, and gives the pool no broken client back', async () => {
    await expect(
      withTransaction(database.pool, (tx) => tx.query('select pg_terminate_backend(pg_backend_pid())')),
    ).rejects.toMatchObject({ code: 'DB_UNREACHABLE' });
    const { rows } = await database.pool.query('select 1 as one');
    expect(rows).toEqual([{ one: 1 }]);
  });
});
