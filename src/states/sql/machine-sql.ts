import { isDeepStrictEqual } from 'node:util';
import { AppError } from '../../errors.ts';
import type { Machine } from '../machine.ts';
import { statesOf, takersOf } from '../machine.ts';
import { adoptedStateSql, labelsSql } from './labels.ts';
import { insert, literal, literalOrNull, literals, names } from './literals.ts';
import { rowsSql, TABLES_OF_ROWS } from './rows.ts';

/**
 * The SQL of a migration that brings machines from one declaration to another: new ones are created, and those that differ are changed, on
 * a table with rows as well.
 * @throws AppError STATE_DECLARATION_INVALID where a machine or a state would be gone: rows and their history may be in it
 */
export function migrationSql(before: readonly Machine[], after: readonly Machine[]): string {
  const gone = before.find(({ name }) => after.every((machine) => machine.name !== name));
  if (gone !== undefined) {
    throw new AppError('STATE_DECLARATION_INVALID', `Machine ${gone.name} is gone: its rows would have no edges left.`);
  }
  const parts = after.flatMap((machine) => {
    const former = before.find(({ name }) => name === machine.name);
    if (former === undefined) return [creationSql(machine)];
    return isDeepStrictEqual(former, machine) ? [] : [changeSql(former, machine)];
  });
  const about = '-- Generated from src/states/machines/ by npm run states, as they were declared then.\n';
  return `${about}${parts.join('')}\nselect states.keep_from_guests();\n`;
}

function creationSql(machine: Machine): string {
  const { name, about, table } = machine;
  const columns = machineColumns(machine);
  return `${heading(machine)}
create type states.${name}_state as enum (${literals(statesOf(machine))});
${commentSql(machine)}
${insert('states.machines', Object.keys(columns), [Object.values(columns)])}${rowsSql(machine)}${labelsSql(machine)}
create view states.${name}_history with (security_invoker = true) as
select id, subject_id, from_state::states.${name}_state, to_state::states.${name}_state, event, role, changed_by, changed_at, reason, message_id
from states.history
where machine = ${literal(name)};
comment on view states.${name}_history is ${literal(`Every change of state of every row of ${table}: ${about}`)};
`;
}

function changeSql(former: Machine, machine: Machine): string {
  const { name } = machine;
  const assignments = Object.entries(machineColumns(machine))
    .filter(([column]) => column !== 'name')
    .map(([column, value]) => `${column} = ${value}`);
  const deletes = TABLES_OF_ROWS.map((table) => `delete from states.${table} where machine = ${literal(name)};\n`);
  return `${heading(machine)}
${newStatesSql(former, machine)}${commentSql(machine)}
update states.machines
set ${assignments.join(',\n    ')}
where name = ${literal(name)};
${deletes.join('')}${rowsSql(machine)}${labelsSql(machine)}`;
}

/** Each new state goes where it is declared, behind the one before it. */
function newStatesSql(former: Machine, machine: Machine): string {
  const [known, states] = [statesOf(former), statesOf(machine)];
  const gone = known.filter((state) => !states.includes(state));
  if (gone.length > 0) {
    throw new AppError(
      'STATE_DECLARATION_INVALID',
      `Machine ${machine.name} has no state ${gone.join(', ')} any more: rows and their history may be in it. Keep it, and take the edges that lead to it.`,
    );
  }
  const firstKnown = states.find((state) => known.includes(state)) ?? '';
  return states
    .map((state, index) => ({ state, former: states[index - 1] }))
    .filter(({ state }) => !known.includes(state))
    .map(({ state, former: before }) => {
      const place = before === undefined ? `before ${literal(firstKnown)}` : `after ${literal(before)}`;
      return `alter type states.${machine.name}_state add value ${literal(state)} ${place};\n`;
    })
    .join('');
}

function machineColumns(machine: Machine): Readonly<Record<string, string>> {
  const { name, about, table, initial, old } = machine;
  return {
    name: literal(name),
    about: literal(about),
    table_name: literal(table),
    state_type: literal(`states.${name}_state`),
    initial_states: names(initial),
    label_column: literalOrNull(old?.column),
    adopted_state: literal(adoptedStateSql(machine)),
  };
}

function commentSql({ name, states }: Machine): string {
  const meanings = Object.entries(states).map(([state, meaning]) => `${state}: ${meaning}`);
  return `comment on type states.${name}_state is ${literal(meanings.join('; '))};\n`;
}

function heading({ name, about, edges, initial }: Machine): string {
  const rule = `-- ${'-'.repeat(Math.max(3, 116 - name.length))} ${name}`;
  const width = (values: readonly string[]) => Math.max(...values.map((value) => value.length));
  const [from, event, to] = [edges.map((e) => e.from), edges.map((e) => e.event), edges.map((e) => e.to)].map(width);
  const lines = edges.map(
    (edge) =>
      `--   ${edge.from.padEnd(from ?? 0)}  ${edge.event.padEnd(event ?? 0)}  → ${edge.to.padEnd(to ?? 0)}  ${takersOf(edge).join(', ')}`,
  );
  return `
${rule}
-- ${about} It begins as ${initial.join(' or ')}.
--
${lines.join('\n')}
`;
}
