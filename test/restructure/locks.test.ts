import { type ParseResult, parseSync } from 'libpg-query';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Lock, locksOf, MODES } from '../../src/restructure/lint/locks.ts';
import { loadParser } from '../../src/restructure/lint/plain-sql.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';

// The locks that the linter says a statement takes are those that the server shows.

let database: TestDatabase;
beforeAll(async () => {
  await loadParser();
  database = await createDatabase({ template: EMPTY });
  await database.pool.query(`create table a (id int primary key, x int, constraint k check (x > 0) not valid);
    create table b (id int primary key, a_id int, constraint b_a foreign key (a_id) references a);
    create table p (id int, day int) partition by range (day);
    create table p1 partition of p for values from (0) to (1);
    create table loose (id int, day int);
    create index a_x on a (x);
    create function t() returns trigger language plpgsql as $$ begin return new; end $$;
    create trigger a_t after insert on a for each row execute function t();
    create policy a_p on a using (true);
    create table seen (id int);
    create view w as select id from seen;
    create materialized view m as select id from seen;
    create unique index m_id on m (id);
    create schema other`);
});
afterAll(() => database.drop());

const WEAKER = ['AccessShareLock', 'RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock'];

it.each([
  'alter table a add column y int',
  'alter table a alter column x set not null',
  'alter table a alter column x set statistics 7',
  'alter table a set (fillfactor = 70)',
  'alter table a validate constraint k',
  'alter table a add constraint u unique using index a_x_u',
  'alter table a disable trigger a_t',
  'alter table a enable always trigger a_t',
  'alter table a enable row level security',
  'alter table a replica identity full',
  'alter table a cluster on a_x',
  'alter table a rename to z',
  'alter table a rename column x to z',
  'alter table a rename constraint k to z',
  'alter table a set schema other',
  'alter table b add constraint c foreign key (id) references a not valid',
  'alter table b add column c int references a',
  'alter table p attach partition loose for values from (1) to (2)',
  'alter table p detach partition p1',
  'create table n (id int references a)',
  'create table n partition of p for values from (1) to (2)',
  'create table n () inherits (a)',
  'create trigger n after insert on a for each row execute function t()',
  'create policy n on a using (true)',
  'alter policy a_p on a using (false)',
  'drop policy a_p on a',
  'drop trigger a_t on a',
  'alter trigger a_t on a rename to z',
  'create index n on a (x)',
  'create statistics n on id, x from a',
  'comment on table a is $$x$$',
  'drop table loose',
  'truncate loose',
  'lock table a in share mode',
  'lock table a in row exclusive mode',
  'reindex table a',
  'cluster a using a_x',
  'analyze a',
  'create view v as select id from a',
  'create rule n as on insert to a do nothing',
  'refresh materialized view m',
  'alter materialized view m rename to z',
  'alter materialized view m set schema other',
  'drop materialized view m',
  'drop view w',
  'alter view w rename to z',
  'alter view w set schema other',
  'create publication n for table a',
  'grant select on a to public',
])('%s', async (sql) => {
  const client = await database.pool.connect();
  try {
    await client.query('begin');
    if (sql.includes('a_x_u')) await client.query('create unique index a_x_u on a (x)');
    const oids =
      "select oid, relname from pg_class where relkind in ('r', 'p', 'v', 'm') and relnamespace = 'public'::regnamespace";
    const { rows: before } = await client.query<{ oid: number; relname: string }>(oids);
    await client.query('savepoint s');
    await client.query(sql);
    const { rows } = await client.query<{ relation: number; mode: string }>(
      'select relation, mode from pg_locks where pid = pg_backend_pid() and relation is not null and not mode = any($1)',
      [WEAKER],
    );
    const shown = rows.flatMap(({ relation, mode }) => {
      const table = before.find(({ oid }) => oid === relation)?.relname;
      return table === undefined ? [] : [{ table: `public.${table}`, mode: modeName(mode) }];
    });
    const [{ stmt } = {}] = (parseSync(sql) as ParseResult).stmts ?? [];
    expect(strongest(stmt === undefined ? [] : locksOf(stmt))).toEqual(strongest(shown));
  } finally {
    await client.query('rollback');
    client.release();
  }
});

/** `ShareRowExclusiveLock` → `SHARE ROW EXCLUSIVE`. */
function modeName(mode: string): Lock['mode'] {
  const name = mode
    .replace(/Lock$/, '')
    .replace(/(?<=[a-z])(?=[A-Z])/g, ' ')
    .toUpperCase();
  return name as Lock['mode'];
}

/** Whoever waits for a table waits for the strongest lock on it. */
function strongest(locks: readonly Lock[]): Record<string, string> {
  const weakestFirst = locks.toSorted((a, b) => MODES[a.mode] - MODES[b.mode]);
  return Object.fromEntries(weakestFirst.map(({ table, mode }) => [table, mode]));
}
