import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { attachSubjects } from '../../src/analytics/embeddings/attach.ts';
import { readExtension } from '../../src/analytics/embeddings/extension.ts';
import { findSimilar, type Similar } from '../../src/analytics/embeddings/search.ts';
import { putEmbeddings } from '../../src/analytics/embeddings/write.ts';
import { createPool, type Pool, type Queryable } from '../../src/db/pool.ts';
import { nearest, searchBy, seenBy, uuidOf } from '../support/embeddings.ts';
import { liventix, type Run } from '../support/liventix.ts';
import { type PgvectorServer, startPgvector } from '../support/pgvector.ts';

/** pgvector sums in 32 bits, the arrays are summed in 64, and both are rounded to 6 decimal places. */
const TOLERANCE = 2e-6;
const DIMENSIONS = 32;
/** So many that an index costs less than to look at all, as the planner sees it. */
const EVENTS = 6_000;

const PLATFORM = `
create role anon nologin; create role authenticated nologin; create role service_role nologin bypassrls;
create table public.events (id uuid primary key, visibility text not null);
alter table public.events enable row level security;
create policy seen on public.events using (visibility = 'public');
grant usage on schema public to authenticated;
grant select on public.events to authenticated;
create domain public.vector as real[]`;

let server: PgvectorServer;
let pool: Pool;
beforeAll(async () => {
  server = await startPgvector();
  pool = createPool({ databaseUrl: server.url, max: 2 });
  await pool.query(PLATFORM);
  await attachSubjects(pool);
  await searchBy(pool, 'small@1', DIMENSIONS);
  await addEvents(EVENTS);
}, 180_000);
afterAll(async () => {
  await pool.end();
  await server.stop();
});

/** The same numbers at each run, as if by chance. */
const chance = (seed: number): number => {
  const wild = Math.sin(seed) * 43_758.5453;
  return 2 * (wild - Math.floor(wild)) - 1;
};

/** As of texts, which are about few things, each in many words. */
const embeddingOf = (number: number): readonly number[] =>
  Array.from({ length: DIMENSIONS }, (_, at) =>
    [1, 2, 3, 4, 5, 6].reduce(
      (sum, theme) => sum + chance(number * 7.13 + theme) * Math.sin(at * theme * 1.7 + theme),
      0,
    ),
  );

/** Every tenth is public. */
async function addEvents(count: number): Promise<void> {
  await pool.query(
    `insert into public.events
     select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, case when n % 10 = 0 then 'public' else 'private' end
     from generate_series(1, $1) n`,
    [count],
  );
  const all = Array.from({ length: count }, (_, at) => ({
    id: uuidOf(at + 1),
    embedding: embeddingOf(at + 1),
    content: '',
  }));
  for (let at = 0; at < count; at += 1_000) {
    await putEmbeddings(pool, { kind: 'event', embeddings: all.slice(at, at + 1_000) });
  }
  await pool.query('analyze ml.event_embeddings');
}

const command = (line: string): Promise<Run> =>
  liventix(['embeddings', ...line.split(' ')], { DATABASE_URL: server.url });

const ASKED = embeddingOf(1_000.5);
const search = (db: Queryable = pool) => findSimilar(db, { kind: 'event', embedding: ASKED, limit: 10, threshold: -1 });

/** By definition, of what readers see. */
const nearestPublic = (limit: number): readonly Similar[] => {
  const seen = Array.from({ length: EVENTS / 10 }, (_, at) => 10 * (at + 1));
  const all = seen.map((at) => ({ id: uuidOf(at), embedding: embeddingOf(at) }));
  return nearest(all, { embedding: ASKED, limit, threshold: -1 });
};

async function scansOf(index: string): Promise<number> {
  await pool.query('select pg_stat_force_next_flush()');
  const { rows } = await pool.query<{ scans: number }>(
    'select idx_scan::integer as scans from pg_stat_user_indexes where indexrelname = $1',
    [index],
  );
  return rows[0]?.scans ?? -1;
}

/** In a transaction of which nothing stays. */
async function undone<T>(work: (db: Queryable) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  try {
    await client.query('begin');
    return await work(client);
  } finally {
    await client.query('rollback');
    client.release();
  }
}

const inOrder = (found: readonly Similar[]): readonly Similar[] =>
  found.toSorted((a, b) => b.similarity - a.similarity || (a.id < b.id ? -1 : 1));

/** The same similarities, the nearest first and equal ones by id: of what is as near to 6 places, another may be found. */
function expectSame(found: readonly Similar[], wanted: readonly Similar[]): void {
  expect(found).toEqual(inOrder(found));
  expect(found).toHaveLength(wanted.length);
  const differences = found.map(({ similarity }, at) => Math.abs(similarity - (wanted[at]?.similarity ?? Number.NaN)));
  for (const difference of differences) expect(difference).toBeLessThanOrEqual(TOLERANCE);
}

