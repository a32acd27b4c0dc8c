import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { migrate } from '../../src/db/migrate.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { createLegacyDatabase, fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOn } from '../../src/replay/capture.ts';
import { getKnownLegacyTables } from '../../src/replay/legacy.ts';
import { type Plan, planBackfill } from '../../src/replay/plan/plan.ts';
import catalogue from '../demo/catalogue-wallets.json' with { type: 'json' };
import { failure, legacyDatabases, SIZE } from '../support/backfill.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { createLegacyTestDatabase, givenInvoice, givenRow, givenWallet, setBalance } from '../support/legacy.ts';
import { liventix } from '../support/liventix.ts';

const planOf = (database: TestDatabase, ...flags: string[]) =>
  liventix(['backfill', 'plan', ...flags], { DATABASE_URL: database.url });

const hazardOf = (plan: Plan, hazard: string, table: string) =>
  plan.hazards.find((found) => found.hazard === hazard && found.table === table);

describe('a plan before anything is installed', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase({ template: EMPTY });
    await createLegacyDatabase(database.pool);
    await fillLegacyDatabase(database.pool, SIZE);
  });
  afterAll(() => database.drop());

  it('says what there is, what is at odds, and what it takes, and leaves nothing behind', async () => {
    const objects = () =>
      database.pool.query(
        `select (select count(*) from pg_class) as relations, (select count(*) from pg_proc) as functions`,
      );
    const before = (await objects()).rows;
    const run = await planOf(database);
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout).toMatch(/^ {2}public\.wallets +120 rows, \d+\.\d MB, 20\d\d-.* to 20\d\d-/m);
    expect(run.stdout).toMatch(
      /^ {2}duplicate_credit: \d+ in wallet_transactions, [\d.,]+ USD; booked, against suspense/m,
    );
    expect(run.stdout).toMatch(
      /^ {2}balance_differs: \d+ in wallets, -?[\d.,]+ USD;.*\n {6}[0-9a-f-]{36} holds -?\d+, its rows come to -?\d+$/m,
    );
    expect(run.stdout).toMatch(
      /^ {2}about \d+\.\d s, of which the survey \d+\.\d s\n {4}\(.*9,100 rows a second.*docs\/benchmarks\.md/m,
    );
    expect(run.stdout).toMatch(/^ {2}a checkpoint after 2,147\.5 MB of that log at most \(max_wal_size\)$/m);
    expect(run.stdout).toMatch(/^ {2}backfill capture on: SHARE ROW EXCLUSIVE on .*gives way after 50 ms$/m);
    expect(run.stdout).toMatch(/\nNothing stands against it\. Nothing was changed\.\n$/);
    expect((await objects()).rows).toEqual(before);
  });

  it('finds of every cause what the backfill then finds, row by row, and every balance that it then explains', async () => {
    const plan = await planBackfill(database.pool);
    await migrate(database.url);
    await turnCaptureOn(database.pool);
    await runBackfill(database.pool);
    const found = await database.pool.query(
      `select f.source as table, f.cause as hazard, count(*) as count, (array_agg(f.legacy_id::text order by f.legacy_id))[1:5] as examples
       from replay.findings f group by 1, 2 order by 1, 2`,
    );
    expect(found.rows.length).toBeGreaterThan(4);
    const causes = new Set(found.rows.map(({ hazard }) => hazard));
    const planned = plan.hazards
      .filter(({ hazard }) => causes.has(hazard))
      .map(({ table, hazard, count, examples }) => ({ table, hazard, count, examples }))
      .toSorted((a, b) => (`${a.table} ${a.hazard}` < `${b.table} ${b.hazard}` ? -1 : 1));
    expect(planned).toEqual(found.rows);
    const drift = await database.pool.query(
      `select case source when 'wallet_transactions' then 'wallets' else 'org_wallets' end as table, count(*) as count, sum(cents)::bigint as cents
       from (select source, wallet_id, sum(cents) as cents from replay.drift group by 1, 2 having sum(cents) <> 0) d group by 1 order by 1`,
    );
    expect(
      plan.hazards
        .filter(({ hazard }) => hazard === 'balance_differs')
        .map(({ table, count, cents }) => ({ table, count, cents }))
        .toSorted((a, b) => (a.table < b.table ? -1 : 1)),
    ).toEqual(drift.rows);
  });

  it('measures the space of a row on what is booked, where something is', async () => {
    await database.pool.query('analyze payments.events');
    const { needs } = await planBackfill(database.pool);
    expect(needs.spaceBasis).toMatch(
      /^\d+ bytes a row with its indexes, as measured on the events and entries that are here$/,
    );
    const perRow = Number(/^\d+/.exec(needs.spaceBasis)?.[0]);
    expect(perRow).toBeGreaterThan(1_500);
    expect(perRow).toBeLessThan(4_000);
  });
});

