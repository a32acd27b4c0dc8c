import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { toAppError } from '../../src/db/sqlstate.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { install, planInstall, planUninstall, uninstall } from '../../src/states/install.ts';
import type { Machine } from '../../src/states/machine.ts';
import { campaign } from '../../src/states/machines/campaign.ts';
import { escrow } from '../../src/states/machines/escrow.ts';
import { proposal } from '../../src/states/machines/proposal.ts';
import { ticket } from '../../src/states/machines/ticket.ts';
import { MACHINES } from '../../src/states/machines.ts';
import { migrationSql } from '../../src/states/sql/machine-sql.ts';
import { transition } from '../../src/states/transition.ts';
import { checkMachines } from '../../src/states/verify.ts';
import type { TestDatabase } from '../support/database.ts';
import {
  balances,
  createMachineTablesDatabase,
  givenCampaign,
  givenOrder,
  givenProposal,
  givenTicketOf,
  givenTicketOrder,
  givenTickets,
  historyOf,
  stateOf,
} from '../support/machines.ts';

// The migration of live tables: rows of before, old code beside it, the way back.

let database: TestDatabase;
beforeEach(async () => {
  database = await createMachineTablesDatabase();
});
afterEach(() => database.drop());

const run = (sql: string, values: unknown[] = []) =>
  database.pool.query(sql, values).catch((error: unknown) => {
    throw toAppError(error);
  });
const faults = async () =>
  (await withTransaction(database.pool, (tx) => checkMachines(tx, {}))).flatMap(({ first }) => first);

/** Everything of a table but the column state, as text. */
const contents = async ({ table }: Machine): Promise<unknown[]> =>
  (await run(`select (to_jsonb(t) - 'state')::text as row from ${table} t order by id`)).rows;

/** What of a table's definition is not its rows. */
const definition = async ({ table }: Machine): Promise<unknown[]> =>
  (
    await run(
      `select 'column ' || attname || ' ' || format_type(atttypid, atttypmod) as of from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped
       union all select 'trigger ' || pg_get_triggerdef(oid) || tgenabled::text from pg_trigger where tgrelid = $1::regclass and not tgisinternal
       union all select 'check ' || conname || pg_get_constraintdef(oid) from pg_constraint where conrelid = $1::regclass
       order by 1`,
      [table],
    )
  ).rows;

describe('rows of before', () => {
  it('get the state that their old label says, and nothing else of them changes', async () => {
    const { orderId, ticketIds } = await givenTicketOrder(database.pool);
    const ids: Record<string, string> = { issued: ticketIds[0] ?? '' };
    for (const status of ['redeemed', 'transferred', 'refunded', 'void'])
      ids[status] = await givenTicketOf(database.pool, orderId, { status });
    for (const status of ['draft', 'active', 'archived'])
      ids[`campaign ${status}`] = await givenCampaign(database.pool, { status });
    ids['sent'] = await givenProposal(database.pool, { status: 'sent' });
    const before = [await contents(ticket), await contents(campaign), await contents(proposal)];

    expect((await install(database.pool, ticket)).mapped).toEqual([
      { label: 'issued', state: 'issued', rows: 1 },
      { label: 'redeemed', state: 'redeemed', rows: 1 },
      { label: 'refunded', state: 'refunded', rows: 1 },
      { label: 'transferred', state: 'transferred', rows: 1 },
      { label: 'void', state: 'cancelled', rows: 1 },
    ]);
    expect((await install(database.pool, campaign)).mapped).toContainEqual({
      label: 'archived',
      state: 'cancelled',
      rows: 1,
    });
    await install(database.pool, proposal);

    expect([await contents(ticket), await contents(campaign), await contents(proposal)]).toEqual(before);
    expect(await stateOf(database.pool, ticket, ids['void'] ?? '')).toBe('cancelled');
    expect(await historyOf(database.pool, ids['void'] ?? '')).toEqual([
      expect.objectContaining({ from: null, to: 'cancelled', event: 'adopted', reason: 'its old label was void' }),
    ]);
    expect((await run('select from public.outbox')).rowCount).toBe(0);
    expect(await faults()).toEqual([]);
  });

  it('of orders come as far as escrow_state says, or else their status, and have the money that this implies', async () => {
    const paid = { stripe_payment_intent_id: 'pi_1' };
    const orders: readonly (readonly [Record<string, unknown>, string])[] = [
      [{}, 'pending'],
      [{ status: 'accepted' }, 'pending'],
      [{ status: 'accepted', ...paid }, 'funded'],
      [{ status: 'live', ...paid }, 'locked'],
      [{ status: 'completed', ...paid }, 'released'],
      [{ status: 'refunded', ...paid }, 'refunded'],
      [{ status: 'cancelled' }, 'refunded'],
      [{ status: 'pending', escrow_state: 'locked' }, 'locked'],
      [{ status: 'completed', escrow_state: 'released' }, 'released'],
    ];
    const ids: string[] = [];
    for (const [fields] of orders)
      ids.push(await givenOrder(database.pool, { amount_cents: 1_000, application_fee_cents: 50, ...fields }));
    const before = await contents(escrow);
    const planned = await planInstall(database.pool, escrow);
    const { mapped, dropped } = await install(database.pool, escrow);
    expect(await contents(escrow)).toEqual(before);
    expect(await Promise.all(ids.map((id) => stateOf(database.pool, escrow, id)))).toEqual(
      orders.map(([, state]) => state),
    );
    expect(planned.mapped.map(({ label, state, rows }) => `${label} ${state} ${rows}`).toSorted()).toEqual(
      mapped.map(({ label, state, rows }) => `${label} ${state} ${rows}`).toSorted(),
    );
    expect(dropped).toEqual(['sponsorship_orders_state_consistency']);
    expect((await balances(database.pool))['receivable clearing']).toBe(3_000n);
    expect(await faults()).toEqual([]);

    // What was paid before is reversed, and released, as what was paid since.
    await transition(database.pool, escrow, ids[2] ?? '', 'refund');
    await transition(database.pool, escrow, ids[3] ?? '', 'release');
    expect(await faults()).toEqual([]);
    expect((await balances(database.pool))['receivable clearing']).toBe(2_000n);
  });

  it('are as many as one batch and more, and none', async () => {
    await givenTickets(database.pool, 1201);
    const seen: number[] = [];
    const { mapped } = await install(database.pool, ticket, { onProgress: (done) => seen.push(done) });
    expect(mapped).toEqual([{ label: 'issued', state: 'issued', rows: 1201 }]);
    expect(seen).toEqual([500, 1000, 1201]);
    expect((await install(database.pool, proposal)).mapped).toEqual([]);
  });
});

