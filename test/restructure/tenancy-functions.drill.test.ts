import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool, Tx } from '../../src/db/pool.ts';
import { LIVENTIX_MAPPING, readMapping } from '../../src/restructure/mapping.ts';
import { install } from '../../src/states/install.ts';
import { MACHINES } from '../../src/states/machines.ts';
import { become, callersPool } from '../support/callers.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { Refusal } from '../support/tenancy/attacks.ts';
import { type Callable, call, callables, callOf, secretsOf, type Target, targetOf } from '../support/tenancy/calls.ts';
import { findPeople, type People, type Person } from '../support/tenancy/people.ts';
import { isolatedPlatform } from '../support/tenancy/platform.ts';

/**
 * Functions that run as their owner and that readers may call, and why: docs/tenancy.md says so too. Whatever joins them has to be looked
 * at.
 */
const OPEN = {
  // Give what the caller is, and of nobody else.
  ofTheCaller: [
    'caller_admin_org_ids',
    'caller_conversation_ids',
    'caller_managed_event_ids',
    'caller_org_ids',
    'caller_org_ids_as',
    'caller_owned_event_comments_by_owner',
    'caller_owned_event_posts_by_author_user_id',
    'caller_owned_event_posts_by_owner',
    'caller_owned_events_by_created_by',
    'caller_owned_media_assets_by_owner_user_id',
    'caller_owned_message_jobs_by_owner',
    'caller_owned_sponsors_by_created_by',
    'caller_owned_ticket_tiers_by_owner',
    'caller_owned_wallets_by_user_id',
    'caller_scanner_event_ids',
    'caller_sponsor_ids',
    'caller_started_conversation_ids',
    'caller_ticket_event_ids',
    'current_org_id',
    'ensure_wallet_exists_for_auth_user',
    'get_current_user_org_role',
    'get_user_connections',
    'is_current_user_org_admin',
    'is_event_individual_owner',
    'is_event_org_editor',
    'is_org_role',
  ],
  // Ask first whether the caller is a member, or has a part in the row.
  askFirst: [
    'create_organization_with_membership',
    'ensure_org_wallet_exists',
    'get_campaign_analytics',
    'get_mutual_connections',
    'rpc_campaign_analytics_daily',
    'rpc_creative_analytics_daily',
    'rpc_creative_analytics_rollup',
    'transition_state',
  ],
  // Give what is public.
  ofThePublic: ['get_active_event_sponsors', 'get_hero_feed', 'get_home_feed'],
  // Whoever has the secret may: a token, a session of a checkout; or takes of what is on sale.
  bySecret: [
    'accept_org_invitation',
    'accept_role_invite',
    'extend_ticket_holds',
    'reserve_tickets_atomic',
    'reserve_tickets_batch',
  ],
  // Of the ledger, with rights of its own.
  ofTheLedger: ['books_of'],
};

/** Who is on sale is on sale to everybody; a session's holds are whose session it is; a wallet is made for whoever asks for his own. */
const MAY_WRITE: ReadonlySet<string> = new Set(['ensure_wallet_exists_for_auth_user', 'extend_ticket_holds']);

let database: TestDatabase;
let pool: Pool;
let tx: Tx;
let people: People;
let target: Target;

beforeAll(async () => {
  database = await createDatabase({ template: await isolatedPlatform(), poolMax: 1 });
  // So that what is closed would have something to tell.
  await database.pool.query('refresh materialized view public.campaign_analytics_daily');
  await database.pool.query('refresh materialized view public.creative_analytics_daily');
  await database.pool.query('refresh materialized view public.mv_event_quality_scores');
  pool = callersPool(database);
  people = await findPeople(pool);
  tx = await pool.connect();
  await tx.query('begin');
  target = await targetOf(tx, people.organizationB, people.inB.userId ?? '');
});
afterAll(async () => {
  await tx.query('rollback');
  tx.release();
  await pool.end();
  await database.drop();
});

/** Of an answer, what nobody else should know, but for what was asked with. */
const told = (
  secrets: ReadonlySet<string>,
  answers: readonly (string | null)[],
  statement: string,
): readonly string[] =>
  [...secrets].filter(
    (secret) => !statement.includes(secret) && answers.some((answer) => answer?.includes(secret) === true),
  );

