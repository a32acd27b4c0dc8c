import { beforeEach, describe, expect, it } from 'vitest';
import { toAppError } from '../../src/db/sqlstate.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { changeAccount } from '../../src/ledger/accounts.ts';
import { openBook } from '../../src/ledger/books.ts';
import { expireHolds, placeHold, voidHold } from '../../src/ledger/holds.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { compareWithRebuild } from '../../src/ledger/rebuild/rebuild.ts';
import { campaign } from '../../src/states/machines/campaign.ts';
import { escrow } from '../../src/states/machines/escrow.ts';
import { ticket } from '../../src/states/machines/ticket.ts';
import { judgeBeginning } from '../../src/states/mirror.ts';
import { transition } from '../../src/states/transition.ts';
import { checkMachines } from '../../src/states/verify.ts';
import { verifyBooks } from '../support/books.ts';
import { asSuperuser, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { waitsForLock } from '../support/locks.ts';
import {
  balances,
  createMachinesDatabase,
  EVENT,
  givenCampaign,
  givenOrder,
  givenRowIn,
  givenTicketOf,
  givenTicketOrder,
  historyOf,
  ORGANIZATION,
  PEOPLE,
  SPONSOR,
  stateOf,
} from '../support/machines.ts';

let database: TestDatabase;
// Anew for each test: sums of all accounts are compared.
beforeEach(async () => {
  database = await createMachinesDatabase();
  return () => database.drop();
});

const run = (sql: string, values: unknown[] = []) =>
  database.pool.query(sql, values).catch((error: unknown) => {
    throw toAppError(error);
  });
const refused = (code: string, says = /./) => expect.objectContaining({ code, message: expect.stringMatching(says) });
const take = (id: string, event: Parameters<typeof transition<string, keyof typeof escrow.events>>[3]) =>
  transition(database.pool, escrow, id, event);
const faults = async () =>
  (await withTransaction(database.pool, (tx) => checkMachines(tx, {}))).flatMap(({ first }) => first);
const escrowAccount = async (id: string) => {
  const { rows } = await run(`select id from payments.accounts where name = 'sponsorship_order:' || $1`, [id]);
  return rows[0]?.id as string;
};

describe('an order and its escrow', () => {
  it('is funded with what the order says, and moves nothing when it is locked', async () => {
    const id = await givenOrder(database.pool);
    await take(id, 'pay');
    const funded = { 'receivable clearing': 50_000n, [`escrow sponsorship_order:${id}`]: 50_000n };
    expect(await balances(database.pool)).toEqual(funded);
    await take(id, 'lock');
    expect(await balances(database.pool)).toEqual(funded);
    const { rows } = await run(`select organization_id, user_id from payments.accounts where id = $1`, [
      await escrowAccount(id),
    ]);
    expect(rows).toEqual([{ organization_id: SPONSOR, user_id: null }]);
  });

  it('is released to the organiser, less the fee that the order records, whatever fees are now', async () => {
    const id = await givenOrder(database.pool, { application_fee_cents: 1 });
    for (const event of ['pay', 'lock', 'release'] as const) await take(id, event);
    expect(await balances(database.pool)).toEqual({
      'receivable clearing': 50_000n,
      'payable sponsorships': 49_999n,
      'revenue sponsorship_fees': 1n,
    });
  });

  it('without a fee, and with all of it for a fee', async () => {
    for (const fee of [0, 50_000]) {
      const id = await givenOrder(database.pool, { application_fee_cents: fee });
      for (const event of ['pay', 'lock', 'release'] as const) await take(id, event);
    }
    expect(await balances(database.pool)).toEqual({
      'receivable clearing': 100_000n,
      'payable sponsorships': 50_000n,
      'revenue sponsorship_fees': 50_000n,
    });
  });

  it.each(['funded', 'disputed'])('is reversed when it is refunded from %s', async (from) => {
    const id = await givenRowIn(database.pool, escrow, from);
    await take(id, 'refund');
    expect(await balances(database.pool)).toEqual({});
    const { rows } = await run('select count(*) as count from payments.reversals');
    expect(rows).toEqual([{ count: 1n }]);
  });

  it('books nothing when it was never paid', async () => {
    const id = await givenOrder(database.pool);
    await take(id, 'cancel');
    expect(await stateOf(database.pool, escrow, id)).toBe('refunded');
    expect((await run('select from payments.events')).rowCount).toBe(0);
  });

  it('is an individual’s where the event is', async () => {
    await run(`update public.events set owner_context_type = 'individual' where id = '${EVENT}'`);
    const id = await givenRowIn(database.pool, escrow, 'released');
    expect(await stateOf(database.pool, escrow, id)).toBe('released');
    const { rows } = await run(`select user_id from payments.accounts where name = 'sponsorships'`);
    expect(rows).toEqual([{ user_id: PEOPLE.organiser }]);
  });

  it('moves its money when old code sets the label, and old code sees the states', async () => {
    const id = await givenOrder(database.pool);
    const label = async () =>
      (await run('select escrow_state from public.sponsorship_orders where id = $1', [id])).rows[0]?.escrow_state;
    await run(`update public.sponsorship_orders set escrow_state = 'funded', status = 'accepted' where id = $1`, [id]);
    expect(await balances(database.pool)).toMatchObject({ [`escrow sponsorship_order:${id}`]: 50_000n });
    await take(id, 'lock');
    expect(await label()).toBe('locked');
    await take(id, 'dispute');
    expect(await label()).toBe('locked');
    await run(`update public.sponsorship_orders set escrow_state = 'refunded' where id = $1`, [id]);
    expect(await stateOf(database.pool, escrow, id)).toBe('refunded');
    expect(await balances(database.pool)).toEqual({});
  });

  it('refers each posting to its order, and each to the change that made it', async () => {
    const id = await givenRowIn(database.pool, escrow, 'released');
    const { rows } = await run(
      `select distinct n.reference_type, n.reference_id, h.event, n.metadata ->> 'history_id' = h.id::text as "isOfHistory"
       from payments.entries n join states.ledger_events l on l.event_id = n.transaction_id join states.history h on h.id = l.history_id
       order by 1`,
    );
    expect(rows).toEqual([
      { reference_type: 'payout', reference_id: id, event: 'release', isOfHistory: true },
      { reference_type: 'sponsorship_order', reference_id: id, event: 'pay', isOfHistory: true },
    ]);
  });
});

describe('a change whose money is refused does not happen', () => {
  const isUntouched = async (id: string, state: string, histories: number) => {
    expect(await stateOf(database.pool, escrow, id)).toBe(state);
    expect(await historyOf(database.pool, id)).toHaveLength(histories);
    expect((await run(`select from public.outbox where payload ->> 'to' = 'released'`)).rowCount).toBe(0);
  };

  it('for want of an amount', async () => {
    const id = await givenOrder(database.pool, { amount_cents: 0, application_fee_cents: 0 });
    await expect(take(id, 'pay')).rejects.toEqual(
      refused('STATE_GUARD_REFUSED', /pay of escrow .* needs that its amount_cents is above 0/),
    );
    await isUntouched(id, 'pending', 1);
  });

  it('for a fee that is more than the amount', async () => {
    for (const fee of [50_001, -1]) {
      const id = await givenOrder(database.pool, { application_fee_cents: fee });
      await expect(take(id, 'pay')).rejects.toEqual(refused('STATE_GUARD_REFUSED', /application_fee_cents is/));
      await isUntouched(id, 'pending', 1);
    }
  });

  it('for an account of the ledger that is frozen', async () => {
    const id = await givenRowIn(database.pool, escrow, 'locked');
    const [payable = ''] = await openAccounts(database.pool, [
      { type: 'payable', currency: 'USD', name: 'sponsorships', organizationId: ORGANIZATION },
    ]);
    await changeAccount(database.pool, { accountId: payable, status: 'frozen' });
    await expect(take(id, 'release')).rejects.toEqual(
      refused('LEDGER_ACCOUNT_FROZEN', /^release of escrow .* is not booked, so it does not happen: /),
    );
    await isUntouched(id, 'locked', 3);
    expect(await balances(database.pool)).toMatchObject({ [`escrow sponsorship_order:${id}`]: 50_000n });
  });

  it('for a currency that nobody knows', async () => {
    await run('alter table public.sponsorship_orders drop constraint sponsorship_orders_currency_chk');
    const id = await givenOrder(database.pool, { currency: 'XYZ' });
    await expect(take(id, 'pay')).rejects.toEqual(refused('LEDGER_CURRENCY_UNKNOWN'));
    await isUntouched(id, 'pending', 1);
  });

  it('for something that throws on its way', async () => {
    const id = await givenOrder(database.pool);
    await run(`create function public.fail() returns trigger language plpgsql as $$ begin raise exception 'no room'; end $$;
      create trigger fails after insert on payments.entries for each statement execute function public.fail()`);
    await expect(take(id, 'pay')).rejects.toEqual(refused('DB_FAILED', /no room/));
    await isUntouched(id, 'pending', 1);
  });

  it('and leaves a transaction that goes on from its savepoint', async () => {
    const [poor, rich] = [await givenOrder(database.pool, { amount_cents: 0 }), await givenOrder(database.pool)];
    await withTransaction(database.pool, async (tx) => {
      await tx.query('savepoint before');
      await expect(transition(tx, escrow, poor, 'pay')).rejects.toEqual(refused('STATE_GUARD_REFUSED'));
      await tx.query('rollback to savepoint before');
      await transition(tx, escrow, rich, 'pay');
    });
    expect(await stateOf(database.pool, escrow, rich)).toBe('funded');
  });

  it('and is booked in a period that is open, whatever was closed', async () => {
    const id = await givenRowIn(database.pool, escrow, 'locked');
    await closePeriod(database.pool, { until: new Date(Date.now() - 86_400_000).toISOString() });
    await take(id, 'release');
    expect(await faults()).toEqual([]);
  });
});

describe('an escrow account', () => {
  it('is posted to by transitions alone', async () => {
    const id = await givenRowIn(database.pool, escrow, 'funded');
    const accountId = await escrowAccount(id);
    const [clearing = ''] = await openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'clearing' },
    ]);
    for (const amountCents of [100n, -100n]) {
      const posting = post(database.pool, {
        entries: [
          { accountId: clearing, amountCents: -amountCents, currency: 'USD' },
          { accountId, amountCents, currency: 'USD' },
        ],
      });
      await expect(posting).rejects.toEqual(refused('STATE_ACCOUNT_KEPT', /A posting of account .* refused/));
    }
    const { rows } = await run(
      `select event_id from states.ledger_events l join payments.entries n on n.transaction_id = l.event_id where subject_id = $1 limit 1`,
      [id],
    );
    await expect(post(database.pool, { reverses: rows[0].event_id })).rejects.toEqual(refused('STATE_ACCOUNT_KEPT'));
    expect(await faults()).toEqual([]);
  });

  it('goes to whom it was paid for, whatever whoever may write the order writes into it on the way', async () => {
    const id = await givenRowIn(database.pool, escrow, 'locked');
    for (const change of [
      'event_id = gen_random_uuid()',
      'application_fee_cents = 0',
      'application_fee_cents = amount_cents',
    ]) {
      await expect(
        run(`update public.sponsorship_orders set ${change}, state = 'released' where id = $1`, [id]),
      ).rejects.toEqual(refused('STATE_MONEY_KEPT'));
    }
    expect(await faults()).toEqual([]);
  });

  it('is opened by nobody beforehand, with limits of his own', async () => {
    const id = await givenOrder(database.pool);
    const opening = openAccounts(database.pool, [
      { type: 'escrow', currency: 'USD', name: `sponsorship_order:${id}`, organizationId: SPONSOR, ceilingCents: 0n },
    ]);
    await expect(opening).rejects.toEqual(refused('STATE_ACCOUNT_KEPT', /The opening of account/));
    await take(id, 'pay');
  });

  it('is as it was in other books', async () => {
    const bookId = await openBook(database.pool, 'other');
    const [clearing = '', other = ''] = await openAccounts(
      database.pool,
      [
        { type: 'receivable', currency: 'USD', name: 'clearing' },
        { type: 'escrow', currency: 'USD', name: 'by_hand' },
      ],
      { bookId },
    );
    await post(
      database.pool,
      {
        entries: [
          { accountId: clearing, amountCents: 5n, currency: 'USD' },
          { accountId: other, amountCents: -5n, currency: 'USD' },
        ],
      },
      { bookId },
    );
    await changeAccount(database.pool, { accountId: other, status: 'frozen' }, { bookId });
  });

  it('keeps nobody from postings elsewhere', async () => {
    const [clearing = '', wallet = ''] = await openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'clearing' },
      { type: 'cash', currency: 'USD', name: 'wallet', userId: PEOPLE.holder },
    ]);
    await post(database.pool, {
      entries: [
        { accountId: clearing, amountCents: 5n, currency: 'USD' },
        { accountId: wallet, amountCents: -5n, currency: 'USD' },
      ],
    });
  });

  it('is frozen while its order is disputed, and its holds with it', async () => {
    const id = await givenRowIn(database.pool, escrow, 'locked');
    const accountId = await escrowAccount(id);
    const hold = await placeHold(database.pool, { accountId, amountCents: 20_000n, currency: 'USD' });
    const brief = await placeHold(database.pool, {
      accountId,
      amountCents: 1n,
      currency: 'USD',
      expiresAt: new Date(Date.now() + 50),
    });
    await take(id, 'dispute');
    await expect(placeHold(database.pool, { accountId, amountCents: 1n, currency: 'USD' })).rejects.toEqual(
      refused('LEDGER_ACCOUNT_FROZEN'),
    );
    await expect(voidHold(database.pool, { holdId: hold.holdId })).rejects.toEqual(
      refused('STATE_ACCOUNT_KEPT', /A hold \(voided\)/),
    );
    for (const status of ['open', 'frozen'] as const) {
      await expect(changeAccount(database.pool, { accountId, status })).rejects.toEqual(refused('STATE_ACCOUNT_KEPT'));
    }
    await expect(changeAccount(database.pool, { accountId, status: 'closed' })).rejects.toEqual(
      refused('LEDGER_ACCOUNT_IN_USE'),
    );
    await expect(changeAccount(database.pool, { accountId, floorCents: -5n })).rejects.toEqual(
      refused('STATE_ACCOUNT_KEPT'),
    );
    // What has expired is written down all the same: it would keep the holds of the whole book waiting.
    await eventually('the hold has expired', async () => (await expireHolds(database.pool)) === 1);
    expect(brief.status).toBe('placed');
    await take(id, 'release');
    const { rows } = await run('select state from payments.holds order by amount_cents');
    expect(rows).toEqual([{ state: 'expired' }, { state: 'voided' }]);
    expect(await faults()).toEqual([]);
    expect((await verifyBooks(database.pool)).filter(({ holds }) => !holds)).toEqual([]);
    expect((await compareWithRebuild(database.pool)).filter(({ isEqual }) => !isEqual)).toEqual([]);
  });

  it('keeps what it was filled by as it was', async () => {
    const id = await givenRowIn(database.pool, escrow, 'funded');
    for (const change of [
      'amount_cents = 1',
      'application_fee_cents = 0',
      `currency = 'EUR'`,
      `sponsor_id = gen_random_uuid()`,
      `event_id = gen_random_uuid()`,
    ]) {
      await expect(run(`update public.sponsorship_orders set ${change} where id = $1`, [id])).rejects.toEqual(
        refused(
          'STATE_MONEY_KEPT',
          /amount_cents, application_fee_cents, currency, sponsor_id, event_id cannot change/,
        ),
      );
    }
    await expect(
      run(`update public.sponsorship_orders set state = 'refunded', amount_cents = 1 where id = $1`, [id]),
    ).rejects.toEqual(refused('STATE_MONEY_KEPT'));
    await expect(run('delete from public.sponsorship_orders where id = $1', [id])).rejects.toEqual(
      refused('STATE_MONEY_KEPT', /has 50000 cents/),
    );
    await expect(run(`delete from public.events where id = '${EVENT}'`)).rejects.toEqual(refused('STATE_MONEY_KEPT'));
    await take(id, 'refund');
    await run('update public.sponsorship_orders set amount_cents = 1 where id = $1', [id]);
    await run('delete from public.sponsorship_orders where id = $1', [id]);
    expect(await faults()).toEqual([]);
  });

  it('was filled by the amount that the order had when it was paid', async () => {
    const id = await givenOrder(database.pool);
    await run(
      `update public.sponsorship_orders set amount_cents = 777, application_fee_cents = 7, state = 'funded' where id = $1`,
      [id],
    );
    expect(await balances(database.pool)).toMatchObject({ [`escrow sponsorship_order:${id}`]: 777n });
  });
});

