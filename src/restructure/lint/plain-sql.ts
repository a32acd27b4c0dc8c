import { loadModule, type ParseResult, parseSync, type RawStmt } from 'libpg-query';
import { SqlText } from './text.ts';

/** What psql does before a server sees anything, and where a file is no SQL at all. */
interface Fault {
  readonly rule: 'psql-command' | 'syntax';
  readonly offset: number;
  readonly message: string;
}

export interface PlainSql {
  readonly text: SqlText;
  readonly statements: readonly RawStmt[];
  readonly faults: readonly Fault[];
}

/** More commands of psql in one file are not named one by one. */
const MAX_PSQL_COMMANDS = 100;
const COPIED_ROWS = /\bfrom\s+stdin\b[^;]*;[ \t]*\r?\n(?<rows>(?:[^\n]*\n)*?\\\.[ \t]*\r?(?:\n|$))/i;

/** Once, before anything is parsed. */
export async function loadParser(): Promise<void> {
  await loadModule();
}

/** Parses a file. What is psql's is named, passed over, and the rest is parsed; of a file that is no SQL nothing is. */
export function parsePlainSql(source: string): PlainSql {
  const faults: Fault[] = [];
  let sql = source;
  for (;;) {
    const text = new SqlText(sql);
    const parsed = tryParse(sql);
    if ('statements' in parsed) return { text, statements: parsed.statements, faults };
    const offset = Buffer.byteLength(sql.slice(0, parsed.at));
    const psql = faults.length < MAX_PSQL_COMMANDS ? psqlAt(sql, parsed.at) : undefined;
    if (psql === undefined) {
      return { text, statements: [], faults: [...faults, { rule: 'syntax', offset, message: parsed.message }] };
    }
    faults.push({ rule: 'psql-command', offset: Buffer.byteLength(sql.slice(0, psql.start)), message: psql.message });
    sql = psql.without;
  }
}

type Parsed = { readonly statements: readonly RawStmt[] } | { readonly at: number; readonly message: string };

function tryParse(sql: string): Parsed {
  // The parser refuses to be given nothing.
  if (sql.trim() === '') return { statements: [] };
  try {
    return { statements: (parseSync(sql) as ParseResult).stmts ?? [] };
  } catch (error) {
    return asRefusal(sql, error as Error & { sqlDetails?: { cursorPosition: number } });
  }
}

function asRefusal(sql: string, error: Error & { sqlDetails?: { cursorPosition: number } }): Parsed {
  if (error instanceof RangeError || error.name === 'RuntimeError') {
    return {
      at: 0,
      message: 'The parser gave up: something in it is nested too deeply. Nothing else in it was looked at.',
    };
  }
  const at = Math.max(0, unitsOf(sql, error.sqlDetails?.cursorPosition ?? 0));
  return {
    at,
    message: `PostgreSQL does not parse it: ${error.message}. Nothing else in this file was looked at.`,
  };
}

/** The parser counts characters, strings count units of UTF-16. */
function unitsOf(sql: string, characters: number): number {
  let units = 0;
  for (let left = characters; left > 0 && units < sql.length; left -= 1) {
    units += (sql.codePointAt(units) ?? 0) > 0xffff ? 2 : 1;
  }
  return units;
}

interface Passed {
  readonly start: number;
  readonly message: string;
  /** The SQL as it is looked at. */
  readonly without: string;
}

const VARIABLE = /:(?:\w+|'\w+'|"\w+")/y;

/** The command or variable of psql, or the rows for its COPY, that the parser tripped over. */
function psqlAt(sql: string, at: number): Passed | undefined {
  if (sql[at] === '\\') {
    const end = endOfLine(sql, at);
    const command = /^\\\S*/.exec(sql.slice(at, end))?.[0] ?? '\\';
    const message = `${command} is a command of psql: a driver refuses it, and what it would do was not looked at. Write it as SQL, or lint what it includes by itself.`;
    return { start: at, message, without: withoutSpan(sql, at, end) };
  }
  VARIABLE.lastIndex = at;
  const [variable] = VARIABLE.exec(sql) ?? [];
  if (variable !== undefined) {
    const message = `${variable} is a variable of psql: a driver refuses it. Here it was taken for the name, or the string, that it looks like without its colon. Write the value, or put it in before a driver or the linter reads the file.`;
    return { start: at, message, without: withoutVariable(sql, variable) };
  }
  const rows = COPIED_ROWS.exec(sql);
  const [start, end] =
    rows === null
      ? [0, 0]
      : [rows.index + rows[0].length - (rows.groups?.['rows'] ?? '').length, rows.index + rows[0].length];
  if (at < start || at >= end) return undefined;
  return {
    start,
    without: withoutSpan(sql, start, end),
    message: 'Rows behind COPY … FROM STDIN are read by psql alone: a driver refuses them. Load rows by themselves.',
  };
}

function endOfLine(sql: string, at: number): number {
  const end = sql.indexOf('\n', at);
  return end < 0 ? sql.length : end;
}

/** Blanks that take as many bytes, so that whatever follows stays where it is; the semicolon ends what psql would have sent. */
function withoutSpan(sql: string, start: number, end: number): string {
  const blank = sql.slice(start, end).replace(/[^\n]+/g, (line) => ' '.repeat(Buffer.byteLength(line)));
  return `${sql.slice(0, start)};${blank.slice(1)}${sql.slice(end)}`;
}

/** Wherever it is, so that it is named once; `a[1:x]` and `a::x` are no variables. */
function withoutVariable(sql: string, variable: string): string {
  return sql.replace(new RegExp(`(?<![:\\w])${variable}(?!\\w)`, 'g'), ` ${variable.slice(1)}`);
}
