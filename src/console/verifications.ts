import { createHash } from 'node:crypto';
import { toJson } from '../db/json-value.ts';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import type { CheckResult, VerificationWatch } from '../ledger/verify.ts';
import { certificateOf } from '../replay/certificate.ts';
import type { Verification } from '../replay/verify.ts';

/**
 * Verifications as they are kept:
 *
 *   running ─▶ balances | differs | undecided   with a certificate
 *      ├─────▶ failed                           by an error, or because it was stopped
 *      └─────▶ broken_off                       silent for console.silence(): whoever asks next says so
 */
const VERIFICATION_STATES = ['running', 'balances', 'differs', 'undecided', 'failed', 'broken_off'] as const;
export type VerificationState = (typeof VERIFICATION_STATES)[number];

export interface KeptVerification {
  readonly verificationId: bigint;
  readonly askedBy: string;
  /** Null: all of them. */
  readonly bookId: number | null;
  readonly sinceSeal: bigint | null;
  readonly independently: boolean;
  readonly begunAt: Date;
  readonly endedAt: Date | null;
  readonly state: VerificationState;
  readonly certificateSha256: string | null;
  readonly failure: string | null;
}

/** How far one is that is at work. */
interface VerificationProgress {
  /** What is looked at now. */
  readonly check: string | null;
  readonly ended: readonly CheckResult[];
  /** Events read of all there are, where that is known. */
  readonly events: { readonly done: number; readonly total: number } | null;
}

export interface VerificationSubject {
  readonly askedBy: string;
  readonly bookId?: number | undefined;
  readonly sinceSeal?: number | undefined;
  readonly independently?: boolean;
}

const COLUMNS = `verification_id as "verificationId", asked_by as "askedBy", book_id as "bookId", since_seal as "sinceSeal", independently,
  begun_at as "begunAt", ended_at as "endedAt", certificate_sha256 as "certificateSha256", failure,
  -- To whoever reads alone, one that is silent is broken off before anybody has written that down.
  case when state = 'running' and heard_at < clock_timestamp() - console.silence() then 'broken_off' else state end as state`;

/** The newest first. @param before only those with a lower id */
export async function listVerifications(
  db: Queryable,
  { limit, before }: { readonly limit: number; readonly before?: string | undefined },
): Promise<readonly KeptVerification[]> {
  const { rows } = await db.query<KeptVerification>(
    `select ${COLUMNS} from console.verifications where ($2::bigint is null or verification_id < $2)
     order by verification_id desc limit $1`,
    [limit, before ?? null],
  );
  return rows;
}

export interface VerificationInFull extends KeptVerification {
  readonly progress: VerificationProgress | null;
  readonly certificate: string | null;
}

export async function findVerification(db: Queryable, id: string): Promise<VerificationInFull | undefined> {
  const { rows } = await db.query<VerificationInFull>(
    `select ${COLUMNS}, progress, certificate from console.verifications where verification_id = $1`,
    [id],
  );
  return rows[0];
}

/** @throws AppError CONSOLE_NOT_FOUND */
export async function getVerification(db: Queryable, id: string): Promise<VerificationInFull> {
  const found = await findVerification(db, id);
  if (found !== undefined) return found;
  throw new AppError('CONSOLE_NOT_FOUND', `There is no verification ${id}. See the list of them: /books/verifications`);
}

/** The last one of all books that came to an end, whatever it found: what the books' standing is said by. */
export async function lastVerification(db: Queryable): Promise<VerificationInFull | undefined> {
  const { rows } = await db.query<VerificationInFull>(
    `select ${COLUMNS}, null as progress, certificate from console.verifications
     where book_id is null and since_seal is null and certificate is not null order by verification_id desc limit 1`,
  );
  return rows[0];
}

export type Begun =
  | { readonly status: 'begun'; readonly verificationId: bigint }
  | { readonly status: 'running'; readonly verificationId: bigint; readonly askedBy: string; readonly begunAt: Date };

const MOST_TRIES = 10;

/**
 * Begins one, unless one is at work. One that is silent is written down as broken off, and keeps nobody.
 * @throws AppError CONSOLE_TOO_MANY where others begin and end again and again meanwhile
 */
export async function beginVerification(db: Queryable, subject: VerificationSubject): Promise<Begun> {
  for (let tries = 0; tries < MOST_TRIES; tries += 1) {
    const begun = await tryToBegin(db, subject);
    if (begun !== undefined) return begun;
  }
  throw new AppError(
    'CONSOLE_TOO_MANY',
    'Others begin and end verifications so fast that none could begin. Wait for a minute, and begin it again.',
  );
}

