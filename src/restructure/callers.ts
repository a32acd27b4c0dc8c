import type { StoredText } from './catalog.ts';

/** What a stored text does with a table that it will not be able to do with a view of it, or will do otherwise. */
export interface Caller {
  readonly table: string;
  readonly finding: CallerFinding;
  readonly where: string;
  readonly severity: 'breaks' | 'may break';
}

/**
 * What breaks behind a view, measured on PostgreSQL 15 to 18: `breaks` fails for certain, `may break` depends on what the text is used
 * for.
 */
export const CALLER_FINDINGS = {
  'calls-copy': { severity: 'breaks', because: 'COPY FROM reads into no view, and COPY TO needs a query' },
  'calls-truncate': { severity: 'breaks', because: 'TRUNCATE takes no view' },
  'calls-on-constraint': {
    severity: 'breaks',
    because: 'ON CONFLICT ON CONSTRAINT finds no constraint on a view; name the columns',
  },
  'calls-merge': { severity: 'breaks', because: 'MERGE takes no view before PostgreSQL 17' },
  'calls-ddl': { severity: 'breaks', because: 'what changes, partitions or references a table takes no view' },
  'calls-current-of': {
    severity: 'breaks',
    because: 'WHERE CURRENT OF takes no view; take the row by its key',
  },
  'calls-group-by-key': {
    severity: 'may break',
    because: 'grouped by a key, other columns follow from it; a view has none, so that they have to be named',
  },
  'calls-only': {
    severity: 'breaks',
    because: 'ONLY means nothing to a view: rows of partitions and heirs come too',
  },
  'calls-sample': { severity: 'breaks', because: 'TABLESAMPLE takes no view' },
  'calls-regclass': { severity: 'may break', because: 'the name is looked up as text, and gives the view' },
  'calls-sequence': {
    severity: 'breaks',
    because: 'the sequence goes along with its table, and nothing stands in for it',
  },
  'calls-index': {
    severity: 'breaks',
    because: 'the index goes along with its table: say ALTER or REINDEX by its new schema',
  },
  'calls-grant': {
    severity: 'breaks',
    because: 'it grants or revokes what may be done by the old name, and not what may be done with the table',
  },
  'calls-catalog': { severity: 'may break', because: 'the sequence is listed under the new schema' },
  'calls-set-constraints': {
    severity: 'breaks',
    because: 'the constraint goes along with its table: say SET CONSTRAINTS ALL, or name its new schema',
  },
  'calls-dynamic': { severity: 'breaks', because: 'it puts together a statement on the table that takes no view' },
  'calls-system-column': { severity: 'may break', because: 'a view has no ctid, xmin, xmax or tableoid' },
  'calls-schema-of-trigger': { severity: 'may break', because: 'TG_TABLE_SCHEMA becomes the new schema' },
} as const satisfies Record<string, { severity: 'breaks' | 'may break'; because: string }>;

export type CallerFinding = keyof typeof CALLER_FINDINGS;

/** A name as SQL has it, quoted or not, with a schema or not. */
const NAME = String.raw`((?:"(?:[^"]|"")+"|[\p{L}_][\p{L}\p{N}_$]*)(?:\s*\.\s*(?:"(?:[^"]|"")+"|[\p{L}_][\p{L}\p{N}_$]*))?)`;
/** A text, in quotes of its own or of a statement that is a text itself. */
const TEXT = "''?([^']+)'";
const NAMES = String.raw`(${NAME}(?:\s*,\s*${NAME})*)`;
/** Anything of the same statement. */
const REST = String.raw`(?:(?!;)[\s\S])*?`;

const pattern = (source: string): RegExp => new RegExp(source, 'giu');

