import type { A_Expr, ColumnRef, CreatePolicyStmt, FuncCall, JoinExpr, Node, SelectStmt, SubLink } from 'libpg-query';
import { below, calledName, kindBelow, nameOf, relationsBelow, stringsOf } from '../ast.ts';
import type { Rule } from '../rule.ts';
import type { Statement } from '../statement.ts';
import { rootOf, type Table, type World } from '../world.ts';
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
  *each(statement, world) {
    const policy = policyOf(statement);
    if (policy === undefined) return;
    for (const link of kindBelow<SubLink>([policy.qual, policy.with_check], 'SubLink')) {
      const select = link.subselect;
      if (select === undefined || !('SelectStmt' in select) || !dependsOnRow(select.SelectStmt, policy, world))
        continue;
      yield {
        statement,
        offset: statement.locate(link.location),
        message: `This subquery depends on the row, so that it runs for every row of ${nameOf(policy.table)}. Turn it round: column in (select … where member = (select current_user_id())), which runs once.`,
      };
    }
  },
};

/** It names the policy's table, which it does not select from; or has nothing to select from, and names a column. */
function dependsOnRow(select: SelectStmt, { table }: Policy, world: World): boolean {
  const columns = [...kindBelow<ColumnRef>(select, 'ColumnRef')].map(({ fields }) => stringsOf(fields));
  const relations = [...relationsBelow(select)].map(({ relname, alias }) => alias?.aliasname ?? relname ?? '');
  if (relations.length === 0 && select.fromClause === undefined) return columns.length > 0;
  if (relations.includes(table?.relname ?? '')) return false;
  return (
    columns.some((parts) => parts.length > 1 && parts.at(-2) === table?.relname) || namesColumnOfRow(select, world)
  );
}

/**
 * A column without a table before it is the row's where what is selected from has none of that name. Of tables that the files do not
 * create nobody knows that: there, one that is compared with a column of theirs which says so is taken for another's.
 */
function namesColumnOfRow(select: SelectStmt, world: World): boolean {
  const columns = [...bareColumns(select)];
  const from = [...relationsBelow(select)];
  // What a function or a subquery answers with has columns too.
  const isOnlyTables = [...below(select)].every(([kind]) => kind !== 'RangeFunction' && kind !== 'RangeSubselect');
  const tables = from.map((relation) => world.tables.get(nameOf(relation)));
  const mayHave = columns.filter((name) => !tables.some((each) => each?.columns.has(name)));
  if (isOnlyTables && tables.every((each) => each !== undefined && isWrittenOut(each))) return mayHave.length > 0;
  const names = new Set(from.map(({ relname, alias }) => alias?.aliasname ?? relname ?? ''));
  const compared = [...kindBelow<A_Expr>(select, 'A_Expr')].flatMap(({ lexpr, rexpr }) => {
    const [left, right] = [lexpr, rexpr].map(columnOf);
    if (left === undefined || right === undefined) return [];
    return [
      [left, right],
      [right, left],
    ].flatMap(([bare = [], other = []]) => (bare.length === 1 && names.has(other.at(-2) ?? '') ? bare : []));
  });
  return compared.some((name) => mayHave.includes(name));
}

const columnOf = (node: Node | undefined) =>
  node !== undefined && 'ColumnRef' in node ? stringsOf(node.ColumnRef.fields) : undefined;

/** In the conditions: what is selected has names too, by which it is ordered and grouped. */
function* bareColumns(select: SelectStmt): Generator<string> {
  const conditions = [
    select.whereClause,
    [...kindBelow<JoinExpr>(select.fromClause, 'JoinExpr')].map(({ quals }) => quals),
  ];
  for (const { fields } of kindBelow<ColumnRef>(conditions, 'ColumnRef')) {
    const [name, ...more] = stringsOf(fields);
    if (name !== undefined && more.length === 0) yield name;
  }
}

/** All of its columns are in the statement that creates it. */
function isWrittenOut({ createdBy }: Table): boolean {
  if (createdBy === undefined || !('CreateStmt' in createdBy.node)) return false;
  const { tableElts = [], inhRelations } = createdBy.node.CreateStmt;
  return inhRelations === undefined && tableElts.every((each) => !('TableLikeClause' in each));
}

const TENANT_COLUMNS: ReadonlySet<string> = new Set(['organization_id', 'org_id', 'tenant_id', 'owner_context_id']);

export const tenantColumnWithoutIndex: Rule = {
  id: 'tenant-column-without-index',
  *end({ tables }) {
    for (const table of tables.values()) {
      if (isTemporary(table)) continue;
      const led = new Set([...table.leadingColumns.values(), ...rootOf(table).leadingColumns.values()]);
      for (const column of [...TENANT_COLUMNS].filter((each) => !led.has(each))) {
        const brought = table.columns.get(column);
        const policy = table.policies.find((each) => compares(each, column, table));
        if (brought !== undefined) yield { ...brought, message: unled(table, column, policy !== undefined) };
        else if (policy !== undefined)
          yield {
            statement: policy,
            message: `This policy compares ${column} of ${table.name}, and no index of these files begins with it: without one every query reads the rows of every tenant. create index concurrently on ${table.name} (${column}); where it has one from before, allow it here.`,
          };
      }
    }
  },
};

function unled({ name }: Table, column: string, isInPolicy: boolean): string {
  const what = isInPolicy ? `The policies of ${name} compare ${column}` : `${column} says whose a row of ${name} is`;
  return `${what}, and no index begins with it: every query reads the rows of every tenant. create index concurrently on ${name} (${column}).`;
}

function isTemporary({ createdBy }: Table): boolean {
  return (
    createdBy !== undefined &&
    'CreateStmt' in createdBy.node &&
    createdBy.node.CreateStmt.relation?.relpersistence === 't'
  );
}

function compares(statement: Statement, column: string, { name }: Table): boolean {
  const policy = policyOf(statement) ?? {};
  const table = name.split('.')[1];
  const outside = [...outsideSubqueries(policy)].flatMap(([kind, fields]) =>
    kind === 'ColumnRef' ? [fields as ColumnRef] : [],
  );
  const isColumn = ({ fields }: ColumnRef) => stringsOf(fields).at(-1) === column;
  const isOfTable = ({ fields }: ColumnRef) => stringsOf(fields).at(-2) === table;
  const anywhere = [...kindBelow<ColumnRef>([policy.qual, policy.with_check], 'ColumnRef')];
  return outside.some(isColumn) || anywhere.some((each) => isColumn(each) && isOfTable(each));
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
