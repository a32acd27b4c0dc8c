import { setTimeout as pause } from 'node:timers/promises';
import type { Pool, Tx } from '../db/pool.ts';
import { withSavepoint, withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { nameCulprit } from './culprit.ts';
import { callByHalves } from './halving.ts';
import { MAIN_BOOK, type PostOutcome, postJson } from './ledger.ts';
import { chainsOf, type PostingLine } from './line-chains.ts';
import { readLines } from './lines.ts';

const MAX_LINE_BYTES = 10_000_000;
/** A batch ends where its text passes this: what one call sends, and what the server makes of it, is bounded. */
const MAX_BATCH_CHARACTERS = 10_000_000;
/** A batch that is not full by then is sent as it is: whoever writes the lines one by one may wait for their outcomes. */
const MAX_BATCH_WAIT_MS = 50;

export type LineOutcome = PostOutcome & { readonly line: number };

export interface PostLinesOptions {
  readonly bookId?: number;
  /** Transactions a call and a commit; linked ones stay together, if need be in a larger call. */
  readonly batchSize: number;
  /** Whether lines may be slow to come, as through a pipe: a batch then waits for 50 ms at most until it is full. */
  readonly isSlow?: boolean;
  /** Aborted, no further batch begins, and its reason is thrown. */
  readonly stop: AbortSignal;
}

/**
 * Posts JSON lines, each one transaction as `payments.post_transactions` takes it, in their order. The text of a line
 * reaches the database as it is. When the outcomes of a batch, one a line, are yielded, it is committed.
 * @throws AppError LEDGER_BOOK_UNKNOWN, LEDGER_BOOK_FORBIDDEN, DB_*
 */
export function postLines(
  pool: Pool,
  input: AsyncIterable<Uint8Array>,
  options: PostLinesOptions,
): AsyncGenerator<LineOutcome[], void> {
  return postWith((work) => withTransaction(pool, work), input, options);
}

/**
 * As `postLines`, in one database transaction that is undone at the end: the outcomes are what posting the lines now would
 * answer, and nothing is written. Until the end, the accounts of the lines are locked.
 * @throws AppError as postLines; DB_CONFLICT where others who post lock the same accounts in another order
 */
export async function* tryLines(
  pool: Pool,
  input: AsyncIterable<Uint8Array>,
  options: PostLinesOptions,
): AsyncGenerator<LineOutcome[], void> {
  const tx = await pool.connect();
  let broken: Error | undefined;
  try {
    await tx.query('begin');
    yield* postWith((work) => withSavepoint(tx, work), input, options);
  } finally {
    await tx.query('rollback').catch((failure: Error) => {
      broken = failure;
    });
    tx.release(broken);
  }
}

/** Runs a call so that, where it fails, nothing of it is left and another can follow. */
type RunCall = <T>(work: (tx: Tx) => Promise<T>) => Promise<T>;

async function* postWith(
  runCall: RunCall,
  input: AsyncIterable<Uint8Array>,
  options: PostLinesOptions,
): AsyncGenerator<LineOutcome[], void> {
  const chains = chainsOf(readLines(input, { maxBytes: MAX_LINE_BYTES }));
  for await (const batch of batchesOf(chains, options)) {
    options.stop.throwIfAborted();
    yield await postBatch(runCall, batch, options.bookId ?? MAIN_BOOK);
  }
}

type Chain = readonly PostingLine[];

async function* batchesOf(
  chains: AsyncGenerator<Chain, void>,
  { batchSize, isSlow = false }: Pick<PostLinesOptions, 'batchSize' | 'isSlow'>,
): AsyncGenerator<Chain[], void> {
  let batch: Chain[] = [];
  let [lines, characters] = [0, 0];
  let waited: Promise<typeof TIME_IS_UP> | undefined;
  const take = () => {
    const taken = batch;
    [batch, lines, characters, waited] = [[], 0, 0, undefined];
    return taken;
  };
  let next = nextOf(chains);
  for (;;) {
    const chain = waited === undefined ? await next : await Promise.race([next, waited]);
    if (chain === TIME_IS_UP) {
      yield take();
      continue;
    }
    if (chain === undefined) break;
    next = nextOf(chains);
    if (lines > 0 && lines + chain.length > batchSize) yield take();
    if (batch.length === 0 && isSlow) waited = pause(MAX_BATCH_WAIT_MS, TIME_IS_UP);
    batch.push(chain);
    lines += chain.length;
    for (const line of chain) characters += line.text.length;
    if (lines >= batchSize || characters >= MAX_BATCH_CHARACTERS) yield take();
  }
  if (batch.length > 0) yield take();
}

const TIME_IS_UP = Symbol('time is up');

/** Undefined at the end. */
function nextOf(chains: AsyncGenerator<Chain, void>): Promise<Chain | undefined> {
  const next = chains.next().then(({ value }) => value ?? undefined);
  // Where nobody waits for it any more, as after a stop, it fails unheard.
  next.catch(() => undefined);
  return next;
}

async function postBatch(runCall: RunCall, batch: readonly Chain[], bookId: number): Promise<LineOutcome[]> {
  const readable = batch.filter((chain) => chain.every(({ refused }) => refused === undefined));
  const posted = (await postChains(runCall, readable, bookId)).values();
  return batch.flatMap((chain) => {
    const outcomes = chain.map(({ number, refused }): LineOutcome => {
      const outcome = refused === undefined ? posted.next().value : { status: 'rejected' as const, ...refused };
      if (outcome === undefined) throw new AppError('INTERNAL', `The database answered nothing to line ${number}.`);
      return { line: number, ...outcome };
    });
    return chain.some(({ refused }) => refused !== undefined)
      ? outcomes
      : nameCulprit(outcomes, ({ line }) => `line ${line}`);
  });
}

/** In one call; where the database refuses the call for something in it, by halves, down to the chain that it is in. */
async function postChains(runCall: RunCall, chains: readonly Chain[], bookId: number): Promise<PostOutcome[]> {
  const outcomes: PostOutcome[] = [];
  const call = async (some: readonly Chain[]) => {
    const texts = some.flatMap((chain) => chain.map(({ text }) => text));
    outcomes.push(...(await runCall((tx) => postJson(tx, `[${texts.join(',')}]`, { bookId }))));
  };
  await callByHalves(chains, call, (chain, failure) => outcomes.push(...chain.map(() => rejection(failure))));
  return outcomes;
}

/** SQLSTATE classes: data that no type holds, and what passes a limit of the server, such as nesting. */
const OF_DATA = /^(22|54)/;

function rejection({ code, message, details }: AppError): PostOutcome {
  const isOfData = code === 'DB_FAILED' && OF_DATA.test(String(details['sqlstate']));
  return { status: 'rejected', code: isOfData ? 'LEDGER_LINE_INVALID' : code, message };
}
