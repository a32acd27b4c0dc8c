import type { Pool } from '../../../src/db/pool.ts';
import { fillLegacyDatabase } from '../../../src/demo/legacy-database.ts';
import { fillPlatform } from '../../../src/demo/platform/filling/fill.ts';
import { createPlatform } from '../../../src/demo/platform/platform.ts';
import { applyPlan } from '../../../src/restructure/apply.ts';
import { LIVENTIX_MAPPING, readMapping } from '../../../src/restructure/mapping.ts';
import { makePlan } from '../../../src/restructure/plan.ts';
import { isolate } from '../../../src/restructure/tenancy/isolate.ts';
import { type TestServer, templateOf } from '../database.ts';

const PEOPLE = { wallets: 120, orgWallets: 8, transactions: 400, seed: 1 };
const ROWS = 6_000;

/** The legacy platform with rows in every table, moved as the mapping says; its tenants are not kept apart yet. */
export const movedPlatform = (server?: TestServer): Promise<string> =>
  templateOf('template_platform_moved', fillAndMove, server);

/** The same rows, with tenants apart. */
export async function isolatedPlatform(server?: TestServer): Promise<string> {
  const from = await movedPlatform(server);
  return templateOf('template_platform_isolated', keepApart, server, from);
}

/** What few organizations have had of a fill, by what says whose it is: `o` is the organization. */
const SELDOM: readonly (readonly [table: string, values: string])[] = [
  ['event_series', `'organization_id', o.id`],
  ['guest_codes', `'event_id', o.event_id, 'code', 'OF ' || o.id`],
  ['message_templates', `'org_id', o.id`],
  ['package_templates', `'org_id', o.id`],
  ['org_contact_imports', `'org_id', o.id`],
  ['org_contact_import_entries', `'import_id', (select i.id from org_contact_imports i where i.org_id = o.id limit 1)`],
  ['follows', `'follower_type', 'organization', 'follower_org_id', o.id`],
];

/** A row for each organization that has an event, in all else as one that is there. */
const oneForEach = (table: string, values: string): string => `
  insert into public.${table}
  select r.* from (
    select e.owner_context_id as id, min(e.id::text)::uuid as event_id
    from events e where e.owner_context_type = 'organization' group by 1
  ) o
  cross join (select t from public.${table} t order by t.id limit 1) like_this (t)
  cross join jsonb_populate_record(like_this.t, jsonb_build_object('id', gen_random_uuid(), ${values})) r`;

async function fillAndMove(pool: Pool): Promise<void> {
  await createPlatform(pool);
  await fillLegacyDatabase(pool, PEOPLE);
  await fillPlatform(pool, { rows: ROWS });
  for (const [table, values] of SELDOM) await pool.query(oneForEach(table, values));
  const plan = await makePlan(pool, await readMapping(LIVENTIX_MAPPING), { now: new Date('2026-01-01T00:00:00Z') });
  const { outcomes } = await applyPlan(pool, plan, { schemas: [], tables: [] });
  assertNone(outcomes.filter(({ status }) => status !== 'moved'));
}

export async function keepApart(pool: Pool): Promise<void> {
  const { tables } = await isolate(pool, await readMapping(LIVENTIX_MAPPING));
  assertNone(tables.filter(({ status }) => status !== 'isolated'));
  await pool.query('vacuum analyze');
}

function assertNone(left: readonly unknown[]): void {
  if (left.length > 0)
    throw new Error(`left: ${JSON.stringify(left, (_, value) => (typeof value === 'bigint' ? `${value}` : value))}`);
}
