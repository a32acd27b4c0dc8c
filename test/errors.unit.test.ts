import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES } from '../src/errors.ts';

interface Spec {
  readonly exit: number;
  readonly sqlstate: string | undefined;
}

const root = fileURLToPath(new URL('..', import.meta.url));
const known = new Map<string, Spec>(
  Object.entries(ERROR_CODES).map(([code, spec]) => [
    code,
    { exit: spec.exit, sqlstate: 'sqlstate' in spec ? spec.sqlstate : undefined },
  ]),
);

describe('docs/errors.md', () => {
  const documented = tableRows(readFileSync(`${root}docs/errors.md`, 'utf8')).filter((row) => row.has('Code'));
  const codeOf = (row: Row) => row.get('Code')?.replaceAll('`', '') ?? '';

  it('documents every code once, and none that does not exist', () => {
    expect(documented.map(codeOf).toSorted()).toEqual([...known.keys()].toSorted());
  });

  it.each(documented.map((row) => [codeOf(row), row] as const))(
    '%s has its exit code, SQLSTATE and help',
    (code, row) => {
      expect({ exit: Number(row.get('Exit')), sqlstate: row.get('SQLSTATE') }).toEqual(known.get(code));
      expect(row.get('What it means')).toMatch(/^.{10,}\.$/);
      expect(row.get('How to solve it')).toMatch(/^.{10,}$/);
    },
  );

  it('documents the four exit codes', () => {
    const exits = tableRows(readFileSync(`${root}docs/errors.md`, 'utf8')).filter((row) => !row.has('Code'));
    expect(exits.map((row) => row.get('Exit'))).toEqual(['0', '1', '2', '3']);
  });
});

describe('the sources', () => {
  const migrations = sources('migrations', '.sql');
  // The list that maps codes to SQLSTATEs is no use of a code.
  const MAPPING = /when '([A-Z_]+)' then '(LV\w{3})'/g;
  // A later migration says the whole list anew.
  const mapped = [
    ...new Map([...migrations.matchAll(MAPPING)].map(([, code = '', sqlstate = '']) => [code, sqlstate])),
  ];
  /** Undoes what a function of ours began, and never leaves it. */
  const INTERNAL = 'LV000';

  it.each([...known.keys()])('use %s', (code) => {
    const used = sources('src', '.ts', ['errors.ts']) + migrations.replaceAll(MAPPING, '');
    expect(used).toContain(`'${code}'`);
  });

  it('raise from SQL what src/errors.ts says, SQLSTATE by SQLSTATE', () => {
    const ours = [...known].flatMap(([code, { sqlstate }]) => (sqlstate === undefined ? [] : [[code, sqlstate]]));
    expect(mapped.toSorted()).toEqual(ours.toSorted());
  });

  it('name no SQLSTATE of class LV in SQL but those', () => {
    const named = [...migrations.matchAll(/'(LV\w{3})'/g)]
      .map(([, sqlstate]) => sqlstate)
      .filter((sqlstate) => sqlstate !== INTERNAL);
    expect(named.length).toBeGreaterThan(0);
    expect(mapped.map(([, sqlstate]) => sqlstate)).toEqual(expect.arrayContaining(named));
  });

  it('raise no code from SQL that has no SQLSTATE', () => {
    const raised = [...migrations.matchAll(/raise_code\('([A-Z_]+)'|then '([A-Z]+_[A-Z_]+)'|'code', '([A-Z_]+)'/g)]
      .map(([, ...names]) => names.find((name) => name !== undefined))
      .filter((name) => name?.startsWith('LEDGER_'));
    expect(raised.length).toBeGreaterThan(0);
    expect(mapped.map(([code]) => code)).toEqual(expect.arrayContaining(raised));
  });
});

it('gives no SQLSTATE to two codes, and all of them class LV', () => {
  const sqlstates = [...known.values()].flatMap(({ sqlstate }) => sqlstate ?? []);
  expect(new Set(sqlstates).size).toBe(sqlstates.length);
  for (const sqlstate of sqlstates) expect(sqlstate).toMatch(/^LV[0-9A-Z]{3}$/);
});

function sources(folder: string, suffix: string, except: readonly string[] = []): string {
  return readdirSync(`${root}${folder}`, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith(suffix) && !except.includes(file))
    .map((file) => readFileSync(`${root}${folder}/${file}`, 'utf8'))
    .join('\n');
}

/** A row by the names of its columns. */
type Row = ReadonlyMap<string, string>;

/** The rows of every table of a Markdown text. */
function tableRows(markdown: string): Row[] {
  const rows: Row[] = [];
  let columns: string[] | undefined;
  for (const line of markdown.split('\n')) {
    const cells = line.startsWith('|')
      ? line
          .split('|')
          .slice(1, -1)
          .map((cell) => cell.trim())
      : undefined;
    if (cells === undefined) columns = undefined;
    else if (columns === undefined) columns = cells;
    else if (cells[0] !== '---') rows.push(new Map(columns.map((column, index) => [column, cells[index] ?? ''])));
  }
  return rows;
}
