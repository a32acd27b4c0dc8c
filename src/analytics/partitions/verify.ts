import { type Check, type CheckResult, runEach, type VerificationWatch } from '../../db/checks.ts';
import type { Pool, Tx } from '../../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../db/transaction.ts';
import { literal } from './names.ts';
import { mendsKeys, ofLost, readTables } from './tables.ts';

/** Of `partitions.tables t`: what is lost has no rows to look at, and what bears its name is none of ours. */
const IS_THERE = `t.state <> 'preparing' and not partitions.is_lost(t.id)`;
/** Tables that are kept by month, and their partitions. */
const KEPT = `select t.*, format('%s.%s', t.schema_name, t.table_name) as name from partitions.tables t where ${IS_THERE}`;
const MONTHS = `select k.id, k.name, k.relation, m.* from (${KEPT}) k cross join lateral partitions.months_of(k.id) m`;

/** What never needs a row to be read. */
const SHAPE_CHECKS: readonly Check[] = [
  {
    name: 'months follow each other without a gap, and each begins with the month',
    unit: 'months',
    examined: `select count(*) from (${MONTHS}) m where not m.is_default`,
    faults: `
      select format('%s: nothing holds %s to %s before %s', m.name, m.former, m.first_day, m.partition)
      from (select m.*, lag(m.end_day) over (partition by m.id order by m.first_day nulls first) as former from (${MONTHS}) m where not m.is_default) m
      where m.former is not null and m.former <> m.first_day
      union all
      select format('%s: %s begins on %s', m.name, m.partition, m.first_day) from (${MONTHS}) m where extract(day from m.first_day) <> 1
      order by 1`,
  },
  {
    name: 'every table has a partition for what lies in no month',
    unit: 'tables',
    examined: `select count(*) from (${KEPT}) k`,
    faults: `
      select format('%s refuses rows that lie in no month: liventix partitions maintain makes a partition for them', k.name) from (${KEPT}) k
      where not exists (select from partitions.months_of(k.id) m where m.is_default or m.end_day is null) order by 1`,
  },
  {
    name: 'every index, foreign key and trigger of a table is on each of its months, valid and enabled alike',
    unit: 'months',
    examined: `select count(*) from (${MONTHS}) m`,
    faults: `
      select format('%s: the index %s is not valid', k.name, i.indexrelid::regclass) from (${KEPT}) k join pg_index i on i.indrelid = k.relation where not i.indisvalid
      union all
      select format('%s has no index like %s', m.partition, i.indexrelid::regclass)
      from (${MONTHS}) m join pg_index i on i.indrelid = m.relation
      where not exists (select from pg_inherits h join pg_index x on x.indexrelid = h.inhrelid where h.inhparent = i.indexrelid and x.indrelid = m.partition and x.indisvalid)
      union all
      select format('%s: the foreign key %s is not on it, or not valid', m.partition, f.conname)
      from (${MONTHS}) m join pg_constraint f on f.conrelid = m.relation and f.contype = 'f' and f.conparentid = 0
      where not exists (select from pg_constraint x where x.conrelid = m.partition and x.conparentid = f.oid and x.convalidated)
      union all
      select format('%s: the trigger %s is not on it, or not as on %s', m.partition, t.tgname, m.name)
      from (${MONTHS}) m join pg_trigger t on t.tgrelid = m.relation and not t.tgisinternal and t.tgtype & 1 = 1
        and t.tgfoid <> 'partitions.keep_key()'::regprocedure
      where not exists (select from pg_trigger x where x.tgrelid = m.partition and x.tgparentid = t.oid and x.tgenabled = t.tgenabled)
      order by 1`,
  },
  {
    name: 'every table of keys is kept by its triggers, on the table and on each of its months',
    unit: 'keys',
    examined: `select count(*) from partitions.keys k join partitions.tables t on t.id = k.table_id where ${IS_THERE}`,
    faults: `
      select format('%s: ${mendsKeys('%s.%s')}', u.fault, t.schema_name, t.table_name)
      from partitions.tables t cross join partitions.unkept_keys(t.id) u where ${IS_THERE} order by 1`,
  },
  {
    name: 'by its own name a month, or a table of keys, shows nothing to anybody but the owner',
    unit: 'months',
    examined: `select count(*) from (${MONTHS}) m`,
    faults: `
      select format('%1$s %2$s. The owner closes it: select partitions.close_to_others(%1$L)', o.relation, o.why)
      from partitions.tables t cross join partitions.open_to_others(t.id) o where ${IS_THERE} order by 1`,
  },
  {
    name: 'nothing reads or refers to what was set aside',
    unit: 'relations',
    examined: 'select count(*) from partitions.set_aside',
    faults: `
      select format('%s reads %s', w.ev_class::regclass, s.relation)
      from partitions.set_aside s join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = to_regclass(s.relation) and d.classid = 'pg_rewrite'::regclass
      join pg_rewrite w on w.oid = d.objid and w.ev_class <> d.refobjid
      union
      select format('%s of %s refers to %s', f.conname, f.conrelid::regclass, s.relation)
      from partitions.set_aside s join pg_constraint f on f.confrelid = to_regclass(s.relation)
      order by 1`,
  },
];

