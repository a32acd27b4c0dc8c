import type { ColumnRef, Node, ResTarget, SelectStmt } from 'libpg-query';
import { calledName, kindBelow, nameOf, relationsBelow, stringsOf } from '../ast.ts';
import { saysInvoker } from '../invoker.ts';
import { foreignKeysOf, INSTEAD_OF } from '../locks.ts';
import type { Hit, Rule } from '../rule.ts';
import type { Statement } from '../statement.ts';
import { rootOf, type World } from '../world.ts';
import { movesOf, standInOf } from './stand-ins.ts';

export const viewWithoutSecurityInvoker: Rule = {
  id: 'view-without-security-invoker',
  *end(world) {
    for (const { name, statement, invoker, takenBy } of world.views.values()) {
      if (takenBy !== undefined)
        yield {
          statement: takenBy,
          message: `From here on ${name} reads with the rights of its owner, past the row-level security of its tables, for everybody who reads it today. Leave security_invoker = true on it.`,
        };
      else if (invoker === undefined)
        yield {
          statement,
          message: `${name} reads with the rights of its owner, past the row-level security of its tables. Create it with (security_invoker = true), and grant its readers the tables and usage on their schema; or write security_invoker = false where that is meant.`,
        };
    }
    yield* standInsOfOwners(world);
  },
};

/** Who read the table was held by its policies; through this, nobody is. */
function* standInsOfOwners(world: World): Generator<Hit> {
  for (const { move, within } of movesOf(world)) {
    const by = standInOf(move, within);
    if (by === undefined || !('ViewStmt' in by.node) || saysInvoker(by.node.ViewStmt.options ?? []) !== false) continue;
    if (within.views.get(move.from)?.invoker === true) continue;
    yield {
      statement: by,
      message: `${move.from} takes the place of ${move.to} and reads with the rights of its owner: whoever was held by the row-level security of the table is not any more. Create it with (security_invoker = true), and grant its readers the table and usage on its schema.`,
    };
  }
}

export const materializedPastPolicies: Rule = {
  id: 'materialized-view-past-policies',
  *end({ tables }) {
    for (const { name, createdBy, sources } of tables.values()) {
      const held = sources.find((each) => each.policies.length > 0 || rootOf(each).rowSecurity);
      if (held === undefined || createdBy === undefined) continue;
      yield {
        statement: createdBy,
        message: `${name} keeps rows of ${held.name} as its owner reads them, and can have no policies of its own: whoever is granted it reads the rows of every tenant. Make it a view with (security_invoker = true); or grant it to nobody whom the policies hold, and allow it here.`,
      };
    }
  },
};

export const selectStarView: Rule = {
  id: 'select-star-view',
  *each(statement) {
    const [star] = starsOf(queryOf(statement.node));
    if (star === undefined) return;
    yield {
      statement,
      offset: statement.locate(star.location),
      message: `select * is written out when the view is created: columns that the table gets later are not in it, and nobody can see which were meant. Name the columns.`,
    };
  },
};

function queryOf(node: Node): Node | undefined {
  if ('ViewStmt' in node) return node.ViewStmt.query;
  const isView = 'CreateTableAsStmt' in node && node.CreateTableAsStmt.objtype === 'OBJECT_MATVIEW';
  return isView ? node.CreateTableAsStmt.query : undefined;
}

interface Place {
  readonly location: number | undefined;
}

