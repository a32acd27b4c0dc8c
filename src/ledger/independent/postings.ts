import type { TextRow } from '../../db/cursor.ts';
import type { Account, Replay } from './book-state.ts';
import { type LoggedEvent, labelOf } from './event.ts';
import type { Findings } from './findings.ts';
import { elementsOf, membersOf, textOf } from './json-text.ts';
import { limitPassed } from './limits.ts';
import { type Compared, centsOf, differencesOf, MAX_CENTS, uuidOf } from './values.ts';

export const ENTRY_COLUMNS = `id, book_id, event_position, account_seq, amount_cents, balance_after_cents, effective_at, created_at,
  account_id, transaction_id, currency, created_by, reference_type, reference_id, description, metadata`;

/** The number of entries that one position of the log has room for; the entry of leg n is position * 1024 + n. */
const LEGS_A_POSITION = 1_024n;
const MAX_LEGS = 1_000;

export const positionOfEntry = (row: TextRow): bigint => BigInt(row[0] ?? 0) >> 10n;

/** One leg, as its event says it, and what it comes to. */
export interface Leg {
  readonly id: bigint;
  readonly account: Account | undefined;
  readonly accountId: string | null;
  readonly amount: bigint | null;
  readonly currency: string | null;
  readonly description: string | null;
  readonly metadata: string;
  /** Of its account, after it; undefined where the leg cannot be read. */
  seq: bigint | undefined;
  balanceAfter: bigint | undefined;
}

export function legsOf({ book, findings }: Replay, event: LoggedEvent): Leg[] {
  const bodies = elementsOf(event.said.get('entries'));
  if (bodies === undefined || bodies.length < 2 || bodies.length > MAX_LEGS) {
    findings.fault(
      'events',
      `${labelOf(event)} has ${bodies === undefined ? 'no list of entries' : `${bodies.length} entries`}, expected 2 to ${MAX_LEGS}`,
    );
  }
  const description = textOf(event.said.get('description'));
  const metadata = event.said.get('metadata') ?? '{}';
  return (bodies ?? []).map((body, nth) => {
    const said = membersOf(body);
    const accountId = uuidOf(textOf(said.get('account_id')));
    const amount = centsOf(textOf(said.get('amount_cents')));
    const currency = textOf(said.get('currency'));
    if (accountId === null || amount === null || amount === 0n || currency === null) {
      findings.fault(
        'events',
        `${labelOf(event)} has an entry ${nth + 1} that cannot be posted: ${body.slice(0, 200)}`,
      );
    }
    return {
      id: event.position * LEGS_A_POSITION + BigInt(nth + 1),
      account: accountId === null ? undefined : book.account(accountId, currency),
      accountId,
      amount,
      currency,
      description: textOf(said.get('description')) ?? description,
      metadata: said.get('metadata') ?? metadata,
      seq: undefined,
      balanceAfter: undefined,
    };
  });
}

/** Moves the accounts of a transaction, and judges what it did to them as the ledger does: by what it comes to on each of them. */
export function applyLegs({ findings }: Replay, event: LoggedEvent, legs: readonly Leg[]): void {
  let total = 0n;
  let isPlain = true;
  for (const leg of legs) {
    const { account, amount } = leg;
    if (account === undefined || amount === null) continue;
    account.balance += amount;
    account.entries += 1n;
    leg.seq = account.entries;
    leg.balanceAfter = account.balance;
    total += amount;
    isPlain &&= leg.currency === legs[0]?.currency;
    if (leg.currency === account.currency) continue;
    findings.fault(
      'rules',
      `${labelOf(event)} posts ${amount} ${leg.currency} to account ${account.id}, which holds ${account.currency}`,
    );
  }
  // Nearly every transaction has one currency, and its sum says all.
  if (!isPlain || total !== 0n) judgeSums(findings, event, legs);
  for (const leg of legs) {
    if (leg.account !== undefined && !isFree(leg.account)) judgeAccount(findings, event, leg.account, leg, legs);
  }
}

function judgeSums(findings: Findings, event: LoggedEvent, legs: readonly Leg[]): void {
  const sums = new Map<string | null, bigint>();
  for (const { amount, currency } of legs) sums.set(currency, (sums.get(currency) ?? 0n) + (amount ?? 0n));
  for (const [currency, cents] of sums) {
    if (cents === 0n) continue;
    findings.fault(
      'transactions',
      `transaction ${event.eventId} sums to ${cents} ${currency} in its event ${event.position}`,
    );
  }
}

