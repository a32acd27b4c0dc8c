import type {
  AlterFunctionStmt,
  CreateFunctionStmt,
  DefElem,
  Node,
  ObjectWithArgs,
  TypeName,
  VariableSetStmt,
} from 'libpg-query';
import { constantText, nameOfParts, stringsOf } from './ast.ts';
import type { Statement } from './statement.ts';
import type { Routine, World } from './world.ts';

export function createRoutine(
  world: World,
  statement: Statement,
  { funcname, parameters = [], options }: CreateFunctionStmt,
): void {
  const name = nameOfParts(stringsOf(funcname));
  const types = parameters.flatMap((each) => {
    const { mode, argType } = 'FunctionParameter' in each ? each.FunctionParameter : {};
    return mode === 'FUNC_PARAM_OUT' || mode === 'FUNC_PARAM_TABLE' ? [] : typeOf(argType);
  });
  const said = optionsOf(options);
  const routine = {
    name,
    statement,
    isDefiner: said.isDefiner === true,
    searchPath: said.searchPath?.schemas,
    body: [],
  };
  world.routines.set(keyOf(name, types), routine);
  world.lastRoutine = routine;
  world.create('function', name, statement);
}

export function alterRoutine(world: World, statement: Statement, { func, actions }: AlterFunctionStmt): void {
  const said = optionsOf(actions);
  const [routine] = routinesOf(world, func).map(([, each]) => each);
  if (routine === undefined) {
    // It was there before: what is known of it is what this says.
    const name = nameOfParts(stringsOf(func?.objname));
    const found: Routine = {
      name,
      statement,
      isDefiner: said.isDefiner === true,
      searchPath: said.searchPath?.schemas,
      body: [],
    };
    world.routines.set(keyOf(name, typesOf(func)), found);
    return;
  }
  if (said.isDefiner !== undefined) routine.isDefiner = said.isDefiner;
  if (said.isDefiner === true) routine.statement = statement;
  if (said.searchPath === undefined) return;
  routine.searchPath = said.searchPath.schemas;
  if (routine.isDefiner) routine.statement = statement;
}

export function dropRoutine(world: World, func: ObjectWithArgs): void {
  for (const [key] of routinesOf(world, func)) world.routines.delete(key);
}

export function moveRoutine(
  world: World,
  node: Node,
  { from, to }: { readonly from: string; readonly to: string },
): void {
  const object =
    'RenameStmt' in node
      ? node.RenameStmt.object
      : 'AlterObjectSchemaStmt' in node
        ? node.AlterObjectSchemaStmt.object
        : undefined;
  const func = object !== undefined && 'ObjectWithArgs' in object ? object.ObjectWithArgs : undefined;
  for (const [key, routine] of routinesOf(world, func)) {
    world.routines.delete(key);
    world.routines.set(
      key.replace(from, () => to),
      { ...routine, name: to },
    );
  }
}

function routinesOf(world: World, func: ObjectWithArgs | undefined): (readonly [string, Routine])[] {
  const name = nameOfParts(stringsOf(func?.objname));
  const key = keyOf(name, typesOf(func));
  const exact = world.routines.get(key);
  if (exact !== undefined) return [[key, exact]];
  return func?.args_unspecified ? [...world.routines].filter(([, each]) => each.name === name) : [];
}

const keyOf = (name: string, types: readonly string[]) => `${name}(${types.join(',')})`;

function typesOf(func: ObjectWithArgs | undefined): string[] {
  return (func?.objargs ?? []).flatMap((each: Node) => ('TypeName' in each ? typeOf(each.TypeName) : []));
}

function typeOf(type: TypeName | undefined): string {
  return `${stringsOf(type?.names).at(-1) ?? ''}${type?.arrayBounds === undefined ? '' : '[]'}`;
}

interface Said {
  readonly isDefiner: boolean | undefined;
  readonly searchPath: { readonly schemas: readonly string[] | undefined } | undefined;
}

function optionsOf(options: readonly Node[] = []): Said {
  const said: DefElem[] = options.flatMap((each) => ('DefElem' in each ? each.DefElem : []));
  const security = said.find(({ defname }) => defname === 'security')?.arg;
  const isDefiner = security === undefined ? undefined : 'Boolean' in security && security.Boolean.boolval === true;
  const searchPath = said
    .flatMap(({ defname, arg }) =>
      defname === 'set' && arg !== undefined && 'VariableSetStmt' in arg ? arg.VariableSetStmt : [],
    )
    .findLast(({ name, kind }) => name === 'search_path' || kind === 'VAR_RESET_ALL');
  return { isDefiner, searchPath: searchPath && { schemas: schemasOf(searchPath) } };
}

/** Each argument is one schema, whatever commas it has inside. */
function schemasOf({ kind, args = [] }: VariableSetStmt): readonly string[] | undefined {
  return kind === 'VAR_SET_VALUE' ? args.map((each) => constantText(each) ?? '') : undefined;
}
