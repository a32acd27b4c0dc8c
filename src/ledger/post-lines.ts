import type { Pool } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK, type PostOutcome, postJson } from './ledger.ts';
import { chainsOf, type PostingLine } from './line-chains.ts';
import { readLines } from './lines.ts';

const MAX_LINE_BYTES = 10_000_000;
/** A batch ends where its text passes this: what one call sends, and what the server makes of it, is bounded. */
const MAX_BATCH_CHARACTERS = 10_000_000;

export type LineOutcome = PostOutcome & { readonly line: number };

export interface PostLinesOptions {
  readonly bookId?: number;
  /** Transactions a call and a commit; linked ones stay together, if need be in a larger call. */
  readonly batchSize: number;
  /** Aborted, no further batch begins, and its reason is thrown. */
  readonly stop: AbortSignal;
}

/**
 * Posts JSON lines, each one transaction as `payments.post_transactions` takes it, in their order. The text of a line
 * reaches the database as it is. When the outcomes of a batch, one a line, are yielded, it is committed.
 * @throws AppError LEDGER_BOOK_UNKNOWN, LEDGER_BOOK_FORBIDDEN, DB_*
 */
export async function* postLines(
  pool: Pool,
  input: AsyncIterable<Uint8Array>,
  options: PostLinesOptions,
): AsyncGenerator<LineOutcome[], void> {
  const lines = readLines(input, { maxBytes: MAX_LINE_BYTES });
  for await (const batch of batchesOf(chainsOf(lines), options.batchSize)) {
    options.stop.throwIfAborted();
    yield await postBatch(pool, batch, options.bookId ?? MAIN_BOOK);
  }
}

type Chain = readonly PostingLine[];

async function* batchesOf(chains: AsyncIterable<Chain>, size: number): AsyncGenerator<Chain[], void> {
  let batch: Chain[] = [];
  let [lines, characters] = [0, 0];
  for await (const chain of chains) {
    if (lines > 0 && lines + chain.length > size) {
      yield batch;
      [batch, lines, characters] = [[], 0, 0];
    }
    batch.push(chain);
    lines += chain.length;
    for (const line of chain) characters += line.text.length;
    if (lines < size && characters < MAX_BATCH_CHARACTERS) continue;
    yield batch;
    [batch, lines, characters] = [[], 0, 0];
  }
  if (batch.length > 0) yield batch;
}

async function postBatch(pool: Pool, batch: readonly Chain[], bookId: number): Promise<LineOutcome[]> {
  const readable = batch.filter((chain) => chain.every(({ refused }) => refused === undefined));
  const posted = (await postChains(pool, readable, bookId)).values();
  return batch.flat().map(({ number, refused }) => {
    const outcome = refused === undefined ? posted.next().value : { status: 'rejected' as const, ...refused };
    if (outcome === undefined) throw new AppError('INTERNAL', `The database answered nothing to line ${number}.`);
    return { line: number, ...outcome };
  });
}

/** In one call; where the database refuses the call for something in it, by halves, down to the chain that it is in. */
async function postChains(pool: Pool, chains: readonly Chain[], bookId: number): Promise<PostOutcome[]> {
  if (chains.length === 0) return [];
  const lines = chains.flat();
  try {
    const texts = lines.map(({ text }) => text);
    return await withTransaction(pool, (tx) => postJson(tx, `[${texts.join(',')}]`, { bookId }));
  } catch (error) {
    const failure = toAppError(error);
    if (!isOfContent(failure)) throw failure;
    if (chains.length === 1) return lines.map(() => rejection(failure));
    const half = Math.ceil(chains.length / 2);
    const first = await postChains(pool, chains.slice(0, half), bookId);
    return [...first, ...(await postChains(pool, chains.slice(half), bookId))];
  }
}

/** SQLSTATE classes: data that no type holds, and what passes a limit of the server, such as nesting. */
const OF_DATA = /^(22|54)/;
const OF_THE_CALL: ReadonlySet<string> = new Set(['LEDGER_BOOK_UNKNOWN', 'LEDGER_BOOK_FORBIDDEN', 'LEDGER_BUSY']);

/** Whether a call was refused for one of its transactions, so that the others pass without it. */
function isOfContent({ code, details }: AppError): boolean {
  if (code === 'DB_FAILED') return OF_DATA.test(String(details['sqlstate']));
  return code.startsWith('LEDGER_') && !OF_THE_CALL.has(code);
}

function rejection({ code, message }: AppError): PostOutcome {
  return { status: 'rejected', code: code === 'DB_FAILED' ? 'LEDGER_LINE_INVALID' : code, message };
}