describe('old code beside it', () => {
  it('goes on with its labels: each follows the other', async () => {
    for (const machine of MACHINES) await install(database.pool, machine);
    const { ticketIds } = await givenTicketOrder(database.pool);
    const [id = ''] = ticketIds;
    const { rows: redeemed } = await run(
      `update public.tickets set redeemed_at = now(), status = 'redeemed' where id = $1 and redeemed_at is null returning id, status, state`,
      [id],
    );
    expect(redeemed).toEqual([{ id, status: 'redeemed', state: 'redeemed' }]);

    const read = await givenProposal(database.pool, { status: 'sent' });
    await transition(database.pool, proposal, read, 'view');
    expect((await run('select status, state from public.proposal_threads where id = $1', [read])).rows).toEqual([
      { status: 'sent', state: 'viewed' },
    ]);
    // To write what it read changes nothing.
    await run(`update public.proposal_threads set status = 'sent' where id = $1`, [read]);
    expect(await stateOf(database.pool, proposal, read)).toBe('viewed');
    await run(`update public.proposal_threads set status = 'accepted' where id = $1`, [read]);
    expect((await historyOf(database.pool, read)).at(-1)).toMatchObject({
      from: 'viewed',
      to: 'accepted',
      event: 'accept',
    });

    const [over, off] = [
      await givenCampaign(database.pool, { status: 'active' }),
      await givenCampaign(database.pool, { status: 'active' }),
    ];
    await transition(database.pool, campaign, over, 'complete');
    await run(`update public.campaigns set status = 'archived' where id = any ($1)`, [[over, off]]);
    expect([await stateOf(database.pool, campaign, over), await stateOf(database.pool, campaign, off)]).toEqual([
      'completed',
      'cancelled',
    ]);
    const called = await givenCampaign(database.pool);
    await transition(database.pool, campaign, called, 'cancel');
    expect((await run('select status from public.campaigns where id = $1', [called])).rows).toEqual([
      { status: 'archived' },
    ]);
  });

  it('may change a row that is not taken in yet: what it was is taken in, and the change is judged', async () => {
    const { orderId, ticketIds } = await givenTicketOrder(database.pool, { tickets: 2 });
    const redeemed = await givenTicketOf(database.pool, orderId, { status: 'redeemed' });
    // As a run leaves it that is struck after its first transaction.
    const { statements } = await planInstall(database.pool, ticket);
    await withTransaction(database.pool, async (tx) => {
      for (const statement of statements) await tx.query(statement);
    });
    const [first = '', second = ''] = ticketIds;
    await run(`update public.tickets set status = 'refunded' where id = $1`, [first]);
    await run(`update public.tickets set wallet_pass_url = 'x' where id = $1`, [second]);
    await expect(run(`update public.tickets set status = 'void' where id = $1`, [redeemed])).rejects.toMatchObject({
      code: 'STATE_EDGE_REFUSED',
    });
    const history = await historyOf(database.pool, first);
    expect(history.map(({ event, from, to }) => [event, from, to])).toEqual([
      ['adopted', null, 'issued'],
      ['refund', 'issued', 'refunded'],
    ]);
    expect((await balances(database.pool))['receivable clearing']).toBe(-5_150n);
    expect((await run('select wallet_pass_url, state from public.tickets where id = $1', [second])).rows).toEqual([
      { wallet_pass_url: 'x', state: 'issued' },
    ]);

    const again = await install(database.pool, ticket);
    expect(again).toMatchObject({ status: 'installed', mapped: [{ label: 'redeemed', state: 'redeemed', rows: 1 }] });
    expect(await faults()).toEqual([]);
  });

  it('writes while it is installed, and nothing is lost', async () => {
    const orderId = await givenTickets(database.pool, 1501);
    let isDone = false;
    const writers = Array.from({ length: 4 }, async () => {
      let written = 0;
      while (!isDone || written === 0) {
        const { rowCount } = await database.pool.query(
          `update public.tickets set status = 'redeemed', redeemed_at = now()
           where id = (select id from public.tickets where status = 'issued' order by random() limit 1 for update skip locked) and status = 'issued'`,
        );
        written += rowCount ?? 0;
        await givenTicketOf(database.pool, orderId);
      }
      return written;
    });
    await install(database.pool, ticket);
    isDone = true;
    const written = (await Promise.all(writers)).reduce((sum, each) => sum + each, 0);
    const { rows } =
      await run(`select count(*) filter (where state is null) as left, count(*) filter (where state::text <> status::text) as differing,
      count(*) filter (where state = 'redeemed') as redeemed from public.tickets`);
    expect(rows).toEqual([{ left: 0n, differing: 0n, redeemed: BigInt(written) }]);
    expect(await faults()).toEqual([]);
  });
});

