import { type Logger, pino } from 'pino';
import type { Config } from '../config.ts';

const STDERR = 2;

/**
 * The log of a command, JSON lines on stderr. Of an error it tells name, code and message and nothing else: drivers hang
 * whole clients on their errors, and commands with their passwords.
 */
export function createLogger(level: Config['logLevel']): Logger {
  return pino(
    { name: 'liventix', level, serializers: { err: describeError } },
    pino.destination({ dest: STDERR, sync: true }),
  );
}

export function describeError(error: unknown): { type: string; code?: string; message: string } {
  if (!(error instanceof Error)) return { type: typeof error, message: String(error) };
  const { code } = error as { code?: unknown };
  return { type: error.name, ...(typeof code === 'string' ? { code } : {}), message: error.message };
}
