import type { Pool, Queryable } from '../../src/db/pool.ts';
import { createLegacyDatabase, createMachineTables } from '../../src/demo/legacy-database.ts';
import { install } from '../../src/states/install.ts';
import type { Edge, Machine } from '../../src/states/machine.ts';
import { MACHINES, machineNamed } from '../../src/states/machines.ts';
import { transition } from '../../src/states/transition.ts';
import { createDatabase, type TestDatabase, templateOf } from './database.ts';

/** Who is there in each database of these: one event of an organization, with everybody who has a part in it. */
export const PEOPLE = {
  organiser: '00000000-0000-4000-8000-00000000e001',
  sponsor: '00000000-0000-4000-8000-00000000e002',
  holder: '00000000-0000-4000-8000-00000000e003',
  scanner: '00000000-0000-4000-8000-00000000e004',
  stranger: '00000000-0000-4000-8000-00000000e005',
  onlooker: '00000000-0000-4000-8000-00000000e006',
} as const;
export const ORGANIZATION = '00000000-0000-4000-8000-00000000e010';
export const SPONSOR = '00000000-0000-4000-8000-00000000e011';
export const EVENT = '00000000-0000-4000-8000-00000000e012';
export const PACKAGE = '00000000-0000-4000-8000-00000000e013';
const TIER = '00000000-0000-4000-8000-00000000e014';

/** A migrated database with the old platform's tables and nobody's machine on them. */
export async function createMachineTablesDatabase(): Promise<TestDatabase> {
  return createDatabase({ template: await templateOf('template_machine_tables', fill), poolMax: 20 });
}

/** The same, every machine installed. */
export async function createMachinesDatabase(): Promise<TestDatabase> {
  const template = await templateOf('template_machines', async (pool) => {
    await fill(pool);
    for (const machine of MACHINES) await install(pool, machine);
  });
  return createDatabase({ template, poolMax: 20 });
}

async function fill(pool: Pool): Promise<void> {
  await createLegacyDatabase(pool);
  await createMachineTables(pool);
  const { organiser, sponsor, onlooker } = PEOPLE;
  for (const id of Object.values(PEOPLE)) {
    await pool.query('insert into auth.users (id, email) values ($1, $2)', [id, `${id}@example.org`]);
  }
  await pool.query(
    `insert into public.organizations (id, name, created_by) values ('${ORGANIZATION}', 'Organisers', '${organiser}');
     insert into public.org_memberships (org_id, user_id, role)
     values ('${ORGANIZATION}', '${organiser}', 'admin'), ('${ORGANIZATION}', '${onlooker}', 'viewer')
     on conflict do nothing;
     insert into public.events (id, owner_context_type, owner_context_id, created_by, title, start_at, end_at)
     values ('${EVENT}', 'organization', '${ORGANIZATION}', '${organiser}', 'An evening', now() + interval '1 day', now() + interval '2 days');
     insert into public.event_scanners (event_id, user_id) values ('${EVENT}', '${PEOPLE.scanner}');
     insert into public.sponsors (id, name, created_by) values ('${SPONSOR}', 'Sponsors', '${sponsor}');
     insert into public.sponsor_members (sponsor_id, user_id, role)
     values ('${SPONSOR}', '${sponsor}', 'owner'), ('${SPONSOR}', '${onlooker}', 'viewer') on conflict do nothing;
     insert into public.sponsorship_packages (id, event_id, tier, price_cents) values ('${PACKAGE}', '${EVENT}', 'gold', 100000);
     insert into public.ticket_tiers (id, event_id, name, price_cents, quantity) values ('${TIER}', '${EVENT}', 'standing', 5000, null)`,
  );
}

type Fields = Readonly<Record<string, unknown>>;

async function insertRow(db: Queryable, table: string, fields: Fields): Promise<string> {
  const columns = Object.keys(fields);
  const { rows } = await db.query<{ id: string }>(
    `insert into ${table} (${columns.join(', ')}) values (${columns.map((_, index) => `$${index + 1}`).join(', ')}) returning id`,
    Object.values(fields),
  );
  return rows[0]?.id ?? '';
}

export const givenOrder = (db: Queryable, fields: Fields = {}): Promise<string> =>
  insertRow(db, 'public.sponsorship_orders', {
    package_id: PACKAGE,
    sponsor_id: SPONSOR,
    event_id: EVENT,
    amount_cents: 50_000,
    application_fee_cents: 2_500,
    ...fields,
  });

export const givenProposal = (db: Queryable, fields: Fields = {}): Promise<string> =>
  insertRow(db, 'public.proposal_threads', {
    event_id: EVENT,
    // One open thread a sponsor.
    sponsor_id: SPONSOR,
    created_by: PEOPLE.organiser,
    ...fields,
  });

export const givenCampaign = (db: Queryable, fields: Fields = {}): Promise<string> =>
  insertRow(db, 'public.campaigns', {
    org_id: ORGANIZATION,
    created_by: PEOPLE.organiser,
    name: 'Posters',
    total_budget_credits: 10_000,
    start_date: '2026-01-01T00:00:00Z',
    ...fields,
  });

