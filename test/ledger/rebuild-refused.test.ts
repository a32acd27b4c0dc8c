import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createPool } from '../../src/db/pool.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { discardRebuild, rebuildProjections } from '../../src/ledger/rebuild/rebuild.ts';
import { liveState, type TestAccounts, transfer } from '../support/books.ts';
import { damage } from '../support/damage.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { fillEveryProjection } from '../support/rebuild-book.ts';

const SWAP = { swap: { maxRows: 1_000n } };
const WRONG_BALANCE = 'update payments.balances set balance_cents = 1 where balance_cents > 0';

let database: TestDatabase;
let accounts: TestAccounts;
beforeAll(async () => {
  database = await createDatabase();
  accounts = await fillEveryProjection(database.pool);
});
afterEach(() => discardRebuild(database.pool));
afterAll(() => database.drop());

async function refuses(code: string, says: RegExp, rebuild = () => rebuildProjections(database.pool, SWAP)) {
  const before = await liveState(database.pool);
  await expect(rebuild()).rejects.toMatchObject({ code, message: expect.stringMatching(says) });
  expect(await liveState(database.pool)).toBe(before);
}

describe('a rebuild', () => {
  it('of an empty log finds nothing to do, and so twice', async () => {
    const empty = await createDatabase();
    try {
      for (let run = 0; run < 2; run += 1) {
        expect(await rebuildProjections(empty.pool, SWAP)).toMatchObject({
          isEqual: true,
          resumedAt: 0n,
          isKept: false,
        });
      }
      await openAccounts(empty.pool, [{ type: 'cash', currency: 'USD', name: 'first' }]);
      expect(await rebuildProjections(empty.pool, SWAP)).toMatchObject({ isEqual: true });
    } finally {
      await empty.drop();
    }
  });

  it('keeps a second one away, which says so in one line', async () => {
    let second: Promise<unknown> | undefined;
    await rebuildProjections(database.pool, {
      stepEvents: 5,
      onStep: () => {
        second ??= refuses('REBUILD_RUNNING', /^Another rebuild of this database is running\. Wait for it/, () =>
          rebuildProjections(database.pool, { patienceMs: 20 }),
        );
      },
      onCompare: () => undefined,
    });
    await second;
  });

  it('names the event that cannot be projected, among many, and changes nothing', async () => {
    const { eventPosition } = await forgeEvent(`jsonb_build_object('entries', jsonb_build_array(
      jsonb_build_object('account_id', '${accounts.wallet}', 'amount_cents', 'much', 'currency', 'USD')))`);
    await post(database.pool, transfer(accounts.clearing, accounts.wallet));
    try {
      await refuses(
        'REBUILD_EVENT_REFUSED',
        new RegExp(
          `^Event ${eventPosition} of book 1 \\(transaction\\.posted [0-9a-f-]{36}\\) cannot be projected: .*"much"`,
        ),
      );
    } finally {
      await removeEvent(eventPosition);
    }
  });

  it('does not make the live tables what a log says that somebody changed', async () => {
    await asOwnerOfTheLog(`update payments.events set payload = jsonb_set(payload, '{entries,0,description}', '"x"')
      where type = 'transaction.posted' and position = (select max(position) from payments.events where type = 'transaction.posted' and book_id = 1)`);
    try {
      await refuses('REBUILD_LOG_CHANGED', /1 of \d+ events, the first: event \d+ .* does not match its leaf hash/);
    } finally {
      await asOwnerOfTheLog(`update payments.events set payload = payload #- '{entries,0,description}'
        where position = (select max(position) from payments.events where type = 'transaction.posted' and book_id = 1)`);
    }
  });

  it('puts in place no transaction that does not sum to zero, although its hash is right', async () => {
    const { eventPosition } = await forgeEvent(`jsonb_build_object('entries', jsonb_build_array(
      jsonb_build_object('account_id', '${accounts.yen}', 'amount_cents', 5, 'currency', 'JPY')))`);
    try {
      await refuses('REBUILD_REFUSED', /^By the log transaction [0-9a-f-]{36} sums to 5 JPY, which no guard/);
    } finally {
      await removeEvent(eventPosition);
    }
  });

  it('replaces no more rows than it may', async () => {
    await damage(database.pool, `${WRONG_BALANCE}; update payments.holds set reference_id = 'x'`);
    const swap = (maxRows: bigint) => rebuildProjections(database.pool, { swap: { maxRows } });
    await refuses('REBUILD_REFUSED', /^3 rows differ, more than the 2 .* Give --max-rows 3 /, () => swap(2n));
    expect((await swap(3n)).swap?.rows).toBe(3n);
  });

  it('does not delete what refers to a row with on delete cascade', async () => {
    await database.pool.query(`create table public.members (account_id uuid, book_id integer,
      constraint members_account_fkey foreign key (account_id, book_id) references payments.accounts on delete cascade)`);
    await damage(database.pool, `update payments.accounts set name = 'x' where book_id = 2`);
    await refuses(
      'REBUILD_REFUSED',
      /^Foreign key members_account_fkey of (public\.)?members refers to payments\.accounts/,
    );
    await database.pool.query(`alter table public.members drop constraint members_account_fkey,
      add constraint members_account_fkey foreign key (account_id, book_id) references payments.accounts;
      insert into public.members select id, book_id from payments.accounts`);
    expect((await rebuildProjections(database.pool, SWAP)).swap?.rows).toBe(1n);
    await database.pool.query('drop table public.members');
  });

  it('undoes all of it where something rewrites what is put back', async () => {
    await damage(database.pool, `${WRONG_BALANCE}; delete from payments.holds`);
    await database.pool.query('create rule never as on insert to payments.holds do instead nothing');
    await refuses('REBUILD_REFUSED', /^2 rows of payments\.holds were written and are not what was written/);
    await database.pool.query('drop rule never on payments.holds');
    expect((await rebuildProjections(database.pool, SWAP)).swap?.rows).toBe(3n);
  });

  it('leaves a schema of its name alone that somebody else made', async () => {
    await database.pool.query('create schema payments_rebuilt; create table payments_rebuilt.notes (note text)');
    await refuses('REBUILD_REFUSED', /^There is a schema payments_rebuilt that no rebuild made/);
    await database.pool.query('drop schema payments_rebuilt cascade');
  });

  it('gives up in time where a transaction keeps the ledger locked', { timeout: 90_000 }, async () => {
    await damage(database.pool, WRONG_BALANCE);
    const open = await database.pool.connect();
    await open.query('begin');
    await post(open, transfer(accounts.yen, accounts.yen, { currency: 'JPY' }));
    try {
      const stop = new AbortController();
      await refuses(
        'REBUILD_BUSY',
        /^The ledger was in use at each of 2 tries, 50 ms each, and nothing was changed/,
        () =>
          rebuildProjections(database.pool, {
            keep: true,
            ...SWAP,
            stop: stop.signal,
            onBusy: (tries) => {
              if (tries === 2) stop.abort('SIGINT');
            },
          }),
      );
    } finally {
      await open.query('rollback');
      open.release();
    }
    expect(await rebuildProjections(database.pool, SWAP)).toMatchObject({ swap: { rows: 1n } });
  });

  it('is made anew where the projections are made otherwise by now', async () => {
    await damage(database.pool, WRONG_BALANCE);
    expect(await rebuildProjections(database.pool, { keep: true })).toMatchObject({ isKept: true });
    await database.pool.query(`update payments_rebuilt.run set fingerprint = 'of another version'`);
    expect(await rebuildProjections(database.pool, SWAP)).toMatchObject({ resumedAt: 0n, swap: { rows: 1n } });
  });
});

