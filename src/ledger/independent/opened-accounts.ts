import type { TextRow } from '../../db/cursor.ts';
import type { Account, Replay } from './book-state.ts';
import { type LoggedEvent, labelOf } from './event.ts';
import { noteSlot, slotsOf } from './slots.ts';
import { type Compared, differencesOf, saidCents, saidText, saidUuid } from './values.ts';

export const CHANGE_COLUMNS = `event_position, book_id, account_id, change_seq, status, floor_cents, ceiling_cents, changed_at,
  changed_by, reason`;

const STATUSES = ['open', 'frozen', 'closed'];

export function openAccount({ book, findings }: Replay, event: LoggedEvent): void {
  const { said } = event;
  if (book.accounts.get(event.eventId)?.opened !== undefined) {
    findings.fault('events', `${labelOf(event)} opens an account that an event before it opened`);
    return;
  }
  const opened = {
    position: event.position,
    createdAt: event.recordedAt,
    type: saidText(said, 'type'),
    name: saidText(said, 'name'),
    userId: saidText(said, 'user_id'),
    organizationId: saidText(said, 'organization_id'),
  };
  const currency = saidText(said, 'currency');
  const missing = Object.entries({ type: opened.type, currency, name: opened.name }).filter(
    ([, text]) => text === null,
  );
  for (const [key] of missing)
    findings.fault('events', `${labelOf(event)} says no ${key} of the account that it opens`);
  const account = book.open(event.eventId, opened, currency);
  if (said.has('floor_cents') || said.has('ceiling_cents')) limit(account, event, 'open');
  noteSlot({ book, findings }, event, account);
  judgeLimits({ book, findings }, event, account);
}

/** Applies what an event changes of an account, and judges whether it may. */
export function changeAccount({ book, findings }: Replay, event: LoggedEvent): void {
  const id = saidUuid(event.said, 'account_id');
  const account = id === null ? undefined : book.accounts.get(id);
  if (account === undefined) {
    findings.fault(
      'events',
      `${labelOf(event)} changes account ${saidText(event.said, 'account_id')}, which no event before it opened`,
    );
    return;
  }
  const status = saidText(event.said, 'status');
  if (status === null || !STATUSES.includes(status)) {
    findings.fault(
      'events',
      `${labelOf(event)} says the status ${status} of account ${account.id}: none of ${STATUSES.join(', ')}`,
    );
  }
  for (const key of ['floor_cents', 'ceiling_cents']) {
    if (saidText(event.said, key) === null || saidCents(event.said, key) !== null) continue;
    findings.fault(
      'events',
      `${labelOf(event)} says the ${key} ${saidText(event.said, key)} of account ${account.id}: no whole number`,
    );
  }
  if (status === 'closed') judgeClosing({ book, findings }, event, account);
  limit(account, event, status ?? account.status);
  judgeLimits({ book, findings }, event, account);
}

/** An account is closed only when it has nothing, with all of its slots. */
function judgeClosing({ book, findings }: Replay, event: LoggedEvent, account: Account): void {
  const slots = slotsOf(book, account);
  const [balance, held] = [sumOf(slots, 'balance'), sumOf(slots, 'held')];
  if (balance === 0n && held === 0n) return;
  findings.fault(
    'rules',
    `${labelOf(event)} closes account ${account.id}, which has ${balance} and ${held} on hold (debit positive)`,
  );
}

/** Also where it is lifted again. */
function judgeLimits({ book, findings }: Replay, event: LoggedEvent, account: Account): void {
  if ((account.min === null && account.max === null) || slotsOf(book, account).length === 1) return;
  findings.fault('rules', `${labelOf(event)} limits account ${account.id}, which is kept in slots`);
}

const sumOf = (accounts: readonly Account[], key: 'balance' | 'held') =>
  accounts.reduce((sum, account) => sum + account[key], 0n);

function limit(account: Account, { said }: LoggedEvent, status: string): void {
  const [floor, ceiling] = [saidCents(said, 'floor_cents'), saidCents(said, 'ceiling_cents')];
  const negated = (cents: bigint | null) => (cents === null ? null : -cents);
  account.status = status;
  account.min = account.side === 1n ? floor : negated(ceiling);
  account.max = account.side === 1n ? ceiling : negated(floor);
  account.changes += 1n;
}

/** Whether an event belongs into the history of an account's limits and states. */
function isChange(event: LoggedEvent): boolean {
  if (event.type === 'account.changed') return true;
  return event.type === 'account.opened' && (event.said.has('floor_cents') || event.said.has('ceiling_cents'));
}

export function compareChange({ book, findings }: Replay, event: LoggedEvent, rows: readonly TextRow[]): void {
  const [row, ...more] = rows;
  for (const extra of isChange(event) ? more : rows) reportStrayChange(findings, extra);
  if (!isChange(event)) return;
  const id = event.type === 'account.opened' ? event.eventId : saidUuid(event.said, 'account_id');
  const said = [
    ['account_id', id],
    ['change_seq', id === null ? null : book.accounts.get(id)?.changes],
    ['status', event.type === 'account.opened' ? 'open' : saidText(event.said, 'status')],
    ['floor_cents', saidText(event.said, 'floor_cents')],
    ['ceiling_cents', saidText(event.said, 'ceiling_cents')],
    ['changed_at', event.recordedAt],
    ['changed_by', event.createdBy],
    ['reason', saidText(event.said, 'reason')],
  ] as const;
  if (row === undefined) {
    findings.fault(
      'states',
      `account change of event ${event.position} (account ${id}) is in the log and not among the changes`,
    );
    return;
  }
  const differences = differencesOf(said.map(([column, logged], nth): Compared => [column, row[nth + 2], logged]));
  if (differences !== undefined) {
    findings.fault(
      'states',
      `account change of event ${event.position} (account ${id}) differs from its event, or is out of turn: ${differences}`,
    );
  }
}

export function reportStrayChange(findings: Replay['findings'], row: TextRow): void {
  findings.fault('states', `account change of event ${row[0]} has no event in the log (account ${row[2]}, ${row[4]})`);
}
