import type { Finding } from '../db/diagnosis.ts';
import { migrationStatus } from '../db/migrate.ts';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import {
  BOOK_POLICY,
  BOOK_TABLES,
  CONSTRAINTS,
  constraintRepair,
  type Declaration,
  indexRepair,
  policyRepair,
  UNIQUE_INDEXES,
} from './constraints.ts';

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
 * The functions that the guards consist of, those that say whose book it is, those that seal, and all that `books verify` asks: the migration that last gave each its
 * body, and the SHA-256 of what it does. Tests compare them with a fresh migration, and with what a verification asks; they print what the
 * hashes must be.
 */
export const GUARD_FUNCTIONS = {
  books_of: {
    migration: '0014_input',
    hash: 'eea9a84bf1f013d449078f43160c9ddc3410226a86b7c53b2e8bac85d0526150',
  },
  certificate_hash: {
    migration: '0019_bodies_as_text',
    hash: 'fbdc5ae863127297ced3969022fda93026a7c373cad11963a5f6cbbf54e2d584',
  },
  certificate_text: {
    migration: '0019_bodies_as_text',
    hash: '94afa463d0be261996a204b99d5d16385d3d2d124261ffd1add10c5b682e4b56',
  },
  certificates_of: {
    migration: '0022_races_slots_and_grants',
    hash: '4a1bf3e7bf62e6d3113bfb60c17f99122f49c1fe404abd6175026e6607111003',
  },
  chain_hash: {
    migration: '0016_rare_events',
    hash: '01cfbd0fda55cdc830e4f1eaa196d4d3fbabd6d601ae4a60679a1cbb90711db7',
  },
  changed_since_sealed: {
    migration: '0012_seals',
    hash: '6a2be8ca8d7f45264d7813b40c0257c5a26bf9945c8cd70207b168fa513afaa8',
  },
  check_account_state: {
    migration: '0015_balances_know_their_currency',
    hash: '555bbd3ad3d4208692df77fe68609b508434d0a88b5bf82deae5a4f981c80e8b',
  },
  check_book: {
    migration: '0010_history',
    hash: '0d6f33066f5cfce1940e4ca503a884699083bb8578b62fac7d32a427d29f213f',
  },
  check_call: {
    migration: '0014_input',
    hash: '2645c4d52177d280a9e392fc1a5382aef4c52ea058408120bee0ce9cf911cd45',
  },
  check_changed_balances: {
    migration: '0021_bounds_of_posting',
    hash: 'ff75dd3b1d1d7e0a870efcf806cb2751a0ad572d0f99361d404c47bdb3d3f7ca',
  },
  check_changed_books: {
    migration: '0010_history',
    hash: '7fd3885223d0291bc758ebd4d2e1c9b9f2d57adb4abe33dd9ea3fd6ebfb7c24d',
  },
  check_changed_holds: {
    migration: '0007_limits_holds_reversals',
    hash: '39b26ad90b4cac5470ac478c782ba140c6e918ead8bc0ffa45bfd09751b796e6',
  },
  check_new_entries: {
    migration: '0015_balances_know_their_currency',
    hash: 'e2229a50dd18dc5045ca0da0ef24de8d306857903d3df77c58865d3559e46f3c',
  },
  check_new_history: {
    migration: '0007_limits_holds_reversals',
    hash: '484f3218601556518358c0c9b4efeca81fb8210285384da12913aa76dad7df72',
  },
  check_new_periods: {
    migration: '0010_history',
    hash: 'c705aaa0152c06c75ea5bc0946d4bc825233bc1a6a472946d9c5cd2a01b76de9',
  },
  check_new_seal: {
    migration: '0012_seals',
    hash: '7221e53f026635de293c1626e4aeba9260367a00d66029838e75ae657e808537',
  },
  check_new_slots: {
    migration: '0037_slots_looked_up',
    hash: '813d203bfd7e87162d08dd56a4928b643906358d378f43ee6b4c368f8e6ce3a0',
  },
  check_sealed_events: {
    migration: '0012_seals',
    hash: '1ddef579bc5e37bd7112d4e1ea4cce979af011eafb20cb885997f6b7e7e4a936',
  },
  count_positions: {
    migration: '0012_seals',
    hash: 'a494e5b2917bb4a8fbefab7e82093b7f0fdec96bad062c468f6edc8cc9020049',
  },
  entries_of: {
    migration: '0019_bodies_as_text',
    hash: 'a4c2bd995966a36030adcbe03110ff2bbb274964fdb13525860ada11be76b1e1',
  },
  event_leaf_hash: {
    migration: '0019_bodies_as_text',
    hash: '52ed2415aa2f13bd77fc15728a772f8c7a884d118d2aab107f15896298ff52e6',
  },
  instant_text: {
    migration: '0019_bodies_as_text',
    hash: 'da3af336adc43c9b59cd739ab9fc9ee40963d1a5acede39a8f60b052f2f6ee89',
  },
  is_member: {
    migration: '0025_announcements_by_column',
    hash: '609335e364ca6acad19e0e7f06ca3ea792158f5e072132fea427cabf3465d506',
  },
  is_slotted: {
    migration: '0017_slots',
    hash: '7e39de25abe4ba7686c6bb66c799d9a49da703a733d1c8f3ce444d37d5083e05',
  },
  limit_passed: {
    migration: '0007_limits_holds_reversals',
    hash: '0556e6b27b3e279acbf428c4f0a8635a10ea006f83ae4e8a792a1f688484c140',
  },
  merkle_append: {
    migration: '0012_seals',
    hash: '01c20d1c4c2dab5b0dd8887efe1241ffd8ff72009b84ed24a2ea2066d1288d81',
  },
  merkle_root: {
    migration: '0012_seals',
    hash: '557e6f8d4cc1609faf255244cb543e6ed7e9d0216c97a72dd5a937514310c91c',
  },
  named_uuid: {
    migration: '0003_ledger_posting',
    hash: 'a3c3cdf58ceda01a3494ac7793b1f8a7fde6e152837d72bdff06748d60fa0e57',
  },
  period_movements: {
    migration: '0014_input',
    hash: '714d50eeebf1ee197fd8f62136692812d5da99e91c9046421157a9f056e3e350',
  },
  raise_code: {
    migration: '0017_slots',
    hash: 'a987a16c343b67ea20ee2f8b2da80e1844b05e67a61ef1793acaa8b5eb85b090',
  },
  raise_seal_code: {
    migration: '0012_seals',
    hash: 'f52358a88d50b967feae8d392c757820579713712616e50d11645ad8ed86dfac',
  },
  refuse_change: {
    migration: '0002_ledger_tables',
    hash: 'bab8602e1f0a6a7d8984178fe07b46d40c9e8d65e492966f3ff175a7aa4a2024',
  },
  seal_events: {
    migration: '0012_seals',
    hash: '53d4ad0ad1d99f21d0c908077731fb6dd71cba4f4bc9e337b141a8e708ba5154',
  },
  seal_hash: {
    migration: '0012_seals',
    hash: '1953bd7a2dd3d59d79085b8420577b788bbbc9b32463914b2a69f5501e06879f',
  },
  try_amount: {
    migration: '0019_bodies_as_text',
    hash: '1cf88948dae1d020028d6fbddb960c8f151895e1524bcc309accd4aad8f60531',
  },
  try_instant: {
    migration: '0008_posting_with_limits',
    hash: '6978314b20a7c377a498baaf8939b43e1a5855c3c0f9a1872015ae1b76732542',
  },
  try_uuid: {
    migration: '0019_bodies_as_text',
    hash: 'cb0f38ac976c07d7e080a1b349bcce85517bad91a2a67fc266e736fe74469857',
  },
} as const;

