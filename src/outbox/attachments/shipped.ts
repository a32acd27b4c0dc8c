import type { Queryable } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import type { Announcement } from './announcement.ts';
import { parseCondition } from './condition.ts';
import { type FoundTable, findTableIn } from './table.ts';

/** What a legacy table announces, and where the table is: in `public` before the restructuring, in its schema after it. */
interface ShippedTable {
  readonly table: string;
  readonly schema: string;
  readonly announcements: readonly Announcement[];
}

interface Columns {
  readonly payload: readonly string[];
  readonly organization?: string;
  readonly orderingKey: string;
}

function announcing(
  table: string,
  schema: string,
  columns: Columns,
  topics: Readonly<Record<string, string>>,
): ShippedTable {
  return {
    table,
    schema,
    announcements: Object.entries(topics).map(([topic, when]) => ({
      name: `${table}:${topic}`,
      condition: parseCondition(when),
      topic,
      payload: columns.payload,
      organizationColumn: columns.organization,
      orderingKeyColumn: columns.orderingKey,
    })),
  };
}

/**
 * The tables of the old platform that announce themselves, from its own columns and labels. Contact data, notes, and the code that
 * admits a ticket's holder stay out: whoever subscribes asks for them. From whatever status, where a message that is missing would
 * be worse than one of a way that nobody foresaw; an order counts as bought only when a pending one is paid.
 */
const SHIPPED: readonly ShippedTable[] = [
  announcing(
    'orders',
    'ticketing',
    {
      payload: ['id', 'user_id', 'event_id', 'status', 'total_cents', 'fees_cents', 'currency', 'paid_at'],
      orderingKey: 'id',
    },
    {
      'ticket.purchased': 'status: pending -> paid',
      'order.refunded': 'status: * -> refunded',
      'order.canceled': 'status: * -> canceled',
    },
  ),
  announcing(
    'tickets',
    'ticketing',
    {
      payload: ['id', 'order_id', 'event_id', 'tier_id', 'owner_user_id', 'status', 'serial_no', 'redeemed_at'],
      // That of its order, so that a ticket is never redeemed before it was bought.
      orderingKey: 'order_id',
    },
    {
      'ticket.redeemed': 'status: * -> redeemed',
      'ticket.transferred': 'status: * -> transferred',
      'ticket.refunded': 'status: * -> refunded',
      'ticket.voided': 'status: * -> void',
    },
  ),
  announcing(
    'sponsorship_orders',
    'sponsorship',
    {
      payload: [
        'id',
        'package_id',
        'sponsor_id',
        'event_id',
        'status',
        'amount_cents',
        'application_fee_cents',
        'currency',
      ],
      orderingKey: 'id',
    },
    {
      'sponsorship.accepted': 'status: -> accepted',
      'sponsorship.live': 'status: -> live',
      'sponsorship.completed': 'status: -> completed',
      'sponsorship.refunded': 'status: -> refunded',
      'sponsorship.cancelled': 'status: -> cancelled',
    },
  ),
  announcing(
    'proposal_threads',
    'sponsorship',
    { payload: ['id', 'event_id', 'sponsor_id', 'status', 'created_by', 'updated_at'], orderingKey: 'id' },
    {
      'proposal.sent': 'status: -> sent',
      'proposal.countered': 'status: -> counter',
      'proposal.accepted': 'status: -> accepted',
      'proposal.rejected': 'status: -> rejected',
      'proposal.expired': 'status: -> expired',
    },
  ),
  announcing(
    'sponsorship_payouts',
    'sponsorship',
    {
      payload: ['id', 'order_id', 'organizer_id', 'status', 'amount_cents', 'application_fee_cents', 'processed_at'],
      organization: 'organizer_id',
      orderingKey: 'order_id',
    },
    {
      'payout.completed': 'status: -> completed',
      'payout.failed': 'status: -> failed',
      'payout.cancelled': 'status: -> cancelled',
    },
  ),
  // What becomes of a payout, its own table says.
  announcing(
    'payout_queue',
    'payments',
    { payload: ['id', 'order_id', 'status', 'scheduled_for'], orderingKey: 'order_id' },
    { 'payout.scheduled': 'insert' },
  ),
];

export const SHIPPED_TABLES: readonly string[] = SHIPPED.map(({ table }) => table);

/** One attachment to be made. */
export interface Wanted {
  readonly table: FoundTable;
  readonly announcement: Announcement;
}

/**
 * The shipped attachments of the tables that are there, and the names of those that are not.
 * @param only of these tables
 * @throws AppError OUTBOX_ATTACHMENT_TABLE_UNKNOWN where none is there
 */
export async function findShipped(
  db: Queryable,
  only: readonly string[] = SHIPPED_TABLES,
): Promise<{ readonly wanted: readonly Wanted[]; readonly skipped: readonly string[] }> {
  const wanted: Wanted[] = [];
  const skipped: string[] = [];
  for (const { table: name, schema, announcements } of SHIPPED.filter(({ table }) => only.includes(table))) {
    const table = await findTableIn(db, ['public', schema], name);
    if (table === undefined) skipped.push(`public.${name} or ${schema}.${name}`);
    else wanted.push(...announcements.map((announcement) => ({ table, announcement })));
  }
  if (wanted.length > 0) return { wanted, skipped };
  throw new AppError(
    'OUTBOX_ATTACHMENT_TABLE_UNKNOWN',
    `None of the tables is there: ${skipped.join(', ')}. Point DATABASE_URL at the database of the old platform.`,
  );
}
