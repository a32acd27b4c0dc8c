import { createHash } from 'node:crypto';
import { expect } from 'vitest';
import { createPool, type Pool, type Queryable } from '../../src/db/pool.ts';
import { toAppError } from '../../src/db/sqlstate.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { createLegacyDatabase, fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { MAIN_BOOK, openAccounts, post } from '../../src/ledger/ledger.ts';
import { approveDrift } from '../../src/replay/approve.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { findCapture, findRetirement, turnCaptureOff, turnCaptureOn } from '../../src/replay/capture.ts';
import { cutOver, rollBack } from '../../src/replay/cut-over.ts';
import { finishCutOver } from '../../src/replay/finish.ts';
import { replaceWalletFunctions, restoreWalletFunctions } from '../../src/replay/wallet-functions.ts';
import { booksHold } from './backfill.ts';
import { transfer } from './books.ts';
import { createDatabase, type TestDatabase, type TestServer, templateOf } from './database.ts';
import { givenRow, givenWallet, type OwnerKind } from './legacy.ts';
import { type Point, startWire } from './wire.ts';

const SIZE = { wallets: 4, orgWallets: 2, transactions: 42, seed: 11 };
const CHUNK = 7;
const AT_ONCE = 3;
const ALL = { owners: 'all' } as const;

// ---------------------------------------------------------------------------------------------------- old code

/** Wallets that old code writes to between the tries. */
const WATCHED: readonly OwnerKind[] = ['user', 'organization', 'user', 'organization'];
const FIRST_BALANCE = 100;

const TABLES = {
  user: { wallets: 'wallets', rows: 'wallet_transactions', owner: 'user_id' },
  organization: { wallets: 'org_wallets', rows: 'org_wallet_transactions', owner: 'org_id' },
} as const;

