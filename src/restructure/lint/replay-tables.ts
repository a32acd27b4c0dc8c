import type { AlterTableCmd, AlterTableStmt, ColumnDef, Constraint, CreateStmt, Node, PartitionCmd } from 'libpg-query';
import { nameOf, stringsOf } from './ast.ts';
import { commandsOf, parentOfPartition } from './locks.ts';
import type { Statement } from './statement.ts';
import { newTable, rootOf, type Table, type World } from './world.ts';

export function createTable(world: World, statement: Statement, create: CreateStmt): void {
  const name = nameOf(create.relation);
  const table = newTable(name, statement);
  world.tables.set(name, table);
  world.creations.push({ name, statement });
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
  const view = world.views.get(name);
  if (view !== undefined) {
    for (const { def } of commandsOf(alter)) if (setsInvoker(def)) view.invoker = true;
    return;
  }
  if (alter.objtype !== 'OBJECT_TABLE') return;
  for (const command of commandsOf(alter)) alterBy(world, world.table(name), statement, command);
}

function setsInvoker(def: Node | undefined): boolean {
  const options = def !== undefined && 'List' in def ? (def.List.items ?? []) : [];
  return options.some((each) => 'DefElem' in each && each.DefElem.defname === 'security_invoker');
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
