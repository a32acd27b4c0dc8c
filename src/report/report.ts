import type { Instant } from '../ledger/instants.ts';
import type { CurrencyMovement, PeriodFigures, Span, Step } from '../ledger/period-figures.ts';
import type { ClosedPeriod } from '../ledger/periods.ts';
import type { Seal } from '../ledger/seals.ts';
import type { Verification } from '../replay/verify.ts';
import type { HeldInState } from '../states/held.ts';
import type { AskedPeriod } from './period.ts';

/** Everything that a report says, of one instant: whoever writes it down asks nothing more. */
export interface Report {
  readonly book: {
    readonly bookId: number;
    readonly name: string;
    readonly openedAt: Instant /** Null: nothing is closed. */;
    readonly closedUntil: Instant | null;
  };
  readonly period: Span & { readonly asked: AskedPeriod; readonly zone: string; readonly step: Step };
  readonly standing: Standing;
  readonly figures: PeriodFigures;
  /** Per state of what escrow is held for; null where no machine that keeps money is installed, or not for this book. */
  readonly held: readonly HeldInState[] | null;
  /** Of the closed periods that touch this one, and of the one that ended where it begins, in order. */
  readonly certificates: readonly CheckedCertificate[];
  readonly verified: Verified;
  /** The newest of the book. */
  readonly seal: Seal | null;
  readonly made: Making;
}

interface Making {
  /** The instant of the snapshot that all figures are of. */
  readonly at: Instant;
  readonly database: string;
  /** PostgreSQL's version. */
  readonly server: string;
  /** The database's user. */
  readonly by: string;
  /** Of this program. */
  readonly version: string;
  readonly seconds: { readonly figures: number; readonly verification: number };
}

/**
 * Whether the figures can still change: `closed`, they cannot; `open`, they can until it is closed; `running`, it has not ended;
 * `ahead`, it has not begun.
 */
export type Standing = 'closed' | 'open' | 'running' | 'ahead';

/** @param closedUntil of the book; null where nothing is closed. All by the same writing of instants, which sorts. */
export function standingOf(
  { from, until }: Span,
  { at, closedUntil }: { at: Instant; closedUntil: Instant | null },
): Standing {
  if (closedUntil !== null && isUpTo(until, closedUntil)) return 'closed';
  if (!isUpTo(from, at)) return 'ahead';
  return isUpTo(until, at) ? 'open' : 'running';
}

/** The database's writing sorts as text, but for the years after 9999, which have a digit more. */
const isUpTo = (one: Instant, other: Instant): boolean =>
  one.length === other.length ? one <= other : one.length < other.length;

/** A closed period's certificate beside the figures of this report. */
export interface CheckedCertificate extends ClosedPeriod {
  /** What of this report it certifies: what stood at the end, what stood at the beginning, or a part in between. */
  readonly certifies: 'closing' | 'opening' | 'part';
  /** What the entries say otherwise now; nothing where they agree, and null where they were not compared. */
  readonly differences: readonly string[] | null;
}

/** The certificates that say something of a span, compared where they end where it begins or ends. */
export function checkCertificates(
  periods: readonly ClosedPeriod[],
  span: Span,
  figures: PeriodFigures,
): readonly CheckedCertificate[] {
  const isNear = ({ from, until }: ClosedPeriod) =>
    isUpTo(span.from, until) && (from === null || (from !== span.until && isUpTo(from, span.until)));
  return periods.filter(isNear).map((period) => {
    if (period.until === span.until) {
      return { ...period, certifies: 'closing', differences: closingDifferences(period, span, figures) };
    }
    if (period.until === span.from) {
      return { ...period, certifies: 'opening', differences: openingDifferences(period, figures) };
    }
    return { ...period, certifies: 'part', differences: null };
  });
}

function closingDifferences(period: ClosedPeriod, { from }: Span, figures: PeriodFigures): readonly string[] {
  const now = linesOf(figures, ({ debitCents, creditCents }) => `debit ${debitCents} credit ${creditCents}`);
  const certified = new Map(
    period.balances.map(({ currency, type, debitCents, creditCents }) => [
      `${currency} ${type}`,
      `debit ${debitCents} credit ${creditCents}`,
    ]),
  );
  const isSame = period.from === from;
  const counts = isSame
    ? ([
        ['transactions', period.transactions, figures.transactions],
        ['entries', period.entries, figures.entries],
      ] as const)
    : [];
  return [
    ...differing(certified, now),
    ...counts.flatMap(([what, then, is]) => (BigInt(then) === is ? [] : [`certified ${then} ${what}, now ${is}`])),
  ];
}

