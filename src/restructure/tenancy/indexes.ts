import pg from 'pg';
import type { Pool } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { qualified } from '../statements.ts';
import { indexNameFor } from './columns.ts';
import { TENANT_COLUMN } from './conditions.ts';
import type { TenantTable } from './declaration.ts';
import type { Member } from './ground.ts';

const { escapeIdentifier: ident } = pg;

/** The columns that policies compare with what the caller is. */
export function comparedColumns({ organization, groups, user, owner, kind }: TenantTable): readonly string[] {
  if (kind === 'global' || kind === 'system') return [];
  const ofOrganization = organization === undefined ? [] : ['of' in organization ? TENANT_COLUMN : organization.column];
  return [
    ...new Set([
      ...ofOrganization,
      ...Object.values(groups),
      ...(user ?? []).map((each) => each.column),
      ...(owner === undefined ? [] : [owner.by]),
    ]),
  ];
}

export interface NamedIndex {
  readonly schema: string;
  readonly name: string;
}

/**
 * Builds an index that begins with the column, beside whoever writes, where there is none. One that an interrupted run left unfinished is
 * built anew.
 * @returns what was made, now or by an interrupted run; null where there was one
 */
export async function buildIndex(pool: Pool, leaf: Member, column: string): Promise<NamedIndex | null> {
  const name = indexNameFor(leaf.name, column);
  const { rows } = await pool.query<{ name: string; isValid: boolean }>(
    `select i.relname as name, x.indisvalid as "isValid"
     from pg_index x join pg_class i on i.oid = x.indexrelid
     join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
     where x.indrelid = $1 and a.attname = $2 and x.indpred is null`,
    [leaf.oid, column],
  );
  const ours = rows.find((each) => each.name === name);
  if (rows.some(({ isValid }) => isValid)) return ours?.isValid === true ? { schema: leaf.schema, name } : null;
  try {
    if (ours !== undefined) await pool.query(`drop index concurrently ${qualified(leaf.schema, name)}`);
    await pool.query(
      `create index concurrently ${ident(name)} on ${qualified(leaf.schema, leaf.name)} (${ident(column)})`,
    );
  } catch (error) {
    throw toAppError(error);
  }
  return { schema: leaf.schema, name };
}
