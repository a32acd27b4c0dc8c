import { AppError } from '../errors.ts';

export type CursorPart = string | number | bigint | Date | null;

/** Where a page of a list ends, as the next one is asked for: the values that the list is sorted by. */
export function toCursor(parts: readonly CursorPart[]): string {
  const texts = parts.map((part) => (part instanceof Date ? part.toISOString() : (part?.toString() ?? null)));
  return Buffer.from(JSON.stringify(texts)).toString('base64url');
}

/**
 * The values of a cursor as the texts that PostgreSQL reads.
 * @param shapes what each is to look like; several, of a list that is sorted in several ways
 * @throws AppError CONSOLE_INVALID
 */
export function fromCursor(cursor: string, ...shapes: readonly (readonly RegExp[])[]): readonly string[] {
  const parts = parsed(Buffer.from(cursor, 'base64url').toString());
  const isLike = (all: readonly RegExp[]) =>
    Array.isArray(parts) &&
    parts.length === all.length &&
    all.every((shape, at) => typeof parts[at] === 'string' && shape.test(parts[at]));
  if (shapes.some(isLike)) return parts as readonly string[];
  throw new AppError(
    'CONSOLE_INVALID',
    'The address names a place in this list that there is not: it is damaged, or one of another list. Begin with the first page.',
  );
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Shapes of what lists are sorted by. */
export const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
export const NUMBER = /^\d{1,18}$/;
export const TEXT = /^[^\0]*$/s;
