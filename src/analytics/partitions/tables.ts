import { inShell } from '../../db/in-shell.ts';
import type { Queryable } from '../../db/pool.ts';
import type { TableFacts } from './facts.ts';
import { nameParts } from './mapping.ts';
import type { Month } from './months.ts';
import { literal } from './names.ts';

/** What a run holds for as long as it lives, there or back. */
export const CONVERSION = { name: 'liventix.partitions', number: 0 } as const;

/** What a table was, as far as the way back has to make it again. */
export interface Original extends Pick<TableFacts, 'uniqueKeys'> {
  readonly keyIsNotNull: boolean;
}

/** A table that is kept by month, or is to be. */
export interface KeptTable {
  readonly id: number;
  readonly schema: string;
  readonly name: string;
  readonly by: string;
  readonly zone: string;
  readonly keepMonths: number | null;
  readonly expired: 'drop' | 'archive';
  readonly monthsAhead: number;
  readonly storage: readonly string[];
  readonly state: 'preparing' | 'attached' | 'partitioned';
  /** Whether nothing bears its name any more, or what does is another: somebody dropped or renamed it, and may have made one of its name. */
  readonly isLost: boolean;
  /** While it is being prepared: from when on a check refuses rows. */
  readonly closesAt: Month | null;
  readonly begunAt: Date;
  readonly original: Original;
}

/** @throws AppError DB_* */
export async function readTables(db: Queryable): Promise<readonly KeptTable[]> {
  const { rows } = await db.query<KeptTable>(
    `select t.id, t.schema_name as schema, t.table_name as name, t.key_column as by, t.zone, t.keep_months as "keepMonths", t.expired,
       t.months_ahead as "monthsAhead", t.storage, t.state, partitions.is_lost(t.id) as "isLost", t.closes_at::text as "closesAt", t.begun_at as "begunAt", t.original
     from partitions.tables t order by t.schema_name, t.table_name`,
  );
  return rows;
}

/** What to do about one that is lost. */
export const ofLost = (table: string): string =>
  `${table} was kept by month, or was about to be, and nothing that bears its name is any more. Where it is called otherwise now, it is again when it has its name again. Else what is left of that goes, and another of its name can be converted: liventix partitions rollback --table ${inShell(table)}`;

/** What to do where its keys are not kept. */
export const mendsKeys = (table: string): string =>
  `liventix partitions apply --table ${table}, with the mapping that has it, puts that right`;

/** What to do about a month, or a table of keys, that shows something by its own name. */
export const closes = (relation: string): string =>
  `The owner closes it: select partitions.close_to_others(${literal(relation)})`;

export async function findTable(db: Queryable, table: string): Promise<KeptTable | undefined> {
  const parts = nameParts(table);
  return (await readTables(db)).find(({ schema, name }) => schema === parts.schema && name === parts.table);
}
