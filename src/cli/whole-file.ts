import { randomBytes } from 'node:crypto';
import { access, constants, type FileHandle, open, realpath, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, sep } from 'node:path';
import { systemFailure } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';

type Chunks = AsyncIterable<string | Uint8Array> | Iterable<string | Uint8Array>;

const PERMISSIONS = 0o777;
const NEW_FILE_MODE = 0o666;

/**
 * Writes a file that is there as a whole or not at all: under another name beside it, and renamed at the end. One that is
 * there already is replaced, with its permissions; a pipe or a device is written as it is. Whatever `chunks` throws is
 * thrown, and leaves nothing behind.
 * @throws AppError USAGE, SYSTEM_FAILED
 */
export async function writeWholeFile(path: string, chunks: Chunks): Promise<void> {
  if (path === '' || path.endsWith(sep)) throw new AppError('USAGE', `"${path}" names no file. Give one to write.`);
  const target = await realpath(path).catch(() => path);
  const existing = await stat(target).catch(() => undefined);
  if (existing !== undefined && !existing.isFile()) {
    await orSystemFailure(open(target, 'w')).then((file) => writeAll(file, chunks));
    return;
  }
  const unfinished = join(dirname(target), `.liventix-${randomBytes(6).toString('hex')}.part`);
  const file = await orSystemFailure(
    open(unfinished, 'wx', existing === undefined ? NEW_FILE_MODE : existing.mode & PERMISSIONS),
  );
  try {
    await writeAll(file, chunks);
    await orSystemFailure(rename(unfinished, target));
  } catch (error) {
    await rm(unfinished, { force: true });
    throw error;
  }
}

/**
 * For what is written after long work: what would fail then is told before.
 * @param file.option as it was given, such as `--output`
 * @throws AppError USAGE where no file can be written there
 */
export async function assertWritable({ option, path }: { option: string; path: string }): Promise<void> {
  const refused = (fault: string) =>
    new AppError('USAGE', `${option} "${path}": ${fault}. Give a file that can be written.`);
  if (path === '' || path.endsWith(sep)) throw refused('that names no file');
  const target = await realpath(path).catch(() => path);
  const existing = await stat(target).catch(() => undefined);
  if (existing?.isDirectory()) throw refused('that is a folder');
  // A file is written beside it first; a pipe or a device as it is.
  const written = existing === undefined || existing.isFile() ? `${dirname(target)}${sep}.` : target;
  await access(written, constants.W_OK).catch(({ code }: NodeJS.ErrnoException) => {
    const isThere = code !== 'ENOENT' && code !== 'ENOTDIR';
    throw refused(isThere ? `it may not be written (${code})` : `there is no folder ${dirname(path)}`);
  });
}

/**
 * For what is kept as evidence: none takes the place of another.
 * @throws AppError USAGE where a file or a folder of that name is there
 */
export async function assertNewFile(path: string): Promise<void> {
  const existing = await stat(path).catch(() => undefined);
  if (existing?.isFile() || existing?.isDirectory()) {
    throw new AppError(
      'USAGE',
      `"${path}" is there already, and nothing takes its place. Give the name of a new file.`,
    );
  }
}

async function writeAll(file: FileHandle, chunks: Chunks): Promise<void> {
  try {
    for await (const chunk of chunks) await orSystemFailure(file.appendFile(chunk));
    // A file, and no pipe, reaches the disk before its name says that it is whole.
    if ((await file.stat()).isFile()) await orSystemFailure(file.sync());
  } finally {
    await file.close();
  }
}

async function orSystemFailure<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw systemFailure(error as Error);
  }
}
