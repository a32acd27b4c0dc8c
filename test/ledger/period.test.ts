import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import { addSlots } from '../../src/ledger/accounts.ts';
import { verifyIndependently } from '../../src/ledger/independent/verify.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { closePeriod, listPeriods, type PeriodCertificate, previewPeriod } from '../../src/ledger/periods.ts';
import { runPeriodChecks } from '../../src/ledger/verify.ts';
import { dropVerified, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { allEntries, instantOf, type KeptEntry, postBySql, sum } from '../support/history.ts';
import { liventix } from '../support/liventix.ts';
import { CERTIFIED, OF_LOG, PERIOD_TAMPERINGS, TOO_LATE } from '../support/tamperings/periods.ts';
import { disguised, undone } from '../support/tamperings/tampering.ts';

const RUNS = process.env['LIVENTIX_DRILLS'] === 'full' ? 100 : 15;
const CONNECTIONS = 16;
const TYPES = ['payable', 'receivable'] as const;

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ poolMax: CONNECTIONS + 4 });
});
afterAll(() => dropVerified(database));

let books = 100;
interface Book {
  readonly bookId: number;
  readonly payable: string;
  readonly receivable: string;
}

/** A book in which nothing was posted, with two accounts. */
async function freshBook(): Promise<Book> {
  const bookId = ++books;
  await database.pool.query('insert into payments.books (book_id, name) values ($1, $2)', [bookId, `book ${bookId}`]);
  const [payable = '', receivable = ''] = await openAccounts(
    database.pool,
    TYPES.map((type) => ({ type, currency: 'USD', name: 'period' })),
    { bookId },
  );
  return { bookId, payable, receivable };
}

const owe = ({ payable, receivable }: Book, amountCents: bigint, effectiveAt?: string) =>
  transfer(receivable, payable, { amountCents, ...(effectiveAt ? { effectiveAt: new Date(effectiveAt) } : {}) });
const postTo = (book: Book, amountCents: bigint, effectiveAt?: string, db: Tx | TestDatabase['pool'] = database.pool) =>
  post(db, owe(book, amountCents, effectiveAt), { bookId: book.bookId });

/** A certificate's text written down from the entries, as docs/periods.md says. */
function textOf(
  entries: readonly KeptEntry[],
  { book, from, until }: Pick<PeriodCertificate, 'book' | 'from' | 'until'>,
) {
  const before = (limit: string | null) => (entry: KeptEntry) => limit !== null && instantOf(entry.effectiveAt) < limit;
  const standing = entries.filter(before(until));
  const inPeriod = standing.filter((entry) => !before(from)(entry));
  const transactions = (of: readonly KeptEntry[]) => new Set(of.map(({ eventPosition }) => eventPosition));
  const types = [...new Set(standing.map(({ type }) => type))].toSorted();
  return [
    'liventix period certificate 1',
    `book ${book}`,
    `from ${from ?? 'the beginning'}`,
    `until ${until}`,
    ...types.map((type) => {
      const balances = [
        ...new Set(standing.filter((entry) => entry.type === type).map(({ accountId }) => accountId)),
      ].map((accountId) => sum(standing.filter((entry) => entry.accountId === accountId)));
      const debit = balances.reduce((total, cents) => total + (cents > 0n ? cents : 0n), 0n);
      const credit = balances.reduce((total, cents) => total + (cents < 0n ? -cents : 0n), 0n);
      return `USD ${type} debit ${debit} credit ${credit} balance ${debit - credit}`;
    }),
    `transactions ${transactions(inPeriod).size}`,
    `entries ${inPeriod.length}`,
    `events ${transactions(standing).size}`,
    `last position ${standing.at(-1)?.eventPosition ?? 0n}`,
    '',
  ].join('\n');
}

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

