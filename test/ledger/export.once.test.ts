import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { STREAMED } from '../../src/db/cursor.ts';
import type { Queryable } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { openBook } from '../../src/ledger/books.ts';
import { EXPORT_FORMATS, type ExportFormat, type ExportOptions, exportJournal } from '../../src/ledger/export.ts';
import { openAccounts, post, postAll } from '../../src/ledger/ledger.ts';
import {
  balancesByBeancount,
  balancesByCsv,
  balancesByHledger,
  balancesOfBook,
  differences,
  queryBeancount,
  readCsv,
  transactionsByHledger,
} from '../support/accounting-tools.ts';
import { transfer, verifyBooks, verifyBooksIndependently } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { fillDiverseBook, ODD_TEXTS } from '../support/diverse-book.ts';

const READERS = {
  hledger: balancesByHledger,
  beancount: balancesByBeancount,
  csv: balancesByCsv,
} as const satisfies Record<ExportFormat, unknown>;

let database: TestDatabase;
let folder: string;
let files = 0;

beforeAll(async () => {
  database = await createDatabase();
  folder = await mkdtemp(join(tmpdir(), 'liventix-export-'));
  await fillDiverseBook(database.pool, 1);
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
  await database.drop();
});

async function exported(format: ExportFormat, slice: Omit<ExportOptions, 'format'> = {}): Promise<string> {
  files += 1;
  const file = join(folder, `${files}.${format}`);
  await withTransaction(database.pool, (tx) => writeFile(file, exportJournal(tx, { format, ...slice })), STREAMED);
  return file;
}

/** The account of opening balances has no id of ours: the tools call it by its name. */
const OPENING = /^$|^Equity:Opening-Balances:[A-Z]{3}$/;

describe.each(EXPORT_FORMATS)('an export for %s', (format) => {
  const read = READERS[format];

  it('gives every account the balance that it has', async () => {
    const ours = await balancesOfBook(database.pool, 1);
    expect(ours.size).toBeGreaterThan(100);
    expect(differences(ours, await read(await exported(format)))).toEqual([]);
  });

  it.each([
    ['from a day on', { from: '2026-02-01' }, undefined],
    ['before a day', { to: '2026-02-01' }, '2026-02-01'],
    ['of a day', { from: '2026-02-28', to: '2026-03-01' }, '2026-03-01'],
    ['of a year', { from: '2026-01-01', to: '2027-01-01' }, '2027-01-01'],
    ['from before everything', { from: '0001-01-01' }, undefined],
    ['after everything but the end of time', { from: '2199-12-31' }, undefined],
    ['of a day in which nothing happened', { from: '2021-01-01', to: '2021-01-02' }, '2021-01-02'],
    ['before everything', { to: '0002-01-01' }, '0002-01-01'],
  ])('gives every account its balance at the end, %s', async (_what, slice, before) => {
    const ours = await balancesOfBook(database.pool, 1, before);
    const theirs = new Map(await read(await exported(format, slice)));
    const opening = [...theirs].filter(([id]) => OPENING.test(id));
    for (const [id, balance] of opening) {
      expect(balance).toBe(0n);
      theirs.delete(id);
    }
    expect(differences(ours, theirs)).toEqual([]);
  });

  it('is the same file each time', async () => {
    expect(await readFile(await exported(format))).toEqual(await readFile(await exported(format)));
  });

  it('is a valid file without a balance, of a book in which nothing is', async () => {
    const bookId = await openBook(database.pool, `empty for ${format}`);
    for (const slice of [{}, { from: '2026-01-01' }, { to: '2026-01-01' }]) {
      expect(await read(await exported(format, { bookId, ...slice }))).toEqual(new Map());
    }
  });

  it('begun beside a posting that commits late goes on without it; the next one has it once', async () => {
    const bookId = await openBook(database.pool, `late for ${format}`);
    const [a = '', b = '', c = '', d = ''] = await openAccounts(
      database.pool,
      ['a', 'b', 'c', 'd'].map((name) => ({ type: 'cash', currency: 'USD', name })),
      { bookId },
    );
    const move = (db: Queryable, accounts: readonly [string, string], amountCents: bigint) =>
      post(db, transfer(...accounts, { amountCents }), { bookId });
    await move(database.pool, [a, b], 1n);
    const late = await database.pool.connect();
    try {
      await late.query('begin');
      const { eventPosition } = await move(late, [a, b], 20n);
      expect((await move(database.pool, [c, d], 300n)).eventPosition).toBeGreaterThan(eventPosition);
      const file = join(folder, `late.${format}`);
      await withTransaction(
        database.pool,
        async (tx) => {
          const texts = exportJournal(tx, { format, bookId });
          const head = await texts.next();
          await late.query('commit');
          const parts = [head.value ?? ''];
          for await (const text of texts) parts.push(text);
          await writeFile(file, parts.join(''));
        },
        STREAMED,
      );
      expect(await read(file)).toEqual(
        new Map([
          [a, 100n],
          [b, -100n],
          [c, 30_000n],
          [d, -30_000n],
        ]),
      );
    } finally {
      late.release(true);
    }
    const next = await exported(format, { bookId });
    expect(await read(next)).toEqual(
      new Map([
        [a, 2_100n],
        [b, -2_100n],
        [c, 30_000n],
        [d, -30_000n],
      ]),
    );
  });

  it('has the entries of a currency that was added later, to its last digit', async () => {
    const bookId = await openBook(database.pool, `new currency for ${format}`);
    const [code, cents] = [`X${format.slice(0, 2).toUpperCase()}`, 123_456_789n];
    await database.pool.query(
      `insert into ref.currencies (code, name, symbol, decimal_places) values ($1, 'Added later', $1, 4)`,
      [code],
    );
    const [a = '', b = ''] = await openAccounts(
      database.pool,
      ['a', 'b'].map((name) => ({ type: 'cash', currency: code, name })),
      { bookId },
    );
    await post(database.pool, transfer(a, b, { amountCents: cents, currency: code }), { bookId });
    const checks = [...(await verifyBooks(database.pool)), ...(await verifyBooksIndependently(database.pool))];
    expect(checks.filter(({ holds }) => !holds)).toEqual([]);
    const ours = await balancesOfBook(database.pool, bookId);
    expect(differences(ours, await read(await exported(format, { bookId })))).toEqual([]);
    expect([...ours.values()]).toHaveLength(2);
  });

  it('holds the entries of its book and of no other', async () => {
    const bookId = await openBook(database.pool, `other for ${format}; "quoted"`);
    const accounts = [
      { type: 'cash', currency: 'USD', name: 'clearing' },
      { type: 'revenue', currency: 'USD', name: 'sales' },
    ];
    const [a = '', b = ''] = await openAccounts(database.pool, accounts, { bookId });
    const entries = [
      { accountId: a, amountCents: 5n, currency: 'USD' },
      { accountId: b, amountCents: -5n, currency: 'USD' },
    ];
    await postAll(database.pool, [{ entries }], { bookId });
    const theirs = await read(await exported(format, { bookId }));
    expect(theirs).toEqual(
      new Map([
        [a, 500n],
        [b, -500n],
      ]),
    );
  });
});

