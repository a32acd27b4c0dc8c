import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import type { Mapping } from '../../src/restructure/mapping.ts';
import { rollBack } from '../../src/restructure/rollback.ts';
import { type Comparison, compareWithRecording } from '../../src/restructure/verify/recording/compare.ts';
import { parseRecording, type Recording, textOfRecording } from '../../src/restructure/verify/recording/file.ts';
import { takeRecording } from '../../src/restructure/verify/recording/record.ts';
import { callersPool } from '../support/callers.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { ANN, BOB, isolateTenants, moveTables, shop, shopMapping } from '../support/tenanted-shop.ts';

const THERE = 'every table of the recording is there, with the columns that it had';
const ROWS = 'every row that nobody wrote since is what it was';
const ROWS_BY_NAME = 'every moved table shows by its old name what it has';
const SIGHTS = 'every role and tenant sees the rows that it saw';
const WRITES = 'every role and tenant may write the rows that it might';
const SIGHTS_BY_NAME = 'every role and tenant sees by the old name what it sees by the new';
const PRIVILEGES = 'every role may do by the old name what it might';

const options = { now: new Date('2026-01-01T00:00:00Z'), program: 'test' };

/** A shop of its own, recorded before anything was moved. */
interface Recorded {
  readonly database: TestDatabase;
  /** As the superuser, who may become every role. */
  readonly admin: Pool;
  readonly recording: Recording;
  compare(recording?: Recording): Promise<Comparison>;
}

/** What failed, by check, and what was found first. */
const failures = ({ checks }: Comparison) =>
  Object.fromEntries(checks.filter(({ holds }) => !holds).map(({ check, first }) => [check, first]));
const refusal = (refused: Promise<unknown>) => refused.then(() => 'ok', String);
const notesOf = ({ notes }: Comparison, kind: string) =>
  notes.filter((note) => note.kind === kind).map(({ text }) => text);

