import type { Command } from 'commander';
import { STREAMED } from '../db/cursor.ts';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { addSlots } from '../ledger/accounts.ts';
import { listAccountTypes } from '../ledger/history.ts';
import { MAIN_BOOK, openAccounts, openOrFindAccounts } from '../ledger/ledger.ts';
import { type Account, listAccounts } from '../ledger/list-accounts.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { tryOut } from './dry-run.ts';
import { MAX_BOOK, minorUnits, uuid, wholeNumber } from './options.ts';
import { formatMoney, writeOut } from './output.ts';
import { createProgressBeside } from './progress.ts';
import { suggestingNames } from './suggestion.ts';
import { tableText } from './table.ts';

interface OwnerOptions {
  readonly user?: string;
  readonly organization?: string;
  readonly book: number;
  readonly json?: boolean;
}

interface ListOptions extends OwnerOptions {
  readonly slots?: boolean;
}

interface OpenOptions extends OwnerOptions {
  readonly type: string;
  readonly currency: string;
  readonly name: string;
  readonly floorCents?: bigint;
  readonly ceilingCents?: bigint;
  readonly dryRun?: boolean;
}

interface SlotsOptions {
  readonly slots: number;
  readonly dryRun?: boolean;
  readonly book: number;
  readonly json?: boolean;
}

const MAX_SLOTS = 64;

export function registerAccounts(ledger: Command, context: CommandContext): void {
  const account = ledger
    .command('account')
    .description('the accounts of a book')
    .addHelpText('after', '\nExample:\n  liventix ledger account list');

  account
    .command('open')
    .description('open an account, or find the one that is so; prints its id')
    .requiredOption('--type <type>', 'one of payments.account_types, such as cash or revenue')
    .requiredOption('--currency <code>', 'ISO 4217, such as USD')
    .requiredOption('--name <name>', 'a-z 0-9 _ . : -, at most 100 characters')
    .option('--user <id>', 'the user that owns it; the platform, when no owner is given', uuid)
    .option('--organization <id>', 'the organization that owns it', uuid)
    .option('--floor-cents <n>', 'what its balance less its holds never goes below, in minor units', minorUnits)
    .option('--ceiling-cents <n>', 'what its balance never goes above, in minor units', minorUnits)
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--dry-run', 'say whether it would be opened or is there, and open none')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nLimits are positive on the normal side of the type. An account that is there keeps those that it has.\n\nExample:\n  liventix ledger account open --type cash --currency USD --name wallet --user 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --floor-cents 0',
    )
    .action((options: OpenOptions) =>
      withDatabase(context, (pool) =>
        suggestingNames(
          {
            code: 'LEDGER_ACCOUNT_TYPE_UNKNOWN',
            given: [options.type],
            names: async () => (await listAccountTypes(pool)).map(({ type }) => type),
          },
          () => runOpen(pool, options, context),
        ),
      ),
    );

  account
    .command('list')
    .description(
      'list the accounts with their balances, positive on the normal side of their type, and what of them is held',
    )
    .option('--user <id>', 'only those of this user', uuid)
    .option('--organization <id>', 'only those of this organization', uuid)
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--slots', 'below an account that has slots, each slot with what it has of the balance')
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      '\nExample:\n  liventix ledger account list --organization 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4',
    )
    .action((options: ListOptions) => runList(options, context));

  account
    .command('slots')
    .description(
      'spread what is posted to an account over several balances, so that fewer postings wait for each other',
    )
    .argument('<account-id>', 'the account', uuid)
    .requiredOption(
      '--slots <n>',
      `how many in all, the account itself counted: 2 to ${MAX_SLOTS}`,
      wholeNumber(2, MAX_SLOTS),
    )
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--dry-run', 'say whether it could have them, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nFor an account without floor, ceiling and holds: it cannot have them afterwards either. Slots may be added later, and\nnone is taken away. Everything shows the account as one, and postings go on naming it.\n\nExample:\n  liventix ledger account slots 5f0c7f6e-53c5-8b1a-9d8b-0f3cf1a5d2b7 --slots 8',
    )
    .action((accountId: string, options: SlotsOptions) =>
      withDatabase(context, async (pool) => {
        const request = { accountId, slots: options.slots, bookId: options.book };
        if (options.dryRun) {
          const { length } = await tryOut(pool, (tx) => addSlots(tx, request));
          context.out.write(
            options.json ? `${toJson({ accountId, wouldHave: length })}\n` : `It would have ${length} slots.\n`,
          );
          context.err.write('Nothing was changed.\n');
          return;
        }
        const slots = await addSlots(pool, request);
        const lines = slots.map((slot, number) => `slot ${number.toString().padStart(2)}  ${slot}\n`).join('');
        context.out.write(options.json ? `${toJson({ accountId, slots })}\n` : lines);
      }),
    );
}

