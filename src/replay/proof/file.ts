import { createHash } from 'node:crypto';
import { z } from 'zod';
import { AppError } from '../../errors.ts';
import { type ChunkKey, type Sum, Sums } from './sums.ts';

// The file is read by programs of others: docs/proofs.md says what each field means, and none of it changes.

export const FORMAT = 'liventix backfill proof 1';

/** How many, what they come to, and the sum of the numbers of their hashes, which passes 64 bits. */
const sum = z.tuple([
  z.number().int(),
  z.union([z.number().int(), z.string().regex(/^-?\d+$/)]),
  z.string().regex(/^-?\d+$/),
]);
const hex = z.string().regex(/^[0-9a-f]{64}$/);
const whole = z.union([z.number().int(), z.string().regex(/^-?\d+$/)]);

const chunk = z.strictObject({
  table: z.string(),
  chunk: z.number().int().min(0).max(255),
  old: sum,
  log: sum,
  old_recomputed: sum,
  log_recomputed: sum,
});

const schema = z.strictObject({
  format: z.literal(FORMAT),
  program: z.string(),
  postgres: z.string(),
  database: z.string(),
  book: z.number().int(),
  capture: z.nullable(z.strictObject({ id: whole, installed_at: z.string() })),
  taken_at: z.string(),
  position: whole,
  seal: z.strictObject({ seal_number: whole, tree_size: whole, root: hex, seal_hash: hex, open_positions: z.string() }),
  first_seal_hash: hex,
  holds: z.boolean(),
  not_compared: z.strictObject({
    pending_changes: whole,
    changing_holders: whole,
    orphan_rows: whole,
    orphan_cents: whole,
    wallets_without_account: whole,
  }),
  rows: z.array(chunk),
  balances: z.array(chunk),
});

/** What a proof file says. */
export type ProofDocument = z.infer<typeof schema>;
export type ProvenChunk = z.infer<typeof chunk>;
export type ProvenSums = Omit<ProvenChunk, 'table' | 'chunk'>;

const DIGEST = '\n"sha256": "';

/** The text of a proof file: one field a line, one chunk a line, and at the end the SHA-256 of all bytes before its line. */
export function textOfProof(document: ProofDocument): string {
  const lines = Object.entries(document).map(([key, value]) => {
    const isChunks = key === 'rows' || key === 'balances';
    return `${JSON.stringify(key)}: ${isChunks ? listOf(value as readonly ProvenChunk[]) : JSON.stringify(value)},`;
  });
  const body = `{\n${lines.join('\n')}`;
  return `${body}${DIGEST}${sha256(body)}"\n}\n`;
}

const listOf = (chunks: readonly ProvenChunk[]): string =>
  chunks.length === 0 ? '[]' : `[\n${chunks.map((each) => JSON.stringify(each)).join(',\n')}\n]`;

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/**
 * Reads a proof file.
 * @throws AppError PROOF_FILE_INVALID for what is no proof, or a newer one; PROOF_FILE_CHANGED where its own digest is another one
 */
export function parseProof(text: string, file: string): ProofDocument {
  const parsed = parseJson(text);
  const format = typeof parsed === 'object' && parsed !== null && 'format' in parsed ? parsed.format : undefined;
  if (format === undefined) {
    throw invalid(
      file,
      text.startsWith(`{\n"format": "liventix backfill proof`)
        ? 'is cut off, or is no JSON any more'
        : 'is no proof of a backfill',
    );
  }
  if (format !== FORMAT) {
    throw invalid(file, `has the format ${JSON.stringify(format).slice(0, 100)}, and this version reads "${FORMAT}"`);
  }
  const at = text.lastIndexOf(DIGEST);
  const { sha256: digest, ...body } = parsed as { sha256?: unknown };
  if (at === -1 || digest !== sha256(text.slice(0, at))) {
    throw new AppError(
      'PROOF_FILE_CHANGED',
      `"${file}" does not have the SHA-256 that it ends with: it was changed since it was written. Use a copy that was kept elsewhere.`,
    );
  }
  const checked = schema.safeParse(body);
  if (!checked.success)
    throw invalid(file, `lacks a field, or has one too many: ${checked.error.issues[0]?.path.join('.')}`);
  return checked.data;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function invalid(file: string, what: string): AppError {
  return new AppError(
    'PROOF_FILE_INVALID',
    `"${file}" ${what}. Give a file that liventix backfill proof write has written.`,
  );
}

/** A number as the file has it: a string of digits where JSON's readers may round it. */
export function numberOf(value: bigint): number | string {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value.toString();
}

export function tupleOf({ count, cents, number }: Sum): ProvenChunk['old'] {
  return [Number(count), numberOf(cents), number.toString()];
}

/** The sums of the file's chunks, of one of its columns. */
export function sumsOf(chunks: readonly ProvenChunk[], column: keyof ProvenSums): Sums {
  const sums = new Sums();
  for (const { table, chunk: number, [column]: of } of chunks) {
    const key: ChunkKey = { table, chunk: number };
    sums.add(key, { count: BigInt(of[0]), cents: BigInt(of[1]), number: BigInt(of[2]) });
  }
  return sums;
}
