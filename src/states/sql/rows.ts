import type { Account, Edge, Guard, Machine } from '../machine.ts';
import { takersOf, topicOf } from '../machine.ts';
import { insert, literal, literalOrNull, names, ofParameters } from './literals.ts';

/** Rows of one table of the schema `states`, each value as SQL writes it. */
interface TableRows {
  readonly table: string;
  /** Its columns, by name, with their types. */
  readonly columns: Readonly<Record<string, 'text' | 'text[]' | 'boolean' | 'integer'>>;
  readonly rows: readonly (readonly string[])[];
}

/** What a machine is in the tables of the schema `states`, beside its own row: one INSERT a table. */
export const rowsSql = (machine: Machine): string =>
  tablesOf(machine)
    .map(({ table, columns, rows }) => insert(`states.${table}`, Object.keys(columns), rows))
    .join('');

/** SELECT of one text a row that the database has and the declaration has not, or the other way round. */
export function differingRowsSql(machine: Machine): string {
  const selects = tablesOf(machine).map(({ table, columns, rows }) => {
    const [names, types] = [Object.keys(columns), Object.values(columns)];
    const there = `select ${names.join(', ')} from states.${table} where machine = ${literal(machine.name)}`;
    const typed = rows.map((row) => `(${row.map((value, nth) => `${value}::${types[nth]}`).join(', ')})`);
    const declared =
      rows.length === 0
        ? `select ${types.map((type) => `null::${type}`).join(', ')} where false`
        : `select * from (values ${typed.join(', ')}) as d (${names.join(', ')})`;
    const text = (what: string, one: string, other: string) =>
      `select format('states.${table} ${what}: %s', x::text) from ((${one}) except (${other})) x`;
    return `${text('has what is not declared', there, declared)} union all ${text('lacks what is declared', declared, there)}`;
  });
  return selects.join(' union all ');
}

function tablesOf(machine: Machine): readonly TableRows[] {
  const own = literal(machine.name);
  const { accounts = {}, bookings = {}, kept } = machine.money ?? {};
  const booked = Object.entries(bookings).flatMap(([event, booking]) => (booking ? [{ event, booking }] : []));
  return [
    {
      table: 'parties',
      columns: { machine: 'text', role: 'text', condition: 'text' },
      rows: Object.entries(machine.roles).map(([role, condition]) => [
        own,
        literal(role),
        literal(ofParameters(condition)),
      ]),
    },
    {
      table: 'guards',
      columns: { machine: 'text', name: 'text', condition: 'text', says: 'text' },
      rows: machine.guards.map((guard) => [own, ...[guard.name, conditionOf(guard), guard.says].map(literal)]),
    },
    {
      table: 'edges',
      columns: {
        machine: 'text',
        from_state: 'text',
        to_state: 'text',
        event: 'text',
        topic: 'text',
        roles: 'text[]',
        guards: 'text[]',
        has_effects: 'boolean',
        organization: 'text',
        is_of_event: 'boolean',
      },
      rows: machine.edges.map((edge) => [
        own,
        ...[edge.from, edge.to, edge.event, topicOf(machine, edge)].map(literal),
        names(takersOf(edge)),
        names(edge.guards ?? []),
        String(hasEffects(machine, edge)),
        literalOrNull(machine.organization && `select ($1).${machine.organization.column}`),
        String(machine.organization?.ofEvent === true),
      ]),
    },
    {
      table: 'accounts',
      columns: { machine: 'text', name: 'text', request: 'text' },
      rows: Object.entries(accounts).map(([name, account]) => [
        own,
        literal(name),
        literal(accountRequestSql(account)),
      ]),
    },
    {
      table: 'bookings',
      columns: { machine: 'text', event: 'text', reverses: 'text', reference_type: 'text', reference_id: 'text' },
      rows: booked.map(({ event, booking }) => [
        own,
        literal(event),
        literalOrNull('reverses' in booking ? booking.reverses : undefined),
        literal(booking.reference),
        literal(ofParameters(booking.referenceId ?? 'row.id')),
      ]),
    },
    {
      table: 'lines',
      columns: {
        machine: 'text',
        event: 'text',
        number: 'integer',
        account: 'text',
        side: 'text',
        amount_cents: 'text',
      },
      rows: booked.flatMap(({ event, booking }) =>
        ('lines' in booking ? booking.lines : []).map(({ account, side, cents }, index) => [
          own,
          literal(event),
          String(index + 1),
          literal(account),
          literal(side),
          literalOrNull(cents && ofParameters(cents)),
        ]),
      ),
    },
    {
      table: 'kept_accounts',
      columns: {
        machine: 'text',
        account: 'text',
        amount_cents: 'text',
        in_states: 'text[]',
        frozen_states: 'text[]',
        filled_by: 'text',
        fixed_columns: 'text[]',
      },
      rows:
        kept === undefined
          ? []
          : [
              [
                own,
                literal(kept.account),
                literal(ofParameters(kept.cents)),
                names(kept.inStates),
                names(kept.frozenIn),
                literal(kept.filledBy),
                names(kept.fixed),
              ],
            ],
    },
  ];
}

/** Tables of `rowsSql`, such that no row is deleted before those that refer to it. */
export const TABLES_OF_ROWS = ['kept_accounts', 'lines', 'bookings', 'accounts', 'edges', 'guards', 'parties'] as const;

function conditionOf({ column, is, than }: Guard): string {
  const bound = typeof than === 'number' ? String(than) : `($1).${than.column}`;
  return `($1).${column} ${is} ${bound}`;
}

// Every change of a row that keeps an account is judged by what is in it.
function hasEffects({ money }: Machine, { event }: Edge): boolean {
  return money?.kept !== undefined || money?.bookings[event] !== undefined;
}

/** SQL of an account as payments.open_accounts takes it, the row being $1. */
export function accountRequestSql({ type, name, currency, owner, neverBelowZero }: Account): string {
  const floor = neverBelowZero ? `, 'floor_cents', 0` : '';
  const request = `jsonb_build_object('type', ${literal(type)}, 'currency', ${currency}, 'name', ${name}${floor})`;
  return ofParameters(owner === undefined ? request : `${request} || ${owner}`);
}