describe('closing a period', () => {
  it('is refused where the books do not sum to zero, and so is its certificate beforehand', async () => {
    const own = await createDatabase();
    const [debit = '', credit = ''] = await openAccounts(own.pool, [
      { type: 'receivable', currency: 'USD', name: 'clearing' },
      { type: 'cash', currency: 'USD', name: 'wallet' },
    ]);
    await post(own.pool, transfer(debit, credit, { effectiveAt: new Date('2026-01-15T00:00:00Z') }));
    await own.pool.query(
      disguised('update payments.entries set amount_cents = amount_cents + 1 where amount_cents > 0'),
    );
    const refusal = {
      code: 'LEDGER_BOOK_UNBALANCED',
      message: expect.stringMatching(/^Book 1 sums to 1 USD until 2026-02-01\S+, not to zero, and is not closed: /),
    };
    await expect(previewPeriod(own.pool, { until: '2026-02-01T00:00:00Z' })).rejects.toMatchObject(refusal);
    await expect(closePeriod(own.pool, { until: '2026-02-01T00:00:00Z' })).rejects.toMatchObject(refusal);
    for (const flags of [[], ['--dry-run']]) {
      const close = await liventix(['books', 'close', '--until', '2026-02-01', ...flags], { DATABASE_URL: own.url });
      expect(close).toMatchObject({
        exitCode: 1,
        stdout: '',
        stderr: expect.stringContaining('LEDGER_BOOK_UNBALANCED: '),
      });
    }
    expect(await listPeriods(own.pool, { bookId: 1 })).toEqual([]);
    // What came before the change can be closed.
    await closePeriod(own.pool, { until: '2026-01-01T00:00:00Z' });
    await own.drop();
  });

  it('logs it, with a certificate of what was effective before, and moves closed_until', async () => {
    const book = await freshBook();
    await postTo(book, 100n, '2026-01-10T00:00:00Z');
    await postTo(book, 20n, '2026-02-01T00:00:00Z');
    const { eventPosition } = await postTo(book, 3n, '2026-01-31T23:59:59.999Z');
    const period = await closePeriod(database.pool, { until: '2026-02-01T00:00:00Z', bookId: book.bookId });
    expect(period).toMatchObject({
      book: book.bookId,
      from: null,
      until: '2026-02-01T00:00:00.000000Z',
      balances: [
        { currency: 'USD', type: 'payable', debitCents: 0n, creditCents: 103n, balanceCents: -103n },
        { currency: 'USD', type: 'receivable', debitCents: 103n, creditCents: 0n, balanceCents: 103n },
      ],
      transactions: 2,
      entries: 4,
      events: 2,
      lastPosition: Number(eventPosition),
      closedBy: 'liventix',
    });
    expect(period.text).toBe(textOf(await allEntries(database.pool, book.bookId), period));
    expect(period.hash).toBe(sha256(period.text));
    expect(await listPeriods(database.pool, { bookId: book.bookId })).toEqual([period]);
    const { rows } = await database.pool.query(
      `select e.type, e.payload ->> 'until' as until, payments.instant_text(b.closed_until) as closed_until
       from payments.events e join payments.books b using (book_id) where e.book_id = $1 and e.position = $2`,
      [book.bookId, period.eventPosition],
    );
    expect(rows).toEqual([{ type: 'period.closed', until: period.until, closed_until: period.until }]);
  });

  it('certifies the next period from where the last one ended, and leaves other books open', async () => {
    const [book, other] = [await freshBook(), await freshBook()];
    for (const day of [5, 15, 25]) await postTo(book, 10n, `2026-03-${day < 10 ? '0' : ''}${day}T00:00:00Z`);
    const bookId = book.bookId;
    await closePeriod(database.pool, { until: '2026-03-10T00:00:00Z', bookId });
    const second = await closePeriod(database.pool, { until: '2026-03-20T00:00:00+02:00', bookId });
    expect(second).toMatchObject({
      from: '2026-03-10T00:00:00.000000Z',
      until: '2026-03-19T22:00:00.000000Z',
      transactions: 1,
      events: 2,
    });
    expect(await listPeriods(database.pool, { bookId: other.bookId })).toEqual([]);
    await postTo(other, 1n, '2026-03-01T00:00:00Z');
  });

  it('certifies a book in which nothing was posted, and sums that pass 64 bits', async () => {
    const MAX = 9_223_372_036_854_775_807n;
    const book = await freshBook();
    const { bookId } = book;
    const empty = await closePeriod(database.pool, { until: '2026-01-01T00:00:00Z', bookId });
    expect(empty).toMatchObject({ balances: [], transactions: 0, entries: 0, events: 0, lastPosition: 0 });
    const [payable = '', receivable = ''] = await openAccounts(
      database.pool,
      TYPES.map((type) => ({ type, currency: 'USD', name: 'second' })),
      { bookId },
    );
    await postTo(book, MAX, '2026-02-01T00:00:00Z');
    await postTo({ bookId, payable, receivable }, MAX, '2026-02-01T00:00:00Z');
    const rich = await closePeriod(database.pool, { until: '2026-03-01T00:00:00Z', bookId });
    expect(rich.balances[0]).toMatchObject({ type: 'payable', creditCents: 2n * MAX });
    expect(rich.text).toBe(textOf(await allEntries(database.pool, bookId), rich));
  });

  it('certifies an account with slots as one account, on the side where it stands as a whole', async () => {
    const book = await freshBook();
    const { bookId, payable, receivable } = book;
    const [, first = '', second = ''] = await addSlots(database.pool, { accountId: receivable, slots: 3, bookId });
    const day = '2026-01-10T00:00:00Z';
    await postTo({ bookId, payable, receivable: first }, 100n, day);
    await postTo({ bookId, payable: second, receivable: payable }, 90n, day);
    const { balances } = await closePeriod(database.pool, { until: '2026-02-01T00:00:00Z', bookId });
    expect(balances).toEqual([
      { currency: 'USD', type: 'payable', debitCents: 0n, creditCents: 10n, balanceCents: -10n },
      { currency: 'USD', type: 'receivable', debitCents: 10n, creditCents: 0n, balanceCents: 10n },
    ]);
    for (const results of [
      await withTransaction(database.pool, (tx) => runPeriodChecks(tx), ONE_SNAPSHOT),
      await withTransaction(database.pool, (tx) => verifyIndependently(tx), ONE_SNAPSHOT),
    ]) {
      expect(results.filter(({ holds }) => !holds)).toEqual([]);
    }
  });

  it('is refused where the id of its event was given to something else', async () => {
    const { bookId } = await freshBook();
    await undone(database.pool, async (tx) => {
      await tx.query(
        `select payments.append_event($1, row('transaction.posted', n.id, null, null, null, null, '{}')::payments.new_event)
         from (select payments.named_uuid(format('period:%s:%s', $1::integer, '2026-01-01T00:00:00.000000Z')) as id offset 0) n`,
        [bookId],
      );
      await expect(closePeriod(tx, { until: '2026-01-01T00:00:00Z', bookId })).rejects.toMatchObject({
        code: 'LEDGER_IDEMPOTENCY_CONFLICT',
        message: expect.stringMatching(
          /^The id .*, which the closing would have, .*: choose another instant to close until\.$/,
        ),
      });
    });
  });

  it('is foretold by a preview that changes nothing', async () => {
    const book = await freshBook();
    const request = { until: '2026-02-01T00:00:00Z', bookId: book.bookId };
    await postTo(book, 5n, '2026-01-10T00:00:00Z');
    const preview = await previewPeriod(database.pool, request);
    expect(await listPeriods(database.pool, { bookId: book.bookId })).toEqual([]);
    expect(await closePeriod(database.pool, request)).toMatchObject(preview);
  });

  const refusals: [string, (bookId: number) => { until: string; bookId: number }, string, RegExp][] = [
    [
      'an instant to come',
      (bookId) => ({ until: '2099-01-01T00:00:00Z', bookId }),
      'LEDGER_PERIOD_INVALID',
      /has passed/,
    ],
    [
      'an instant already closed',
      (bookId) => ({ until: CLOSED, bookId }),
      'LEDGER_PERIOD_CLOSED',
      /No period is reopened: post a correction/,
    ],
    [
      'an earlier one',
      (bookId) => ({ until: '2025-01-01T00:00:00Z', bookId }),
      'LEDGER_PERIOD_CLOSED',
      /No period is reopened/,
    ],
    [
      'a book that there is not',
      () => ({ until: '2026-02-01T00:00:00Z', bookId: 99 }),
      'LEDGER_BOOK_UNKNOWN',
      /Book 99/,
    ],
    ['what is no instant', (bookId) => ({ until: '2026-02-01', bookId }), 'LEDGER_INVALID', /no instant/],
  ];
  const CLOSED = '2026-01-01T00:00:00Z';
  it.each(refusals)('refuses %s, also in a preview', async (_what, request, code, says) => {
    const { bookId } = await freshBook();
    await closePeriod(database.pool, { until: CLOSED, bookId });
    const refusal = { code, message: expect.stringMatching(says) };
    await expect(closePeriod(database.pool, request(bookId))).rejects.toMatchObject(refusal);
    await expect(previewPeriod(database.pool, request(bookId))).rejects.toMatchObject(refusal);
    expect(await listPeriods(database.pool, { bookId })).toHaveLength(1);
  });

  it.each([`null`, `'infinity'`, `'-infinity'`])('refuses %s from SQL', async (until) => {
    await expect(database.pool.query(`select payments.close_period(1, ${until})`)).rejects.toMatchObject({
      code: 'LV021',
    });
  });

  it('refuses a transaction that would not see what it waited for', async () => {
    const { bookId } = await freshBook();
    for (const mode of ['isolation level repeatable read', 'isolation level serializable']) {
      const closing = withTransaction(
        database.pool,
        (tx) => closePeriod(tx, { until: '2026-01-01T00:00:00Z', bookId }),
        { mode },
      );
      await expect(closing).rejects.toMatchObject({ code: 'LEDGER_PERIOD_INVALID' });
    }
  });

  it('is undone with the transaction that it was part of', async () => {
    const book = await freshBook();
    const closing = withTransaction(database.pool, async (tx) => {
      await closePeriod(tx, { until: '2026-02-01T00:00:00Z', bookId: book.bookId });
      throw new Error('the caller changed its mind');
    });
    await expect(closing).rejects.toThrow('changed its mind');
    await postTo(book, 1n, '2026-01-01T00:00:00Z');
  });

  it('is for the server role where it may post, and for no other', async () => {
    const { bookId } = await freshBook();
    const close = (role: string, until: string) =>
      asRole(
        role,
        `select payments.instant_text((payments.close_period(${bookId}, '${until}')).closed_until) as until`,
      );
    await expect(close('anon', '2026-01-01Z')).rejects.toMatchObject({ code: '42501' });
    await expect(close('authenticated', '2026-01-01Z')).rejects.toMatchObject({ code: '42501' });
    await expect(close('service_role', '2026-01-01Z')).rejects.toMatchObject({ code: 'LV026' });
    await database.pool.query(
      `insert into payments.book_grants (book_id, grantee, may_post) values ($1, 'service_role', true)`,
      [bookId],
    );
    expect(await close('service_role', '2026-01-01Z')).toEqual([{ until: '2026-01-01T00:00:00.000000Z' }]);
    for (const sql of [
      `insert into payments.periods (book_id) values (1)`,
      `update payments.books set closed_until = now()`,
      `select payments.project_periods(1, 1, 1, null)`,
    ]) {
      await expect(asRole('service_role', sql)).rejects.toMatchObject({ code: '42501' });
    }
  });
});