/** Whether nothing that is posted to an account can be wrong, but for what it comes to. */
const isFree = ({ opened, status, min, max, balance }: Account) =>
  opened !== undefined &&
  status === 'open' &&
  min === null &&
  max === null &&
  balance <= MAX_CENTS &&
  balance >= -MAX_CENTS;

function judgeAccount(findings: Findings, event: LoggedEvent, account: Account, leg: Leg, legs: readonly Leg[]): void {
  // What it comes to at the end of its transaction decides.
  if (legs.findLast((other) => other.account === account) !== leg) return;
  const moved = legs.reduce((sum, other) => (other.account === account ? sum + (other.amount ?? 0n) : sum), 0n);
  const fault = faultOn(account, moved);
  if (fault !== undefined) findings.fault('rules', `${labelOf(event)} posts ${moved}: ${fault}`);
}

function faultOn(account: Account, moved: bigint): string | undefined {
  if (account.opened === undefined) return `account ${account.id} was not opened by an event before it`;
  if (account.status !== 'open') return `account ${account.id} was ${account.status}`;
  if (account.balance > MAX_CENTS || account.balance < -MAX_CENTS) {
    return `account ${account.id} comes to ${account.balance}, which passes 64 bits`;
  }
  return limitPassed(account, moved);
}

/** Compares the rows of a transaction with what its event says, leg by leg. */
export function compareEntries(
  { findings }: Replay,
  event: LoggedEvent,
  legs: readonly Leg[],
  rows: readonly TextRow[],
): void {
  let next = 0;
  for (const leg of legs) {
    for (; next < rows.length && idOf(rows[next]) < leg.id; next += 1)
      reportStrayEntry(findings, rows[next] as TextRow);
    const row = rows[next];
    if (row === undefined || idOf(row) !== leg.id) {
      findings.fault(
        'entries',
        `entry ${leg.id} (event ${event.position}, transaction ${event.eventId}, account ${leg.accountId}, ${leg.amount} ${leg.currency}) is in the log and not among the entries`,
      );
      continue;
    }
    next += 1;
    if (isAsPosted(row, event, leg)) continue;
    const differences = differencesOf(comparedOf(row, event, leg), 'posted was');
    if (differences === undefined) continue;
    findings.fault(
      'entries',
      `entry ${leg.id} of transaction ${row[9]} differs from its event ${event.position}: ${differences}`,
    );
  }
  for (; next < rows.length; next += 1) reportStrayEntry(findings, rows[next] as TextRow);
}

const idOf = (row: TextRow | undefined): bigint => BigInt(row?.[0] ?? 0);

/** The same as comparedOf says, without naming what differs: nearly always nothing does. */
function isAsPosted(row: TextRow, event: LoggedEvent, leg: Leg): boolean {
  return (
    row[3] === leg.seq?.toString() &&
    row[4] === leg.amount?.toString() &&
    row[5] === leg.balanceAfter?.toString() &&
    row[6] === event.effectiveAt &&
    row[7] === event.recordedAt &&
    row[8] === leg.accountId &&
    row[9] === event.eventId &&
    row[10] === leg.currency &&
    row[11] === event.createdBy &&
    row[14] === leg.description &&
    row[15] === leg.metadata &&
    row[12] === textOf(event.said.get('reference_type')) &&
    row[13] === textOf(event.said.get('reference_id')) &&
    row[2] === event.position.toString()
  );
}

function comparedOf(row: TextRow, event: LoggedEvent, leg: Leg): Compared[] {
  return [
    ['event_position', row[2], event.position],
    ['account_seq', row[3], leg.seq],
    ['amount_cents', row[4], leg.amount],
    ['balance_after_cents', row[5], leg.balanceAfter],
    ['effective_at', row[6], event.effectiveAt],
    ['created_at', row[7], event.recordedAt],
    ['account_id', row[8], leg.accountId],
    ['transaction_id', row[9], event.eventId],
    ['currency', row[10], leg.currency],
    ['created_by', row[11], event.createdBy],
    ['reference_type', row[12], textOf(event.said.get('reference_type'))],
    ['reference_id', row[13], textOf(event.said.get('reference_id'))],
    ['description', row[14], leg.description],
    ['metadata', row[15], leg.metadata],
  ];
}

export function reportStrayEntry(findings: Findings, row: TextRow): void {
  findings.fault(
    'entries',
    `entry ${row[0]} (transaction ${row[9]}, account ${row[8]}, ${row[4]} ${row[10]}) has no event in the log`,
  );
}
