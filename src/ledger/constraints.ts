/**
 * What the migrations declare about the ledger's tables beside triggers: every key, foreign key and CHECK as PostgreSQL spells it back,
 * with the table that a foreign key is to by its full name. A test compares the lists with a fresh migration. That nothing is there
 * twice is the keys' word: to look for it, all of it would have to be in memory.
 */
const BY_TABLE: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  account_changes: {
    account_changes_pkey: 'PRIMARY KEY (event_position, book_id)',
    account_changes_seq_key: 'UNIQUE (account_id, change_seq, book_id)',
    account_changes_floor_below_ceiling: 'CHECK ((floor_cents <= ceiling_cents))',
    account_changes_status_values: `CHECK ((status = ANY (ARRAY['open'::text, 'frozen'::text, 'closed'::text])))`,
  },
  account_slots: {
    account_slots_pkey: 'PRIMARY KEY (account_id, slot_number, book_id)',
    account_slots_slot_account_key: 'UNIQUE (slot_account_id, book_id)',
    account_slots_number_range: 'CHECK (((slot_number >= 1) AND (slot_number <= 63)))',
  },
  account_types: {
    account_types_pkey: 'PRIMARY KEY (type)',
    account_types_normal_side_values: `CHECK ((normal_side = ANY (ARRAY['debit'::text, 'credit'::text])))`,
  },
  accounts: {
    accounts_pkey: 'PRIMARY KEY (id, book_id)',
    accounts_natural_key: 'UNIQUE NULLS NOT DISTINCT (organization_id, user_id, type, currency, name, book_id)',
    accounts_name_format: `CHECK ((name ~ '^[a-z0-9][a-z0-9_.:-]{0,99}$'::text))`,
    accounts_one_owner: 'CHECK (((organization_id IS NULL) OR (user_id IS NULL)))',
    accounts_book_id_fkey: 'FOREIGN KEY (book_id) REFERENCES payments.books(book_id)',
    accounts_currency_fkey: 'FOREIGN KEY (currency) REFERENCES ref.currencies(code)',
    accounts_type_fkey: 'FOREIGN KEY (type) REFERENCES payments.account_types(type)',
  },
  balances: {
    balances_pkey: 'PRIMARY KEY (account_id, book_id)',
    balances_status_values: `CHECK ((status = ANY (ARRAY['open'::text, 'frozen'::text, 'closed'::text])))`,
  },
  book_grants: {
    book_grants_pkey: 'PRIMARY KEY (grantee, book_id)',
    book_grants_book_id_fkey: 'FOREIGN KEY (book_id) REFERENCES payments.books(book_id)',
  },
  books: {
    books_pkey: 'PRIMARY KEY (book_id)',
    books_name_key: 'UNIQUE (name)',
  },
  entries: {
    entries_pkey: 'PRIMARY KEY (id, book_id)',
    entries_account_seq_key: 'UNIQUE (account_id, account_seq, book_id)',
    entries_amount_not_zero: 'CHECK ((amount_cents <> 0))',
  },
  events: {
    events_pkey: 'PRIMARY KEY ("position", book_id)',
    events_event_id_key: 'UNIQUE (event_id, book_id)',
    events_idempotency_whole: 'CHECK (((idempotency_scope IS NULL) = (idempotency_key IS NULL)))',
    events_type_values: `CHECK ((type = ANY (ARRAY['account.opened'::text, 'account.changed'::text, 'transaction.posted'::text, 'hold.placed'::text, 'hold.voided'::text, 'hold.expired'::text, 'book.opened'::text, 'period.closed'::text, 'note.recorded'::text])))`,
  },
  hold_entries: {
    hold_entries_pkey: 'PRIMARY KEY (event_position, book_id)',
    hold_entries_account_seq_key: 'UNIQUE (account_id, account_hold_seq, book_id)',
    hold_entries_hold_seq_key: 'UNIQUE (hold_id, hold_seq, book_id)',
    hold_entries_captured_by_transaction: `CHECK (((kind = 'captured'::text) = (transaction_id IS NOT NULL)))`,
    hold_entries_kind_values: `CHECK ((kind = ANY (ARRAY['placed'::text, 'captured'::text, 'voided'::text, 'expired'::text])))`,
    hold_entries_remaining_not_negative: 'CHECK ((remaining_cents >= 0))',
  },
  holds: {
    holds_pkey: 'PRIMARY KEY (hold_id, book_id)',
    holds_active_while_something_remains: `CHECK (((state = 'active'::text) = (remaining_cents > 0)))`,
    holds_amount_positive: 'CHECK ((amount_cents > 0))',
    holds_remaining_range: 'CHECK (((remaining_cents >= 0) AND (remaining_cents <= amount_cents)))',
    holds_state_values: `CHECK ((state = ANY (ARRAY['active'::text, 'captured'::text, 'voided'::text, 'expired'::text])))`,
  },
  periods: {
    periods_pkey: 'PRIMARY KEY (closed_until, book_id)',
    periods_event_position_key: 'UNIQUE (event_position, book_id)',
    periods_book_id_fkey: 'FOREIGN KEY (book_id) REFERENCES payments.books(book_id)',
  },
  reversals: {
    reversals_pkey: 'PRIMARY KEY (transaction_id, book_id)',
    reversals_seq_key: 'UNIQUE (reverses, reversal_seq, book_id)',
  },
  seal_tiles: {
    seal_tiles_pkey: 'PRIMARY KEY (tile_number, book_id)',
    seal_tiles_hash_length: 'CHECK ((octet_length(hash) = 32))',
    seal_tiles_book_id_fkey: 'FOREIGN KEY (book_id) REFERENCES payments.books(book_id)',
  },
  seals: {
    seals_pkey: 'PRIMARY KEY (seal_number, book_id)',
    seals_hash_lengths:
      'CHECK (((octet_length(root) = 32) AND (octet_length(seal_hash) = 32) AND (octet_length(previous_seal_hash) = 32)))',
    seals_book_id_fkey: 'FOREIGN KEY (book_id) REFERENCES payments.books(book_id)',
  },
};

