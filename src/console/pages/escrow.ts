import { z } from 'zod';
import { AppError } from '../../errors.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, type View } from '../../html/view.ts';
import { type BookedEntry, bookedBy } from '../../states/booked.ts';
import { type HistoryEntry, listHistory } from '../../states/history.ts';
import { type Machine, statesOf } from '../../states/machine.ts';
import { machineNamed } from '../../states/machines.ts';
import {
  countMachines,
  type Faults,
  findMachineFaults,
  type Held,
  listRowsIn,
  type MachineCounts,
  MOST_ADDED_UP,
  MOST_COUNTED,
  type RowInState,
  type StateCount,
  type StateStanding,
  standingOf,
} from '../../states/standing.ts';
import { fromCursor, ID, NUMBER, toCursor } from '../cursor.ts';
import { exported, type List, listOf, tableOf } from '../list.ts';
import { type Ask, definePage } from '../page.ts';
import { badge, copyable, facts, instant, linkedId, money, tiles } from '../parts.ts';
import { LIST_FIELDS, uuid } from '../query.ts';
import { seenWhole } from '../seen-whole.ts';

/** As a path has it: what is not taken in has no state that a name could be of. */
const NOT_TAKEN_IN = 'not-taken-in';

/** Money that waits for something, and whatever else goes from state to state. */
export const escrowPage = definePage({
  section: 'escrow',
  path: '/escrow',
  query: z.object({}),
  show: async ({ reader, view }) => {
    const machines = await seenWhole(countMachines(reader));
    const faults = await findMachineFaults(reader);
    const bodies: Markup[] = [];
    for (const counts of machines.filter(({ machine }) => machine.money?.kept !== undefined)) {
      const standings = counts.states === undefined ? [] : await standingOf(reader, counts.machine);
      bodies.push(machineWithMoney(counts, standings, view));
    }
    return {
      title: 'Escrow',
      body: html`${faults.map((fault) => html`<p class="bad">${fault}</p>`)}
${bodies}
<h2>All machines</h2>
${tableOf('Machines', machineColumns(view), machines)}`,
    };
  },
});

function machineWithMoney(
  { machine, table, states }: MachineCounts,
  standings: readonly StateStanding[],
  view: View,
): Markup {
  const about = html`<p class="faint">${machine.about}</p>`;
  if (table === null) {
    return html`${about}<p class="empty">The machine is on no table. To put it on one: <code>liventix states install ${machine.name}</code></p>`;
  }
  if (states === undefined) {
    return html`${about}<p class="warn">The table ${table} is large, and has no index by which its rows could be counted by state while a page loads. To make one, beside those who use the table: <code>create index concurrently on ${table} (state, id)</code>. What is held in all: <a href="/books/1">the trial balance</a>.</p>`;
  }
  const rows = states.map((count) => ({
    ...count,
    standing: standings.find(({ state }) => state === count.state),
    machine,
  }));
  return html`${about}
${heldTiles(standings, view)}
${tableOf(`Rows of ${machine.name} by state`, stateColumns(view), rows)}
${wrongs(machine, standings, view)}`;
}

function heldTiles(standings: readonly StateStanding[], view: View): Markup {
  const isAll = standings.every((standing) => standing.isAll);
  const held = new Map<string, Held>();
  for (const each of standings.flatMap((standing) => standing.held)) {
    held.set(each.currency, { ...each, cents: each.cents + (held.get(each.currency)?.cents ?? 0n) });
  }
  if (held.size === 0) return html`<p>Nothing is held${isAll ? '' : ' for the rows that were looked at'}.</p>`;
  const what = isAll
    ? 'held in escrow'
    : `held in escrow for the first ${formatCount(MOST_ADDED_UP, view)} rows of each state; there are more`;
  return tiles([...held.values()].map((each) => ({ figure: money(each, view), what, href: '/books/1' })));
}

type StateRow = StateCount & { readonly standing: StateStanding | undefined; readonly machine: Machine };