describe('a second run', () => {
  it('finds it done, and changes nothing', async () => {
    await givenOrder(database.pool, { status: 'accepted', stripe_payment_intent_id: 'pi_1' });
    await install(database.pool, escrow);
    const before = [await contents(escrow), await balances(database.pool), await definition(escrow)];
    expect(await install(database.pool, escrow)).toMatchObject({ status: 'already', mapped: [], statements: [] });
    expect([await contents(escrow), await balances(database.pool), await definition(escrow)]).toEqual(before);
  });

  it('puts back a trigger that somebody dropped or switched off', async () => {
    await install(database.pool, ticket);
    const before = await definition(ticket);
    await run(
      'drop trigger "00_liventix_state_changes" on public.tickets; alter table public.tickets disable trigger zz_liventix_state_follows',
    );
    expect(await install(database.pool, ticket)).toMatchObject({ status: 'repaired' });
    expect(await definition(ticket)).toEqual(before);
  });

  it('stopped, goes on where it was', async () => {
    await givenTickets(database.pool, 1201);
    const stopping = new AbortController();
    const first = install(database.pool, ticket, { stop: stopping.signal, onProgress: () => stopping.abort() });
    await expect(first).rejects.toMatchObject({
      code: 'STOPPED',
      message: expect.stringContaining('500 of 1201 rows of public.tickets'),
    });
    expect((await install(database.pool, ticket)).mapped).toEqual([{ label: 'issued', state: 'issued', rows: 701 }]);
  });

  it('beside another waits for nobody for long', async () => {
    await givenTicketOrder(database.pool, { tickets: 1 });
    const holder = await database.pool.connect();
    await holder.query('begin; lock table public.tickets in access share mode');
    const waits: number[] = [];
    const stopping = new AbortController();
    const waiting = install(database.pool, ticket, {
      stop: stopping.signal,
      onBusy: (tries) => {
        waits.push(tries);
        if (tries === 2) stopping.abort();
      },
    });
    await expect(waiting).rejects.toMatchObject({ code: 'STATE_TABLE_BUSY' });
    await holder.query('rollback');
    holder.release();
    expect(waits).toEqual([1, 2]);
    await install(database.pool, ticket);
  });
});

