import type { TextRow } from '../../db/cursor.ts';
import type { Tx } from '../../db/pool.ts';
import type { Replay, ReversalStep } from './book-state.ts';
import { type LoggedEvent, labelOf } from './event.ts';
import { elementsOf, membersOf } from './json-text.ts';
import type { Leg } from './postings.ts';
import { differencesOf, saidCents, saidText, saidUuid } from './values.ts';

export const REVERSAL_COLUMNS = 'event_position, book_id, transaction_id, reverses, reversal_seq, is_complete';

/** Notes what a transaction takes back; whether it may is judged at the end, when those it reverses are fetched. */
export function noteReversal({ book, findings }: Replay, event: LoggedEvent, legs: readonly Leg[]): void {
  const { said } = event;
  if (said.has('reverses') !== said.has('reversal_step')) {
    findings.fault(
      'events',
      `${labelOf(event)} says ${said.has('reverses') ? 'what it reverses and not how' : 'how it reverses and not what'}`,
    );
  }
  if (!said.has('reverses')) return;
  const reverses = saidUuid(said, 'reverses');
  if (reverses === null) {
    findings.fault('events', `${labelOf(event)} reverses ${saidText(said, 'reverses')}, which is no id`);
    return;
  }
  const cents = new Map<string, bigint>();
  for (const { accountId, amount } of legs) {
    if (accountId !== null && amount !== null) cents.set(accountId, (cents.get(accountId) ?? 0n) + amount);
  }
  const steps = book.reversals.get(reverses) ?? [];
  if (steps.length === 0) book.reversals.set(reverses, steps);
  const step = membersOf(said.get('reversal_step'));
  const isComplete = saidText(step, 'is_complete') === 'true';
  steps.push({ position: event.position, isComplete, cents });
  if (saidText(step, 'reversal_seq') !== steps.length.toString()) {
    findings.fault(
      'reversals',
      `reversal of event ${event.position} is out of turn: it says number ${saidText(step, 'reversal_seq')} of transaction ${reverses}, expected ${steps.length}`,
    );
  }
}

export function compareReversal({ findings }: Replay, event: LoggedEvent, rows: readonly TextRow[]): void {
  const hasStep = event.said.has('reversal_step');
  const [row, ...more] = rows;
  for (const extra of hasStep ? more : rows) reportStrayReversal(findings, extra);
  if (!hasStep) return;
  if (row === undefined) {
    findings.fault(
      'reversals',
      `reversal of event ${event.position} (transaction ${event.eventId}) is in the log and not among the reversals`,
    );
    return;
  }
  const step = membersOf(event.said.get('reversal_step'));
  const differences = differencesOf([
    ['transaction_id', row[2], event.eventId],
    ['reverses', row[3], saidUuid(event.said, 'reverses')],
    ['reversal_seq', row[4], saidText(step, 'reversal_seq')],
    ['is_complete', row[5] === 't' ? 'true' : 'false', saidText(step, 'is_complete')],
  ]);
  if (differences !== undefined) {
    findings.fault(
      'reversals',
      `reversal of event ${event.position} (transaction ${event.eventId}) differs from its event, or is out of turn: ${differences}`,
    );
  }
}

export function reportStrayReversal(findings: Replay['findings'], row: TextRow): void {
  findings.fault(
    'reversals',
    `reversal of event ${row[0]} has no event in the log (transaction ${row[2]}, of ${row[3]})`,
  );
}

/** How many reversed transactions are fetched at a time. */
const BATCH = 1_000;

/** Judges all reversals of a book by what the log says of the transactions that they reverse. */
export async function judgeReversals(tx: Tx, replay: Replay): Promise<void> {
  const reversed = [...replay.book.reversals.keys()];
  for (let from = 0; from < reversed.length; from += BATCH) {
    const ids = reversed.slice(from, from + BATCH);
    const { rows } = await tx.query<{ id: string; position: bigint; payload: string }>(
      `select event_id as id, position, payload::text as payload
       from payments.events where event_id = any ($1) and book_id = $2 and type = 'transaction.posted'`,
      [ids, replay.book.bookId],
    );
    const found = new Map(rows.map((row) => [row.id, row]));
    for (const id of ids) judgeOf(replay, id, found.get(id));
  }
}

function judgeOf(
  { book, findings }: Replay,
  reversed: string,
  original: { position: bigint; payload: string } | undefined,
): void {
  const steps = book.reversals.get(reversed) ?? [];
  if (original === undefined) {
    findings.fault(
      'reversals',
      `event ${steps[0]?.position} reverses transaction ${reversed}, which is not in the log`,
    );
    return;
  }
  const left = netOf(original.payload);
  for (const step of steps) {
    const fault =
      step.position <= original.position ? 'comes before it' : (excessOf(left, step) ?? completionFault(left, step));
    if (fault !== undefined)
      findings.fault(
        'reversals',
        `event ${step.position} reverses transaction ${reversed} (event ${original.position}) and ${fault}`,
      );
  }
}

function netOf(payload: string): Map<string, bigint> {
  const left = new Map<string, bigint>();
  for (const entry of elementsOf(membersOf(payload).get('entries')) ?? []) {
    const said = membersOf(entry);
    const [accountId, amount] = [saidUuid(said, 'account_id'), saidCents(said, 'amount_cents')];
    if (accountId !== null && amount !== null) left.set(accountId, (left.get(accountId) ?? 0n) + amount);
  }
  return left;
}

const sizeOf = (cents: bigint) => (cents < 0n ? -cents : cents);

/** What a step takes beyond what is left, in words. Takes it from what is left. */
function excessOf(left: Map<string, bigint>, step: ReversalStep): string | undefined {
  let fault: string | undefined;
  for (const [accountId, cents] of step.cents) {
    const rest = left.get(accountId) ?? 0n;
    if (cents !== 0n && (cents > 0n === rest > 0n || sizeOf(cents) > sizeOf(rest))) {
      fault ??= `takes ${cents} from account ${accountId}, where ${-rest} were left to take`;
    }
    left.set(accountId, rest + cents);
  }
  return fault;
}

function completionFault(left: ReadonlyMap<string, bigint>, step: ReversalStep): string | undefined {
  const rest = [...left].find(([, cents]) => cents !== 0n);
  if (step.isComplete && rest !== undefined)
    return `says that nothing is left of it, but account ${rest[0]} has ${rest[1]} left`;
  // A part that names accounts of which nothing was to be taken is never called complete.
  const isExact = [...step.cents.values()].every((cents) => cents !== 0n);
  return !step.isComplete && rest === undefined && isExact
    ? 'says that something is left of it: nothing is'
    : undefined;
}
