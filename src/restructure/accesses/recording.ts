import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import type { Pool, Queryable } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import type { Access, NotApplicable } from './access.ts';
import { type ApiCaller, chooseCallers } from './api-callers.ts';
import { type AccessDifference, compareAccesses } from './compare.ts';
import { prepareAccesses } from './prepare.ts';
import type { PreparedAccess } from './prepared.ts';
import { type AccessResult, runAccesses } from './run.ts';

/** What each access gave each caller at a time, and all that it takes to ask the same again. */
export interface Recording {
  readonly version: 1;
  /** A digest of the database's name. */
  readonly database: string;
  readonly serverVersion: number;
  readonly recordedAt: string;
  readonly seed: number;
  readonly callers: readonly ApiCaller[];
  readonly notApplicable: readonly NotApplicable[];
  readonly prepared: readonly PreparedAccess[];
  readonly results: readonly AccessResult[];
}

type OnProgress = (what: string, done: number, total: number) => void;

/** Draws what the accesses are about, sends each as each caller, and changes nothing. @throws AppError DB_* */
export async function recordAccesses(
  pool: Pool,
  accesses: readonly Access[],
  { seed, now, onProgress = () => undefined }: { seed: number; now: Date; onProgress?: OnProgress },
): Promise<Recording> {
  const callers = await chooseCallers(pool);
  const { prepared, notApplicable } = await prepareAccesses(pool, accesses, {
    seed,
    onProgress: (done, total) => onProgress('drawing values', done, total),
  });
  const results = await runAsEach(pool, { prepared, callers }, onProgress);
  const about = { version: 1, ...(await aboutDatabase(pool)), recordedAt: now.toISOString(), seed } as const;
  return { ...about, callers, notApplicable, prepared, results };
}

/** Sends the same again, and says what is not as it was. @throws AppError RESTRUCTURE_OTHER_DATABASE, DB_* */
export async function compareRecording(
  pool: Pool,
  recording: Recording,
  onProgress: OnProgress = () => undefined,
): Promise<readonly AccessDifference[]> {
  const { database } = await aboutDatabase(pool);
  if (database !== recording.database) {
    throw new AppError(
      'RESTRUCTURE_OTHER_DATABASE',
      'The recording was made of a database of another name. Record this one: liventix restructure accesses record',
    );
  }
  return compareAccesses(recording.results, await runAsEach(pool, recording, onProgress));
}

async function runAsEach(
  pool: Pool,
  { prepared, callers }: Pick<Recording, 'prepared' | 'callers'>,
  onProgress: OnProgress,
): Promise<readonly AccessResult[]> {
  const results: AccessResult[] = [];
  for (const caller of callers) {
    const progress = (done: number, total: number) => onProgress(`as ${caller.name}`, done, total);
    results.push(...(await runAccesses(pool, prepared, { caller, onProgress: progress })));
  }
  return results;
}

async function aboutDatabase(db: Queryable): Promise<Pick<Recording, 'database' | 'serverVersion'>> {
  const { rows } = await db.query<{ name: string; serverVersion: number }>(
    `select current_database() as name, current_setting('server_version_num')::int as "serverVersion"`,
  );
  const [here] = rows;
  if (here === undefined) throw new AppError('INTERNAL', 'The server did not say which database it is.');
  return { database: createHash('sha256').update(here.name).digest('hex'), serverVersion: here.serverVersion };
}

/** Writes a recording, one access and one result a line. @throws AppError USAGE where the file cannot be written */
export async function writeRecording(file: string, { prepared, results, ...about }: Recording): Promise<void> {
  const lines = (all: readonly unknown[]) => all.map((each) => JSON.stringify(each)).join(',\n');
  const head = JSON.stringify(about).slice(0, -1);
  const text = `${head},"prepared":[\n${lines(prepared)}\n],"results":[\n${lines(results)}\n]}\n`;
  await writeFile(file, text).catch((error: Error) => {
    throw new AppError('USAGE', `The recording cannot be written to ${file}: ${error.message}.`);
  });
}

/** @throws AppError USAGE for a file that is no recording, or one of another version */
export async function readRecording(file: string): Promise<Recording> {
  const invalid = (fault: string): AppError =>
    new AppError(
      'USAGE',
      `The recording ${file} ${fault}. Make one: liventix restructure accesses record --output ${file}`,
    );
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw invalid(error.code === 'ENOENT' ? 'is not there' : `cannot be read: ${error.message}`);
  });
  const recording = parsed(text);
  if (recording === undefined) throw invalid('is no recording');
  if (recording.version !== 1) throw invalid('is of another version');
  return recording;
}

function parsed(text: string): Recording | undefined {
  try {
    const read = JSON.parse(text) as Partial<Recording> | null;
    const lists = [read?.callers, read?.notApplicable, read?.prepared, read?.results];
    return lists.every(Array.isArray) ? (read as Recording) : undefined;
  } catch {
    return undefined;
  }
}
