import type { Finding } from '../../db/diagnosis.ts';
import type { Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { readExtension } from './extension.ts';
import { listIndexes } from './indexes.ts';
import { KINDS } from './kinds.ts';
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
  const { rows: current } = await db.query<{ kind: string; model: string }>(
    'select c.kind, m.name as model from ml.current_models c join ml.model_versions m on m.id = c.model_version_id order by c.kind',
  );
  if (current.length === 0) return NOTHING;
  const searched = current.map(({ kind, model }) => `${kind}s by ${model}`).join(', ');
  return (await judgeAttached(db, searched)) ?? (await judgeSearch(db, searched));
}

const NOTHING: Finding = { result: 'skipped', found: 'nothing is searched by embeddings' };

async function judgeAttached(db: Queryable, searched: string): Promise<Finding | undefined> {
  const current = KINDS.filter((kind) => searched.includes(`${kind}s by `));
  const unattached: string[] = [];
  for (const kind of current) if ((await attachedTable(db, kind)) === null) unattached.push(`${kind}s`);
  if (unattached.length === 0) return undefined;
  return {
    result: 'warning',
    found: `nobody but the owner sees the embeddings of ${unattached.join(', ')}: they are tied to no table`,
    todo: 'Run: liventix embeddings attach',
  };
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