describe('a verification names', () => {
  it('an escrow that is not what its order implies, whoever switched the triggers off', async () => {
    const id = await givenRowIn(database.pool, escrow, 'funded');
    const disputed = await givenRowIn(database.pool, escrow, 'disputed');
    expect(await faults()).toEqual([]);
    await asSuperuser(
      database,
      `alter table public.sponsorship_orders disable trigger all;
      update public.sponsorship_orders set state = 'released' where id = '${id}';
      update public.sponsorship_orders set state = 'locked' where id = '${disputed}';
      alter table public.sponsorship_orders enable trigger all`,
    );
    expect(await faults()).toEqual(
      expect.arrayContaining([
        expect.stringContaining(`escrow ${id} is released, and its history ends in funded`),
        expect.stringMatching(
          `escrow ${id} is released, which implies 0 cents and open in its account .*: it has 50000 and is open`,
        ),
        expect.stringContaining(`escrow ${disputed} is locked, and its history ends in disputed`),
        expect.stringMatching(
          `escrow ${disputed} is locked, which implies 50000 cents and open in its account .*: it has 50000 and is frozen`,
        ),
      ]),
    );
  });

  it('a posting that no transition made', async () => {
    const id = await givenRowIn(database.pool, escrow, 'funded');
    const accountId = await escrowAccount(id);
    const [clearing = ''] = await openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'clearing' },
    ]);
    await run('alter table payments.entries disable trigger entries_of_kept');
    const { transactionId } = await post(database.pool, {
      entries: [
        { accountId: clearing, amountCents: -100n, currency: 'USD' },
        { accountId, amountCents: 100n, currency: 'USD' },
      ],
    });
    expect(await faults()).toEqual([
      expect.stringContaining(`it has 49900 and is open`),
      `transaction ${transactionId} on account ${accountId} was made by no transition`,
    ]);
  });

  it.each([
    [
      'an edge',
      `insert into states.edges select machine, 'released', 'pending', 'again', topic, roles, '{}', has_effects, organization, is_of_event from states.edges where machine = 'escrow' and event = 'pay'`,
      /states\.edges has what is not declared: \(escrow,released,pending,again/,
    ],
    [
      'a guard that is gone',
      `update states.edges set guards = '{}' where machine = 'escrow' and event = 'pay'`,
      /states\.edges (has|lacks)/,
    ],
    [
      'a party',
      `update states.parties set condition = 'true' where machine = 'escrow' and role = 'sponsor'`,
      /states\.parties has what is not declared: \(escrow,sponsor,t/,
    ],
    [
      'a line of a booking',
      `update states.lines set amount_cents = '0' where machine = 'escrow' and event = 'release' and number = 2`,
      /states\.lines/,
    ],
    ['a fixed column', `update states.kept_accounts set fixed_columns = '{}'`, /states\.kept_accounts/],
  ])('%s that is not as it was declared', async (_what, sql, says) => {
    await run(sql);
    expect((await faults()).join('\n')).toMatch(says);
  });

  it('an old label that does not show the state', async () => {
    const id = await givenRowIn(database.pool, escrow, 'funded');
    await asSuperuser(
      database,
      `alter table public.sponsorship_orders disable trigger zz_liventix_state_follows;
      update public.sponsorship_orders set escrow_state = 'released' where id = '${id}'`,
    );
    expect(await faults()).toEqual([`escrow ${id} is funded, and old code is shown released`]);
  });

  it('a row that is not taken in', async () => {
    const id = await givenOrder(database.pool);
    await asSuperuser(
      database,
      `alter table public.sponsorship_orders disable trigger all; update public.sponsorship_orders set state = null where id = '${id}'`,
    );
    expect(await faults()).toEqual([`escrow ${id} is not taken in yet: liventix states install escrow`]);
  });

  it('an account whose order is gone', async () => {
    const id = await givenRowIn(database.pool, escrow, 'funded');
    await asSuperuser(
      database,
      `alter table public.sponsorship_orders disable trigger all; delete from public.sponsorship_orders`,
    );
    expect(await faults()).toEqual([
      expect.stringMatching(new RegExp(`account .* has 50000 cents, and escrow ${id} is gone`)),
    ]);
  });

  it('a history that has a gap', async () => {
    const id = await givenRowIn(database.pool, escrow, 'locked');
    await asSuperuser(
      database,
      `alter table states.history disable trigger all; delete from states.history where subject_id = '${id}' and event = 'pay'`,
    );
    expect(await faults()).toEqual([
      expect.stringMatching(new RegExp(`escrow ${id} went from funded .*, and had been pending`)),
    ]);
  });
});

