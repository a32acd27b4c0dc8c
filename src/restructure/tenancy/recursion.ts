import type { Queryable } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import { needsParent, TEMPLATES, type Tenancy, type TenantTable } from './declaration.ts';
import type { Ground } from './ground.ts';

/**
 * A policy that reads another table with the caller's rights asks the policies of that one, the old ones too: where they come back to the
 * first, PostgreSQL refuses every query of either. What the mapping alone says is looked at where it is read.
 * @throws AppError RESTRUCTURE_MAPPING_INVALID
 */
export async function assertNoRecursion(db: Queryable, { members }: Ground, tenancy: Tenancy): Promise<void> {
  const oids = new Map(
    [...members].flatMap(([table, [root]]) => (root === undefined ? [] : [[table, root.oid] as const])),
  );
  const reads = await readPolicyReads(db);
  const asked = tenancy.tables.flatMap((table) => {
    const [from, to] = [oids.get(table.table), oids.get(table.parent?.of ?? '')];
    return from === undefined || to === undefined || !asksParent(table) ? [] : [{ table, from, to }];
  });
  for (const { from, to } of asked) reads.set(from, [...(reads.get(from) ?? []), to]);
  const faults = asked
    .filter(({ from, to }) => leadsTo(to, from, reads))
    .map(({ table }) => `a policy of ${table.table} reads ${table.parent?.of}, whose policies read ${table.table}`);
  if (faults.length === 0) return;
  throw new AppError(
    'RESTRUCTURE_MAPPING_INVALID',
    `The tenancy would make queries recurse: ${faults.join('; ')}. Say whose the rows are by owner, organization or groups.`,
  );
}

function asksParent(table: TenantTable): boolean {
  const { kind, reads, writes, inserts = [] } = table;
  const rules = [...(reads ?? TEMPLATES[kind].reads), ...(writes ?? TEMPLATES[kind].writes), ...inserts];
  return rules.includes('parent') || needsParent(table);
}

/** By table, the others that its policies read. */
async function readPolicyReads(db: Queryable): Promise<Map<number, readonly number[]>> {
  const { rows } = await db.query<{ table: number; reads: number[] }>(
    `select p.polrelid as table, array_agg(distinct d.refobjid) as reads
     from pg_policy p join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
     join pg_class c on d.refclassid = 'pg_class'::regclass and c.oid = d.refobjid and c.relkind in ('r', 'p')
     where d.refobjid <> p.polrelid group by 1`,
  );
  return new Map(rows.map(({ table, reads }) => [table, reads]));
}

function leadsTo(start: number, end: number, reads: ReadonlyMap<number, readonly number[]>): boolean {
  const reached = new Set([start]);
  for (const table of reached) for (const next of reads.get(table) ?? []) reached.add(next);
  return reached.has(end);
}