/** Always the same for the same name, and of version 4: those of version 8 are the ledger's own. */
const idOf = (name: string) => {
  const hex = createHash('md5').update(name).digest('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20)].join('-');
};
const walletId = (nth: number) => idOf(`wallet ${nth}`);
const rowOf = (name: string, at: string, delta: number) =>
  ({ id: idOf(name), at, delta, type: 'adjustment', referenceType: 'system' }) as const;

/** Lets old code write; once the old tables are retired, it is refused, and nothing of it stays. */
async function oldCode(pool: Pool, work: () => Promise<void>): Promise<void> {
  if ((await findRetirement(pool, MAIN_BOOK)) === undefined) await work();
  else await expect(work()).rejects.toMatchObject({ code: 'LEGACY_RETIRED' });
}

/**
 * Old code at work between two tries: a row and its balance for each of those wallets, and a new wallet. Whoever keeps the wallet at that
 * moment, one row comes into the log of each, and nothing else.
 */
async function oldCodeWrites(pool: Pool, batch: number): Promise<void> {
  for (const [nth, kind] of WATCHED.entries()) {
    const { wallets } = TABLES[kind];
    const delta = (nth % 2 === 0 ? 1 : -1) * (10 * batch + nth + 1);
    const wallet = { id: walletId(nth), kind, ownerId: '' };
    const row = rowOf(`row ${batch} ${nth}`, `2026-0${batch + 1}-01T00:00:0${nth}Z`, delta);
    await withTransaction(pool, async (tx) => {
      await givenRow(tx, wallet, row);
      await tx.query(`update ${wallets} set balance_credits = balance_credits + $2 where id = $1`, [wallet.id, delta]);
    });
  }
  await withTransaction(pool, async (tx) => {
    const [id, userId] = [idOf(`late wallet ${batch}`), idOf(`late user ${batch}`)];
    await tx.query('insert into auth.users (id, email) values ($1, $2)', [userId, `${userId}@example.org`]);
    await tx.query(
      `insert into wallets (id, user_id, balance_credits, created_at) values ($1, $2, 0, '2026-01-01T00:00:00Z')`,
      [id, userId],
    );
  });
}

/** And rows that it changes and deletes, with the balance that goes with that; only where the old tables keep the wallets. */
async function oldCodeChanges(pool: Pool): Promise<void> {
  await withTransaction(pool, async (tx) => {
    await tx.query('update wallet_transactions set credits_delta = 90 where id = $1', [idOf('row first 0')]);
    await tx.query('update wallets set balance_credits = balance_credits - 10 where id = $1', [walletId(0)]);
    await tx.query('delete from org_wallet_transactions where id = $1', [idOf('row first 1')]);
    await tx.query('update org_wallets set balance_credits = balance_credits - 100 where id = $1', [walletId(1)]);
  });
}

// -------------------------------------------------------------------------------------------------- the commands

async function fill(pool: Pool): Promise<void> {
  await createLegacyDatabase(pool);
  await fillLegacyDatabase(pool, SIZE);
  for (const [nth, kind] of WATCHED.entries()) {
    const wallet = await givenWallet(pool, { kind, id: walletId(nth), balance: FIRST_BALANCE });
    await givenRow(pool, wallet, rowOf(`row first ${nth}`, `2025-01-01T00:00:0${nth}Z`, FIRST_BALANCE));
  }
}
async function capture(pool: Pool): Promise<void> {
  await fill(pool);
  await turnCaptureOn(pool);
}
async function replay(pool: Pool): Promise<void> {
  await capture(pool);
  await run(pool);
}
async function sign(pool: Pool): Promise<void> {
  await replay(pool);
  await approveDrift(pool, { ...ALL, reason: 'for the drill' });
  await oldCodeWrites(pool, 0);
}
async function unreplaced(pool: Pool): Promise<void> {
  await sign(pool);
  await pool.query(
    `create function public.wallet_freeze_if_negative(p_wallet_id uuid) returns void language sql as 'select 4711'`,
  );
}
async function replaced(pool: Pool): Promise<void> {
  await unreplaced(pool);
  await replaceWalletFunctions(pool);
}
async function kept(pool: Pool): Promise<void> {
  await sign(pool);
  await flipAll(cutOver)(pool);
  await oldCodeWrites(pool, 1);
}
/** Somebody took the mirror away, and new code posted. */
async function unmirrored(pool: Pool): Promise<void> {
  await kept(pool);
  await pool.query('drop trigger entries_mirrored on payments.entries');
  const { rows } = await pool.query<{ owner: string }>(
    `select user_id as owner from wallets where id <> all ($1) and user_id <> $2 order by id limit 1`,
    [WATCHED.map((_, nth) => walletId(nth)), idOf('late user 0')],
  );
  await postCredit(pool, rows[0]?.owner ?? '');
}
const run = async (pool: Pool) => {
  expect(await runBackfill(pool, { chunkRows: CHUNK, settleMs: 0 })).toMatchObject({ finished: true });
};
const flipAll = (flip: typeof cutOver) => async (pool: Pool) => {
  expect(await flip(pool, { ...ALL, settleMs: 0 })).toMatchObject({ finished: true, refused: [] });
};
const nothing = async () => undefined;

export interface Command {
  readonly name: string;
  /** What was done before it; one function, one template. */
  readonly before: (pool: Pool) => Promise<void>;
  readonly run: (pool: Pool) => Promise<unknown>;
  /** What is done to the end after it. */
  readonly after: (pool: Pool) => Promise<unknown>;
  /** What old code does beside what it always does. */
  readonly changes?: (pool: Pool) => Promise<void>;
}

/** All that changes something on the way from the first trigger to the last. */
export const COMMANDS: readonly Command[] = [
  { name: 'capture on', before: fill, run: turnCaptureOn, after: run },
  { name: 'run', before: capture, run, after: run, changes: oldCodeChanges },
  {
    name: 'abort',
    before: sign,
    run: turnCaptureOff,
    after: async (pool) => {
      await turnCaptureOn(pool);
      await run(pool);
    },
  },
  { name: 'approve', before: replay, run: (pool) => approveDrift(pool, { ...ALL, reason: 'again' }), after: run },
  { name: 'functions', before: unreplaced, run: replaceWalletFunctions, after: run },
  { name: 'functions --restore', before: replaced, run: restoreWalletFunctions, after: run },
  { name: 'cutover', before: sign, run: flipAll(cutOver), after: run },
  { name: 'cutover, where the mirror was lost', before: unmirrored, run: flipAll(cutOver), after: run },
  { name: 'rollback', before: kept, run: flipAll(rollBack), after: run },
  { name: 'finish', before: kept, run: finishCutOver, after: nothing },
];

// ------------------------------------------------------------------------------------------------------ the drill

export interface Strike {
  readonly at: Point;
  /** What is done there; by itself, the process is killed. */
  readonly by?: (backendPid: number, database: TestDatabase) => unknown;
}

interface Drilled {
  /** A hash of all that the log, the accounts and the replay know at the end, but for positions and the time of recording. */
  readonly history: string;
  /** How often it was struck. */
  readonly struck: number;
  /** False where the old tables were retired before old code came to write to them. */
  readonly isFollowed: boolean;
}

/**
 * Runs a command, struck as often as told or until it comes through, lets old code write after one of the times, runs it again as its
 * user would, and goes on to the end, where the books must hold and nothing that old code wrote is lost or doubled.
 */
export async function drill(
  command: Command,
  strikes: Iterable<Strike>,
  { server, writesAfter = 1 }: { server?: TestServer; writesAfter?: number } = {},
): Promise<Drilled> {
  const database = await databaseBefore(command, server);
  const { pool } = database;
  let [struck, isFollowed, isWritten] = [0, true, false];
  const writeOnce = async () => {
    if (isWritten) return;
    isFollowed = command.name !== 'finish' || (await findCapture(pool)) !== undefined;
    await write(pool, command);
    isWritten = true;
  };
  try {
    for (const strike of strikes) {
      if (!(await tryOnce(database, command, strike))) break;
      struck += 1;
      if (struck === writesAfter) await writeOnce();
    }
    await writeOnce();
    await command.run(pool);
    return { struck, isFollowed, history: await historyAtEnd(pool, command) };
  } finally {
    await database.drop();
  }
}

/** The history where nothing happens: whether what old code writes is followed, or comes when the old tables are retired. */
export async function undisturbed(
  command: Command,
  { isFollowed, server }: { isFollowed: boolean; server?: TestServer },
): Promise<string> {
  const database = await databaseBefore(command, server);
  const { pool } = database;
  try {
    if (isFollowed) await write(pool, command);
    await command.run(pool);
    if (!isFollowed) await write(pool, command);
    return await historyAtEnd(pool, command);
  } finally {
    await database.drop();
  }
}

/** What some of the same command come to that begin at once, each as its user would: the history must be that of one. */
export async function drillAtOnce(
  command: Command,
): Promise<{ outcomes: PromiseSettledResult<unknown>[]; history: string }> {
  const database = await databaseBefore(command);
  const { pool } = database;
  const pools = Array.from({ length: AT_ONCE }, () => createPool({ databaseUrl: database.url }));
  try {
    await write(pool, command);
    const outcomes = await Promise.allSettled(pools.map((each) => command.run(each)));
    await command.run(pool);
    return { outcomes, history: await historyAtEnd(pool, command) };
  } finally {
    for (const each of pools) await each.end();
    await database.drop();
  }
}

/** A database in which a command may be run; the caller drops it. */
export async function databaseBefore(command: Command, server?: TestServer): Promise<TestDatabase> {
  const template = await templateOf(`template_drill_${command.before.name}`, command.before, server);
  return createDatabase({ template, ...(server === undefined ? {} : { server }) });
}

async function write(pool: Pool, { changes = nothing }: Command): Promise<void> {
  await oldCode(pool, async () => {
    // First, so that a row that is changed comes before the others of its wallet, whether it was read by then or is captured.
    await changes(pool);
    await oldCodeWrites(pool, 2);
  });
}

/** Whether it was struck, or came through before. */
async function tryOnce(database: TestDatabase, command: Command, { at, by }: Strike): Promise<boolean> {
  const strike = by === undefined ? {} : { strike: (backendPid: number) => by(backendPid, database) };
  const wire = await startWire({ databaseUrl: database.url, at, ...strike });
  const pool = createPool({ databaseUrl: wire.url });
  try {
    await command.run(pool).catch((error: unknown) => {
      if (!wire.isStruck()) throw error;
      // Of the database, and in words: nobody is told of a mistake of our own.
      expect(toAppError(error).code).toMatch(/^DB_/);
    });
    return wire.isStruck();
  } finally {
    await pool.end();
    await wire.stop();
  }
}

async function historyAtEnd(pool: Pool, command: Command): Promise<string> {
  await oldCode(pool, () => oldCodeWrites(pool, 3));
  await command.after(pool);
  await booksHold(pool);
  await nothingIsLostOrDoubled(pool);
  const history = await hashOfHistory(pool);
  if (command.name === 'cutover') await newCodePosts(pool);
  return history;
}

/** Old code wrote rows of its own ids and each balance with its row: neither the replay nor the mirror adds to that. */
async function nothingIsLostOrDoubled(pool: Pool): Promise<void> {
  for (const [nth, kind] of WATCHED.entries()) {
    const { wallets, rows: table } = TABLES[kind];
    const { rows } = await pool.query<{ balance: bigint; sum: bigint; mirrored: bigint }>(
      `select w.balance_credits::bigint as balance, sum(t.credits_delta)::bigint as sum, count(m.legacy_id) as mirrored
       from ${wallets} w join ${table} t on t.wallet_id = w.id left join replay.mirrored_rows m on m.legacy_id = t.id
       where w.id = $1 group by w.id`,
      [walletId(nth)],
    );
    expect(rows).toEqual([{ balance: rows[0]?.sum, sum: rows[0]?.sum, mirrored: 0n }]);
  }
}

/** A posting of new code to a wallet that was cut over is in the old table. */
async function newCodePosts(pool: Pool): Promise<void> {
  const balance = async () => {
    const { rows } = await pool.query<{ balance: number; owner: string }>(
      'select balance_credits as balance, user_id as owner from wallets where id = $1',
      [walletId(0)],
    );
    return rows[0] ?? { balance: Number.NaN, owner: '' };
  };
  const before = await balance();
  await postCredit(pool, before.owner);
  expect((await balance()).balance).toBe(before.balance + CREDIT_CENTS);
  await booksHold(pool);
}

const CREDIT_CENTS = 30;

async function postCredit(pool: Pool, userId: string): Promise<void> {
  const [clearing = '', cash = ''] = await openAccounts(pool, [
    { type: 'receivable', currency: 'USD', name: 'clearing' },
    { type: 'cash', currency: 'USD', name: 'wallet', userId },
  ]);
  await withTransaction(pool, (tx) =>
    post(
      tx,
      transfer(clearing, cash, { amountCents: BigInt(CREDIT_CENTS), transactionId: idOf(`credit of ${userId}`) }),
    ),
  );
}

/**
 * A correction is of when it was captured, and an approval of when it was given; an account's events are in one order where they are a
 * holder's, and where many post to it, in that of who came first, on whatever slot.
 */
async function hashOfHistory(db: Queryable): Promise<string> {
  const { rows } = await db.query<{ line: string }>(
    `select line from (
       select jsonb_build_array(v.type, v.payload #- '{metadata,legacy,xid}' #- '{entries}', v.idempotency_scope, v.idempotency_key,
                case when v.payload ->> 'note' is distinct from 'drift_approved' then v.event_id end,
                case when v.type <> 'account.opened' and v.payload ->> 'note' is distinct from 'drift_approved'
                  and coalesce(v.payload #>> '{metadata,cause}', '') not in ('changed_row', 'deleted_row')
                  then extract(epoch from v.effective_at)::text end)::text as line
       from payments.events v
       union all
       select jsonb_build_array(payments.account_of(n.book_id, n.account_id), case when a.type = 'cash' then array[n.account_seq, n.balance_after_cents] end,
                n.amount_cents, n.transaction_id, n.reference_type, n.reference_id, n.metadata #- '{legacy,xid}')::text
       from payments.entries n join payments.accounts a on a.id = n.account_id and a.book_id = n.book_id
       union all
       select jsonb_build_array(payments.account_of(b.book_id, b.account_id), sum(b.balance_cents), sum(b.last_seq))::text
       from payments.balances b group by payments.account_of(b.book_id, b.account_id)
       union all
       select jsonb_build_array(w.wallet_id, w.source, w.owner_id, w.account_id, w.mode)::text from replay.wallets w
       union all
       select jsonb_build_array(d.wallet_id, d.source, d.cause, d.cents)::text from replay.drift d where d.cents <> 0
       union all
       select jsonb_build_array(p.oid::regprocedure, md5(p.prosrc), p.proacl)::text from pg_proc p where p.pronamespace = 'public'::regnamespace
       union all
       select jsonb_build_array(p.source, p.rows, p.delta_cents, p.id_hash, p.retired_at is not null)::text from replay.progress p
     ) history order by line collate "C"`,
  );
  const hash = createHash('sha256');
  for (const { line } of rows) hash.update(line).update('\n');
  return hash.digest('hex');
}