describe('the way back', () => {
  it('is the table as it was, old labels and checks with it, and history and books stay', async () => {
    const id = await givenOrder(database.pool, { status: 'pending', escrow_state: 'funded' });
    const before = [await definition(escrow), await contents(escrow)];
    await install(database.pool, escrow);
    expect((await planUninstall(database.pool, escrow)).restored).toEqual([
      { name: 'sponsorship_orders_state_consistency', holdsForAll: false },
    ]);
    expect(await uninstall(database.pool, escrow)).toMatchObject({
      status: 'uninstalled',
      restored: [{ name: 'sponsorship_orders_state_consistency', holdsForAll: true }],
    });
    expect([await definition(escrow), await contents(escrow)]).toEqual(before);
    expect(await historyOf(database.pool, id)).toHaveLength(1);
    expect(await uninstall(database.pool, escrow)).toMatchObject({ status: 'already' });
    await install(database.pool, escrow);
    expect((await balances(database.pool))['receivable clearing']).toBe(50_000n);
    expect(await faults()).toEqual([]);
  });

  it('says which check rows no longer fit, and keeps it for new ones', async () => {
    const id = await givenOrder(database.pool);
    await install(database.pool, escrow);
    await run(`update public.sponsorship_orders set status = 'accepted', escrow_state = 'funded' where id = $1`, [id]);
    expect(await uninstall(database.pool, escrow)).toMatchObject({
      restored: [{ name: 'sponsorship_orders_state_consistency', holdsForAll: false }],
    });
    await expect(givenOrder(database.pool, { status: 'accepted', escrow_state: 'funded' })).rejects.toMatchObject({
      code: '23514',
    });
    await install(database.pool, escrow);
    await transition(database.pool, escrow, id, 'lock');
    expect(await faults()).toEqual([]);
  });
});

describe('off and on again', () => {
  it('finds what old labels cannot say in the history: a dispute, what was read, what had completed', async () => {
    for (const machine of MACHINES) await install(database.pool, machine);
    const order = await givenOrder(database.pool);
    for (const event of ['pay', 'lock', 'dispute'] as const) await transition(database.pool, escrow, order, event);
    const read = await givenProposal(database.pool, { status: 'sent' });
    await transition(database.pool, proposal, read, 'view');
    const over = await givenCampaign(database.pool, { status: 'active' });
    await transition(database.pool, campaign, over, 'complete');
    await run(`update public.campaigns set status = 'archived' where id = $1`, [over]);
    for (const machine of MACHINES) await uninstall(database.pool, machine);
    for (const machine of MACHINES) await install(database.pool, machine);
    expect([
      await stateOf(database.pool, escrow, order),
      await stateOf(database.pool, proposal, read),
      await stateOf(database.pool, campaign, over),
    ]).toEqual(['disputed', 'viewed', 'completed']);
    const { rows } = await run(
      `select status from payments.balances b join payments.accounts a on a.id = b.account_id where a.type = 'escrow'`,
    );
    expect(rows).toEqual([{ status: 'frozen' }]);
    expect(await faults()).toEqual([]);
  });

  it('books what old code did meanwhile, and says what accounts kept', async () => {
    await install(database.pool, escrow);
    const [released, refunded] = [await givenOrder(database.pool), await givenOrder(database.pool)];
    for (const id of [released, refunded]) await transition(database.pool, escrow, id, 'pay');
    expect((await uninstall(database.pool, escrow)).kept).toEqual([
      { currency: 'USD', rows: 2, amountCents: 100_000n },
    ]);
    await run(`update public.sponsorship_orders set status = 'completed', escrow_state = 'released' where id = $1`, [
      released,
    ]);
    await run(`update public.sponsorship_orders set status = 'cancelled', escrow_state = 'refunded' where id = $1`, [
      refunded,
    ]);
    await install(database.pool, escrow);
    expect(await balances(database.pool)).toEqual({
      'payable sponsorships': 47_500n,
      'receivable clearing': 50_000n,
      'revenue sponsorship_fees': 2_500n,
    });
    expect(await faults()).toEqual([]);
  });

  it('names the row whose amount was changed meanwhile', async () => {
    await install(database.pool, escrow);
    const id = await givenOrder(database.pool);
    await transition(database.pool, escrow, id, 'pay');
    await uninstall(database.pool, escrow);
    await run('update public.sponsorship_orders set amount_cents = 60000 where id = $1', [id]);
    await expect(install(database.pool, escrow)).rejects.toMatchObject({
      code: 'STATE_MONEY_KEPT',
      message: expect.stringMatching(
        new RegExp(`escrow ${id} cannot be taken in: its account .* has 50000 cents, and funded implies 60000`),
      ),
    });
  });

  it('takes turns with whoever installs, and says so', async () => {
    await givenTicketOrder(database.pool);
    let meanwhile: Promise<unknown> | undefined;
    await install(database.pool, ticket, {
      onProgress: () => {
        meanwhile ??= uninstall(database.pool, ticket).catch((error: unknown) => error);
      },
    });
    const ended = (await meanwhile) as { status?: string; code?: string };
    expect([ended.status, ended.code]).toContainEqual(expect.stringMatching(/uninstalled|STATE_TABLE_BUSY/));
  });

  it('is told which view reads the column', async () => {
    await install(database.pool, ticket);
    await run('create view public.open_tickets as select id from public.tickets where state = $$issued$$');
    await expect(uninstall(database.pool, ticket)).rejects.toMatchObject({
      code: 'STATE_TABLE_UNSUITABLE',
      message: expect.stringContaining('view open_tickets'),
    });
  });

  it('frees the ledger of a machine whose table is gone', async () => {
    await install(database.pool, escrow);
    await run('drop table public.sponsorship_orders cascade');
    expect(await uninstall(database.pool, escrow)).toMatchObject({ status: 'uninstalled', table: null });
    const { rows } = await run(`select tgname from pg_trigger where tgname like '%of_kept'`);
    expect(rows).toEqual([]);
  });
});

