import type { Edge, Machine } from './machine.ts';
import { guardsOf, terminalStates, topicOf } from './machine.ts';

/** A page about a machine, with its diagram in Mermaid. */
export function diagramPage(machine: Machine): string {
  const { name, about, table, states, events, edges, initial, why, old } = machine;
  return `<!-- Generated from src/states/machines/${name}.ts by npm run states. -->

# ${name}

${about} Table \`${table}\`, column \`state\` of type \`states.${name}_state\`.

\`\`\`mermaid
stateDiagram-v2
${[
  ...initial.map((state) => `  [*] --> ${state}`),
  ...edges.map(({ from, to, event }) => `  ${from} --> ${to}: ${event}`),
  ...terminalStates(machine).map((state) => `  ${state} --> [*]`),
].join('\n')}
\`\`\`

| state | meaning |
|---|---|
${Object.entries(states)
  .map(([state, meaning]) => `| ${state} | ${meaning} |`)
  .join('\n')}

| from | event | to | what happened | who may, beside the platform | needs that | announced as | booked |
|---|---|---|---|---|---|---|---|
${edges.map((edge) => edgeRow(machine, edge, events[edge.event] ?? '')).join('\n')}

${why}
${old === undefined ? '' : labelsSection(old)}`;
}

function edgeRow(machine: Machine, edge: Edge, happened: string): string {
  const needs = guardsOf(machine, edge).map(({ says }) => says);
  const cells = [
    edge.from,
    edge.event,
    edge.to,
    happened,
    edge.by?.join(', ') ?? '',
    needs.join('; '),
    `\`${topicOf(machine, edge)}\``,
    bookedText(machine, edge.event),
  ];
  return `| ${cells.join(' | ')} |`;
}

function bookedText({ money }: Machine, event: string): string {
  const booking = money?.bookings[event];
  if (booking === undefined) return '';
  if ('reverses' in booking) return `what ${booking.reverses} booked, reversed`;
  const side = (wanted: 'debit' | 'credit') =>
    booking.lines
      .filter((line) => line.side === wanted)
      .map(({ account, cents }) => (cents === undefined ? account : `${account} \`${cents.replaceAll('row.', '')}\``))
      .join(', ');
  return `${side('debit')} / ${side('credit')}`;
}

function labelsSection({ column, labels, withoutLabel, colliding = [], why }: NonNullable<Machine['old']>): string {
  const rows = Object.entries(labels).map(([label, [own = '', ...further]]) => {
    const also = further.length === 0 ? '' : `; stays where the state is ${further.join(' or ')}`;
    return `| \`${label}\` | ${own}${also} |`;
  });
  return `
## Old labels

Old code reads and writes \`${column}\`; each of the two columns follows the other.

| \`${column}\` | state |
|---|---|
${rows.join('\n')}

${why}
${withoutLabel === undefined ? '' : `\nAn old row whose \`${column}\` is null:\n\n\`\`\`sql\n${withoutLabel.replaceAll('row.', '')}\n\`\`\`\n`}${
  colliding.length === 0
    ? ''
    : `\nTaken off while the machine is installed: ${colliding.map((each) => `\`${each}\``).join(', ')}.\n`
}`;
}