describe('what is at odds', () => {
  const { keep, unfilled } = legacyDatabases();
  const uncaptured = () => keep(createLegacyTestDatabase(undefined, { isCaptured: false }));

  it('names wallets and rows of every kind by count, amount and id, those that must be put right first', async () => {
    const database = await uncaptured();
    const { pool } = database;
    await pool.query(`
      alter table wallets drop constraint wallets_user_unique, drop constraint wallets_user_id_unique,
        alter user_id drop not null, alter balance_credits drop not null;
      alter table wallet_transactions drop constraint wallet_transactions_wallet_id_fkey, drop constraint wallet_txn_type_chk,
        alter created_at drop not null, alter credits_delta drop not null, alter wallet_id drop not null`);
    const ada = await givenWallet(pool, { balance: 700 });
    const ben = await givenWallet(pool, { balance: 0 });
    const org = await givenWallet(pool, { kind: 'organization', balance: 0 });
    const row = async (column: string, value: unknown, extra = '') => {
      const id = randomUUID();
      await pool.query(
        `insert into wallet_transactions (id, wallet_id, type, credits_delta) values ($1, $2, 'promo', 10)`,
        [id, ben.id],
      );
      await pool.query(`update wallet_transactions set ${column} = $2 ${extra} where id = $1`, [id, value]);
      return id;
    };
    const lost = await row('wallet_id', randomUUID());
    const timeless = await row('created_at', null);
    const future = await row('created_at', '2150-01-01');
    const infinite = await row('created_at', 'infinity');
    const gift = await row('type', 'gift');
    const empty = await row('credits_delta', null);
    const keyed = await row('idempotency_key', 'k'.repeat(501));
    const referring = await row('reference_id', 'r'.repeat(501));
    const huge = await givenRow(pool, org, { type: 'adjustment', delta: 5 });
    await pool.query(
      `update org_wallet_transactions set metadata = jsonb_build_object('note', repeat('x', 1048577)) where id = $1`,
      [huge.id],
    );
    await pool.query(`update wallets set balance_credits = null where id = $1`, [ben.id]);
    const twin = randomUUID();
    await pool.query(
      `insert into wallets (id, user_id, balance_credits) select $1, user_id, 0 from wallets where id = $2`,
      [twin, ada.id],
    );
    const nobody = randomUUID();
    await pool.query(`insert into wallets (id, user_id, balance_credits) values ($1, null, 0)`, [nobody]);

    const plan = await planBackfill(pool);
    const rows = [
      ['row_without_wallet', lost],
      ['row_without_time', timeless],
      ['row_in_the_future', future],
      ['row_at_infinity', infinite],
      ['unexplained', gift],
      ['row_without_amount', empty],
      ['key_too_long', keyed],
      ['reference_too_long', referring],
    ] as const;
    for (const [hazard, id] of rows) {
      expect(hazardOf(plan, hazard, 'wallet_transactions')).toMatchObject({
        count: 1n,
        cents: id === empty ? 0n : 10n,
        examples: [id],
        blocks: false,
      });
    }
    expect(hazardOf(plan, 'metadata_over_1_mb', 'org_wallet_transactions')).toMatchObject({
      count: 1n,
      examples: [huge.id],
    });
    expect(hazardOf(plan, 'balance_differs', 'wallets')).toMatchObject({
      count: 1n,
      cents: 700n,
      examples: [`${ada.id} holds 700, its rows come to 0`],
      blocks: false,
    });
    expect(hazardOf(plan, 'wallet_without_balance', 'wallets')).toMatchObject({
      count: 1n,
      examples: [ben.id],
      blocks: true,
    });
    expect(hazardOf(plan, 'wallet_without_owner', 'wallets')).toMatchObject({
      count: 1n,
      examples: [nobody],
      blocks: true,
    });
    expect(hazardOf(plan, 'owner_of_several_wallets', 'wallets')).toMatchObject({
      count: 2n,
      examples: [`${ada.id} of ${ada.ownerId}`, `${twin} of ${ada.ownerId}`],
      blocks: true,
    });
    expect(plan.tables.find(({ table }) => table === 'public.wallet_transactions')).toMatchObject({
      rows: 8n,
      withoutTime: 1n,
      inTheFuture: 2n,
      lastAt: 'infinity',
    });
    expect(plan.holds).toBe(false);
    const run = await planOf(database);
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    expect(run.stdout).toMatch(/^ {2}FIRST wallet_without_owner: 1 in wallets/m);
    expect(run.stdout).toMatch(/\nWhat is marked FIRST must be put right first\. Nothing was changed\.\n$/);
  });

  it('does not name the causes where there are none: one flow of each kind that books as it is', async () => {
    const database = await unfilled();
    const { pool } = database;
    const wallet = await givenWallet(pool);
    const invoice = await givenInvoice(pool, wallet, 1_000);
    await givenRow(pool, wallet, { type: 'purchase', delta: 1_000, usdCents: 1_000, invoice });
    await givenRow(pool, wallet, { type: 'spend', delta: -300 });
    await givenRow(pool, wallet, { type: 'refund', delta: -200, invoice });
    await setBalance(pool, wallet, 500);
    const plan = await planBackfill(pool);
    expect(plan).toMatchObject({ holds: true, hazards: [], interferences: [] });
  });

  it.each([
    ['integer', '-2147483648', true],
    ['bigint', '-9223372036854775808', false],
  ])('counts a row of the least amount that an %s takes', async (type, cents, holds) => {
    const { pool } = await unfilled();
    await pool.query(`alter table wallet_transactions alter credits_delta type ${type}`);
    const wallet = await givenWallet(pool);
    await pool.query(`insert into wallet_transactions (wallet_id, type, credits_delta) values ($1, 'spend', $2)`, [
      wallet.id,
      cents,
    ]);
    expect(await planBackfill(pool)).toMatchObject({ holds });
  });

  it('says of columns of 64 bits where sums pass them, and of 32 where a mirrored balance would', async () => {
    const { pool } = await unfilled();
    await pool.query('alter table wallet_transactions alter credits_delta type bigint');
    const wallet = await givenWallet(pool);
    await givenRow(pool, wallet, { type: 'promo', delta: 2_147_483_648 });
    const plan = await planBackfill(pool);
    expect(hazardOf(plan, 'rows_beyond_the_column', 'wallets')).toMatchObject({
      count: 1n,
      cents: 2_147_483_648n,
      blocks: false,
    });
    expect(hazardOf(plan, 'sums_beyond_64_bits', 'wallets')).toBeUndefined();
    await pool.query(
      `insert into wallet_transactions (wallet_id, type, credits_delta) values ($1, 'promo', 9223372036854775807)`,
      [wallet.id],
    );
    expect(hazardOf(await planBackfill(pool), 'sums_beyond_64_bits', 'wallets')).toMatchObject({
      count: 1n,
      blocks: true,
    });
    await expect(runBackfill(pool)).rejects.toMatchObject({ code: 'LEDGER_AMOUNT_OVERFLOW' });
  });
});