/**
 * Of a row p of pg_proc: what it does, as text, with the settings and the rights that it runs under. Of an aggregate that is what it is
 * made of: what PostgreSQL has built in has the same ids in all its versions.
 */
export const BODY_OF = `coalesce((
    select concat_ws(' ', a.aggtransfn::oid, a.aggfinalfn::oid, a.aggmtransfn::oid, a.aggtranstype, a.agginitval)
    from pg_aggregate a where a.aggfnoid = p.oid),
    concat_ws(' ', p.prosrc, case when p.prosecdef then 'security definer' end, case when p.proisstrict then 'strict' end, p.provolatile,
              array_to_string(p.proconfig, ' '), (
                select 'of another owner' from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where n.nspname = 'payments' and c.relname = 'events' and c.relowner <> p.proowner)))`;

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

const literal = (text: string) => `'${text.replaceAll("'", "''")}'`;
const valuesOf = (rows: readonly (readonly string[])[]) => rows.map((row) => `(${row.join(', ')})`).join(', ');

const EXPECTED_TRIGGERS = valuesOf(
  GUARDS.map(({ table, trigger, fires, scope, runs }) =>
    [
      table,
      trigger,
      `trigger ${trigger} ${fires} on payments.${table} ${scope}`,
      runs,
      `alter table payments.${table} enable always trigger ${trigger}`,
    ].map(literal),
  ),
);

