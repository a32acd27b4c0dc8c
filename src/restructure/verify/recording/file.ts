import { createHash } from 'node:crypto';
import { z } from 'zod';
import { AppError } from '../../../errors.ts';

export const FORMAT = 'liventix restructure recording 2';
/** Without what may be written. */
const FORMER = 'liventix restructure recording 1';

const digits = z.string().regex(/^-?\d+$/);
const count = z.number().int().nonnegative();

const relation = z.strictObject({
  /** The name that it had, and still has for whoever asks by it. */
  schema: z.string(),
  name: z.string(),
  table: z.string(),
  isLeaf: z.boolean(),
  columns: z.array(z.strictObject({ name: z.string(), type: z.string(), hashedAs: z.enum(['value', 'oid', 'text']) })),
  key: z.array(z.string()),
  /** How many transactions may come until its rows cannot be told from newer ones. */
  clearance: digits,
  /** Of each chunk: its number, its rows, the sum of their hashes, and rows of transactions that were possibly under way. */
  chunks: z.array(z.tuple([count, count, digits, count])),
  /** By viewer: rows and the sum of their hashes, or the SQLSTATE of a refusal. */
  seen: z.array(z.union([z.tuple([count, digits]), z.string().regex(/^[0-9A-Z]{5}$/)])),
  /** By viewer: of those rows, how many he might insert, update, delete; null where that could not be asked. */
  writes: z.array(z.nullable(z.tuple([count, count, count]))).optional(),
  /** By role, in words. */
  privileges: z.array(z.string()),
});

const schema = z.strictObject({
  format: z.enum([FORMAT, FORMER]),
  program: z.string(),
  database: z.string(),
  databaseOid: count,
  postgres: count,
  recordedAt: z.string(),
  snapshot: z.strictObject({ xmin: digits, xmax: digits }),
  from: z.string(),
  claimsSetting: z.string(),
  /** Tables of members, on which it depends to whom rows belong. */
  memberships: z.array(z.string()),
  roles: z.array(z.string()),
  viewers: z.array(z.strictObject({ role: z.string(), user: z.nullable(z.string()) })),
  /** Roles that whoever recorded might not become. */
  leftOut: z.array(z.string()),
  relations: z.array(relation),
});

/** What a database showed, relation by relation, before anything was moved. */
export type Recording = z.infer<typeof schema>;
export type RecordedRelation = z.infer<typeof relation>;

const DIGEST = '\n"sha256": "';

/** The text of a recording: one field a line, one relation a line, and at the end the SHA-256 of all bytes before its line. */
export function textOfRecording({ relations, ...head }: Recording): string {
  const fields = Object.entries(head).map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)},`);
  const lines = relations.map((each) => JSON.stringify(each)).join(',\n');
  const body = `{\n${fields.join('\n')}\n"relations": [\n${lines}\n],`;
  return `${body}${DIGEST}${sha256(body)}"\n}\n`;
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** @throws AppError RESTRUCTURE_RECORDING_INVALID for what is none, is a newer one, or was changed since it was written */
export function parseRecording(text: string, file: string): Recording {
  const parsed = parsedJson(text);
  if (parsed === undefined) throw invalid(file, 'is cut off, or is no recording');
  const { sha256: digest, ...body } = parsed;
  if (typeof body['format'] !== 'string') throw invalid(file, 'is no recording');
  if (body['format'] !== FORMAT && body['format'] !== FORMER) {
    throw invalid(
      file,
      `has the format ${JSON.stringify(body['format']).slice(0, 100)}, and this version reads "${FORMAT}"`,
    );
  }
  const at = text.lastIndexOf(DIGEST);
  if (at === -1 || digest !== sha256(text.slice(0, at)))
    throw invalid(file, 'does not have the SHA-256 that it ends with: it was changed since it was written');
  const checked = schema.safeParse(body);
  if (!checked.success)
    throw invalid(file, `lacks a field, or has one too many: ${checked.error.issues[0]?.path.join('.')}`);
  return checked.data;
}

function parsedJson(text: string): Record<string, unknown> | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === 'object' && parsed !== null ? (parsed as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

export const invalid = (file: string, fault: string): AppError =>
  new AppError(
    'RESTRUCTURE_RECORDING_INVALID',
    `"${file}" ${fault}. Give a file that liventix restructure verify --record has written.`,
  );