describe('a recording of what tables show', () => {
  const made: Recorded[] = [];
  const mapping: Mapping = shopMapping('recording');

  const recorded = async (before = ''): Promise<Recorded> => {
    const database = await createDatabase({ template: await shop() });
    if (before !== '') await asSuperuser(database, before);
    const admin = callersPool(database);
    const recording = await takeRecording(admin, mapping, options);
    const compare = (against = recording) =>
      withTransaction(admin, (tx) => compareWithRecording(tx, against, {}), ONE_SNAPSHOT);
    made.push({ database, admin, recording, compare });
    return made.at(-1) as Recorded;
  };
  afterAll(async () => {
    for (const { admin, database } of made) {
      await admin.end();
      await database.drop();
    }
  });

  it('holds before anything moves, after the move, and when all is back again', async () => {
    const { database, compare, recording } = await recorded();
    const isComplete = async () => {
      const comparison = await compare();
      expect(failures(comparison)).toEqual({});
      expect(comparison.notes).toEqual([]);
      return comparison;
    };
    expect(recording.relations).toHaveLength(8);
    expect(recording.viewers).toHaveLength(7);
    await isComplete();
    await moveTables(database.pool, mapping);
    const { checks } = await isComplete();
    expect(checks.filter(({ examined }) => examined === 0n)).toEqual([]);
    await rollBack(database.pool, { tables: [] });
    await isComplete();
  });

  it('has tenants of different organizations, and what each of them sees is theirs', async () => {
    const { recording } = await recorded();
    const orders = recording.relations.find(({ name }) => name === 'orders');
    const seen = recording.viewers.map(({ role, user }, at) => [role, user, orders?.seen[at]?.[0]]);
    expect(seen).toEqual([
      ['authenticated', null, 0],
      ['authenticated', ANN, 200],
      ['authenticated', BOB, 100],
      ['anon', null, 0],
      ['anon', ANN, 200],
      ['anon', BOB, 100],
      ['service_role', null, 300],
    ]);
  });

  it('has what each may write of what he sees, by privilege and by policy', async () => {
    const { recording } = await recorded(
      `create policy mine on orders as restrictive for delete using (cents > 100); create policy none on orders as restrictive for insert to authenticated with check (cents < 4)`,
    );
    const orders = recording.relations.find(({ name }) => name === 'orders');
    const writes = recording.viewers.map(({ role, user }, at) => [role, user, orders?.writes?.[at]]);
    expect(writes).toEqual([
      ['authenticated', null, [0, 0, 0]],
      ['authenticated', ANN, [2, 200, 133]],
      ['authenticated', BOB, [1, 100, 67]],
      ['anon', null, [0, 0, 0]],
      // He may update one column of them.
      ['anon', ANN, [0, 200, 0]],
      ['anon', BOB, [0, 100, 0]],
      ['service_role', null, [300, 300, 200]],
    ]);
  });

  it('faults a policy that lets somebody write what he might only read, and says of older recordings what they lack', async () => {
    const { database, compare, recording } = await recorded(
      `drop policy theirs on orders; create policy theirs on orders for select using (org_id in (select m.org_id from members m where m.user_id = auth.uid()))`,
    );
    await moveTables(database.pool, mapping);
    await asSuperuser(database, 'create policy more on sales.orders for delete to authenticated using (true)');
    expect(failures(await compare())).toEqual({
      [WRITES]: [ANN, BOB].map(
        (user, at) => `public.orders: authenticated as ${user} might delete no rows, and may delete ${200 - 100 * at}`,
      ),
    });
    const former = { ...recording, relations: recording.relations.map(({ writes: _, ...relation }) => relation) };
    const comparison = await compare(former);
    expect(failures(comparison)).toEqual({});
    expect(notesOf(comparison, 'left out')).toEqual([expect.stringMatching(/may write: an older version/)]);
  });

  it('is the same whatever the time zone and the search path of the database and the role', async () => {
    const { database, admin, recording, compare } = await recorded();
    await asSuperuser(
      database,
      `alter database ${database.name} set timezone = 'Asia/Kathmandu'; alter database ${database.name} set datestyle = 'German';
       alter database ${database.name} set search_path = auth; alter database ${database.name} set intervalstyle = 'iso_8601';
       alter database ${database.name} set bytea_output = 'escape'; alter database ${database.name} set extra_float_digits = -3`,
    );
    const fresh = callersPool(database);
    const again = await withTransaction(fresh, (tx) => compareWithRecording(tx, recording, {}), ONE_SNAPSHOT);
    await fresh.end();
    expect(failures(again)).toEqual({});
    expect(failures(await compare())).toEqual({});
    expect((await admin.query('show timezone')).rows).not.toEqual([{ TimeZone: 'Asia/Kathmandu' }]);
  });

  it('says of an empty table, and of a schema without any of its tables, that it holds', async () => {
    const { compare } = await recorded('truncate orders, order_lines, members, visits, stays');
    expect(failures(await compare())).toEqual({});
    const nothing = await recorded('drop table order_lines, orders, members, visits, stays, "Odd ""Things""" cascade');
    expect(nothing.recording.relations).toEqual([]);
    expect(failures(await nothing.compare())).toEqual({});
  });

  describe('afterwards', () => {
    let shopOf: Recorded;
    beforeAll(async () => {
      shopOf = await recorded();
      await moveTables(shopOf.database.pool, mapping);
    });

    /** What is found once this was done, which is undone again. As a part of the transaction it is of those that came since. */
    const done = async (sql: string, recording = shopOf.recording) => {
      const tx = await shopOf.admin.connect();
      try {
        await tx.query(`begin; set local search_path = public; ${sql}; reset role`);
        return await compareWithRecording(tx, recording, {});
      } finally {
        await tx.query('rollback');
        tx.release();
      }
    };

    it('says which rows were written meanwhile, and faults nothing', async () => {
      const comparison = await done(
        `update orders set status = 'sent' where id = 1; insert into orders (org_id) values ('${BOB}'), ('${BOB}'); update stays set id = 2;
         insert into "Odd ""Things""" (n) values (7)`,
      );
      expect(failures(comparison)).toEqual({});
      expect(notesOf(comparison, 'rows written')).toEqual([
        expect.stringMatching(/^public\.orders: 3 rows were written since, in \d chunks; 300 rows then, 302 now$/),
        expect.stringMatching(/^public\.Odd "Things": 1 rows were written since, in 1 chunks; 2 rows then, 3 now$/),
        expect.stringMatching(/^public\.stays: 1 rows were written since/),
      ]);
    });

    it('says which rows went, since nobody can tell who took them', async () => {
      const comparison = await done('delete from order_lines where order_id < 4');
      expect(failures(comparison)).toEqual({});
      expect(notesOf(comparison, 'rows went')).toEqual([
        'public.order_lines: 3 rows went, of chunks that nobody wrote to since; 300 rows then, 297 now',
      ]);
    });

    it.each([
      ['a hash', (chunk: [number, number, string, number]) => (chunk[2] = '5')],
      ['a number of rows', (chunk: [number, number, string, number]) => (chunk[1] -= 1)],
    ])('faults rows that are not those recorded, by %s, when nobody wrote any', async (_what, forge) => {
      const forged = structuredClone(shopOf.recording);
      const [lines] = forged.relations.filter(({ name }) => name === 'order_lines');
      const chunk = lines?.chunks[7];
      if (chunk === undefined) throw new Error('no such chunk');
      forge(chunk);
      // By a file whose digest is that of what it says.
      const comparison = await done('select', parseRecording(textOfRecording(forged), 'forged'));
      expect(failures(comparison)).toEqual({
        [ROWS]: [expect.stringMatching(`^public.order_lines, chunk ${chunk[0]}: `)],
      });
      const written = await done(`update sales.order_lines set "What Is It" = 'x'`, forged);
      expect(failures(written)).toEqual({});
    });

    it('faults what nobody can tell, when too many transactions came since', async () => {
      const forged = structuredClone(shopOf.recording);
      for (const relation of forged.relations) relation.clearance = '0';
      const comparison = await done('update orders set cents = 1 where id = 2', forged);
      expect(failures(comparison)[ROWS]?.[0]).toMatch(
        /^public\.orders: 1 chunks differ, and since so many transactions/,
      );
    });

    it.each([
      [
        'a right that was taken',
        'revoke insert on orders from authenticated',
        {
          [PRIVILEGES]: /public\.orders: authenticated might select insert update delete, and may select update delete/,
        },
      ],
      ['a right that was given', 'grant delete on orders to anon', { [PRIVILEGES]: /anon might .*, and may .*delete/ }],
      [
        'reading that was taken',
        'revoke select on stays from anon',
        {
          [PRIVILEGES]: /public\.stays: anon might select/,
          [SIGHTS]: /public\.stays: anon.* saw 1 rows, and sees nothing but the error 42501/,
        },
      ],
      [
        'a policy that lets more through',
        'create policy more on sales.orders for select to authenticated using (true)',
        {
          [SIGHTS]: /public\.orders: authenticated saw no rows, and sees 300 rows/,
        },
      ],
      [
        'a policy that lets less through',
        'create policy less on sales.orders as restrictive using (cents > 3)',
        {
          [SIGHTS]: /public\.orders: authenticated as \S+a saw 200 rows, and sees 198 rows/,
          [WRITES]: /public\.orders: authenticated as \S+a might insert 200 rows, and may insert 198/,
        },
      ],
      [
        'row security that is off',
        'alter table sales.orders disable row level security',
        {
          [SIGHTS]: /public\.orders: anon saw no rows, and sees 300 rows|authenticated saw no rows, and sees 300 rows/,
          [WRITES]: /public\.orders: authenticated might update no rows, and may update 300/,
        },
      ],
      [
        'a view with the rights of its owner',
        'alter view orders reset (security_invoker)',
        {
          [SIGHTS]: /saw no rows, and sees 300 rows/,
          [SIGHTS_BY_NAME]: /public\.orders: authenticated sees 300 rows by the old name, and no rows by the new/,
        },
      ],
      [
        'a schema that nobody reaches',
        'revoke usage on schema people from anon, recording_read',
        {
          [SIGHTS_BY_NAME]:
            /public\.members: anon sees 2 rows by the old name, and nothing but the error 42501 by the new/,
        },
      ],
      [
        'a view that shows other values',
        `create or replace view orders with (security_invoker = true) as select id, org_id, upper(status) as status, cents, placed_at from sales.orders`,
        {
          [ROWS_BY_NAME]: /public\.orders, chunk \d+: \d+ rows \(-?\d+\) by the old name/,
          [SIGHTS]: /public\.orders: authenticated as \S+ saw 200 rows \(-?\d+\), and sees 200 rows \(-?\d+\)/,
          [SIGHTS_BY_NAME]: /public\.orders: authenticated as/,
        },
      ],
      [
        'a column that is gone',
        'drop view order_lines; alter table sales.order_lines drop column "What Is It"',
        {
          [THERE]: /public\.order_lines: the column What Is It was text, and is gone/,
        },
      ],
      ['a table that is gone', 'drop table stays', { [THERE]: /public\.stays: there is no such table any more/ }],
      [
        'a table that somebody moved by hand',
        'create schema elsewhere; alter table stays set schema elsewhere',
        {
          [THERE]: /public\.stays: there is no such table any more, and no step that stands has moved it/,
        },
      ],
    ] as const)('faults %s, and nothing else', async (_what, sql, found) => {
      const failed = failures(await done(sql));
      expect(Object.keys(failed).toSorted()).toEqual(Object.keys(found).toSorted());
      for (const [check, text] of Object.entries(found)) expect(failed[check]?.join('\n')).toMatch(text);
    });

    it('faults rows of that time that somebody sees more of, whatever was written meanwhile', async () => {
      const comparison = await done(
        `update sales.orders set cents = 0 where id = 1; create policy more on sales.orders for select to anon using (true)`,
      );
      expect(failures(comparison)).toEqual({
        [SIGHTS]: expect.arrayContaining([
          expect.stringMatching(/public\.orders: anon saw no rows, and sees 299 rows of that time/),
        ]),
      });
    });

    it('does not compare what a tenant sees of rows that came to him meanwhile', async () => {
      const comparison = await done(`insert into orders (org_id) select org_id from members where user_id = '${ANN}'`);
      expect(failures(comparison)).toEqual({});
      expect(notesOf(comparison, 'not compared')).toContainEqual(
        `public.orders: authenticated as ${ANN} saw 200 rows, and sees 201 rows: its rows were written since`,
      );
    });

    it('says why a tenant sees less who is no member any more', async () => {
      const comparison = await done(`delete from members where user_id = '${ANN}'`);
      expect(failures(comparison)).toEqual({});
      expect(notesOf(comparison, 'not compared')).toContainEqual(
        `public.orders: anon as ${ANN} saw 200 rows, and sees no rows: public.members was written since`,
      );
    });
  });

  it('says what policies of tenants narrow, and faults a policy that does not work', async () => {
    const { database, compare } = await recorded();
    await moveTables(database.pool, mapping);
    await isolateTenants(database.pool, mapping);
    const comparison = await compare();
    expect(failures(comparison)).toEqual({});
    expect(new Set(comparison.notes.map(({ kind }) => kind))).toEqual(new Set(['narrowed']));
    expect(notesOf(comparison, 'narrowed')).toContainEqual('public.visits: anon saw 300 rows, and sees no rows');
    await asSuperuser(
      database,
      `alter policy tenant_reads on sales.visits using (exists (select from sales.visits v where v.page = visits.page))`,
    );
    expect(failures(await compare())[SIGHTS]?.[0]).toMatch(
      /public\.visits: \S+ saw 300 rows, and sees nothing but the error 42P17/,
    );
  });

  it('leaves out, and says so, roles that whoever asks may not become', async () => {
    const { database, recording } = await recorded();
    const own = await takeRecording(database.pool, mapping, options);
    expect(own.viewers).toEqual([]);
    expect(own.leftOut).toEqual(['authenticated', 'anon', 'service_role']);
    expect(own.relations.map(({ chunks }) => chunks)).toEqual(recording.relations.map(({ chunks }) => chunks));
    const comparison = await withTransaction(
      database.pool,
      (tx) => compareWithRecording(tx, recording, {}),
      ONE_SNAPSHOT,
    );
    expect(failures(comparison)).toEqual({});
    expect(notesOf(comparison, 'left out')).toHaveLength(3);
  });

  it('does not take rows for whole that row security hides from whoever asks', async () => {
    const { database } = await recorded(
      'alter table stays enable row level security; alter table stays force row level security',
    );
    expect(await refusal(takeRecording(database.pool, mapping, options))).toMatch(
      /Not every row may be read: query would be affected by row-level security policy for table "stays"\. Run/,
    );
  });

  it('leaves out, and says so, what takes a role too long to see, and waits for it once', async () => {
    const { database, admin } = await recorded();
    await asSuperuser(
      database,
      `create function slowly() returns boolean language plpgsql as $$ begin perform pg_sleep(10); return true; end $$;
       alter table visits enable row level security; create policy slow on visits for select to anon, authenticated using (slowly())`,
    );
    const startedAt = performance.now();
    const impatient = await takeRecording(admin, mapping, { ...options, patienceMs: 2_000 });
    expect(performance.now() - startedAt).toBeLessThan(10_000);
    const slow = impatient.relations.filter(({ seen }) => seen.includes('57014'));
    expect(slow.map(({ name }) => name)).toEqual(['visits']);
    await moveTables(database.pool, mapping);
    const comparison = await withTransaction(admin, (tx) => compareWithRecording(tx, impatient, {}), ONE_SNAPSHOT);
    expect(failures(comparison)).toEqual({});
    expect(notesOf(comparison, 'left out')).toContainEqual(
      expect.stringMatching(/^public\.visits: authenticated.*: looking at its rows takes too long; see --patience$/),
    );
  });

  it('counts what was under way when it was made as written since, in savepoints too', async () => {
    const { database, admin } = await recorded();
    const busy = await database.pool.connect();
    try {
      await busy.query(`begin; savepoint one; update orders set cents = 90 where id = 9; release savepoint one`);
      await database.pool.query('update stays set id = 7');
      const recording = await takeRecording(admin, mapping, options);
      await busy.query('commit');
      const comparison = await withTransaction(admin, (tx) => compareWithRecording(tx, recording, {}), ONE_SNAPSHOT);
      expect(failures(comparison)).toEqual({});
      expect(notesOf(comparison, 'rows written')).toEqual([
        expect.stringMatching(/^public\.orders: 1 rows were written/),
      ]);
    } finally {
      busy.release();
    }
  });

  it('is of one database, one state of it, and one major version', async () => {
    const { compare, recording } = await recorded();
    const [snapshot, postgres] = [{ xmin: '9', xmax: '99999999' }, recording.postgres - 1];
    expect(await refusal(compare({ ...recording, database: 'other' }))).toMatch(
      /is of the database \S+ \(oid \d+\), and this is/,
    );
    expect(await refusal(compare({ ...recording, databaseOid: 7 }))).toMatch(
      /is of the database \S+ \(oid \d+\), and this is/,
    );
    expect(await refusal(compare({ ...recording, snapshot }))).toMatch(/put back to an earlier state/);
    expect(await refusal(compare({ ...recording, postgres }))).toMatch(/was made by PostgreSQL \d+, and this is/);
  });
});
