import { createHash } from 'node:crypto';
import type { Pool, Tx } from '../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { assertBook } from '../ledger/books.ts';
import type { Instant } from '../ledger/instants.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { dayBegins, periodFigures } from '../ledger/period-figures.ts';
import { listPeriods } from '../ledger/periods.ts';
import { listSeals } from '../ledger/seals.ts';
import type { VerificationWatch } from '../ledger/verify.ts';
import { certificateOf } from '../replay/certificate.ts';
import { verifyInSnapshot } from '../replay/verify.ts';
import { heldByState } from '../states/held.ts';
import { findInstallations } from '../states/installations.ts';
import { checkMoneyOfStates } from '../states/verify.ts';
import { type AskedPeriod, stepOf } from './period.ts';
import { checkCertificates, type RecordedVerification, type Report, standingOf, type Verified } from './report.ts';

export interface ReportRequest {
  readonly bookId: number;
  readonly period: AskedPeriod;
  /** IANA name: what the days of the period are days of. */
  readonly zone: string;
  /** Of this program. */
  readonly version: string;
  /** Verifies the book in the same snapshot; else finds the verification that was kept last. */
  readonly verification: 'now' | ((tx: Tx) => Promise<RecordedVerification | undefined>);
}

export interface ReportWatch extends VerificationWatch {
  /** What is read now, beside the checks of a verification. */
  readonly onStep?: (step: string) => void;
}

/** As for a verification: sorts and hashes of large books. */
const WORK_MEMORY = '128MB';

/**
 * Reads all that a report says, in one snapshot: every figure of it is of the same instant. Changes nothing.
 * @throws AppError LEDGER_BOOK_UNKNOWN, DB_*
 */
export function readReport(pool: Pool, request: ReportRequest, watch: ReportWatch = {}): Promise<Report> {
  return withTransaction(pool, (tx) => readIn(tx, request, watch), ONE_SNAPSHOT);
}

async function readIn(tx: Tx, request: ReportRequest, watch: ReportWatch): Promise<Report> {
  const { bookId, period: asked, zone, version } = request;
  await assertBook(tx, bookId);
  await tx.query(`set local work_mem = '${WORK_MEMORY}'`);
  const { from, until, closedUntil, name, openedAt, ...made } = await surroundings(tx, request);
  const span = { from, until };
  const step = stepOf(asked);
  const beganAt = performance.now();
  watch.onStep?.('adding up the entries');
  const figures = await periodFigures(tx, { bookId, ...span, zone, step });
  watch.onStep?.('looking at what is held');
  const isKept = bookId === MAIN_BOOK && (await findInstallations(tx)).some(({ machine }) => machine.money?.kept);
  const held = isKept ? await heldByState(tx, until) : null;
  const figuresAt = performance.now();
  const periods = await listPeriods(tx, { bookId });
  const [seal = null] = await listSeals(tx, { bookId, limit: 1 });
  const verified = await verifiedIn(tx, request, watch);
  const seconds = {
    figures: (figuresAt - beganAt) / 1_000,
    verification: (performance.now() - figuresAt) / 1_000,
  };
  return {
    book: { bookId, name, openedAt, closedUntil },
    period: { ...span, asked, zone, step },
    standing: standingOf(span, { at: made.at, closedUntil }),
    ...{ figures, held, verified, seal },
    certificates: checkCertificates(periods, span, figures),
    made: { ...made, version, seconds },
  };
}

interface Surroundings {
  readonly from: Instant;
  readonly until: Instant;
  readonly at: Instant;
  readonly closedUntil: Instant | null;
  readonly name: string;
  readonly openedAt: Instant;
  readonly database: string;
  readonly server: string;
  readonly by: string;
}

async function surroundings(tx: Tx, { bookId, period, zone }: ReportRequest): Promise<Surroundings> {
  const { rows } = await tx.query<Surroundings>(
    `select payments.instant_text(greatest(${dayBegins('$2::date::timestamp', '$4::text')}, timestamptz '0001-01-01 00:00+00')) as from,
            payments.instant_text(${dayBegins('($3::date + 1)::timestamp', '$4::text')}) as until, payments.instant_text(now()) as at,
            payments.instant_text(b.closed_until) as "closedUntil", b.name, payments.instant_text(b.created_at) as "openedAt",
            current_database() as database, current_setting('server_version') as server, current_user as by
     from payments.books b where b.book_id = $1`,
    [bookId, period.firstDay, period.lastDay, zone],
  );
  return rows[0] as Surroundings;
}

async function verifiedIn(
  tx: Tx,
  { verification: asked, bookId, version }: ReportRequest,
  watch: ReportWatch,
): Promise<Verified> {
  if (asked === 'now') {
    const verification = await verifyInSnapshot(tx, watch, { bookId, summaries: true, beside: checkMoneyOfStates });
    const certificate = certificateOf(verification, { bookId, version });
    return { how: 'now', verification, certificate, sha256: createHash('sha256').update(certificate).digest('hex') };
  }
  const recorded = await asked(tx);
  if (recorded === undefined) return { how: 'not' };
  return { how: 'recorded', recorded, eventsSince: await eventsSince(tx, recorded) };
}

/** By positions, which may have gaps: at most so many. */
async function eventsSince(tx: Tx, { certificate }: RecordedVerification): Promise<bigint> {
  const { books = [] } = JSON.parse(certificate) as { books?: { lastPosition: number | null }[] };
  const last = Math.max(0, ...books.map(({ lastPosition }) => lastPosition ?? 0));
  const { rows } = await tx.query<{ since: bigint }>(
    'select coalesce(max(position), $1::bigint) - $1::bigint as since from payments.events',
    [last],
  );
  return rows[0]?.since ?? 0n;
}
