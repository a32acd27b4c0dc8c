import pg from 'pg';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/** A relation that is about to move, as far as SQL has to be written about it. */
export interface Movable {
  readonly oid: number;
  readonly name: string;
  readonly owner: string;
  /** In order. */
  readonly columns: readonly { readonly name: string; readonly comment: string | null }[];
  readonly comment: string | null;
  readonly statistics: readonly string[];
  /** Publications that have it because they have everything in its schema. */
  readonly publishedBySchema: readonly string[];
  /** Whether every role of the group `read` may read it by itself, so that the group adds nothing. */
  readonly isRead: boolean;
  readonly isWritten: boolean;
}

export interface Move {
  readonly from: string;
  readonly target: string;
  /** Who runs it, and so would own what is made. */
  readonly currentUser: string;
  readonly groups: { readonly read: string; readonly write: string } | undefined;
  /** The table first, then the partitions and heirs that go with it. */
  readonly relations: readonly Movable[];
}

/** What a step does, what undoes it, and what it is there to change, as restructure.take_step has it. */
export interface Step {
  readonly statements: readonly string[];
  readonly inverse: readonly string[];
  readonly mayChange: readonly string[];
}

/** The SQL that moves a table with all that goes with it and leaves views under the old names. Pure. */
export function moveStep(move: Move): Step {
  const parts = move.relations.map((relation) => partsOf(relation, move));
  return {
    statements: parts.flatMap(({ statements }) => statements),
    inverse: parts.toReversed().flatMap(({ inverse }) => inverse),
    mayChange: [
      'relation.schema',
      'sequence.schema',
      'statistics.schema',
      '+reader',
      ...(move.groups === undefined ? [] : ['relation.grants']),
    ],
  };
}

/** What has to be locked before anything is looked at: LOCK takes partitions and heirs with their parent. */
export const lockStatement = (schema: string, name: string): string =>
  `lock table ${qualified(schema, name)} in access exclusive mode`;

export const qualified = (schema: string, name: string): string => `${ident(schema)}.${ident(name)}`;

function partsOf(relation: Movable, { from, target, currentUser, groups }: Move): Omit<Step, 'mayChange'> {
  const old = qualified(from, relation.name);
  const moved = qualified(target, relation.name);
  const grants = groups === undefined ? [] : groupGrants(relation, groups);
  return {
    statements: [
      `alter table ${old} set schema ${ident(target)}`,
      ...relation.statistics.map((name) => `alter statistics ${qualified(from, name)} set schema ${ident(target)}`),
      ...grants.map(({ privileges, group }) => `grant ${privileges} on ${moved} to ${ident(group)}`),
      ...standIn(relation, { old, moved, currentUser }),
      ...relation.publishedBySchema.map((name) => `alter publication ${ident(name)} add table ${moved}`),
    ],
    inverse: [
      ...relation.publishedBySchema.map((name) => `alter publication ${ident(name)} drop table ${moved}`),
      `drop view ${old}`,
      ...grants.map(({ privileges, group }) => `revoke ${privileges} on ${moved} from ${ident(group)}`),
      ...relation.statistics.map((name) => `alter statistics ${qualified(target, name)} set schema ${ident(from)}`),
      `alter table ${moved} set schema ${ident(from)}`,
    ],
  };
}

/**
 * A view that reads and writes as the table did, with the rights of whoever asks: without security_invoker it would show every row
 * to everybody, with `select *` it would be written down as these columns anyway.
 */
function standIn(relation: Movable, names: { old: string; moved: string; currentUser: string }): readonly string[] {
  const { old, moved, currentUser } = names;
  const columns = relation.columns.map(({ name }) => ident(name)).join(', ');
  return [
    `create view ${old} with (security_invoker = true) as select ${columns} from ${moved}`,
    `select restructure.copy_defaults(${literal(moved)}, ${literal(old)})`,
    ...(relation.comment === null ? [] : [`comment on view ${old} is ${literal(relation.comment)}`]),
    ...relation.columns.flatMap(({ name, comment }) =>
      comment === null ? [] : [`comment on column ${old}.${ident(name)} is ${literal(comment)}`],
    ),
    `select restructure.copy_grants(${literal(moved)}, ${literal(old)})`,
    ...(relation.owner === currentUser ? [] : [`alter view ${old} owner to ${ident(relation.owner)}`]),
  ];
}

function groupGrants({ isRead, isWritten }: Movable, { read, write }: { read: string; write: string }) {
  return [
    ...(isRead ? [{ privileges: 'select', group: read }] : []),
    ...(isWritten ? [{ privileges: 'select, insert, update, delete', group: write }] : []),
  ];
}