/** Each finds the names that something is done with which views do not take; a list of names is found as a list. */
const USES: readonly { readonly finding: CallerFinding; readonly pattern: RegExp }[] = [
  {
    finding: 'calls-copy',
    pattern: pattern(String.raw`\bcopy\s+(?:binary\s+)?${NAME}\s*(?:\([^)]*\)\s*)?(?:from|to)\b`),
  },
  {
    finding: 'calls-truncate',
    pattern: pattern(String.raw`\btruncate\s+(?:table\s+)?(?:only\s+)?(${NAME}(?:\s*\*?\s*,\s*(?:only\s+)?${NAME})*)`),
  },
  {
    finding: 'calls-on-constraint',
    pattern: pattern(String.raw`\binsert\s+into\s+${NAME}${REST}\bon\s+conflict\s+on\s+constraint\b`),
  },
  { finding: 'calls-merge', pattern: pattern(String.raw`\bmerge\s+into\s+(?:only\s+)?${NAME}`) },
  {
    finding: 'calls-ddl',
    pattern: pattern(
      String.raw`(?:\balter\s+table\s+(?:if\s+exists\s+)?(?:only\s+)?|\bcomment\s+on\s+table\s+|\b(?:attach|detach)\s+partition\s+|\bpartition\s+of\s+|\breferences\s+|\binherits\s*\(\s*|[(,]\s*like\s+|\bcluster\s+(?:verbose\s+)?)${NAME}`,
    ),
  },
  {
    finding: 'calls-ddl',
    pattern: pattern(
      String.raw`\bcreate\s+(?:unique\s+index|index|policy|(?:or\s+replace\s+)?(?:constraint\s+)?trigger)\b${REST}\bon\s+(?:only\s+)?${NAME}`,
    ),
  },
  {
    finding: 'calls-ddl',
    pattern: pattern(String.raw`\b(?:drop|alter)\s+(?:policy|trigger|rule)\b${REST}\bon\s+${NAME}`),
  },
  { finding: 'calls-ddl', pattern: pattern(String.raw`\bcreate\s+(?:or\s+replace\s+)?rule\b${REST}\bto\s+${NAME}`) },
  {
    finding: 'calls-grant',
    pattern: pattern(String.raw`\b(?:grant|revoke)\b${REST}\bon\s+(?:table\s+)?${NAMES}\s+(?:to|from)\b`),
  },
  {
    finding: 'calls-ddl',
    pattern: pattern(String.raw`\b(?:drop|reindex)\s+table\s+(?:if\s+exists\s+)?${NAMES}`),
  },
  { finding: 'calls-ddl', pattern: pattern(String.raw`\bcreate\s+statistics\b${REST}\bfrom\s+${NAME}`) },
  {
    finding: 'calls-current-of',
    pattern: pattern(String.raw`\b(?:update|delete\s+from)\s+(?:only\s+)?${NAME}${REST}\bwhere\s+current\s+of\b`),
  },
  { finding: 'calls-only', pattern: pattern(String.raw`\b(?:from|join|update|using)\s+only\s*\(?\s*${NAME}`) },
  {
    finding: 'calls-sample',
    pattern: pattern(String.raw`\b(?:from|join)\s+(?:only\s+)?${NAME}(?:\s+(?:as\s+)?\w+)?\s+tablesample\b`),
  },
];

