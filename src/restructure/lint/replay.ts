import type {
  CreateTableAsStmt,
  DropStmt,
  FuncCall,
  GrantStmt,
  IndexStmt,
  InsertStmt,
  Node,
  ObjectType,
  RangeVar,
  VariableSetStmt,
  ViewStmt,
} from 'libpg-query';
import { calledName, constantText, kindBelow, nameOf, nameOfParts, stringsOf } from './ast.ts';
import { saysInvoker } from './invoker.ts';
import { moveToSchema, rename } from './replay-moves.ts';
import { alterRoutine, createRoutine, dropRoutine } from './replay-routines.ts';
import { alterTable, createTable } from './replay-tables.ts';
import { durationMs } from './setting.ts';
import type { Statement } from './statement.ts';
import { newTable, type Table, World } from './world.ts';

/** Lets what ends with a transaction or a session end, before the first statement of the next is looked at. */
export function enter(world: World, statement: Statement): void {
  if (statement.runs === 'when-called') return;
  world.lockTimeout.enter(statement);
  world.held.enter(statement);
}

/** What a statement makes of the world. One in the body of a function makes nothing of it: it runs when that is called. */
export function replay(world: World, statement: Statement): void {
  if (statement.runs === 'when-called') {
    world.lastRoutine?.body.push(statement);
    return;
  }
  for (const lock of world.hotTableLocks(statement)) world.held.trees.set(world.treeOf(lock.table), lock);
  const { node } = statement;
  if ('CreateStmt' in node) createTable(world, statement, node.CreateStmt);
  else if ('AlterTableStmt' in node) alterTable(world, statement, node.AlterTableStmt);
  else if ('CreateTableAsStmt' in node)
    createdAs(world, statement, node.CreateTableAsStmt.into?.rel, sourcesOf(world, node.CreateTableAsStmt));
  else if ('InsertStmt' in node) fill(world, statement, node.InsertStmt);
  else if ('SelectStmt' in node && node.SelectStmt.intoClause !== undefined)
    createdAs(world, statement, node.SelectStmt.intoClause.rel);
  else if ('ViewStmt' in node) createView(world, statement, node.ViewStmt);
  else if ('CreateDomainStmt' in node)
    world.create('type', nameOfParts(stringsOf(node.CreateDomainStmt.domainname)), statement);
  else if ('CreateEnumStmt' in node)
    world.create('type', nameOfParts(stringsOf(node.CreateEnumStmt.typeName)), statement);
  else if ('CompositeTypeStmt' in node) world.create('type', nameOf(node.CompositeTypeStmt.typevar), statement);
  else if ('IndexStmt' in node) createIndex(world, node.IndexStmt);
  else if ('CreateSeqStmt' in node) world.sequences.add(nameOf(node.CreateSeqStmt.sequence));
  else if ('CreatePolicyStmt' in node) world.table(nameOf(node.CreatePolicyStmt.table)).policies.push(statement);
  else if ('AlterPolicyStmt' in node) world.table(nameOf(node.AlterPolicyStmt.table)).policies.push(statement);
  else if ('GrantStmt' in node) grant(world, statement, node.GrantStmt);
  else if ('CreateFunctionStmt' in node) createRoutine(world, statement, node.CreateFunctionStmt);
  else if ('AlterFunctionStmt' in node) alterRoutine(world, statement, node.AlterFunctionStmt);
  else if ('DropStmt' in node) drop(world, statement, node.DropStmt);
  else if ('AlterObjectSchemaStmt' in node) moveToSchema(world, statement, node.AlterObjectSchemaStmt);
  else if ('RenameStmt' in node) rename(world, statement, node.RenameStmt);
  else set(world, node);
}

/** The world of a body alone, as if it were called on tables that are all there. */
export function replayBody(body: readonly Statement[]): World {
  const world = new World();
  for (const statement of body) replay(world, { ...statement, runs: 'with-file' });
  return world;
}

function createdAs(
  world: World,
  statement: Statement,
  relation: RangeVar | undefined,
  sources: readonly Table[] = [],
): void {
  const name = nameOf(relation);
  world.tables.set(name, newTable(name, statement, sources));
  world.create('table', name, statement);
}

/** The tables that a materialized view has its rows from, be it through views. */
function sourcesOf(world: World, { objtype, query }: CreateTableAsStmt): readonly Table[] {
  if (objtype !== 'OBJECT_MATVIEW') return [];
  return [...world.namesBelow(query)].flatMap((name) => (world.views.has(name) ? [] : world.table(name)));
}