async function asRole(role: string, sql: string): Promise<unknown[]> {
  const admin = new pg.Client({ connectionString: database.adminUrl });
  await admin.connect();
  try {
    await admin.query(`set role ${role}`);
    return (await admin.query(sql)).rows;
  } finally {
    await admin.end();
  }
}

describe('a closed period', () => {
  it('takes no earlier effective date, whoever posts it, and its end and all later ones', async () => {
    const book = await freshBook();
    await closePeriod(database.pool, { until: '2026-02-01T00:00:00Z', bookId: book.bookId });
    await expect(postTo(book, 1n, '2026-01-31T23:59:59.999Z')).rejects.toMatchObject({ code: 'LEDGER_PERIOD_CLOSED' });
    await postTo(book, 1n, '2026-02-01T00:00:00Z');
    await postTo(book, 1n);
  });

  it('has in its certificate the posting that it waited for', async () => {
    const book = await freshBook();
    const poster = await database.pool.connect();
    try {
      await poster.query('begin');
      await postTo(book, 7n, '2026-01-10T00:00:00Z', poster);
      const closing = closePeriod(database.pool, { until: '2026-02-01T00:00:00Z', bookId: book.bookId });
      await eventuallySomebodyWaits();
      await poster.query('commit');
      expect((await closing).balances[0]).toMatchObject({ creditCents: 7n });
    } finally {
      poster.release(true);
    }
  });

  it('refuses the posting that waited for it, and no other', async () => {
    const book = await freshBook();
    const closer = await database.pool.connect();
    try {
      await closer.query('begin');
      await closePeriod(closer, { until: '2026-02-01T00:00:00Z', bookId: book.bookId });
      const late = postTo(book, 7n, '2026-01-10T00:00:00Z');
      late.catch(() => undefined);
      await eventuallySomebodyWaits();
      await closer.query('commit');
      await expect(late).rejects.toMatchObject({ code: 'LEDGER_PERIOD_CLOSED' });
      await postTo(book, 7n);
    } finally {
      closer.release(true);
    }
  });

  it('lets others post while it sums up, and has in its certificate what they posted', async () => {
    const book = await freshBook();
    await postTo(book, 1n, '2026-01-10T00:00:00Z');
    const holder = await database.pool.connect();
    try {
      // Summing up waits for the holder.
      await database.pool.query(`
        alter function payments.period_movements rename to sum_up;
        create function payments.period_movements(p_book_id integer, p_untils timestamptz[], p_after bigint, p_up_to bigint)
        returns payments.period_movement[] language plpgsql as $$
        begin
          perform pg_advisory_xact_lock_shared(4711);
          return payments.sum_up(p_book_id, p_untils, p_after, p_up_to);
        end $$`);
      await holder.query('begin; select pg_advisory_xact_lock(4711)');
      const closing = closePeriod(database.pool, { until: '2026-02-01T00:00:00Z', bookId: book.bookId });
      closing.catch(() => undefined);
      await eventuallySomebodyWaits();
      await withTransaction(database.pool, async (tx) => {
        await tx.query(`set local lock_timeout = '1s'`);
        await postTo(book, 20n, '2026-01-20T00:00:00Z', tx);
      });
      await holder.query('commit');
      expect((await closing).balances[0]).toMatchObject({ creditCents: 21n });
    } finally {
      holder.release(true);
      await database.pool.query(
        'drop function payments.period_movements; alter function payments.sum_up rename to period_movements',
      );
    }
  });

  it('begins where another close ended that it waited for, and is refused where that one went further', async () => {
    const book = await freshBook();
    const { bookId } = book;
    await postTo(book, 1n, '2026-01-10T00:00:00Z');
    await postTo(book, 20n, '2026-02-10T00:00:00Z');
    const closer = await database.pool.connect();
    try {
      await closer.query('begin');
      await closePeriod(closer, { until: '2026-02-01T00:00:00Z', bookId });
      const further = closePeriod(database.pool, { until: '2026-03-01T00:00:00Z', bookId });
      const less = closePeriod(database.pool, { until: '2026-01-20T00:00:00Z', bookId });
      less.catch(() => undefined);
      await eventuallySomebodyWaits(2);
      await closer.query('commit');
      expect(await further).toMatchObject({ from: '2026-02-01T00:00:00.000000Z', transactions: 1, events: 2 });
      await expect(less).rejects.toMatchObject({ code: 'LEDGER_PERIOD_CLOSED' });
      await everyCheckHolds();
    } finally {
      closer.release(true);
    }
  });

  it('is not closed while a posting stays open for too long, and says what to do', async () => {
    const book = await freshBook();
    await database.pool.query(`alter function payments.close_period set lock_timeout = '100ms'`);
    const poster = await database.pool.connect();
    try {
      await poster.query('begin');
      await postTo(book, 7n, undefined, poster);
      const closing = closePeriod(database.pool, { until: '2026-02-01T00:00:00Z', bookId: book.bookId });
      await expect(closing).rejects.toMatchObject({
        code: 'LEDGER_PERIOD_BUSY',
        exitCode: 3,
        message: expect.stringMatching(/was not closed: .* stayed open for longer than 100ms\. End it, or run again\./),
      });
    } finally {
      poster.release(true);
      await database.pool.query(`alter function payments.close_period set lock_timeout = '10s'`);
    }
  });

  it('is certified as it is recomputed, whatever is posted by 16 connections meanwhile', async () => {
    const book = await freshBook();
    const { bookId } = book;
    const untils = [5, 10, 15, 20, 25].map((day) => `2026-01-${day < 10 ? '0' : ''}${day}T00:00:00Z`);
    let isClosing = true;
    const outcomes = { posted: 0, refused: 0 };
    const poster = async (nth: number) => {
      for (let count = 0; isClosing; count += 1) {
        const day = 1 + ((nth * 7 + count * 5) % 28);
        await postTo(book, BigInt(nth + 1), `2026-01-${day < 10 ? '0' : ''}${day}T12:00:00Z`).then(
          () => (outcomes.posted += 1),
          (error: { code: string }) => {
            expect(error.code).toBe('LEDGER_PERIOD_CLOSED');
            outcomes.refused += 1;
          },
        );
      }
    };
    const posters = Promise.all(Array.from({ length: CONNECTIONS }, (_, nth) => poster(nth)));
    posters.catch(() => undefined);
    try {
      for (const until of untils) {
        const { posted } = outcomes;
        await eventually('more is posted', () => outcomes.posted > posted + CONNECTIONS);
        await closePeriod(database.pool, { until, bookId });
      }
      await eventually('some are refused', () => outcomes.refused > CONNECTIONS);
    } finally {
      isClosing = false;
    }
    await posters;
    const entries = await allEntries(database.pool, bookId);
    const periods = await listPeriods(database.pool, { bookId });
    expect(periods.map(({ text }) => text)).toEqual(periods.map((period) => textOf(entries, period)));
    expect(periods.at(-1)?.transactions).toBeGreaterThan(0);
    const tooLate = entries.filter(({ eventPosition, effectiveAt }) =>
      periods.some((period) => period.eventPosition < eventPosition && instantOf(effectiveAt) < period.until),
    );
    expect(tooLate).toEqual([]);
    await everyCheckHolds();
  });

  it('keeps its certificate, whatever is posted and closed afterwards', async () => {
    const step = fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({ day: fc.integer({ min: 1, max: 300 }), cents: fc.bigInt({ min: -999n, max: 999n }) }),
      },
      { weight: 1, arbitrary: fc.record({ closeDay: fc.integer({ min: 1, max: 300 }) }) },
    );
    const START = Date.UTC(2025, 0, 1);
    const at = (day: number) => new Date(START + day * 86_400_000).toISOString();
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const book = await freshBook();
        const { bookId } = book;
        let closedDay = 0;
        for (const each of steps) {
          if ('closeDay' in each) {
            const closing = closePeriod(database.pool, { until: at(each.closeDay), bookId });
            if (each.closeDay <= closedDay) {
              await expect(closing).rejects.toMatchObject({ code: 'LEDGER_PERIOD_CLOSED' });
            } else {
              await closing;
              closedDay = each.closeDay;
            }
          } else if (each.cents !== 0n) {
            const posting = postTo(book, each.cents, at(each.day));
            if (each.day < closedDay) await expect(posting).rejects.toMatchObject({ code: 'LEDGER_PERIOD_CLOSED' });
            else await posting;
          }
        }
        const entries = await allEntries(database.pool, bookId);
        for (const period of await listPeriods(database.pool, { bookId })) {
          expect(period.text).toBe(textOf(entries, period));
          expect(period.hash).toBe(sha256(period.text));
        }
        await everyCheckHolds();
      }),
      { numRuns: RUNS, verbose: 1 },
    );
  });

  it('is projected again from the log as it was', async () => {
    const book = await freshBook();
    for (const until of ['2026-01-01T00:00:00Z', '2026-02-01T00:00:00Z']) {
      await closePeriod(database.pool, { until, bookId: book.bookId });
    }
    const before = await listPeriods(database.pool, { bookId: book.bookId });
    await withTransaction(database.pool, async (tx) => {
      await tx.query(
        `alter table payments.periods disable trigger user;
         delete from payments.periods where book_id = ${book.bookId}; ${ENABLE}`,
      );
      await tx.query('select payments.project_periods($1, 1, 9223372036854775807, null)', [book.bookId]);
    });
    expect(await listPeriods(database.pool, { bookId: book.bookId })).toEqual(before);
    await everyCheckHolds();
  });
});

