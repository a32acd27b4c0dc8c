import { expect } from 'vitest';
import { ERROR_CODES, type ErrorCode } from '../../src/errors.ts';
import { liventix } from './liventix.ts';

/** One line on stderr that says code, what and what to do; the code's exit code; nothing on stdout. */
export async function expectRefusal(
  refusal: { code: ErrorCode; says: RegExp },
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<void> {
  const run = await liventix(args, env);
  expect(run.stderr).toMatch(/^liventix: [A-Z_]+: [^\n]+\n$/);
  expect(run.stderr).toContain(`liventix: ${refusal.code}: `);
  expect(run.stderr).toMatch(refusal.says);
  expect(run.stdout).toBe('');
  expect(run.exitCode).toBe(ERROR_CODES[refusal.code].exit);
}
