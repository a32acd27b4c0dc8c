import { type ApiRelation, type ApiSchema, primaryKeyOf, shownColumns } from './api-schema.ts';
import type { Embed } from './selection.ts';

type Pairs = readonly (readonly [from: string, to: string])[];

/** How rows of one exposed relation find those of another. */
export interface Relationship {
  readonly from: ApiRelation;
  readonly to: ApiRelation;
  /** Whether a row of the one has one row of the other at most. */
  readonly isToOne: boolean;
  /** The foreign key's; of a junction, those of both. */
  readonly constraints: readonly string[];
  /** Columns that are equal; through a junction, those of `from` and of the junction. */
  readonly pairs: Pairs;
  /** The table between many and many, and which of its columns equal those of `to`. */
  readonly junction?: { readonly relation: ApiRelation; readonly pairs: Pairs };
}

/** Which relationship is meant by an embedded resource; the names of all that could be where it does not say. */
export type Found =
  | { readonly relationship: Relationship }
  | { readonly refusal: 'unrelated' | 'ambiguous'; readonly names: readonly string[] };

/** What PostgREST does to find the related rows of an embedded resource: by its name, and by the hint where there is one. */
export function findRelationship(relationships: readonly Relationship[], from: ApiRelation, embed: Embed): Found {
  const candidates = relationships.filter((each) => each.from === from && isMeant(each, embed));
  const [only] = candidates;
  if (only !== undefined && candidates.length === 1) return { relationship: only };
  return {
    refusal: only === undefined ? 'unrelated' : 'ambiguous',
    names: candidates.map(({ constraints }) => constraints.join(' and ')).toSorted(),
  };
}

function isMeant({ to, constraints, pairs, junction }: Relationship, { target, hint }: Embed): boolean {
  const [constraint] = constraints;
  const [pair] = pairs;
  const isOfOneColumn = junction === undefined && pairs.length === 1;
  if (hint !== undefined) {
    if (target !== to.name) return false;
    if (junction !== undefined) return hint === junction.relation.name;
    return hint === constraint || (isOfOneColumn && (hint === pair?.[0] || hint === pair?.[1]));
  }
  if (target === to.name) return true;
  // A constraint or a column in place of the name stands for a table, and for no view.
  return !to.isView && junction === undefined && (target === constraint || (isOfOneColumn && target === pair?.[0]));
}

/** Every relationship between exposed relations: along foreign keys, against them, and through tables that are keyed by two of them. */
export function relationshipsOf(schema: ApiSchema): readonly Relationship[] {
  const along = alongForeignKeys(schema);
  return [...along, ...along.map((each) => reversed(each, schema)), ...throughJunctions(along, schema)];
}

/** A view that shows all of a key's columns has the key too, at either end of it. */
function alongForeignKeys(schema: ApiSchema): readonly Relationship[] {
  const exposed = [...schema.exposed.values()];
  const showing = (table: number, columns: readonly string[]) =>
    exposed.flatMap((relation) => {
      const shown = shownColumns(relation, table, columns);
      return shown === undefined ? [] : [{ relation, shown }];
    });
  return schema.foreignKeys.flatMap((key) => {
    const ends = showing(key.to, key.toColumns);
    return showing(key.from, key.columns).flatMap((start) =>
      ends.map((end) => ({
        from: start.relation,
        to: end.relation,
        isToOne: true,
        constraints: [key.name],
        pairs: start.shown.map((column, place) => [column, end.shown[place] ?? ''] as const),
      })),
    );
  });
}

function reversed({ from, to, constraints, pairs }: Relationship, { uniqueKeys }: ApiSchema): Relationship {
  const origins = pairs.flatMap(([column]) => from.origins.get(column) ?? []);
  const columns = new Set(origins.map(({ column }) => column));
  const isUnique = uniqueKeys.some(
    (key) =>
      key.isConstraint &&
      key.relation === origins[0]?.relation &&
      key.columns.length === columns.size &&
      key.columns.every((column) => columns.has(column)),
  );
  return { from: to, to: from, isToOne: isUnique, constraints, pairs: swapped(pairs) };
}

function throughJunctions(along: readonly Relationship[], schema: ApiSchema): readonly Relationship[] {
  return [...new Set(along.map(({ from }) => from))].flatMap((relation) => {
    const key = new Set(primaryKeyOf(schema, relation));
    const ends = along.filter(({ from, pairs }) => from === relation && pairs.every(([column]) => key.has(column)));
    return ends.flatMap((one) =>
      ends
        .filter((other) => other.constraints[0] !== one.constraints[0])
        .map((other) => ({
          from: one.to,
          to: other.to,
          isToOne: false,
          constraints: [...one.constraints, ...other.constraints],
          pairs: swapped(one.pairs),
          junction: { relation, pairs: other.pairs },
        })),
    );
  });
}

const swapped = (pairs: Pairs): Pairs => pairs.map(([from, to]) => [to, from] as const);
