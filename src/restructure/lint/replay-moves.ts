import type { AlterObjectSchemaStmt, Node, ObjectType, RenameStmt } from 'libpg-query';
import { nameOf, nameOfParts, stringsOf } from './ast.ts';
import { moveRoutine } from './replay-routines.ts';
import type { Statement } from './statement.ts';
import type { Move, Table, World } from './world.ts';

type Moving = Pick<Move, 'kind' | 'what' | 'from' | 'to'>;

const KINDS: Partial<Readonly<Record<ObjectType, Move['what']>>> = {
  OBJECT_TABLE: 'table',
  OBJECT_MATVIEW: 'table',
  OBJECT_FOREIGN_TABLE: 'table',
  OBJECT_VIEW: 'view',
  OBJECT_FUNCTION: 'function',
  OBJECT_PROCEDURE: 'function',
  OBJECT_ROUTINE: 'function',
  OBJECT_AGGREGATE: 'function',
  OBJECT_TYPE: 'type',
  OBJECT_DOMAIN: 'type',
};

export function moveToSchema(world: World, statement: Statement, alter: AlterObjectSchemaStmt): void {
  const { objectType, relation, object, newschema = '' } = alter;
  const what = KINDS[objectType ?? 'OBJECT_TABLE'];
  const from = relation === undefined ? nameOfObject(object) : nameOf(relation);
  const to = `${newschema}.${from.split('.')[1] ?? ''}`;
  if (objectType === 'OBJECT_SEQUENCE') world.movedSequences.set(from, to);
  if (what !== undefined) move(world, statement, { kind: 'schema', what, from, to });
}

export function rename(world: World, statement: Statement, renaming: RenameStmt): void {
  const { renameType, relation, object, newname } = renaming;
  if (renameType === 'OBJECT_COLUMN') renameColumn(world.tables.get(nameOf(relation)), renaming);
  const what = KINDS[renameType ?? 'OBJECT_TABLE'];
  const from = relation === undefined ? nameOfObject(object) : nameOf(relation);
  const to = `${from.split('.')[0] ?? ''}.${newname ?? ''}`;
  if (what !== undefined) move(world, statement, { kind: 'name', what, from, to });
}

function renameColumn(table: Table | undefined, { subname = '', newname = '' }: RenameStmt): void {
  const column = table?.columns.get(subname);
  if (table === undefined || column === undefined) return;
  table.columns.delete(subname);
  table.columns.set(newname, column);
  for (const [index, leading] of table.leadingColumns)
    if (leading === subname) table.leadingColumns.set(index, newname);
}

function nameOfObject(object: Node | undefined): string {
  if (object === undefined) return nameOfParts([]);
  if ('ObjectWithArgs' in object) return nameOfParts(stringsOf(object.ObjectWithArgs.objname));
  return nameOfParts('List' in object ? stringsOf(object.List.items) : []);
}

function move(world: World, statement: Statement, moving: Moving): void {
  const { from, to } = moving;
  // ALTER TABLE may be said of a view too.
  const what = world.views.has(from) && moving.what === 'table' ? 'view' : moving.what;
  const names = [from, ...(world.formerNames.get(`${what} ${from}`) ?? [])];
  const table = what === 'table' ? world.table(from) : undefined;
  const known = world.creationsOf(what, from);
  world.moves.push({
    ...moving,
    what,
    statement,
    table,
    partitions: [...(table?.partitions ?? [])],
    creationsBefore: known.length,
    grantsBefore: world.grants.length,
    isNew: isNew(known.at(-1)?.statement, statement),
    isBack: names.includes(to),
  });
  world.create(what, to, statement);
  world.formerNames.delete(`${what} ${from}`);
  world.formerNames.set(`${what} ${to}`, names);
  if (what === 'view') moveView(world, { from, to });
  if (what === 'function') moveRoutine(world, statement.node, { from, to });
  if (table === undefined) return;
  world.movedAway.set(from, to);
  world.movedAway.delete(to);
  table.name = to;
  world.tables.delete(from);
  world.tables.set(to, table);
}

/** What the same file creates, and does not write anew, nobody else knows yet. */
function isNew(creation: Statement | undefined, { file }: Statement): boolean {
  if (creation?.file !== file) return false;
  const { node } = creation;
  if ('ViewStmt' in node) return node.ViewStmt.replace !== true;
  return !('CreateFunctionStmt' in node && node.CreateFunctionStmt.replace === true);
}

function moveView(world: World, { from, to }: { readonly from: string; readonly to: string }): void {
  const view = world.views.get(from);
  world.views.delete(from);
  if (view !== undefined) world.views.set(to, { ...view, name: to });
}
