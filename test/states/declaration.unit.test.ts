import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { findDeclarationFaults } from '../../src/states/declaration-faults.ts';
import { diagramPage } from '../../src/states/diagram.ts';
import type { EventOf, Machine, RoleOf, StateOf } from '../../src/states/machine.ts';
import { terminalStates } from '../../src/states/machine.ts';
import { campaign } from '../../src/states/machines/campaign.ts';
import { escrow } from '../../src/states/machines/escrow.ts';
import { proposal } from '../../src/states/machines/proposal.ts';
import { ticket } from '../../src/states/machines/ticket.ts';
import { MACHINES, machineNamed } from '../../src/states/machines.ts';
import { canTransition, isTerminal, next, transition } from '../../src/states/mirror.ts';
import { migrationSql } from '../../src/states/sql/machine-sql.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

describe('the machines', () => {
  it('have the states of the plan', () => {
    expect(Object.fromEntries(MACHINES.map(({ name, states }) => [name, Object.keys(states)]))).toEqual({
      escrow: ['pending', 'funded', 'locked', 'released', 'disputed', 'refunded'],
      ticket: ['issued', 'redeemed', 'transferred', 'refunded', 'cancelled'],
      proposal: ['draft', 'sent', 'viewed', 'counter', 'accepted', 'rejected', 'expired'],
      campaign: ['draft', 'scheduled', 'active', 'paused', 'completed', 'cancelled'],
    });
  });

  it('have the edges that the plan wrote down, and no others there', () => {
    const ways = (machine: Machine) => machine.edges.map(({ from, to }) => `${from} -> ${to}`).toSorted();
    expect(ways(escrow)).toEqual(
      [
        'pending -> funded',
        'pending -> refunded',
        'funded -> locked',
        'funded -> refunded',
        'locked -> released',
        'locked -> disputed',
        'disputed -> released',
        'disputed -> refunded',
      ].toSorted(),
    );
    expect(ways(ticket)).toEqual(
      ['redeemed', 'transferred', 'refunded', 'cancelled'].map((to) => `issued -> ${to}`).toSorted(),
    );
  });

  it('can be left from each state by some way to a final one, and reached from the first', () => {
    for (const machine of MACHINES) {
      const reach = (from: readonly string[], step: (edge: { from: string; to: string }) => [string, string]) => {
        const seen = new Set(from);
        for (let grew = true; grew; ) {
          const more = machine.edges.map(step).filter(([a, b]) => seen.has(a) && !seen.has(b));
          grew = more.length > 0;
          for (const [, to] of more) seen.add(to);
        }
        return [...seen].toSorted();
      };
      const all = Object.keys(machine.states).toSorted();
      expect(
        reach(machine.initial, ({ from, to }) => [from, to]),
        machine.name,
      ).toEqual(all);
      expect(
        reach(terminalStates(machine), ({ from, to }) => [to, from]),
        machine.name,
      ).toEqual(all);
    }
  });

  it('are typed by their names', () => {
    const state: StateOf<typeof escrow> = 'funded';
    const event: EventOf<typeof escrow> = 'pay';
    const role: RoleOf<typeof escrow> = 'sponsor';
    // @ts-expect-error No such state.
    const wrong: StateOf<typeof escrow> = 'paid';
    expect([state, event, role, wrong]).toEqual(['funded', 'pay', 'sponsor', 'paid']);
    // @ts-expect-error No such event.
    expect(() => transition(escrow, 'pending', 'paid')).toThrow(
      expect.objectContaining({ code: 'STATE_EVENT_UNKNOWN' }),
    );
  });
});