const stateColumns = (view: View) => [
  {
    name: 'state',
    title: 'State',
    text: ({ state }: StateRow) => state,
    cell: ({ state, machine }: StateRow) =>
      html`<a href="/escrow/${machine.name}/${state ?? NOT_TAKEN_IN}">${state ?? 'not taken in'}</a>`,
  },
  {
    name: 'means',
    title: 'Means',
    text: ({ state, machine }: StateRow) =>
      state === null ? 'there since before the machine, and not judged by it' : (machine.states[state] ?? ''),
  },
  {
    name: 'rows',
    title: 'Rows',
    isNumber: true,
    text: ({ rows }: StateRow) => rows,
    cell: (count: StateRow) => rowsText(count, view),
  },
  {
    name: 'held',
    title: 'Held',
    isNumber: true,
    text: ({ standing }: StateRow) => heldText(standing?.held ?? []),
    cell: ({ standing }: StateRow) => heldOf(standing, view),
  },
  {
    name: 'oldest',
    title: 'The oldest is there since',
    text: ({ standing }: StateRow) => standing?.oldestAt ?? null,
    cell: ({ standing }: StateRow) =>
      standing === undefined || standing.isAll ? instant(standing?.oldestAt ?? null, view) : '–',
  },
];

const rowsText = ({ rows, isAll }: StateCount, view: View): string =>
  isAll ? formatCount(rows, view) : `more than ${formatCount(MOST_COUNTED, view)}`;

const heldText = (held: readonly Held[]): string => held.map(({ cents, currency }) => `${cents} ${currency}`).join(' ');

function heldOf(standing: StateStanding | undefined, view: View): Markup | string {
  if (standing === undefined || standing.held.length === 0) return '–';
  const amounts = standing.held.map((held) => html`<div>${money(held, view)}</div>`);
  return standing.isAll
    ? html`${amounts}`
    : html`${amounts}<div class="faint">by its first ${formatCount(MOST_ADDED_UP, view)} rows</div>`;
}

const WRONG: readonly (readonly [fault: keyof Faults, words: string])[] = [
  ['strayed', 'their history ends in another state'],
  ['keeping', 'they keep money that their state does not imply'],
  ['empty', 'they keep no money, and their state implies some'],
  ['misfrozen', 'their account is frozen where it should be open, or open where it should be frozen'],
];

function wrongs(machine: Machine, standings: readonly StateStanding[], view: View): Markup {
  const found = standings.flatMap((standing) =>
    WRONG.filter(([fault]) => standing.state !== null && standing[fault] > 0n).map(
      ([fault, words]) =>
        html`<p class="bad">${formatCount(standing[fault], view)} of those that are ${standing.state ?? ''}: ${words}.</p>`,
    ),
  );
  const left = standings.some(({ state }) => state === null)
    ? html`<p class="warn">Rows of before the machine are not taken in yet: <code>liventix states install ${machine.name}</code></p>`
    : '';
  const looked = 'What is in each account is compared with the amount of its row by';
  return html`${left}${found}${found.length === 0 ? html`<p>${badge('nothing found', 'good')} No row is seen to be in another state than its history, or to keep money that it should not.</p>` : ''}
<p class="faint">${looked} <code>liventix states verify</code>, and with the books: <a href="/books/verifications">verifications</a>.</p>`;
}

const machineColumns = (view: View) => [
  {
    name: 'machine',
    title: 'Machine',
    text: ({ machine }: MachineCounts) => machine.name,
    cell: ({ machine }: MachineCounts) => html`<strong>${machine.name}</strong>`,
  },
  {
    name: 'table',
    title: 'On',
    text: ({ table }: MachineCounts) => table,
    cell: ({ table, machine }: MachineCounts) =>
      table === null
        ? html`no table: <code>liventix states install ${machine.name}</code>`
        : html`<code>${table}</code>`,
  },
  {
    name: 'states',
    title: 'Rows by state',
    text: () => '',
    cell: ({ machine, table, states }: MachineCounts) => {
      if (states !== undefined)
        return html`${states.map((count, nth) => html`${nth === 0 ? '' : ' · '}${stateLink(machine, count, view)}`)}`;
      return table === null ? '–' : html`too many: <code>create index concurrently on ${table} (state, id)</code>`;
    },
  },
];

