import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool, Tx } from '../../src/db/pool.ts';
import { become, callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { attempt, Refusal } from '../support/tenancy/attacks.ts';
import { secretsOf } from '../support/tenancy/calls.ts';
import { FACTS } from '../support/tenancy/facts.ts';
import { findPeople, type People, type Person, tablesOf } from '../support/tenancy/people.ts';
import { isolatedPlatform } from '../support/tenancy/platform.ts';
import { asPerson, type Legacy, legacyTables, newName, oldName } from '../support/tenancy/rows.ts';

let database: TestDatabase;
let pool: Pool;
let tx: Tx;
let people: People;
let tables: readonly Legacy[];
let secrets: ReadonlySet<string>;

beforeAll(async () => {
  database = await createDatabase({ template: await isolatedPlatform(), poolMax: 1 });
  await database.pool.query('refresh materialized view public.campaign_analytics_daily');
  await database.pool.query('refresh materialized view public.creative_analytics_daily');
  pool = callersPool(database);
  people = await findPeople(pool);
  tx = await pool.connect();
  tables = await legacyTables(tx);
  secrets = await secretsOf(tx, people.organizationB);
});
afterAll(async () => {
  tx.release();
  await pool.end();
  await database.drop();
});

const codeOf = async (person: Person, statement: string) => {
  await tx.query('begin');
  try {
    const outcome = await attempt(tx, person, statement, async () => 'done');
    return outcome instanceof Refusal ? outcome.code : outcome;
  } finally {
    await tx.query('rollback');
  }
};

const known = (text: string) => [...secrets].filter((secret) => text.includes(secret));

describe('what is asked of a row', () => {
  it('is asked after the policies, however cheap the question and whoever hears the answer', async () => {
    const heard: string[] = [];
    const seen = new Set<string>();
    const listen = ({ message = '' }: { message?: string | undefined }) => void heard.push(message);
    tx.on('notice', listen);
    const asked = [
      ...tables.flatMap((table) => [oldName(table), newName(table)]),
      'public.campaign_analytics_daily_secured',
      'public.creative_analytics_daily_secured',
    ];
    await asPerson(tx, people.inA, async () => {
      await tx.query(
        `create function pg_temp.tells(p_row text) returns boolean language plpgsql cost 0.0001 as $$ begin raise notice '%', p_row; return true; end $$`,
      );
      for (const name of asked) {
        const { rows } = await tx.query<{ row: string }>(`select t::text as row from ${name} t`);
        for (const { row } of rows) seen.add(row);
        await tx.query(`select count(*) from ${name} t where pg_temp.tells(t::text)`);
      }
    });
    tx.off('notice', listen);
    expect(heard.length).toBeGreaterThan(300);
    expect(heard.filter((row) => !seen.has(row))).toEqual([]);
  });

  it.each([
    ['a cast', (column: string) => `(${column}::text || 'x')::integer = 1`],
    ['a division', (column: string) => `1 / (case when ${column} is null then 1 else 0 end) = 1`],
    ['a date', (column: string) => `(${column}::text)::date > now()`],
  ])('tells of no row of others by the error of %s', async (_, question) => {
    for (const [table, column] of [
      ['orders', 'contact_email'],
      ['campaigns', 'name'],
      ['tickets', 'qr_code'],
      ['org_wallets', 'id'],
      ['events', 'link_token'],
      ['campaign_analytics_daily_secured', 'campaign_id'],
    ] as const) {
      // Nobody has rows of his own there: a question that was asked at all was asked of another's.
      const stranger: Person = {
        name: 'a stranger',
        role: 'authenticated',
        userId: '00000000-0000-4000-8000-000000000001',
      };
      const own = table === 'events' ? `t.visibility <> 'public' and ` : '';
      await tx.query('begin');
      const outcome = await attempt(
        tx,
        stranger,
        `select from public.${table} t where ${own}${question(`t.${column}`)}`,
        async (n) => n,
      );
      await tx.query('rollback');
      expect(outcome instanceof Refusal ? known(outcome.text) : outcome).toEqual(outcome instanceof Refusal ? [] : 0);
    }
  });
});

describe('what no policy is asked about', () => {
  it('is not a reader’s: TRUNCATE, TRIGGER, REFERENCES, MAINTAIN, setval, by no name', async () => {
    const { rows } = await tx.query<{ object: string; role: string; privilege: string }>(
      `select format('%s.%s', n.nspname, c.relname) as object, r.role, g.privilege_type as privilege
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
       cross join unnest(array['anon', 'authenticated', 'app_read']) r (role)
       cross join aclexplode(c.relacl) g
       where (n.nspname, c.relname) in (select x.schema, x.name from jsonb_to_recordset($1) x (schema text, name text))
         and (g.grantee = 0 or pg_has_role(r.role, g.grantee, 'usage'))
         and g.privilege_type in ('TRUNCATE', 'TRIGGER', 'REFERENCES', 'MAINTAIN')`,
      [
        JSON.stringify(
          tables.flatMap(({ name, schema }) => [
            { schema, name },
            { schema: 'public', name },
          ]),
        ),
      ],
    );
    expect(rows).toEqual([]);
    for (const table of tables) expect(await codeOf(people.nobody, `truncate ${newName(table)}`)).toBe('42501');
    expect(await codeOf(people.nobody, `select setval('sponsorship.fit_recalc_queue_id_seq', 1)`)).toBe('42501');
  });

  it('is not COPY into a table, nor its statistics, nor other schemas', async () => {
    // Not with row security, and not of a view.
    expect(await codeOf(people.inA, 'copy ticketing.checkout_sessions from stdin')).toBe('0A000');
    expect(await codeOf(people.inA, 'copy public.checkout_sessions from stdin')).not.toBe('done');
    expect(await codeOf(people.inA, `create table public.mine ()`)).toBe('42501');
    expect(await codeOf(people.inA, `select from restructure.steps`)).toBe('42501');
    await asPerson(tx, people.inA, async () => {
      const { rows } = await tx.query(
        `select schemaname, tablename from pg_stats s
         where (schemaname, tablename) in (select x.schema, x.name from jsonb_to_recordset($1) x (schema text, name text))`,
        [JSON.stringify(tables.map(({ schema, name }) => ({ schema, name })))],
      );
      expect(rows).toEqual([]);
    });
  });

  it('shows nothing by the name of a partition that is made later', async () => {
    await tx.query('begin');
    try {
      await tx.query('select public.create_next_month_partitions()');
      const { rows } = await tx.query<{ partition: string }>(
        `select i.inhrelid::regclass::text as partition from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'analytics.event_impressions_p'::regclass and not exists (select from pg_policy p where p.polrelid = c.oid)`,
      );
      expect(rows).toHaveLength(1);
      const partition = rows[0]?.partition ?? '';
      await tx.query(
        `insert into analytics.event_impressions_p (event_id, created_at)
         select e.id, date_trunc('month', now() at time zone 'UTC') + interval '1 month 1 day'
         from public.events e where e.owner_context_id = $1 limit 1`,
        [people.organizationA],
      );
      const seen = async (name: string) => {
        await tx.query('savepoint looking');
        const outcome = await attempt(tx, people.inA, `select from ${name} where created_at > now()`, async (n) => n);
        return outcome instanceof Refusal ? outcome.code : outcome;
      };
      expect(await seen(partition)).toSatisfy((found) => found === 0 || found === '42501');
      expect(await seen('public.event_impressions_p')).toBe(1);
      expect((await tx.query(`select from ${partition}`)).rowCount).toBe(1);
    } finally {
      await tx.query('rollback');
    }
  });
});

describe('what befell moves like this one', () => {
  it('does not let a user set the balance of his wallet, by any name or way', async () => {
    const { rows } = await tx.query<{ id: string; user: string; balance: number }>(
      'select id, user_id as "user", balance_credits as balance from public.wallets order by id limit 1',
    );
    const [wallet] = rows;
    const owner: Person = { name: 'an owner', role: 'authenticated', userId: wallet?.user ?? '' };
    for (const on of ['public.wallets', 'payments.wallets']) {
      for (const statement of [
        `update ${on} set balance_credits = 1000000`,
        `update ${on} set balance_credits = 1000000 where user_id = '${wallet?.user}' returning balance_credits`,
        `update ${on} set low_balance_threshold = 5, balance_credits = balance_credits + 1`,
        `update ${on} set user_id = '${people.attendee.userId}'`,
        `insert into ${on} (user_id, balance_credits) values ('${wallet?.user}', 1000000)`,
        `insert into ${on} (id, user_id, balance_credits) values ('${wallet?.id}', '${wallet?.user}', 1000000)
         on conflict (user_id) do update set balance_credits = excluded.balance_credits`,
        `insert into ${on} (id, user_id, balance_credits) values ('${wallet?.id}', '${wallet?.user}', 1000000)
         on conflict (id) do update set low_balance_threshold = excluded.balance_credits`,
      ]) {
        expect(await codeOf(owner, statement)).toBe('42501');
      }
      // What is his to set, he sets.
      expect(await codeOf(owner, `update ${on} set low_balance_threshold = 7, auto_reload_enabled = true`)).toBe(
        'done',
      );
    }
    expect(
      await codeOf(
        owner,
        `insert into public.wallet_transactions (wallet_id, type, credits_delta) values ('${wallet?.id}', 'promo', 100)`,
      ),
    ).toBe('42501');
  });

  it('has no policy that comes back to itself, whatever is asked, as any caller', async () => {
    for (const person of [people.nobody, people.inA, people.sponsor]) {
      for (const table of tables) {
        expect(await codeOf(person, `explain select * from ${newName(table)}`)).toBe('done');
        expect(await codeOf(person, `explain delete from ${newName(table)}`)).toBe('done');
      }
    }
  });

  it('lets nobody join a conversation, or a sponsor, that is not his', async () => {
    const { rows } = await tx.query<{ conversation: string; sponsor: string }>(
      `select (select id from direct_conversations c where created_by <> $1 limit 1) as conversation, (select id from sponsors limit 1) as sponsor`,
      [people.attendee.userId],
    );
    const [of] = rows;
    const me = people.attendee.userId;
    for (const schema of ['public', 'messaging']) {
      expect(
        await codeOf(
          people.attendee,
          `insert into ${schema}.conversation_participants (conversation_id, participant_type, participant_user_id, participant_org_id)
           values ('${of?.conversation}', 'user', '${me}', '${me}')`,
        ),
      ).toBe('42501');
    }
    for (const schema of ['public', 'sponsorship']) {
      expect(
        await codeOf(
          people.attendee,
          `insert into ${schema}.sponsor_members (sponsor_id, user_id, role) values ('${of?.sponsor}', '${me}', 'owner')`,
        ),
      ).toBe('42501');
    }
  });

  it('lets nobody hold an event, or follow, in the name of another organization', async () => {
    const event = (schema: string, organization: string) =>
      `insert into ${schema}.events (owner_context_type, owner_context_id, created_by, title, start_at, end_at)
       values ('organization', '${organization}', '${people.inA.userId}', 'x', now(), now() + interval '1 hour')`;
    const follow = `insert into public.follows (follower_user_id, follower_type, follower_org_id, target_type, target_id)
      values ('${people.inA.userId}', 'organization', '${people.organizationB}', 'user', '${people.attendee.userId}')`;
    for (const schema of ['public', 'events']) {
      expect(await codeOf(people.inA, event(schema, people.organizationB))).toBe('42501');
      expect(await codeOf(people.inA, event(schema, people.organizationA))).toBe('done');
      expect(
        await codeOf(
          people.inA,
          `update ${schema}.events set owner_context_id = '${people.organizationB}' where owner_context_id = '${people.organizationA}'`,
        ),
      ).toBe('42501');
    }
    expect(await codeOf(people.inA, follow)).toBe('42501');
    expect(await codeOf(people.inA, follow.replace(people.organizationB, people.organizationA))).toBe('done');
  });
});

describe('what is written of one’s own', () => {
  /** What came of a statement within a transaction that is undone: `done`, or the code of the refusal. */
  const tried = async (person: Person, statement: string, first = '') => {
    await tx.query(`begin; ${first}`);
    try {
      const outcome = await attempt(tx, person, statement, async (rows) => (rows > 0 ? 'done' : 'nothing'));
      return outcome instanceof Refusal ? outcome.code : outcome;
    } finally {
      await tx.query('rollback');
    }
  };
  const one = async (sql: string, ...values: unknown[]) => {
    const { rows } = await tx.query<{ found: string }>(sql, values);
    const [row] = rows;
    if (row === undefined) throw new Error(`nothing such: ${sql}`);
    return row.found;
  };
  const POST = '00000000-0000-4000-8000-0000000000a1';
  const ASSET = '00000000-0000-4000-8000-0000000000a2';
  const asset = (of: Person) =>
    `insert into media_assets (id, owner_user_id, storage_path, media_type) values ('${ASSET}', '${of.userId}', 'x', 'image')`;

  it('shows no picture of another: a post has its author’s pictures alone, and keeps those that it has', async () => {
    const event = await one('select id as found from events where created_by = $1 limit 1', people.host.userId);
    const post = `insert into event_posts (id, event_id, author_user_id, text) values ('${POST}', '${event}', '${people.host.userId}', 'x')`;
    const linking = (on: string) => `insert into ${on} (post_id, media_id) values ('${POST}', '${ASSET}')`;
    for (const on of ['public.post_media', 'events.post_media']) {
      expect(await tried(people.host, linking(on), `${post}; ${asset(people.inA)}`)).toBe('42501');
      const other = `${post}; ${asset(people.inA)}; insert into post_media (post_id, media_id) select '${POST}', id from media_assets where id <> '${ASSET}' limit 1`;
      expect(await tried(people.host, `update ${on} set media_id = '${ASSET}' where post_id = '${POST}'`, other)).toBe(
        '42501',
      );
      expect(await tried(people.host, `update ${on} set position = 7 where post_id = '${POST}'`, other)).toBe('done');
      expect(await tried(people.host, linking(on), `${post}; ${asset(people.host)}`)).toBe('done');
    }
  });

  it('likes nothing that one may not see', async () => {
    const post = await one(
      `select p.id as found from event_posts p join events e on e.id = p.event_id
       where e.created_by = $1 and e.owner_context_type = 'individual' and p.deleted_at is null
         and not exists (select from tickets t where t.event_id = e.id and t.owner_user_id = $2) limit 1`,
      people.host.userId,
      people.inA.userId,
    );
    const hide = `update events set visibility = 'private' where id = (select event_id from event_posts where id = '${post}')`;
    const comment = `insert into event_comments (id, post_id, author_user_id, text) values ('${POST}', '${post}', '${people.host.userId}', 'x')`;
    for (const [person, outcome] of [
      [people.inA, '42501'],
      [people.host, 'done'],
    ] as const) {
      const like = `insert into event_reactions (post_id, user_id, kind) values ('${post}', '${person.userId}', 'like')`;
      const none = `${hide}; delete from event_reactions`;
      expect(await tried(person, `${like} returning *`, none)).toBe(outcome);
      expect(
        await tried(
          person,
          `insert into event_comment_reactions (comment_id, user_id, kind) values ('${POST}', '${person.userId}', 'like') returning *`,
          `${hide}; ${comment}`,
        ),
      ).toBe(outcome);
    }
  });

  it('pays for nothing: what was paid, how much, and where it goes is the server’s to say', async () => {
    const order = await one(
      `select o.id as found from sponsorship_orders o join sponsor_members m on m.sponsor_id = o.sponsor_id where m.user_id = $1 limit 1`,
      people.sponsor.userId,
    );
    for (const set of [
      'amount_cents = 1',
      `escrow_state = 'locked'`,
      `payout_status = 'completed'`,
      `organizer_stripe_account_id = 'acct_mine'`,
      'application_fee_cents = 0, notes = null',
    ]) {
      expect(await tried(people.sponsor, `update public.sponsorship_orders set ${set} where id = '${order}'`)).toBe(
        '42501',
      );
    }
    expect(await tried(people.sponsor, `update public.sponsorship_orders set notes = 'x' where id = '${order}'`)).toBe(
      'done',
    );
    const offer = (columns: string, values: string) => `
      insert into public.sponsorship_orders (package_id, sponsor_id, event_id, amount_cents${columns})
      select p.id, m.sponsor_id, p.event_id, 100${values} from sponsorship_packages p, sponsor_members m
      where p.visibility = 'public' and m.user_id = '${people.sponsor.userId}' limit 1`;
    expect(await tried(people.sponsor, offer('', ''))).toBe('done');
    expect(await tried(people.sponsor, offer(', status', `, 'accepted'`))).toBe('42501');
    expect(await tried(people.sponsor, offer(', escrow_state', `, 'locked'`))).toBe('42501');
    const event = await one(`select id as found from events where visibility = 'public' limit 1`);
    const buying = (columns: string, values: string) =>
      `insert into public.orders (user_id, event_id, total_cents${columns}) values ('${people.attendee.userId}', '${event}', 5000${values})`;
    expect(await tried(people.attendee, buying(', status', `, 'pending'`))).toBe('done');
    expect(await tried(people.attendee, buying(', status', `, 'paid'`))).toBe('42501');
    expect(await tried(people.attendee, buying(', paid_at', `, now()`))).toBe('42501');
  });

  it('vouches for nobody, and takes no fee off', async () => {
    const a = people.organizationA;
    for (const statement of [
      `update public.organizations set is_verified = true where id = '${a}'`,
      `update organizations.organizations set verification_status = 'verified' where id = '${a}'`,
      `update public.payout_configurations set platform_fee_percentage = 0 where organization_id = '${a}'`,
      `update public.campaigns set spent_credits = 0 where org_id = '${a}'`,
      `insert into public.campaigns (org_id, created_by, name, total_budget_credits, start_date, spent_credits)
       values ('${a}', '${people.inA.userId}', 'C', 1, now(), -1000)`,
      `update public.sponsor_profiles set verification_status = 'verified', reputation_score = 5`,
    ]) {
      expect(await tried(people.inA, statement)).toBe('42501');
    }
    for (const statement of [
      `update public.organizations set description = 'x', logo_url = 'y' where id = '${a}'`,
      `update public.campaigns set name = 'x' where org_id = '${a}'`,
    ]) {
      expect(await tried(people.inA, statement)).toBe('done');
    }
  });
});

describe('whose rows are tried for', () => {
  it('are an organization’s with rows in every table that can have some, and users’ who have some', async () => {
    const filled = (await tablesOf(tx)).get(people.organizationB) ?? [];
    const ofOrganizations = Object.keys(FACTS).filter((table) => FACTS[table]?.organization !== undefined);
    // Its rows are of users' wallets: its keys leave no other.
    expect(ofOrganizations.filter((table) => !filled.includes(table))).toEqual(['ad_spend_ledger']);
    const attackers = [people.inA, people.attendee, people.host, people.sponsor].map(({ userId }) => `'${userId}'`);
    const without = [];
    for (const [table, { organization, users = [] }] of Object.entries(FACTS)) {
      if (organization !== undefined || users.length === 0) continue;
      const others = users.map((user) => `${user} not in (${attackers.join(', ')})`).join(' or ');
      const { rowCount } = await tx.query(`select from public.${table} t where ${others} limit 1`);
      if (rowCount === 0) without.push(table);
    }
    expect(without).toEqual([]);
  });
});

describe('what it costs', () => {
  it('asks who the caller is once a statement, and looks all that is his up by indexes', async () => {
    await tx.query('begin');
    try {
      await tx.query('set local session_replication_role = replica');
      // Of many organizations, as many as rows: of few, reading all of it would be as quick.
      await tx.query(
        `insert into analytics.event_impressions_p (event_id, organization_id, user_id, created_at)
         select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), '2025-06-10' from generate_series(1, 40000)`,
      );
      await tx.query('analyze analytics.event_impressions_p_202506');
      await become(tx, people.inA);
      for (const name of ['analytics.event_impressions_p_202506', 'public.event_impressions_p_202506']) {
        const { rows } = await tx.query<{ 'QUERY PLAN': string }>(`explain select * from ${name}`);
        const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
        expect(plan).toContain('tenant_organization_id_event_impressions_p_202506');
        expect(plan).not.toContain('Seq Scan');
        // Each of the three questions is one InitPlan.
        expect(plan.match(/^ *InitPlan/gmu)).toHaveLength(3);
        const asked = rows.map((row) => row['QUERY PLAN']).filter((line) => /Filter|Cond/u.test(line));
        expect(asked.join('\n')).not.toMatch(/caller_|auth\.uid|current_setting/u);
      }
    } finally {
      await tx.query('rollback');
    }
  });
});
