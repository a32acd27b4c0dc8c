/**
 * Every unique index that the migrations put on the ledger's tables, by its table: what it is over, as PostgreSQL spells it back. A
 * test compares the list with a fresh migration. That nothing is there twice is their word: to look for it, all of it would have
 * to be in memory.
 */
const BY_TABLE: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  account_changes: {
    account_changes_pkey: '(event_position, book_id)',
    account_changes_seq_key: '(account_id, change_seq, book_id)',
  },
  account_slots: {
    account_slots_pkey: '(account_id, slot_number, book_id)',
    account_slots_slot_account_key: '(slot_account_id, book_id)',
  },
  account_types: { account_types_pkey: '(type)' },
  accounts: {
    accounts_natural_key: '(organization_id, user_id, type, currency, name, book_id) NULLS NOT DISTINCT',
    accounts_pkey: '(id, book_id)',
  },
  balances: { balances_pkey: '(account_id, book_id)' },
  book_grants: { book_grants_pkey: '(grantee, book_id)' },
  books: { books_name_key: '(name)', books_pkey: '(book_id)' },
  entries: { entries_account_seq_key: '(account_id, account_seq, book_id)', entries_pkey: '(id, book_id)' },
  events: {
    events_event_id_key: '(event_id, book_id)',
    events_idempotency_key: '(idempotency_key, idempotency_scope, book_id) WHERE (idempotency_key IS NOT NULL)',
    events_pkey: '("position", book_id)',
  },
  hold_entries: {
    hold_entries_account_seq_key: '(account_id, account_hold_seq, book_id)',
    hold_entries_hold_seq_key: '(hold_id, hold_seq, book_id)',
    hold_entries_one_resolution: '(hold_id, book_id) WHERE (remaining_cents = 0)',
    hold_entries_pkey: '(event_position, book_id)',
  },
  holds: { holds_pkey: '(hold_id, book_id)' },
  periods: { periods_event_position_key: '(event_position, book_id)', periods_pkey: '(closed_until, book_id)' },
  reversals: {
    reversals_one_completes: '(reverses, book_id) WHERE is_complete',
    reversals_pkey: '(transaction_id, book_id)',
    reversals_seq_key: '(reverses, reversal_seq, book_id)',
  },
  seal_tiles: { seal_tiles_pkey: '(tile_number, book_id)' },
  seals: { seals_pkey: '(seal_number, book_id)' },
};

export interface UniqueIndex {
  readonly table: string;
  readonly index: string;
  readonly over: string;
}

export const UNIQUE_INDEXES: readonly UniqueIndex[] = Object.entries(BY_TABLE).flatMap(([table, indexes]) =>
  Object.entries(indexes).map(([index, over]) => ({ table, index, over })),
);

/** SQL, for an index that is not there. */
export const createIndex = ({ table, index, over }: UniqueIndex) =>
  `create unique index ${index} on payments.${table} ${over}`;

/** The tables whose rows a role sees by the books that it is granted. */
export const BOOK_TABLES: readonly string[] = Object.keys(BY_TABLE).filter(
  (table) => table !== 'account_types' && table !== 'book_grants',
);
