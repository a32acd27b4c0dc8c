import type { TextRow } from '../../db/cursor.ts';
import type { Account, Hold, Replay } from './book-state.ts';
import { type LoggedEvent, labelOf } from './event.ts';
import { membersOf, textOf } from './json-text.ts';
import { limitPassed } from './limits.ts';
import { microsecondsOf } from './microseconds.ts';
import type { Leg } from './postings.ts';
import { slotsOf } from './slots.ts';
import { type Compared, differencesOf, type Said, saidCents, saidText, saidUuid } from './values.ts';

export const HOLD_ENTRY_COLUMNS = `event_position, book_id, hold_id, account_id, kind, hold_seq, account_hold_seq, held_cents,
  held_after_cents, captured_cents, remaining_cents, transaction_id, created_at`;

const STEP_COLUMNS = [
  'hold_id',
  'account_id',
  'kind',
  'hold_seq',
  'account_hold_seq',
  'held_cents',
  'held_after_cents',
  'captured_cents',
  'remaining_cents',
] as const;

/** The kind of step that an event of a type makes. */
const KINDS: ReadonlyMap<string, string> = new Map([
  ['hold.placed', 'placed'],
  ['hold.voided', 'voided'],
  ['hold.expired', 'expired'],
  ['transaction.posted', 'captured'],
]);

/** A step of a hold as it must be: what the log says beside it is compared with this. */
interface Step {
  readonly hold: Hold;
  readonly holdId: string;
  readonly kind: string;
  readonly captured: bigint;
  readonly remaining: bigint;
}

/** Whether an event has to make a step of a hold. */
const makesStep = (event: LoggedEvent) =>
  event.type === 'transaction.posted' ? event.said.has('capture') : KINDS.has(event.type);

/** Applies the step of a hold that an event makes, if any, and judges it. The legs are those of a capture, not applied yet. */
export function applyHoldStep(replay: Replay, event: LoggedEvent, legs: readonly Leg[]): void {
  const { findings } = replay;
  if (makesStep(event) !== event.said.has('hold_step')) {
    findings.fault(
      'events',
      `${labelOf(event)} says ${event.said.has('hold_step') ? 'a' : 'no'} step of a hold, expected ${makesStep(event) ? 'one' : 'none'}`,
    );
  }
  if (!makesStep(event)) return;
  const step = event.type === 'hold.placed' ? placed(replay, event) : nextStep(replay, event, legs);
  if (step === undefined) return;
  const { hold, kind, remaining } = step;
  // Signed like entries: an account is spent against its normal side.
  const heldCents = -hold.account.side * (remaining - hold.remaining);
  const after = {
    holdSeq: hold.entries + 1n,
    accountHoldSeq: hold.account.holdEntries + 1n,
    heldAfter: hold.account.held + heldCents,
  };
  compareSaid(replay, event, step, heldCents, after);
  hold.entries = after.holdSeq;
  hold.remaining = remaining;
  hold.state = remaining > 0n ? 'active' : kind;
  hold.account.holdEntries = after.accountHoldSeq;
  hold.account.held = after.heldAfter;
  if (kind === 'placed') judgePlaced(replay, event, hold.account);
}

function compareSaid(
  { findings }: Replay,
  event: LoggedEvent,
  { hold, holdId, kind, captured, remaining }: Step,
  heldCents: bigint,
  after: { holdSeq: bigint; accountHoldSeq: bigint; heldAfter: bigint },
): void {
  const said = membersOf(event.said.get('hold_step'));
  const expected = [
    holdId,
    hold.account.id,
    kind,
    after.holdSeq,
    after.accountHoldSeq,
    heldCents,
    after.heldAfter,
    captured,
    remaining,
  ];
  const differences = differencesOf(
    STEP_COLUMNS.map((column, nth): Compared => [column, saidText(said, column), expected[nth]]),
    'expected',
  );
  if (differences !== undefined)
    findings.fault('holds', `the step of hold ${holdId} in ${labelOf(event)} is none that may follow: ${differences}`);
}

function placed({ book, findings }: Replay, event: LoggedEvent): Step | undefined {
  const { said } = event;
  const accountId = saidUuid(said, 'account_id');
  const amount = saidCents(said, 'amount_cents');
  const account = accountId === null ? undefined : book.accounts.get(accountId);
  if (account?.opened === undefined || amount === null || amount <= 0n || book.holds.has(event.eventId)) {
    findings.fault(
      'events',
      `${labelOf(event)} cannot have been placed: ${saidText(said, 'amount_cents')} on account ${saidText(said, 'account_id')}`,
    );
    return undefined;
  }
  const currency = saidText(said, 'currency');
  if (currency !== account.currency)
    findings.fault(
      'rules',
      `${labelOf(event)} holds ${currency} on account ${account.id}, which has ${account.currency}`,
    );
  const hold: Hold = {
    account,
    position: event.position,
    amount,
    currency,
    createdAt: event.recordedAt,
    createdBy: event.createdBy,
    expiresAt: expiryOf({ findings }, event),
    referenceType: saidText(said, 'reference_type'),
    referenceId: saidText(said, 'reference_id'),
    description: saidText(said, 'description'),
    metadata: said.get('metadata') ?? '{}',
    remaining: 0n,
    entries: 0n,
    state: 'active',
  };
  book.holds.set(event.eventId, hold);
  return { hold, holdId: event.eventId, kind: 'placed', captured: 0n, remaining: amount };
}

