import type { Machine } from './machine.ts';
import { statesOf } from './machine.ts';

/** The database bounds what it takes for a name. */
const NAME = /^[a-z][a-z0-9_]{0,30}$/;
const RESERVED_EVENTS = ['created', 'adopted', 'deleted'];

/** What is wrong with declarations, which types alone do not refuse: a sentence each, naming the machine. */
export function findDeclarationFaults(machines: readonly Machine[]): readonly string[] {
  const names = machines.map(({ name }) => name);
  const twice = names.filter((name, index) => names.indexOf(name) !== index);
  return [
    ...twice.map((name) => `Two machines are called ${name}.`),
    ...machines.flatMap((machine) => faultsOf(machine).map((fault) => `Machine ${machine.name}: ${fault}.`)),
  ];
}

function faultsOf(machine: Machine): readonly string[] {
  return [...nameFaults(machine), ...edgeFaults(machine), ...labelFaults(machine), ...moneyFaults(machine)];
}

function nameFaults({ name, states, events, roles, initial }: Machine): readonly string[] {
  const all = [name, ...Object.keys(states), ...Object.keys(events), ...Object.keys(roles)];
  return [
    ...all
      .filter((each) => !NAME.test(each))
      .map((each) => `${JSON.stringify(each)} is no name: it has a-z, 0-9, _ and begins with a letter`),
    ...Object.keys(events)
      .filter((event) => RESERVED_EVENTS.includes(event))
      .map((event) => `the history has ${event} for itself`),
    ...(Object.keys(roles).includes('platform') ? ['platform is every machine’s role already'] : []),
    ...(initial.length === 0 ? ['it begins nowhere'] : []),
    ...initial
      .filter((state) => states[state] === undefined)
      .map((state) => `it begins as ${state}, which it does not have`),
  ];
}

function edgeFaults(machine: Machine): readonly string[] {
  const { edges, events, roles, guards, initial } = machine;
  const states = statesOf(machine);
  const texts = edges.map(({ from, event, to }) => ({
    way: `${from} -> ${to}`,
    at: `${event} from ${from}`,
  }));
  const twice = (key: 'way' | 'at') =>
    texts
      .filter((each, index) => texts.findIndex((other) => other[key] === each[key]) !== index)
      .map((each) => each[key]);
  return [
    ...edges.flatMap(({ from, event, to, by = [], guards: needs = [] }) => {
      const unknown = [
        ...[from, to].filter((state) => !states.includes(state)),
        ...(events[event] === undefined ? [event] : []),
        ...by.filter((role) => roles[role] === undefined),
        ...needs.filter((name) => guards.every((guard) => guard.name !== name)),
      ];
      return unknown.map((name) => `${from} -${event}-> ${to} names ${name}, which it does not have`);
    }),
    ...edges
      .filter(({ from, to }) => from === to)
      .map(({ from, event }) => `${event} leads from ${from} to itself, which no trigger sees`),
    ...twice('way').map((way) => `two edges lead ${way}: nobody could tell by which event`),
    ...twice('at').map((at) => `two edges are taken by ${at}`),
    ...Object.keys(events)
      .filter((event) => edges.every((edge) => edge.event !== event))
      .map((event) => `no edge is taken by ${event}`),
    ...states
      .filter((state) => !initial.includes(state) && edges.every(({ to }) => to !== state))
      .map((state) => `no edge leads to ${state}`),
  ];
}

function labelFaults(machine: Machine): readonly string[] {
  const { old } = machine;
  if (old === undefined) return [];
  const states = statesOf(machine);
  const shown = Object.values(old.labels).flat();
  return [
    ...shown
      .filter((state) => !states.includes(state))
      .map((state) => `a label stands for ${state}, which it does not have`),
    ...states.filter((state) => !shown.includes(state)).map((state) => `no label shows ${state} to old code`),
  ];
}

function moneyFaults(machine: Machine): readonly string[] {
  const { money, events } = machine;
  if (money === undefined) return [];
  const states = statesOf(machine);
  const { accounts, bookings, kept } = money;
  const named = Object.values(bookings).flatMap((booking) =>
    booking && 'lines' in booking ? booking.lines.map(({ account }) => account) : [],
  );
  const keptStates = kept === undefined ? [] : [...kept.inStates, ...kept.frozenIn];
  return [
    ...Object.keys(bookings)
      .filter((event) => events[event] === undefined)
      .map((event) => `it books ${event}, which it does not have`),
    ...[...named, ...(kept === undefined ? [] : [kept.account])]
      .filter((account) => accounts[account] === undefined)
      .map((account) => `it books on the account ${account}, which it does not have`),
    ...Object.entries(bookings).flatMap(([event, booking]) =>
      booking && 'lines' in booking && booking.lines.filter(({ cents }) => cents === undefined).length > 1
        ? [`two lines of ${event} have what the others come to`]
        : [],
    ),
    ...Object.values(bookings).flatMap((booking) =>
      booking && 'reverses' in booking && bookings[booking.reverses] === undefined
        ? [`it reverses ${booking.reverses}, which books nothing`]
        : [],
    ),
    ...keptStates
      .filter((state) => !states.includes(state))
      .map((state) => `its account is kept in ${state}, which it does not have`),
    ...(kept !== undefined && bookings[kept.filledBy] === undefined
      ? [`its account is filled by ${kept.filledBy}, which books nothing`]
      : []),
  ];
}