async function runOpen(pool: Pool, options: OpenOptions, context: CommandContext): Promise<void> {
  const { type, currency, name, floorCents, ceilingCents, book: bookId } = options;
  const account = { type, currency, name, floorCents, ceilingCents, ...ownerOf(options) };
  if (options.dryRun) {
    const [tried] = await tryOut(pool, (tx) => openOrFindAccounts(tx, [account], { bookId }));
    const found = { wouldOpen: tried?.opened, accountId: tried?.accountId };
    const words = found.wouldOpen ? 'Would open' : 'There is';
    context.out.write(options.json ? `${toJson(found)}\n` : `${words} ${found.accountId}\n`);
    context.err.write('Nothing was changed.\n');
    return;
  }
  const [accountId] = await openAccounts(pool, [account], { bookId });
  context.out.write(options.json ? `${toJson({ accountId })}\n` : `${accountId}\n`);
}

function ownerOf({ user, organization }: OwnerOptions): { userId?: string; organizationId?: string } {
  return {
    ...(user === undefined ? {} : { userId: user }),
    ...(organization === undefined ? {} : { organizationId: organization }),
  };
}

async function runList(options: ListOptions, context: CommandContext): Promise<void> {
  const filter = { bookId: options.book, withSlots: options.slots === true, ...ownerOf(options) };
  const write = (text: string) => writeOut(context.out, text, context.stop);
  const progress = createProgressBeside(context);
  await withDatabase(context, (pool) =>
    withTransaction(
      pool,
      async (tx) => {
        // A book may have more accounts than memory should hold: the array is written as it comes.
        let listed = 0;
        let before = '[';
        for await (const accounts of listAccounts(tx, filter)) {
          listed += accounts.length;
          const json = () => before + accounts.map((account) => toJson(account)).join(',');
          await write(options.json ? json() : accountsText(accounts, context));
          before = ',';
          progress.update('accounts', listed, 0);
        }
        if (options.json) await write(before === '[' ? '[]\n' : ']\n');
      },
      STREAMED,
    ).finally(progress.clear),
  );
}

const BALANCE_WIDTH = 20;

function accountsText(accounts: readonly Account[], context: CommandContext): string {
  const columns = [{}, { align: 'right', min: BALANCE_WIDTH + 4 }, {}, { shortens: 16 }] as const;
  return tableText(context, accounts.flatMap(accountRows), columns);
}

function accountRows(account: Account): readonly (readonly string[])[] {
  const { accountId, type, currency, name, balanceCents, availableCents, decimalPlaces, status, slots = [] } = account;
  const money = (cents: bigint) => `${formatMoney(cents, decimalPlaces)} ${currency}`;
  const held = balanceCents - availableCents;
  const remarks = [
    ownerText(account),
    held === 0n ? '' : `  ${formatMoney(held, decimalPlaces)} held`,
    status === 'open' ? '' : `  ${status}`,
  ].join('');
  return [
    [accountId, money(balanceCents), type, `${name}${remarks}`],
    ...slots.map((slot, number) => [slot.accountId, money(slot.balanceCents), '', `of these, in slot ${number}`]),
  ];
}

function ownerText({ userId, organizationId }: Account): string {
  if (userId !== null) return `  user ${userId}`;
  return organizationId === null ? '' : `  organization ${organizationId}`;
}
