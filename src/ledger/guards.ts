import type { Finding } from '../db/diagnosis.ts';
import { migrationStatus } from '../db/migrate.ts';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { BOOK_TABLES, createIndex, UNIQUE_INDEXES } from './unique-indexes.ts';

export interface Guard {
  readonly table: string;
  readonly trigger: string;
  readonly fires: string;
  /** What it looks at: each statement, with its new rows where it names them. */
  readonly scope: string;
  /** The function of `payments` that it runs, without arguments. */
  readonly runs: keyof typeof GUARD_FUNCTIONS;
}

/**
 * The functions that the guards consist of, those that seal, and all that `books verify` asks: the migration that last gave each its
 * body, and the SHA-256 of what it does. Tests compare them with a fresh migration, and with what a verification asks; they print what the
 * hashes must be.
 */
export const GUARD_FUNCTIONS = {
  certificate_hash: {
    migration: '0019_bodies_as_text',
    hash: '6151119b1d58bab533a0be8e5f68d833d842bac1ba9df14622ef0bbe6053adb9',
  },
  certificate_text: {
    migration: '0019_bodies_as_text',
    hash: 'ec321d18593c4ddebef3444a94165aa78f014cc6d01ad7ec6462ec787ffcfe2e',
  },
  certificates_of: {
    migration: '0022_races_slots_and_grants',
    hash: '8dfb1a69a1e17146d19f92cde365e68f0b96c6611826666cd5fdf916d11ec659',
  },
  chain_hash: {
    migration: '0016_rare_events',
    hash: '01cfbd0fda55cdc830e4f1eaa196d4d3fbabd6d601ae4a60679a1cbb90711db7',
  },
  changed_since_sealed: {
    migration: '0012_seals',
    hash: '277a8cebe8fa3c2597bba3ff3655cca01eff037232d543e6bcc7b717a77c5a78',
  },
  check_account_state: {
    migration: '0015_balances_know_their_currency',
    hash: 'acb0c8c410c10821094abb2cd4193f6d531c348f67beb3280d3691d3d199b39c',
  },
  check_changed_balances: {
    migration: '0021_bounds_of_posting',
    hash: 'a2ee0d01f5bdc0b4219500955ad3dc5c548b31e4349ef62c59475c9f1a6a1ca1',
  },
  check_changed_books: {
    migration: '0010_history',
    hash: '61d8482d7c513cdbbbe69c89d4e25adab32d470b4179dc700a96dba0bd5f44ab',
  },
  check_changed_holds: {
    migration: '0007_limits_holds_reversals',
    hash: '803f194317db89c111f6b16d41a946b8c79de1fa43b015a5f76d8ff3c1e944c7',
  },
  check_new_entries: {
    migration: '0015_balances_know_their_currency',
    hash: '3e67859472c4863089ec9dc5023196b0175dc06f2804f31a37aa6dd692c49353',
  },
  check_new_history: {
    migration: '0007_limits_holds_reversals',
    hash: '1a716a1deb99a585e99dab152754efcf9cf8d223f6df53efc925712ea4a39e70',
  },
  check_new_periods: {
    migration: '0010_history',
    hash: '3aec966592ec196af92bf715c7e11d97129ea371ac3e7158230c07a86178c8c5',
  },
  check_new_seal: {
    migration: '0012_seals',
    hash: '8bc3421965e02b785b41502bca969036e8cfbbdcfa05cc26a9168a9325e60815',
  },
  check_new_slots: {
    migration: '0017_slots',
    hash: '4bc96537ebbdaa623b284602bfd3da219825d900f7b1d2f8bd314397eb3907f1',
  },
  check_sealed_events: {
    migration: '0012_seals',
    hash: 'c9a9e42a09b1d44938a3d3c0d447223c3464800c3e8852924231a949ff9041bd',
  },
  count_positions: {
    migration: '0012_seals',
    hash: 'df7857b3274af789958fc43fb9682ef365abe2644f2875562f12432c510bdd1d',
  },
  entries_of: {
    migration: '0019_bodies_as_text',
    hash: '1d7b5cf73ebff4ed603c4f282948437929c7df0ac26da0382cb3b73d5fdd42fd',
  },
  event_leaf_hash: {
    migration: '0019_bodies_as_text',
    hash: '5606617216129062e41f58f1fa215d3371409e66933570f8d1aab2c83fda6b3c',
  },
  instant_text: {
    migration: '0019_bodies_as_text',
    hash: '667dd5cbbd0008a9fcf559145a21da9ff3c6ad048a7c9f164f27a6208cccf4dc',
  },
  is_slotted: {
    migration: '0017_slots',
    hash: 'd1eca6d6282b198234bdfcdc82842fcf42034c2db536921838c52f41e7341f2b',
  },
  limit_passed: {
    migration: '0007_limits_holds_reversals',
    hash: 'a7e823d6eec896f64a4e3a89b8bfe7bf1cf3e2502f412e8876aef608fbd91f94',
  },
  merkle_append: {
    migration: '0012_seals',
    hash: '25c57d6a0f0ebd9de44827e3df256eba81390799b92073a793af9e4e134c505c',
  },
  merkle_root: {
    migration: '0012_seals',
    hash: '1edf607a97e01f125e5a9524c449c8257d86840a5519ed8bd6430891d7d65448',
  },
  named_uuid: {
    migration: '0003_ledger_posting',
    hash: '83796e983f7b681bd284ae4ac5031048862e45e20399aa881e830b541661620a',
  },
  period_movements: {
    migration: '0014_input',
    hash: 'd68bd6386fc981bd2d44d4099ce584f4b0a6e5d5083212aa625fb66301e8b7da',
  },
  raise_code: {
    migration: '0017_slots',
    hash: '8743dd64530e7d98874259853c6071247dbce6986c21096a2702221e3a94da94',
  },
  raise_seal_code: {
    migration: '0012_seals',
    hash: '4dfde511c14f9582b615cce6fb54ad68a6edb4d1045a24f2f183489672c3698a',
  },
  refuse_change: {
    migration: '0002_ledger_tables',
    hash: '3f44e0a27c1d11e6e37b4d3a8e06afc67ff8a45db5138c8ac68015864eeb8f2e',
  },
  seal_events: {
    migration: '0012_seals',
    hash: '762186eab87f8f85a9db2a734daa94a91560f5ac439c10a91021a75e7908c1c6',
  },
  seal_hash: {
    migration: '0012_seals',
    hash: '40a346af7a6d98a8ff1c7a6ed0e08c981d5450ecc4445c4a929f7679d91e78bf',
  },
  try_amount: {
    migration: '0019_bodies_as_text',
    hash: 'fab499d6b55eb13541c289710d027600b1c22a848c899c27fba54c1be2e8f196',
  },
  try_instant: {
    migration: '0008_posting_with_limits',
    hash: '47d727fcb3381853c55f371e8113715c8b423025713e499965c0db5793edb28f',
  },
  try_uuid: {
    migration: '0019_bodies_as_text',
    hash: 'c5e73baeae1766ad2f3c04dadf97dca42693b9452fa0171b14692a5f8b3ccee7',
  },
} as const;

