import pg from 'pg';
import type { Check } from '../../db/checks.ts';
import type { Tx } from '../../db/pool.ts';
import { qualified } from '../statements.ts';
import { contentSql } from './content.ts';
import type { MovedRelation } from './moved.ts';

const { escapeLiteral: literal } = pg;

/** Both names in one snapshot: what one shows, the other does. */
export function contentCheck(moved: readonly MovedRelation[]): Check {
  const leaves = moved.filter(({ isLeaf }) => isLeaf);
  const compared = leaves
    .filter(({ hidden }) => hidden.length === 0)
    .map(
      (
        relation,
      ) => `select ${literal(`${relation.from}.${relation.name}`)} as name, coalesce(o.chunk, n.chunk) as chunk, o.rows as old_rows, n.rows as new_rows
      from (${contentSql(qualified(relation.from, relation.name), relation)}) o full join (${contentSql(qualified(relation.schema, relation.name), relation)}) n using (chunk)
      where (o.rows, o.hash) is distinct from (n.rows, n.hash)`,
    );
  return {
    name: 'every row is the same by the old name and by the new',
    unit: 'rows',
    examined:
      leaves.length === 0
        ? 'select 0'
        : `select sum(n) from (${leaves.map(({ schema, name }) => `select count(*) as n from ${qualified(schema, name)}`).join(' union all ')}) counted`,
    faults: [
      ...leaves
        .filter(({ hidden }) => hidden.length > 0)
        .map(
          ({ from, name, hidden }) =>
            `select ${literal(`${from}.${name}: the old name does not show ${hidden.join(', ')}`)}`,
        ),
      compared.length === 0
        ? 'select null::text where false'
        : `(select format('%s, chunk %s: %s rows by the old name, %s by the new', name, chunk, coalesce(old_rows, 0), coalesce(new_rows, 0)) from (${compared.join(' union all ')}) c order by 1)`,
    ].join(' union all '),
  };
}

interface ForeignKey {
  readonly oid: number;
  readonly name: string;
  readonly child: string;
  readonly parent: string;
  readonly pairs: readonly { readonly child: string; readonly parent: string }[];
}

/** Looked for row by row: that a constraint is called valid is what is to be proved. */
export async function foreignKeyChecks(tx: Tx, moved: readonly MovedRelation[]): Promise<readonly Check[]> {
  const { rows } = await tx.query<ForeignKey>(
    `select k.oid, k.conname as name, k.conrelid::regclass::text as child, k.confrelid::regclass::text as parent,
       array(
         select jsonb_build_object('child', quote_ident(c.attname), 'parent', quote_ident(p.attname))
         from unnest(k.conkey, k.confkey) pair (child, parent)
         join pg_attribute c on c.attrelid = k.conrelid and c.attnum = pair.child
         join pg_attribute p on p.attrelid = k.confrelid and p.attnum = pair.parent
       ) as pairs
     from pg_constraint k
     where k.contype = 'f' and k.conparentid = 0 and (k.conrelid = any ($1::oid[]) or k.confrelid = any ($1::oid[]))
     order by 2, 1`,
    [moved.map(({ oid }) => oid)],
  );
  if (rows.length === 0) return [];
  const orphans = rows.map(
    ({
      name,
      child,
      parent,
      pairs,
    }) => `select format('%s: a row of %s refers by %s to no row of %s', ${literal(name)}, ${literal(child)}, ${literal(pairs.map((pair) => pair.child).join(', '))}, ${literal(parent)})
      from ${child} c where ${pairs.map((pair) => `c.${pair.child} is not null`).join(' and ')}
        and not exists (select from ${parent} p where ${pairs.map((pair) => `p.${pair.parent} = c.${pair.child}`).join(' and ')})`,
  );
  return [
    {
      name: 'every row that a foreign key refers to is there',
      unit: 'foreign keys',
      examined: `select ${rows.length}`,
      faults: orphans.join(' union all '),
    },
    {
      name: 'every foreign key is validated',
      unit: 'foreign keys',
      examined: `select ${rows.length}`,
      faults: `select format('%s of %s is not validated', k.conname, k.conrelid::regclass) from pg_constraint k
        where not k.convalidated and k.oid = any ('{${rows.map(({ oid }) => oid).join()}}') order by 1`,
    },
  ];
}