/** As an index of pgvector finds them, which promises none: most of the nearest, as near as they are. */
function expectMost(found: readonly Similar[], wanted: readonly Similar[]): void {
  expect(found).toEqual(inOrder(found));
  expect(found).toHaveLength(wanted.length);
  const truth = new Map(wanted.map(({ id, similarity }) => [id, similarity]));
  const known = found.filter(({ id }) => truth.has(id));
  expect(known.length).toBeGreaterThanOrEqual(0.8 * wanted.length);
  for (const { id, similarity } of known) {
    expect(Math.abs(similarity - (truth.get(id) ?? Number.NaN))).toBeLessThanOrEqual(TOLERANCE);
  }
}

describe('there and back', () => {
  let overArrays: readonly Similar[];

  it('is searched over arrays until pgvector is created, and says that it could be', async () => {
    overArrays = await search();
    expect(overArrays).toHaveLength(10);
    expect((await command('status')).stdout).toContain(
      'exactly, over arrays: pgvector 0.8.7 could be created: liventix embeddings upgrade',
    );
    const { stdout } = await command('upgrade --dry-run');
    expect(stdout.split('\n').slice(0, 4)).toEqual([
      'create schema "extensions";',
      'grant usage on schema "extensions" to public;',
      'create extension vector schema "extensions";',
      'create index concurrently event_embeddings_hnsw_1 …;',
    ]);
    expect((await readExtension(pool)).version).toBe(null);
  });

  it('is searched by indexes after one command, which finds the same, beside the stand-in for the type', async () => {
    const run = await command('upgrade --memory 64MB');
    expect(run).toMatchObject({ exitCode: 0 });
    expect(run.stdout).toMatch(/built +event_embeddings_hnsw_1 +small@1\n/);
    expect(run.stdout).toMatch(/holds +pgvector finds the events that are nearest +[1-9]\d? searches\n/);
    expect(run.stdout).not.toContain('FAILS');
    const before = await scansOf('event_embeddings_hnsw_1');
    expectMost(await search(), overArrays);
    expect(await scansOf('event_embeddings_hnsw_1')).toBe(before + 1);
  });

  it('plans the search by the index, by rows of the version alone', async () => {
    const { rows } = await pool.query<{ 'QUERY PLAN': string }>(
      `explain select event_id from ml.event_embeddings where model_version_id = 1
       order by embedding::extensions.vector(${DIMENSIONS}) operator(extensions.<=>) $1::real[]::extensions.vector(${DIMENSIONS}) limit 10`,
      [`{${ASKED.join(',')}}`],
    );
    expect(rows.map((row) => row['QUERY PLAN']).join('\n')).toMatch(/Index Scan using event_embeddings_hnsw_1/);
  });

  it('needs nothing when it is run again', async () => {
    const run = await command('upgrade');
    expect(run.stdout).toContain('every index that is wanted is there\n');
    expect((await command('status --json')).stdout).toContain('"state":"valid"');
  });

  it('builds anew what an interrupted run left unfinished', async () => {
    await pool.query(
      `update pg_index set indisvalid = false where indexrelid = 'ml.package_embeddings_hnsw_1'::regclass`,
    );
    expect(await command('verify')).toMatchObject({
      exitCode: 1,
      stdout: expect.stringContaining('package_embeddings_hnsw_1 is invalid'),
    });
    expect((await command('index')).stdout).toBe('built      package_embeddings_hnsw_1  small@1\n');
    expect(await command('verify')).toMatchObject({ exitCode: 0 });
  });

  it('goes back by one command, without a row written, and the extension may go', async () => {
    const written = async () =>
      (await pool.query('select max(made_at) as at, sum(xmin::text::bigint) as by from ml.event_embeddings')).rows;
    const before = await written();
    expect((await command('downgrade --dry-run')).stdout).toContain('would drop event_embeddings_hnsw_1\n');
    expect((await command('downgrade')).stdout).toContain('dropped    event_embeddings_hnsw_1\n');
    expectSame(await search(), overArrays);
    await pool.query('drop extension vector');
    expect(await search()).toEqual(overArrays);
    expect(await written()).toEqual(before);
  });

  it('takes the extension wherever it is', async () => {
    await pool.query('drop domain public.vector');
    await pool.query('create schema "Odd ""Place"""');
    await pool.query('create extension vector schema "Odd ""Place"""');
    expect(await command('upgrade')).toMatchObject({ exitCode: 0 });
    expectMost(await search(), overArrays);
    await pool.query('alter extension vector set schema public');
    expectMost(await search(), overArrays);
    const { rows } = await pool.query(
      'select event_id as id, similarity from ml.similar_events($1::public.vector, 10, -1)',
      [`[${ASKED.join(',')}]`],
    );
    expectMost(rows as Similar[], overArrays);
  });

  it('goes on over arrays for whoever may not look into its schema', async () => {
    await pool.query('alter extension vector set schema "Odd ""Place"""');
    await pool.query(
      `grant select on ml.event_embeddings to anon; grant usage on schema ml to anon; grant select on public.events to anon`,
    );
    const found = await seenBy(pool, { role: 'anon' }, search);
    expect(found).toEqual(nearestPublic(10));
    await pool.query('alter extension vector set schema public');
  });
});

