import type { TableFacts, Trigger } from './facts.ts';
import { ident, literal, qualified, STAGE, stagedName } from './names.ts';

/** Triggers of ours on a table that is being copied. */
export const CAPTURES = 'liventix_captures';
export const REFUSES_TRUNCATE = 'liventix_refuses_truncate';
const isCapture = (name: string) => name.startsWith(CAPTURES) || name.startsWith(REFUSES_TRUNCATE);

/** What goes before its name does: triggers would fire twice, a publication would have it twice. */
export function letGo({ schema, name, triggers, publications, sequences }: TableFacts): readonly string[] {
  const table = qualified(schema, name);
  return [
    ...triggers.filter((each) => !isCapture(each.name)).map((each) => `drop trigger ${ident(each.name)} on ${table}`),
    ...publications.map((each) => `alter publication ${ident(each.name)} drop table only ${table}`),
    // They stay where they are, whoever has them.
    ...sequences.map((each) => `alter sequence ${each.name} owned by none`),
  ];
}

/** Brings what waits in the stage to where the table was, under its name. */
export const comeForward = ({ schema, name }: TableFacts, tableId: number): readonly string[] => [
  `alter table ${qualified(STAGE, stagedName(tableId))} set schema ${ident(schema)}`,
  `alter table ${qualified(schema, stagedName(tableId))} rename to ${ident(name)}`,
];

/** Puts a relation where nobody looks for it, until somebody says that it may go. `of`: the table that it was. */
export const setAside = (schema: string, name: string, of: string): readonly string[] => [
  `insert into partitions.set_aside (relation, table_name) values (partitions.put_aside(${literal(qualified(schema, name))}::regclass), ${literal(of)})`,
];

/**
 * Gives whoever bears the table's name now all that hung on the one before: texts that name the table are run as they were read. Views are
 * replaced, not dropped: they keep who may read them, their defaults, and what stands on them.
 */
export function takeOver(facts: TableFacts, isWanted: (trigger: Trigger) => boolean = () => true): readonly string[] {
  const { schema, name, policies, triggers, sequences, publications, readers } = facts;
  const table = qualified(schema, name);
  const kept = triggers.filter((each) => !isCapture(each.name) && isWanted(each));
  return [
    ...policies,
    ...kept.map(({ definition }) => definition),
    ...kept.flatMap((each) =>
      each.enabled === 'O' ? [] : [`alter table ${table} ${ENABLED[each.enabled]} trigger ${ident(each.name)}`],
    ),
    ...sequences.map((each) => `alter sequence ${each.name} owned by ${table}.${ident(each.column)}`),
    ...publications.map((each) =>
      `alter publication ${ident(each.name)} add table ${table} ${each.definition}`.trimEnd(),
    ),
    ...readers.flatMap((each) => (each.kind === 'view' ? [replaceView(each)] : [])),
  ];
}

const ENABLED = { D: 'disable', R: 'enable replica', A: 'enable always' } as const;

export function replaceView({ name, options, definition }: TableFacts['readers'][number]): string {
  const settings = options.length === 0 ? '' : ` with (${options.join(', ')})`;
  return `create or replace view ${name}${settings} as ${definition}`;
}

/** Owner, comment, row security, replica identity and grants of one that is made to take a table's place. */
export function sameStanding(facts: TableFacts, made: string): readonly string[] {
  const { schema, name, owner, comment, rowSecurity, rowSecurityForced, replicaIdentity } = facts;
  return [
    `alter table ${made} owner to ${ident(owner)}`,
    ...(comment === null ? [] : [`comment on table ${made} is ${literal(comment)}`]),
    ...(rowSecurity ? [`alter table ${made} enable row level security`] : []),
    ...(rowSecurityForced ? [`alter table ${made} force row level security`] : []),
    ...(replicaIdentity === 'f' ? [`alter table ${made} replica identity full`] : []),
    ...(replicaIdentity === 'n' ? [`alter table ${made} replica identity nothing`] : []),
    `select restructure.copy_grants(${literal(qualified(schema, name))}, ${literal(made)})`,
  ];
}

/** What has to be locked before a table's place is taken: those who read it through views first, as they do. */
export const locksOf = ({ schema, name, readers, references }: TableFacts): readonly string[] => [
  ...readers.flatMap((each) => (each.kind === 'view' ? [each.name] : [])),
  ...new Set(references.map(({ table }) => table)),
  qualified(schema, name),
];
