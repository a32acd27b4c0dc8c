import type { Pool } from '../db/pool.ts';
import { withStatement } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { linkedTo, nameCulprit } from './culprit.ts';
import { callByHalves } from './halving.ts';
import { assertArray, assertBookId, assertOptions, assertWhole, invalid, joinTexts } from './input.ts';
import {
  MAIN_BOOK,
  type NewReversal,
  type NewTransaction,
  orThrow,
  type Posted,
  type PostOutcome,
  postJson,
} from './ledger.ts';
import { transactionText } from './transaction-text.ts';
import { createWaitingLine, type Party } from './waiting-line.ts';

type Request = NewTransaction | NewReversal;

export interface PosterOptions {
  readonly bookId?: number;
  /** Transactions of one call to the database; 512. */
  readonly maxBatch?: number;
  /** Calls under way at the same time, each on a connection of the pool; 2. */
  readonly maxInFlight?: number;
  /** Transactions that wait for a call; 10,000. One more is refused with LEDGER_BUSY, and so is one beyond 100,000,000 characters of their JSON. */
  readonly maxWaiting?: number;
}

/** Posts for many callers at once: what is asked for while calls are under way goes out together in the next one. */
export interface Poster {
  /**
   * Posts one transaction, in a database transaction of its own that has committed when this resolves. To join one of your
   * own, use `post` of `liventix/ledger` with its client.
   * @throws AppError with the code that it was refused with; LEDGER_BUSY; DB_* when it is not known whether it was posted:
   *   with an idempotency key, post it again; LEDGER_INVALID when it is linked, as there is nothing to be linked to
   */
  post(transaction: Request): Promise<Posted>;
  /**
   * Posts linked transactions: all or none.
   * @returns one outcome each, in order
   * @throws AppError LEDGER_INVALID for more than may ever wait, or more text than one call takes; LEDGER_BUSY; DB_* as of post
   */
  postChain(transactions: readonly Request[]): Promise<PostOutcome[]>;
  /** Waits for what was asked for, and takes no more. */
  close(): Promise<void>;
}

/** What one caller waits for: it goes out whole, in one call. */
interface Waiting extends Party {
  /** Its transactions as JSON, with commas between: what is refused for its shape never waits. */
  readonly text: string;
  readonly resolve: (outcomes: PostOutcome[]) => void;
  readonly reject: (error: unknown) => void;
}

/** What the database takes in one call. */
const MAX_CALL = 10_000;
/** A batch ends before its text passes this: what one call sends, and what the server makes of it, is bounded. */
const MAX_BATCH_CHARACTERS = 10_000_000;
const DEFAULT_MAX_BATCH = 512;
const DEFAULT_MAX_IN_FLIGHT = 2;
const DEFAULT_MAX_WAITING = 10_000;
/** What waits stays in memory, however large each transaction is. */
const MAX_WAITING_CHARACTERS = 100_000_000;
/** Transactions that are not spread over two calls: each costs the server as much as some twenty of them. */
const WORTH_A_CALL = 32;

/**
 * There is no timer: a call goes out as soon as one of `maxInFlight` is free, with its share of what waits by then. A single
 * caller waits for nobody, and the more there are, the larger the calls become. Calls under way share no account, or they would
 * only wait for each other's locks.
 */
