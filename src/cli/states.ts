import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { type BookedEntry, bookedBy } from '../states/booked.ts';
import { type HistoryEntry, historyOf } from '../states/history.ts';
import { type ListedMachine, listMachines } from '../states/list.ts';
import { guardsOf, type Machine, takersOf, terminalStates, topicOf } from '../states/machine.ts';
import { type Transition, transition } from '../states/transition.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { tryOutIn } from './dry-run.ts';
import { machineArgument } from './machine-argument.ts';
import { uuid } from './options.ts';
import { formatCount, formatMoney } from './output.ts';
import { printable } from './printable.ts';
import { waitingFor } from './progress.ts';
import { registerStatesInstall } from './states-install.ts';
import { suggestingNames } from './suggestion.ts';

export function registerStates(program: Command, context: CommandContext): void {
  const states = program
    .command('states')
    .description('the state machines: what may become of what, what did, and who may')
    .addHelpText('after', '\nExample:\n  liventix states show escrow');
  registerList(states, context);
  registerShow(states, context);
  registerHistory(states, context);
  registerTransition(states, context);
  registerStatesInstall(states, context);
}

function registerList(states: Command, context: CommandContext): void {
  states
    .command('list')
    .description('list the machines, the tables that they are on, and how many rows are in each state')
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      '\nCounts rows, which takes a while on large tables.\n\nExample:\n  liventix states list --json',
    )
    .action(({ json }: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const machines = await waitingFor(context, 'counting rows by state', () => listMachines(pool));
        context.out.write(json ? `${toJson(machines)}\n` : machines.map(listedText).join(''));
      }),
    );
}

function listedText({ machine: name, about, table, rows }: ListedMachine): string {
  const where = table === null ? `not installed: liventix states install ${name}` : `on ${table}`;
  const counts = Object.entries(rows ?? {}).map(([state, count]) => `${state} ${formatCount(count)}`);
  return `${name.padEnd(10)} ${where}\n           ${about}\n${counts.length === 0 ? '' : `           ${counts.join(', ')}\n`}`;
}

function registerShow(states: Command, context: CommandContext): void {
  states
    .command('show')
    .description('show the edges of a machine: from which state, by which event, to which, and for whom')
    .addArgument(machineArgument())
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nAsks no database. Pages with diagrams are in docs/states/.\n\nExample:\n  liventix states show escrow',
    )
    .action((shown: Machine, { json }: { json?: boolean }) => {
      context.out.write(json ? `${toJson(shown)}\n` : machineText(shown));
    });
}

function machineText(shown: Machine): string {
  const { about, states, initial, edges, why } = shown;
  const width = Math.max(...Object.keys(states).map((state) => state.length));
  const edgeWidth = Math.max(...edges.map(({ event }) => event.length));
  const edgeLines = edges.map((edge) => {
    const who = takersOf(edge).join(', ');
    const needs = guardsOf(shown, edge).map(({ says }) => says);
    return `  ${edge.from.padEnd(width)}  ${edge.event.padEnd(edgeWidth)}  -> ${edge.to.padEnd(width)}  ${who}${needs.length === 0 ? '' : `; needs that ${needs.join(', and that ')}`}  (${topicOf(shown, edge)})\n`;
  });
  const stateLines = Object.entries(states).map(([state, meaning]) => `  ${state.padEnd(width)}  ${meaning}\n`);
  return `${about}\nIt begins as ${initial.join(' or ')}; final are ${terminalStates(shown).join(', ')}.\n\n${stateLines.join('')}\n${edgeLines.join('')}\n${why}\n`;
}

function registerHistory(states: Command, context: CommandContext): void {
  states
    .command('history')
    .description('show what happened to a row: when, by whom, from which state to which, and why')
    .addArgument(machineArgument())
    .argument('<id>', 'the row', uuid)
    .option('--json', 'print one JSON array')
    .addHelpText('after', '\nExample:\n  liventix states history escrow 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4')
    .action((of: Machine, id: string, { json }: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const entries = await historyOf(pool, of, id);
        if (entries.length === 0) {
          throw new AppError(
            'STATE_ROW_MISSING',
            `There is no history of ${of.name} ${id}. Check the id and the database, and whether the machine is installed: liventix states list.`,
          );
        }
        context.out.write(json ? `${toJson(entries)}\n` : entries.map(entryLine).join(''));
      }),
    );
}

function entryLine({ from, to, event, role, changedBy, changedAt, reason }: HistoryEntry): string {
  const change = `${from ?? '-'} -> ${to ?? '-'}`;
  const why = reason === null ? '' : `  ${printable(reason)}`;
  return `${changedAt.toISOString()}  ${event.padEnd(10)} ${change.padEnd(24)} ${role} ${printable(changedBy)}${why}\n`;
}

interface TransitionOptions {
  readonly reason?: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

function registerTransition(states: Command, context: CommandContext): void {
  states
    .command('transition')
    .description('take the edge of an event: state, history, message and money, or nothing of it')
    .addArgument(machineArgument())
    .argument('<id>', 'the row', uuid)
    .argument('<event>', 'what happened; liventix states show has the events of a machine')
    .option('--reason <text>', 'kept in the history, for ever: no personal data')
    .option('--dry-run', 'do it, say what would come of it, and undo it; positions of the log are used up')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nWaits 2 s at most for who holds the row.\n\nExample:\n  liventix states transition escrow 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 release --reason "the banner hung" --dry-run',
    )
    .action((of: Machine, id: string, event: string, { reason, dryRun = false, json }: TransitionOptions) =>
      withDatabase(context, async (pool) => {
        const change = { of, id, event, reason };
        const events = async () => of.edges.map((edge) => edge.event);
        const done = await suggestingNames({ code: 'STATE_EVENT_UNKNOWN', given: [event], names: events }, () =>
          withTransaction(pool, (tx) => (dryRun ? tryOutIn(tx, () => take(tx, change)) : take(tx, change))),
        );
        if (json) context.out.write(`${toJson({ [dryRun ? 'wouldDo' : 'done']: done })}\n`);
        else context.out.write(doneText(done, dryRun));
        if (dryRun) context.err.write('Nothing was changed.\n');
      }),
    );
}

interface Change {
  readonly of: Machine;
  readonly id: string;
  readonly event: string;
  readonly reason: string | undefined;
}

type Done = Transition & { readonly booked: readonly BookedEntry[] };

async function take(tx: Tx, { of, id, event, reason }: Change): Promise<Done> {
  const done = await transition(tx, of, id, event, reason === undefined ? {} : { reason });
  return { ...done, booked: await bookedBy(tx, done) };
}

function doneText({ machine: name, id, from, to, event, role, booked }: Done, dryRun: boolean): string {
  const lines = booked.map(
    ({ account, side, amountCents, currency, decimalPlaces }) =>
      `  ${side.padEnd(6)} ${account}  ${formatMoney(amountCents, decimalPlaces)} ${currency}\n`,
  );
  return `${name} ${id}: ${dryRun ? 'would go ' : ''}${from} -> ${to} by ${event}, as ${role}\n${lines.join('')}`;
}