const EXPECTED_FUNCTIONS = valuesOf(
  Object.entries(GUARD_FUNCTIONS).map(([name, { migration, hash }]) => [name, hash, migration].map(literal)),
);

const declared = (declarations: readonly Declaration[], repair: typeof constraintRepair) =>
  valuesOf(
    declarations.map((each, nth) => [
      `${nth}`,
      ...[each.table, each.name, each.definition, repair(each, false), repair(each, true)].map(literal),
    ]),
  );
const EXPECTED_CONSTRAINTS = declared(CONSTRAINTS, constraintRepair);
const EXPECTED_INDEXES = declared(UNIQUE_INDEXES, indexRepair);
const EXPECTED_POLICIES = valuesOf(BOOK_TABLES.map((table) => [table, policyRepair(table, [])].map(literal)));

/** How many are looked at. */
export const GUARD_COUNT =
  GUARDS.length + CONSTRAINTS.length + UNIQUE_INDEXES.length + BOOK_TABLES.length + Object.keys(GUARD_FUNCTIONS).length;

/**
 * SELECT of the guards that are not in place, in the order in which they have to be put back: guard, what is wrong with it (state), how to
 * put it back (repair), whether that is SQL to run as it stands (is_sql), and whether it is wrong whatever version migrated the database
 * (is_wrong_in_any). By name and not by regclass, which asks for rights that whoever only looks may lack; the schemas of functions and
 * tables from the catalog, because PostgreSQL spells them back only outside the search_path.
 */