describe('by its index', () => {
  it('goes on until it has what readers see, however much is nearer that they do not, and leaves settings as they were', async () => {
    const before = await scansOf('event_embeddings_hnsw_1');
    const found = await seenBy(pool, { role: 'authenticated' }, async (db) => {
      // The planner would rather look at all that so few are seen of.
      await db.query('set local enable_seqscan = off; set local enable_sort = off');
      await db.query('set local hnsw.ef_search = 77');
      const rows = await findSimilar(db, { kind: 'event', embedding: ASKED, limit: 20, threshold: -1 });
      const { rows: settings } = await db.query(
        `select current_setting('hnsw.ef_search') as ef, current_setting('hnsw.iterative_scan') as scan`,
      );
      expect(settings).toEqual([{ ef: '77', scan: 'off' }]);
      return rows;
    });
    expect(await scansOf('event_embeddings_hnsw_1')).toBeGreaterThan(before);
    expectMost(found, nearestPublic(20));
  });

  it('answers as over arrays, whatever the embeddings, equal ones by id', async () => {
    await searchBy(pool, 'property@1', 4);
    expect(await command('index')).toMatchObject({ exitCode: 0 });
    const component = fc.integer({ min: -8, max: 8 });
    const embedding = fc
      .array(component, { minLength: 4, maxLength: 4 })
      .filter((each) => each.some((value) => value !== 0));
    const property = fc.asyncProperty(
      fc.array(embedding, { minLength: 1, maxLength: 40 }),
      embedding,
      fc.integer({ min: 1, max: 50 }),
      fc.constantFrom(-1, 0, 0.55),
      async (embeddings, asked, limit, threshold) => {
        const all = embeddings.map((each, at) => ({ id: uuidOf(at + 5_000), embedding: each, content: `${at}` }));
        // Where there is little to search in, the planner would rather sort it; and the sponsors themselves are not there.
        const found = await undone(async (db) => {
          await db.query(
            'set local enable_seqscan = off; set local enable_sort = off; set local session_replication_role = replica',
          );
          await putEmbeddings(db, { kind: 'sponsor', embeddings: all });
          return findSimilar(db, { kind: 'sponsor', embedding: asked, limit, threshold });
        });
        expectSame(found, nearest(all, { embedding: asked, limit, threshold }));
      },
    );
    const before = await scansOf('sponsor_embeddings_hnsw_2');
    await fc.assert(property, { numRuns: 60 });
    expect(await scansOf('sponsor_embeddings_hnsw_2')).toBeGreaterThanOrEqual(before + 60);
  });

  it.each<[string, string, string]>([
    ['null', 'null', 'LV120'],
    ['zero', `array_fill(0::real, array[${DIMENSIONS}])`, 'LV120'],
    ['no number', `array_fill('NaN'::real, array[${DIMENSIONS}])`, 'LV120'],
    ['infinite', `array_fill('Infinity'::real, array[${DIMENSIONS}])`, 'LV120'],
    ['another length', `'{1,2,3}'`, 'LV121'],
  ])('refuses with the codes that it has without pgvector: %s', async (_what, embedding, code) => {
    const asking = pool.query(`select ml.similar_events(${embedding}, p_model => 'small@1')`);
    await expect(asking).rejects.toMatchObject({ code });
  });

  it('searches by pgvector without an index what has too many dimensions for one', async () => {
    await searchBy(pool, 'large@1', 2_001);
    const embeddings = [1, 2].map((at) => ({
      id: uuidOf(at),
      embedding: Array.from({ length: 2_001 }, (_, each) => Math.cos(each * at)),
      content: '',
    }));
    await putEmbeddings(pool, { kind: 'event', embeddings });
    expect((await command('status')).stdout).toContain('event_embeddings_hnsw_3  large@1  too many dimensions\n');
    const [first] = await findSimilar(pool, { kind: 'event', embedding: embeddings[1]?.embedding ?? [] });
    expect(first).toEqual({ id: uuidOf(2), similarity: 1 });
    expect(await command('verify')).toMatchObject({ exitCode: 0 });
  });
});
