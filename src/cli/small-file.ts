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
    throw systemFailure(error as Error);
  }
  return Buffer.concat(chunks).toString('utf8');
}
