import { type CreateFunctionStmt, type Node, parsePlPgSQLSync, parseSync, type RawStmt } from 'libpg-query';
import { below, calledName, constantText, stringsOf } from './ast.ts';

/** A statement inside a body, with where its text begins there, in bytes. */
export interface Inner {
  readonly node: Node;
  readonly offset: number;
  readonly isLooped: boolean;
  locate(location: number): number;
}

export interface Body {
  readonly language: string;
  readonly text: string;
}

export type ReadBody = { readonly inner: readonly Inner[]; readonly unread: readonly UnreadPart[] };

interface UnreadPart {
  readonly offset: number;
  readonly why: string;
}

/** The body of a DO block, or of a function that has one in text. */
export function bodyOf(node: Node): Body | undefined {
  const options =
    'DoStmt' in node ? node.DoStmt.args : 'CreateFunctionStmt' in node ? node.CreateFunctionStmt.options : undefined;
  const optionOf = (name: string) =>
    options?.map((each) => ('DefElem' in each ? each.DefElem : {})).find(({ defname }) => defname === name)?.arg;
  const as = optionOf('as');
  if (as === undefined) return undefined;
  const [text] = stringsOf('List' in as ? as.List.items : [as]);
  const language = stringsOf([optionOf('language') ?? { String: { sval: 'plpgsql' } }])[0] ?? 'plpgsql';
  return text === undefined ? undefined : { language: language.toLowerCase(), text };
}

/** The statements of a function whose body the parser reads with it: `begin atomic … end`, `return …`. */
export function atomicBody({ sql_body: body }: CreateFunctionStmt): Node[] {
  if (body === undefined) return [];
  return 'List' in body
    ? (body.List.items ?? []).flatMap((item) => ('List' in item ? (item.List.items ?? []) : [item]))
    : [body];
}

/**
 * The statements of a body, as far as it can be parsed: no catalog is asked, so that some of PL/pgSQL is beyond the parser, and what is
 * put together from strings is read where it is a constant or `format` of one.
 * @param statement the statement that the body is of, whole
 */
export function readBody({ language, text }: Body, statement: string): ReadBody {
  if (language === 'sql') return readSqlBody(text);
  if (language !== 'plpgsql') return { inner: [], unread: [{ offset: 0, why: `a body in ${language}` }] };
  try {
    return readPlpgsql(text, parsePlPgSQLSync(statement));
  } catch (error) {
    return {
      inner: [],
      unread: [{ offset: 0, why: `a body that is not parsed without the catalog: ${(error as Error).message}` }],
    };
  }
}

function readSqlBody(text: string): ReadBody {
  const statements = parsedOrNone(text);
  if (statements === undefined)
    return { inner: [], unread: [{ offset: 0, why: 'a body that PostgreSQL does not parse' }] };
  const inner = statements.flatMap(({ stmt, stmt_location: offset = 0 }) =>
    stmt === undefined ? [] : [{ node: stmt, offset, isLooped: false, locate: (location: number) => location }],
  );
  return { inner, unread: [] };
}

const LOOPS = /^PLpgSQL_stmt_(?:loop|while|fori|fors|forc|dynfors|foreach_a)$/;
/** What PL/pgSQL's parser says a piece of text is: a statement, an expression; whatever is more is an assignment. */
const STATEMENT = 0;
const EXPRESSION = 2;

interface Expression {
  readonly query: string;
  readonly parseMode: number;
}

interface Place {
  readonly line: number;
  readonly isLooped: boolean;
  readonly isDynamic: boolean;
}

function readPlpgsql(text: string, parsed: unknown): ReadBody {
  const inner: Inner[] = [];
  const unread: UnreadPart[] = [];
  const lines = lineStarts(text);
  for (const [{ query, parseMode }, { line, ...place }] of expressionsOf(parsed)) {
    const found = findIn(text, query, lines[line - 1] ?? 0);
    const prefix = parseMode === STATEMENT ? '' : 'select ';
    const written = parseMode > EXPRESSION ? query.replace(/^.*?:?=/s, (target) => ' '.repeat(target.length)) : query;
    const locate = (location: number) => found.offset + Math.max(0, location - prefix.length - found.dropped);
    const nodes = nodesOf(prefix + written);
    for (const node of nodes) inner.push({ node, offset: found.offset, isLooped: place.isLooped, locate });
    if (!place.isDynamic) continue;
    const dynamic = nodes.flatMap((node) => dynamicSql(node) ?? []);
    const said = dynamic.length === 0 ? undefined : parsedOrNone(dynamic.join(';'));
    if (said === undefined) unread.push({ offset: found.offset, why: 'SQL that is put together as it runs' });
    // Its places are places in a string: all of it is where the string is.
    for (const { stmt } of said ?? []) {
      if (stmt !== undefined)
        inner.push({ node: stmt, offset: found.offset, isLooped: place.isLooped, locate: () => found.offset });
    }
  }
  return { inner, unread };
}