function fill(world: World, { transaction }: Statement, { relation, selectStmt }: InsertStmt): void {
  const isQuery =
    selectStmt !== undefined && 'SelectStmt' in selectStmt && selectStmt.SelectStmt.fromClause !== undefined;
  if (isQuery) world.fills.push({ into: nameOf(relation), query: selectStmt, transaction });
}

function createView(world: World, statement: Statement, { view, query, options = [] }: ViewStmt): void {
  const name = nameOf(view);
  // What is temporary is seen by its own session alone.
  const invoker = view?.relpersistence === 't' ? true : saysInvoker(options);
  world.views.set(name, { name, statement, query, invoker, takenBy: undefined });
  world.create('view', name, statement);
}

function createIndex(world: World, { idxname, relation, indexParams, accessMethod, whereClause }: IndexStmt): void {
  const [first] = indexParams ?? [];
  const column = first !== undefined && 'IndexElem' in first ? first.IndexElem.name : undefined;
  // A partial one finds some rows, and of the others none are looked up by a value and ordered.
  const finds =
    whereClause === undefined && (accessMethod === undefined || accessMethod === 'btree' || accessMethod === 'hash');
  const table = world.table(nameOf(relation));
  if (column !== undefined && finds)
    table.leadingColumns.set(idxname ?? `unnamed ${table.leadingColumns.size}`, column);
}

function grant(
  world: World,
  statement: Statement,
  { is_grant: isGrant, objtype, targtype, objects = [] }: GrantStmt,
): void {
  if (!isGrant || objtype !== 'OBJECT_TABLE') return;
  const schemas = new Set(targtype === 'ACL_TARGET_ALL_IN_SCHEMA' ? stringsOf(objects) : []);
  const names = new Set(objects.flatMap((each) => ('RangeVar' in each ? nameOf(each.RangeVar) : [])));
  world.grants.push({ statement, covers: (name) => names.has(name) || schemas.has(name.split('.')[0] ?? '') });
}

function drop(world: World, statement: Statement, { removeType, objects = [] }: DropStmt): void {
  for (const object of objects) {
    const parts = 'List' in object ? stringsOf(object.List.items) : [];
    const name = nameOfParts(parts);
    if (removeType === 'OBJECT_INDEX')
      for (const table of world.tables.values()) table.leadingColumns.delete(parts.at(-1) ?? '');
    else if ('ObjectWithArgs' in object) dropRoutine(world, object.ObjectWithArgs);
    else if (removeType !== undefined && RELATIONS.has(removeType)) {
      const creation = world.creationsOf('view', name).at(-1);
      if (creation !== undefined) creation.droppedBy = statement;
      if (removeType === 'OBJECT_VIEW') world.views.delete(name);
      else dropTable(world, name);
    }
  }
}

const RELATIONS: ReadonlySet<ObjectType> = new Set<ObjectType>([
  'OBJECT_TABLE',
  'OBJECT_MATVIEW',
  'OBJECT_FOREIGN_TABLE',
  'OBJECT_VIEW',
]);

function dropTable(world: World, name: string): void {
  const table = world.tables.get(name);
  table?.partitionOf?.parent.partitions.delete(table);
  world.tables.delete(name);
}

function set(world: World, node: Node): void {
  if ('VariableSetStmt' in node) setVariable(world, node.VariableSetStmt);
  if ('DiscardStmt' in node && node.DiscardStmt.target === 'DISCARD_ALL') world.lockTimeout.set(undefined, false);
  for (const call of kindBelow<FuncCall>(node, 'FuncCall')) {
    if (calledName(call) !== 'set_config' || constantText(call.args?.[0]) !== 'lock_timeout') continue;
    const isLocal = call.args?.[2];
    const value = durationMs(call.args?.[1]) ?? Number.MIN_VALUE;
    world.lockTimeout.set(
      value,
      isLocal !== undefined && 'A_Const' in isLocal && isLocal.A_Const.boolval?.boolval === true,
    );
  }
}

/** What is set to something that only the run knows is taken for a limit: it was thought of. */
function setVariable(world: World, { kind, name, args, is_local: isLocal = false }: VariableSetStmt): void {
  if (kind === 'VAR_RESET_ALL') world.lockTimeout.set(undefined, false);
  if (name !== 'lock_timeout') return;
  world.lockTimeout.set(kind === 'VAR_SET_VALUE' ? (durationMs(args?.[0]) ?? Number.MIN_VALUE) : undefined, isLocal);
}
