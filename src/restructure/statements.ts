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
  readonly hasStatistics: boolean;
  /** Sequences that go along. */
  readonly sequences: number;
  /** Publications that have it because they have everything in its schema. */
  readonly publishedBySchema: readonly string[];
  /** What the group `read` is granted: nothing where it has that, or where somebody in it could not read by itself. */
  readonly readGrants: readonly string[];
  readonly writeGrants: readonly string[];
  /** Whether its owner may be made the view's. */
  readonly mayOwnView: boolean;
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
  const statistics = (table: string, former: string): string =>
    `select restructure.take_statistics_along(${literal(table)}, ${literal(former)})`;
  return {
    statements: [
      `alter table ${old} set schema ${ident(target)}`,
      ...(relation.hasStatistics ? [statistics(moved, from)] : []),
      ...grants.map(({ privileges, group }) => `grant ${privileges} on ${moved} to ${ident(group)}`),
      ...standIn(relation, { old, moved, currentUser }),
      // Partitions and heirs each by themselves.
      ...relation.publishedBySchema.map((name) => `alter publication ${ident(name)} add table only ${moved}`),
    ],
    inverse: [
      ...relation.publishedBySchema.map(
        (name) => `select restructure.take_out_of_publication(${literal(name)}, ${literal(moved)})`,
      ),
      // Not dropped yet: whoever has looked its name up, and waits, finds it.
      `select restructure.set_aside(${literal(old)})`,
      ...grants.map(({ privileges, group }) => `revoke ${privileges} on ${moved} from ${ident(group)}`),
      `alter table ${moved} set schema ${ident(from)}`,
      // Somebody may have made some meanwhile.
      statistics(old, target),
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
    // The same to whoever reads and writes: it has no rights of its own.
    ...(relation.owner === currentUser || !relation.mayOwnView
      ? []
      : [`alter view ${old} owner to ${ident(relation.owner)}`]),
    `select restructure.copy_grants(${literal(moved)}, ${literal(old)})`,
  ];
}

function groupGrants({ readGrants, writeGrants }: Movable, { read, write }: { read: string; write: string }) {
  return [
    { privileges: readGrants.join(', '), group: read },
    { privileges: writeGrants.join(', '), group: write },
  ].filter(({ privileges }) => privileges !== '');
}
