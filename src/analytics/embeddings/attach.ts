import pg from 'pg';
import { givingWay } from '../../db/giving-way.ts';
import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import { KINDS, type Kind, subjectColumn, tableOf } from './kinds.ts';

const { escapeIdentifier: ident } = pg;

/** Where the platform has what there are embeddings of: after the restructuring, and before it. */
const USUAL_TABLES: Readonly<Record<Kind, readonly string[]>> = {
  event: ['events.events', 'public.events'],
  sponsor: ['sponsorship.sponsors', 'public.sponsors'],
  package: ['sponsorship.sponsorship_packages', 'public.sponsorship_packages'],
};

/** The roles of Supabase; those that a server lacks are passed over. */
export const USUAL_READERS: readonly string[] = ['anon', 'authenticated'];
export const USUAL_WRITERS: readonly string[] = ['service_role'];

export interface Attaching {
  /** The table of a kind, by its name with its schema; where it usually is when left out. */
  readonly tables?: Partial<Record<Kind, string>>;
  readonly readers?: readonly string[];
  readonly writers?: readonly string[];
  readonly stop?: AbortSignal;
  readonly maxTries?: number;
  readonly dryRun?: boolean;
}

export interface Attached {
  readonly kind: Kind;
  /** Null where there is none. */
  readonly table: string | null;
}

/**
 * Ties embeddings to the tables of what they are of: whoever sees the row sees its embedding, and deleting it deletes that. Each kind in a
 * transaction that gives way after 50 ms; then what is there already is checked, while everybody goes on.
 * @throws AppError EMBEDDING_SUBJECTS_UNSUITABLE, EMBEDDING_BUSY, DB_*
 */
export async function attachSubjects(pool: Pool, options: Attaching = {}): Promise<readonly Attached[]> {
  const { tables = {}, readers = USUAL_READERS, writers = USUAL_WRITERS, dryRun = false, ...giving } = options;
  const attached: Attached[] = [];
  for (const kind of KINDS) {
    const table = await findSubjects(pool, kind, tables[kind]);
    attached.push({ kind, table });
    if (table === null || dryRun) continue;
    await givingWay(pool, { ...giving, code: 'EMBEDDING_BUSY', what: table }, async (tx) => {
      await tx.query('select ml.attach_subjects($1, $2::regclass, $3, $4)', [kind, table, readers, writers]);
      await tie(tx, kind, table);
    });
    await validate(pool, kind, table);
  }
  return attached;
}

/**
 * The table of a kind, by its name or where it usually is: the first that is a table; under its old name, one that was moved has a view.
 * @returns null where none was named, and none is there
 * @throws AppError EMBEDDING_SUBJECTS_UNSUITABLE
 */
export async function findSubjects(db: Queryable, kind: Kind, given?: string): Promise<string | null> {
  const { rows } = await db.query<{ name: string }>(
    `select format('%I.%I', n.nspname, c.relname) as name
     from unnest($1::text[]) with ordinality g (name, at)
     join pg_class c on c.oid = to_regclass(g.name) join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') order by g.at limit 1`,
    [given === undefined ? USUAL_TABLES[kind] : [given]],
  );
  const [found] = rows;
  if (found === undefined && given !== undefined) {
    throw new AppError(
      'EMBEDDING_SUBJECTS_UNSUITABLE',
      `${given} is no table of this database. Name one with its schema, such as events.events.`,
    );
  }
  return found?.name ?? null;
}

const foreignKey = (kind: Kind): string => `${kind}_embeddings_subject`;

/** Holds for what is written from then on. */
async function tie(tx: Tx, kind: Kind, table: string): Promise<void> {
  const { rowCount } = await tx.query(
    'select from pg_constraint where conrelid = $1::regclass and conname = $2 and confrelid = $3::regclass',
    [tableOf(kind), foreignKey(kind), table],
  );
  if (rowCount !== 0) return;
  await tx.query(`alter table ${tableOf(kind)} drop constraint if exists ${ident(foreignKey(kind))}`);
  await tx.query(
    `alter table ${tableOf(kind)} add constraint ${ident(foreignKey(kind))}
     foreign key (${subjectColumn(kind)}) references ${table} (id) on delete cascade not valid`,
  );
}

async function validate(pool: Pool, kind: Kind, table: string): Promise<void> {
  const orphan = `not exists (select from ${table} s where s.id = t.${subjectColumn(kind)})`;
  const { rows } = await pool.query<{ orphans: bigint }>(
    `select count(*) as orphans from ${tableOf(kind)} t where ${orphan}`,
  );
  const orphans = rows[0]?.orphans ?? 0n;
  if (orphans > 0n) {
    throw new AppError(
      'EMBEDDING_SUBJECTS_UNSUITABLE',
      `${orphans} embeddings are of what ${table} does not have. Everything else is in place. Run: delete from ${tableOf(kind)} t where ${orphan}; then this again.`,
    );
  }
  await pool.query(`alter table ${tableOf(kind)} validate constraint ${ident(foreignKey(kind))}`);
}
