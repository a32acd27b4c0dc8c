import { type Command, InvalidArgumentError } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { type Attached, attach, detach, findNames, planAttachment, type Which } from '../outbox/attachments/attach.ts';
import { parseColumn, parseColumns, parseCondition } from '../outbox/attachments/condition.ts';
import { type Attachment, attachmentText, listAttachments } from '../outbox/attachments/list.ts';
import { findShipped, SHIPPED_TABLES, type Wanted } from '../outbox/attachments/shipped.ts';
import { getTable } from '../outbox/attachments/table.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { createProgress } from './progress.ts';
import { didYouMean } from './suggestion.ts';

interface AttachOptions {
  readonly table?: string;
  readonly when?: string;
  readonly topic?: string;
  readonly payload?: string;
  readonly name?: string;
  readonly organizationColumn?: string;
  readonly orderingKeyColumn?: string;
  readonly withChange?: boolean;
  readonly shipped?: boolean;
  readonly only?: readonly string[];
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

interface DetachOptions {
  readonly name?: string;
  readonly table?: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

/** Tables that announce their own changes, for code that cannot be changed. */
export function registerOutboxAttach(outbox: Command, context: CommandContext): void {
  outbox
    .command('attach')
    .description('let a table announce its own changes, in the transaction that makes them')
    .option('--table <table>', 'the table, or a view that shows it alone')
    .option('--when <condition>', 'what is announced: "status: pending -> paid", insert, delete; see below')
    .option('--topic <topic>', 'what it is announced under')
    .option('--payload <columns>', 'the columns that the message has, separated by commas')
    .option('--name <name>', 'what it is called; the table and the topic, when left out')
    .option('--organization-column <column>', 'the column that says whose the message is, a uuid')
    .option('--ordering-key-column <column>', 'the column by whose value messages are kept in order')
    .option('--with-change', 'add what the column was and became, as _change: {from, to}')
    .option('--shipped', "attach the old platform's tables, as they ship with this version")
    .option('--only <tables>', `of the shipped ones these alone: ${SHIPPED_TABLES.join(', ')}`, shippedTables)
    .option('--dry-run', 'print the SQL that would run, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', ATTACH_HELP)
    .action((options: AttachOptions) => runAttach(options, context));

  outbox
    .command('detach')
    .description('let a table no longer announce its changes')
    .option('--name <name>', 'the attachment')
    .option('--table <table>', 'all attachments of a table, or of the table that a view shows')
    .option('--dry-run', 'say what would end, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  liventix outbox detach --name orders:ticket.purchased')
    .action((options: DetachOptions) => runDetach(options, context));

  outbox
    .command('list')
    .alias('attachments')
    .description('list the tables that announce their changes, and whether they do')
    .addHelpText('after', '\nExample:\n  liventix outbox list')
    .option('--json', 'print one JSON array')
    .action((options: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const attachments = await listAttachments(pool);
        if (options.json) context.out.write(`${toJson(attachments)}\n`);
        else if (attachments.length === 0) context.err.write(NO_ATTACHMENTS);
        else context.out.write(attachments.map((each) => `${attachmentText(each)}  ${stateText(each)}\n`).join(''));
      }),
    );
}

const ATTACH_HELP = `
Conditions:
  status: pending -> paid     an update takes the column from one value to the other
  status: draft|sent -> won   from any of several; null is SQL's null, 'null' the word
  status: * -> paid           from whatever else; "paid -> *" to whatever else
  status: -> paid             the same, and new rows that have it
  insert, delete              every new row, every row that goes

The message is written by the transaction that changes the row, whoever runs it, and goes with it. A value of more than 8 kB is left
out, and named in _left_out. Installing gives way to whoever uses the table after 50 ms and tries again, at most 40 times.

Examples:
  liventix outbox attach --table ticketing.orders --when "status: pending -> paid" --topic ticket.purchased --payload id,total_cents
  liventix outbox attach --shipped --only orders,tickets --dry-run`;

const NO_ATTACHMENTS = 'No table announces its changes yet: liventix outbox attach lets one.\n';

function shippedTables(text: string): readonly string[] {
  const names = text.split(',').map((name) => name.trim());
  if (names.every((name) => SHIPPED_TABLES.includes(name))) return names;
  throw new InvalidArgumentError(`Give some of ${SHIPPED_TABLES.join(', ')}, separated by commas.`);
}

async function runAttach(options: AttachOptions, context: CommandContext): Promise<void> {
  assertUsage(options);
  await withDatabase(
    context,
    async (pool) => {
      const { wanted, skipped } = options.shipped
        ? await findShipped(pool, options.only)
        : { wanted: [await wantedBy(pool, options)], skipped: [] };
      // All before any: a fault of one shows while nothing has been changed.
      const planned: Attached[] = [];
      for (const { table, announcement } of wanted) planned.push(await planAttachment(pool, table, announcement));
      const attachments = options.dryRun ? planned : await attachAll(pool, wanted, context);
      const views = wanted.flatMap(({ table: { view, name } }) => (view === undefined ? [] : [{ view, table: name }]));
      if (options.json) {
        context.out.write(
          `${toJson({ [options.dryRun ? 'wouldAttach' : 'attachments']: attachments, views, skipped })}\n`,
        );
        return;
      }
      for (const { view, table } of views)
        context.err.write(`${view} is a view of ${table}, which is what is attached.\n`);
      for (const table of skipped) context.err.write(`skipped  ${table}: there is no such table\n`);
      context.out.write(attachments.map(options.dryRun ? planText : attachedText).join(''));
      if (options.dryRun) context.err.write('Nothing was changed.\n');
    },
    { stopsItself: true },
  );
}

async function attachAll(pool: Pool, wanted: readonly Wanted[], context: CommandContext): Promise<readonly Attached[]> {
  const progress = createProgress(context);
  const waiting = {
    stop: context.stop,
    onBusy: (tries: number) => progress.update('waiting for the table, tries', tries, 0),
  };
  const attached: Attached[] = [];
  try {
    for (const { table, announcement } of wanted) attached.push(await attach(pool, table, announcement, waiting));
    return attached;
  } finally {
    progress.clear();
  }
}

async function wantedBy(pool: Pool, options: AttachOptions): Promise<Wanted> {
  const { table: name = '', when = '', topic = '', payload = '', organizationColumn, orderingKeyColumn } = options;
  const condition = parseCondition(when);
  const columns = parseColumns(payload);
  const table = await getTable(pool, name);
  return {
    table,
    announcement: {
      name: options.name ?? `${table.bareName}:${topic}`,
      condition,
      topic,
      payload: columns,
      organizationColumn: organizationColumn && parseColumn(organizationColumn),
      orderingKeyColumn: orderingKeyColumn && parseColumn(orderingKeyColumn),
      withChange: options.withChange,
    },
  };
}

const OWN = ['table', 'when', 'topic', 'payload'] as const;
const OWN_FURTHER = ['name', 'organizationColumn', 'orderingKeyColumn', 'withChange'] as const;

function assertUsage(options: AttachOptions): void {
  const fault = faultOf(options);
  if (fault !== undefined) throw usage(`${fault} See: liventix outbox attach --help`);
}

function faultOf(options: AttachOptions): string | undefined {
  const given = [...OWN, ...OWN_FURTHER].filter((name) => options[name] !== undefined);
  const missing = OWN.filter((name) => options[name] === undefined);
  if (options.shipped) return given.length > 0 ? `--shipped says it all: leave out ${flags(given)}.` : undefined;
  if (options.only !== undefined) return '--only is for --shipped.';
  return missing.length > 0 ? `Give ${flags(missing)}, or --shipped.` : undefined;
}

const flags = (names: readonly string[]) =>
  names.map((name) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`).join(', ');
const usage = (message: string) => new AppError('USAGE', message);

function planText({ status, name, table, statements }: Attached): string {
  if (status === 'already') return `-- ${name} is attached to ${table} already\n`;
  return `-- ${name}, a row of outbox.attachments, and with it on ${table}:\n${statements.map((sql) => `${sql};\n`).join('')}`;
}

function attachedText({ status, name, table }: Attached): string {
  switch (status) {
    case 'attached':
      return `attached  ${name}  to ${table}\n`;
    case 'repaired':
      return `repaired  ${name}  on ${table}: a trigger of it had been dropped or disabled\n`;
    case 'already':
      return `already   ${name}  on ${table}\n`;
  }
}

async function runDetach(options: DetachOptions, context: CommandContext): Promise<void> {
  const { name, table, dryRun = false, json = false } = options;
  if ((name === undefined) === (table === undefined)) {
    throw usage('Give either --name or --table. See: liventix outbox detach --help');
  }
  await withDatabase(
    context,
    async (pool) => {
      const which: Which = name === undefined ? { table: await getTable(pool, table ?? '') } : { name };
      const names = dryRun ? await findNames(pool, which) : await detach(pool, which, { stop: context.stop });
      if ('name' in which && names.length === 0) throw unknownAttachment(which.name, await listAttachments(pool));
      if (json) context.out.write(`${toJson({ [dryRun ? 'wouldDetach' : 'detached']: names })}\n`);
      else if ('table' in which && names.length === 0)
        context.err.write(`Nothing is attached to ${which.table.name}.\n`);
      else context.out.write(names.map((each) => `${dryRun ? 'would detach' : 'detached'}  ${each}\n`).join(''));
    },
    { stopsItself: true },
  );
}

const MAX_SHOWN_NAME = 100;

function unknownAttachment(name: string, all: readonly Attachment[]): AppError {
  return new AppError(
    'OUTBOX_ATTACHMENT_UNKNOWN',
    `There is no attachment ${JSON.stringify(name.slice(0, MAX_SHOWN_NAME))}. liventix outbox list has their names.${didYouMean(
      name,
      all.map((each) => each.name),
    )}`,
  );
}

const STATES: Readonly<Record<Attachment['state'], string>> = {
  attached: 'attached',
  trigger_missing: 'ANNOUNCES NOTHING: its trigger was dropped; attach it again',
  trigger_disabled: 'ANNOUNCES NOTHING: its trigger is disabled; attach it again',
  table_gone: 'ANNOUNCES NOTHING: its table is gone; detach it',
};

function stateText({ state, missingColumns }: Attachment): string {
  const missing =
    missingColumns.length === 0 ? '' : `; left out, as the table has no such column: ${missingColumns.join(', ')}`;
  return `${STATES[state]}${missing}`;
}
