import type { Machine, OldLabels } from '../machine.ts';
import { literal, literals, ofParameters } from './literals.ts';

/** SQL of the state of a row of before the machine, the row being $1, and $2 the state that its history ends in. */
export function adoptedStateSql({ name, old, initial }: Machine): string {
  if (old === undefined) return `coalesce($2, ${literal(initial[0] ?? '')})`;
  const said = `states.${name}_said(($1).${old.column}::text, $2)`;
  return old.withoutLabel === undefined ? said : `coalesce(${said}, $2, ${ofParameters(old.withoutLabel)})`;
}

/** The functions by which `state` and the old label follow each other; nothing for a machine without old labels. */
export function labelsSql(machine: Machine): string {
  const { name, table, old, initial } = machine;
  if (old === undefined) return '';
  const column = `${table}.${old.column}`;
  return `
-- What a label of ${column} says of the state. One that may stand for several says the present one, where that is among them.
create or replace function states.${name}_said(p_label text, p_present text) returns text
language sql immutable parallel safe
return case p_label
${saidCases(old)}
end;

-- The label that shows a state to old code: the present one, where that may stand for it.
create or replace function states.${name}_shown(p_state text, p_present text) returns text
language sql immutable parallel safe
return case p_state
${shownCases(machine, old)}
end;

-- Before each update: where the state changes, old code sees what it is; where old code changes the label, the state follows. Without a
-- WHEN, which PostgreSQL reads anew for each statement: that takes longer than this.
create or replace function states.${name}_follow() returns trigger
language plpgsql security definer as $$
begin
  if new.state operator(pg_catalog.<>) old.state then
    new.${old.column} := states.${name}_shown(new.state::pg_catalog.text, new.${old.column}::pg_catalog.text);
  elsif old.state is not null and new.${old.column} is not null
    and (old.${old.column} is null or new.${old.column} operator(pg_catalog.<>) old.${old.column})
  then
    new.state := states.${name}_said(new.${old.column}::pg_catalog.text, new.state::pg_catalog.text);
    if new.state is null then
      perform states.refuse_label(${literal(name)}, new.id, new.${old.column}::pg_catalog.text);
    end if;
  elsif new.${old.column} is null and old.${old.column} is not null then
    new.${old.column} := states.${name}_shown(new.state::pg_catalog.text, null);
  end if;
  return new;
end $$;

-- Before an insert, and before an update of a row of before the machine.
create or replace function states.${name}_take_in() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_state states.${name}_state := new.state;
  v_present text;
begin
  if tg_op = 'INSERT' and v_state is null then
    new.state := case when new.${old.column} is null then ${literal(initial[0] ?? '')} else states.${name}_said(new.${old.column}::text, null) end;
    if new.state is null then
      perform states.refuse_label(${literal(name)}, new.id, new.${old.column}::text);
    end if;
  elsif tg_op = 'INSERT' then
    new.${old.column} := states.${name}_shown(v_state::text, new.${old.column}::text);
  elsif v_state is null then
    v_present := states.adopted_state(${literal(name)}, old.id, old);
    new.state := case when new.${old.column} is distinct from old.${old.column}
      then states.${name}_said(new.${old.column}::text, v_present) else v_present end;
  elsif current_setting('liventix.taking_in', true) = ${literal(name)} then
    -- By the installation, and nothing else of it changes, whatever other triggers made of it.
    new := old;
    new.state := v_state;
  else
    new.${old.column} := states.${name}_shown(v_state::text, new.${old.column}::text);
  end if;
  return new;
end $$;
`;
}

function saidCases({ labels }: OldLabels): string {
  return casesOf(Object.entries(labels));
}

function shownCases({ states }: Machine, { labels }: OldLabels): string {
  return casesOf(Object.keys(states).map((state) => [state, labelsOf(state, labels)]));
}

/** Of several values it is the first, unless it is one of the others already. */
function casesOf(cases: readonly (readonly [string, readonly string[]])[]): string {
  return cases
    .map(([when, [own = '', ...further]]) => {
      const otherwise = literal(own);
      const isOther = `case when p_present in (${literals(further)}) then p_present else ${otherwise} end`;
      return `  when ${literal(when)} then ${further.length === 0 ? otherwise : isOther}`;
    })
    .join('\n');
}

/** The labels that may stand for a state, first the one that it is shown by: one that says it by itself, if there is. */
function labelsOf(state: string, labels: OldLabels['labels']): readonly string[] {
  const all = Object.keys(labels).filter((label) => labels[label]?.includes(state));
  const saysItself = (label: string) => labels[label]?.[0] === state;
  return [...all.filter(saysItself), ...all.filter((label) => !saysItself(label))];
}
