import { AppError, type ErrorCode } from '../errors.ts';
import type { Edge, Guard, Machine } from './machine.ts';
import { guardsOf, statesOf, takersOf, terminalStates } from './machine.ts';

/**
 * What the database will answer, before it is asked: the same edges, roles and guards, refused by the same codes. It is there to answer
 * sooner and more kindly, and never in the trigger's place.
 */
export type Judgement<State extends string = string> =
  | { readonly allowed: true; readonly to: State }
  | { readonly allowed: false; readonly code: ErrorCode; readonly message: string };

/** A change as far as the caller knows it. */
export interface Asked {
  /** As the message names the row. */
  readonly id?: string | undefined;
  /** The roles of whoever asks, `platform` among them; not looked at, when left out. */
  readonly roles?: readonly string[] | undefined;
  /** The row, with the columns that guards look at; guards are not looked at, when left out. */
  readonly row?: Readonly<Record<string, unknown>> | undefined;
}

/** The edges that leave a state. @throws AppError STATE_UNKNOWN */
export function next<State extends string, Event extends string, Role extends string>(
  machine: Machine<State, Event, Role>,
  state: string,
): readonly Edge<State, Event, Role>[] {
  assertState(machine, state);
  return machine.edges.filter(({ from }) => from === state);
}

/** Whether an edge leads from one state to the other. @throws AppError STATE_UNKNOWN */
export function canTransition(machine: Machine, from: string, to: string): boolean {
  assertState(machine, to);
  return next(machine, from).some((edge) => edge.to === to);
}

/**
 * The state that an event leads to.
 * @throws AppError STATE_UNKNOWN, STATE_EVENT_UNKNOWN, STATE_EDGE_REFUSED, STATE_ROLE_REFUSED, STATE_GUARD_REFUSED
 */
export function transition<State extends string, Event extends string>(
  machine: Machine<State, Event>,
  state: NoInfer<State>,
  event: NoInfer<Event>,
  asked: Asked = {},
): State {
  const judgement = judgeEvent(machine, state, event, asked);
  if (judgement.allowed) return judgement.to;
  throw new AppError(judgement.code, judgement.message);
}

/** Whether an event may happen to a row in a state. */
export function judgeEvent<State extends string>(
  machine: Machine<State>,
  state: string,
  event: string,
  asked: Asked = {},
): Judgement<State> {
  const unknown = unknownState(machine, state) ?? unknownEvent(machine, event);
  if (unknown !== undefined) return unknown;
  const edge = machine.edges.find((each) => each.from === state && each.event === event);
  if (edge !== undefined) return judgeEdge(machine, edge, asked);
  return refused(
    'STATE_EDGE_REFUSED',
    `${event} cannot happen to ${named(machine, asked)}, which is ${state}. From ${state} it may go to: ${waysFrom(machine, state)}.`,
  );
}

/** Whether a row may be changed from one state to another, by whichever event leads there. */
export function judgeChange<State extends string>(
  machine: Machine<State>,
  from: string,
  to: string | null,
  asked: Asked = {},
): Judgement<State> {
  if (to === null) {
    return refused('STATE_NULL_REFUSED', `The state of ${named(machine, asked)} is ${from}, and cannot become null.`);
  }
  const unknown = unknownState(machine, from) ?? unknownState(machine, to);
  if (unknown !== undefined) return unknown;
  const edge = machine.edges.find((each) => each.from === from && each.to === to);
  if (edge !== undefined) return judgeEdge(machine, edge, asked);
  return refused(
    'STATE_EDGE_REFUSED',
    `${named(machine, asked)} cannot go from ${from} to ${to}. From ${from} it may go to: ${waysFrom(machine, from)}.`,
  );
}

/**
 * Whether a row may begin in a state. Null is what an INSERT says that leaves it out: a row with an old label begins as that says, which is
 * taken to be its default.
 */