/**
 * Of a row p of pg_proc: what it does, as text, with the settings that it runs under. Of an aggregate that is what it is made of: what
 * PostgreSQL has built in has the same ids in all its versions.
 */
export const BODY_OF = `coalesce((
    select concat_ws(' ', a.aggtransfn::oid, a.aggfinalfn::oid, a.aggmtransfn::oid, a.aggtranstype, a.agginitval)
    from pg_aggregate a where a.aggfnoid = p.oid),
    concat_ws(' ', p.prosrc, case when p.prosecdef then 'security definer' end, case when p.proisstrict then 'strict' end,
              array_to_string(p.proconfig, ' ')))`;

const STATEMENT = 'for each statement';

const appendOnly = (table: string): Guard => ({
  table,
  trigger: `${table}_append_only`,
  fires: 'before delete or update or truncate',
  scope: STATEMENT,
  runs: 'refuse_change',
});
const notRemoved = (table: string): Guard => ({
  table,
  trigger: `${table}_not_removed`,
  fires: 'before delete or truncate',
  scope: STATEMENT,
  runs: 'refuse_change',
});
const onRows = (rows: string, guard: Omit<Guard, 'scope'>): Guard => ({
  ...guard,
  scope: `referencing new table as ${rows} for each statement`,
});
const followsLog = (table: string): Guard =>
  onRows('new_history', { table, trigger: `${table}_follow_log`, fires: 'after insert', runs: 'check_new_history' });

/**
 * Every trigger that the migrations put on the ledger's tables, as PostgreSQL spells it back; all of them are enabled
 * always. A test compares the list with a fresh migration.
 */