async function breachesOf(person: Person, functions: readonly Callable[]) {
  const secrets = await secretsOf(tx, people.organizationB, person.userId);
  const breaches: string[] = [];
  for (const each of functions) {
    const statement = callOf(each, target);
    const outcome = await call(tx, person, statement);
    const texts = outcome instanceof Refusal ? [outcome.text] : outcome.answers;
    const wrote = outcome instanceof Refusal || MAY_WRITE.has(each.name) ? [] : outcome.wrote;
    const leaked = told(secrets, texts, statement);
    if (leaked.length > 0 || wrote.length > 0)
      breaches.push(`${statement}: told ${leaked.join(', ')}, wrote ${wrote.join(', ')}`);
  }
  return breaches;
}

it.each(['nobody', 'inA', 'host'] as const)(
  'no function tells of another organization, or writes there: %s',
  async (name) => {
    const functions = await callables(tx, people[name].role);
    expect(functions.length).toBeGreaterThan(90);
    expect(await breachesOf(people[name], functions)).toEqual([]);
  },
);

it('each function that runs as its owner, and that readers may call, has its reason', async () => {
  for (const role of ['anon', 'authenticated']) {
    const open = (await callables(tx, role)).filter(({ isDefiner }) => isDefiner).map(({ name }) => name);
    expect([...new Set(open)].toSorted()).toEqual(Object.values(OPEN).flat().toSorted());
  }
});

it('those that are closed are refused to readers, and not to the service', async () => {
  const closed = (await readMapping(LIVENTIX_MAPPING)).tenancy?.functions.closed ?? [];
  expect(closed.length).toBeGreaterThan(30);
  const { rows } = await tx.query<{ name: string; readers: boolean; service: boolean }>(
    `select proname as name, has_function_privilege('anon', oid, 'execute') or has_function_privilege('authenticated', oid, 'execute') as readers,
       has_function_privilege('service_role', oid, 'execute') as service
     from pg_proc where proname = any ($1) and pronamespace in (select oid from pg_namespace where nspname !~ '^pg_')`,
    [closed],
  );
  expect(new Set(rows.map(({ name }) => name)).size).toBe(closed.length);
  expect(rows.filter(({ readers, service }) => readers || !service)).toEqual([]);
});

describe('who acts for others', () => {
  let login: string;
  beforeAll(async () => {
    login = `${database.name}_login`;
    // No API between: it is what it is without becoming anybody.
    await asSuperuser(database, `create role ${login} login in role authenticated`);
  });
  afterAll(() => asSuperuser(database, `drop role ${login}`));

  /** What a call answers to a role that signs in for itself, with the claims of a member of A; or the code of the refusal. */
  async function asLogin(statement: string): Promise<readonly (string | null)[] | string> {
    await tx.query('savepoint login');
    try {
      await become(tx, { role: 'authenticated', userId: people.inA.userId ?? '' });
      await tx.query(`set local session authorization ${login}`);
      const { rows } = await tx.query<{ answer: string | null }>(statement);
      return rows.map(({ answer }) => answer);
    } catch (error) {
      return (error as { code?: string }).code ?? String(error);
    } finally {
      await tx.query('rollback to savepoint login');
    }
  }

  it('is who keeps the platform; a reader acts for himself, whether he became one or signed in as a member of one', async () => {
    const tier = await tierOfB();
    const forUser = (user: string | undefined) => [
      `select public.reserve_tickets_atomic('${tier}', 1, 's', '${user}')::text as answer`,
      `select public.create_organization_with_membership('Ours', 'ours-x', null, '${user}')::text as answer`,
    ];
    for (const statement of forUser(target.user)) {
      expect(await call(tx, people.service, statement)).not.toBeInstanceOf(Refusal);
      expect(await call(tx, people.inA, statement)).toMatchObject({ code: '42501' });
      expect(await asLogin(statement)).toBe('42501');
    }
    for (const statement of forUser(people.inA.userId)) {
      expect(await call(tx, people.inA, statement)).toMatchObject({
        wrote: expect.arrayContaining([expect.anything()]),
      });
      expect(await asLogin(statement)).toHaveLength(1);
    }
  });

  it('is told whom others know, and what others pay', async () => {
    const { rows } = await tx.query<{ followed: string; one: string; other: string; events: string }>(
      `select (select target_id from follows where target_type = 'user' and status = 'accepted' and target_id <> $1
           group by 1 order by count(*) desc, 1 limit 1) as followed,
         f.one, f.other,
         (select array_agg(distinct o.event_id)::text from sponsorship_orders o join events e on e.id = o.event_id and e.visibility = 'public'
           where o.status in ('accepted', 'live', 'completed') and e.owner_context_id is distinct from $2) as events
       from (
         select a.follower_user_id as one, b.follower_user_id as other
         from follows a join follows b on b.target_id = a.target_id and b.target_type = 'user' and b.status = 'accepted'
         where a.target_type = 'user' and a.status = 'accepted' and a.follower_user_id < b.follower_user_id
           and $1 not in (a.follower_user_id, b.follower_user_id) limit 1) f`,
      [people.inA.userId, people.organizationA],
    );
    const [of] = rows;
    expect(of).toBeDefined();
    const hasAmount = (answer: string | null) => answer !== null && /amount_cents""?: \d/u.test(answer);
    for (const [statement, isOthers] of [
      [`select c::text as answer from public.get_user_connections('${of?.followed}') c`, () => true],
      [`select c::text as answer from public.get_mutual_connections('${of?.one}', '${of?.other}') c`, () => true],
      [`select c::text as answer from public.get_active_event_sponsors('${of?.events}') c`, hasAmount],
    ] as const) {
      const told = async (person: Person) => {
        const outcome = await call(tx, person, statement);
        return outcome instanceof Refusal ? outcome.code : outcome.answers.filter(isOthers);
      };
      expect(await told(people.service)).not.toEqual([]);
      expect(await told(people.inA)).toEqual([]);
      const toLogin = await asLogin(statement);
      expect(typeof toLogin === 'string' ? toLogin : toLogin.filter(isOthers)).toEqual([]);
    }
  });
});

