import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { sealBook } from '../../src/ledger/seals.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOn } from '../../src/replay/capture.ts';
import { cutOver, rollBack } from '../../src/replay/cut-over.ts';
import { type ProofDocument, parseProof, textOfProof } from '../../src/replay/proof/file.ts';
import { takeProof, verifyProof } from '../../src/replay/proof/proof.ts';
import { legacyDatabases, SIZE } from '../support/backfill.ts';
import { transfer } from '../support/books.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  createLegacyTestDatabase,
  givenInvoice,
  givenRow,
  givenWallet,
  type LegacyWallet,
  setBalance,
} from '../support/legacy.ts';

const SMALL = { wallets: 20, orgWallets: 4, transactions: 300, seed: 3 };
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

describe('docs/proofs.md', () => {
  const markdown = readFileSync(new URL('../../docs/proofs.md', import.meta.url), 'utf8');
  const [python = ''] = /(?<=```python\n).*?(?=```)/s.exec(markdown) ?? [];
  const SUM_UP = `
import json, sys
sums = {}
def hexed(value): return None if value is None else bytes.fromhex(value.replace('-', ''))
def add(table, id, amount, of):
    count, cents, total = sums.get((table, chunk(id)), (0, 0, 0))
    sums[table, chunk(id)] = (count + 1, cents + amount, total + of)
given = json.load(sys.stdin)
for r in given['rows']:
    add(r['table'], hexed(r['id']), r['credits'], row(1 if r['table'] == 'wallet_transactions' else 2, hexed(r['id']), hexed(r['account']),
        r['credits'], r['created_at_us'], r['type'], r['reference_type'], r['reference'], r['key']))
for b in given['balances']:
    add(b['table'], hexed(b['account']), b['cents'], balance(3 if b['table'] == 'wallets' else 4, hexed(b['account']), b['cents']))
print(json.dumps([[table, number, [count, cents, str(total)]] for (table, number), (count, cents, total) in sorted(sums.items())]))`;

  it('is enough for another language to rebuild every sum of the old tables', async () => {
    const database = await createLegacyTestDatabase(SIZE);
    await run(database.pool);
    const { document } = await prove(database.pool);
    const image = (table: string, wallets: string, owner: string, imageSql: string) => `
      select '${table}' as table, (i).id, replay.wallet_account_id(1, '${table}', w.${owner}) as account, (i).delta as credits,
             (extract(epoch from (i).created_at - '2000-01-01 00:00+00') * 1000000)::bigint as created_at_us, (i).type, (i).reference_type,
             (i).reference_id as reference, (i).key
      from (select ${imageSql} as i from ${table} t) t join ${wallets} w on w.id = (i).wallet_id`;
    const { rows } = await database.pool.query<{ given: string }>(`
      select json_build_object(
        'rows', (select json_agg(r) from (
          ${image('wallet_transactions', 'wallets', 'user_id', 'replay.user_row_image(t)')} union all
          ${image('org_wallet_transactions', 'org_wallets', 'org_id', 'replay.org_row_image(t)')}) r),
        'balances', (select json_agg(b) from (
          select 'wallets' as table, replay.wallet_account_id(1, 'wallet_transactions', user_id) as account, balance_credits as cents from wallets union all
          select 'org_wallets', replay.wallet_account_id(1, 'org_wallet_transactions', org_id), balance_credits from org_wallets) b))::text as given`);
    await database.drop();
    const { stdout, stderr } = spawnSync('python3', ['-I', '-c', python + SUM_UP], {
      input: rows[0]?.given ?? '',
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    const ofFile = [...document.rows, ...document.balances].map(({ table, chunk, old }) => [table, chunk, old]);
    expect(new Map(JSON.parse(stdout).map(([table, chunk, sum]: unknown[]) => [`${table} ${chunk}`, sum]))).toEqual(
      new Map(ofFile.map(([table, chunk, sum]) => [`${table} ${chunk}`, sum])),
    );
  });
});

describe('rows of every kind', () => {
  const { keep } = legacyDatabases();

  it('are the same on both sides: without time, credits, wallet or known invoice, with long texts, keys that repeat, and changed since', async () => {
    const { pool } = await keep(createLegacyTestDatabase(undefined, { isCaptured: false }));
    await pool.query(`
      alter table wallet_transactions drop constraint wallet_transactions_wallet_id_fkey, alter created_at drop not null, alter reference_type drop not null`);
    const user = await givenWallet(pool, { balance: 5 });
    const org = await givenWallet(pool, { kind: 'organization' });
    const invoice = await givenInvoice(pool, org, 700);
    const rows = [
      { type: 'adjustment', delta: 0, key: 'of nothing', referenceId: 'r' },
      {
        type: 'promo',
        delta: 10,
        referenceType: 'quoted " \\ and ümläut',
        referenceId: 'r'.repeat(501),
        key: 'k'.repeat(501),
      },
      { type: 'promo', delta: 11, referenceId: 'sha256:0', key: 'sha256:1' },
      { type: 'promo', delta: 12, referenceId: randomUUID().toUpperCase() },
      { type: 'promo', delta: 13, at: 'infinity' },
      { type: 'promo', delta: 14, at: '-infinity' },
      { type: 'promo', delta: 15, at: '2024-02-29T12:34:56.123456+05:30' },
    ] as const;
    for (const row of rows) await givenRow(pool, user, row);
    const timeless = await givenRow(pool, user, { type: 'promo', delta: 16 });
    await pool.query('update wallet_transactions set created_at = null where id = $1', [timeless.id]);
    await pool.query(
      `insert into wallet_transactions (wallet_id, type, credits_delta) values (gen_random_uuid(), 'promo', 99)`,
    );
    await givenRow(pool, org, { type: 'purchase', delta: 700, invoice, key: 'evt' });
    for (const spendKey of ['same', 'same', 'k'.repeat(600)])
      await givenRow(pool, org, { type: 'spend', delta: -20, spendKey });
    const changed = await givenRow(pool, org, { ...ADJUSTMENT, delta: 40 });
    await turnCaptureOn(pool);
    await run(pool);
    await pool.query('update org_wallet_transactions set credits_delta = 41 where id = $1', [changed.id]);
    await run(pool);

    const { verdict, document } = await prove(pool);
    expect(verdict).toMatchObject({ holds: true, faults: [], rows: 14n, holders: 2n });
    expect(document.not_compared).toEqual({
      pending_changes: 0,
      changing_holders: 0,
      orphan_rows: 1,
      orphan_cents: 99,
      wallets_without_account: 0,
    });
    expect(await verify(pool, document)).toMatchObject({ holds: true });
  });

  it('keep their own time where a closed period moved their effective date', async () => {
    const { pool } = await keep(createLegacyTestDatabase());
    const wallet = await givenWallet(pool);
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 5, at: '2024-01-15T00:00:00Z' });
    await run(pool);
    await closePeriod(pool, { bookId: 1, until: '2024-06-01T00:00:00Z' });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 6, at: '2024-01-16T00:00:00Z' });
    await run(pool);
    expect((await prove(pool)).verdict).toMatchObject({ holds: true, faults: [], rows: 2n });
  });

  it('are refused before the backfill has finished', async () => {
    const { pool } = await keep(createLegacyTestDatabase());
    await expect(takeProof(pool, 'a test')).rejects.toMatchObject({ code: 'BACKFILL_UNFINISHED' });
  });
});