/** Undefined where one was at work that ended before it was looked at. */
async function tryToBegin(db: Queryable, subject: VerificationSubject): Promise<Begun | undefined> {
  await db.query(
    `update console.verifications set state = 'broken_off', ended_at = clock_timestamp(), failure = 'it was not heard of any more'
     where state = 'running' and heard_at < clock_timestamp() - console.silence()`,
  );
  const { rows } = await db.query<{ verificationId: bigint }>(
    `insert into console.verifications (asked_by, book_id, since_seal, independently) values ($1, $2, $3, $4)
     on conflict ((true)) where state = 'running' do nothing returning verification_id as "verificationId"`,
    [subject.askedBy, subject.bookId ?? null, subject.sinceSeal ?? null, subject.independently === true],
  );
  if (rows[0] !== undefined) return { status: 'begun', verificationId: rows[0].verificationId };
  const running = await db.query<{ verificationId: bigint; askedBy: string; begunAt: Date }>(
    `select verification_id as "verificationId", asked_by as "askedBy", begun_at as "begunAt"
     from console.verifications where state = 'running'`,
  );
  const [found] = running.rows;
  return found === undefined ? undefined : { status: 'running', ...found };
}

const TELL_EVERY_MS = 1_000;

/**
 * Makes a verification that was begun, writes down how far it is, and how it ended. What it throws is written down too.
 * @param verify the verification itself, which tells the watch what it does
 */
export async function keepVerification(
  db: Queryable,
  { verificationId, bookId, version }: { verificationId: bigint; bookId: number | undefined; version: string },
  verify: (watch: VerificationWatch) => Promise<Verification>,
): Promise<{ readonly verification: Verification; readonly certificate: string }> {
  const { watch, stop } = tellProgress(db, verificationId);
  try {
    const verification = await verify(watch);
    await stop();
    const certificate = certificateOf(verification, { bookId, version });
    const state = verification.balance === null ? 'undecided' : verification.balance ? 'balances' : 'differs';
    await end(db, verificationId, { state, certificate, failure: null });
    return { verification, certificate };
  } catch (error) {
    await stop();
    const { code, message } = toAppError(error);
    // Where the server is gone, nothing can be written: it will be silent, and count as broken off.
    await end(db, verificationId, { state: 'failed', certificate: null, failure: `${code}: ${message}` }).catch(
      () => undefined,
    );
    throw error;
  }
}

async function end(
  db: Queryable,
  verificationId: bigint,
  { state, certificate, failure }: { state: VerificationState; certificate: string | null; failure: string | null },
): Promise<void> {
  const sha256 = certificate === null ? null : createHash('sha256').update(certificate).digest('hex');
  const { rowCount } = await db.query(
    `update console.verifications set state = $2, ended_at = clock_timestamp(), certificate = $3, certificate_sha256 = $4, failure = $5
     where verification_id = $1 and state = 'running'`,
    [verificationId, state, certificate, sha256, failure],
  );
  if (rowCount === 1) return;
  throw new AppError(
    'VERIFICATION_NOT_KEPT',
    `Verification ${verificationId} came to its end (${state}) after it had been silent for so long that somebody wrote it down as broken off: what it found is not kept. Verify again.`,
  );
}

function tellProgress(db: Queryable, verificationId: bigint): { watch: VerificationWatch; stop: () => Promise<void> } {
  let check: string | null = null;
  let events: { done: number; total: bigint } | null = null;
  const ended: CheckResult[] = [];
  const tell = async () => {
    await db.query(
      `update console.verifications set heard_at = clock_timestamp(), progress = $2 where verification_id = $1 and state = 'running'`,
      [verificationId, toJson({ check, ended, events } satisfies Told)],
    );
  };
  // One at a time; one that fails is told again by the next.
  let telling: Promise<void> | undefined;
  const timer = setInterval(() => {
    telling ??= tell()
      .catch(() => undefined)
      .finally(() => {
        telling = undefined;
      });
  }, TELL_EVERY_MS);
  return {
    watch: {
      onBegin: (begun) => {
        check = begun;
        events = null;
      },
      onEnd: (result) => ended.push(result),
      onProgress: (done, total) => {
        events = { done, total };
      },
    },
    stop: async () => {
      clearInterval(timer);
      await telling;
      await tell().catch(() => undefined);
    },
  };
}

type Told = Omit<VerificationProgress, 'events'> & { events: { done: number; total: bigint } | null };