describe('the mirror', () => {
  it('tells what may come next', () => {
    expect(next(escrow, 'locked').map(({ event, to }) => [event, to])).toEqual([
      ['release', 'released'],
      ['dispute', 'disputed'],
    ]);
    expect(next(escrow, 'released')).toEqual([]);
    expect([isTerminal(escrow, 'released'), isTerminal(escrow, 'locked')]).toEqual([true, false]);
    expect([canTransition(campaign, 'draft', 'active'), canTransition(campaign, 'completed', 'active')]).toEqual([
      true,
      false,
    ]);
    expect(transition(proposal, 'sent', 'accept')).toBe('accepted');
  });

  it.each([
    [
      'a state with another case',
      () => next(escrow, 'Pending'),
      'STATE_UNKNOWN',
      /no state "Pending"\. Write pending\./,
    ],
    [
      'a state that is not there',
      () => canTransition(escrow, 'pending', 'paid'),
      'STATE_UNKNOWN',
      /It has: pending, funded/,
    ],
    [
      'an event at the wrong time',
      () => transition(escrow, 'pending', 'release'),
      'STATE_EDGE_REFUSED',
      /release cannot happen to this escrow, which is pending\. From pending it may go to: funded \(pay\), refunded \(cancel\)\./,
    ],
    ['an end', () => transition(ticket, 'redeemed', 'refund'), 'STATE_EDGE_REFUSED', /nowhere, it is final/],
    [
      'a role',
      () => transition(escrow, 'funded', 'lock', { roles: ['sponsor'] }),
      'STATE_ROLE_REFUSED',
      /lock of this escrow is for: platform, organiser\. The caller is: sponsor\./,
    ],
    [
      'nobody',
      () => transition(escrow, 'locked', 'release', { roles: [] }),
      'STATE_ROLE_REFUSED',
      /none that has a part in it/,
    ],
    [
      'a guard',
      () => transition(escrow, 'pending', 'pay', { id: '7', row: { amount_cents: 0, application_fee_cents: 0 } }),
      'STATE_GUARD_REFUSED',
      /pay of escrow 7 needs that its amount_cents is above 0/,
    ],
    [
      'a column that is null',
      () => transition(escrow, 'pending', 'pay', { row: { amount_cents: null } }),
      'STATE_GUARD_REFUSED',
      /amount_cents/,
    ],
    [
      'a machine',
      () => machineNamed('Escrow'),
      'STATE_MACHINE_UNKNOWN',
      /There are: campaign, escrow, proposal, ticket/,
    ],
  ])('refuses %s', (_what, ask, code, says) => {
    expect(ask).toThrow(expect.objectContaining({ code, message: expect.stringMatching(says) }));
  });
});

describe('a declaration', () => {
  const faulty = (change: Partial<Machine>) =>
    findDeclarationFaults([{ ...(escrow as Machine), ...change }]).join('\n');
  const edge = { from: 'pending', event: 'pay', to: 'funded' };

  it('of ours has no fault', () => {
    expect(findDeclarationFaults(MACHINES)).toEqual([]);
  });

  it.each<[string, Partial<Machine>, RegExp]>([
    ['a name that the database would not take', { name: 'Escrow!' }, /"Escrow!" is no name/],
    ['nowhere to begin', { initial: [] }, /it begins nowhere/],
    ['a beginning that is no state', { initial: ['new'] }, /begins as new, which it does not have/],
    ['an edge to nowhere', { edges: [{ ...edge, to: 'paid' }] }, /names paid, which it does not have/],
    ['an edge of nobody’s event', { edges: [{ ...edge, event: 'buy' }] }, /names buy/],
    ['an edge for nobody', { edges: [{ ...edge, by: ['bank'] }] }, /names bank/],
    ['an edge with an unknown guard', { edges: [{ ...edge, guards: ['luck'] }] }, /names luck/],
    ['an edge to itself', { edges: [{ ...edge, to: 'pending' }] }, /leads from pending to itself/],
    [
      'two ways between two states',
      { edges: [...escrow.edges, { ...edge, event: 'lock' }] },
      /two edges lead pending -> funded/,
    ],
    [
      'two ways by one event',
      { edges: [...escrow.edges, { ...edge, to: 'locked' }] },
      /two edges are taken by pay from pending/,
    ],
    ['a state that nothing leads to', { states: { ...escrow.states, lost: '' } }, /no edge leads to lost/],
    ['a state that old code cannot be shown', { states: { ...escrow.states, lost: '' } }, /no label shows lost/],
    [
      'an event that the history has for itself',
      { events: { ...escrow.events, deleted: '' } },
      /the history has deleted for itself/,
    ],
    ['a role that everybody has', { roles: { platform: 'true' } }, /platform is every machine/],
    [
      'a booking on no account',
      { money: { accounts: {}, bookings: escrow.money?.bookings ?? {} } },
      /books on the account clearing/,
    ],
  ])('is refused for %s', (_what, change, says) => {
    expect(faulty(change)).toMatch(says);
  });

  it('is refused twice of one name', () => {
    expect(findDeclarationFaults([escrow, escrow]).join()).toContain('Two machines are called escrow.');
  });

  it('takes away no state and no machine: rows may be in it', () => {
    const { released: _, ...states } = escrow.states;
    expect(() => migrationSql([escrow], [{ ...escrow, states } as Machine])).toThrow(/has no state released any more/);
    expect(() => migrationSql([escrow], [])).toThrow(/Machine escrow is gone/);
  });
});

describe('what is generated', () => {
  it('is what is committed', () => {
    for (const machine of MACHINES) {
      expect(readFileSync(`${root}docs/states/${machine.name}.md`, 'utf8')).toBe(diagramPage(machine));
    }
    const checked = execFileSync(process.execPath, [`${root}scripts/states.ts`, '--check'], { encoding: 'utf8' });
    expect(checked).toBe('states: 4 machines, 0 files differ from their declarations\n');
  });

  it('is nothing where nothing changed', () => {
    expect(migrationSql(MACHINES, MACHINES)).not.toMatch(/create|insert|alter|update/);
  });
});