/** The stars over tables. One over a subquery or a common table expression repeats names that are written there. */
function* starsOf(query: Node | undefined, above: ReadonlySet<string> = new Set()): Generator<Place> {
  if (query === undefined || !('SelectStmt' in query)) return;
  const { targetList = [], fromClause, withClause, larg, rarg } = query.SelectStmt;
  const expressions = (withClause?.ctes ?? []).flatMap((each) =>
    'CommonTableExpr' in each ? each.CommonTableExpr : [],
  );
  const known = new Set([...above, ...expressions.map(({ ctename = '' }) => ctename)]);
  const sources = sourcesOf(fromClause);
  const written = new Set(
    sources.filter(({ table }) => table === undefined || known.has(table)).map(({ alias }) => alias),
  );
  const tables = sources.filter(({ alias }) => !written.has(alias));
  for (const target of targetList) {
    const star = 'ResTarget' in target ? starIn(target.ResTarget) : undefined;
    if (star === undefined) continue;
    const isOfTable =
      star.of === undefined
        ? tables.length > 0
        : star.isOfRow
          ? !written.has(star.of)
          : tables.some(({ alias }) => alias === star.of);
    if (isOfTable) yield star;
  }
  for (const { subquery } of sources) yield* starsOf(subquery, known);
  for (const { ctequery } of expressions) yield* starsOf(ctequery, known);
  yield* starsOf(larg && { SelectStmt: larg }, known);
  yield* starsOf(rarg && { SelectStmt: rarg }, known);
}

interface Star extends Place {
  /** Of which of the sources; of all of them where it does not say. */
  readonly of: string | undefined;
  /** `(x).*`: of a row, which may be what a function returns. */
  readonly isOfRow: boolean;
}

function starIn({ val: value }: ResTarget): Star | undefined {
  if (value === undefined) return undefined;
  if ('ColumnRef' in value && value.ColumnRef.fields?.some((field) => 'A_Star' in field))
    return { of: stringsOf(value.ColumnRef.fields).at(-1), isOfRow: false, location: value.ColumnRef.location };
  if (!('A_Indirection' in value) || !value.A_Indirection.indirection?.some((each) => 'A_Star' in each))
    return undefined;
  const { arg } = value.A_Indirection;
  const of = arg !== undefined && 'ColumnRef' in arg ? stringsOf(arg.ColumnRef.fields).join('.') : '';
  const [place] = kindBelow<Place>(arg, 'ColumnRef');
  return { of, isOfRow: true, location: place?.location };
}

interface Source {
  readonly table: string | undefined;
  readonly alias: string;
  readonly subquery: Node | undefined;
}

function sourcesOf(from: readonly Node[] | undefined): Source[] {
  return (from ?? []).flatMap((each): Source[] => {
    if ('JoinExpr' in each) return sourcesOf([each.JoinExpr.larg, each.JoinExpr.rarg].flatMap((side) => side ?? []));
    if ('RangeSubselect' in each) {
      const { subquery, alias } = each.RangeSubselect;
      return [{ table: undefined, alias: alias?.aliasname ?? '', subquery }];
    }
    if (!('RangeVar' in each)) return [];
    const { relname = '', schemaname, alias } = each.RangeVar;
    const table = schemaname === undefined ? relname : `${schemaname}.${relname}`;
    return [{ table, alias: alias?.aliasname ?? relname, subquery: undefined }];
  });
}

export const insteadOfTrigger: Rule = {
  id: 'instead-of-trigger',
  *each(statement, { views }) {
    if (!('CreateTrigStmt' in statement.node) || statement.node.CreateTrigStmt.timing !== INSTEAD_OF) return;
    const name = nameOf(statement.node.CreateTrigStmt.relation);
    const view = views.get(name)?.statement.node;
    if (view === undefined || !('ViewStmt' in view) || !isAutoUpdatable(view.ViewStmt.query)) return;
    yield {
      statement,
      message: `PostgreSQL writes through ${name} by itself. With INSTEAD OF, ON CONFLICT (column) fails and RETURNING gives NULL for what the table fills in. Leave the trigger out; put defaults on the view's columns where it needs any.`,
    };
  },
};

const AGGREGATES =
  /^(?:count|sum|avg|min|max|array_agg|string_agg|jsonb?_(?:object_)?agg|bool_(?:and|or)|every|stddev|variance)$/;
const SETS = /^(?:unnest|generate_series|jsonb?_(?:each|array_elements)(?:_text)?|regexp_matches)$/;