describe('what is on sale', () => {
  const held = async (person: Person, tier: string, minutes = 15) => {
    const outcome = await call(
      tx,
      person,
      `select public.reserve_tickets_atomic('${tier}', 1, 's', null, ${minutes}) ->> 'error' as answer`,
    );
    return outcome instanceof Refusal ? outcome.code : (outcome.answers[0] ?? 'held');
  };

  it('is held by everybody, but of a private event: by its own people, and by whom it invites', async () => {
    const tier = await tierOfB();
    await tx.query('savepoint sale');
    const show = (visibility: string) =>
      tx.query('update events set visibility = $2 from ticket_tiers t where t.id = $1 and t.event_id = events.id', [
        tier,
        visibility,
      ]);
    for (const visibility of ['public', 'unlisted']) {
      await show(visibility);
      expect(await held(people.nobody, tier)).toBe('held');
    }
    await show('private');
    for (const person of [people.nobody, people.inA, people.host, people.attendee]) {
      expect(await held(person, tier)).toBe('tier not found');
    }
    for (const person of [people.inB, people.service]) expect(await held(person, tier)).toBe('held');
    await tx.query(
      `insert into event_invites (event_id, user_id, email) select event_id, $2, 'g@example.test' from ticket_tiers where id = $1`,
      [tier, people.attendee.userId],
    );
    expect(await held(people.attendee, tier)).toBe('held');
    await tx.query('rollback to savepoint sale');
  });

  it('is held for an hour at most, and for no longer by saying so again', async () => {
    const tier = await tierOfB();
    const bound = 'held for 1 to 60 minutes';
    for (const minutes of [100_000_000, 61, 0, -5]) expect(await held(people.nobody, tier, minutes)).toBe(bound);
    expect(await held(people.nobody, tier, 60)).toBe('held');
    expect(await held(people.service, tier, 61)).toBe('held');
    const extended = `select public.extend_ticket_holds('${target.session}', 100000000) ->> 'error' as answer`;
    expect(await call(tx, people.nobody, extended)).toMatchObject({ answers: [bound], wrote: [] });
    const batch = `select public.reserve_tickets_batch('[{"tier_id": "${tier}", "quantity": 1}]', 's', null, 61) ->> 'error' as answer`;
    expect(await call(tx, people.nobody, batch)).toMatchObject({ answers: [bound] });
  });
});

/** A tier of a public event of B, with tickets left, to which the attendee has none. */
async function tierOfB(): Promise<string> {
  const { rows } = await tx.query<{ tier: string }>(
    `select t.id as tier from ticket_tiers t join events e on e.id = t.event_id
     where e.owner_context_type = 'organization' and e.owner_context_id = $1 and e.visibility = 'public' and t.status = 'active'
       and t.total_quantity - t.reserved_quantity - greatest(t.issued_quantity, t.sold_quantity, 0) > 2
       and not exists (select from tickets x where x.event_id = e.id and x.owner_user_id = $2) limit 1`,
    [people.organizationB, people.attendee.userId],
  );
  const [row] = rows;
  if (row === undefined) throw new Error('B has nothing on sale');
  return row.tier;
}