export function judgeBeginning<State extends string>(
  machine: Machine<State>,
  state: string | null,
  asked: Asked = {},
): Judgement<State> {
  const begins = `it begins as ${machine.initial.join(' or ')}`;
  if (state === null && machine.old === undefined) {
    return refused('STATE_NULL_REFUSED', `The state of ${named(machine, asked)} is null: ${begins}.`);
  }
  const wanted = state ?? machine.initial[0] ?? '';
  const initial = machine.initial.find((each) => each === wanted);
  if (initial === undefined) {
    return (
      unknownState(machine, wanted) ??
      refused('STATE_INITIAL_REFUSED', `${named(machine, asked)} cannot begin as ${wanted}: ${begins}.`)
    );
  }
  const ways = machine.edges.filter(({ to }) => to === initial);
  const guards = machine.guards.filter(
    ({ name }) => ways.length > 0 && ways.every((way) => way.guards?.includes(name)),
  );
  const broken = findBroken(guards, asked);
  if (broken === undefined) return { allowed: true, to: initial };
  return guardRefused(`beginning as ${initial}`, machine, broken, asked);
}

function judgeEdge<State extends string>(machine: Machine<State>, edge: Edge<State>, asked: Asked): Judgement<State> {
  const { roles } = asked;
  const { event, to } = edge;
  const may = takersOf(edge);
  if (roles !== undefined && !roles.some((role) => may.includes(role))) {
    const is = roles.length === 0 ? 'none that has a part in it' : roles.join(', ');
    return refused(
      'STATE_ROLE_REFUSED',
      `${event} of ${named(machine, asked)} is for: ${may.join(', ')}. The caller is: ${is}.`,
    );
  }
  const broken = findBroken(guardsOf(machine, edge), asked);
  return broken === undefined ? { allowed: true, to } : guardRefused(event, machine, broken, asked);
}

/** The first, by name, that does not hold of the row. */
function findBroken(guards: readonly Guard[], { row }: Asked): Guard | undefined {
  if (row === undefined) return undefined;
  return guards.toSorted((one, other) => (one.name < other.name ? -1 : 1)).find((guard) => !holds(guard, row));
}

const guardRefused = (event: string, machine: Machine, { says }: Guard, asked: Asked): Refusal =>
  refused('STATE_GUARD_REFUSED', `${event} of ${named(machine, asked)} needs that ${says}.`);

function holds({ column, is, than }: Guard, row: Readonly<Record<string, unknown>>): boolean {
  const [left, right] = [numberOf(row[column]), typeof than === 'number' ? than : numberOf(row[than.column])];
  // As in SQL, where a comparison with null does not hold.
  if (left === undefined || right === undefined) return false;
  switch (is) {
    case '>':
      return left > right;
    case '>=':
      return left >= right;
    case '<=':
      return left <= right;
    case '<':
      return left < right;
  }
}

const numberOf = (value: unknown): number | bigint | undefined =>
  typeof value === 'number' || typeof value === 'bigint' ? value : undefined;

const named = ({ name }: Machine, { id }: Asked) => (id === undefined ? `this ${name}` : `${name} ${id}`);

/** Where a row may go from a state, as a message says it. */
function waysFrom({ edges }: Machine, state: string): string {
  const ways = edges.filter(({ from }) => from === state).map(({ to, event }) => `${to} (${event})`);
  return ways.length === 0 ? 'nowhere, it is final' : ways.sort().join(', ');
}

function assertState(machine: Machine, state: string): void {
  const unknown = unknownState(machine, state);
  if (unknown !== undefined) throw new AppError(unknown.code, unknown.message);
}

type Refusal = Extract<Judgement, { allowed: false }>;

function unknownState(machine: Machine, state: string): Refusal | undefined {
  const states = statesOf(machine);
  if (states.includes(state)) return undefined;
  const meant = states.find((each) => each === state.toLowerCase());
  const hint = meant === undefined ? `It has: ${states.join(', ')}` : `Write ${meant}`;
  return refused('STATE_UNKNOWN', `Machine ${machine.name} has no state ${shown(state)}. ${hint}.`);
}

function unknownEvent(machine: Machine, event: string): Refusal | undefined {
  const events = Object.keys(machine.events).sort();
  if (events.includes(event)) return undefined;
  const meant = events.find((each) => each === event.toLowerCase());
  const hint = meant === undefined ? `It has: ${events.join(', ')}` : `Write ${meant}`;
  return refused('STATE_EVENT_UNKNOWN', `Machine ${machine.name} has no event ${shown(event)}. ${hint}.`);
}

const shown = (text: string) => JSON.stringify(text.slice(0, 100));
const refused = (code: ErrorCode, message: string): Refusal => ({ allowed: false, code, message });

/** Whether nothing can happen any more to what is in a state. @throws AppError STATE_UNKNOWN */
export function isTerminal(machine: Machine, state: string): boolean {
  assertState(machine, state);
  return terminalStates(machine).includes(state);
}
