import type { TextRow } from '../../db/cursor.ts';
import type { Account, BookState, Replay } from './book-state.ts';
import { type LoggedEvent, labelOf } from './event.ts';
import type { Findings } from './findings.ts';
import { type Compared, differencesOf, saidText, saidUuid } from './values.ts';

export const SLOT_COLUMNS = 'slot_account_id, book_id, event_position, account_id, slot_number';

/** So that the sum of 64 of them fits 64 bits. */
const MOST_CENTS = 2n ** 57n - 1n;

/** Makes an account that was just opened a slot of another, where its event says so. */
export function noteSlot({ book, findings }: Replay, event: LoggedEvent, slot: Account): void {
  if (event.said.has('slot_of') !== event.said.has('slot_number'))
    findings.fault('events', `${labelOf(event)} says one of slot_of and slot_number, expected both or none`);
  if (!event.said.has('slot_of')) return;
  const ofId = saidUuid(event.said, 'slot_of');
  const number = saidText(event.said, 'slot_number');
  const account = ofId === null ? undefined : book.accounts.get(ofId);
  if (account?.opened === undefined) {
    findings.fault(
      'slots',
      `slot ${slot.id} of account ${saidText(event.said, 'slot_of')} is of an account that does not exist (${labelOf(event)})`,
    );
  }
  book.slots.set(slot, { ofId: saidText(event.said, 'slot_of'), number, account });
  if (account?.opened === undefined) return;
  const label = `slot ${slot.id} of account ${account.id}`;
  if (book.slots.has(account)) findings.fault('slots', `${label} is of an account that is a slot itself`);
  if (!isAlike(slot, account)) findings.fault('slots', `${label} has another owner, type or currency`);
  if (account.status !== 'open' || account.held !== 0n || account.min !== null || account.max !== null) {
    findings.fault('slots', `${label} was given when that one was ${account.status}, or had limits or holds`);
  }
  account.slots ??= [];
  account.slots.push(slot);
  if (number !== account.slots.length.toString()) {
    findings.fault(
      'slots',
      `slot ${slot.id} is number ${number} of account ${account.id}, expected number ${account.slots.length}`,
    );
  }
}

function isAlike(slot: Account, account: Account): boolean {
  const of = ({ opened, currency }: Account) =>
    JSON.stringify([opened?.type, currency, opened?.userId, opened?.organizationId]);
  return of(slot) === of(account);
}

/** The accounts that the entries of an account are spread over, or of the one that it is a slot of: at least itself. */
export function slotsOf(book: BookState, account: Account): readonly Account[] {
  const whole = book.slots.get(account)?.account ?? account;
  return [whole, ...(whole.slots ?? [])];
}

/** Compares the row of a slot with what the log says of it. Returns the slot, where the log has it. */
export function compareSlot(findings: Findings, book: BookState, row: TextRow): Account | undefined {
  const slot = book.accounts.get(row[0] ?? '');
  const said = slot === undefined ? undefined : book.slots.get(slot);
  if (slot === undefined || said === undefined) {
    findings.fault('slots', `slot ${row[0]} has no event in the log`);
    return undefined;
  }
  const compared: Compared[] = [
    ['event_position', row[2], slot.opened?.position],
    ['account_id', row[3], said.ofId],
    ['slot_number', row[4], said.number],
  ];
  const differences = differencesOf(compared);
  if (differences !== undefined) findings.fault('slots', `slot ${slot.id} differs from its event: ${differences}`);
  return slot;
}

/** How the slots of a book stand after its whole log: in the state of their account, without limits and holds. */
export function judgeSlots(findings: Findings, book: BookState): void {
  const families = new Set<Account>();
  for (const [slot, { account }] of book.slots) {
    if (account === undefined) continue;
    families.add(account).add(slot);
    if (slot.status === account.status) continue;
    findings.fault('slots', `slot ${slot.id} is ${slot.status}, its account ${account.id} is ${account.status}`);
  }
  for (const { id, min, max, held, balance } of families) {
    if (min !== null || max !== null || held !== 0n) {
      findings.fault(
        'slots',
        `account ${id}, kept in slots, has limits ${min ?? 'none'} to ${max ?? 'none'} and ${held} held (debit positive)`,
      );
    }
    if (balance > MOST_CENTS || balance < -MOST_CENTS) {
      findings.fault(
        'slots',
        `account ${id}, kept in slots, comes to ${balance}, which leaves no room for the sum of all`,
      );
    }
  }
}
