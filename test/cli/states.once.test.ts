import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import {
  balances,
  createMachineTablesDatabase,
  givenOrder,
  givenTicketOf,
  givenTicketOrder,
  givenTickets,
  stateOf,
} from '../support/machines.ts';
import { expectRefusal } from '../support/refusal.ts';

// `liventix states …`, as whoever is at the terminal sees it.

let database: TestDatabase;
beforeAll(async () => {
  database = await createMachineTablesDatabase();
});
afterAll(() => database.drop());

const states = (...args: string[]) => liventix(['states', ...args], { DATABASE_URL: database.url });
const json = async (...args: string[]) => JSON.parse((await states(...args, '--json')).stdout);
const refused = (code: ErrorCode, says: RegExp, ...args: string[]) =>
  expectRefusal({ code, says }, ['states', ...args], { DATABASE_URL: database.url });

describe('before anything is installed', () => {
  it('list says how to, verify that there is nothing to verify, doctor passes over it', async () => {
    expect((await states('list')).stdout).toMatch(/^campaign +not installed: liventix states install campaign\n/);
    expect(await states('verify')).toMatchObject({
      exitCode: 0,
      stdout: 'No machine is installed: there is nothing to verify.\n',
    });
    await refused(
      'STATE_MACHINE_NOT_INSTALLED',
      /liventix states install escrow/,
      'transition',
      'escrow',
      randomUUID(),
      'pay',
    );
    const doctor = JSON.parse((await liventix(['doctor', '--json'], { DATABASE_URL: database.url })).stdout);
    expect(doctor.checks).toContainEqual(expect.objectContaining({ name: 'machines', result: 'skipped' }));
  });

  it('a dry run says what would become of the rows, and changes nothing', async () => {
    const { orderId } = await givenTicketOrder(database.pool);
    await givenTicketOf(database.pool, orderId, { status: 'void' });
    const { exitCode, stdout, stderr } = await states('install', 'ticket', 'escrow', '--dry-run');
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: 'Nothing was changed.\n' });
    expect(stdout).toMatch(
      /^would install {2}ticket on public\.tickets\n +1 {2}issued\n +1 {2}void -> cancelled\nalter table public\.tickets add column/,
    );
    expect(stdout).toMatch(/would take off the check sponsorship_orders_state_consistency\n/);
    expect(stdout).not.toMatch(/undefined|null::/);
    expect((await json('list')).map(({ table }: { table: string | null }) => table)).toEqual([null, null, null, null]);
  });
});