/** As far as it shows without a catalog: one table, and nothing that makes more or less of its rows than there are. */
function isAutoUpdatable(query: Node | undefined): boolean {
  if (query === undefined || !('SelectStmt' in query)) return false;
  const select: SelectStmt = query.SelectStmt;
  const [from, ...others] = select.fromClause ?? [];
  if (from === undefined || !('RangeVar' in from) || others.length > 0 || select.op !== 'SETOP_NONE') return false;
  const shapes = [
    select.distinctClause,
    select.groupClause,
    select.havingClause,
    select.limitCount,
    select.limitOffset,
    select.withClause,
  ];
  if (shapes.some((each) => each !== undefined)) return false;
  for (const target of select.targetList ?? []) {
    const value = 'ResTarget' in target ? target.ResTarget.val : undefined;
    if (value === undefined || !('FuncCall' in value)) continue;
    const name = calledName(value.FuncCall);
    if (value.FuncCall.over !== undefined || AGGREGATES.test(name) || SETS.test(name)) return false;
  }
  return true;
}

export const foreignKeyToView: Rule = {
  id: 'foreign-key-to-view',
  *each(statement, { views }) {
    for (const key of foreignKeysOf(statement.node)) {
      const name = nameOf(key.pktable);
      if (!views.has(name)) continue;
      yield {
        statement,
        offset: statement.locate(key.location),
        message: `${name} is a view by now, and no foreign key can refer to a view. Refer to the table where it is.`,
      };
    }
  },
};

export const throughView: Rule = {
  id: 'copy-truncate-through-view',
  *each(statement, world) {
    if (statement.runs === 'with-file') yield* throughViews(statement, world);
  },
  *end(world) {
    for (const { body } of world.routines.values()) for (const statement of body) yield* throughViews(statement, world);
  },
};

function* throughViews(statement: Statement, { views, movedAway }: World): Generator<Hit> {
  for (const { name, what } of notThroughViews(statement.node)) {
    if (!views.has(name)) continue;
    const to = movedAway.get(name);
    yield {
      statement,
      message: `${name} is a view by now, and ${what}. Name the table${to === undefined ? ' below it' : `: ${to}`}.`,
    };
  }
}

/** What works on a table and not through a view that can be written through. */
function* notThroughViews(node: Node): Generator<{ name: string; what: string }> {
  if ('CopyStmt' in node && node.CopyStmt.relation !== undefined)
    yield { name: nameOf(node.CopyStmt.relation), what: 'COPY does not work on one' };
  if ('TruncateStmt' in node)
    for (const each of relationsBelow(node)) yield { name: nameOf(each), what: 'TRUNCATE does not work on one' };
  if ('MergeStmt' in node)
    yield { name: nameOf(node.MergeStmt.relation), what: 'MERGE into one works on PostgreSQL 17 and later alone' };
  if ('InsertStmt' in node && node.InsertStmt.onConflictClause?.infer?.conname !== undefined) {
    yield {
      name: nameOf(node.InsertStmt.relation),
      what: 'ON CONFLICT ON CONSTRAINT finds no constraint on one; ON CONFLICT (column) does',
    };
  }
  yield* systemColumns(node);
}

const SYSTEM_COLUMNS: ReadonlySet<string> = new Set(['ctid', 'xmin', 'xmax', 'cmin', 'cmax']);

function* systemColumns(node: Node): Generator<{ name: string; what: string }> {
  const relations = [...relationsBelow(node)];
  for (const { fields } of kindBelow<ColumnRef>(node, 'ColumnRef')) {
    const parts = stringsOf(fields);
    const column = parts.at(-1) ?? '';
    if (!SYSTEM_COLUMNS.has(column)) continue;
    const of = parts.at(-2);
    const [relation, ...others] = relations.filter(
      ({ relname, alias }) => of === undefined || of === (alias?.aliasname ?? relname),
    );
    if (relation !== undefined && others.length === 0) yield { name: nameOf(relation), what: `it has no ${column}` };
  }
}
