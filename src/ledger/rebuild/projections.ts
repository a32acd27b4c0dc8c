/** Where the projections are rebuilt, beside the live ones. */
export const SCHEMA = 'payments_rebuilt';

export interface Projection {
  readonly table: string;
  /** What names a row, beside its book. */
  readonly key: readonly string[];
  /** By which tables' new rows a row of this one is written: each with the columns that hold its key there. */
  readonly writtenWith: readonly (readonly [table: string, columns: string])[];
}

const projection = (table: string, key: readonly string[], others: Projection['writtenWith'] = []): Projection => ({
  table,
  key,
  writtenWith: others.length > 0 ? others : [[table, key.join(', ')]],
});

/** What the log is projected to. */
export const PROJECTIONS: readonly Projection[] = [
  projection('accounts', ['id']),
  projection('entries', ['id']),
  projection(
    'balances',
    ['account_id'],
    [
      ['accounts', 'id'],
      ['entries', 'account_id'],
      ['account_changes', 'account_id'],
      ['hold_entries', 'account_id'],
    ],
  ),
  projection('account_changes', ['event_position']),
  projection(
    'holds',
    ['hold_id'],
    [
      ['holds', 'hold_id'],
      ['hold_entries', 'hold_id'],
    ],
  ),
  projection('hold_entries', ['event_position']),
  projection('reversals', ['transaction_id']),
  projection('periods', ['closed_until']),
  projection('account_slots', ['account_id', 'slot_number']),
];

/** What projects it, in the order in which it does. */
export const PROJECTORS: readonly string[] = [
  'project_events',
  'project_account_changes',
  'project_hold_steps',
  'project_reversals',
  'project_periods',
  'project_account_slots',
];

/** What those call. */
export const HELPERS: readonly string[] = ['last_hold_step'];

/** The key of a projection's row as columns of a list, with its book. */
export const keyOf = ({ key }: Projection, alias: string) =>
  [...key, 'book_id'].map((column) => `${alias}.${column}`).join(', ');

/** Whether two aliases name the same row. */
export const sameKey = ({ key }: Projection, one: string, other: string) =>
  [...key, 'book_id'].map((column) => `${one}.${column} = ${other}.${column}`).join(' and ');
