import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { systemFailure } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { parseProof, textOfProof } from '../replay/proof/file.ts';
import { takeProof, type Verdict, verifyProof } from '../replay/proof/proof.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { formatCount, formatMoney } from './output.ts';
import { createProgress } from './progress.ts';
import { packageVersion } from './version.ts';
import { assertNewFile, writeWholeFile } from './whole-file.ts';

/** Two tables of 256 chunks each for rows and balances; a file beyond that is something else. */
const MAX_FILE_BYTES = 16_000_000;

const WRITE_HELP = `
Seals what is not sealed yet, then compares every row and balance of the old tables with the log, in one snapshot, in SQL and once more
in this program alone. The file has count, sum and sum of hashes of each of 256 chunks of a table, on both sides, as of that seal.
Keep it, or its SHA-256, elsewhere. How each byte is made: docs/proofs.md. Exits with 1 when the two sides differ; the file says so too.

Example:
  liventix backfill proof write wallets.proof.json`;

const VERIFY_HELP = `
The log must be what it was, and give the seal's root. The old tables must be what they were: what they are now, less what the log says
since, so that old code may go on meanwhile. Changes nothing. Exits with 1 when something differs, and names it.

Example:
  liventix backfill proof verify wallets.proof.json --json`;

export function registerProof(backfill: Command, context: CommandContext): void {
  const proof = backfill
    .command('proof')
    .description('proves that the log has every row and balance of the old tables, now and later')
    .addHelpText('after', '\nExample:\n  liventix backfill proof write wallets.proof.json');
  proof
    .command('write')
    .description('compare the old tables with the log, and write what was compared')
    .argument('<file>', 'a new file')
    .option('--json', 'print one JSON object')
    .addHelpText('after', WRITE_HELP)
    .action((file: string, { json }: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const written = await writeProof(pool, file, context);
        context.out.write(json ? `${toJson(written)}\n` : proofText(written));
        if (!written.holds) context.exitWith(1);
      }),
    );
  proof
    .command('verify')
    .description('compare both once more, with what a proof says of them')
    .argument('<file>', 'that backfill proof write, or run --proof, has written')
    .option('--json', 'print one JSON object')
    .addHelpText('after', VERIFY_HELP)
    .action((file: string, { json }: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const document = parseProof(await readProof(file), file);
        const progress = createProgress(context);
        const verdict = await verifyProof(pool, document, watching(context, progress)).finally(progress.clear);
        const taken = { takenAt: document.taken_at, position: document.position, seal: document.seal.seal_number };
        context.out.write(
          json
            ? `${toJson({ file, ...taken, ...verdict })}\n`
            : `${verdictText(verdict)}${outcomeText(verdict, taken)}`,
        );
        if (!verdict.holds) context.exitWith(1);
      }),
    );
}

export interface ProofWritten extends Verdict {
  readonly file: string;
  readonly sha256: string;
}

/**
 * Takes a proof and writes it into a new file.
 * @throws AppError USAGE where the file is there; BACKFILL_UNFINISHED, STOPPED, SYSTEM_FAILED, DB_*
 */
export async function writeProof(pool: Pool, file: string, context: CommandContext): Promise<ProofWritten> {
  await assertNewFile(file);
  const progress = createProgress(context);
  const written: ProofWritten[] = [];
  // The file is opened first: a name that nothing can be written to shall not show after an hour.
  async function* chunks(): AsyncGenerator<string> {
    const options = { ...watching(context, progress), stop: context.stop };
    const { document, verdict } = await takeProof(pool, `liventix ${packageVersion()}`, options).finally(
      progress.clear,
    );
    const text = textOfProof(document);
    written.push({ file, sha256: createHash('sha256').update(text).digest('hex'), ...verdict });
    yield text;
  }
  await writeWholeFile(file, chunks());
  return written[0] as ProofWritten;
}

/** Shows each step, and ends where the command was told to stop. */
function watching(context: CommandContext, progress: ReturnType<typeof createProgress>) {
  return {
    onStep: (step: string, done = 0) => {
      if (context.stop.aborted) throw new AppError('STOPPED', 'Stopped before the proof was done. Run it again.');
      progress.update(step, done, 0);
    },
  };
}

async function readProof(file: string): Promise<string> {
  try {
    if ((await stat(file)).size > MAX_FILE_BYTES) {
      throw new AppError(
        'PROOF_FILE_INVALID',
        `"${file}" is larger than any proof. Give a file that liventix backfill proof write has written.`,
      );
    }
    return await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof AppError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'EISDIR') throw systemFailure(error as Error);
    throw new AppError('USAGE', `"${file}" names no file. Give one that liventix backfill proof write has written.`);
  }
}

export function proofText(written: ProofWritten | undefined): string {
  if (written === undefined) return '';
  const what = written.holds
    ? 'The old tables and the log are the same.'
    : 'The old tables and the log are NOT the same.';
  return `${verdictText(written)}${what}\nProof: ${written.file}, SHA-256 ${written.sha256}\n`;
}

function verdictText({ rows, holders, notCompared, faults }: Verdict): string {
  const { pendingChanges, changingHolders, orphanRows, orphanCents, walletsWithoutAccount } = notCompared;
  const left: readonly [count: bigint, text: string][] = [
    [pendingChanges, 'captured changes wait and were put back before the comparison: liventix backfill run'],
    [changingHolders, 'holders are changing, and their balances are not compared'],
    [
      orphanRows,
      `rows have no wallet: what they come to, ${formatMoney(orphanCents)} USD, is not in the log and not compared`,
    ],
    [walletsWithoutAccount, 'wallets have no owner, and are not compared'],
  ];
  return [
    `${formatCount(rows)} rows and the balances of ${formatCount(holders)} holders compared\n`,
    ...left.flatMap(([count, text]) => (count === 0n ? [] : [`${formatCount(count)} ${text}\n`])),
    ...faults.map((fault) => `  ${fault}\n`),
  ].join('');
}

function outcomeText({ holds }: Verdict, { takenAt, seal }: { takenAt: string; seal: number | string }): string {
  if (holds) return `Both are what the proof of ${takenAt} says of them, up to seal ${seal}.\n`;
  return `They are NOT what the proof of ${takenAt} says of them.\n`;
}
