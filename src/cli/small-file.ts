import { createReadStream } from 'node:fs';
import type { Readable } from 'node:stream';
import { systemFailure } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';

const MAX_BYTES = 64 * 1024;

/**
 * What a flag names a file for, so that it is in no command line; `-` is stdin.
 * @throws AppError USAGE, SYSTEM_FAILED
 */
export async function readSmallFile(path: string, flag: string): Promise<string> {
  const input: Readable = path === '-' ? process.stdin : createReadStream(path);
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of input as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > MAX_BYTES)
        throw new AppError('USAGE', `${flag} names more than ${MAX_BYTES} bytes. Is it the right one?`);
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof AppError) throw error;
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw notThere(path, flag);
    throw systemFailure(error as Error);
  }
  return Buffer.concat(chunks).toString('utf8');
}

const MAX_SHOWN_PATH = 300;

function notThere(path: string, flag: string): AppError {
  const name = JSON.stringify(path.slice(0, MAX_SHOWN_PATH));
  return new AppError(
    'USAGE',
    `${flag} names ${name}, and there is no such file. Give one that is there, or - for stdin.`,
  );
}

/** @throws AppError USAGE where two flags are to be read from stdin, which ends once */
export function assertOneStdin(files: Readonly<Record<string, string | undefined>>): void {
  const flags = Object.keys(files).filter((flag) => files[flag] === '-');
  if (flags.length < 2) return;
  throw new AppError(
    'USAGE',
    `${flags.join(' and ')} are both -, and stdin can be read once. Name a file for one of them.`,
  );
}