describe('a ticket', () => {
  const refund = (id: string) => transition(database.pool, ticket, id, 'refund');

  it('is refunded by its share of what its order says, to the cent over all of them', async () => {
    const { ticketIds } = await givenTicketOrder(database.pool, {
      tickets: 3,
      unitPriceCents: 3_333,
      subtotalCents: 10_000,
      feesCents: 100,
    });
    const steps: unknown[] = [];
    for (const id of ticketIds) {
      await refund(id);
      steps.push(await balances(database.pool));
    }
    expect(steps).toEqual([
      { 'payable ticket_sales': -3_333n, 'receivable clearing': -3_366n, 'revenue ticket_fees': -33n },
      { 'payable ticket_sales': -6_666n, 'receivable clearing': -6_732n, 'revenue ticket_fees': -66n },
      { 'payable ticket_sales': -10_000n, 'receivable clearing': -10_100n, 'revenue ticket_fees': -100n },
    ]);
  });

  it('comes to the order when its tickets are refunded in one statement, as old code does', async () => {
    const { orderId } = await givenTicketOrder(database.pool, { tickets: 4, unitPriceCents: 2_500, feesCents: 7 });
    await run(`update public.tickets set status = 'refunded' where order_id = $1`, [orderId]);
    expect(await balances(database.pool)).toEqual({
      'payable ticket_sales': -10_000n,
      'receivable clearing': -10_007n,
      'revenue ticket_fees': -7n,
    });
  });

  it('has fees as an older path wrote them: none, and all of it in the subtotal', async () => {
    const { ticketIds } = await givenTicketOrder(database.pool, {
      unitPriceCents: 5_000,
      subtotalCents: 5_579,
      feesCents: 0,
    });
    await refund(ticketIds[0] ?? '');
    expect(await balances(database.pool)).toEqual({ 'payable ticket_sales': -5_579n, 'receivable clearing': -5_579n });
  });

  it('books nothing where it was free, and the fees where only these were paid', async () => {
    const { ticketIds } = await givenTicketOrder(database.pool, { unitPriceCents: 0, feesCents: 0 });
    await refund(ticketIds[0] ?? '');
    expect(await balances(database.pool)).toEqual({});
    const { ticketIds: withFees } = await givenTicketOrder(database.pool, {
      tickets: 2,
      unitPriceCents: 0,
      feesCents: 301,
    });
    for (const id of withFees) await refund(id);
    expect(await balances(database.pool)).toEqual({ 'receivable clearing': -301n, 'revenue ticket_fees': -301n });
  });

  it('books nothing where its order was never paid', async () => {
    const { orderId, ticketIds } = await givenTicketOrder(database.pool);
    await run(`update public.orders set status = 'pending' where id = $1`, [orderId]);
    await refund(ticketIds[0] ?? '');
    expect(await balances(database.pool)).toEqual({});
  });

  it('gives back no more than was paid, whoever deletes tickets and issues others', async () => {
    const { orderId, ticketIds } = await givenTicketOrder(database.pool, { tickets: 2, feesCents: 301 });
    for (const id of ticketIds) {
      await refund(id);
      await run('delete from public.tickets where id = $1', [id]);
      await refund(await givenTicketOf(database.pool, orderId));
    }
    expect(await balances(database.pool)).toEqual({
      'payable ticket_sales': -10_000n,
      'receivable clearing': -10_301n,
      'revenue ticket_fees': -301n,
    });
  });

  it('is not refunded where its order does not say what it cost', async () => {
    const { orderId, ticketIds } = await givenTicketOrder(database.pool);
    await run('delete from public.order_items where order_id = $1', [orderId]);
    await expect(refund(ticketIds[0] ?? '')).rejects.toEqual(
      refused('STATE_GUARD_REFUSED', /needs an amount for the account organiser/),
    );
  });

  it.each(['redeem', 'transfer', 'cancel'] as const)('moves no money by %s', async (event) => {
    const { ticketIds } = await givenTicketOrder(database.pool);
    await transition(database.pool, ticket, ticketIds[0] ?? '', event);
    expect(await balances(database.pool)).toEqual({});
  });
});

