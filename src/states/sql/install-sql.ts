import { createHash } from 'node:crypto';
import type { Machine } from '../machine.ts';
import { identifier, literal, literals, ofAlias } from './literals.ts';
import { accountRequestSql } from './rows.ts';

/** A trigger of an installed machine. */
export interface MachineTrigger {
  readonly name: string;
  /** With its schema. */
  readonly table: string;
  /** What follows its name and its table, to the function that it runs. */
  readonly when: string;
  readonly runs: string;
}

/**
 * The triggers of a machine on its table and, where it keeps accounts, on the ledger. By their names, those that follow old labels are the last
 * of their kind, so that they see what other triggers made of a row, and those that judge the first, before others change it further; of
 * these the one that keeps what was paid for as it was.
 */
export function triggersOf(machine: Machine, table: string): readonly MachineTrigger[] {
  const argument = literal(machine.name);
  const on = (name: string, timing: string, condition: string, runs: string): MachineTrigger => ({
    name,
    table,
    when: `${timing} on ${table} for each row${condition === '' ? '' : ` when (${condition})`}`,
    runs,
  });
  return [
    ...labelTriggers(machine, on),
    on('00_liventix_state_begins', 'after insert', '', `states.begin_history(${argument})`),
    on(
      '00_liventix_state_changes',
      'after update',
      'old.state is distinct from new.state or old.id <> new.id',
      `states.take_transition(${argument})`,
    ),
    on('00_liventix_state_ends', 'after delete', '', `states.end_history(${argument})`),
    {
      name: '00_liventix_state_stays',
      table,
      when: `before truncate on ${table} for each statement`,
      runs: `states.refuse_truncate(${argument})`,
    },
    ...keptTriggers(machine, on),
  ];
}

type OnRow = (name: string, timing: string, condition: string, runs: string) => MachineTrigger;

function labelTriggers({ name, old }: Machine, on: OnRow): readonly MachineTrigger[] {
  if (old === undefined) return [];
  return [
    on('zz_liventix_state_follows', 'before update', '', `states.${name}_follow()`),
    on('zz_liventix_state_new', 'before insert', '', `states.${name}_take_in()`),
  ];
}

/** While rows of before the machine are taken in: the last is the last that it fires for. */
export const takingInTrigger = ({ name }: Machine, table: string): MachineTrigger => ({
  name: 'zz_liventix_state_old',
  table,
  when: `before update on ${table} for each row when (old.state is null)`,
  runs: `states.${name}_take_in()`,
});

function keptTriggers({ name, money }: Machine, on: OnRow): readonly MachineTrigger[] {
  const { kept, accounts = {} } = money ?? {};
  if (kept === undefined) return [];
  const type = literal(accounts[kept.account]?.type ?? '');
  const of = (side: string) => `(${kept.fixed.map((column) => `${side}.${column}`).join(', ')})`;
  const onLedger = (trigger: string, relation: string, rows: string, runs: string): MachineTrigger => ({
    name: trigger,
    table: `payments.${relation}`,
    when: `after insert on payments.${relation} ${rows}`,
    runs: `states.${runs}(${type})`,
  });
  return [
    on(
      '00_liventix_state_as_paid',
      'after update',
      `(old.state is null or old.state in (${literals(kept.inStates)})) and ${of('old')} is distinct from ${of('new')}`,
      `states.check_fixed_columns(${literal(name)})`,
    ),
    onLedger('accounts_of_kept', 'accounts', 'for each row', 'check_kept_accounts'),
    onLedger(
      'entries_of_kept',
      'entries',
      'referencing new table as new_entries for each statement',
      'check_kept_entries',
    ),
    onLedger('account_changes_of_kept', 'account_changes', 'for each row', 'check_kept_changes'),
    onLedger('hold_entries_of_kept', 'hold_entries', "for each row when (new.kind <> 'expired')", 'check_kept_holds'),
  ];
}

/** Tells a trigger from one of another declaration: it is the comment of the trigger. */
export const fingerprintOf = ({ name, table, when, runs }: MachineTrigger): string =>
  `liventix ${createHash('sha256').update([name, table, when, runs].join('\n')).digest('hex').slice(0, 16)}`;

/** Makes a trigger, and keeps it on where session_replication_role is replica. */
export function createTriggerSql(trigger: MachineTrigger): readonly string[] {
  const { name, table, when, runs } = trigger;
  return [
    `create or replace trigger ${identifier(name)} ${when} execute function ${runs}`,
    `alter table ${table} enable always trigger ${identifier(name)}`,
    `comment on trigger ${identifier(name)} on ${table} is ${literal(fingerprintOf(trigger))}`,
  ];
}

export const dropTriggerSql = ({ name, table }: MachineTrigger): string =>
  `drop trigger if exists ${identifier(name)} on ${table}`;

/** SQL of how many rows that are not taken in yet stand under which old label, and what they become. */
export function surveySql(
  { name, old }: Machine,
  table: { readonly name: string; readonly hasState: boolean },
): string {
  return `
    select ${labelOf(old)} as label, states.adopted_state(${literal(name)}, t.id, t) as state, count(*) as rows
    from ${table.name} t
    ${table.hasState ? 'where t.state is null' : ''}
    group by 1, 2
    order by 1, 2`;
}

/**
 * SQL that takes in the next rows, so many, from the id $1 on: how many of which label are in which state now, and the id of the last; one
 * row whose `last` is null where there were none.
 */
export function takeInSql({ name, old }: Machine, table: string, rows: number): string {
  return `
    with batch as materialized (
      select t.id, states.adopted_state(${literal(name)}, t.id, t) as state from ${table} t
      where t.id >= $1 and t.state is null
      order by t.id
      limit ${rows}
    ), taken as (
      update ${table} t set state = b.state::states.${name}_state
      from batch b
      where t.id = b.id and t.state is null
      returning ${labelOf(old)} as label, t.state::text as state
    )
    select t.label, t.state, count(t.state) as rows, (select b.id::text from batch b order by b.id desc limit 1) as last
    from (select) one left join taken t on true
    group by t.label, t.state`;
}

/** SQL of the old label of a row `t`. */
const labelOf = (old: Machine['old']) => (old === undefined ? 'null::text' : `t.${old.column}::text`);

/** SQL of what rows that are not taken in yet imply in accounts that have nothing, by currency; undefined for a machine that keeps none. */
export function impliedMoneySql(
  machine: Machine,
  table: { readonly name: string; readonly hasState: boolean },
): string | undefined {
  const { kept, accounts = {} } = machine.money ?? {};
  const account = kept && accounts[kept.account];
  if (kept === undefined || account === undefined) return undefined;
  return `
    select r.request ->> 'currency' as currency, count(*) as rows, sum(r.cents)::bigint as "amountCents"
    from (
      select jsonb_strip_nulls(${ofAlias(accountRequestSql(account))}) as request, (${ofAlias(kept.cents)})::bigint as cents
      from ${table.name} t
      where ${table.hasState ? 't.state is null and ' : ''}states.adopted_state(${literal(machine.name)}, t.id, t) in (${literals(kept.inStates)})
    ) r
    where states.balance_of(states.account_id(r.request)) = 0 and r.cents <> 0
    group by 1
    order by 1`;
}