/** Every unique index that no constraint owns. */
const INDEXES: readonly [table: string, name: string, over: string][] = [
  [
    'events',
    'events_idempotency_key',
    '(idempotency_key, idempotency_scope, book_id) WHERE (idempotency_key IS NOT NULL)',
  ],
  ['hold_entries', 'hold_entries_one_resolution', '(hold_id, book_id) WHERE (remaining_cents = 0)'],
  ['reversals', 'reversals_one_completes', '(reverses, book_id) WHERE is_complete'],
];

export interface Declaration {
  readonly table: string;
  readonly name: string;
  /** Of a constraint what follows its name, of an index what follows its method. */
  readonly definition: string;
}

/** Keys before the foreign keys to them, as they have to be put back. */
export const CONSTRAINTS: readonly Declaration[] = Object.entries(BY_TABLE)
  .flatMap(([table, constraints]) =>
    Object.entries(constraints).map(([name, definition]) => ({ table, name, definition })),
  )
  .sort((a, b) => Number(isForeignKey(a)) - Number(isForeignKey(b)));

export const UNIQUE_INDEXES: readonly Declaration[] = INDEXES.map(([table, name, definition]) => ({
  table,
  name,
  definition,
}));

function isForeignKey({ definition }: Declaration): boolean {
  return definition.startsWith('FOREIGN KEY');
}

/** SQL that puts a constraint back, for what is there under its name: nothing, or something else. */
export const constraintRepair = ({ table, name, definition }: Declaration, isThere: boolean) =>
  `alter table payments.${table} ${isThere ? `drop constraint ${name}, ` : ''}add constraint ${name} ${definition}`;

/** Likewise an index. */
export const indexRepair = ({ table, name, definition }: Declaration, isThere: boolean) =>
  `${isThere ? `drop index payments.${name}; ` : ''}create unique index ${name} on payments.${table} ${definition}`;

/** The tables whose rows a role sees by the books that it is granted. */
export const BOOK_TABLES: readonly string[] = Object.keys(BY_TABLE).filter(
  (table) => table !== 'account_types' && table !== 'book_grants',
);

/** What each of their policies, the only one of its table, lets be seen, as PostgreSQL spells it back without its schema. */
export const BOOK_POLICY = '(book_id = ANY (( SELECT books_of(CURRENT_USER) AS books_of)::integer[]))';

/** SQL that puts the policy of a table back, for the policies that are there. */
export const policyRepair = (table: string, present: readonly string[]) =>
  [
    ...present.map((name) => `drop policy ${name} on payments.${table}; `),
    `create policy books_granted on payments.${table} for select using (book_id = any ((select payments.books_of(current_user))::integer[])); `,
    `alter table payments.${table} enable row level security`,
  ].join('');