export const GUARDS: readonly Guard[] = [
  appendOnly('account_changes'),
  followsLog('account_changes'),
  appendOnly('account_slots'),
  onRows('new_slots', {
    table: 'account_slots',
    trigger: 'account_slots_follow_log',
    fires: 'after insert',
    runs: 'check_new_slots',
  }),
  appendOnly('account_types'),
  appendOnly('accounts'),
  onRows('changed', {
    table: 'balances',
    trigger: 'balances_follow_entries',
    fires: 'after update',
    runs: 'check_changed_balances',
  }),
  notRemoved('balances'),
  {
    table: 'balances',
    trigger: 'balances_start_as_logged',
    fires: 'after insert',
    scope:
      "for each row when (((new.status <> 'open'::text) or (new.held_cents <> 0) or (new.min_cents is not null) or (new.max_cents is not null)))",
    runs: 'check_account_state',
  },
  onRows('changed', {
    table: 'balances',
    trigger: 'balances_start_at_entries',
    fires: 'after insert',
    runs: 'check_changed_balances',
  }),
  {
    table: 'balances',
    trigger: 'balances_state_as_logged',
    fires: 'after update of status, held_cents, min_cents, max_cents, currency',
    scope: 'for each row',
    runs: 'check_account_state',
  },
  onRows('changed', {
    table: 'books',
    trigger: 'books_begin_open',
    fires: 'after insert',
    runs: 'check_changed_books',
  }),
  onRows('changed', {
    table: 'books',
    trigger: 'books_follow_periods',
    fires: 'after update',
    runs: 'check_changed_books',
  }),
  appendOnly('entries'),
  onRows('new_entries', {
    table: 'entries',
    trigger: 'entries_whole_transactions',
    fires: 'after insert',
    runs: 'check_new_entries',
  }),
  appendOnly('events'),
  appendOnly('hold_entries'),
  followsLog('hold_entries'),
  onRows('changed', {
    table: 'holds',
    trigger: 'holds_follow_entries',
    fires: 'after update',
    runs: 'check_changed_holds',
  }),
  notRemoved('holds'),
  onRows('changed', {
    table: 'holds',
    trigger: 'holds_start_at_entries',
    fires: 'after insert',
    runs: 'check_changed_holds',
  }),
  appendOnly('periods'),
  onRows('new_periods', {
    table: 'periods',
    trigger: 'periods_follow_log',
    fires: 'after insert',
    runs: 'check_new_periods',
  }),
  appendOnly('reversals'),
  followsLog('reversals'),
  appendOnly('seal_tiles'),
  appendOnly('seals'),
  { table: 'seals', trigger: 'seals_continue', fires: 'before insert', scope: 'for each row', runs: 'check_new_seal' },
];

const EXPECTED_TRIGGERS = GUARDS.map(({ table, trigger, fires, scope, runs }) => {
  const body = `trigger ${trigger} ${fires} on payments.${table} ${scope}`.replaceAll("'", "''");
  return `('${table}', '${trigger}', '${body}', '${runs}', 'alter table payments.${table} enable always trigger ${trigger}')`;
});

const EXPECTED_FUNCTIONS = Object.entries(GUARD_FUNCTIONS).map(
  ([name, { migration, hash }]) => `('${name}', '${hash}', '${migration}')`,
);

const EXPECTED_INDEXES = UNIQUE_INDEXES.map(
  (each) => `('${each.table}', '${each.index}', '${each.over}', '${createIndex(each)}')`,
);
const EXPECTED_RLS = BOOK_TABLES.map((table) => `('${table}')`);

/** How many are looked at, functions not counted. */
export const GUARD_COUNT = GUARDS.length + UNIQUE_INDEXES.length + BOOK_TABLES.length;

/**
 * SELECT of the guards that are not in place: guard, what is wrong with it (state), how to put it back (repair), and
 * whether that is SQL to run as it stands (is_sql), and whether it is wrong whatever version migrated the database
 * (is_wrong_in_any). By name and not by regclass, which asks for rights that whoever only
 * looks may lack; the function's schema from the catalog, because pg_get_triggerdef names it only outside the search_path.
 */