describe('what an entry says', () => {
  interface Row {
    readonly id: bigint;
    readonly event_position: bigint;
    readonly transaction_id: string;
    readonly account_id: string;
    readonly amount_cents: bigint;
    readonly balance_after_cents: bigint;
    readonly reference_type: string | null;
    readonly reference_id: string | null;
    readonly description: string | null;
    readonly metadata: string;
  }
  const entriesOfBook = async (): Promise<Row[]> => {
    const { rows } = await database.pool.query<Row>(
      `select id, event_position, transaction_id, account_id, amount_cents, balance_after_cents, reference_type, reference_id,
              description, metadata::text from payments.entries where book_id = 1 order by id`,
    );
    return rows;
  };

  // The tools order by day.
  const byId = <T extends { id: bigint }>(rows: readonly T[]) => rows.toSorted((a, b) => Number(a.id - b.id));

  it('is all in the CSV, in a stable order of columns, and no text is a formula', async () => {
    const file = await exported('csv');
    expect((await readFile(file, 'utf8')).split('\r\n', 1)).toEqual([
      'transaction_id,event_position,entry_id,account_id,account_name,account_type,user_id,organization_id,currency,amount,amount_cents,balance_after_cents,effective_at,recorded_at,created_by,reference_type,reference_id,description,metadata,reverses',
    ]);
    const lines = await readCsv(file);
    const plain = (text = '') => text.replace(/^'/, '');
    expect(
      lines.map((line) => ({
        id: BigInt(line['entry_id'] ?? ''),
        event_position: BigInt(line['event_position'] ?? ''),
        transaction_id: line['transaction_id'],
        account_id: line['account_id'],
        amount_cents: BigInt(line['amount_cents'] ?? ''),
        balance_after_cents: BigInt(line['balance_after_cents'] ?? ''),
        reference_type: plain(line['reference_type']),
        reference_id: plain(line['reference_id']),
        description: plain(line['description']),
        metadata: line['metadata'],
      })),
    ).toEqual(
      (await entriesOfBook()).map((row) => ({
        ...row,
        reference_type: row.reference_type ?? '',
        reference_id: row.reference_id ?? '',
        description: row.description ?? '',
      })),
    );
    const texts = lines.flatMap((line) => [
      line['reference_type'],
      line['reference_id'],
      line['description'],
      line['metadata'],
    ]);
    expect(texts).toEqual(expect.arrayContaining([`'=HYPERLINK("http://example.com";"x")`, `''already quoted`, `'-1`]));
    expect(texts.filter((text) => /^[=+\-@\t\r\n]/.test(text ?? ''))).toEqual([]);
  });

  it('is all in the tags of the hledger journal, a transaction for each of ours', async () => {
    const transactions = await transactionsByHledger(await exported('hledger'));
    const decoded = (pairs: readonly (readonly [string, string])[]) =>
      Object.fromEntries(pairs.map(([name, value]) => [name, decodeURIComponent(value)]));
    const names = new Set(
      transactions.flatMap(({ tpostings }) => tpostings.flatMap(({ ptags }) => ptags.map(([name]) => name))),
    );
    expect([...names].toSorted()).toEqual(['account_id', 'entry_description', 'entry_id', 'entry_metadata', 'type']);
    const found = transactions.flatMap((transaction) => {
      const tags = decoded(transaction.ttags);
      return transaction.tpostings.map((posting) => {
        const own = decoded(posting.ptags);
        return {
          id: BigInt(own['entry_id'] ?? ''),
          event_position: BigInt(transaction.tcode),
          transaction_id: tags['transaction_id'],
          account_id: own['account_id'],
          reference_type: tags['reference_type'] ?? null,
          reference_id: tags['reference_id'] ?? null,
          description: own['entry_description'] ?? tags['description'] ?? transaction.tdescription,
          metadata: own['entry_metadata'] ?? tags['metadata'] ?? '{}',
        };
      });
    });
    const expected = (await entriesOfBook()).map(({ amount_cents, balance_after_cents, ...row }) => ({
      ...row,
      description: row.description ?? '',
    }));
    expect(byId(found)).toEqual(expected);
  });

  it('names the transaction that was taken back', async () => {
    const { rows } = await database.pool.query<{ id: string; reverses: string }>(
      'select transaction_id as id, reverses from payments.reversals where book_id = 1',
    );
    expect(rows).toHaveLength(1);
    const lines = await readCsv(await exported('csv'));
    const inCsv = lines.flatMap(({ transaction_id: id, reverses }) => (reverses === '' ? [] : [{ id, reverses }]));
    expect(inCsv).toEqual([rows[0], rows[0]]);
    const transactions = await transactionsByHledger(await exported('hledger'));
    const inHledger = transactions.flatMap(({ ttags }) => {
      const { transaction_id: id, reverses } = Object.fromEntries(ttags);
      return reverses === undefined ? [] : [{ id, reverses }];
    });
    expect(inHledger).toEqual(rows);
    const found = await queryBeancount(
      await exported('beancount'),
      `select distinct entry_meta('transaction_id'), entry_meta('reverses')`,
    );
    const inBeancount = found.map(([id = '', reverses = '']) => ({ id: id.trim(), reverses: reverses.trim() }));
    expect(inBeancount.filter(({ reverses }) => reverses !== '')).toEqual(rows);
  });

  it('is of the transaction what its event says, where its legs say something of their own', async () => {
    const { rows } = await database.pool.query<{ id: string; description: string }>(
      `select event_id as id, coalesce(payload ->> 'description', '') as description
       from payments.events where book_id = 1 and type = 'transaction.posted'`,
    );
    const transactions = await transactionsByHledger(await exported('hledger'));
    const descriptions = transactions.map(({ ttags, tdescription }) => {
      const { transaction_id: id, description: exact } = Object.fromEntries(ttags);
      return [id, exact === undefined ? tdescription : decodeURIComponent(exact)];
    });
    expect(new Map(descriptions as [string, string][])).toEqual(
      new Map(rows.map(({ id, description }) => [id, description])),
    );
  });

  it('is all in the metadata of the Beancount file', async () => {
    const file = await exported('beancount');
    const rows = await queryBeancount(
      file,
      `select entry_meta('event_position'), entry_meta('transaction_id'), meta('entry_id'), entry_meta('reference_id'), narration,
              any_meta('description'), any_meta('metadata')`,
    );
    // Columns are padded to their width.
    const found = rows.map((row) => {
      const [
        position = '',
        transaction = '',
        entry = '',
        reference = '',
        narration = '',
        description = '',
        metadata = '',
      ] = row;
      return {
        event_position: BigInt(position.trim()),
        transaction_id: transaction.trim(),
        id: BigInt(entry.trim()),
        reference_id: reference.trim(),
        // An empty text and none look alike.
        description: description.trim() || narration.trim(),
        metadata: metadata.trim() || '{}',
      };
    });
    const said = ({ description }: { description: string | null }) => (description ?? '').trim() !== '';
    const expected = (await entriesOfBook()).filter(said);
    const ids = new Set(expected.map(({ id }) => id));
    expect(ids.size).toBeGreaterThan(1_000);
    expect(byId(found.filter(({ id }) => ids.has(id)))).toEqual(
      expected.map(({ event_position, transaction_id, id, reference_id, description, metadata }) => {
        return {
          event_position,
          transaction_id,
          id,
          reference_id: (reference_id ?? '').trim(),
          description: (description ?? '').trim(),
          metadata,
        };
      }),
    );
  });

  it('stays on the lines that are its own, whatever the text', async () => {
    const journal = await readFile(await exported('hledger'), 'utf8');
    // Every line is one of those that the format has: nothing of a text begins one.
    const lines = journal.split('\n').filter((line) => line !== '');
    const known =
      /^(; Liventix, |commodity 1000\.\d* [A-Z]{3}$|account [A-Z]|\d{4}-\d\d-\d\d \* \(\d+\) | {4}; [a-z_]+: | {4}; (account|user|organization)_(id|name) | {4}[A-Z]\S+ {2}-?\d+(\.\d+)? [A-Z]{3}$)/;
    expect(lines.filter((line) => !known.test(line))).toEqual([]);
    expect(journal).not.toMatch(/[^\P{Cc}\n]|[\p{Zl}\p{Zp}]/u);
    expect(ODD_TEXTS.length).toBeGreaterThan(10);
  });
});

it('dates what was imported with an instant that no tool can read by the first day or the last, the instant beside it', async () => {
  const bookId = await openBook(database.pool, 'imported');
  const accounts = ['a', 'b'].map((name) => ({ type: 'cash', currency: 'USD', name }));
  const [a = '', b = ''] = await openAccounts(database.pool, accounts, { bookId });
  const imported = ['0044-03-15 12:00:00+00 BC', 'infinity'].map((effective_at) => ({
    type: 'transaction.posted',
    event_id: crypto.randomUUID(),
    effective_at,
    payload: {
      entries: [
        { account_id: a, amount_cents: 5, currency: 'USD' },
        { account_id: b, amount_cents: -5, currency: 'USD' },
      ],
    },
  }));
  await appendEvents(bookId, imported);
  const days = ['0001-01-01', '9999-12-31'];
  const transactions = await transactionsByHledger(await exported('hledger', { bookId }));
  // Both print the year 1 as it is.
  const padded = (day = '') => day.trim().padStart(10, '0');
  expect(transactions.map(({ tdate }) => padded(tdate))).toEqual(days);
  const instants = transactions.map(({ ttags }) => Object.fromEntries(ttags)['effective_at']);
  expect(instants).toEqual([expect.stringContaining('44-03-15'), 'infinity']);
  const dates = await queryBeancount(await exported('beancount', { bookId }), 'select distinct date');
  expect(dates.map(([date]) => padded(date))).toEqual(days);
  for (const format of EXPORT_FORMATS) {
    const theirs = await READERS[format](await exported(format, { bookId }));
    expect(differences(await balancesOfBook(database.pool, bookId), theirs)).toEqual([]);
  }
});

/** Writes to the log what posting would not. */
async function appendEvents(bookId: number, events: readonly object[]): Promise<void> {
  await database.pool.query(
    `select payments.append_events($1, array(
       select jsonb_populate_record(null::payments.new_event, e) from jsonb_array_elements($2::jsonb) e))`,
    [bookId, JSON.stringify(events)],
  );
}

describe('whatever a book says', () => {
  const anyText = fc.string({ unit: 'binary', maxLength: 40 }).filter((text) => !text.includes('\0'));
  const anyAccount = fc.record({
    type: fc.oneof(
      fc.constantFrom('cash', 'fees', 'revenue'),
      anyText.filter((text) => text !== ''),
    ),
    currency: fc.constantFrom('USD', 'JPY', 'BHD', 'CLF'),
    name: fc.oneof(anyText, fc.stringMatching(/^[qQxX_:.\-0-9 ]{0,8}$/)),
    owner: fc.constantFrom('none', 'user', 'organization'),
  });
  const anyTransaction = fc.record({
    from: fc.nat(),
    to: fc.nat(),
    amountCents: fc.bigInt({ min: 1n, max: 1_000_000_000_000n }),
    day: fc.date({ min: new Date('1990-01-01'), max: new Date('2060-01-01'), noInvalidDate: true }),
    description: fc.option(anyText),
    referenceId: fc.option(anyText),
    metadata: fc.dictionary(anyText, fc.oneof(anyText, fc.integer(), fc.constant(null))),
    ofLeg: fc.option(anyText),
  });
  const someBook = fc.record({
    accounts: fc.uniqueArray(anyAccount, {
      minLength: 10,
      maxLength: 60,
      selector: (account) => JSON.stringify(account),
    }),
    transactions: fc.array(anyTransaction, { minLength: 10, maxLength: 60 }),
    from: fc.date({ min: new Date('1990-01-01'), max: new Date('2060-01-01'), noInvalidDate: true }),
  });

  // The names that the ledger refuses today, too: its rule may widen.
  beforeAll(() => database.pool.query('alter table payments.accounts drop constraint accounts_name_format'));

  it('no two accounts become one, no text breaks the file, and every balance is ours', async () => {
    await fc.assert(
      fc.asyncProperty(someBook, async ({ accounts, transactions, from }) => {
        const bookId = await openBook(database.pool, `random ${crypto.randomUUID()}`);
        const ids = await openAnyAccounts(bookId, accounts);
        await postSome(bookId, accounts, ids, transactions);
        const day = from.toISOString().slice(0, 10);
        const ours = await balancesOfBook(database.pool, bookId);
        for (const format of EXPORT_FORMATS) {
          for (const slice of [{}, { from: day }]) {
            const theirs = await READERS[format](await exported(format, { bookId, ...slice }));
            expect(differences(ours, theirs)).toEqual([]);
          }
        }
      }),
      { numRuns: process.env['LIVENTIX_DRILLS'] === 'full' ? 60 : 6, endOnFailure: true },
    );
  }, 600_000);

  type AnyAccount = typeof anyAccount extends fc.Arbitrary<infer T> ? T : never;
  type AnyTransaction = typeof anyTransaction extends fc.Arbitrary<infer T> ? T : never;

  async function openAnyAccounts(bookId: number, accounts: readonly AnyAccount[]): Promise<string[]> {
    await database.pool.query(
      `insert into payments.account_types (type, normal_side, description)
       select distinct on (t) t, case when length(t) % 2 = 0 then 'debit' else 'credit' end, 'any' from unnest($1::text[]) t
       on conflict do nothing`,
      [accounts.map(({ type }) => type)],
    );
    const holder = '00000000-0000-4000-8000-0000000000c3';
    const events = accounts.map(({ type, currency, name, owner }) => ({
      type: 'account.opened',
      event_id: crypto.randomUUID(),
      payload: { type, currency, name, ...(owner === 'none' ? {} : { [`${owner}_id`]: holder }) },
    }));
    await appendEvents(bookId, events);
    return events.map(({ event_id }) => event_id);
  }

  async function postSome(
    bookId: number,
    accounts: readonly AnyAccount[],
    ids: readonly string[],
    transactions: readonly AnyTransaction[],
  ): Promise<void> {
    const outcomes = await postAll(
      database.pool,
      transactions.map((transaction) => {
        const from = transaction.from % ids.length;
        const currency = accounts[from]?.currency ?? '';
        const peers = ids.filter((_, index) => accounts[index]?.currency === currency);
        const [debit, credit] = [ids[from] ?? '', peers[transaction.to % peers.length] ?? ''];
        const ofLeg = transaction.ofLeg === null ? {} : { description: transaction.ofLeg };
        return {
          effectiveAt: transaction.day,
          ...(transaction.description === null ? {} : { description: transaction.description }),
          ...(transaction.referenceId === null ? {} : { referenceId: transaction.referenceId }),
          metadata: transaction.metadata,
          entries: [
            { accountId: debit, amountCents: transaction.amountCents, currency, ...ofLeg },
            { accountId: credit, amountCents: -transaction.amountCents, currency },
          ],
        };
      }),
      { bookId },
    );
    expect(outcomes.filter(({ status }) => status !== 'posted')).toEqual([]);
  }
});
