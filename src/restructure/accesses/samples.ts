import { createHash } from 'node:crypto';
import pg from 'pg';
import type { Queryable } from '../../db/pool.ts';
import { qualified } from '../statements.ts';
import type { ApiRelation, ApiSchema } from './api-schema.ts';

const { escapeIdentifier: ident } = pg;

/** A row as JSON, and each of its values as text, as a URL has it. */
export interface SampledRow {
  readonly json: Readonly<Record<string, unknown>>;
  readonly texts: Readonly<Record<string, string | null>>;
}

export interface Wanted {
  /** Columns that hold something, and columns that do not; each as far as there are such rows. */
  readonly filled?: readonly string[];
  readonly empty?: readonly string[];
  /** Columns that have these values. */
  readonly equal?: readonly (readonly [column: string, value: string])[];
}

/** So many rows of a table are looked at: those that come first by its key. */
const LOOKED_AT = 1_000;
/** So many of them are handed out. */
const SAMPLE = 24;

/** A whole number below `below`, the same each time for the same seed and name. */
export const seededNumber = (seed: string, below: number): number =>
  createHash('sha256').update(seed).digest().readUInt32BE(0) % Math.max(1, below);

/** Rows of tables, the same each time for the same seed and the same rows: first those that are about the given ids. */
export class Samples {
  readonly #db: Queryable;
  readonly #about: { readonly schema: ApiSchema; readonly seed: string; readonly ids: readonly string[] };
  readonly #taken = new Map<string, Promise<readonly SampledRow[]>>();

  constructor(db: Queryable, about: { schema: ApiSchema; seed: string; ids: readonly string[] }) {
    this.#db = db;
    this.#about = about;
  }

  /** Several rows; none where the table is empty or does not have such rows. */
  rows(relation: ApiRelation, wanted: Wanted = {}): Promise<readonly SampledRow[]> {
    const key = JSON.stringify([relation.oid, wanted]);
    const taken = this.#taken.get(key) ?? this.#read(relation, wanted);
    this.#taken.set(key, taken);
    return taken;
  }

  async #read(relation: ApiRelation, { filled = [], empty = [], equal = [] }: Wanted): Promise<readonly SampledRow[]> {
    const has = new Set(relation.columns.map(({ name }) => name));
    const known = (columns: readonly string[]) => columns.filter((column) => has.has(column));
    const key = this.#about.schema.uniqueKeys.find((each) => each.relation === relation.oid && each.isPrimary);
    const parameters: unknown[] = [this.#about.ids, known(filled), known(empty), this.#about.seed];
    const conditions = equal
      .filter(([column]) => has.has(column))
      .map(([column, value]) => `t.${ident(column)} = $${parameters.push(value)}`);
    const where = conditions.length === 0 ? '' : `where ${conditions.join(' and ')}`;
    const order = key === undefined ? '' : `order by ${key.columns.map((column) => `t.${ident(column)}`).join(', ')}`;
    const table = qualified(relation.schema, relation.name);
    const { rows } = await this.#db.query<SampledRow>(
      `with looked_at as (select to_jsonb(t) as json from ${table} t ${where} ${order} limit ${LOOKED_AT}),
       judged as (
         select json, texts,
           (select count(*) from unnest($2::text[] || $3::text[]) c (name) where (texts -> name = 'null') = (name = any ($3))) as fits,
           (select count(*) from jsonb_each_text(texts) v where v.value = any ($1::text[])) as about
         from looked_at, lateral (select jsonb_object_agg(key, value) as texts from jsonb_each_text(json)) as each)
       select json, texts from judged order by fits desc, about > 0 desc, md5($4 || json::text), json::text limit ${SAMPLE}`,
      parameters,
    );
    return rows;
  }
}
