import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { fillPlatform, type PlatformProgress, type PlatformSummary } from '../../src/demo/platform/filling/fill.ts';
import { createPlatform } from '../../src/demo/platform/platform.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';

const ROWS = 20_000;
const PEOPLE = { wallets: 120, orgWallets: 8, transactions: 400 };

/** Of 2,000 rows from seed 1 beside PEOPLE: the same on every server, and tomorrow. */
const HASH_OF_A_SMALL_ONE = '668940d470db82f929062786bb535a66';

describe('a filled legacy platform', () => {
  const databases: TestDatabase[] = [];
  let database: TestDatabase;
  let summary: PlatformSummary;
  let structure: unknown[];
  const progress: PlatformProgress[] = [];

  const peopled = async (people = PEOPLE) => {
    const made = await createDatabase({ template: EMPTY, poolMax: 2 });
    databases.push(made);
    await createPlatform(made.pool);
    await fillLegacyDatabase(made.pool, { ...people, seed: 1 });
    return made;
  };
  const filled = async (size: { rows: number; seed?: number }) => {
    const made = await peopled();
    await fillPlatform(made.pool, size);
    return made;
  };
  const count = async (from: string) => {
    const { rows } = await database.pool.query<{ n: number }>(`select count(*)::integer as n from ${from}`);
    return rows[0]?.n ?? -1;
  };
  const share = async (sql: string) => {
    const { rows } = await database.pool.query<{ share: number }>(`select (${sql})::float8 as share`);
    return rows[0]?.share ?? -1;
  };

  beforeAll(async () => {
    database = await peopled();
    structure = await structureOf(database);
    summary = await fillPlatform(database.pool, { rows: ROWS, onProgress: (report) => progress.push(report) });
  });
  afterAll(() => Promise.all(databases.map((made) => made.drop())));

  it('leaves no table empty', async () => {
    const tables = await tablesOf(database);
    expect(tables.length).toBeGreaterThan(100);
    const counted = await Promise.all(tables.map(async (table) => [table, await count(table)]));
    expect(counted.filter(([, rows]) => rows === 0)).toEqual([]);
  });

  it('has as many rows as were asked for, and says of each table how many', async () => {
    expect(summary.total).toBeGreaterThan(ROWS * 0.99);
    expect(summary.total).toBeLessThan(ROWS * 1.01);
    const before = { organizations: PEOPLE.orgWallets, org_memberships: PEOPLE.orgWallets } as Record<string, number>;
    const counted = await Promise.all(
      Object.keys(summary.rows).map(async (table) => [table, (await count(table)) - (before[table] ?? 0)]),
    );
    expect(Object.fromEntries(counted)).toEqual(summary.rows);
    const written = progress.filter(({ step }) => step === 'write');
    expect(written.at(-1)).toMatchObject({ done: summary.total, total: summary.total });
    expect(progress.at(-1)).toMatchObject({ step: 'index', done: progress.at(-1)?.total });
  });

  it('keeps every foreign key, whatever the server believes of it', async () => {
    const { rows: keys } = await database.pool.query<{ name: string; broken_sql: string }>(FOREIGN_KEYS);
    expect(keys).toHaveLength(190);
    const broken = [];
    for (const { name, broken_sql } of keys) if ((await count(broken_sql)) > 0) broken.push(name);
    expect(broken).toEqual([]);
  });

  it('leaves triggers, keys, indexes and checks as they were, all of them on', async () => {
    expect(await structureOf(database)).toEqual(structure);
    expect(await count(`pg_trigger where tgenabled <> 'O'`)).toBe(0);
    expect(await count('pg_constraint where not convalidated')).toBe(0);
  });

  it('gives the same rows for the same seed, on every server and at any time, and others for another', async () => {
    const [first, again, other] = [
      await filled({ rows: 2_000 }),
      await filled({ rows: 2_000, seed: 1 }),
      await filled({ rows: 2_000, seed: 2 }),
    ];
    expect(await contentHash(first)).toBe(HASH_OF_A_SMALL_ONE);
    expect(await contentHash(again)).toBe(HASH_OF_A_SMALL_ONE);
    expect(await contentHash(other)).not.toBe(HASH_OF_A_SMALL_ONE);
  });

  it('lets few have much: events of impressions and orders, organizations of events, users of follows', async () => {
    const ofTop = (part: number, table: string, column: string, among: string) =>
      share(`(with counted as (select count(*) as n from ${table} group by ${column} order by 1 desc
                limit ceil((select count(*) from ${among}) * ${part}))
              select sum(n) / (select count(*) from ${table}) from counted)`);
    expect(await ofTop(0.01, 'event_impressions', 'event_id', 'events')).toBeGreaterThan(0.2);
    expect(await ofTop(0.05, 'orders', 'event_id', 'events')).toBeGreaterThan(0.3);
    expect(await ofTop(0.05, 'event_comments', 'post_id', 'event_posts')).toBeGreaterThan(0.3);
    expect(await ofTop(0.15, 'events', 'owner_context_id', 'org_wallets')).toBeGreaterThan(0.3);
    expect(await ofTop(0.05, 'follows', 'follower_user_id', 'user_profiles')).toBeGreaterThan(0.2);
  });

  it('has most rows where visitors leave them', async () => {
    const traffic = [
      'event_impressions',
      'event_impressions_p',
      'ticket_analytics',
      'ticket_analytics_p',
      'post_impressions',
    ];
    traffic.push('post_views', 'ad_impressions', 'analytics_events', 'user_event_interactions', 'notifications');
    const rows = traffic.reduce((sum, table) => sum + (summary.rows[table] ?? 0), 0);
    expect(rows).toBeGreaterThan(ROWS / 2);
  });

  it.each([
    [
      'a user with different roles in several organizations',
      `(select user_id from org_memberships group by user_id having count(distinct role) > 1) u`,
    ],
    [
      'an organization with members of every role',
      `(select org_id from org_memberships group by org_id having count(distinct role) = 4) o`,
    ],
    ['an event of an individual', `events where owner_context_type = 'individual' and owner_context_id = created_by`],
    [
      'a user with tickets of two organizations',
      `(select owner_user_id from tickets t join events e on e.id = t.event_id group by 1 having count(distinct owner_context_id) > 1) u`,
    ],
    ['a sponsor with several members', `(select sponsor_id from sponsor_members group by 1 having count(*) > 1) s`],
    [
      'a user who is a member of two sponsors',
      `(select user_id from sponsor_members group by 1 having count(distinct sponsor_id) > 1) u`,
    ],
    [
      'a conversation between two organizations',
      `(select conversation_id from conversation_participants where participant_type = 'organization'
        group by 1 having count(distinct participant_org_id) = 2) c`,
    ],
    [
      'a sponsor who sponsors events of two organizations',
      `(select sponsor_id from sponsorship_orders o join events e on e.id = o.event_id group by 1 having count(distinct owner_context_id) > 1) s`,
    ],
    [
      'a campaign that an organization was charged for',
      `campaigns c join org_wallet_transactions t on t.reference_id = c.id`,
    ],
    ['a partition of a month', `event_impressions_p_202501`],
    ['a partition for what no month holds', `event_impressions_default`],
    // Oddities.
    ['a void ticket', `tickets where status = 'void'`],
    ['an archived campaign', `campaigns where status = 'archived'`],
    ['a canceled order', `orders where status = 'canceled'`],
    [
      'an order charged below its total',
      `checkout_sessions where (pricing_snapshot ->> 'charged_cents')::int < (pricing_snapshot ->> 'total_cents')::int`,
    ],
    [
      'a paid sponsorship order without an escrow state',
      `sponsorship_orders where status = 'live' and escrow_state is null`,
    ],
    [
      'a sponsorship order of every escrow state',
      `(select from sponsorship_orders having count(distinct escrow_state) = 5) o`,
    ],
    [
      'a ticket of a refunded order that nobody refunded',
      `tickets t join orders o on o.id = t.order_id where o.status = 'refunded' and t.status <> 'refunded'`,
    ],
    [
      'a tier whose sold counter drifted',
      `ticket_tiers r where sold_quantity <> (select count(*) from tickets t where t.tier_id = r.id)`,
    ],
    ['an event without a description', 'events where description is null'],
    ['a visitor whom nobody knows', 'event_impressions where user_id is null'],
  ])('has %s', async (_, from) => {
    expect(await count(from)).toBeGreaterThan(0);
  });

  it.each([
    [
      'ticket of another event than its order or tier',
      `tickets t join orders o on o.id = t.order_id join ticket_tiers r on r.id = t.tier_id
      where t.event_id <> o.event_id or r.event_id <> o.event_id`,
    ],
    [
      'item of a tier of another event',
      `order_items i join orders o on o.id = i.order_id join ticket_tiers r on r.id = i.tier_id where r.event_id <> o.event_id`,
    ],
    ['order before its event', `orders o join events e on e.id = o.event_id where o.created_at < e.created_at`],
    [
      'order whose total is not the sum of its items and fees',
      `orders o where total_cents <> fees_cents +
      (select sum(quantity * unit_price_cents) from order_items i where i.order_id = o.id)`,
    ],
    [
      'order that counts its tickets wrongly',
      `orders o where tickets_issued_count <> (select count(*) from tickets t where t.order_id = o.id)`,
    ],
    [
      'pending order with tickets',
      `tickets t join orders o on o.id = t.order_id where o.status in ('pending', 'canceled')`,
    ],
    [
      'event of an organization created by somebody without a say there',
      `events e where owner_context_type = 'organization' and not exists
      (select from org_memberships m where m.org_id = e.owner_context_id and m.user_id = e.created_by and m.role <> 'viewer')`,
    ],
    [
      'campaign by somebody outside its organization',
      `campaigns c where not exists (select from org_memberships m where m.org_id = c.org_id and m.user_id = c.created_by)`,
    ],
    [
      'message by somebody outside the conversation',
      `direct_messages d where not exists (select from conversation_participants p
      where p.conversation_id = d.conversation_id and p.participant_type = d.sender_type and p.participant_user_id = d.sender_user_id)`,
    ],
    [
      'click of another campaign than what was shown',
      `ad_clicks c join ad_impressions i on i.id = c.impression_id where c.campaign_id <> i.campaign_id`,
    ],
    [
      'sponsorship order of a package of another event',
      `sponsorship_orders o join sponsorship_packages p on p.id = o.package_id where p.event_id <> o.event_id`,
    ],
    [
      'proof by somebody outside the sponsor',
      `deliverable_proofs f join deliverables d on d.id = f.deliverable_id where not exists
      (select from sponsor_members m where m.sponsor_id = d.sponsor_id and m.user_id = f.submitted_by)`,
    ],
    [
      'copied impression that is not in the plain table',
      `(select * from event_impressions_p except select * from event_impressions) i`,
    ],
    [
      'copied ticket view that is not in the plain table',
      `(select * from ticket_analytics_p except select * from ticket_analytics) a`,
    ],
  ])('has no %s', async (_, from) => {
    expect(await count(from)).toBe(0);
  });

  it('keeps most counters true: one in some thirty drifted', async () => {
    const drifted = await count(
      `ticket_tiers r where sold_quantity <> (select count(*) from tickets t where t.tier_id = r.id)`,
    );
    expect(drifted).toBeLessThan((await count('ticket_tiers')) / 10);
    const wrong =
      await count(`event_posts p where like_count <> (select count(*) from event_reactions r where r.post_id = p.id and kind = 'like')
      or comment_count <> (select count(*) from event_comments c where c.post_id = p.id)`);
    expect(wrong).toBeLessThan((await count('event_posts')) / 10);
  });

  it('ends at the next batch when told to stop, and leaves nothing half done', async () => {
    const stopped = await peopled();
    const before = await structureOf(stopped);
    const stop = new AbortController();
    const filling = fillPlatform(stopped.pool, {
      rows: ROWS,
      stop: stop.signal,
      onProgress: ({ done }) => {
        if (done > ROWS / 3) stop.abort('SIGINT');
      },
    });
    await expect(filling).rejects.toMatchObject({ code: 'STOPPED' });
    expect(await structureOf(stopped)).toEqual(before);
    const { rows } = await stopped.pool.query<{ n: number }>(
      `select ((select count(*) from organizations) + (select count(*) from events))::integer as n`,
    );
    expect(rows).toEqual([{ n: PEOPLE.orgWallets }]);
    await expect(fillPlatform(stopped.pool, { rows: 2_000 })).resolves.toMatchObject({
      rows: { circuit_breaker_state: 3 },
    });
  });

  it('fills no database twice', async () => {
    await expect(fillPlatform(database.pool)).rejects.toMatchObject({ code: 'DEMO_DATABASE_NOT_OURS' });
  });

  it.each([{ rows: 1 }, { rows: 2_000.5 }, { rows: 1e12 }, { seed: 0.5 }])('refuses %o', async (size) => {
    await expect(fillPlatform(database.pool, size)).rejects.toMatchObject({ code: 'USAGE' });
  });

  it('refuses a database with too few people to play the parts', async () => {
    const lonely = await peopled({ wallets: 3, orgWallets: 1, transactions: 3 });
    await expect(fillPlatform(lonely.pool)).rejects.toMatchObject({ code: 'USAGE' });
  });
});

