import type { AlterTableCmd, AlterTableStmt, ColumnDef, Constraint, CreateStmt, Node, PartitionCmd } from 'libpg-query';
import { nameOf, stringsOf } from './ast.ts';
import { saysInvoker } from './invoker.ts';
import { commandsOf, parentOfPartition } from './locks.ts';
import type { Statement } from './statement.ts';
import { newTable, rootOf, type Table, type World } from './world.ts';

export function createTable(world: World, statement: Statement, create: CreateStmt): void {
  const name = nameOf(create.relation);
  const table = newTable(name, statement);
  world.tables.set(name, table);
  world.create('table', name, statement);
  table.isPartitioned = create.partspec !== undefined;
  for (const element of create.tableElts ?? []) addElement(table, statement, element);
  const parent = parentOfPartition(statement.node);
  if (parent !== undefined) {
    partition(world.table(nameOf(parent)), table, { by: statement, isDefault: create.partbound?.is_default === true });
  }
}

function partition(parent: Table, child: Table, { by, isDefault }: { by: Statement; isDefault: boolean }): void {
  // PostgreSQL refuses a circle.
  if (rootOf(parent) === child) return;
  parent.isPartitioned = true;
  parent.partitions.add(child);
  child.partitionOf = { parent, by, isDefault };
}

function addElement(table: Table, statement: Statement, element: Node | undefined): void {
  if (element !== undefined && 'ColumnDef' in element) addColumn(table, statement, element.ColumnDef);
  if (element !== undefined && 'Constraint' in element) addConstraint(table, element.Constraint);
}

function addColumn(table: Table, statement: Statement, { colname = '', constraints, location }: ColumnDef): void {
  table.columns.set(colname, { statement, offset: statement.locate(location) });
  for (const each of constraints ?? []) if ('Constraint' in each) addConstraint(table, each.Constraint, colname);
}

function addConstraint(table: Table, constraint: Constraint, column?: string): void {
  const { contype, conname, skip_validation: isUnvalidated = false } = constraint;
  const name = conname ?? `unnamed ${table.checks.size + table.leadingColumns.size}`;
  if (contype === 'CONSTR_CHECK') table.checks.set(name, !isUnvalidated);
  if (contype !== 'CONSTR_PRIMARY' && contype !== 'CONSTR_UNIQUE') return;
  const [leading = column] = stringsOf(constraint.keys);
  if (leading !== undefined) table.leadingColumns.set(name, leading);
}

export function alterTable(world: World, statement: Statement, alter: AlterTableStmt): void {
  const name = nameOf(alter.relation);
  for (const command of commandsOf(alter)) alterInvoker(world, statement, { name, command });
  if (alter.objtype !== 'OBJECT_TABLE' || world.views.has(name)) return;
  for (const command of commandsOf(alter)) alterBy(world, world.table(name), statement, command);
}

/** Only a view has it: one that the files do not create is known by what they say of it. */
function alterInvoker(
  world: World,
  statement: Statement,
  { name, command: { subtype, def } }: { readonly name: string; readonly command: AlterTableCmd },
): void {
  const said = saysInvoker(def !== undefined && 'List' in def ? (def.List.items ?? []) : []);
  if (said === undefined) return;
  const invoker = subtype !== 'AT_ResetRelOptions' && said;
  const view = world.views.get(name) ?? { name, statement, query: undefined, invoker, takenBy: undefined };
  view.invoker = invoker;
  view.takenBy = invoker ? undefined : statement;
  world.views.set(name, view);
}

function alterBy(world: World, table: Table, statement: Statement, { subtype, def, name = '' }: AlterTableCmd): void {
  switch (subtype) {
    case 'AT_AddColumn':
    case 'AT_AddConstraint':
      addElement(table, statement, def);
      return;
    case 'AT_DropColumn':
      table.columns.delete(name);
      return;
    case 'AT_DropConstraint':
      table.checks.delete(name);
      table.leadingColumns.delete(name);
      return;
    case 'AT_ValidateConstraint':
      table.checks.set(name, true);
      return;
    case 'AT_EnableRowSecurity':
      table.rowSecurity = true;
      table.rowSecurityBy = statement;
      return;
    case 'AT_DisableRowSecurity':
      table.rowSecurity = false;
      return;
    case 'AT_AttachPartition':
    case 'AT_DetachPartition':
      alterPartition(world, table, statement, def !== undefined && 'PartitionCmd' in def ? def.PartitionCmd : {});
      return;
    default:
  }
}

function alterPartition(world: World, parent: Table, by: Statement, { name, bound }: PartitionCmd): void {
  const child = world.table(nameOf(name));
  parent.partitions.delete(child);
  child.partitionOf = undefined;
  if (bound !== undefined) partition(parent, child, { by, isDefault: bound.is_default === true });
}
