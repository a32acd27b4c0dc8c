import { toJson } from '../db/json-value.ts';
import type { Verification } from './verify.ts';

/** What was checked, when, of which version, and what came of it: JSON, one line, to be kept by its hash. */
export function certificateOf(
  { verifiedAt, balance, since, independently, checks, skipped, books }: Verification,
  { bookId, version }: { readonly bookId: number | undefined; readonly version: string },
): string {
  return `${toJson({
    certificate: 'liventix books verify',
    version,
    verifiedAt,
    book: bookId ?? 'all',
    since,
    independently,
    balance,
    books,
    // How long each took is nobody's business later.
    checks: checks.map(({ seconds: _, ...check }) => check),
    skipped,
  })}\n`;
}