describe('a role that was granted all that the product grants', () => {
  it('cannot swap, nor write what is rebuilt', async () => {
    const role = `${database.name}_teller`;
    await database.pool.query(`create role ${role} login password 'teller';
      select payments.grant_book('${role}', 1, true); grant create on database ${database.name} to ${role}`);
    const url = new URL(database.url);
    [url.username, url.password] = [role, 'teller'];
    const pool = createPool({ databaseUrl: url.href });
    try {
      await damage(database.pool, WRONG_BALANCE);
      await refuses('DB_PERMISSION_DENIED', new RegExp(`^Role ${role} does not own payments\\.account_changes`), () =>
        rebuildProjections(pool, SWAP),
      );
      await rebuildProjections(database.pool, { keep: true });
      await expect(pool.query('delete from payments_rebuilt.entries')).rejects.toThrow('permission denied');
      await refuses('DB_PERMISSION_DENIED', /permission denied/, () => rebuildProjections(pool));
      await rebuildProjections(database.pool, SWAP);
    } finally {
      await pool.end();
      await asSuperuser(database, `drop owned by ${role}; drop role ${role}`);
    }
  });
});

describe('what is put back', () => {
  it('is announced to nobody: no message, no notification, no trigger fires, and each is as it was', async () => {
    await database.pool.query(`
      create table public.told (what text);
      create function public.tell() returns trigger language plpgsql as $$
      begin
        insert into public.told values (tg_name);
        insert into public.outbox (topic, payload) values ('told', '{}');
        perform pg_notify('told', tg_name);
        return new;
      end $$;
      create trigger tell_always after insert or update or delete on payments.entries for each row execute function public.tell();
      create trigger tell_origin after insert or delete on payments.balances for each row execute function public.tell();
      create trigger tell_replica after insert on payments.holds for each row execute function public.tell();
      create trigger tell_never after insert on payments.holds for each row execute function public.tell();
      alter table payments.entries enable always trigger tell_always;
      alter table payments.holds enable replica trigger tell_replica, disable trigger tell_never`);
    const listener = new pg.Client({ connectionString: database.url });
    await listener.connect();
    const heard: string[] = [];
    listener.on('notification', ({ payload = '' }) => heard.push(payload));
    await listener.query('listen told');
    try {
      const before = await liveState(database.pool);
      await damage(
        database.pool,
        `${WRONG_BALANCE}; update payments.holds set reference_id = 'x'; delete from payments.entries where id = (select max(id) from payments.entries)`,
      );
      expect((await rebuildProjections(database.pool, SWAP)).swap?.rows).toBe(4n);
      expect(await liveState(database.pool)).toBe(before);
      expect((await database.pool.query('select from public.told')).rowCount).toBe(0);
      // It would have come before this one.
      await database.pool.query(`select pg_notify('told', 'the end')`);
      await eventually('the last notification', () => heard.length > 0);
      expect(heard).toEqual(['the end']);
    } finally {
      await listener.end();
      await database.pool.query('drop table public.told; drop function public.tell cascade');
    }
  });
});

/** An event that nobody posted, with the leaf hash that it must have. */
async function forgeEvent(payload: string): Promise<{ eventPosition: bigint }> {
  const { rows } = await database.pool.query<{ eventPosition: bigint }>(
    `insert into payments.events (book_id, position, event_id, type, effective_at, recorded_at, created_by, payload, leaf_hash)
     select 1, n.position, n.id, 'transaction.posted', n.at, n.at, 'forger', n.payload,
            payments.event_leaf_hash(1, n.position, n.id, n.at, n.at, 'transaction.posted', 'forger', null, null, null, n.payload)
     from (select nextval('payments.events_position_seq') as position, gen_random_uuid() as id, now() as at, ${payload} as payload offset 0) n
     returning position as "eventPosition"`,
  );
  return { eventPosition: rows[0]?.eventPosition ?? 0n };
}

const asOwnerOfTheLog = (sql: string) =>
  database.pool.query(
    `alter table payments.events disable trigger events_append_only; ${sql}; alter table payments.events enable always trigger events_append_only`,
  );

const removeEvent = (position: bigint) => asOwnerOfTheLog(`delete from payments.events where position = ${position}`);