describe('installed', () => {
  it('is reported by label and state, and found done by the second run', async () => {
    const { exitCode, stdout, stderr } = await states('install', 'ticket', 'escrow', 'proposal', 'campaign');
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(stdout).toMatch(
      /^installed {2}ticket on public\.tickets\n +1 {2}issued\n +1 {2}void -> cancelled\ninstalled {2}escrow/,
    );
    expect((await states('install', 'ticket')).stdout).toBe('already    ticket on public.tickets\n');
    expect((await json('list'))[3]).toMatchObject({
      machine: 'ticket',
      table: 'public.tickets',
      rows: { issued: 1, cancelled: 1, redeemed: 0 },
    });
    expect((await states('list')).stdout).toContain('issued 1, redeemed 0, transferred 0, refunded 0, cancelled 1');
  });

  it('is walked through, with its money shown, tried out before', async () => {
    const id = await givenOrder(database.pool);
    const tried = await states('transition', 'escrow', id, 'pay', '--reason', 'invoice 7', '--dry-run');
    expect(tried).toMatchObject({ exitCode: 0, stderr: 'Nothing was changed.\n' });
    expect(tried.stdout).toBe(
      `escrow ${id}: would go pending -> funded by pay, as platform\n  debit  receivable clearing  500.00 USD\n  credit escrow sponsorship_order:${id}  500.00 USD\n`,
    );
    expect(await stateOf(database.pool, 'escrow', id)).toBe('pending');
    expect(await balances(database.pool)).toEqual({});

    const done = await json('transition', 'escrow', id.toUpperCase(), 'pay', '--reason', 'invoice \u001b[31m7');
    expect(done.done).toMatchObject({
      machine: 'escrow',
      id,
      from: 'pending',
      to: 'funded',
      event: 'pay',
      booked: [{ side: 'debit', amountCents: 50_000 }, { side: 'credit' }],
    });
    const history = (await states('history', 'escrow', id)).stdout.split('\n');
    expect(history[0]).toMatch(/^\d{4}-.*Z {2}created {4}- -> pending/);
    expect(history[1]).toMatch(/pay {8}pending -> funded +platform liventix {2}invoice \\u\{1b\}\[31m7$/);
    expect(await json('history', 'escrow', id)).toMatchObject([
      { event: 'created' },
      { event: 'pay', reason: 'invoice \u001b[31m7', messageId: done.done.messageId },
    ]);

    await refused(
      'STATE_EDGE_REFUSED',
      /pay cannot happen to escrow .*, which is funded\. From funded it may go to: locked \(lock\), refunded \(refund\)/,
      'transition',
      'escrow',
      id,
      'pay',
    );
    await refused('STATE_EDGE_REFUSED', /which is funded/, 'transition', 'escrow', id, 'release', '--dry-run');
  });

  it('holds, and says so; where it does not, it names the row and exits with 1', async () => {
    expect(await states('verify')).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/\nThe machines hold\.\n$/),
    });
    const books = () => liventix(['books', 'verify', '--json'], { DATABASE_URL: database.url });
    const ofStates = (text: string) =>
      (JSON.parse(text).checks as { check: string; holds: boolean }[]).filter(({ check }) =>
        check.includes('escrow account'),
      );
    expect(ofStates((await books()).stdout)).toMatchObject([{ holds: true }, { holds: true }]);
    const id = await givenOrder(database.pool);
    await asSuperuser(
      database,
      `set session_replication_role = replica; alter table public.sponsorship_orders disable trigger "00_liventix_state_changes";
      update public.sponsorship_orders set state = 'funded' where id = '${id}'`,
    );
    const broken = await states('verify');
    expect(broken).toMatchObject({
      exitCode: 1,
      stdout: expect.stringContaining(`escrow ${id} is funded, and its history ends in pending`),
    });
    expect(broken.stdout).toMatch(/The machines do NOT hold\.\n$/);
    expect((await json('verify')).holds).toBe(false);
    const verified = await books();
    expect(verified.exitCode).toBe(1);
    expect(ofStates(verified.stdout)).toMatchObject([
      { holds: false, first: [expect.stringContaining('which implies 50000 cents')] },
      { holds: true },
    ]);
    const doctor = await liventix(['doctor'], { DATABASE_URL: database.url });
    expect(doctor.stdout).toMatch(
      /FAILED +machines +.*escrow on public\.sponsorship_orders lacks 00_liventix_state_changes/,
    );
    // What doctor says to run puts it right.
    await states('install', 'campaign', 'escrow', 'proposal', 'ticket');
    expect((await liventix(['doctor'], { DATABASE_URL: database.url })).stdout).toMatch(/ok +machines/);
    await asSuperuser(
      database,
      `set session_replication_role = replica; alter table public.sponsorship_orders disable trigger "00_liventix_state_changes";
      update public.sponsorship_orders set state = 'pending' where id = '${id}'; alter table public.sponsorship_orders enable always trigger "00_liventix_state_changes"`,
    );
  });

  it('is taken off again, after a dry run', async () => {
    const dry = await states('uninstall', 'escrow', '--dry-run');
    expect(dry.stdout).toMatch(
      /^would take escrow off public\.sponsorship_orders\n {2}1 accounts keep 50000 USD .*\ndrop trigger if exists/,
    );
    expect(dry.stderr).toBe('Nothing was changed.\n');
    expect((await states('uninstall', 'escrow')).stdout).toBe(
      'took escrow off public.sponsorship_orders\n  1 accounts keep 50000 USD in minor units, which nobody watches until it is installed again\n  put back the check sponsorship_orders_state_consistency\n',
    );
    expect((await states('uninstall', 'escrow')).stdout).toBe('escrow is on no table\n');
    await states('install', 'escrow');
    expect((await states('verify')).exitCode).toBe(0);
  });
});