describe('a row that is not taken in yet', () => {
  beforeEach(async () => {
    await givenOrder(database.pool, { id: OLD, status: 'accepted', stripe_payment_intent_id: 'pi_1' });
    const { statements } = await planInstall(database.pool, escrow);
    await withTransaction(database.pool, async (tx) => {
      for (const statement of statements) await tx.query(statement);
    });
  });
  const OLD = '00000000-0000-4000-8000-00000000e0ff';

  it('keeps what it is filled by as it is', async () => {
    await expect(
      run('update public.sponsorship_orders set amount_cents = 1 where id = $1', [OLD]),
    ).rejects.toMatchObject({ code: 'STATE_MONEY_KEPT' });
    await install(database.pool, escrow);
    expect(await faults()).toEqual([]);
  });

  it('loses nothing of what is written to it beside its state', async () => {
    await run(`update public.sponsorship_orders set state = 'funded', notes = 'paid by wire' where id = $1`, [OLD]);
    const { rows } = await run('select state, notes from public.sponsorship_orders where id = $1', [OLD]);
    expect(rows).toEqual([{ state: 'funded', notes: 'paid by wire' }]);
  });
});

describe('a declaration that changed', () => {
  it('comes to the triggers by the next installation', async () => {
    await install(database.pool, escrow);
    const money = { ...(escrow.money as NonNullable<typeof escrow.money>) };
    const kept = { ...(money.kept as NonNullable<typeof money.kept>), fixed: ['amount_cents', 'notes'] };
    const changed = { ...escrow, money: { ...money, kept } };
    await withTransaction(database.pool, (tx) => tx.query(migrationSql([escrow], [changed])));
    expect(await install(database.pool, changed)).toMatchObject({ status: 'repaired' });
    expect(await install(database.pool, changed)).toMatchObject({ status: 'already' });
    const id = await givenOrder(database.pool);
    await transition(database.pool, changed, id, 'pay');
    await expect(run(`update public.sponsorship_orders set notes = 'x' where id = $1`, [id])).rejects.toMatchObject({
      code: 'STATE_MONEY_KEPT',
    });
  });
});

describe('a table that does not suit', () => {
  it.each([
    ['public.nowhere', /there is no such table/],
    ['public.campaigns', /it has no column /],
    ['payments.account_balances', /it is not a table/],
    ['public.organizations', /it has no column amount_cents/],
    ['outbox.deliveries', /it is partitioned/],
  ])('%s is refused before anything is changed', async (table, says) => {
    await expect(install(database.pool, escrow, { table })).rejects.toMatchObject({
      code: 'STATE_TABLE_UNSUITABLE',
      message: expect.stringMatching(says),
    });
  });

  it('one with a column state of its own', async () => {
    await run('alter table public.tickets add column state text');
    await expect(install(database.pool, ticket)).rejects.toMatchObject({
      message: expect.stringMatching(/its column state is text, and not states.ticket_state/),
    });
  });

  it('a second table for a machine that is on one', async () => {
    await install(database.pool, ticket);
    await run('create table public.tickets_too (like public.tickets including all)');
    await run('alter table public.tickets_too drop column state');
    await expect(install(database.pool, ticket, { table: 'public.tickets_too' })).rejects.toMatchObject({
      code: 'STATE_TABLE_UNSUITABLE',
      message: expect.stringMatching(/is installed on public.tickets already/),
    });
  });
});