export const GUARD_FAULTS = `
  select format('trigger %s on payments.%s', g.trigger, g."table") as guard,
         case when t.tgname is null then 'is missing'
              when not t.is_ours then 'was replaced by another'
              when t.tgenabled = 'D' then 'is disabled'
              else 'is not enabled always' end as state,
         case when t.is_ours then '' else format('create or replace %s execute function payments.%s(); ', g.body, g.runs) end || g.enable as repair,
         true as is_sql, coalesce(t.is_ours, false) as is_wrong_in_any
  from (values ${EXPECTED_TRIGGERS.join(', ')}) as g ("table", trigger, body, runs, enable)
  left join lateral (
    select x.tgname, x.tgenabled,
           split_part(lower(pg_get_triggerdef(x.oid)), ' execute function ', 1) = 'create ' || g.body
             and x.tgnargs = 0 and p.proname = g.runs and f.nspname = 'payments' as is_ours
    from pg_trigger x
    join pg_class c on c.oid = x.tgrelid
    join pg_namespace n on n.oid = c.relnamespace
    join pg_proc p on p.oid = x.tgfoid
    join pg_namespace f on f.oid = p.pronamespace
    where n.nspname = 'payments' and c.relname = g."table" and x.tgname = g.trigger and not x.tgisinternal
  ) t on true
  where t.tgenabled is distinct from 'A' or not t.is_ours
  union all
  select format('function payments.%s', g.name),
         case when count(p.oid) = 0 then 'is missing' else 'was given another body or other settings' end,
         format('run its definition in migrations/%s.sql as "create or replace"', g.migration), false, false
  from (values ${EXPECTED_FUNCTIONS.join(', ')}) as g (name, hash, migration)
  left join (pg_proc p join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'payments') on p.proname = g.name
  group by g.name, g.hash, g.migration
  having coalesce(bool_or(encode(sha256(convert_to(${BODY_OF}, 'UTF8')), 'hex') <> g.hash), true)
  union all
  select format('index %s on payments.%s', g.index, g."table"),
         case when x.over is null then 'is missing' else 'is not unique, not valid or over something else' end,
         case when x.over is null then g.repair else format('drop it, and run: %s', g.repair) end, x.over is null, false
  from (values ${EXPECTED_INDEXES.join(', ')}) as g ("table", index, over, repair)
  left join lateral (
    select split_part(pg_get_indexdef(i.indexrelid), ' USING btree ', 2) as over,
           i.indisunique and i.indisvalid and i.indisready and i.indislive as is_sound
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_class r on r.oid = i.indrelid
    join pg_namespace n on n.oid = r.relnamespace and n.nspname = 'payments'
    where c.relname = g.index and r.relname = g."table"
  ) x on true
  where x.over is distinct from g.over or not x.is_sound
  union all
  select format('row-level security of payments.%s', g."table"), 'is off',
         format('alter table payments.%s enable row level security', g."table"), true, false
  from (values ${EXPECTED_RLS.join(', ')}) as g ("table")
  join (pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'payments') on c.relname = g."table"
  where not c.relrowsecurity
  order by is_sql desc, guard`;

/** Whether every guard is in place, for `liventix doctor`. */
export async function judgeGuards(db: Queryable): Promise<Finding> {
  const ledger = await db.query(
    `select from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'payments' and c.relname = 'events'`,
  );
  if (ledger.rowCount === 0) return { result: 'skipped', found: 'the database has no ledger yet' };
  const { rows: differences } = await db.query<GuardFault>(GUARD_FAULTS);
  if (differences.length === 0) {
    return {
      result: 'ok',
      found: `all ${GUARD_COUNT} triggers, unique indexes and row-level securities of the ledger are in place, with the functions that they run`,
    };
  }
  const rows = (await isOfThisVersion(db)) ? differences : differences.filter((fault) => fault.is_wrong_in_any);
  if (rows.length === 0) {
    return { result: 'skipped', found: 'they differ, as the applied migrations do from those of this version' };
  }
  const repairs = rows.filter(({ is_sql }) => is_sql).map(({ repair }) => `${repair};`);
  const restores = rows.filter(({ is_sql }) => !is_sql);
  return {
    result: 'failed',
    found: rows.map(({ guard, state }) => `${guard} ${state}`).join('; '),
    todo: [
      ...(repairs.length === 0 ? [] : [`Run as the tables' owner: ${repairs.join(' ')}`]),
      ...restores.map(({ guard, repair }) => `Restore ${guard.replace('function ', '')}: ${repair}.`),
      'Then see what changed meanwhile: liventix books verify',
    ].join(' '),
  };
}

/** Whoever may not see which migrations are applied is told of every difference. */
async function isOfThisVersion(db: Queryable): Promise<boolean> {
  try {
    const { pending, unknown } = await migrationStatus(db);
    return pending.length + unknown.length === 0;
  } catch (error) {
    if (toAppError(error).code === 'DB_PERMISSION_DENIED') return true;
    throw error;
  }
}

interface GuardFault {
  readonly guard: string;
  readonly state: string;
  readonly repair: string;
  readonly is_sql: boolean;
  readonly is_wrong_in_any: boolean;
}