async function eventuallySomebodyWaits(howMany = 1): Promise<void> {
  await eventually('somebody waits for the period', async () => {
    const { rows } = await database.pool.query(
      `select 1 from pg_locks where locktype = 'advisory' and not granted and database = (
         select oid from pg_database where datname = current_database())`,
    );
    return rows.length >= howMany;
  });
}

async function everyCheckHolds(): Promise<void> {
  const checks = await withTransaction(database.pool, (tx) => runPeriodChecks(tx), ONE_SNAPSHOT);
  expect(checks.filter(({ holds }) => !holds)).toEqual([]);
}

const ENABLE = `
  alter table payments.periods enable always trigger periods_append_only;
  alter table payments.periods enable always trigger periods_follow_log;`;

describe('what an owner did to a closed period who disabled the guards', () => {
  /** The faults that each verification finds in the periods after it, by check; undone afterwards. */
  function faultsAfter(book: Book, sql: string): Promise<Record<string, readonly string[]>[]> {
    return undone(database.pool, async (tx) => {
      for (const table of ['books', 'entries', 'events', 'periods']) {
        await tx.query(`alter table payments.${table} disable trigger user`);
      }
      await tx.query(sql.replaceAll('$book', `${book.bookId}`));
      const found = [];
      for (const checks of [await runPeriodChecks(tx), await verifyIndependently(tx, { bookId: book.bookId })]) {
        const failed = checks.filter(({ check, holds }) => !holds && OF_PERIODS.includes(check));
        found.push(Object.fromEntries(failed.map(({ check, first }) => [check, first])));
      }
      return found;
    });
  }
  const OF_PERIODS = [OF_LOG, TOO_LATE, CERTIFIED];

  async function closedBook(): Promise<Book> {
    const book = await freshBook();
    await postTo(book, 100n, '2026-01-10T00:00:00Z');
    await postTo(book, 20n, '2026-01-20T00:00:00Z');
    await closePeriod(database.pool, { until: '2026-02-01T00:00:00Z', bookId: book.bookId });
    await postTo(book, 3n, '2026-02-10T00:00:00Z');
    await closePeriod(database.pool, { until: '2026-03-01T00:00:00Z', bookId: book.bookId });
    await postTo(book, 4n);
    return book;
  }

  it('is found where it posted into it: the entry, and what it changed in every certificate since', async () => {
    const book = await closedBook();
    const tx = await database.pool.connect();
    try {
      await tx.query('begin');
      await tx.query('alter table payments.books disable trigger user');
      const closeUntil = (until: string) =>
        tx.query(`update payments.books set closed_until = ${until} where book_id = ${book.bookId}`);
      await closeUntil('null');
      const { transactionId } = await postTo(book, 5n, '2026-01-15T00:00:00Z', tx);
      await closeUntil(`'2026-03-01Z'`);
      const faults = await runPeriodChecks(tx);
      const [ofLog, tooLate, certified] = faults;
      expect(ofLog).toMatchObject({ check: OF_LOG, holds: true });
      expect(tooLate).toMatchObject({ check: TOO_LATE, holds: false, faults: 2n });
      expect(tooLate?.first[0]).toMatch(
        new RegExp(
          `^entry \\d+ \\(transaction ${transactionId}, account ${book.receivable}, 5 USD\\) is effective at 2026-01-15T00:00:00\\.000000Z, before 2026-03-01T00:00:00\\.000000Z, until when event \\d+ had closed book ${book.bookId}$`,
        ),
      );
      expect(certified).toMatchObject({ check: CERTIFIED, holds: false, faults: 2n });
      const independent = await verifyIndependently(tx, { bookId: book.bookId });
      expect(independent.find(({ check }) => check === TOO_LATE)).toMatchObject({ faults: 2n, first: tooLate?.first });
      expect(certified?.first[0]).toMatch(
        new RegExp(
          `^period of book ${book.bookId} until 2026-02-01T00:00:00\\.000000Z \\(event \\d+\\): now .*USD payable debit 0 credit 125 balance -125.*; certified .*USD payable debit 0 credit 120 balance -120`,
        ),
      );
    } finally {
      await tx.query('rollback');
      tx.release();
    }
  });

  it.each(PERIOD_TAMPERINGS)('is found by both verifications where it changed %s', async (_what, sql, checks, says) => {
    const [faults = {}, independent = {}] = await faultsAfter(await closedBook(), sql);
    expect(Object.keys(faults)).toEqual(checks);
    for (const named of Object.values(faults)) expect(named[0]).toMatch(says);
    expect(Object.keys(independent)[0]).toBe(checks[0]);
    expect(independent[checks[0] ?? '']?.[0]).toMatch(says);
  });
});