function openingDifferences(period: ClosedPeriod, figures: PeriodFigures): readonly string[] {
  const now = linesOf(figures, ({ openingCents }) => `balance ${openingCents}`);
  const certified = new Map(
    period.balances.map(({ currency, type, balanceCents }) => [`${currency} ${type}`, `balance ${balanceCents}`]),
  );
  // A type that was first used in the period stood at nothing.
  for (const [line, says] of now) if (says === 'balance 0' && !certified.has(line)) now.delete(line);
  return differing(certified, now);
}

const linesOf = (
  { currencies }: PeriodFigures,
  says: (line: CurrencyMovement['types'][number]) => string,
): Map<string, string> =>
  new Map(currencies.flatMap(({ currency, types }) => types.map((line) => [`${currency} ${line.type}`, says(line)])));

const differing = (certified: ReadonlyMap<string, string>, now: ReadonlyMap<string, string>): readonly string[] =>
  [...new Set([...certified.keys(), ...now.keys()])].flatMap((line) => {
    const [then, is] = [certified.get(line) ?? 'nothing', now.get(line) ?? 'nothing'];
    return then === is ? [] : [`${line}: certified ${then}, now ${is}, in minor units`];
  });

/** A verification that was made before, and kept. */
export interface RecordedVerification {
  readonly verificationId: bigint;
  readonly begunAt: Date;
  readonly state: 'balances' | 'differs' | 'undecided';
  readonly certificate: string;
  readonly certificateSha256: string;
}

/** What is known of the books beyond these figures: all that the ledger promises, recomputed. */
export type Verified =
  | {
      /** In the snapshot of the figures. */
      readonly how: 'now';
      readonly verification: Verification;
      readonly certificate: string;
      readonly sha256: string;
    }
  | {
      readonly how: 'recorded';
      readonly recorded: RecordedVerification;
      /** At most so many events came after what it looked at. */
      readonly eventsSince: bigint;
    }
  | { readonly how: 'not' };

/** Sums that must be nothing, and are not: by currency, what of it. */
export interface BrokenSum {
  readonly currency: string;
  readonly decimalPlaces: number;
  readonly what: 'opening' | 'movements' | 'closing';
  readonly cents: bigint;
}

export const brokenSums = ({ currencies }: PeriodFigures): readonly BrokenSum[] =>
  currencies.flatMap(({ currency, decimalPlaces, total }) =>
    (
      [
        ['opening', total.openingCents],
        ['movements', total.debitedCents - total.creditedCents],
        ['closing', total.closingCents],
      ] as const
    ).flatMap(([what, cents]) => (cents === 0n ? [] : [{ currency, decimalPlaces, what, cents }])),
  );

/**
 * True where all that was looked at holds; false where a sum, a certificate or a check does not; null where a verification was made and
 * could not find out.
 */
export function holds({ figures, certificates, verified }: Report): boolean | null {
  const differs = certificates.some(({ differences }) => differences !== null && differences.length > 0);
  if (differs || brokenSums(figures).length > 0) return false;
  if (verified.how === 'now') return verified.verification.balance;
  return verified.how === 'recorded' ? BALANCE_OF[verified.recorded.state] : true;
}

const BALANCE_OF = { balances: true, differs: false, undecided: null } as const;

/** What is held of a type of account in one currency, by state, with what no row of a machine is known for. */
export interface Holding {
  readonly currency: string;
  readonly decimalPlaces: number;
  /** Credit less debit, as escrow is held for others. */
  readonly heldCents: bigint;
  readonly accounts: bigint;
  /** That do not stand at zero. */
  readonly standing: bigint;
  readonly states: readonly HeldInState[];
  /** Beside the rows of the machines; null where none is installed. */
  readonly elsewhereCents: bigint | null;
}

const ESCROW = 'escrow';

export const escrowOf = ({ figures, held }: Pick<Report, 'figures' | 'held'>): readonly Holding[] =>
  figures.currencies.flatMap(({ currency, decimalPlaces, types }) =>
    types
      .filter(({ type }) => type === ESCROW)
      .map(({ closingCents, accounts, standing }) => {
        const states = (held ?? []).filter((each) => each.currency === currency && each.type === ESCROW);
        const inStates = states.reduce((sum, { heldCents }) => sum + heldCents, 0n);
        const heldCents = -closingCents;
        return {
          ...{ currency, decimalPlaces, heldCents, accounts, standing, states },
          elsewhereCents: held === null ? null : heldCents - inStates,
        };
      }),
  );
