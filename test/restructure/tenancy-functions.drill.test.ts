import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Pool, Tx } from '../../src/db/pool.ts';
import { LIVENTIX_MAPPING, readMapping } from '../../src/restructure/mapping.ts';
import { callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
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

it('who keeps the platform may act for others, who reads may not', async () => {
  const hold = `select public.reserve_tickets_atomic('${target.tier}', 1, 's', '${target.user}')::text as answer`;
  expect(await call(tx, people.service, hold)).not.toBeInstanceOf(Refusal);
  expect(await call(tx, people.inA, hold)).toMatchObject({ code: '42501' });
  const own = `select public.reserve_tickets_atomic('${target.tier}', 1, 's', '${people.inA.userId}')::text as answer`;
  expect(await call(tx, people.inA, own)).not.toBeInstanceOf(Refusal);
  const found = `select public.create_organization_with_membership('Ours', 'ours-x', null, '${people.inA.userId}')::text as answer`;
  expect(await call(tx, people.inA, found)).toMatchObject({ wrote: expect.arrayContaining(['organizations']) });
});

it('no state of a row moves by the hand of another', async () => {
  const { rows } = await tx.query<{ ticket: string }>(
    `select t.id as ticket from tickets t where t.event_id = $1 or true order by t.event_id = $1 desc limit 1`,
    [target.event],
  );
  const move = `select public.transition_state('ticket', '${rows[0]?.ticket}', 'cancel')::text as answer`;
  expect(await call(tx, people.nobody, move)).toBeInstanceOf(Refusal);
});

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
