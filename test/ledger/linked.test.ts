import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openAccounts, postAll } from '../../src/ledger/ledger.ts';
import { balanceOf, dropVerified, openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let accounts: TestAccounts;

beforeAll(async () => {
  database = await createDatabase();
  accounts = await openTestAccounts(database.pool);
});
afterAll(() => dropVerified(database));

describe('linked transactions', () => {
  const good = () => transfer(accounts.clearing, accounts.wallet);
  const bad = () => transfer(accounts.clearing, randomUUID());
  const linked = { linked: true };

  it('are all posted where none is refused', async () => {
    const outcomes = await postAll(database.pool, [{ ...good(), ...linked }, { ...good(), ...linked }, good()]);
    expect(outcomes.map(({ status }) => status)).toEqual(['posted', 'posted', 'posted']);
  });

  it.each([0, 1, 2])(
    'are none posted where number %i is refused, and the others say whose fault it is',
    async (faulty) => {
      const before = await balanceOf(database.pool, accounts.wallet);
      const chain = [good(), good(), good()].map((transaction, nth) => ({
        ...(nth === faulty ? bad() : transaction),
        ...(nth < 2 ? linked : {}),
      }));
      const outcomes = await postAll(database.pool, [good(), ...chain, good()]);
      const expected = [0, 1, 2].map((nth) =>
        nth === faulty
          ? { status: 'rejected', code: 'LEDGER_ACCOUNT_UNKNOWN' }
          : {
              status: 'rejected',
              code: 'LEDGER_LINK_FAILED',
              message: `It is linked to transaction ${faulty + 2} of the call, which was refused: LEDGER_ACCOUNT_UNKNOWN`,
            },
      );
      expect(outcomes).toMatchObject([{ status: 'posted' }, ...expected, { status: 'posted' }]);
      expect(await balanceOf(database.pool, accounts.wallet)).toBe(before - 200n);
    },
  );

  it('see what the ones before them in the chain did, and undo it with them', async () => {
    const [wallet = ''] = await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: 'chained', userId: randomUUID(), floorCents: 0n },
    ]);
    const deposit = { ...transfer(accounts.clearing, wallet, { amountCents: 100n }), ...linked };
    const spend = (amountCents: bigint) => transfer(wallet, accounts.revenue, { amountCents });
    expect(await postAll(database.pool, [deposit, spend(101n)])).toMatchObject([
      { code: 'LEDGER_LINK_FAILED' },
      { code: 'LEDGER_FLOOR_PASSED' },
    ]);
    expect(await balanceOf(database.pool, wallet)).toBe(0n);
    expect(await postAll(database.pool, [deposit, spend(100n)])).toMatchObject([
      { status: 'posted' },
      { status: 'posted' },
    ]);
  });

  it('are answered as duplicates when the same call comes again', async () => {
    const call = [
      { ...good(), ...linked, idempotencyKey: randomUUID() },
      { ...good(), idempotencyKey: randomUUID() },
    ];
    const first = await postAll(database.pool, call);
    expect(await postAll(database.pool, call)).toEqual(first.map((outcome) => ({ ...outcome, status: 'duplicate' })));
  });

  it('refuse a chain that ends in the air, and leave the neighbours alone', async () => {
    const outcomes = await postAll(database.pool, [good(), { ...good(), ...linked }, { ...good(), ...linked }]);
    expect(outcomes).toMatchObject([
      { status: 'posted' },
      { status: 'rejected', code: 'LEDGER_LINK_FAILED' },
      { status: 'rejected', code: 'LEDGER_INVALID' },
    ]);
  });

  it('keep the order of the call between the chain and what stands alone', async () => {
    const outcomes = await postAll(database.pool, [good(), { ...good(), ...linked }, good(), good()]);
    const positions = outcomes.map((outcome) => (outcome.status === 'posted' ? outcome.eventPosition : -1n));
    expect(positions).toEqual(positions.toSorted((a, b) => Number(a - b)));
  });
});