export function createPoster(pool: Pool, options: PosterOptions = {}): Poster {
  assertOptions(options, 'bookId', 'maxBatch', 'maxInFlight', 'maxWaiting');
  const bookId = options.bookId ?? MAIN_BOOK;
  const maxBatch = options.maxBatch ?? DEFAULT_MAX_BATCH;
  const maxInFlight = options.maxInFlight ?? DEFAULT_MAX_IN_FLIGHT;
  const maxWaiting = options.maxWaiting ?? DEFAULT_MAX_WAITING;
  assertBookId(bookId);
  assertWhole('maxBatch', maxBatch, 1, MAX_CALL);
  assertWhole('maxInFlight', maxInFlight, 1, Number.MAX_SAFE_INTEGER);
  assertWhole('maxWaiting', maxWaiting, 1, Number.MAX_SAFE_INTEGER);
  const line = createWaitingLine<Waiting>();
  let isScheduled = false;
  let isClosed = false;
  const inFlight = new Set<Promise<void>>();

  const send = (parties: readonly Waiting[]) => {
    const texts = `[${parties.map(({ text }) => text).join(',')}]`;
    return withStatement(pool, (client) => postJson(client, texts, { bookId }));
  };

  function dispatch(): void {
    isScheduled = false;
    while (inFlight.size < maxInFlight && line.mayGo) {
      const share = Math.max(WORTH_A_CALL, Math.ceil(line.size / (maxInFlight - inFlight.size)));
      const batch = line.letGo({ share, most: maxBatch, mostCharacters: MAX_BATCH_CHARACTERS });
      if (batch.length === 0) break;
      const call = deliver(batch).finally(() => {
        inFlight.delete(call);
        line.returned(batch);
        schedule();
      });
      inFlight.add(call);
    }
  }

  /** All that is asked for in this turn of the event loop goes out together. */
  function schedule(): void {
    if (isScheduled) return;
    isScheduled = true;
    setImmediate(dispatch);
  }

  async function deliver(batch: readonly Waiting[]): Promise<void> {
    const call = async (parties: readonly Waiting[]) => {
      const outcomes = await send(parties);
      let from = 0;
      for (const { size, resolve } of parties) {
        resolve(nameCulprit(outcomes.slice(from, from + size), (_, nth) => ofChain(nth)));
        from += size;
      }
    };
    try {
      await callByHalves(batch, call, ({ reject }, failure) => reject(failure));
    } catch (error) {
      // Whoever has his answer already keeps it.
      for (const { reject } of batch) reject(error);
    }
  }

  /** @throws AppError LEDGER_INVALID, of one transaction alone; LEDGER_BUSY */
  async function enqueue(requests: readonly Request[]): Promise<PostOutcome[]> {
    if (isClosed) throw new AppError('LEDGER_BUSY', 'This poster is closed and takes no more transactions.');
    const size = requests.length;
    if (size > maxWaiting) {
      throw invalid(`A chain of ${size} transactions never fits: at most ${maxWaiting} may wait (maxWaiting).`);
    }
    if (line.size + size > maxWaiting) {
      throw busy(`${line.size} transactions wait to be posted, and at most ${maxWaiting} may`);
    }
    let refused: { readonly nth: number; readonly fault: AppError } | undefined;
    const text = joinTexts(requests, (request, nth) => {
      const textOrFault = transactionText(request);
      if (typeof textOrFault === 'string') return textOrFault;
      refused ??= { nth, fault: textOrFault };
      return '';
    });
    if (refused !== undefined) return refusals(size, refused.nth, refused.fault);
    // One that is larger by itself waits alone: the database says what is wrong with it.
    if (line.size > 0 && line.characters + text.length > MAX_WAITING_CHARACTERS) {
      throw busy(
        `Transactions of ${line.characters} characters wait to be posted; with ${text.length} more they would pass ${MAX_WAITING_CHARACTERS}`,
      );
    }
    schedule();
    return new Promise((resolve, reject) =>
      line.join({ text, size, characters: text.length, accounts: accountsOf(requests), resolve, reject }),
    );
  }

  return {
    post: async (transaction) => {
      // In the call that it goes out in, the next one is somebody else's.
      if (transaction?.linked === true) throw invalid('linked links it to nothing here: use postChain.');
      const [outcome] = await enqueue([transaction]);
      if (outcome === undefined) throw new AppError('INTERNAL', 'The database answered nothing to a posting.');
      return orThrow(outcome);
    },
    postChain: async (transactions) => {
      assertArray('Transactions', transactions);
      if (transactions.length === 0) return [];
      return enqueue(transactions.map((each, nth) => linkedIf(each, nth < transactions.length - 1)));
    },
    close: async () => {
      isClosed = true;
      while (line.mayGo || inFlight.size > 0) {
        dispatch();
        await Promise.all(inFlight);
      }
    },
  };
}

function busy(what: string): AppError {
  return new AppError('LEDGER_BUSY', `${what}. Nothing of this one was posted: ask again later.`);
}

const ofChain = (nth: number) => `transaction ${nth + 1} of the chain`;

/** As the database answers to a chain of which the transaction at `nth` is refused. */
function refusals(size: number, nth: number, { code, message }: AppError): PostOutcome[] {
  const others = linkedTo(ofChain(nth), code);
  return Array.from({ length: size }, (_, each) =>
    each === nth
      ? { status: 'rejected', code, message }
      : { status: 'rejected', code: 'LEDGER_LINK_FAILED', message: others },
  );
}

/**
 * The last one is as it would be by itself, so that it is the same request to whoever asks for it alone again. What is no object
 * stays what it is, to be refused as such.
 */
function linkedIf(request: Request, isLinked: boolean): Request {
  if (typeof request !== 'object' || request === null || Array.isArray(request)) return request;
  const { linked: _, ...alone } = request;
  return isLinked ? { ...alone, linked: true } : alone;
}

function accountsOf(requests: readonly Request[]): string[] {
  return requests.flatMap(({ entries = [] }) => entries.map(({ accountId }) => accountId));
}