describe('a proof, while old and new code go on', () => {
  let database: TestDatabase;
  let document: ProofDocument;
  let [user, org, gone]: (LegacyWallet | undefined)[] = [];
  const holds = async (proof = document) =>
    expect(await verify(database.pool, proof)).toMatchObject({ holds: true, faults: [] });
  let last: ProofDocument | undefined;
  /** The first proof holds still, and the last one, and what is proved now does too. */
  const allHold = async () => {
    await holds();
    if (last !== undefined) await holds(last);
    const now = await prove(database.pool);
    expect(now.verdict).toMatchObject({ holds: true, faults: [] });
    last = now.document;
  };

  beforeAll(async () => {
    database = await createLegacyTestDatabase(SMALL);
    const { pool } = database;
    [user, org, gone] = [
      await givenWallet(pool, { balance: 100 }),
      await givenWallet(pool, { kind: 'organization', balance: 100 }),
      await givenWallet(pool, { balance: 100 }),
    ];
    for (const wallet of [user, org, gone]) await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
    await run(pool);
    document = (await prove(pool)).document;
  });
  afterAll(() => database.drop());

  it('holds while rows and balances that were written, changed, moved and deleted since are captured and wait', async () => {
    const { pool } = database;
    await givenRow(pool, user as LegacyWallet, { type: 'promo', delta: 7 });
    await setBalance(pool, user as LegacyWallet, 107);
    await pool.query(
      'update wallet_transactions set credits_delta = credits_delta + 1, reference_type = null where id in (select id from wallet_transactions order by id limit 3)',
    );
    await pool.query(
      'update org_wallet_transactions set metadata = null where id in (select id from org_wallet_transactions order by id limit 3)',
    );
    await pool.query(
      'delete from wallet_transactions where id in (select id from wallet_transactions order by id desc limit 3)',
    );
    await pool.query(
      'update wallet_transactions set wallet_id = $1 where id in (select id from wallet_transactions order by id offset 10 limit 2)',
      [user?.id],
    );
    await pool.query(
      `update wallet_transactions set id = gen_random_uuid() where id in (select id from wallet_transactions where type <> 'spend' order by id offset 20 limit 2)`,
    );
    await pool.query('delete from wallets where id = $1', [gone?.id]);
    const made = await givenWallet(pool, { balance: 9 });
    await givenRow(pool, made, { type: 'promo', delta: 9 });
    // Twice, of which only the first and the last matter.
    await pool.query(
      'update wallet_transactions set credits_delta = credits_delta + 1 where id in (select id from wallet_transactions order by id limit 2)',
    );
    expect(await verify(pool, document)).toMatchObject({
      holds: true,
      faults: [],
      notCompared: { pendingChanges: expect.any(BigInt) },
    });
    expect((await verify(pool, document)).notCompared.pendingChanges).toBeGreaterThan(10n);
    await allHold();
  });

  it('holds once they are in the log', async () => {
    await run(database.pool);
    expect(await verify(database.pool, document)).toMatchObject({
      holds: true,
      faults: [],
      notCompared: { pendingChanges: 0n, changingHolders: 0n },
    });
    await allHold();
  });

  it('holds after the cut-over, whatever new code posts and old code writes then', async () => {
    const { pool } = database;
    expect(await cutOver(pool, { owners: 'all', maxUnexplainedCents: 1_000_000_000n })).toMatchObject({ refused: [] });
    const [ofUser, ofOrg] = [await accountsOf(pool, user as LegacyWallet), await accountsOf(pool, org as LegacyWallet)];
    await post(pool, {
      ...transfer(ofUser.clearing, ofUser.cash, { amountCents: 30n }),
      referenceType: 'credit_purchase',
      referenceId: 'not an id',
    });
    await post(pool, {
      ...transfer(ofOrg.clearing, ofOrg.cash, { amountCents: 30n }),
      referenceType: 'credit_purchase',
      referenceId: 'not an id',
    });
    await post(pool, {
      ...transfer(ofOrg.cash, ofOrg.clearing, { amountCents: 5n }),
      referenceType: 'campaign_spend',
      referenceId: randomUUID().toUpperCase(),
    });
    await post(pool, transfer(ofUser.cash, ofOrg.cash, { amountCents: 4n }));
    await allHold();
    // A row that mirrors a posting is changed by old code, another deleted, and one that was there before.
    const mirrored = await pool.query<{ legacy_id: string }>(
      `select legacy_id from replay.mirrored_rows where source = 'wallet_transactions' order by 1`,
    );
    expect(mirrored.rows).toHaveLength(2);
    await pool.query('update wallet_transactions set credits_delta = 31 where id = $1', [mirrored.rows[0]?.legacy_id]);
    await pool.query('delete from wallet_transactions where id = $1', [mirrored.rows[1]?.legacy_id]);
    await givenRow(pool, user as LegacyWallet, { type: 'promo', delta: 3 });
    await setBalance(pool, org as LegacyWallet, 500);
    await allHold();
  });

  it('holds after the way back, and a transaction beside the old tables is nothing that they should have', async () => {
    const { pool } = database;
    expect(await rollBack(pool, { owners: 'all' })).toMatchObject({ refused: [] });
    const { clearing, cash } = await accountsOf(pool, user as LegacyWallet);
    await post(pool, transfer(clearing, cash, { amountCents: 77n }));
    await allHold();
  });

  it('holds although an event of before its seal commits after it', async () => {
    const { pool } = database;
    const { clearing, cash } = await accountsOf(pool, org as LegacyWallet);
    const late = await withTransaction(pool, async (tx) => {
      await post(tx, transfer(clearing, cash, { amountCents: 1n }));
      await post(pool, transfer(...(await othersOf(pool)), { amountCents: 1n }));
      return (await prove(pool)).document;
    });
    expect(late.seal.open_positions).toMatch(/,.*,.*,/);
    await sealBook(pool, 1);
    await holds(late);
    await allHold();
  });

  it('holds whenever it is taken, while old and new code write and a backfill brings in what they wrote', async () => {
    const { pool } = database;
    const [ofUser, ofOrg] = [await givenWallet(pool), await givenWallet(pool, { kind: 'organization' })];
    await run(pool);
    expect(await cutOver(pool, { owners: { kind: 'organization', id: ofOrg.ownerId } })).toMatchObject({ refused: [] });
    const { clearing, cash } = await accountsOf(pool, await givenWallet(pool));
    let isOver = false;
    let written = 0;
    const write = async (work: () => Promise<unknown>) => {
      for (; !isOver; written += 1) await work();
    };
    const oldCode = (wallet: LegacyWallet) => () =>
      withTransaction(pool, async (tx) => {
        await givenRow(tx, wallet, { ...ADJUSTMENT, delta: 1 });
        const wallets = wallet.kind === 'user' ? 'wallets' : 'org_wallets';
        await tx.query(`update ${wallets} set balance_credits = balance_credits + 1 where id = $1`, [wallet.id]);
      });
    const writers = [
      write(oldCode(ofUser)),
      write(oldCode(ofOrg)),
      write(() => post(pool, transfer(clearing, cash, { amountCents: 1n }))),
      write(() => run(pool)),
    ];
    const proofs: ProofDocument[] = [];
    try {
      while (proofs.length < 5) {
        const before = written;
        const { verdict, document: taken } = await prove(pool);
        expect(verdict).toMatchObject({ holds: true, faults: [] });
        proofs.push(taken);
        await eventually('the writers go on', () => written > before + 5);
      }
    } finally {
      isOver = true;
      await Promise.all(writers);
    }
    await run(pool);
    for (const proof of proofs) await holds(proof);
    await allHold();
  });
});