/** Every piece of SQL below, in the order of the source, with the line of its statement and what that is inside of. */
function* expressionsOf(
  value: unknown,
  place: Place = { line: 1, isLooped: false, isDynamic: false },
): Generator<[Expression, Place]> {
  if (value === null || typeof value !== 'object') return;
  for (const [kind, fields] of Object.entries(value)) {
    if (kind === 'PLpgSQL_expr') yield [{ parseMode: STATEMENT, ...(fields as { query: string }) }, place];
    else yield* expressionsOf(fields, placeWithin(kind, fields, place));
  }
}

function placeWithin(kind: string, fields: unknown, place: Place): Place {
  if (fields === null || typeof fields !== 'object' || Array.isArray(fields)) return place;
  return {
    line: 'lineno' in fields && typeof fields.lineno === 'number' ? fields.lineno : place.line,
    isLooped: place.isLooped || LOOPS.test(kind),
    // What is handed to EXECUTE … USING is data.
    isDynamic:
      kind === 'PLpgSQL_stmt_dynexecute' || kind === 'PLpgSQL_stmt_dynfors' || (kind === 'query' && place.isDynamic),
  };
}

/** The parser leaves `into …` out by blanks, and writes PERFORM as SELECT: what comes before either is in the text. */
function findIn(text: string, query: string, from: number): { offset: number; dropped: number } {
  const head = query.split(/\s{3,}/)[0] ?? query;
  const asWritten = wordsFrom(text, head, from);
  const isPerformed = asWritten < 0 && query.startsWith('SELECT ');
  const performed = isPerformed ? wordsFrom(text, head.slice('SELECT '.length), from) : -1;
  const at = asWritten >= 0 ? asWritten : Math.max(performed, from);
  return { offset: Buffer.byteLength(text.slice(0, at)), dropped: performed >= 0 ? 'SELECT '.length : 0 };
}

/** Where words stand, and not in the middle of another. */
function wordsFrom(text: string, words: string, from: number): number {
  const isWord = (character: string | undefined) => character !== undefined && /[\w$]/.test(character);
  for (let at = text.indexOf(words, from); at >= 0; at = text.indexOf(words, at + 1)) {
    const isCut =
      (isWord(words[0]) && isWord(text[at - 1])) || (isWord(words.at(-1)) && isWord(text[at + words.length]));
    if (!isCut) return at;
  }
  return -1;
}

function lineStarts(text: string): number[] {
  return [0, ...[...text.matchAll(/\n/g)].map(({ index }) => index + 1)];
}

function nodesOf(sql: string): Node[] {
  return (parsedOrNone(sql) ?? []).flatMap(({ stmt }) => stmt ?? []);
}

function parsedOrNone(sql: string): RawStmt[] | undefined {
  try {
    return sql.trim() === '' ? [] : (parseSync(sql).stmts ?? []);
  } catch {
    return undefined;
  }
}

/** The text that an expression surely comes to: a constant, or `format` of one, whose places keep their own names. */
function dynamicSql(expression: Node): string | undefined {
  for (const [kind, fields] of below(expression)) {
    if (kind !== 'val') continue;
    const value = fields as unknown as Node;
    if ('FuncCall' in value && calledName(value.FuncCall) === 'format')
      return formatted(constantText(value.FuncCall.args?.[0]));
    return constantText(value);
  }
  return undefined;
}

function formatted(format: string | undefined): string | undefined {
  return format
    ?.replace(/%(?:\d+\$)?-?\d*([IsL])/g, (_place, type: string) => (type === 'L' ? "'%L'" : `"%${type}"`))
    .replaceAll('%%', '%');
}
