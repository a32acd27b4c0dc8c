import type { ColumnRef, CreatePolicyStmt, FuncCall, SelectStmt, SubLink } from 'libpg-query';
import { below, calledName, kindBelow, nameOf, relationsBelow, stringsOf } from '../ast.ts';
import type { Rule } from '../rule.ts';
import type { Statement } from '../statement.ts';
import type { Table } from '../world.ts';
import { CHEAP_FUNCTIONS } from './cheap-functions.ts';

type Policy = Pick<CreatePolicyStmt, 'qual' | 'with_check' | 'table'>;

function policyOf({ node }: Statement): Policy | undefined {
  if ('CreatePolicyStmt' in node) return node.CreatePolicyStmt;
  return 'AlterPolicyStmt' in node ? node.AlterPolicyStmt : undefined;
}

/** Everything below the expressions of a policy that is not in a subquery of them. */
const outsideSubqueries = ({ qual, with_check: check }: Policy) => below([qual, check], 'subselect');

export const unwrappedFunctionInPolicy: Rule = {
  id: 'unwrapped-function-in-policy',
  *each(statement) {
    const policy = policyOf(statement);
    if (policy === undefined) return;
    for (const [kind, fields] of outsideSubqueries(policy)) {
      const call = fields as FuncCall;
      const name = kind === 'FuncCall' ? calledName(call) : '';
      if (name === '' || CHEAP_FUNCTIONS.has(name)) continue;
      const ofRow = [...kindBelow(call.args, 'ColumnRef')].length > 0;
      yield {
        statement,
        offset: statement.locate(call.location),
        message: ofRow
          ? `${name} is called for every row, with what is in it, and no index can help. Ask once for all that may be seen, and compare: column in (select …), where the subquery does not depend on the row.`
          : `${name}() is called for every row. Write (select ${name}(${call.args === undefined ? '' : '…'})): PostgreSQL asks it once, and an index on the column is used.`,
      };
    }
  },
};

export const policyPerRowSubquery: Rule = {
  id: 'policy-per-row-subquery',
  *each(statement) {
    const policy = policyOf(statement);
    if (policy === undefined) return;
    for (const link of kindBelow<SubLink>([policy.qual, policy.with_check], 'SubLink')) {
      const select = link.subselect;
      if (select === undefined || !('SelectStmt' in select) || !dependsOnRow(select.SelectStmt, policy)) continue;
      yield {
        statement,
        offset: statement.locate(link.location),
        message: `This subquery depends on the row, so that it runs for every row of ${nameOf(policy.table)}. Turn it round: column in (select … where member = (select current_user_id())), which runs once.`,
      };
    }
  },
};

/** It names the policy's table, which it does not select from; or has nothing to select from, and names a column. */
function dependsOnRow(select: SelectStmt, { table }: Policy): boolean {
  const columns = [...kindBelow<ColumnRef>(select, 'ColumnRef')].map(({ fields }) => stringsOf(fields));
  const relations = [...relationsBelow(select)].map(({ relname, alias }) => alias?.aliasname ?? relname ?? '');
  if (relations.length === 0 && select.fromClause === undefined) return columns.length > 0;
  return (
    !relations.includes(table?.relname ?? '') &&
    columns.some((parts) => parts.length > 1 && parts.at(-2) === table?.relname)
  );
}

const TENANT_COLUMNS: ReadonlySet<string> = new Set(['organization_id', 'org_id', 'tenant_id']);

export const tenantColumnWithoutIndex: Rule = {
  id: 'tenant-column-without-index',
  *end({ tables }) {
    for (const table of tables.values()) {
      const led = new Set(table.leadingColumns.values());
      for (const [column, { statement, offset }] of table.columns) {
        if (!TENANT_COLUMNS.has(column) || led.has(column) || !isInPolicy(column, table)) continue;
        yield {
          statement,
          offset,
          message: `The policies of ${table.name} compare ${column}, and no index begins with it: every query reads the rows of every tenant. create index concurrently on ${table.name} (${column}).`,
        };
      }
    }
  },
};

function isInPolicy(column: string, { policies, name }: Table): boolean {
  const table = name.split('.')[1];
  return policies.some((statement) => {
    const policy = policyOf(statement) ?? {};
    const outside = [...outsideSubqueries(policy)].flatMap(([kind, fields]) =>
      kind === 'ColumnRef' ? [fields as ColumnRef] : [],
    );
    const isColumn = ({ fields }: ColumnRef) => stringsOf(fields).at(-1) === column;
    const isOfTable = ({ fields }: ColumnRef) => stringsOf(fields).at(-2) === table;
    const anywhere = [...kindBelow<ColumnRef>([policy.qual, policy.with_check], 'ColumnRef')];
    return outside.some(isColumn) || anywhere.some((each) => isColumn(each) && isOfTable(each));
  });
}

export const rlsEnabledWithoutPolicy: Rule = {
  id: 'rls-enabled-without-policy',
  *end({ tables }) {
    for (const { name, rowSecurity, rowSecurityBy, policies, partitionOf } of tables.values()) {
      // A partition without a policy is read through its parent, as it should be.
      if (!rowSecurity || rowSecurityBy === undefined || policies.length > 0 || partitionOf !== undefined) continue;
      yield {
        statement: rowSecurityBy,
        message: `Row-level security is enabled on ${name}, and these files give it no policy: everybody but its owner sees no row, silently. Create the policies in the same transaction.`,
      };
    }
  },
};

export const rlsNotOnPartitions: Rule = {
  id: 'rls-not-on-partitions',
  *end({ tables }) {
    for (const { name, rowSecurity, partitionOf } of tables.values()) {
      if (partitionOf === undefined || rowSecurity || !partitionOf.parent.rowSecurity) continue;
      yield {
        statement: partitionOf.by,
        message: `${partitionOf.parent.name} has row-level security, and its partition ${name} does not: who is granted the partition reads past the policies. alter table ${name} enable row level security, which needs no policy of its own.`,
      };
    }
  },
};
