import type { Finding } from '../../db/diagnosis.ts';
import type { Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { findSubjects } from './attach.ts';
import { readExtension } from './extension.ts';
import { listIndexes } from './indexes.ts';
import type { Kind } from './kinds.ts';
import { attachedTable } from './status.ts';
import { findMissingGuards } from './verify.ts';

/** Whether embeddings are guarded, who may see them, and how they are searched, for `liventix doctor`. */
export async function judgeEmbeddings(db: Queryable): Promise<Finding> {
  try {
    return await judge(db);
  } catch (error) {
    if (toAppError(error).code !== 'DB_PERMISSION_DENIED') throw error;
    return { result: 'skipped', found: 'this role may not read which models there are' };
  }
}

async function judge(db: Queryable): Promise<Finding> {
  const { rows: found } = await db.query<{ isThere: boolean }>(
    `select to_regclass('ml.model_versions') is not null as "isThere"`,
  );
  if (found[0]?.isThere !== true) return NOTHING;
  const missing = await findMissingGuards(db);
  if (missing.length > 0) {
    return {
      result: 'failed',
      found: `embeddings lack what guards them: ${missing.join(', ')}`,
      todo: 'Put it back as migration 0060 has it, then see what came in meanwhile: liventix embeddings verify',
    };
  }
  const { rows: current } = await db.query<{ kind: Kind; model: string }>(
    'select c.kind, m.name as model from ml.current_models c join ml.model_versions m on m.id = c.model_version_id order by c.kind',
  );
  if (current.length === 0) return NOTHING;
  const searched = current.map(({ kind, model }) => `${kind}s by ${model}`).join(', ');
  const untied: Untied[] = [];
  for (const { kind } of current)
    if ((await attachedTable(db, kind)) === null) untied.push({ kind, table: await findSubjects(db, kind) });
  return judgeUntied(untied) ?? (await judgeSearch(db, `${searched}${tablelessText(untied)}`));
}

/** A kind whose embeddings nobody but the owner sees, and the table that they could be tied to. */
interface Untied {
  readonly kind: Kind;
  readonly table: string | null;
}

const NOTHING: Finding = { result: 'skipped', found: 'nothing is searched by embeddings' };

function judgeUntied(untied: readonly Untied[]): Finding | undefined {
  const kinds = untied.filter(({ table }) => table !== null).map(({ kind }) => `${kind}s`);
  if (kinds.length === 0) return undefined;
  return {
    result: 'warning',
    found: `nobody but the owner sees the embeddings of ${kinds.join(', ')}: they are tied to no table`,
    todo: 'Run: liventix embeddings attach',
  };
}

/** No warning: there is nothing to be done where the database has no such table. */
function tablelessText(untied: readonly Untied[]): string {
  const kinds = untied.filter(({ table }) => table === null).map(({ kind }) => `${kind}s`);
  if (kinds.length === 0) return '';
  return `; nobody but the owner sees those of ${kinds.join(', ')}: no table of them is here (by another name: liventix embeddings attach --help)`;
}

async function judgeSearch(db: Queryable, searched: string): Promise<Finding> {
  const { version, available } = await readExtension(db);
  if (version === null && available === null) {
    return { result: 'ok', found: `${searched}; exactly, over arrays: the server has no pgvector` };
  }
  if (version === null) {
    return {
      result: 'warning',
      found: `${searched}; exactly, over arrays, though the server has pgvector ${available}`,
      todo: 'Run: liventix embeddings upgrade',
    };
  }
  const unbuilt = (await listIndexes(db)).filter(({ state }) => state === 'absent' || state === 'invalid');
  if (unbuilt.length === 0) return { result: 'ok', found: `${searched}; by indexes of pgvector ${version}` };
  return {
    result: 'warning',
    found: `${searched}; by pgvector ${version}, but ${unbuilt.map(({ name, state }) => `${name} is ${state}`).join(', ')}`,
    todo: 'Run: liventix embeddings index',
  };
}
