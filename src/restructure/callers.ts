import type { StoredText } from './catalog.ts';

/** What a stored text does with a table that it will not be able to do with a view of it, or will do otherwise. */
export interface Caller {
  readonly table: string;
  readonly finding: CallerFinding;
  readonly where: string;
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
const TEXT = "'([^']+)'";

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
    pattern: pattern(String.raw`\binsert\s+into\s+${NAME}(?:(?!;)[\s\S])*?\bon\s+conflict\s+on\s+constraint\b`),
  },
  { finding: 'calls-merge', pattern: pattern(String.raw`\bmerge\s+into\s+(?:only\s+)?${NAME}`) },
  {
    finding: 'calls-ddl',
    pattern: pattern(
      String.raw`\b(?:alter\s+table\s+(?:if\s+exists\s+)?(?:only\s+)?|comment\s+on\s+table\s+|(?:attach|detach)\s+partition\s+|partition\s+of\s+|references\s+|inherits\s*\(\s*)${NAME}`,
    ),
  },
  {
    finding: 'calls-ddl',
    pattern: pattern(
      String.raw`\bcreate\s+(?:unique\s+index|index|policy|(?:or\s+replace\s+)?(?:constraint\s+)?trigger)\b(?:(?!;)[\s\S])*?\bon\s+(?:only\s+)?${NAME}`,
    ),
  },
  {
    finding: 'calls-ddl',
    pattern: pattern(String.raw`\b(?:drop|reindex)\s+table\s+(?:if\s+exists\s+)?(${NAME}(?:\s*,\s*${NAME})*)`),
  },
  { finding: 'calls-ddl', pattern: pattern(String.raw`\bcreate\s+statistics\b(?:(?!;)[\s\S])*?\bfrom\s+${NAME}`) },
  {
    finding: 'calls-current-of',
    pattern: pattern(
      String.raw`\b(?:update|delete\s+from)\s+(?:only\s+)?${NAME}(?:(?!;)[\s\S])*?\bwhere\s+current\s+of\b`,
    ),
  },
  { finding: 'calls-only', pattern: pattern(String.raw`\b(?:from|join|update|using)\s+only\s*\(?\s*${NAME}`) },
  {
    finding: 'calls-sample',
    pattern: pattern(String.raw`\b(?:from|join)\s+(?:only\s+)?${NAME}(?:\s+(?:as\s+)?\w+)?\s+tablesample\b`),
  },
  { finding: 'calls-regclass', pattern: pattern(String.raw`${TEXT}\s*::\s*(?:pg_catalog\.)?regclass\b`) },
  {
    finding: 'calls-regclass',
    pattern: pattern(
      String.raw`\b(?:to_regclass|pg_get_serial_sequence|pg_relation_size|pg_table_size|pg_total_relation_size|pg_indexes_size)\s*\(\s*${TEXT}`,
    ),
  },
];

const SEQUENCE_USE = pattern(
  String.raw`\b(?:nextval|currval|setval)\s*\(\s*${TEXT}|${TEXT}\s*::\s*(?:pg_catalog\.)?regclass\b`,
);
const SET_CONSTRAINTS = pattern(String.raw`\bset\s+constraints\s+(?!all\b)(${NAME}(?:\s*,\s*${NAME})*)`);
/** A statement of which the table's name is put in at run time, by format() or by ||. */
const DYNAMIC =
  /\b(?:partition\s+of|truncate(?:\s+table)?|copy|(?:alter|drop)\s+table(?:\s+if\s+exists)?|merge\s+into)\s+(?:only\s+)?(?:[\p{L}\p{N}_"]+\.)?(?:%|'\s*\|\|)/iu;
const QUOTED = pattern(TEXT);
const GROUP_BY =
  /\bgroup\s+by\s+((?:(?!\b(?:having|order|limit|offset|window|union|except|intersect|for)\b)[^;)])*)/giu;
const SYSTEM_COLUMN = /\b(?:ctid|xmin|xmax|tableoid)\b/iu;
const READ_OR_WRITTEN = pattern(String.raw`\b(?:from|join|update|into|using)\s+(?:only\s+)?${NAME}`);

export interface Movables {
  readonly from: string;
  readonly tables: ReadonlySet<string>;
  /** Sequences that go along, and whose tables they belong to. */
  readonly sequences: ReadonlyMap<string, string>;
  /** Of tables whose primary key is one column, that column. */
  readonly keys: ReadonlyMap<string, string>;
  /** Constraints that may be deferred; those of several tables may have one name. */
  readonly constraints: readonly { readonly name: string; readonly table: string }[];
}

/** Who does what with the tables, found in text: names that a program puts together at run time are not found. */
export function findCallers(texts: readonly StoredText[], movables: Movables): readonly Caller[] {
  return texts.flatMap(({ where, text }) => {
    const found = new Map<string, Caller>();
    for (const { table, finding } of usesIn(withoutComments(text), movables)) {
      found.set(`${table} ${finding}`, { table, finding, where });
    }
    return [...found.values()];
  });
}

function* usesIn(text: string, movables: Movables): Generator<{ table: string; finding: CallerFinding }> {
  for (const { finding, pattern } of USES) {
    for (const [, names = ''] of text.matchAll(pattern)) {
      for (const table of tablesOf(names, movables)) yield { table, finding };
    }
  }
  for (const [, called, cast] of text.matchAll(SEQUENCE_USE)) {
    const table = movables.sequences.get(localName(called ?? cast ?? '', movables.from) ?? '');
    if (table !== undefined) yield { table, finding: 'calls-sequence' };
  }
  for (const [, names = ''] of text.matchAll(SET_CONSTRAINTS)) {
    const named = localNames(names, movables.from);
    for (const { table } of movables.constraints.filter(({ name }) => named.includes(name))) {
      yield { table, finding: 'calls-set-constraints' };
    }
  }
  if (DYNAMIC.test(text)) {
    for (const [, name = ''] of text.matchAll(QUOTED)) {
      for (const table of tablesOf(name, movables)) yield { table, finding: 'calls-dynamic' };
    }
  }
  for (const table of groupedByKey(text, movables)) yield { table, finding: 'calls-group-by-key' };
  if (!SYSTEM_COLUMN.test(text)) return;
  for (const [, name = ''] of text.matchAll(READ_OR_WRITTEN)) {
    for (const table of tablesOf(name, movables)) yield { table, finding: 'calls-system-column' };
  }
}

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

const withoutComments = (text: string): string => text.replaceAll(/--[^\n]*|\/\*[\s\S]*?\*\//gu, ' ');