function expiryOf({ findings }: Pick<Replay, 'findings'>, event: LoggedEvent): bigint | null {
  const text = saidText(event.said, 'expires_at');
  if (text === null) return null;
  const instant = microsecondsOf(text);
  if (instant === undefined)
    findings.fault('events', `${labelOf(event)} expires at "${text}", which is no instant with its offset`);
  return instant ?? null;
}

/** A step after the first one: judged by how its hold stands. */
function nextStep({ book, findings }: Replay, event: LoggedEvent, legs: readonly Leg[]): Step | undefined {
  const kind = KINDS.get(event.type) ?? '';
  const capture = membersOf(event.said.get('capture'));
  const said: Said = kind === 'captured' ? capture : membersOf(event.said.get('hold_step'));
  const holdId = saidUuid(said, 'hold_id');
  const hold = holdId === null ? undefined : book.holds.get(holdId);
  if (holdId === null || hold === undefined) {
    findings.fault(
      'events',
      `${labelOf(event)} names hold ${saidText(said, 'hold_id')}, which no event before it placed`,
    );
    return undefined;
  }
  if (hold.state !== 'active') {
    findings.fault('holds', `${labelOf(event)} ends hold ${holdId} once more, which was ${hold.state} already`);
  }
  if (kind !== 'captured') {
    const recordedAt = microsecondsOf(event.recordedAt) ?? 0n;
    if (kind === 'expired' && (hold.expiresAt === null || hold.expiresAt > recordedAt)) {
      findings.fault('holds', `${labelOf(event)} lets hold ${holdId} expire before its time`);
    }
    return { hold, holdId, kind, captured: 0n, remaining: 0n };
  }
  const captured = -hold.account.side * netOn(hold.account, legs);
  if (captured <= 0n || captured > hold.remaining) {
    findings.fault(
      'holds',
      `${labelOf(event)} captures ${captured} of hold ${holdId}, which has ${hold.remaining} remaining`,
    );
  }
  const isFinal = textOf(capture.get('final')) === 'true';
  return { hold, holdId, kind, captured, remaining: isFinal ? 0n : hold.remaining - captured };
}

function netOn(account: Account, legs: readonly Leg[]): bigint {
  return legs.reduce((sum, leg) => (leg.account === account ? sum + (leg.amount ?? 0n) : sum), 0n);
}

function judgePlaced({ book, findings }: Replay, event: LoggedEvent, account: Account): void {
  findings.examined('rules');
  if (slotsOf(book, account).length > 1) {
    findings.fault('rules', `${labelOf(event)} reserves on account ${account.id}, which is kept in slots`);
  }
  const direction = account.held > 0n ? 1n : -1n;
  const fault =
    account.status === 'open' ? limitPassed(account, direction) : `account ${account.id} was ${account.status}`;
  if (fault !== undefined) findings.fault('rules', `${labelOf(event)} reserves too much: ${fault}`);
}

/** Compares the row of a hold's history with what its event says. */
export function compareHoldEntry({ findings }: Replay, event: LoggedEvent, rows: readonly TextRow[]): void {
  const hasStep = event.said.has('hold_step');
  const [row, ...more] = rows;
  for (const extra of hasStep ? more : rows) reportStrayHoldEntry(findings, extra);
  if (!hasStep) return;
  const said = membersOf(event.said.get('hold_step'));
  if (row === undefined) {
    findings.fault(
      'holds',
      `hold entry of event ${event.position} (hold ${saidText(said, 'hold_id')}) is in the log and not among the hold entries`,
    );
    return;
  }
  const differences = differencesOf([
    ...STEP_COLUMNS.map((column, nth): Compared => [column, row[nth + 2], saidText(said, column)]),
    ['transaction_id', row[11], event.type === 'transaction.posted' ? event.eventId : null],
    ['created_at', row[12], event.recordedAt],
  ]);
  if (differences !== undefined)
    findings.fault(
      'holds',
      `hold entry of event ${event.position} (hold ${row[2]}) differs from its event: ${differences}`,
    );
}

export function reportStrayHoldEntry(findings: Replay['findings'], row: TextRow): void {
  findings.fault('holds', `hold entry of event ${row[0]} has no event in the log (hold ${row[2]}, ${row[4]})`);
}