describe('what is on the tables and around them', () => {
  const { unfilled } = legacyDatabases();

  it('names triggers that may write, rules, tables that inherit, and one of the same name elsewhere, and no trigger that is known or ours', async () => {
    const database = await unfilled();
    await database.pool.query(`
      create function touch() returns trigger language plpgsql as 'begin return new; end';
      create trigger moves_money after insert on wallet_transactions for each row execute function touch();
      create trigger sleeps after insert on wallet_transactions for each row execute function touch();
      alter table wallet_transactions disable trigger sleeps;
      create rule swallow as on insert to org_wallet_transactions do instead nothing;
      create table archived () inherits (wallet_transactions);
      create schema elsewhere; create table elsewhere.wallets (id uuid)`);
    const { interferences, holds } = await planBackfill(database.pool);
    expect(interferences.map(({ kind, on, blocks }) => [kind, on, blocks])).toEqual([
      ['also_in', 'public.wallets', false],
      ['inheritance', 'public.wallet_transactions', true],
      ['rule', 'public.org_wallet_transactions', true],
      ['trigger', 'public.wallet_transactions', false],
    ]);
    expect(interferences.at(-1)?.what).toContain('CREATE TRIGGER moves_money AFTER INSERT');
    expect(holds).toBe(false);
  });

  it('names a transaction that has written, which capture on would wait for, and no other', async () => {
    const database = await unfilled();
    const [writer, reader] = [await database.pool.connect(), await database.pool.connect()];
    try {
      await writer.query('begin');
      const { rows } = await writer.query('select pg_current_xact_id(), pg_backend_pid() as pid');
      await reader.query('begin isolation level repeatable read');
      await reader.query('select 1');
      const { waitsFor } = await planBackfill(database.pool);
      expect(waitsFor.map(({ who }) => who)).toEqual([
        expect.stringMatching(new RegExp(`^pid ${rows[0].pid} of .*it has written$`)),
      ]);
    } finally {
      await writer.query('rollback');
      await reader.query('rollback');
      writer.release();
      reader.release();
    }
    expect((await planBackfill(database.pool)).waitsFor).toEqual([]);
  });

  it('names slots and publications', async () => {
    const database = await unfilled();
    const admin = new pg.Client({ connectionString: database.adminUrl });
    await admin.connect();
    const slot = `plan_${database.name}`;
    try {
      await admin.query('select pg_create_physical_replication_slot($1, true)', [slot]);
      await admin.query('create publication wallets_out for table public.wallets');
      const { replication } = await planBackfill(database.pool);
      expect(replication.publications).toEqual(['wallets_out']);
      expect(replication.slots.find(({ name }) => name === slot)).toMatchObject({ kind: 'physical', active: false });
      expect(replication.slots.find(({ name }) => name === slot)?.behindBytes).toBeTypeOf('bigint');
    } finally {
      await admin.query('select pg_drop_replication_slot($1)', [slot]);
      await admin.end();
    }
  });
});

