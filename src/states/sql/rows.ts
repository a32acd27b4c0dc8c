import type { Account, Edge, Guard, Machine } from '../machine.ts';
import { topicOf } from '../machine.ts';
import { insert, literal, literalOrNull, names, ofParameters } from './literals.ts';

/** What a machine is in the tables of the schema `states`, beside its own row: one INSERT a table. */
export function rowsSql(machine: Machine): string {
  const own = literal(machine.name);
  const { accounts = {}, bookings = {}, kept } = machine.money ?? {};
  const booked = Object.entries(bookings).flatMap(([event, booking]) => (booking ? [{ event, booking }] : []));
  return [
    insert(
      'states.parties',
      ['machine', 'role', 'condition'],
      Object.entries(machine.roles).map(([role, condition]) => [own, literal(role), literal(ofParameters(condition))]),
    ),
    insert(
      'states.guards',
      ['machine', 'name', 'condition', 'says'],
      machine.guards.map((guard) => [own, literal(guard.name), literal(conditionOf(guard)), literal(guard.says)]),
    ),
    insert(
      'states.edges',
      [
        'machine',
        'from_state',
        'to_state',
        'event',
        'topic',
        'roles',
        'guards',
        'has_effects',
        'organization',
        'is_of_event',
      ],
      machine.edges.map((edge) => [
        own,
        ...[edge.from, edge.to, edge.event, topicOf(machine, edge)].map(literal),
        names(['platform', ...(edge.by ?? [])]),
        names(edge.guards ?? []),
        String(hasEffects(machine, edge)),
        literalOrNull(machine.organization && `select ($1).${machine.organization.column}`),
        String(machine.organization?.ofEvent === true),
      ]),
    ),
    insert(
      'states.accounts',
      ['machine', 'name', 'request'],
      Object.entries(accounts).map(([name, account]) => [own, literal(name), literal(accountRequestSql(account))]),
    ),
    insert(
      'states.bookings',
      ['machine', 'event', 'reverses', 'reference_type'],
      booked.map(({ event, booking }) => [
        own,
        literal(event),
        literalOrNull('reverses' in booking ? booking.reverses : undefined),
        literal(booking.reference),
      ]),
    ),
    insert(
      'states.lines',
      ['machine', 'event', 'number', 'account', 'side', 'amount_cents'],
      booked.flatMap(({ event, booking }) =>
        ('lines' in booking ? booking.lines : []).map(({ account, side, cents }, index) => [
          own,
          literal(event),
          String(index + 1),
          ...[account, side, ofParameters(cents)].map(literal),
        ]),
      ),
    ),
    insert(
      'states.kept_accounts',
      ['machine', 'account', 'amount_cents', 'in_states', 'frozen_states', 'filled_by', 'fixed_columns'],
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
    ),
  ].join('');
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