/** An order of tickets of one tier, with its tickets. */
export async function givenTicketOrder(
  db: Queryable,
  given: { tickets?: number; unitPriceCents?: number; subtotalCents?: number; feesCents?: number } = {},
): Promise<{ orderId: string; ticketIds: readonly string[] }> {
  const { tickets = 1, unitPriceCents = 5_000, feesCents = 300 } = given;
  const { subtotalCents = tickets * unitPriceCents } = given;
  const orderId = await insertRow(db, 'public.orders', {
    user_id: PEOPLE.holder,
    event_id: EVENT,
    status: 'paid',
    subtotal_cents: subtotalCents,
    fees_cents: feesCents,
    total_cents: subtotalCents + feesCents,
  });
  await insertRow(db, 'public.order_items', {
    order_id: orderId,
    tier_id: TIER,
    quantity: tickets,
    unit_price_cents: unitPriceCents,
  });
  const ticketIds: string[] = [];
  for (let count = 0; count < tickets; count += 1) ticketIds.push(await givenTicketOf(db, orderId));
  return { orderId, ticketIds };
}

export const givenTicketOf = (db: Queryable, orderId: string, fields: Fields = {}): Promise<string> =>
  insertRow(db, 'public.tickets', {
    event_id: EVENT,
    tier_id: TIER,
    order_id: orderId,
    owner_user_id: PEOPLE.holder,
    ...fields,
  });

/** So many tickets, of one order. */
export async function givenTickets(db: Queryable, count: number): Promise<string> {
  const { orderId } = await givenTicketOrder(db, { tickets: 1 });
  await db.query(
    `insert into public.tickets (event_id, tier_id, order_id, owner_user_id)
     select t.event_id, t.tier_id, t.order_id, t.owner_user_id from public.tickets t, generate_series(2, $2) where t.order_id = $1`,
    [orderId, count],
  );
  return orderId;
}

/** A row of any machine, as it begins. */
export async function givenRow(db: Queryable, { name }: Machine, fields: Fields = {}): Promise<string> {
  switch (name) {
    case 'escrow':
      return givenOrder(db, fields);
    case 'proposal':
      // A sponsor of its own, since each has one open thread with an event.
      return givenProposal(db, { sponsor_id: await givenSponsor(db), ...fields });
    case 'campaign':
      return givenCampaign(db, fields);
    case 'ticket': {
      const { orderId } = await givenTicketOrder(db, { tickets: 1 });
      return givenTicketOf(db, orderId, fields);
    }
    default:
      throw new Error(`no rows of ${name}`);
  }
}

async function givenSponsor(db: Queryable): Promise<string> {
  const id = await insertRow(db, 'public.sponsors', { name: 'Sponsors', created_by: PEOPLE.sponsor });
  await db.query(
    `insert into public.sponsor_members (sponsor_id, user_id, role) values ($1, '${PEOPLE.sponsor}', 'owner') on conflict do nothing`,
    [id],
  );
  return id;
}

/** A row that has come to a state along the edges, as the platform takes them. */
export async function givenRowIn(pool: Pool, machine: Machine, state: string): Promise<string> {
  const id = await givenRow(pool, machine);
  for (const { event } of wayTo(machine, state)) await transition(pool, machine, id, event);
  return id;
}

/** The shortest way from the first initial state. */
function wayTo(machine: Machine, state: string): readonly Edge[] {
  let ways: (readonly Edge[])[] = [[]];
  for (;;) {
    const at = (way: readonly Edge[]) => way.at(-1)?.to ?? machine.initial[0];
    const found = ways.find((way) => at(way) === state);
    if (found !== undefined) return found;
    ways = ways.flatMap((way) => machine.edges.filter(({ from }) => from === at(way)).map((edge) => [...way, edge]));
    if (ways.length === 0 || ways[0]?.length === machine.edges.length) throw new Error(`no way to ${state}`);
  }
}

export async function stateOf(
  db: Queryable,
  machine: Machine | string,
  id: string,
): Promise<string | null | undefined> {
  const { table } = typeof machine === 'string' ? machineNamed(machine) : machine;
  const { rows } = await db.query<{ state: string | null }>(`select state::text as state from ${table} where id = $1`, [
    id,
  ]);
  return rows[0]?.state;
}

export interface HistoryRow {
  readonly from: string | null;
  readonly to: string | null;
  readonly event: string;
  readonly role: string;
  readonly by: string;
  readonly reason: string | null;
  readonly messageId: string | null;
}

export async function historyOf(db: Queryable, id: string): Promise<readonly HistoryRow[]> {
  const { rows } = await db.query<HistoryRow>(
    `select from_state as "from", to_state as "to", event, role, changed_by as "by", reason, message_id as "messageId"
     from states.history where subject_id = $1 order by id`,
    [id],
  );
  return rows;
}

/** Balances of the main book by account, positive on the normal side; those of zero left out. */
export async function balances(db: Queryable): Promise<Record<string, bigint>> {
  const { rows } = await db.query<{ account: string; cents: bigint }>(
    `select type || ' ' || name as account, sum(balance_cents)::bigint as cents from payments.account_balances
     where book_id = 1 group by 1 having sum(balance_cents) <> 0 order by 1`,
  );
  return Object.fromEntries(rows.map(({ account, cents }) => [account, cents]));
}