// The older filling drops the key of invoices, on which this foreign key stands.
/** Each foreign key's rows that refer to nothing. */
const FOREIGN_KEYS = `
  select c.conname as name, format('%s child where %s and not exists (select from %s parent where %s)', c.conrelid::regclass,
    string_agg(format('child.%I is not null', child.attname), ' and '), c.confrelid::regclass,
    string_agg(format('parent.%I = child.%I', parent.attname, child.attname), ' and ')) as broken_sql
  from pg_constraint c cross join lateral unnest(c.conkey, c.confkey) as k (child, parent)
    join pg_attribute child on child.attrelid = c.conrelid and child.attnum = k.child
    join pg_attribute parent on parent.attrelid = c.confrelid and parent.attnum = k.parent
  where c.contype = 'f' and c.conparentid = 0 and c.connamespace = 'public'::regnamespace
  group by c.oid, c.conname, c.conrelid, c.confrelid`;

async function tablesOf(database: TestDatabase): Promise<string[]> {
  const { rows } = await database.pool.query<{ name: string }>(
    `select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
     order by relname collate "C"`,
  );
  return rows.map(({ name }) => name);
}

async function structureOf(database: TestDatabase): Promise<unknown[]> {
  const { rows } = await database.pool.query(
    `select conrelid::regclass::text as of, conname as name, pg_get_constraintdef(oid) as definition from pg_constraint
       where connamespace = 'public'::regnamespace
     union all select tablename, indexname, indexdef from pg_indexes where schemaname = 'public'
     union all select tgrelid::regclass::text, tgname, tgenabled::text || ' ' || pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
     order by 1, 2, 3`,
  );
  return rows;
}

async function contentHash(database: TestDatabase): Promise<string> {
  const hash = createHash('md5');
  for (const table of await tablesOf(database)) {
    const { rows } = await database.pool.query<{ hash: string }>(
      `select md5(string_agg(t::text, '|' order by t::text collate "C")) as hash from public.${table} t`,
    );
    hash.update(`${table} ${rows[0]?.hash}`);
  }
  return hash.digest('hex');
}