const stateLink = (machine: Machine, count: StateCount, view: View): Markup =>
  html`<a href="/escrow/${machine.name}/${count.state ?? NOT_TAKEN_IN}">${count.state ?? 'not taken in'}</a> ${rowsText(count, view)}`;

const NAME = z.string().max(100);

export const stateRowsPage = definePage({
  section: 'escrow',
  path: '/escrow/:machine/:state',
  query: z.object({ machine: NAME, state: NAME, ...LIST_FIELDS }),
  show: async (ask, query) => {
    const machine = machineNamed(query.machine);
    const state = query.state === NOT_TAKEN_IN ? null : query.state;
    if (state !== null && !statesOf(machine).includes(state)) {
      throw new AppError(
        'CONSOLE_NOT_FOUND',
        `${machine.name} has no state ${state}. It has: ${statesOf(machine).join(', ')}.`,
      );
    }
    const list = rowList(ask, machine, state);
    if (query.export !== undefined) return exported(list, query.export);
    const body = await listOf(list, ask, query);
    const means = state === null ? 'there since before the machine, and not judged by it' : machine.states[state];
    return {
      title: `${machine.name}: ${state ?? 'not taken in'}`,
      body: html`<p>${machine.about}</p><p class="faint">${state ?? 'not taken in'}: ${means ?? ''}</p>${body}`,
    };
  },
});

const rowList = ({ reader, view }: Ask, machine: Machine, state: string | null): List<RowInState> => ({
  name: `${machine.name} ${state ?? 'not taken in'}`,
  empty: 'No row is in this state.',
  columns: [
    {
      name: 'id',
      title: 'Row',
      text: ({ id }) => id,
      cell: ({ id }) => linkedId(`/escrow/${machine.name}/rows/${id}`, id),
    },
    {
      name: 'since',
      title: 'Since',
      text: ({ changedAt }) => changedAt,
      cell: ({ changedAt }) => instant(changedAt, view),
    },
    { name: 'event', title: 'By', text: ({ event }) => event, cell: ({ event }) => event ?? '–' },
    { name: 'changed_by', title: 'Of', text: ({ changedBy }) => changedBy, cell: ({ changedBy }) => changedBy ?? '–' },
    ...(machine.money?.kept === undefined ? [] : heldColumns(view)),
  ],
  fetch: async (cursor, limit) => {
    const [after] = cursor === undefined ? [] : fromCursor(cursor, [ID]);
    const rows = await seenWhole(listRowsIn(reader, machine, { state, after, limit }));
    const last = rows.at(-1);
    return { rows, next: rows.length < limit || last === undefined ? undefined : toCursor([last.id]) };
  },
});

const heldColumns = (view: View) => [
  {
    name: 'held_cents',
    title: 'Held',
    isNumber: true,
    text: ({ cents }: RowInState) => cents,
    cell: (row: RowInState) => {
      const amount = moneyOf(row);
      return amount === undefined ? '–' : money(amount, view);
    },
  },
  { name: 'currency', text: ({ currency }: RowInState) => currency },
  {
    name: 'account',
    title: 'Account',
    text: ({ accountId }: RowInState) => accountId,
    cell: ({ accountId }: RowInState) => (accountId === null ? '–' : linkedId(`/accounts/1/${accountId}`, accountId)),
  },
];

function moneyOf({ cents, currency, decimalPlaces }: RowInState): Held | undefined {
  return cents === null || currency === null || decimalPlaces === null ? undefined : { cents, currency, decimalPlaces };
}

/** A change of a row, and what it posted. */
type Change = HistoryEntry & { readonly booked: readonly BookedEntry[] };