describe('liventix books close', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'liventix-period-'));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));
  const run = (...args: string[]) => liventix(['books', ...args], { DATABASE_URL: database.url });
  const close = ({ bookId }: Book, ...args: string[]) => run('close', '--book', `${bookId}`, ...args);

  it('says with --dry-run what it would close, and changes nothing', async () => {
    const book = await freshBook();
    await postTo(book, 5n, '2026-01-31T12:00:00Z');
    await postTo(book, 6n, '2026-02-01T00:00:00Z');
    const text = await close(book, '--until', '2026-02-01', '--dry-run');
    expect(text).toMatchObject({ exitCode: 0, stderr: '' });
    expect(text.stdout).toMatch(
      /^Would close, and nothing was changed:\n\nliventix period certificate 1\nbook \d+\nfrom the beginning\nuntil 2026-02-01T00:00:00\.000000Z\nUSD payable debit 0 credit 5 balance -5\n/,
    );
    const machine = await close(book, '--until', '2026-02-01', '--dry-run', '--json');
    expect(JSON.parse(machine.stdout)).toMatchObject({
      wouldClose: { until: '2026-02-01T00:00:00.000000Z', entries: 2 },
    });
    expect(await listPeriods(database.pool, { bookId: book.bookId })).toEqual([]);
  });

  it('closes, says what and of which database, and writes a certificate that anybody can check', async () => {
    const book = await freshBook();
    await postTo(book, 5n, '2026-01-31T12:00:00Z');
    const path = join(folder, 'january.json');
    const closed = await close(book, '--until', '2026-02-01', '--certificate', path);
    expect(closed).toMatchObject({
      exitCode: 0,
      stderr: `Closing book ${book.bookId} of the database ${database.name} until 2026-02-01T00:00:00Z, for ever.\n`,
    });
    const certificate = JSON.parse(await readFile(path, 'utf8'));
    expect(certificate).toMatchObject({
      book: book.bookId,
      from: null,
      until: '2026-02-01T00:00:00.000000Z',
      balances: [{ currency: 'USD', type: 'payable', debitCents: 0, creditCents: 5, balanceCents: -5 }, {}],
      transactions: 1,
      entries: 2,
      events: 1,
      closedBy: 'liventix',
      version: expect.stringMatching(/^\d+\.\d+\.\d+/),
    });
    expect(certificate.hash).toBe(sha256(certificate.text));
    expect(closed.stdout).toContain(`sha256 ${certificate.hash}\n\nClosed by event ${certificate.eventPosition} at `);
  });

  it('closes nothing where the certificate has no place, or would take the place of another', async () => {
    const book = await freshBook();
    const taken = join(folder, 'taken.json');
    await writeFile(taken, 'mine');
    for (const [path, exitCode, says] of [
      [taken, 2, 'liventix: USAGE: '],
      [join(folder, 'nowhere', 'x.json'), 3, 'liventix: SYSTEM_FAILED: '],
    ] as const) {
      const refused = await close(book, '--until', '2026-02-01', '--certificate', path);
      expect(refused).toMatchObject({ exitCode, stdout: '', stderr: expect.stringContaining(says) });
    }
    expect(await readFile(taken, 'utf8')).toBe('mine');
    expect(await listPeriods(database.pool, { bookId: book.bookId })).toEqual([]);
  });

  it('leaves no file where it is refused, in one line', async () => {
    const book = await freshBook();
    const path = join(folder, 'future.json');
    const refused = await close(book, '--until', '2099-01-01', '--certificate', path);
    expect(refused).toMatchObject({
      exitCode: 2,
      stdout: '',
      stderr: expect.stringMatching(/\nliventix: LEDGER_PERIOD_INVALID: [^\n]*\n$/),
    });
    await expect(readFile(path)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it.each([
    ['no end', [], /required option '--until <instant>' not specified/],
    ['an end that is none', ['--until', '2026-02-30'], /Give an instant with its offset/],
    [
      'a certificate of a dry run',
      ['--until', '2026-02-01', '--dry-run', '--certificate', 'x'],
      /cannot be used with option/,
    ],
  ])('refuses %s as wrong usage', async (_what, args, says) => {
    const refused = await run('close', ...args);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: USAGE: [^\n]*\n$/);
    expect(refused.stderr).toMatch(says);
  });

  it('is listed by books periods, and verified', async () => {
    const book = await freshBook();
    const periods = (...args: string[]) => run('periods', '--book', `${book.bookId}`, ...args);
    expect(await periods()).toMatchObject({ exitCode: 0, stdout: `Book ${book.bookId} has no closed period.\n` });
    await close(book, '--until', '2026-02-01');
    await close(book, '--until', '2026-03-01');
    const [first, second] = await listPeriods(database.pool, { bookId: book.bookId });
    const text = await periods('--verify');
    expect(text).toMatchObject({ exitCode: 0, stderr: '' });
    expect(text.stdout).toContain(
      `the beginning until ${first?.until}  0 transactions, 0 entries  closed by event ${first?.eventPosition} at `,
    );
    expect(text.stdout).toContain(`${first?.until} until ${second?.until}  `);
    expect(text.stdout.match(/^holds /gm)).toHaveLength(3);
    const machine = JSON.parse((await periods('--json', '--verify')).stdout);
    expect(machine).toMatchObject({
      book: book.bookId,
      holds: true,
      periods: [{ hash: first?.hash }, { hash: second?.hash }],
    });
  });

  it('is found out by books periods --verify, and by books verify, where an owner posted into it', async () => {
    const broken = await createDatabase();
    try {
      const [payable = '', receivable = ''] = await openAccounts(
        broken.pool,
        TYPES.map((type) => ({ type, currency: 'USD', name: 'period' })),
      );
      await closePeriod(broken.pool, { until: '2026-02-01T00:00:00Z' });
      await broken.pool.query(
        'alter table payments.books disable trigger user; update payments.books set closed_until = null',
      );
      await postBySql(broken.pool, [
        { debit: receivable, credit: payable, amountCents: 5n, effectiveAt: '2026-01-10T00:00:00Z' },
      ]);
      for (const args of [['periods', '--verify'], ['verify']]) {
        const found = await liventix(['books', ...args], { DATABASE_URL: broken.url });
        expect(found.exitCode).toBe(1);
        expect(found.stdout).toMatch(
          /^FAILS {2}nothing was posted into a closed period .*\n {9}entry \d+ \(transaction /m,
        );
      }
    } finally {
      await broken.drop();
    }
  });
});
