import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { systemFailure } from '../../db/sqlstate.ts';
import { AppError } from '../../errors.ts';

const MAX_FILE_BYTES = 5_000_000;
const MAX_FILES = 10_000;
const MAX_SHOWN_PATH = 300;

/**
 * The files that were asked for, and those of each folder with the folders below it that end in `.sql`, in the order in which migrations run.
 * @throws AppError USAGE, SYSTEM_FAILED
 */
export async function findSqlFiles(paths: readonly string[]): Promise<readonly string[]> {
  const found: string[] = [];
  for (const path of paths) {
    const stats = await orUsage(path, stat(path));
    if (stats.isDirectory()) found.push(...(await sqlFilesIn(path)));
    else if (stats.isFile()) found.push(path);
    else throw new AppError('USAGE', `${shown(path)} is neither a file nor a folder. Give one that is.`);
  }
  if (found.length > MAX_FILES)
    throw new AppError('USAGE', `${found.length} files are more than ${MAX_FILES}. Give fewer of them.`);
  return [...new Set(found)];
}

async function sqlFilesIn(folder: string): Promise<string[]> {
  const names = await orUsage(folder, readdir(folder, { recursive: true, withFileTypes: true }));
  const files = names
    .filter((each) => each.isFile() && /\.sql$/i.test(each.name))
    .map((each) => join(each.parentPath, each.name));
  if (files.length === 0)
    throw new AppError('USAGE', `${shown(folder)} holds no file that ends in .sql. Give a file, or another folder.`);
  return files.sort();
}

/** @throws AppError USAGE for what is no text, or too long; SYSTEM_FAILED */
export async function readSqlFile(path: string): Promise<string> {
  const { size } = await orUsage(path, stat(path));
  if (size > MAX_FILE_BYTES) {
    throw new AppError(
      'USAGE',
      `${shown(path)} has ${size} bytes, more than ${MAX_FILE_BYTES}: data rather than a change of a schema. Leave it out.`,
    );
  }
  return decode(path, await orUsage(path, readFile(path)));
}

/** For a small one beside them. @throws AppError USAGE, SYSTEM_FAILED */
export async function readTextFile(path: string): Promise<string> {
  return decode(path, await orUsage(path, readFile(path)));
}

function decode(path: string, bytes: Buffer): string {
  try {
    // A mark of the byte order, which some editors leave, is taken off.
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    if (!text.includes('\0')) return text;
  } catch {
    // As one that holds a zero.
  }
  throw new AppError('USAGE', `${shown(path)} is no text in UTF-8. Give files of SQL.`);
}

const shown = (path: string) => JSON.stringify(path.slice(0, MAX_SHOWN_PATH));

async function orUsage<T>(path: string, call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new AppError('USAGE', `There is no ${shown(path)}. Give a file or a folder that is there.`);
    throw systemFailure(error as Error);
  }
}