export const rowPage = definePage({
  section: 'escrow',
  path: '/escrow/:machine/rows/:id',
  query: z.object({ machine: NAME, id: uuid, ...LIST_FIELDS }),
  show: async (ask, query) => {
    const machine = machineNamed(query.machine);
    const { id } = query;
    const [last] = await listHistory(ask.reader, machine, { id, limit: 1 });
    if (last === undefined) {
      throw new AppError(
        'CONSOLE_NOT_FOUND',
        `There is no history of ${machine.name} ${id}. Check the id, and whether the machine is installed: /escrow`,
      );
    }
    const list = historyList(ask, machine, id);
    if (query.export !== undefined) return exported(list, query.export);
    return {
      title: `${machine.name} ${id}`,
      body: html`${facts([
        ['Row', copyable(id)],
        ['State', last.to === null ? 'its row was deleted' : `${last.to}: ${machine.states[last.to] ?? ''}`],
        ['Since', instant(last.changedAt, ask.view)],
        ['What it is', machine.about],
      ])}
<h2>What happened</h2>
${await listOf(list, ask, query)}`,
    };
  },
});

const historyList = ({ reader, view }: Ask, machine: Machine, id: string): List<Change> => ({
  name: `History of ${machine.name} ${id}`,
  empty: 'Nothing happened.',
  columns: [
    { name: 'change', text: ({ historyId }) => historyId },
    {
      name: 'changed_at',
      title: 'When',
      text: ({ changedAt }) => changedAt,
      cell: ({ changedAt }) => instant(changedAt, view),
    },
    {
      name: 'event',
      title: 'What',
      text: ({ event }) => event,
      cell: ({ event, from, to }) =>
        html`<strong>${event}</strong><div>${from ?? 'nothing'} → ${to ?? 'nothing'}</div>`,
    },
    { name: 'from', text: ({ from }) => from },
    { name: 'to', text: ({ to }) => to },
    { name: 'role', text: ({ role }) => role },
    {
      name: 'changed_by',
      title: 'By',
      text: ({ changedBy }) => changedBy,
      cell: ({ changedBy, role }) => html`${changedBy}<div class="faint">as ${role}</div>`,
    },
    { name: 'reason', title: 'Reason', text: ({ reason }) => reason, cell: ({ reason }) => reason ?? '–' },
    {
      name: 'message',
      title: 'Announced by',
      text: ({ messageId }) => messageId,
      cell: ({ messageId }) => (messageId === null ? '–' : linkedId(`/outbox/messages/${messageId}`, messageId)),
    },
    {
      name: 'transactions',
      title: 'Posted',
      text: ({ booked }) => transactionsOf(booked).join(' '),
      cell: ({ booked }) => bookedOf(booked, view),
    },
  ],
  fetch: async (cursor, limit) => {
    const [before] = cursor === undefined ? [] : fromCursor(cursor, [NUMBER]);
    const changes: Change[] = [];
    for (const change of await listHistory(reader, machine, { id, before, limit })) {
      changes.push({ ...change, booked: await bookedBy(reader, { id, historyId: change.historyId }) });
    }
    const last = changes.at(-1);
    return {
      rows: changes,
      next: changes.length < limit || last === undefined ? undefined : toCursor([last.historyId]),
    };
  },
});

const transactionsOf = (booked: readonly BookedEntry[]): readonly string[] => [
  ...new Set(booked.map(({ transactionId }) => transactionId)),
];

function bookedOf(booked: readonly BookedEntry[], view: View): Markup | string {
  if (booked.length === 0) return '–';
  return html`${transactionsOf(booked).map((id) => html`<div>${linkedId(`/transactions/1/${id}`, id)}</div>`)}
${booked.map(({ side, account, accountId, amountCents: cents, currency, decimalPlaces }) => html`<div>${side} <a href="/accounts/1/${accountId}">${account}</a> ${money({ cents, currency, decimalPlaces }, view)}</div>`)}`;
}