describe('states, with machines on the tables', () => {
  /** Where each machine is, and how a row of it says whose it is. */
  const PLACES: Readonly<Record<string, { readonly table: string; readonly of: string }>> = {
    campaign: { table: 'campaigns.campaigns', of: 'org_id' },
    escrow: { table: 'sponsorship.sponsorship_orders', of: 'organization_id' },
    proposal: { table: 'sponsorship.proposal_threads', of: 'organization_id' },
    ticket: { table: 'ticketing.tickets', of: 'organization_id' },
  };
  const rowOf = (machine: string) =>
    `(select id from ${PLACES[machine]?.table} where ${PLACES[machine]?.of} = '${people.organizationB}' order by id limit 1)`;
  /** What the organiser may do, in the state of an old label. */
  const MOVES = [
    ['campaign', 'cancel', 'draft', 'cancelled'],
    ['escrow', 'cancel', 'pending', 'refunded'],
    ['proposal', 'reject', 'sent', 'rejected'],
    ['ticket', 'cancel', 'issued', 'cancelled'],
  ] as const;
  let ruled: TestDatabase;
  let rulers: Pool;
  beforeAll(async () => {
    ruled = await createDatabase({ template: await isolatedPlatform(), poolMax: 2 });
    rulers = callersPool(ruled);
    for (const [machine, , label] of MOVES) {
      // Orders of before have no label of their own: their status says it.
      const also = machine === 'escrow' ? ', escrow_state = null' : '';
      await rulers.query(
        `update ${PLACES[machine]?.table} set status = '${label}'${also} where id = ${rowOf(machine)}`,
      );
    }
    for (const machine of MACHINES) await install(ruled.pool, machine, { table: PLACES[machine.name]?.table });
  });
  afterAll(async () => {
    await rulers.end();
    await ruled.drop();
  });

  it.each(MOVES)('%s: %s is not done by the hand of another, and is by its own', async (machine, event, _, to) => {
    const session = await rulers.connect();
    try {
      await session.query('begin');
      const { rows } = await session.query<{ id: string }>(`select ${rowOf(machine)} as id`);
      const move = `select public.transition_state('${machine}', '${rows[0]?.id}', '${event}') ->> 'to_state' as answer`;
      for (const person of [people.nobody, people.inA, people.host, stranger]) {
        expect(await call(session, person, move)).toMatchObject({ code: 'LV087' });
      }
      expect(await call(session, people.inB, move)).toMatchObject({ answers: [to] });
    } finally {
      await session.query('rollback');
      session.release();
    }
  });
});

/** Signed in, and in nothing. */
const stranger: Person = { name: 'a stranger', role: 'authenticated', userId: '00000000-0000-4000-8000-000000000001' };

it('no view shows what its tables do not: it asks for its reader, or is closed, or says itself who may', async () => {
  const { rows } = await tx.query<{
    view: string;
    kind: string;
    isInvoker: boolean;
    isBarrier: boolean;
    isOpen: boolean;
  }>(
    `select format('%s.%s', n.nspname, c.relname) as view, c.relkind as kind,
       coalesce(c.reloptions @> array['security_invoker=true'], false) as "isInvoker",
       coalesce(c.reloptions @> array['security_barrier=true'], false) as "isBarrier",
       has_table_privilege('anon', c.oid, 'select') or has_table_privilege('authenticated', c.oid, 'select') as "isOpen"
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('v', 'm') and n.nspname not in ('pg_catalog', 'information_schema', 'payments', 'outbox', 'states', 'restructure', 'replay')`,
  );
  expect(rows.length).toBeGreaterThan(140);
  expect(rows.filter(({ kind, isOpen }) => kind === 'm' && isOpen)).toEqual([]);
  const others = rows.filter(({ kind, isOpen, isInvoker }) => kind === 'v' && isOpen && !isInvoker);
  expect(others.filter(({ isBarrier }) => !isBarrier)).toEqual([]);
  expect(others.map(({ view }) => view).toSorted()).toEqual([
    'public.campaign_analytics_daily_secured',
    'public.creative_analytics_daily_secured',
  ]);
});