describe('a campaign', () => {
  const end = (id: string, event: 'complete' | 'cancel' | 'pause') => transition(database.pool, campaign, id, event);
  const active = async (spent: number) => {
    const id = await givenCampaign(database.pool, { state: 'active' });
    await run('update public.campaigns set spent_credits = $1 where id = $2', [spent, id]);
    return id;
  };

  it('books what it has spent and nobody booked yet, when it is paused or ends', async () => {
    const id = await active(300);
    await end(id, 'pause');
    expect(await balances(database.pool)).toEqual({ 'cash wallet': -300n, 'revenue ad_campaigns': 300n });
    await transition(database.pool, campaign, id, 'resume');
    await run('update public.campaigns set spent_credits = 500 where id = $1', [id]);
    await end(id, 'complete');
    expect(await balances(database.pool)).toEqual({ 'cash wallet': -500n, 'revenue ad_campaigns': 500n });
    const { rows } = await run('select distinct reference_type, reference_id from payments.entries');
    expect(rows).toEqual([{ reference_type: 'campaign_spend', reference_id: id }]);
  });

  it('books nothing twice that was booked as it was spent', async () => {
    const id = await active(300);
    const [wallet = '', revenue = ''] = await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: 'wallet', organizationId: ORGANIZATION },
      { type: 'revenue', currency: 'USD', name: 'ad_campaigns' },
    ]);
    await post(database.pool, {
      referenceType: 'campaign_spend',
      referenceId: id,
      entries: [
        { accountId: wallet, amountCents: 250n, currency: 'USD' },
        { accountId: revenue, amountCents: -250n, currency: 'USD' },
      ],
    });
    await end(id, 'cancel');
    expect(await balances(database.pool)).toEqual({ 'cash wallet': -300n, 'revenue ad_campaigns': 300n });
  });

  it('waits for who is booking it, and books the rest', async () => {
    const id = await active(300);
    const [wallet = '', revenue = ''] = await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: 'wallet', organizationId: ORGANIZATION },
      { type: 'revenue', currency: 'USD', name: 'ad_campaigns' },
    ]);
    const booking = await database.pool.connect();
    try {
      await booking.query('begin');
      await post(booking, {
        referenceType: 'campaign_spend',
        referenceId: id,
        entries: [
          { accountId: wallet, amountCents: 250n, currency: 'USD' },
          { accountId: revenue, amountCents: -250n, currency: 'USD' },
        ],
      });
      const ending = end(id, 'complete');
      await waitsForLock(database.pool, 'states.transition');
      await booking.query('commit');
      await ending;
    } finally {
      booking.release();
    }
    expect(await balances(database.pool)).toEqual({ 'cash wallet': -300n, 'revenue ad_campaigns': 300n });
  });

  it('leaves it to the old tables while these keep the wallet', async () => {
    await run('insert into public.org_wallets (org_id, balance_credits) values ($1, 1000)', [ORGANIZATION]);
    await end(await active(300), 'complete');
    expect(await balances(database.pool)).toEqual({});
  });

  it('does not end where its wallet cannot pay', async () => {
    const id = await active(300);
    await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: 'wallet', organizationId: ORGANIZATION, floorCents: 0n },
    ]);
    await expect(end(id, 'complete')).rejects.toEqual(refused('LEDGER_FLOOR_PASSED'));
    expect(await stateOf(database.pool, campaign, id)).toBe('active');
  });

  it('does not begin as active without a budget either', async () => {
    await expect(givenCampaign(database.pool, { total_budget_credits: 0, state: 'active' })).rejects.toMatchObject({
      code: 'LV088',
    });
    expect(judgeBeginning(campaign, 'active', { row: { spent_credits: 0, total_budget_credits: 0 } })).toMatchObject({
      allowed: false,
      code: 'STATE_GUARD_REFUSED',
    });
    await givenCampaign(database.pool, { total_budget_credits: 0, state: 'scheduled' });
  });

  it('is not started without a budget', async () => {
    const id = await givenCampaign(database.pool, { total_budget_credits: 0 });
    await expect(transition(database.pool, campaign, id, 'activate')).rejects.toEqual(refused('STATE_GUARD_REFUSED'));
  });
});
