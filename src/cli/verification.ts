import { createHash } from 'node:crypto';
import { userInfo } from 'node:os';
import { type Command, Option } from 'commander';
import { beginVerification, keepVerification } from '../console/verifications.ts';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { GUARDS_CHECK, type VerificationWatch } from '../ledger/verify.ts';
import { certificateOf } from '../replay/certificate.ts';
import { type Verification, type VerificationRequest, verifyBooksAndWallets } from '../replay/verify.ts';
import { checkMoneyOfStates } from '../states/verify.ts';
import { watchChecks } from './check-lines.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { MAX_BOOK, wholeNumber } from './options.ts';
import { paintOut } from './output.ts';
import type { Paint } from './paint.ts';
import { createProgress } from './progress.ts';
import { packageVersion } from './version.ts';
import { assertNewFile, writeWholeFile } from './whole-file.ts';

interface VerifyOptions {
  readonly book?: number;
  readonly since?: number;
  readonly independent?: boolean;
  readonly certificate?: string;
  readonly record?: boolean;
  readonly json?: boolean;
}

const HELP = `
Looks at the state machines' money too: that every order's escrow has what its state implies (liventix states verify: the rest of them).

Reads in one snapshot, changes nothing, and may run at any time. All books are looked at as a whole first, and row by row
where that finds a difference. Exits with 3 when a check could not be made: the wallets cannot be compared before the
backfill has finished.

--since takes what a seal covers for verified, and looks at what came after it: the time grows with what is new. Compare
the hash that it prints with the one you kept. See: liventix books seals

--independent recomputes all of it from the rows, in this program alone: for whoever trusts neither the functions nor the
triggers of the database. It needs no more memory for more events, and a few minutes for millions.

--certificate writes what was checked, when, of which version, with the counts, sums, root and seal of each book, as JSON;
its SHA-256 is printed, to be kept elsewhere. --record keeps it in the database too, where the console shows it: for whatever
verifies every night.

Examples:
  liventix books verify --json
  liventix books verify --independent --record
  liventix books verify --book 2 --since 41 --certificate verified.json`;

export function registerVerify(books: Command, context: CommandContext): void {
  books
    .command('verify')
    .description('recompute everything that the ledger promises; exits with 1 when something does not hold')
    .option('--book <n>', 'only this book; all of them, when left out', wholeNumber(1, MAX_BOOK))
    .option(
      '--since <seal>',
      'only what the seal of this number does not cover, of the main book or --book',
      wholeNumber(1, Number.MAX_SAFE_INTEGER),
    )
    .addOption(new Option('--independent', 'recompute it in this program alone, from the rows').conflicts('since'))
    .option('--certificate <file>', 'write what was checked, and what came of it, into a new file')
    .option('--record', 'keep in the database what came of it, for the console to show')
    .option('--json', 'print one JSON object')
    .addHelpText('after', HELP)
    .action((options: VerifyOptions) => withDatabase(context, (pool) => runVerify(options, context, pool)));
}

async function runVerify(options: VerifyOptions, context: CommandContext, pool: Pool) {
  const bookId = options.book ?? (options.since === undefined ? undefined : MAIN_BOOK);
  const progress = createProgress(context);
  const printed = {
    ...watchChecks(context, progress, options.json === true),
    onProgress: (done: number, total: bigint) => progress.update('reading the log', done, total),
  };
  const request = {
    bookId,
    sinceSeal: options.since,
    independently: options.independent === true,
    summaries: options.certificate !== undefined || options.record === true,
    beside: checkMoneyOfStates,
  };
  const look = (watch: VerificationWatch) => verifyBooksAndWallets(pool, watch, request);
  const verify = () =>
    (options.record === true ? recorded(request, { pool, printed }, look) : look(printed)).finally(progress.clear);
  const { verification, ...certified } =
    options.certificate === undefined
      ? { verification: await verify() }
      : await certify(options.certificate, bookId, verify);
  if (options.json) context.out.write(`${toJson({ ...verification, ...certified })}\n`);
  else context.out.write(verdictText(verification, paintOut(context)) + certificateText(certified));
  if (verification.balance !== true) context.exitWith(verification.balance === null ? 3 : 1);
}

/** @throws AppError VERIFICATION_RUNNING where another one is being recorded */
async function recorded(
  { bookId, sinceSeal, independently }: VerificationRequest,
  { pool, printed }: { pool: Pool; printed: VerificationWatch },
  look: (watch: VerificationWatch) => Promise<Verification>,
): Promise<Verification> {
  const askedBy = `${userInfo().username}, by liventix books verify`;
  const begun = await beginVerification(pool, { askedBy, bookId, sinceSeal, independently: independently === true });
  if (begun.status === 'running') {
    throw new AppError(
      'VERIFICATION_RUNNING',
      `Verification ${begun.verificationId} is at work since ${begun.begunAt.toISOString()}, for ${begun.askedBy}. Wait for it, or leave --record out.`,
    );
  }
  const subject = { verificationId: begun.verificationId, bookId, version: packageVersion() };
  const { verification } = await keepVerification(pool, subject, (kept) => look(bothOf(kept, printed)));
  return verification;
}

const bothOf = (one: VerificationWatch, other: VerificationWatch): VerificationWatch => ({
  onBegin: (check) => {
    one.onBegin?.(check);
    other.onBegin?.(check);
  },
  onEnd: (result) => {
    one.onEnd?.(result);
    other.onEnd?.(result);
  },
  onProgress: (done, total) => {
    one.onProgress?.(done, total);
    other.onProgress?.(done, total);
  },
});

interface Certified {
  readonly certificate?: { readonly file: string; readonly sha256: string };
}

/** Opens the file before it verifies: a name that nothing can be written to shall not show after an hour. */
async function certify(
  file: string,
  bookId: number | undefined,
  verify: () => Promise<Verification>,
): Promise<Required<Certified> & { verification: Verification }> {
  const done: { verification: Verification; text: string }[] = [];
  async function* write(): AsyncGenerator<string> {
    const verification = await verify();
    const text = certificateOf(verification, { bookId, version: packageVersion() });
    done.push({ verification, text });
    yield text;
  }
  await assertNewFile(file);
  await writeWholeFile(file, write());
  const [{ verification, text }] = done as [(typeof done)[number]];
  return { verification, certificate: { file, sha256: createHash('sha256').update(text).digest('hex') } };
}

function certificateText({ certificate }: Certified): string {
  return certificate === undefined ? '' : `Certificate: ${certificate.file}, SHA-256 ${certificate.sha256}\n`;
}

function verdictText({ balance, checks, since, skipped }: Verification, { good, bad, warn }: Paint): string {
  const lines = skipped.map(({ check, reason }) => `skipped  ${check}: ${reason}\n`).join('');
  if (balance === null) return `${lines}\n${warn('What was checked holds; the rest could not be found out.')}\n`;
  const believed =
    since === null ? '' : `Taken for verified: what seal ${since.seal} covers, of hash ${since.sealHash}.\n`;
  const [what, verb] = since === null ? ['The books', 'balance'] : ['What is new since then', 'balances'];
  if (balance) return `${lines}\n${believed}${good(`${what} ${verb}.`)}\n`;
  const areOnlyGuardsOff = checks.every(({ check, holds }) => holds || check === GUARDS_CHECK);
  const verdict = areOnlyGuardsOff
    ? 'Every row that was checked holds, but NOT what guards them: what it keeps out may be there, such as the same row twice.'
    : `${what} ${since === null ? 'do' : 'does'} NOT balance.`;
  return `${lines}\n${believed}${bad(verdict)}\n`;
}
