import type { Finding } from '../db/diagnosis.ts';
import type { Queryable } from '../db/pool.ts';

export interface Guard {
  readonly table: string;
  readonly trigger: string;
  readonly fires: string;
  readonly does: string;
}

const ANY_CHANGE = 'before delete or update or truncate';
const REFUSE = 'for each statement execute function payments.refuse_change()';
const CHECK_BALANCES =
  'referencing new table as changed for each statement execute function payments.check_changed_balances()';

/**
 * Every trigger that the migrations put on the ledger's tables, as PostgreSQL spells it back; all of them are enabled
 * always. A test compares the list with a fresh migration.
 */
export const GUARDS: readonly Guard[] = [
  { table: 'account_types', trigger: 'account_types_append_only', fires: ANY_CHANGE, does: REFUSE },
  { table: 'accounts', trigger: 'accounts_append_only', fires: ANY_CHANGE, does: REFUSE },
  { table: 'balances', trigger: 'balances_follow_entries', fires: 'after update', does: CHECK_BALANCES },
  { table: 'balances', trigger: 'balances_not_removed', fires: 'before delete or truncate', does: REFUSE },
  { table: 'balances', trigger: 'balances_start_at_entries', fires: 'after insert', does: CHECK_BALANCES },
  { table: 'entries', trigger: 'entries_append_only', fires: ANY_CHANGE, does: REFUSE },
  {
    table: 'entries',
    trigger: 'entries_whole_transactions',
    fires: 'after insert',
    does: 'referencing new table as new_entries for each statement execute function payments.check_new_entries()',
  },
  { table: 'events', trigger: 'events_append_only', fires: ANY_CHANGE, does: REFUSE },
];

const EXPECTED = GUARDS.map(({ table, trigger, fires, does }) => {
  const body = `trigger ${trigger} ${fires} on payments.${table} ${does}`;
  return `('${table}', '${trigger}', '${body}', 'alter table payments.${table} enable always trigger ${trigger}')`;
});

/**
 * SELECT of the guards that are not in place: table, trigger, what is wrong with it (state), and the SQL that puts it back
 * (repair). By name and not by regclass, which asks for rights that whoever only looks may lack.
 */
export const GUARD_FAULTS = `
  select g."table", g.trigger,
         case when t.tgname is null then 'is missing'
              when lower(t.definition) <> 'create ' || g.body then 'was replaced by another'
              when t.tgenabled = 'D' then 'is disabled'
              else 'is not enabled always' end as state,
         case when lower(t.definition) = 'create ' || g.body then '' else 'create or replace ' || g.body || '; ' end || g.enable as repair
  from (values ${EXPECTED.join(', ')}) as g ("table", trigger, body, enable)
  left join (
    select c.relname, x.tgname, x.tgenabled, pg_get_triggerdef(x.oid) as definition
    from pg_trigger x
    join pg_class c on c.oid = x.tgrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'payments' and not x.tgisinternal
  ) t on (t.relname, t.tgname) = (g."table", g.trigger)
  where t.tgenabled is distinct from 'A' or lower(t.definition) <> 'create ' || g.body
  order by g."table", g.trigger`;

/** Whether every guard is in place, for `liventix doctor`. */
export async function judgeGuards(db: Queryable): Promise<Finding> {
  const ledger = await db.query(
    `select from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'payments' and c.relname = 'events'`,
  );
  if (ledger.rowCount === 0) return { result: 'skipped', found: 'the database has no ledger yet' };
  const { rows } = await db.query<{ table: string; trigger: string; state: string; repair: string }>(GUARD_FAULTS);
  if (rows.length === 0) return { result: 'ok', found: `all ${GUARDS.length} triggers of the ledger are in place` };
  const faults = rows.map(({ table, trigger, state }) => `trigger ${trigger} on payments.${table} ${state}`);
  return {
    result: 'failed',
    found: faults.join('; '),
    todo: `Run as the tables' owner: ${rows.map(({ repair }) => `${repair};`).join(' ')} Then see what changed meanwhile: liventix books verify`,
  };
}
