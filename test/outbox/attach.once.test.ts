import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { createAnnouncingTables, takePayloads } from '../support/attachments.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix, type Run } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createAnnouncingTables(database.pool);
  await database.pool.query(
    'create schema ticketing; alter table public.orders set schema ticketing; create view public.orders as select * from ticketing.orders',
  );
});
beforeEach(() => database.pool.query('delete from outbox.attachments; delete from public.outbox'));
afterAll(() => database.drop());

const run = (...args: readonly string[]) => liventix(['outbox', ...args], { DATABASE_URL: database.url });
const refused = (code: ErrorCode, says: RegExp, ...args: readonly string[]) =>
  expectRefusal({ code, says }, ['outbox', ...args], { DATABASE_URL: database.url });
const json = ({ stdout, exitCode }: Run) => (exitCode === 0 ? JSON.parse(stdout) : undefined);
const orders = (table: string, ...further: readonly string[]) => [
  ...['attach', '--table', table, '--when', 'status: pending -> paid', '--topic', 'ticket.purchased'],
  ...['--payload', 'id,event_id,total_cents', ...further],
];
const list = async () => json(await run('list', '--json'));

describe('liventix outbox attach', () => {
  it('attaches, says the second time that it is there, and announces', async () => {
    expect(await run(...orders('ticketing.orders'))).toEqual({
      exitCode: 0,
      stdout: 'attached  orders:ticket.purchased  to ticketing.orders\n',
      stderr: '',
    });
    expect(await run(...orders('ticketing.orders'))).toEqual({
      exitCode: 0,
      stdout: 'already   orders:ticket.purchased  on ticketing.orders\n',
      stderr: '',
    });
    await database.pool.query(
      `insert into orders (user_id, event_id, total_cents) values (gen_random_uuid(), gen_random_uuid(), 700); update orders set status = 'paid'`,
    );
    expect(await takePayloads(database.pool)).toMatchObject([{ total_cents: 700 }]);
  });

  it('attaches by the old name, and says to what', async () => {
    expect(await run(...orders('public.orders'))).toEqual({
      exitCode: 0,
      stdout: 'attached  orders:ticket.purchased  to ticketing.orders\n',
      stderr: 'public.orders is a view of ticketing.orders, which is what is attached.\n',
    });
    expect(json(await run(...orders('orders', '--json')))).toEqual({
      attachments: [{ status: 'already', name: 'orders:ticket.purchased', table: 'ticketing.orders', statements: [] }],
      views: [{ view: 'public.orders', table: 'ticketing.orders' }],
      skipped: [],
    });
  });

  it('prints with --dry-run the SQL that makes the trigger, and changes nothing', async () => {
    const dry = await run(...orders('ticketing.orders', '--dry-run'));
    expect(dry).toMatchObject({ exitCode: 0, stderr: 'Nothing was changed.\n' });
    expect(dry.stdout).toMatch(
      /^create trigger liventix_announce_[0-9a-f]{12}_update after update on ticketing\.orders for each row when \(old\.status is distinct from new\.status and \(old\.status = 'pending'::public\.order_status\) and \(new\.status = 'paid'::public\.order_status\)\) execute function outbox\.announce_change\('orders:ticket\.purchased'\);$/m,
    );
    const wouldAttach = json(await run(...orders('ticketing.orders', '--dry-run', '--json')))?.wouldAttach;
    expect(wouldAttach).toMatchObject([{ status: 'attached', statements: [expect.stringMatching(/^create trigger/)] }]);
    expect(await list()).toEqual([]);
  });

  it('takes a name, an organization, an ordering key and the change', async () => {
    const args = ['attach', '--table', 'sponsorship_payouts', '--when', 'status: * -> *', '--topic', 'payout.moved'];
    const further = ['--payload', 'id', '--name', 'payouts', '--organization-column', 'organizer_id'];
    expect((await run(...args, ...further, '--ordering-key-column', 'order_id', '--with-change')).exitCode).toBe(0);
    expect(await list()).toMatchObject([
      {
        ...{ name: 'payouts', table: 'public.sponsorship_payouts', when: 'status: * -> *', topic: 'payout.moved' },
        ...{ payload: ['id'], organizationColumn: 'organizer_id', orderingKeyColumn: 'order_id', withChange: true },
        ...{ state: 'attached', missingColumns: [] },
      },
    ]);
    expect((await run('attachments')).stdout).toBe(
      'payouts  public.sponsorship_payouts  status: * -> *  payout.moved  id  organization organizer_id  ordering key order_id  with the change  attached\n',
    );
  });

  it('refuses what differs from what is there, and says how to end that', async () => {
    await run(...orders('ticketing.orders'));
    const other = orders('ticketing.orders').with(-1, 'id');
    await refused('OUTBOX_ATTACHMENT_DIFFERS', /outbox detach --name 'orders:ticket\.purchased'/, ...other);
    await refused('OUTBOX_ATTACHMENT_DIFFERS', /outbox detach --name/, ...other, '--dry-run');
  });

  it.each<[ErrorCode, RegExp, string, string]>([
    [
      'OUTBOX_ATTACHMENT_TABLE_UNKNOWN',
      /no table ticketing\.order\. The schema has ticketing\.orders\./,
      '--table',
      'ticketing.order',
    ],
    ['OUTBOX_ATTACHMENT_TABLE_UNKNOWN', /There is public\.tickets\./, '--table', 'ticketing.tickets'],
    [
      'OUTBOX_ATTACHMENT_INVALID',
      /has the values pending, paid, refunded, canceled\./,
      '--when',
      'status: pending -> payed',
    ],
    ['OUTBOX_ATTACHMENT_INVALID', /Write it as "status: pending -> paid"/, '--when', 'status = paid'],
    ['OUTBOX_ATTACHMENT_INVALID', /has no column total\./, '--payload', 'id,total'],
    ['OUTBOX_TOPIC_INVALID', /is not a topic/, '--topic', 'Ticket Purchased'],
  ])('answers %s in one line, as with --dry-run: %s', async (code, says, option, value) => {
    const args = orders('ticketing.orders');
    const wrong = args.with(args.indexOf(option) + 1, value);
    await refused(code, says, ...wrong);
    await refused(code, says, ...wrong, '--dry-run');
    expect(await list()).toEqual([]);
  });

  it.each<[RegExp, string[]]>([
    [/Give --when, --topic, --payload, or --shipped\./, ['--table', 'orders']],
    [
      /--shipped says it all: leave out --table, --organization-column\./,
      ['--shipped', '--table', 'a', '--organization-column', 'b'],
    ],
    [
      /--only is for --shipped\./,
      ['--table', 'a', '--when', 'b', '--topic', 'c', '--payload', 'd', '--only', 'orders'],
    ],
    [/Give some of orders, tickets, /, ['--shipped', '--only', 'orders,users']],
  ])('wants to be used right: %s', (says, args) => refused('USAGE', says, 'attach', ...args));
});

