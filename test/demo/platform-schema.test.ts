import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Catalogue, readCatalogue } from '../../src/demo/platform/catalogue.ts';
import { createPlatform } from '../../src/demo/platform/platform.ts';
import { asCaller, callersPool } from '../support/callers.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { differences, known, readLive } from '../support/legacy-catalog.ts';
import { ONLY_ID, oneRowEach } from '../support/legacy-rows.ts';

const SUPABASE_ROLES = ['anon', 'authenticated', 'service_role'] as const;

const DEFINER = 'machines.sql has it security definer, so that policies that ask each other come to an end';

/** Where the facts cannot be met, and why. */
const DEVIATIONS: Readonly<Record<string, string>> = {
  'is_event_individual_owner(uuid): security_definer is true, not false': DEFINER,
  'is_event_org_editor(uuid): security_definer is true, not false': DEFINER,
};

describe('the whole legacy database', () => {
  let database: TestDatabase;
  let catalogue: Catalogue;
  let hasVector: boolean;
  beforeAll(async () => {
    catalogue = await readCatalogue();
    database = await createDatabase({ template: EMPTY });
    await createPlatform(database.pool);
    hasVector = (await query(`select from pg_extension where extname = 'vector'`)).length > 0;
  });
  afterAll(() => database.drop());

  const query = async (sql: string, parameters: unknown[] = []) =>
    (await database.pool.query<Record<string, unknown>>(sql, parameters)).rows;

  it.each(Object.keys(known) as (keyof typeof known)[])('has exactly the %s of the catalogue', async (kind) => {
    const wanted = known[kind](catalogue, hasVector);
    const found = differences({ known: wanted, live: await readLive(database.pool, kind) });
    expect(found.filter((difference) => DEVIATIONS[difference] === undefined)).toEqual([]);
  });

  it('differs from the catalogue wherever it is said to', async () => {
    const kinds = Object.keys(known) as (keyof typeof known)[];
    const found = await Promise.all(
      kinds.map(async (kind) =>
        differences({ known: known[kind](catalogue, hasVector), live: await readLive(database.pool, kind) }),
      ),
    );
    expect(found.flat().filter((difference) => DEVIATIONS[difference] !== undefined)).toEqual(Object.keys(DEVIATIONS));
  });

  it('has a body for each function that PostgreSQL accepts', async () => {
    const functions = await query(
      `select p.oid::regprocedure::text as name, pg_get_functiondef(p.oid) as sql from pg_proc p
       where p.pronamespace = 'public'::regnamespace
         and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')`,
    );
    const refused: string[] = [];
    for (const { name, sql } of functions) {
      await query(String(sql)).catch((error: Error) => refused.push(`${name}: ${error.message}`));
    }
    expect(refused).toEqual([]);
  });

  it('cannot be made where it is already, and changes nothing then', async () => {
    const before = await readLive(database.pool, 'columns');
    await expect(createPlatform(database.pool)).rejects.toMatchObject({ code: 'DB_FAILED' });
    expect(await readLive(database.pool, 'columns')).toEqual(before);
  });
});

/** The trigger set_updated_at stands on a table without the column: no package was ever updated. */
const UPDATE_OF_PACKAGES = 'update public.sponsorship_packages set "id" = "id": record "new" has no field "updated_at"';

describe('the whole legacy database with a row in every table', () => {
  let database: TestDatabase;
  let catalogue: Catalogue;
  beforeAll(async () => {
    catalogue = await readCatalogue();
    database = await createDatabase({ template: EMPTY });
    await createPlatform(database.pool);
  });
  afterAll(() => database.drop());

  const count = async (table: string) => (await database.pool.query(`select from public.${table}`)).rowCount;

  it('takes the row, and its update, with all that its triggers do', async () => {
    const refused: string[] = [];
    const tryOut = (sql: string) =>
      database.pool.query(sql).catch((error: Error) => refused.push(`${sql}: ${error.message}`));
    await tryOut(`insert into auth.users (id, email) values ('${ONLY_ID}', 'ada@example.test')`);
    const rows = oneRowEach(catalogue);
    for (const { insert } of rows) await tryOut(insert);
    for (const sql of updates(catalogue)) await tryOut(sql);
    expect(refused).toEqual([UPDATE_OF_PACKAGES]);
    for (const { table } of rows) expect(await count(table), table).toBeGreaterThan(0);
  });

  it('lets the roles of Supabase ask for it, and each policy and view come to an end', async () => {
    const callers = callersPool(database);
    const refused: string[] = [];
    try {
      for (const role of SUPABASE_ROLES) {
        for (const sql of [...updates(catalogue), ...reads(catalogue)]) {
          await asCaller(callers, { role, userId: ONLY_ID }, (tx) =>
            tx.query(sql).catch((error: Error) => refused.push(`${role}: ${sql}: ${error.message}`)),
          );
        }
      }
    } finally {
      await callers.end();
    }
    expect(refused).toEqual(SUPABASE_ROLES.map((role) => `${role}: ${UPDATE_OF_PACKAGES}`));
  });
});

const updates = ({ tables }: Catalogue) =>
  tables
    .filter((table) => table.kind !== 'partition')
    .map(({ name, columns }) => `update public.${name} set "${columns[0]?.name}" = "${columns[0]?.name}"`);

const reads = ({ tables, views }: Catalogue) => [
  ...tables.map(({ name }) => `select * from public.${name}`),
  ...views
    .filter(({ schema, kind }) => schema === 'public' && kind === 'view')
    .map(({ name }) => `select * from public.${name}`),
];
