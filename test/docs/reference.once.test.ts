import { existsSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { databasePages } from '../../scripts/manual/database-pages.ts';
import { purposeOf } from '../../scripts/manual/headers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const MADE_ANEW_BY = 'npm run manual';

describe('the reference of a migrated database', () => {
  let database: TestDatabase;
  let pages: ReadonlyMap<string, string>;
  beforeAll(async () => {
    database = await createDatabase();
    pages = new Map(await databasePages(database.url, 'migrations'));
  });
  afterAll(() => database.drop());

  it.each(['tables', 'sql-functions'])(`is what docs/reference/%s.md says, or ${MADE_ANEW_BY}`, (name) => {
    const path = `docs/reference/${name}.md`;
    expect(existsSync(path)).toBe(true);
    expect(readFileSync(path, 'utf8')).toBe(pages.get(name));
  });

  it('says of each function that may be called what it is for', () => {
    const sections = pages.get('sql-functions')?.split(/^### /m).slice(1) ?? [];
    expect(sections.length).toBeGreaterThan(30);
    for (const section of sections) expect(section).toMatch(/```text\n.{10,}/);
  });

  it('leaves no role behind', async () => {
    const { rows } = await database.pool.query("select from pg_roles where rolname = 'manual_book_reader'");
    expect(rows).toEqual([]);
  });
});

describe('what a function is for', () => {
  it('is its last whole header, and what later ones add to it', () => {
    const headers = [
      { since: '0003', text: 'Opens.' },
      { since: '0009', text: 'Opens accounts.' },
      { since: '0014', text: 'As in 0009; a name is text.' },
      { since: '0022', text: 'As in 0014, likewise.' },
    ];
    expect(purposeOf(headers)).toEqual(['Opens accounts.', 'Since 0014: a name is text.']);
  });
});