export const GUARD_FAULTS = `
  select 0 as rank, format('trigger %s on payments.%s', g.trigger, g."table") as guard,
         case when t.tgname is null then 'is missing'
              when not t.is_ours then 'was replaced by another'
              when t.tgenabled = 'D' then 'is disabled'
              else 'is not enabled always' end as state,
         case when t.is_ours then '' else format('create or replace %s execute function payments.%s(); ', g.body, g.runs) end || g.enable as repair,
         true as is_sql, coalesce(t.is_ours, false) as is_wrong_in_any
  from (values ${EXPECTED_TRIGGERS}) as g ("table", trigger, body, runs, enable)
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
  select 1 + g.nth, format('constraint %s on payments.%s', g.name, g."table"),
         case when x.definition is null then 'is missing' else 'is another one, or is not enforced' end,
         case when x.definition is null then g.when_missing else g.when_there end, true, false
  from (values ${EXPECTED_CONSTRAINTS}) as g (nth, "table", name, definition, when_missing, when_there)
  left join lateral (
    select case when k.contype = 'f'
                then regexp_replace(pg_get_constraintdef(k.oid), ' REFERENCES [^(]+', format(' REFERENCES %s.%s', fn.nspname, f.relname))
                -- As good as one that was validated, for what comes.
                else replace(pg_get_constraintdef(k.oid), ' NOT VALID', '') end as definition,
           not exists (select from pg_trigger t where t.tgconstraint = k.oid and t.tgenabled = 'D')
             and coalesce(i.indisunique and i.indisvalid and i.indisready and i.indislive, k.contype in ('c', 'f')) as is_enforced
    from pg_constraint k
    join pg_class c on c.oid = k.conrelid
    join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'payments'
    left join pg_index i on i.indexrelid = k.conindid and k.contype in ('p', 'u')
    left join (pg_class f join pg_namespace fn on fn.oid = f.relnamespace) on f.oid = k.confrelid
    where c.relname = g."table" and k.conname = g.name
  ) x on true
  where x.definition is distinct from g.definition or not x.is_enforced
  union all
  select 1000 + g.nth, format('index %s on payments.%s', g.name, g."table"),
         case when x.definition is null then 'is missing' else 'is not unique, not valid or over something else' end,
         case when x.definition is null then g.when_missing else g.when_there end, true, false
  from (values ${EXPECTED_INDEXES}) as g (nth, "table", name, definition, when_missing, when_there)
  left join lateral (
    -- Without what only says how it is stored.
    select regexp_replace(split_part(pg_get_indexdef(i.indexrelid), ' USING btree ', 2), ' WITH \\([^)]*\\)', '') as definition,
           i.indisunique and i.indisvalid and i.indisready and i.indislive as is_sound
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_class r on r.oid = i.indrelid
    join pg_namespace n on n.oid = r.relnamespace and n.nspname = 'payments'
    where c.relname = g.name and r.relname = g."table"
  ) x on true
  where x.definition is distinct from g.definition or not x.is_sound
  union all
  select 2000, format('policy of payments.%s', g."table"),
         case when c.relrowsecurity then 'is not the one that shows the books granted' else 'is off' end,
         coalesce(x.drops, '') || g.repair, true, false
  from (values ${EXPECTED_POLICIES}) as g ("table", repair)
  join (pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'payments') on c.relname = g."table"
  cross join lateral (
    select string_agg(format('drop policy %I on payments.%I; ', p.polname, c.relname), '' order by p.polname) as drops,
           count(*) = 1 and bool_and(p.polname = 'books_granted' and p.polcmd = 'r' and p.polpermissive and p.polroles = '{0}'
             and p.polwithcheck is null and replace(pg_get_expr(p.polqual, p.polrelid), 'payments.', '') = ${literal(BOOK_POLICY)}
             and exists (select from pg_depend d join pg_proc b on b.oid = d.refobjid join pg_namespace bn on bn.oid = b.pronamespace
                         where d.classid = 'pg_catalog.pg_policy'::regclass and d.objid = p.oid and b.proname = 'books_of' and bn.nspname = 'payments')) as is_ours
    from pg_policy p where p.polrelid = c.oid
  ) x
  where not c.relrowsecurity or x.is_ours is not true
  union all
  select 3000, format('function payments.%s', g.name),
         case when count(p.oid) = 0 then 'is missing' else 'was given another body, other settings or another owner' end,
         format('run its definition in migrations/%s.sql as "create or replace"', g.migration), false, false
  from (values ${EXPECTED_FUNCTIONS}) as g (name, hash, migration)
  left join (pg_proc p join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'payments') on p.proname = g.name
  group by g.name, g.hash, g.migration
  having coalesce(bool_or(encode(sha256(convert_to(${BODY_OF}, 'UTF8')), 'hex') <> g.hash), true)
  order by rank, guard`;

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
      found: `all ${GUARD_COUNT} triggers, constraints, unique indexes, policies and functions of the ledger's guards are in place`,
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