describe('shown without a database', () => {
  it('has every edge, for whom it is, and why', async () => {
    const { exitCode, stdout } = await liventix(['states', 'show', 'escrow']);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/It begins as pending; final are released, refunded\./);
    expect(stdout).toMatch(/ {2}locked +release +-> released +platform; needs that .* {2}\(escrow\.released\)\n/);
    expect(JSON.parse((await liventix(['states', 'show', 'ticket', '--json'])).stdout)).toMatchObject({
      name: 'ticket',
      initial: ['issued'],
    });
  });
});

describe('bad input', () => {
  it.each<[string, ErrorCode, RegExp, string[]]>([
    ['no subcommand', 'USAGE', /which command\?/, []],
    ['a misspelt one', 'USAGE', /Did you mean transition\?/, ['transitoin']],
    [
      'a machine that is not there',
      'USAGE',
      /'Escrow' is no machine\. Give one of campaign, escrow, proposal, ticket\./,
      ['show', 'Escrow'],
    ],
    ['an id that is none', 'USAGE', /'7' is no id\. Give a UUID/, ['history', 'escrow', '7']],
    [
      'a row without a history',
      'STATE_ROW_MISSING',
      /There is no history of escrow/,
      ['history', 'escrow', randomUUID()],
    ],
    [
      'a row that is not there',
      'STATE_ROW_MISSING',
      /There is no escrow .* in public\.sponsorship_orders/,
      ['transition', 'escrow', randomUUID(), 'pay'],
    ],
    [
      'an event of another case',
      'STATE_EVENT_UNKNOWN',
      /no event "Pay"\. Write pay\./,
      ['transition', 'escrow', randomUUID(), 'Pay'],
    ],
    [
      'a reason without end',
      'USAGE',
      /at most 1000 characters, not 1001/,
      ['transition', 'escrow', randomUUID(), 'pay', '--reason', 'x'.repeat(1_001)],
    ],
    ['--table for two', 'USAGE', /--table is for one machine/, ['install', 'escrow', 'ticket', '--table', 'public.x']],
    [
      'a table that is not there',
      'STATE_TABLE_UNSUITABLE',
      /there is no such table/,
      ['install', 'escrow', '--table', 'public.nowhere'],
    ],
    [
      'a table that cannot be one',
      'STATE_TABLE_UNSUITABLE',
      /there is no such table/,
      ['install', 'escrow', '--table', 'a.b.c.d'],
    ],
  ])('%s is one clear line', (_what, code, says, args) => refused(code, says, ...args));

  it('a database that is not migrated is told so', async () => {
    const empty = await createDatabase({ template: 'template0' });
    try {
      await expectRefusal({ code: 'MIGRATIONS_PENDING', says: /liventix migrate/ }, ['states', 'list'], {
        DATABASE_URL: empty.url,
      });
    } finally {
      await empty.drop();
    }
  });

  it('an interrupted installation says how far it came, and goes on', async () => {
    await states('uninstall', 'ticket');
    const orderId = await givenTickets(database.pool, 6001);
    const running = startLiventix(['states', 'install', 'ticket'], { DATABASE_URL: database.url });
    for (;;) {
      const { rows } = await database.pool.query<{ begun: boolean }>(
        `select exists (select from states.history h join public.tickets t on t.id = h.subject_id where h.event = 'adopted' and t.order_id = $1) as begun`,
        [orderId],
      );
      if (rows[0]?.begun) break;
    }
    running.kill('SIGINT');
    const { exitCode, stderr } = await running.done;
    // It may have been faster than we.
    if (exitCode !== 0) {
      expect(stderr).toMatch(
        /^liventix: STOPPED: Stopped: \d+ of \d+ rows of public\.tickets were taken in\. Run it again to go on\.\n$/,
      );
      expect(exitCode).toBe(3);
    }
    await states('install', 'ticket');
    expect((await states('verify')).exitCode).toBe(0);
  });
});