/**
 * Everything that tables kept by month promise, in one snapshot: their shape, that no row lies in no month, and that side tables have the keys of
 * all rows and of no others, but for what is still referred to. Reads the rows of tables that have side tables.
 * @throws AppError DB_*
 */
export function verifyPartitions(pool: Pool, watch: VerificationWatch = {}): Promise<readonly CheckResult[]> {
  return withTransaction(
    pool,
    async (tx) =>
      runEach(
        tx,
        [
          await standingCheck(tx),
          ...SHAPE_CHECKS,
          ...(await defaultChecks(tx)),
          ...(await keyChecks(tx)),
          ...(await looseKeyChecks(tx)),
        ],
        watch,
      ),
    ONE_SNAPSHOT,
  );
}

async function standingCheck(tx: Tx): Promise<Check> {
  const kept = (await readTables(tx)).filter(({ state }) => state !== 'preparing');
  const lost = kept.filter(({ isLost }) => isLost);
  return {
    name: 'every table that is kept by month is there, and is partitioned by its instant',
    unit: 'tables',
    examined: `select ${kept.length}`,
    faults: [
      ...lost.map(({ schema, name }) => `select ${literal(ofLost(`${schema}.${name}`))}`),
      `select format('%s is not partitioned by %s', k.name, k.key_column)
       from (${KEPT}) k join pg_partitioned_table p on p.partrelid = k.relation
       left join pg_attribute a on a.attrelid = k.relation and p.partattrs = a.attnum::text::int2vector
       where a.attname is distinct from k.key_column`,
    ].join(' union all '),
  };
}

async function defaultChecks(tx: Tx): Promise<readonly Check[]> {
  const { rows } = await tx.query<{ name: string; partition: string }>(
    `select m.name, m.partition::text as partition from (${MONTHS}) m where m.is_default`,
  );
  if (rows.length === 0) return [];
  return [
    {
      name: 'no row lies in no month',
      unit: 'tables',
      examined: `select ${rows.length}`,
      faults: rows
        .map(
          ({ name, partition }) =>
            `select format('%s rows of %s lie in no month, but in %s: maintain and apply sort those of months that are kept or ahead, others are to be corrected', n, ${literal(name)}, ${literal(partition)}) from (select count(*) as n from ${partition}) c where n > 0`,
        )
        .join(' union all '),
    },
  ];
}

async function keyChecks(tx: Tx): Promise<readonly Check[]> {
  const { rows } = await tx.query<{ name: string; table: string; side: string; lacking: string; leftOver: string }>(
    `select format('%s.%s', t.schema_name, t.table_name) as name, partitions.name_of(t.id) as table, format('%I.%I', t.schema_name, k.side_table) as side,
       partitions.lacking_sql(t.id, k.columns) as lacking, partitions.left_over_sql(t.id, k.columns) as "leftOver"
     from partitions.keys k join partitions.tables t on t.id = k.table_id
     where ${IS_THERE} and to_regclass(format('%I.%I', t.schema_name, k.side_table)) is not null`,
  );
  return rows.flatMap(({ name, table, side, lacking, leftOver }) => [
    {
      name: `${side} has the key of every row of ${table}`,
      unit: 'rows',
      examined: `select count(*) from ${table}`,
      faults: `select format('%s lacks %s: %s', ${literal(side)}, (r.*)::text, ${literal(mendsKeys(name))}) from ${table} r where ${lacking}`,
    },
    {
      name: `${side} has no key but of rows of ${table}, and what is referred to`,
      unit: 'keys',
      examined: `select count(*) from ${side}`,
      faults: `
        select format('%s has %s, which no row has and nothing refers to: it refuses another row with that key. Upkeep forgets it where it is of before the months; else %s', ${literal(side)}, (k.*)::text, ${literal(mendsKeys(name))})
        from ${side} k where ${leftOver}`,
    },
  ]);
}

/** Keys that are unique by month alone since: what is there twice keeps the table from going back. */
async function looseKeyChecks(tx: Tx): Promise<readonly Check[]> {
  const { rows } = await tx.query<{ table: string; key: string }>(
    `select partitions.name_of(t.id) as table, (select string_agg(quote_ident(c), ', ') from jsonb_array_elements_text(k -> 'columns') c) as key
     from partitions.tables t cross join jsonb_array_elements(t.original -> 'uniqueKeys') k
     where ${IS_THERE} and not (k -> 'columns') ? t.key_column
       and not exists (select from partitions.keys s where s.table_id = t.id and to_jsonb(s.columns) = k -> 'columns')`,
  );
  return rows.map(({ table, key }) => ({
    name: `(${key}) of ${table} is there once over all months`,
    unit: 'rows',
    examined: `select count(*) from ${table}`,
    faults: `select format('%s has %s rows with (%s) = %s', ${literal(table)}, count(*), ${literal(key)}, row(${key})) from ${table} group by ${key} having count(*) > 1`,
  }));
}
