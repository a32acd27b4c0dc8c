import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { sealBook } from '../../src/ledger/seals.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOn } from '../../src/replay/capture.ts';
import { cutOver, rollBack } from '../../src/replay/cut-over.ts';
import { takeProof, verifyProof } from '../../src/replay/proof.ts';
import { parseProof, type ProofDocument, textOfProof } from '../../src/replay/proof-file.ts';
import { legacyDatabases, SIZE } from '../support/backfill.ts';
import { transfer } from '../support/books.ts';
import type { TestDatabase } from '../support/database.ts';
import { createLegacyTestDatabase, givenInvoice, givenRow, givenWallet, type LegacyWallet, setBalance } from '../support/legacy.ts';

const ADJUSTMENT = { type: 'adjustment', referenceType: 'system' } as const;

/** A proof as it is after it was written to a file and read again. */
const prove = async (pool: Pool) => {
  const { document, verdict } = await takeProof(pool, 'a test');
  return { verdict, document: parseProof(textOfProof(document), 'proof.json') };
};
const verify = (pool: Pool, document: ProofDocument) => verifyProof(pool, document);
const run = (pool: Pool) => runBackfill(pool, { settleMs: 0 });

const accountsOf = async (pool: Pool, { kind, ownerId }: LegacyWallet) => {
  const owner = kind === 'user' ? { userId: ownerId } : { organizationId: ownerId };
  const [clearing = '', cash = ''] = await openAccounts(pool, [
    { type: 'receivable', currency: 'USD', name: 'clearing' },
    { type: 'cash', currency: 'USD', name: 'wallet', ...owner },
  ]);
  return { clearing, cash };
};

describe('a proof of a finished backfill', () => {
  let database: TestDatabase;
  let document: ProofDocument;
  beforeAll(async () => {
    database = await createLegacyTestDatabase(SIZE);
    await run(database.pool);
  });
  afterAll(() => database.drop());

  it('has every row and every balance of both sides, chunk by chunk, in SQL and recomputed, as of a seal', async () => {
    const proof = await prove(database.pool);
    document = proof.document;
    expect(proof.verdict).toMatchObject({ holds: true, faults: [], rows: 3_000n, holders: 132n });
    expect(document).toMatchObject({ format: 'liventix backfill proof 1', holds: true, book: 1 });
    for (const { old, log, old_recomputed, log_recomputed } of [...document.rows, ...document.balances]) {
      expect(log).toEqual(old);
      expect(old_recomputed).toEqual(old);
      expect(log_recomputed).toEqual(old);
    }
    expect(document.rows.length).toBeGreaterThan(256);
    const sums = await database.pool.query<{ rows: bigint; cents: bigint; held: bigint }>(
      `select (select count(*) from wallet_transactions) as rows, (select sum(credits_delta) from wallet_transactions) as cents,
              (select sum(balance_credits) from org_wallets) as held`,
    );
    const of = (chunks: ProofDocument['rows'], table: string, place: 0 | 1) =>
      chunks.filter((chunk) => chunk.table === table).reduce((sum, { old }) => sum + BigInt(old[place]), 0n);
    expect(of(document.rows, 'wallet_transactions', 0)).toBe(sums.rows[0]?.rows);
    expect(of(document.rows, 'wallet_transactions', 1)).toBe(sums.rows[0]?.cents);
    expect(of(document.balances, 'org_wallets', 1)).toBe(sums.rows[0]?.held);
  });

  it('holds again and again, and another one taken later says the same of the same tables', async () => {
    expect(await verify(database.pool, document)).toMatchObject({ holds: true, faults: [] });
    const again = (await prove(database.pool)).document;
    expect(again.rows).toEqual(document.rows);
    expect(again.balances).toEqual(document.balances);
  });
});