describe('a database of another revision', () => {
  const { keep, unfilled } = legacyDatabases();
  const legacy = new Set(['wallets', 'wallet_transactions', 'org_wallets', 'org_wallet_transactions', 'invoices']);
  const columns = catalogue.tables
    .filter(({ name }) => legacy.has(name))
    .flatMap((table) => table.columns.map((column) => [table.name, column.name] as const));

  it('is refused, whichever of the columns that are known is another one', async () => {
    const { pool } = await unfilled();
    expect(columns.length).toBeGreaterThan(50);
    for (const [table, column] of columns) {
      await withTransaction(pool, async (tx) => {
        await getKnownLegacyTables(tx, []);
        await tx.query(`alter table public.${table} rename column ${column} to something_else`);
        await expect(getKnownLegacyTables(tx, [])).rejects.toMatchObject({
          code: 'LEGACY_REVISION_UNKNOWN',
          message: expect.stringMatching(new RegExp(`public\\.${table}\\.something_else, .* is unknown`)),
        });
        throw new Error('undone');
      }).catch((error: Error) => expect(error.message).toContain('undone'));
    }
  });

  it('is refused in one line that names every fault at once, and accepted where the column is named', async () => {
    const database = await unfilled();
    await database.pool.query(`
      alter table wallets add column bonus_credits integer;
      alter table org_wallets alter status type varchar(20);
      alter table wallet_transactions drop column usd_cents;
      alter table org_wallet_transactions add column tags text[]`);
    const refused = await planOf(database);
    expect(refused).toEqual({ ...failure('LEGACY_REVISION_UNKNOWN'), exitCode: 1 });
    for (const fault of [
      'public.wallets.bonus_credits, integer, is unknown',
      'public.org_wallets.status is character varying(20), expected text',
      'public.wallet_transactions.usd_cents is missing, expected integer or bigint',
      'public.org_wallet_transactions.tags, text[], is unknown',
    ]) {
      expect(refused.stderr).toContain(fault);
    }
    await database.pool.query(`
      alter table org_wallets alter status type text; alter table wallet_transactions add column usd_cents integer`);
    const flags = ['--ignore-column', 'wallets.bonus_credits', '--ignore-column', 'org_wallet_transactions.tags'];
    expect(await planOf(database, ...flags)).toMatchObject({ exitCode: 0, stderr: '' });
    expect((await planOf(database, ...flags.slice(0, 2))).stderr).not.toContain('bonus_credits');
    for (const name of ['bonus_credits', 'purse.bonus', 'wallets.', 'wallets.a.b']) {
      expect(await planOf(database, '--ignore-column', name)).toEqual({
        ...failure('USAGE', 'wallets\\.colour'),
        exitCode: 2,
      });
    }
  });

  it('without a table, without a right, behind row-level security: one clear line each; with empty tables it plans', async () => {
    const database = await unfilled();
    const plan = JSON.parse((await planOf(database, '--json')).stdout);
    expect(plan).toMatchObject({ holds: true, hazards: [], needs: { bytes: 0 } });
    const admin = new pg.Client({ connectionString: database.adminUrl });
    await admin.connect();
    try {
      await admin.query('alter table public.org_wallets owner to current_user');
      expect(await planOf(database)).toEqual(failure('DB_PERMISSION_DENIED', 'public\\.org_wallets'));
      await admin.query('alter table public.org_wallets disable row level security');
      expect(await planOf(database)).toEqual(
        failure('DB_PERMISSION_DENIED', 'liventix may not read public\\.org_wallets.*grant select'),
      );
      await admin.query('grant select on public.org_wallets to liventix');
      const asReader = await planBackfill(database.pool);
      expect(asReader.interferences.map(({ kind, on, blocks }) => [kind, on, blocks])).toEqual([
        ['owner', 'public.org_wallets', true],
      ]);
    } finally {
      await admin.end();
    }
    const without = await keep(createDatabase({ template: EMPTY }));
    expect(await planOf(without)).toEqual(
      failure('LEGACY_TABLE_MISSING', 'wallets, wallet_transactions, .*DATABASE_URL'),
    );
  });
});
