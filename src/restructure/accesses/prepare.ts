import type { Pool } from '../../db/pool.ts';
import { type Access, type Call, isCall, type NotApplicable, type TableAccess } from './access.ts';
import { chooseCallers } from './api-callers.ts';
import { type ApiRelation, EXPOSED, readApiSchema } from './api-schema.ts';
import { drawArguments } from './call-arguments.ts';
import { type Drawing, drawFilterValues } from './drawing.ts';
import { parseFilters } from './filters.ts';
import { drawPayload } from './payloads.ts';
import { isRefusal, type PreparedAccess, type Sql } from './prepared.ts';
import { refusalOf } from './refusal.ts';
import { findRelationship, type Relationship } from './relationships.ts';
import { Samples, seededNumber } from './samples.ts';
import { embedName, parseSelect } from './selection.ts';
import { type Api, apiOf, translate } from './translate.ts';

export interface PrepareOptions {
  /** Any integer. The same one, on the same rows, gives the same. */
  readonly seed: number;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

export interface Prepared {
  readonly prepared: readonly PreparedAccess[];
  /** Those that do not ask this API for anything. */
  readonly notApplicable: readonly NotApplicable[];
}

/** So often something else is drawn for what the database does not take. */
const TRIES = 12;

/**
 * Draws, once and for all, what each access compares with, writes and passes: from the rows that there are, of which it changes none.
 * @throws AppError DB_*
 */
export async function prepareAccesses(
  pool: Pool,
  accesses: readonly Access[],
  { seed, onProgress }: PrepareOptions,
): Promise<Prepared> {
  const api = apiOf(await readApiSchema(pool));
  const ids = (await chooseCallers(pool)).flatMap(({ claims }) => claims['sub'] ?? []);
  const samples = new Samples(pool, { schema: api.schema, seed: String(seed), ids });
  const notApplicable: NotApplicable[] = [];
  const prepared: PreparedAccess[] = [];
  for (const [number, access] of accesses.entries()) {
    onProgress?.(number, accesses.length);
    const reason = whyNotApplicable(access, api);
    if (reason !== undefined) {
      notApplicable.push({ number, access, reason });
      continue;
    }
    const drawing = { ...api, samples, seed: `${seed} ${number}` };
    prepared.push(
      isCall(access)
        ? await prepareCall(pool, { number, access }, { api, drawing })
        : await prepareTable(pool, { number, access }, { api, drawing }),
    );
  }
  return { prepared, notApplicable };
}

/** A function that is not there is asked for all the same: the API's answer is a result. */
function whyNotApplicable(access: Access, { schema }: Api): string | undefined {
  if (isCall(access)) return undefined;
  const { op, table, schema_prefix: prefix } = access;
  if (op === 'other') return `${table} is a bucket of the file storage, no table`;
  if (prefix !== undefined && prefix !== EXPOSED) return `the API does not expose the schema ${prefix}`;
  return schema.exposed.has(table) ? undefined : `there is no table or view ${EXPOSED}.${table}`;
}

async function prepareTable(
  pool: Pool,
  { number, access }: { number: number; access: TableAccess },
  { api, drawing }: { api: Api; drawing: Drawing },
): Promise<PreparedAccess> {
  const relation = api.schema.exposed.get(access.table);
  const criteria = parseFilters(access.filters);
  if (relation === undefined || criteria === undefined) return { number, access, values: [] };
  const embedded = relationshipsByName(api, relation, access);
  const read: PreparedAccess = {
    number,
    access,
    values: await drawFilterValues(relation, criteria.conditions, { drawing, embedded }),
    ...partOf(criteria.part, drawing.seed),
  };
  if (access.op !== 'insert' && access.op !== 'update' && access.op !== 'upsert') return read;
  return firstTaken(pool, api, async (attempt) => ({
    ...read,
    payload: await drawPayload(relation, access, { drawing, attempt }),
  }));
}

function partOf(part: 'limit' | 'range' | undefined, seed: string): Pick<PreparedAccess, 'limit' | 'offset'> {
  if (part === undefined) return {};
  return {
    limit: 1 + seededNumber(`${seed} limit`, 20),
    offset: part === 'range' ? seededNumber(`${seed} offset`, 3) : 0,
  };
}

function relationshipsByName(
  { relationships }: Api,
  relation: ApiRelation,
  { select = '*' }: TableAccess,
): ReadonlyMap<string, Relationship> {
  const embeds = (parseSelect(select) ?? []).flatMap((item) => (item.kind === 'embed' ? [item] : []));
  return new Map(
    embeds.flatMap((embed) => {
      const found = findRelationship(relationships, relation, embed);
      return 'relationship' in found ? [[embedName(embed), found.relationship] as const] : [];
    }),
  );
}

function prepareCall(
  pool: Pool,
  { number, access }: { number: number; access: Call },
  { api, drawing }: { api: Api; drawing: Drawing },
): Promise<PreparedAccess> {
  return firstTaken(pool, api, async (attempt) => ({
    number,
    access,
    values: [],
    arguments: await drawArguments(access, { drawing, attempt }),
  }));
}

/** The first that the database takes and that gives a row, without keeping what it does; else the first of all. */
async function firstTaken(
  pool: Pool,
  api: Api,
  draw: (attempt: number) => Promise<PreparedAccess>,
): Promise<PreparedAccess> {
  const first = await draw(0);
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    const drawn = attempt === 0 ? first : await draw(attempt);
    const statement = translate(api, drawn);
    if (isRefusal(statement) || statement.rows === undefined) return drawn;
    if (await isTaken(pool, statement.rows)) return drawn;
  }
  return first;
}

async function isTaken(pool: Pool, { text, parameters }: Sql): Promise<boolean> {
  const tx = await pool.connect();
  try {
    await tx.query('begin');
    const { rowCount } = await tx.query(text, [...parameters]);
    await tx.query('set constraints all immediate');
    return (rowCount ?? 0) > 0;
  } catch (error) {
    refusalOf(error);
    return false;
  } finally {
    await tx.query('rollback').finally(() => tx.release());
  }
}
