import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPool, type Pool } from '../../src/db/pool.ts';
import { createLegacyDatabase, createMachineTables } from '../../src/demo/legacy-database.ts';
import { getLegacyTables } from '../../src/replay/legacy.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const MACHINE_TABLES = [
  'campaigns',
  'event_scanners',
  'events',
  'order_items',
  'orders',
  'proposal_threads',
  'sponsor_members',
  'sponsors',
  'sponsorship_orders',
  'sponsorship_packages',
  'ticket_tiers',
  'tickets',
];

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

it('says where a legacy table lies that is in none of the schemas looked in', async () => {
  // The role liventix creates its tables in the schema of its name.
  await database.pool.query('create table wallets (id int)');
  await expect(getLegacyTables(database.pool)).rejects.toMatchObject({
    code: 'LEGACY_TABLE_MISSING',
    message: expect.stringMatching(/tables wallets, .*Not looked in: liventix\.wallets; alter table … set schema/),
  });
  await database.pool.query('alter table wallets set schema public');
  await expect(getLegacyTables(database.pool)).rejects.toMatchObject({
    message: expect.stringMatching(/^The legacy tables wallet_transactions, (?!.*Not looked in)/),
  });
});

describe('the legacy tables that have a lifecycle', () => {
  const [USER, OTHER_USER, ORG, EVENT, TIER, ORDER, SPONSOR, PACKAGE] = [1, 2, 3, 4, 5, 6, 7, 8].map(
    (n) => `00000000-0000-4000-8000-00000000000${n}`,
  );

  let legacy: TestDatabase;
  /** The superuser's, who may take any role. */
  let admin: Pool;
  beforeAll(async () => {
    legacy = await createDatabase();
    admin = createPool({ databaseUrl: legacy.adminUrl, max: 1 });
    await createLegacyDatabase(legacy.pool);
    await createMachineTables(legacy.pool);
    await legacy.pool.query(`
      insert into auth.users (id) values ('${USER}'), ('${OTHER_USER}');
      insert into organizations (id, name, created_by) values ('${ORG}', 'Hall', '${USER}');
      insert into events (id, owner_context_type, owner_context_id, created_by, title, visibility, start_at, end_at)
        values ('${EVENT}', 'individual', '${ORG}', '${USER}', 'Concert', 'private', '2024-05-01Z', '2024-05-02Z');
      insert into ticket_tiers (id, event_id, name, total_quantity) values ('${TIER}', '${EVENT}', 'Standing', 3);
      insert into orders (id, user_id, event_id) values ('${ORDER}', '${USER}', '${EVENT}');
      insert into sponsors (id, name, created_by) values ('${SPONSOR}', 'Brewery', '${USER}');
      insert into sponsorship_packages (id, event_id, tier, price_cents) values ('${PACKAGE}', '${EVENT}', 'gold', 500);
    `);
  });
  afterAll(async () => {
    await admin.end();
    await legacy.drop();
  });

  /** The rows of a statement that is taken back. */
  const attempt = async (sql: string, before = '', pool = legacy.pool): Promise<Record<string, unknown>[]> => {
    const client = await pool.connect();
    try {
      await client.query(`begin; ${before}`);
      return (await client.query<Record<string, unknown>>(sql)).rows;
    } finally {
      await client.query('rollback');
      client.release();
    }
  };

  const ticket = (status = 'issued') =>
    `insert into tickets (event_id, tier_id, order_id, owner_user_id, status)
     values ('${EVENT}', '${TIER}', '${ORDER}', '${USER}', '${status}') returning serial_no, status`;
  const sponsorshipOrder = (status: string, escrow: string) =>
    `insert into sponsorship_orders (package_id, sponsor_id, event_id, amount_cents, status, escrow_state)
     values ('${PACKAGE}', '${SPONSOR}', '${EVENT}', 500, '${status}', '${escrow}') returning id`;
  const proposal = (status: string) =>
    `insert into proposal_threads (event_id, sponsor_id, created_by, status)
     values ('${EVENT}', '${SPONSOR}', '${USER}', '${status}') returning status`;
  const campaign = (status: string) =>
    `insert into campaigns (org_id, created_by, name, total_budget_credits, start_date, status)
     values ('${ORG}', '${USER}', 'Spring', 100, '2024-04-01Z', '${status}') returning status`;

  it('stand beside the wallet tables, made by the owner, once', async () => {
    const { rows } = await legacy.pool.query<{ name: string; isOwned: boolean; isSecured: boolean }>(
      `select relname as name, relowner = (select oid from pg_roles where rolname = current_user) as "isOwned",
         relrowsecurity as "isSecured"
       from pg_class where oid = any ($1::regclass[]) order by relname`,
      [MACHINE_TABLES.map((name) => `public.${name}`)],
    );
    expect(rows).toEqual(MACHINE_TABLES.map((name) => ({ name, isOwned: true, isSecured: true })));
    await expect(createMachineTables(legacy.pool)).rejects.toMatchObject({ code: 'DB_FAILED' });
  });

  it.each([
    ['pending', 'pending funded locked'],
    ['accepted', ''],
    ['live', ''],
    ['completed', 'locked released'],
    ['refunded', ''],
    ['cancelled', 'pending released refunded'],
  ])('let the status %s of a sponsorship order stand beside the escrow states: %s', async (status, paired) => {
    for (const escrow of ['pending', 'funded', 'locked', 'released', 'refunded']) {
      const inserted = attempt(sponsorshipOrder(status, escrow));
      if (paired.split(' ').includes(escrow)) await expect(inserted, escrow).resolves.toHaveLength(1);
      else {
        await expect(inserted, escrow).rejects.toMatchObject({ constraint: 'sponsorship_orders_state_consistency' });
      }
    }
  });

  it("count a sponsorship order's versions", async () => {
    const rows = await attempt(
      `update sponsorship_orders set status = 'accepted' returning version_number`,
      `${sponsorshipOrder('pending', 'funded')}; update sponsorship_orders set escrow_state = null;`,
    );
    expect(rows).toEqual([{ version_number: 3 }]);
  });

  it('number the tickets of an order and tier one after the other, and count them there', async () => {
    await expect(attempt(ticket(), `${ticket()};`)).resolves.toMatchObject([{ serial_no: 2 }]);
    const counts = await attempt(
      `select sold_quantity, issued_quantity, tickets_issued_count from ticket_tiers, orders`,
      `${ticket()}; ${ticket()}; ${ticket()}; delete from tickets where serial_no = 2;`,
    );
    expect(counts).toEqual([{ sold_quantity: 2, issued_quantity: 0, tickets_issued_count: 2 }]);
  });

  it('refuse a ticket beyond its tier, and keep a tier with tickets as it is', async () => {
    await expect(attempt(ticket(), `${ticket()}; ${ticket()}; ${ticket()};`)).rejects.toThrow(/is sold out/);
    await expect(attempt('update ticket_tiers set price_cents = 1', `${ticket()};`)).rejects.toThrow(/cannot change/);
    await expect(attempt('delete from ticket_tiers', `${ticket()};`)).rejects.toThrow(/cannot be deleted/);
  });

  it.each([
    ['a ticket', 'void', 'cancelled', ticket, { code: '22P02' }],
    ['a campaign', 'archived', 'cancelled', campaign, { code: '22P02' }],
    ['a proposal', 'counter', 'viewed', proposal, { constraint: 'proposal_threads_status_check' }],
  ])('let %s be %s, and not %s', async (_what, known, unknown, insert, refusal) => {
    await expect(attempt(insert(known))).resolves.toMatchObject([{ status: known }]);
    await expect(attempt(insert(unknown))).rejects.toMatchObject(refusal);
  });

  it.each([
    ['show', 'its owner', USER, 1],
    ['do not show', 'anybody else', OTHER_USER, 0],
  ])('%s a private event and what hangs on it to %s', async (_verb, _who, userId, count) => {
    const rows = await attempt(
      `select (select count(*)::int from events) as events, (select count(*)::int from tickets) as tickets,
         (select count(*)::int from proposal_threads) as proposals,
         (select count(*)::int from sponsorship_orders) as sponsorships`,
      `${ticket()}; ${proposal('sent')}; ${sponsorshipOrder('pending', 'funded')}; set local role authenticated;
       set local "request.jwt.claims" = '{"sub": "${userId}", "role": "authenticated"}';`,
      admin,
    );
    expect(rows).toEqual([{ events: count, tickets: count, proposals: count, sponsorships: count }]);
  });
});