describe('liventix outbox attach --shipped', () => {
  it('attaches what is there, once, wherever it is', async () => {
    const plan = json(await run('attach', '--shipped', '--dry-run', '--json'));
    expect(await list()).toEqual([]);
    const first = json(await run('attach', '--shipped', '--json'));
    expect(first).toEqual({ attachments: plan.wouldAttach, views: [], skipped: [] });
    expect(new Set(first.attachments.map(({ table }: { table: string }) => table))).toEqual(
      new Set([
        ...['ticketing.orders', 'public.tickets', 'public.sponsorship_orders', 'public.proposal_threads'],
        ...['public.sponsorship_payouts', 'public.payout_queue'],
      ]),
    );
    const again = json(await run('attach', '--shipped', '--json'));
    expect(again.attachments.every(({ status }: { status: string }) => status === 'already')).toBe(true);
    expect(again.attachments).toHaveLength(first.attachments.length);
  });

  it('attaches of these alone, and names what is not there', async () => {
    await database.pool.query('alter table public.tickets rename to tickets_elsewhere');
    try {
      const some = await run('attach', '--shipped', '--only', 'payout_queue,tickets');
      expect(some).toEqual({
        exitCode: 0,
        stdout: 'attached  payout_queue:payout.scheduled  to public.payout_queue\n',
        stderr: 'skipped  public.tickets or ticketing.tickets: there is no such table\n',
      });
      await refused(
        'OUTBOX_ATTACHMENT_TABLE_UNKNOWN',
        /None of the tables is there/,
        'attach',
        '--shipped',
        '--only',
        'tickets',
      );
    } finally {
      await database.pool.query('alter table public.tickets_elsewhere rename to tickets');
    }
  });
});

describe('liventix outbox detach', () => {
  it('ends one by its name, and says the second time that there is none', async () => {
    await run(...orders('ticketing.orders'));
    const args = ['detach', '--name', 'orders:ticket.purchased'];
    expect((await run(...args, '--dry-run')).stdout).toBe('would detach  orders:ticket.purchased\n');
    expect(json(await run(...args, '--dry-run', '--json'))).toEqual({ wouldDetach: ['orders:ticket.purchased'] });
    expect(await run(...args)).toEqual({ exitCode: 0, stdout: 'detached  orders:ticket.purchased\n', stderr: '' });
    for (const flags of [[], ['--json'], ['--dry-run']]) {
      const again = await run(...args, ...flags);
      expect(again).toMatchObject({ exitCode: 2, stdout: '' });
      expect(again.stderr).toMatch(/^liventix: OUTBOX_ATTACHMENT_UNKNOWN: [^\n]*"orders:ticket.purchased"[^\n]+\n$/);
    }
  });

  it.each(['ticketing.orders', 'public.orders'])('ends all of a table by the name %s', async (table) => {
    await run('attach', '--shipped', '--only', 'orders,tickets');
    expect(json(await run('detach', '--table', table, '--json'))).toEqual({
      detached: ['orders:order.canceled', 'orders:order.refunded', 'orders:ticket.purchased'],
    });
    expect(await list()).toHaveLength(4);
    expect((await run('detach', '--table', table)).stderr).toBe('Nothing is attached to ticketing.orders.\n');
  });

  it.each([[[]], [['--name', 'a', '--table', 'b']]])('wants one of both: %j', (args) =>
    refused('USAGE', /Give either --name or --table\./, 'detach', ...args),
  );
});

describe('liventix outbox list', () => {
  it('says that there are none', async () => {
    expect(await run('list')).toEqual({
      exitCode: 0,
      stdout: '',
      stderr: 'No table announces its changes yet: liventix outbox attach lets one.\n',
    });
  });

  it('says where a trigger is gone, and so does the doctor', async () => {
    await run(...orders('ticketing.orders'));
    await database.pool.query('alter table ticketing.orders disable trigger user');
    expect((await run('list')).stdout).toMatch(/ANNOUNCES NOTHING: its trigger is disabled; attach it again\n$/);
    const doctor = await liventix(['doctor'], { DATABASE_URL: database.url });
    expect(doctor.exitCode).toBe(1);
    expect(doctor.stdout).toMatch(/^FAILED +attachments +changes are not announced by orders:ticket\.purchased/m);
    expect((await run(...orders('ticketing.orders'))).stdout).toMatch(/^repaired {2}orders:ticket\.purchased {2}on/);
    expect((await liventix(['doctor'], { DATABASE_URL: database.url })).exitCode).toBe(0);
  });
});
