import type { Pool } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK, type PostOutcome, postJson } from './ledger.ts';
import { type Line, readLines } from './lines.ts';

const MAX_LINE_BYTES = 10_000_000;
/** A batch ends where its text passes this: what one call sends, and what the server makes of it, is bounded. */
const MAX_BATCH_CHARACTERS = 10_000_000;

export type LineOutcome = PostOutcome & { readonly line: number };

export interface PostLinesOptions {
  readonly bookId?: number;
  /** Transactions a call and a commit. */
  readonly batchSize: number;
  /** Aborted, no further batch begins, and its reason is thrown. */
  readonly stop: AbortSignal;
}

/**
 * Posts JSON lines, each one transaction as `payments.post_transactions` takes it, in their order. The text of a line
 * reaches the database as it is. When the outcomes of a batch, one a line, are yielded, it is committed.
 * @throws AppError LEDGER_BOOK_UNKNOWN, DB_*
 */
export async function* postLines(
  pool: Pool,
  input: AsyncIterable<Uint8Array>,
  options: PostLinesOptions,
): AsyncGenerator<LineOutcome[], void> {
  const lines = readLines(input, { maxBytes: MAX_LINE_BYTES });
  for await (const batch of batchesOf(lines, options.batchSize)) {
    options.stop.throwIfAborted();
    yield await postBatch(pool, batch, options.bookId ?? MAIN_BOOK);
  }
}

async function* batchesOf(lines: AsyncIterable<Line>, size: number): AsyncGenerator<Line[], void> {
  let batch: Line[] = [];
  let characters = 0;
  for await (const line of lines) {
    batch.push(line);
    characters += 'text' in line ? line.text.length : 0;
    if (batch.length < size && characters < MAX_BATCH_CHARACTERS) continue;
    yield batch;
    [batch, characters] = [[], 0];
  }
  if (batch.length > 0) yield batch;
}

async function postBatch(pool: Pool, batch: readonly Line[], bookId: number): Promise<LineOutcome[]> {
  const read = batch.map(readJson);
  const outcomes = await postTexts(
    pool,
    read.flatMap((line) => ('text' in line ? [line.text] : [])),
    bookId,
  );
  const inOrder = outcomes.values();
  return read.map((line) => {
    const outcome = 'text' in line ? inOrder.next().value : invalid(line.fault);
    if (outcome === undefined) throw new AppError('INTERNAL', `The database answered nothing to line ${line.number}.`);
    return { line: line.number, ...outcome };
  });
}

// One that is JSON by itself stays one transaction between its neighbours.
function readJson(line: Line): Line {
  if ('fault' in line) return line;
  try {
    JSON.parse(line.text);
    return line;
  } catch (error) {
    return { number: line.number, fault: `It is not JSON: ${(error as Error).message}.` };
  }
}

/** In one call; where the database refuses the call for something in it, by halves, down to the text that it is. */
async function postTexts(pool: Pool, texts: readonly string[], bookId: number): Promise<PostOutcome[]> {
  if (texts.length === 0) return [];
  try {
    return await withTransaction(pool, (tx) => postJson(tx, `[${texts.join(',')}]`, { bookId }));
  } catch (error) {
    const failure = toAppError(error);
    if (!isOfContent(failure)) throw failure;
    if (texts.length === 1) return [refused(failure)];
    const half = Math.ceil(texts.length / 2);
    const first = await postTexts(pool, texts.slice(0, half), bookId);
    return [...first, ...(await postTexts(pool, texts.slice(half), bookId))];
  }
}

/** SQLSTATE classes: data that no type holds, and what passes a limit of the server, such as nesting. */
const OF_DATA = /^(22|54)/;

/** Whether a call was refused for one of its transactions, so that the others pass without it. */
function isOfContent({ code, details }: AppError): boolean {
  if (code === 'DB_FAILED') return OF_DATA.test(String(details['sqlstate']));
  return code.startsWith('LEDGER_') && code !== 'LEDGER_BOOK_UNKNOWN';
}

function refused({ code, message }: AppError): PostOutcome {
  return code === 'DB_FAILED' ? invalid(message) : { status: 'rejected', code, message };
}

function invalid(message: string): PostOutcome {
  return { status: 'rejected', code: 'LEDGER_LINE_INVALID', message };
}