/** A name as text that the server looks up: of a table, a sequence or an index. */
const LOOKED_UP: readonly RegExp[] = [
  pattern(String.raw`${TEXT}\s*(?:::\s*text\s*)?::\s*(?:pg_catalog\.)?regclass\b`),
  pattern(String.raw`\bcast\s*\(\s*${TEXT}\s*as\s+(?:pg_catalog\.)?regclass\b`),
  pattern(String.raw`\bregclass\s*${TEXT}`),
  pattern(
    String.raw`\b(?:to_regclass|pg_get_serial_sequence|pg_relation_size|pg_table_size|pg_total_relation_size|pg_indexes_size)\s*\(\s*${TEXT}`,
  ),
];
const SEQUENCE_USES: readonly RegExp[] = [
  ...LOOKED_UP,
  pattern(String.raw`\b(?:nextval|currval|setval)\s*\(\s*${TEXT}`),
  pattern(String.raw`\b(?:(?:alter|drop|on)\s+sequence\s+(?:if\s+exists\s+)?|from\s+|join\s+)${NAMES}`),
];
const INDEX_USES: readonly RegExp[] = [
  ...LOOKED_UP,
  pattern(
    String.raw`\b(?:alter|drop|reindex|reindex\s*\([^)]*\)|on)\s+index\s+(?:concurrently\s+)?(?:if\s+exists\s+)?${NAMES}`,
  ),
];
const LISTED_SEQUENCES = /\b(?:pg_sequences|information_schema\s*\.\s*sequences)\b/iu;
const SET_CONSTRAINTS = pattern(String.raw`\bset\s+constraints\s+(?!all\b)${NAMES}`);
/** A statement of which the table's name is put in at run time, by format(), by concat() or by ||. */
const DYNAMIC =
  /\b(?:partition\s+of|truncate(?:\s+table)?|copy|(?:alter|drop)\s+table(?:\s+if\s+exists)?|merge\s+into)\s+(?:only\s+)?(?:[\p{L}\p{N}_"]+\.)?(?:%|\|\||'\s*(?:\|\||,))/iu;
const GROUP_BY =
  /\bgroup\s+by\s+((?:(?!\b(?:having|order|limit|offset|window|union|except|intersect|for)\b)[^;)])*)/giu;
const SYSTEM_COLUMN = /\b(?:ctid|xmin|xmax|tableoid)\b/iu;
const READ_OR_WRITTEN = pattern(String.raw`\b(?:from|join|update|into|using)\s+(?:only\s+)?${NAME}`);

export interface Movables {
  readonly from: string;
  readonly tables: ReadonlySet<string>;
  /** Sequences that go along, and whose tables they belong to. */
  readonly sequences: ReadonlyMap<string, string>;
  readonly indexes: ReadonlyMap<string, string>;
  /** Of tables whose primary key is one column, that column. */
  readonly keys: ReadonlyMap<string, string>;
  /** Constraints that may be deferred; those of several tables may have one name. */
  readonly constraints: readonly { readonly name: string; readonly table: string }[];
}

/**
 * Who does what with the tables, found in text: names that a program puts together at run time are not found. What is only remembered to
 * have run need not run again.
 */
export function findCallers(texts: readonly StoredText[], movables: Movables): readonly Caller[] {
  const read = texts.map((each) => ({ ...each, ...readText(each.text) }));
  const helpers = read.flatMap(({ where, text }) => (DYNAMIC.test(text) ? helperName(where) : []));
  const calls = helpers.length === 0 ? undefined : pattern(String.raw`\b(?:${helpers.join('|')})\s*\(([^()]*)\)`);
  return read.flatMap(({ where, kind, text, strings }) => {
    const found = new Map<string, Caller>();
    for (const { table, finding } of usesIn({ text, strings, calls }, movables)) {
      const severity = kind === 'statement' ? 'may break' : CALLER_FINDINGS[finding].severity;
      found.set(`${table} ${finding}`, { table, finding, where, severity });
    }
    return [...found.values()];
  });
}

/** Of each table, what the bodies and jobs are called whose text names it. */
export function findNaming(
  texts: readonly StoredText[],
  { from, tables }: Pick<Movables, 'from' | 'tables'>,
): ReadonlyMap<string, readonly string[]> {
  const naming = new Map<string, string[]>();
  for (const { where, kind, text } of texts) {
    if (kind === 'statement') continue;
    for (const name of new Set(localNames(readText(text).text, from)))
      if (tables.has(name)) naming.set(name, [...(naming.get(name) ?? []), where]);
  }
  return naming;
}

/** What a function is called, without its schema: `function public.wipe(regclass)` → `wipe`. */
const helperName = (where: string): readonly string[] => {
  const [, name] = /^function [^(]*?([\p{L}_][\p{L}\p{N}_]*)\(/u.exec(where) ?? [];
  return name === undefined ? [] : [name];
};

interface ReadText {
  readonly text: string;
  /** What is in quotes, at any depth. */
  readonly strings: readonly string[];
}

function* usesIn(
  { text, strings, calls }: ReadText & { readonly calls: RegExp | undefined },
  movables: Movables,
): Generator<{ table: string; finding: CallerFinding }> {
  for (const { finding, pattern } of USES) {
    for (const table of namedBy([pattern], text, movables.from)) {
      if (movables.tables.has(table)) yield { table, finding };
    }
  }
  for (const table of namedBy(LOOKED_UP, text, movables.from))
    if (movables.tables.has(table)) yield { table, finding: 'calls-regclass' };
  yield* usesOfParts(text, movables);
  if (LISTED_SEQUENCES.test(text) && strings.includes(movables.from)) {
    for (const table of movables.sequences.values()) yield { table, finding: 'calls-catalog' };
  }
  // A name that a statement is put together with, here or in what is called.
  const handed =
    calls === undefined ? [] : [...text.matchAll(calls)].flatMap(([, args = '']) => readText(args).strings);
  for (const name of [...(DYNAMIC.test(text) ? strings : []), ...handed]) {
    for (const table of tablesOf(name, movables)) yield { table, finding: 'calls-dynamic' };
  }
  for (const table of groupedByKey(text, movables)) yield { table, finding: 'calls-group-by-key' };
  if (!SYSTEM_COLUMN.test(text)) return;
  for (const table of namedBy([READ_OR_WRITTEN], text, movables.from)) {
    if (movables.tables.has(table)) yield { table, finding: 'calls-system-column' };
  }
}

/** Uses of what goes along with a table, and what nothing stands in for. */
function* usesOfParts(text: string, movables: Movables): Generator<{ table: string; finding: CallerFinding }> {
  for (const name of namedBy(SEQUENCE_USES, text, movables.from)) {
    const table = movables.sequences.get(name);
    if (table !== undefined) yield { table, finding: 'calls-sequence' };
  }
  for (const name of namedBy(INDEX_USES, text, movables.from)) {
    const table = movables.indexes.get(name);
    if (table !== undefined) yield { table, finding: 'calls-index' };
  }
  for (const named of namedBy([SET_CONSTRAINTS], text, movables.from)) {
    for (const { name, table } of movables.constraints)
      if (name === named) yield { table, finding: 'calls-set-constraints' };
  }
}

/** The names within the schema in what patterns find first. */
const namedBy = (patterns: readonly RegExp[], text: string, from: string): readonly string[] =>
  patterns.flatMap((each) => [...text.matchAll(each)].flatMap(([, names = '']) => localNames(names, from)));

/** Tables that a text reads, and one of whose groupings names their key: of which alias it speaks is not looked at. */
function groupedByKey(text: string, movables: Movables): readonly string[] {
  const terms = [...text.matchAll(GROUP_BY)].flatMap(([, list = '']) => list.split(','));
  const columns = new Set(terms.map((term) => term.trim().replace(/^.*\./u, '').replaceAll('"', '')));
  if (columns.size === 0) return [];
  const read = new Set([...text.matchAll(READ_OR_WRITTEN)].flatMap(([, name = '']) => tablesOf(name, movables)));
  return [...read].filter((table) => columns.has(movables.keys.get(table) ?? ''));
}

function tablesOf(names: string, { from, tables }: Movables): readonly string[] {
  return localNames(names, from).filter((name) => tables.has(name));
}

const localNames = (names: string, from: string): readonly string[] =>
  [...names.matchAll(pattern(NAME))].flatMap(([, name = '']) => localName(name, from) ?? []);

/** The name within the schema: of `public.orders`, `orders` and `"orders"` each `orders`; undefined for a name of another schema. */
function localName(name: string, from: string): string | undefined {
  const parts = [...name.matchAll(/"((?:[^"]|"")+)"|([^".\s]+)/gu)].map(([, quoted, bare]) =>
    quoted === undefined ? (bare ?? '').toLowerCase() : quoted.replaceAll('""', '"'),
  );
  if (parts.length === 1) return parts[0];
  return parts.length === 2 && parts[0] === from ? parts[1] : undefined;
}

/** What text is made of, as far as it matters where comments are: texts with backslashes, texts, quoted names, dollar quotes, comments. */
const TOKEN =
  /\b(?:[eE]'(?:\\[\s\S]|''|[^'\\])*')|'(?:''|[^'])*'|"(?:""|[^"])*"|(\$(?:[\p{L}_][\p{L}\p{N}_]*)?\$)([\s\S]*?)\1|--[^\n]*|\/\*[\s\S]*?\*\//gu;

/** Without comments, and without the delimiters of dollar quotes, which may stand directly before a word. */
function readText(source: string): ReadText {
  const strings: string[] = [];
  const text = source.replaceAll(TOKEN, (token: string, delimiter: string | undefined, body: string | undefined) => {
    if (token.startsWith('--') || token.startsWith('/*')) return ' ';
    if (token.startsWith('"')) return token;
    const inner = delimiter === undefined ? token.replace(/^[eE]?'|'$/gu, '').replaceAll("''", "'") : (body ?? '');
    const within = /['$]|--|\/\*/u.test(inner) ? readText(inner) : { text: inner, strings: [] };
    strings.push(inner, ...within.strings);
    return delimiter === undefined ? token : ` ${within.text} `;
  });
  return { text, strings };
}
