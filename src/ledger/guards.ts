import type { Finding } from '../db/diagnosis.ts';
import { migrationStatus } from '../db/migrate.ts';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';

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
 * The functions that the guards consist of: the migration that last gave each its body, and the body's SHA-256. A test
 * compares them with a fresh migration, and prints what the hashes must be.
 */
export const GUARD_FUNCTIONS = {
  check_changed_balances: {
    migration: '0002_ledger_tables',
    hash: '839b309bee6439c2fce38cb4b3ac98a84151dde0a5cac7b0f5de93696604318a',
  },
  check_new_entries: {
    migration: '0006_the_same_for_less',
    hash: 'edd42af4b7d4c37d0030c2671f04da2150c35b73d93b4bfeef165677a4ca65ed',
  },
  raise_code: {
    migration: '0002_ledger_tables',
    hash: '8eb7879ccd23aaf1b7317d9dbc3861a785f885f888c4d7e0fe8d3715dc770a0e',
  },
  refuse_change: {
    migration: '0002_ledger_tables',
    hash: '3f44e0a27c1d11e6e37b4d3a8e06afc67ff8a45db5138c8ac68015864eeb8f2e',
  },
} as const;

const ANY_CHANGE = 'before delete or update or truncate';
const STATEMENT = 'for each statement';
const CHANGED_ROWS = 'referencing new table as changed for each statement';

/**
 * Every trigger that the migrations put on the ledger's tables, as PostgreSQL spells it back; all of them are enabled
 * always. A test compares the list with a fresh migration.
 */
export const GUARDS: readonly Guard[] = [
  {
    table: 'account_types',
    trigger: 'account_types_append_only',
    fires: ANY_CHANGE,
    scope: STATEMENT,
    runs: 'refuse_change',
  },
  { table: 'accounts', trigger: 'accounts_append_only', fires: ANY_CHANGE, scope: STATEMENT, runs: 'refuse_change' },
  {
    table: 'balances',
    trigger: 'balances_follow_entries',
    fires: 'after update',
    scope: CHANGED_ROWS,
    runs: 'check_changed_balances',
  },
  {
    table: 'balances',
    trigger: 'balances_not_removed',
    fires: 'before delete or truncate',
    scope: STATEMENT,
    runs: 'refuse_change',
  },
  {
    table: 'balances',
    trigger: 'balances_start_at_entries',
    fires: 'after insert',
    scope: CHANGED_ROWS,
    runs: 'check_changed_balances',
  },
  { table: 'entries', trigger: 'entries_append_only', fires: ANY_CHANGE, scope: STATEMENT, runs: 'refuse_change' },
  {
    table: 'entries',
    trigger: 'entries_whole_transactions',
    fires: 'after insert',
    scope: 'referencing new table as new_entries for each statement',
    runs: 'check_new_entries',
  },
  { table: 'events', trigger: 'events_append_only', fires: ANY_CHANGE, scope: STATEMENT, runs: 'refuse_change' },
];

const EXPECTED_TRIGGERS = GUARDS.map(({ table, trigger, fires, scope, runs }) => {
  const body = `trigger ${trigger} ${fires} on payments.${table} ${scope}`;
  return `('${table}', '${trigger}', '${body}', '${runs}', 'alter table payments.${table} enable always trigger ${trigger}')`;
});

const EXPECTED_FUNCTIONS = Object.entries(GUARD_FUNCTIONS).map(
  ([name, { migration, hash }]) => `('${name}', '${hash}', '${migration}')`,
);

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
         case when count(p.oid) = 0 then 'is missing' else 'was given another body' end,
         format('run its definition in migrations/%s.sql as "create or replace function"', g.migration), false, false
  from (values ${EXPECTED_FUNCTIONS.join(', ')}) as g (name, hash, migration)
  left join (pg_proc p join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'payments') on p.proname = g.name
  group by g.name, g.hash, g.migration
  having coalesce(bool_or(encode(sha256(convert_to(p.prosrc, 'UTF8')), 'hex') <> g.hash), true)
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
      found: `all ${GUARDS.length} triggers of the ledger are in place, with the functions that they run`,
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