interface Tampering {
  readonly does: string;
  readonly undoes: string;
  readonly says: readonly RegExp[];
}

/** SQL of an owner who keeps a table's triggers from noticing, and puts them back as they were: ours fire always. */
const unnoticed = (table: string, sql: string): string => `
  alter table ${table} disable trigger user; ${sql};
  do $do$ declare t record; begin
    for t in select tgname, tgname like 'liventix%' or '${table}' like 'payments.%' as is_always
             from pg_trigger where tgrelid = '${table}'::regclass and not tgisinternal loop
      execute format('alter table ${table} enable %s trigger %I', case when t.is_always then 'always' end, t.tgname);
    end loop;
  end $do$`;

const LEAF = `leaf_hash = payments.event_leaf_hash(book_id, position, event_id, effective_at, recorded_at, type, created_by, idempotency_scope,
  idempotency_key, request_hash, payload)`;

describe('tampering since a proof was taken', () => {
  let database: TestDatabase;
  let document: ProofDocument;
  let [rowId, eventId, correctionId, mirroredId, walletId, accountId, orgWalletId] = ['', '', '', '', '', '', ''];

  beforeAll(async () => {
    database = await createLegacyTestDatabase(SMALL);
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 100 });
    const row = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
    const changed = await givenRow(pool, await givenWallet(pool), { ...ADJUSTMENT, delta: 1 });
    await run(pool);
    await pool.query('update wallet_transactions set credits_delta = 3 where id = $1', [changed.id]);
    await run(pool);
    await cutOver(pool, { owners: { kind: 'user', id: wallet.ownerId } });
    const { clearing, cash } = await accountsOf(pool, wallet);
    await post(pool, transfer(clearing, cash, { amountCents: 30n }));
    document = (await prove(pool)).document;
    const { rows } = await pool.query(
      `select replay.row_event_id('wallet_transactions', $1, 1) as event, (select legacy_id from replay.mirrored_rows) as mirrored,
              (select id from org_wallets limit 1) as org, replay.row_event_id('wallet_transactions', $2, 2) as correction
       `,
      [row.id, changed.id],
    );
    [rowId, walletId, accountId] = [row.id, wallet.id, cash];
    [eventId, mirroredId, orgWalletId, correctionId] = [
      rows[0].event,
      rows[0].mirrored,
      rows[0].org,
      rows[0].correction,
    ];
  });
  afterAll(() => database.drop());

  const amount = (cents: number) =>
    unnoticed(
      'payments.events',
      `update payments.events set payload = jsonb_set(payload, '{entries,-1,amount_cents}', '${cents}') where event_id = '${eventId}';
      update payments.events set ${LEAF} where event_id = '${eventId}'`,
    );
  const correctedBy = (cents: number) =>
    unnoticed(
      'payments.events',
      `update payments.events e set payload = jsonb_set(payload, '{entries}', (
        select jsonb_agg(case when l.value ->> 'amount_cents' in ('-2', '-7') then jsonb_set(l.value, '{amount_cents}', '-${cents}') else l.value end order by l.ordinality)
        from jsonb_array_elements(e.payload -> 'entries') with ordinality l)) where event_id = '${correctionId}'`,
    );
  const credits = (delta: number) =>
    unnoticed('wallet_transactions', `update wallet_transactions set credits_delta = ${delta} where id = '${rowId}'`);
  const OLD_ROWS =
    /^the rows in chunk \d+ of wallet_transactions are not those of the proof: the old tables were changed, and the log does not know$/;
  const LOG_ROWS = /^the rows in chunk \d+ of wallet_transactions are not those of the proof: the log was changed$/;
  const LOG_BALANCES = /^the balances in chunk \d+ of wallets are not those of the proof: the log was changed$/;
  const OLD_BALANCES =
    /^the balances in chunk \d+ of wallets are not those of the proof: the old tables were changed, and the log does not know$/;
  const ROOT =
    /^the events give the root [0-9a-f]{64} of \d+ leaves, the seal has [0-9a-f]{64} of \d+: liventix books verify says which changed$/;
  const RECOMPUTED = /are other ones when they are recomputed without the database's functions$/;
  const saved = (table: string, where: string) => ({
    does: `create table saved as select * from ${table} where ${where}; ${unnoticed(table, `delete from ${table} where ${where}`)}`,
    undoes: `${unnoticed(table, `insert into ${table} select * from saved`)}; drop table saved`,
  });

  const cases: Record<string, () => Tampering> = {
    'with what an event says, and its hash': () => ({
      does: amount(-1),
      undoes: amount(-100),
      says: [
        ROOT,
        LOG_ROWS,
        new RegExp(`^wallet_transactions ${rowId}: 100 credits, in the log 1$`),
        /^the balances of the log in chunk .*recomputed/,
      ],
    }),
    'with what a correction moves': () => ({
      does: correctedBy(7),
      undoes: correctedBy(2),
      says: [
        ROOT,
        new RegExp(`^event \\d+ \\(${correctionId}\\) says that a row changed by 2, and moves its wallet by 7$`),
      ],
    }),
    'with an event, taken out': () => ({
      ...saved('payments.events', `event_id = '${eventId}'`),
      says: [ROOT, LOG_ROWS, new RegExp(`^wallet_transactions ${rowId}: 100 credits, not in the log$`)],
    }),
    'with an event, put where no seal looks': () => ({
      does: unnoticed(
        'payments.events',
        `insert into payments.events (position, recorded_at, effective_at, event_id, book_id, type, created_by, payload, leaf_hash)
        select 0, recorded_at, effective_at, gen_random_uuid(), book_id, type, created_by, payload, leaf_hash from payments.events where event_id = '${eventId}'`,
      ),
      undoes: unnoticed('payments.events', 'delete from payments.events where position = 0'),
      says: [LOG_ROWS, new RegExp(`^wallet_transactions ${rowId}: 100 credits, in the log 200$`), RECOMPUTED],
    }),
    'with an entry': () => ({
      does: unnoticed(
        'payments.entries',
        `update payments.entries set amount_cents = -101 where transaction_id = '${eventId}' and amount_cents < 0`,
      ),
      undoes: unnoticed(
        'payments.entries',
        `update payments.entries set amount_cents = -100 where transaction_id = '${eventId}' and amount_cents < 0`,
      ),
      says: [LOG_BALANCES, new RegExp(`^account ${accountId}: its wallets hold 130, the books 131$`), RECOMPUTED],
    }),
    'with the credits of an old row': () => ({
      does: credits(1),
      undoes: credits(100),
      says: [OLD_ROWS, new RegExp(`^wallet_transactions ${rowId}: 1 credits, in the log 100$`)],
    }),
    'with the type of an old row': () => ({
      does: unnoticed('wallet_transactions', `update wallet_transactions set type = 'promo' where id = '${rowId}'`),
      undoes: unnoticed(
        'wallet_transactions',
        `update wallet_transactions set type = 'adjustment' where id = '${rowId}'`,
      ),
      says: [
        OLD_ROWS,
        new RegExp(
          `^wallet_transactions ${rowId}: its wallet, type, reference, key or time is another one in the log$`,
        ),
      ],
    }),
    'with an old row, put in': () => ({
      does: unnoticed(
        'wallet_transactions',
        `insert into wallet_transactions (id, wallet_id, type, credits_delta) values ('${orgWalletId}', '${walletId}', 'promo', 8)`,
      ),
      undoes: unnoticed('wallet_transactions', `delete from wallet_transactions where id = '${orgWalletId}'`),
      says: [OLD_ROWS, new RegExp(`^wallet_transactions ${orgWalletId}: 8 credits, not in the log$`)],
    }),
    'with an old row, taken out': () => ({
      ...saved('wallet_transactions', `id = '${rowId}'`),
      says: [OLD_ROWS, new RegExp(`^wallet_transactions ${rowId}: 100 credits in the log, not in the old table$`)],
    }),
    'with an old balance': () => ({
      does: unnoticed('wallets', `update wallets set balance_credits = 131 where id = '${walletId}'`),
      undoes: unnoticed('wallets', `update wallets set balance_credits = 130 where id = '${walletId}'`),
      says: [OLD_BALANCES, new RegExp(`^account ${accountId}: its wallets hold 131, the books 130$`)],
    }),
    'with an old row and its event alike': () => ({
      does: `${amount(-7)}; ${credits(7)}`,
      undoes: `${amount(-100)}; ${credits(100)}`,
      says: [ROOT, LOG_ROWS, OLD_ROWS],
    }),
    'with what a row mirrors': () => ({
      ...saved('replay.mirrored_rows', `legacy_id = '${mirroredId}'`),
      says: [LOG_ROWS, new RegExp(`^wallet_transactions ${mirroredId}: 30 credits, not in the log$`), LOG_BALANCES],
    }),
    'with whose account a wallet is': () => ({
      does: `update replay.wallets set account_id = gen_random_uuid() where wallet_id = '${walletId}'`,
      undoes: `update replay.wallets set account_id = '${accountId}' where wallet_id = '${walletId}'`,
      says: [OLD_ROWS, new RegExp(`^wallet_transactions ${rowId}: its wallet, type`)],
    }),
    'with an old row, and with the function that reads it': () => ({
      does: `${credits(5)}; alter function replay.user_row_image(record) rename to real_image;
        create function replay.user_row_image(t record) returns replay.row_image language plpgsql stable as $$
        declare v replay.row_image := replay.real_image(t);
        begin if v.id = '${rowId}' then v.delta := 100; end if; return v; end $$`,
      undoes: `drop function replay.user_row_image(record); alter function replay.real_image(record) rename to user_row_image; ${credits(100)}`,
      says: [/^the old rows in chunk \d+ of wallet_transactions are other ones when they are recomputed/],
    }),
    'with the root of the seal': () => ({
      does: unnoticed(
        'payments.seals',
        `create table saved as select root from payments.seals; update payments.seals set root = sha256('')`,
      ),
      undoes: unnoticed(
        'payments.seals',
        'update payments.seals set root = (select root from saved limit 1); drop table saved',
      ),
      says: [/^seal 1 is not the one that the proof names$/],
    }),
    'with the seal, taken out': () => ({
      ...saved('payments.seals', 'true'),
      says: [/^seal 1 is gone$/, ROOT],
    }),
  };

  it.each(Object.keys(cases))('%s, is found and named', async (name) => {
    const tampering = cases[name]?.() as Tampering;
    await database.pool.query(tampering.does);
    const verdict = await verify(database.pool, document);
    await database.pool.query(tampering.undoes);
    expect(verdict.holds).toBe(false);
    for (const says of tampering.says) expect(verdict.faults).toContainEqual(expect.stringMatching(says));
    expect(await verify(database.pool, document)).toMatchObject({ holds: true, faults: [] });
  });
});

const othersOf = async (pool: Pool): Promise<[string, string]> => {
  const [a = '', b = ''] = await openAccounts(pool, [
    { type: 'receivable', currency: 'USD', name: 'one' },
    { type: 'receivable', currency: 'USD', name: 'other' },
  ]);
  return [a, b];
};
