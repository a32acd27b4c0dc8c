import { streamTexts, type TextRow } from '../../db/cursor.ts';
import type { Tx } from '../../db/pool.ts';
import type { Account, BookState, Hold } from './book-state.ts';
import type { Findings } from './findings.ts';
import { microsecondsOf } from './microseconds.ts';
import { compareSlot, judgeSlots, SLOT_COLUMNS } from './slots.ts';
import { type Compared, differencesOf } from './values.ts';

/** What the rows that say how things stand are compared with. */
export interface Standing {
  readonly tx: Tx;
  readonly findings: Findings;
  readonly bookId: number | null;
  /** The state of a book after its whole log. */
  readonly bookOf: (bookId: number) => BookState;
  readonly books: () => Iterable<BookState>;
}

/** Compares accounts, balances and holds, after the log was read. */
export async function comparePresentRows(standing: Standing): Promise<void> {
  await compareAccounts(standing);
  await compareBalances(standing);
  await compareHolds(standing);
  await compareSlots(standing);
}

async function* rowsOf(
  { tx, bookId }: Standing,
  table: string,
  columns: string,
  order: string,
): AsyncGenerator<TextRow, void> {
  const sql = `select ${columns} from payments.${table} where $1::integer is null or book_id = $1 order by ${order}`;
  for await (const batch of streamTexts(tx, sql, [bookId])) yield* batch;
}

async function compareAccounts(standing: Standing): Promise<void> {
  const { findings } = standing;
  const seen = new Set<Account>();
  const columns = 'id, book_id, event_position, created_at, type, currency, name, user_id, organization_id';
  for await (const row of rowsOf(standing, 'accounts', columns, 'id, book_id')) {
    findings.examined('accounts');
    findings.examined('states');
    findings.examined('balances');
    const account = standing.bookOf(Number(row[1])).accounts.get(row[0] ?? '');
    if (account?.opened === undefined) {
      findings.fault('accounts', `account ${row[0]} has no event in the log`);
      continue;
    }
    seen.add(account);
    const differences = differencesOf(comparedOf(row, account));
    if (differences !== undefined)
      findings.fault('accounts', `account ${row[0]} differs from its event ${account.opened.position}: ${differences}`);
  }
  for (const account of accountsOf(standing)) {
    if (account.opened === undefined || seen.has(account)) continue;
    findings.fault(
      'accounts',
      `account ${account.id} is in the log (event ${account.opened.position}) and not among the accounts`,
    );
  }
}

function comparedOf(row: TextRow, { opened, currency }: Account): Compared[] {
  return [
    ['event_position', row[2], opened?.position],
    ['created_at', row[3], opened?.createdAt],
    ['type', row[4], opened?.type],
    ['currency', row[5], currency],
    ['name', row[6], opened?.name],
    ['user_id', row[7], opened?.userId],
    ['organization_id', row[8], opened?.organizationId],
  ];
}

async function compareBalances(standing: Standing): Promise<void> {
  const { findings } = standing;
  const seen = new Set<Account>();
  const columns = 'account_id, book_id, balance_cents, last_seq, status, min_cents, max_cents, held_cents, currency';
  for await (const row of rowsOf(standing, 'balances', columns, 'account_id, book_id')) {
    const account = standing.bookOf(Number(row[1])).accounts.get(row[0] ?? '');
    if (account === undefined) {
      findings.fault(
        'balances',
        `account ${row[0]} has balance ${row[2]} after ${row[3]} entries, and is not in the log`,
      );
      continue;
    }
    seen.add(account);
    if (row[2] !== account.rowSum.toString() || row[3] !== account.rows.toString()) {
      findings.fault(
        'balances',
        `account ${row[0]} has balance ${row[2]} after ${row[3]} entries, its ${account.rows} entries sum to ${account.rowSum}`,
      );
    }
    const differences = differencesOf([
      ['status', row[4], account.status],
      ['min_cents', row[5], account.min],
      ['max_cents', row[6], account.max],
      ['held_cents', row[7], account.held],
      ['currency', row[8], account.currency],
    ]);
    if (differences !== undefined)
      findings.fault(
        'states',
        `account ${row[0]} is ${row[4]}, and stands otherwise than the log says (debit positive): ${differences}`,
      );
  }
  for (const account of accountsOf(standing)) {
    if (seen.has(account)) continue;
    if (account.opened !== undefined)
      findings.fault('states', `account ${account.id} has no balance, which its state and its limits are in`);
    findings.fault(
      'balances',
      `account ${account.id} has balance none after no entries, its ${account.rows} entries sum to ${account.rowSum}`,
    );
  }
}

async function compareHolds(standing: Standing): Promise<void> {
  const { findings } = standing;
  const seen = new Set<Hold>();
  const columns = `hold_id, book_id, event_position, account_id, amount_cents, remaining_cents, last_seq, state, currency, created_at,
    created_by, reference_type, reference_id, description, metadata, expires_at`;
  for await (const row of rowsOf(standing, 'holds', columns, 'hold_id, book_id')) {
    const hold = standing.bookOf(Number(row[1])).holds.get(row[0] ?? '');
    if (hold === undefined) {
      findings.fault('holds', `hold ${row[0]} has no event in the log`);
      continue;
    }
    seen.add(hold);
    const differences = differencesOf(comparedHold(row, hold));
    if (differences === undefined) continue;
    findings.fault(
      'holds',
      `hold ${row[0]} is ${row[7]} with ${row[5]} of ${row[4]} remaining after ${row[6]} entries, the log says otherwise: ${differences}`,
    );
  }
  for (const { bookId, holds } of standing.books()) {
    for (const [holdId, hold] of holds) {
      if (!seen.has(hold))
        findings.fault(
          'holds',
          `hold ${holdId} of book ${bookId} is in the log (event ${hold.position}) and not among the holds`,
        );
    }
  }
}

async function compareSlots(standing: Standing): Promise<void> {
  const { findings } = standing;
  const seen = new Set<Account>();
  for await (const row of rowsOf(standing, 'account_slots', SLOT_COLUMNS, 'account_id, slot_number, book_id')) {
    findings.examined('slots');
    const slot = compareSlot(findings, standing.bookOf(Number(row[1])), row);
    if (slot !== undefined) seen.add(slot);
  }
  for (const book of standing.books()) {
    for (const slot of book.slots.keys()) {
      if (!seen.has(slot)) findings.fault('slots', `slot ${slot.id} is in the log and not among the slots`);
    }
    judgeSlots(findings, book);
  }
}

function comparedHold(row: TextRow, hold: Hold): Compared[] {
  const expiresAt = row[15] ?? null;
  return [
    ['event_position', row[2], hold.position],
    ['account_id', row[3], hold.account.id],
    ['amount_cents', row[4], hold.amount],
    ['remaining_cents', row[5], hold.remaining],
    ['last_seq', row[6], hold.entries],
    ['state', row[7], hold.state],
    ['currency', row[8], hold.currency],
    ['created_at', row[9], hold.createdAt],
    ['created_by', row[10], hold.createdBy],
    ['reference_type', row[11], hold.referenceType],
    ['reference_id', row[12], hold.referenceId],
    ['description', row[13], hold.description],
    ['metadata', row[14], hold.metadata],
    ['expires_at (µs since 2000)', expiresAt === null ? null : microsecondsOf(expiresAt), hold.expiresAt],
  ];
}

function* accountsOf({ books }: Standing): Iterable<Account> {
  for (const book of books()) yield* book.accounts.values();
}
