import pg from 'pg';
import { qualified, type Step } from '../statements.ts';
import { conditionsOf, type Place, type PolicyContext, TENANT_COLUMN } from './conditions.ts';
import type { TenantTable } from './declaration.ts';

const { escapeIdentifier: ident } = pg;

/** What ours are called. */
export const POLICIES = [
  'tenant_reads',
  'tenant_inserts',
  'tenant_updates',
  'tenant_deletes',
  'tenant_access',
] as const;

/** A table, or a partition of it, as it is before its policies. */
export interface Unprotected extends Place {
  readonly hasRowSecurity: boolean;
  readonly columns: readonly string[];
  /** Roles, `public` among them, that may update every column, or give every column to a row that they insert. */
  readonly updaters: readonly string[];
  readonly inserters: readonly string[];
}

/**
 * Row security for a table, and for each partition, which whoever names it reaches past its parent. The old policies stay and go on
 * saying what somebody may do; the new ones are restrictive and say of which tenant: both have to agree.
 */
export function policyStep(
  table: TenantTable,
  relations: readonly Unprotected[],
  context: PolicyContext & { readonly writers: readonly string[] },
): Step {
  const parts = relations.flatMap((relation) => [
    relationPolicies({ ...table, table: relation.name }, relation, context),
    keptColumns('update', table.fixed, relation.updaters, { relation, ...context }),
    keptColumns('insert', table.defaulted, relation.inserters, { relation, ...context }),
  ]);
  return {
    statements: parts.flatMap(({ statements }) => statements),
    inverse: parts.toReversed().flatMap(({ inverse }) => inverse),
    mayChange: [
      '+policy',
      'relation.row security',
      'relation.row security forced',
      ...(keepsColumns(table) ? ['relation.grants', 'column.grants'] : []),
    ],
  };
}

function relationPolicies(
  table: TenantTable,
  relation: Unprotected,
  context: PolicyContext,
): Pick<Step, 'statements' | 'inverse'> {
  const { schema, name, hasRowSecurity } = relation;
  const on = qualified(schema, name);
  const { reads, inserts, writes, becomes } = conditionsOf(table, context);
  const policies = [
    ['tenant_reads', `for select using (${reads})`],
    ['tenant_inserts', `for insert with check (${inserts})`],
    ['tenant_updates', `for update using (${writes}) with check (${becomes})`],
    ['tenant_deletes', `for delete using (${writes})`],
  ] as const;
  return {
    statements: [
      ...policies.map(([policy, clause]) => `create policy ${policy} on ${on} as restrictive ${clause}`),
      // Without row security everybody with a grant came to every row: what the others restrict is let in by this one.
      ...(hasRowSecurity
        ? []
        : [
            `create policy tenant_access on ${on} using (true) with check (true)`,
            `alter table ${on} enable row level security`,
          ]),
      ...(table.force ? [`alter table ${on} force row level security`] : []),
    ],
    inverse: [
      ...(table.force ? [`alter table ${on} no force row level security`] : []),
      ...(hasRowSecurity ? [] : [`alter table ${on} disable row level security`, `drop policy tenant_access on ${on}`]),
      ...policies.map(([policy]) => `drop policy ${policy} on ${on}`),
    ],
  };
}

/** Whether some columns are for writers alone. */
export const keepsColumns = ({ fixed, defaulted }: TenantTable): boolean => fixed.length + defaulted.length > 0;

/** Whoever may update or insert, but is no writer, may all columns but those that are kept: by the table's name and by that of its view. */
function keptColumns(
  privilege: 'update' | 'insert',
  kept: readonly string[],
  holders: readonly string[],
  {
    relation: { schema, name, columns },
    from,
    writers,
  }: { readonly relation: Unprotected; readonly from: string; readonly writers: readonly string[] },
): Pick<Step, 'statements' | 'inverse'> {
  const roles = holders.filter((role) => !writers.includes(role));
  if (kept.length === 0 || roles.length === 0) return { statements: [], inverse: [] };
  const to = roles.map((role) => (role === 'public' ? role : ident(role))).join(', ');
  const names = [...new Set([qualified(schema, name), qualified(from, name)])];
  // The tenant's column is not one of the view's, and is the trigger's to write.
  const free = columns.filter((column) => !kept.includes(column) && column !== TENANT_COLUMN);
  const list = free.map(ident).join(', ');
  return {
    statements: names.flatMap((on) => [
      `revoke ${privilege} on ${on} from ${to}`,
      `grant ${privilege} (${list}) on ${on} to ${to}`,
    ]),
    inverse: names.flatMap((on) => [
      `revoke ${privilege} (${list}) on ${on} from ${to}`,
      `grant ${privilege} on ${on} to ${to}`,
    ]),
  };
}
