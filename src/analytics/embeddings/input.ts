import { createHash } from 'node:crypto';
import { z } from 'zod';
import { AppError, type ErrorCode } from '../../errors.ts';
import { KINDS } from './kinds.ts';

/** In one call; it is one statement. */
const MAX_EMBEDDINGS = 1_000;
/** As ml.model_versions has it, and pgvector. */
export const MAX_DIMENSIONS = 16_000;
const LARGEST_REAL = 3.4028234663852886e38;

const kind = z.enum(KINDS);
export const modelName = z
  .string()
  .regex(/^[!-?A-~]{1,200}@[!-?A-~]{1,100}$/, 'is no model@version, such as text-embedding-3-small@1');
const embedding = z.array(z.number().min(-LARGEST_REAL).max(LARGEST_REAL)).min(1).max(MAX_DIMENSIONS);
const subject = z.uuid();

export const newEmbeddings = z.strictObject({
  kind,
  model: modelName.optional(),
  embeddings: z
    .array(z.strictObject({ id: subject, embedding, content: z.string() }))
    .max(MAX_EMBEDDINGS)
    .refine((all) => new Set(all.map(({ id }) => id.toLowerCase())).size === all.length, 'names a subject twice'),
});

export const contents = z.strictObject({
  kind,
  model: modelName.optional(),
  contents: z.array(z.strictObject({ id: subject, content: z.string() })).max(MAX_EMBEDDINGS),
});

const bounds = {
  limit: z.int().min(1).max(1_000).default(10),
  threshold: z.number().min(-1).max(1).default(0.7),
  model: modelName.optional(),
};
export const search = z.strictObject({ ...bounds, kind, embedding });
export const matching = z.strictObject({ ...bounds, of: kind, id: subject, kind });

export const newModel = z.strictObject({
  model: modelName,
  dimensions: z.int().min(1).max(MAX_DIMENSIONS),
});

/** What the caller gave, checked. @throws AppError of the code, which names every fault */
export function accepted<T extends z.ZodType>(schema: T, given: unknown, code: ErrorCode): z.output<T> {
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  const faults = result.error.issues.slice(0, MOST_NAMED).map(({ path, message }) => `${path.join('.')}: ${message}`);
  throw new AppError(code, `${faults.join('; ')}.`, { cause: result.error });
}

const MOST_NAMED = 5;

/** What tells whether an embedding is of what the subject is today: SHA-256 of the content, in UTF-8. */
export const hashOf = (content: string): Buffer => createHash('sha256').update(content).digest();
