import pg from 'pg';
import type {
  Catalogue,
  Check,
  Column,
  Condition,
  Default,
  ForeignKey,
  Index,
  OrdinaryTable,
  Partition,
  PartitionedTable,
  Sequence,
  Table,
  Trigger,
  TypedColumn,
} from './catalogue.ts';
import { type Existing, nameOn } from './existing.ts';

const { escapeIdentifier: name, escapeLiteral: literal } = pg;

const inPublic = (object: string) => `public.${name(object)}`;
const list = (columns: readonly string[]) => `(${columns.map(name).join(', ')})`;

type Parent = OrdinaryTable | PartitionedTable;
const isParent = (table: Table): table is Parent => table.kind !== 'partition';
const isPartition = (table: Table): table is Partition => table.kind === 'partition';

/**
 * The statements that make the types, sequences and tables of the catalogue, with their keys, checks and indexes, as far
 * as they do not exist.
 */
export function structureSql(catalogue: Catalogue, existing: Existing): string[] {
  const types = new Types(catalogue, existing);
  const parents = catalogue.tables.filter(isParent);
  return [
    ...catalogue.enums.filter((type) => !existing.types.has(type.name)).map(enumSql),
    ...catalogue.sequences.map(sequenceSql),
    ...parents.flatMap((table) =>
      existing.columns.has(table.name) ? missingColumnsSql(table, existing, types) : [tableSql(table, types)],
    ),
    ...catalogue.sequences.map(
      (sequence) => `alter sequence ${inPublic(sequence.name)} owned by public.${sequence.owned_by}`,
    ),
    ...catalogue.composite_types.map((type) => compositeSql(type, types)),
    ...parents.flatMap((table) => keysSql(table, existing)),
    ...parents.flatMap((table) => indexesSql(table, existing)),
    // After the indexes of their parents, which each of them then has too, under the name that PostgreSQL gives it.
    ...catalogue.tables.filter(isPartition).map(partitionSql),
    // After the primary keys of all, and last of the keys, as those of the tables that are there already.
    ...parents.flatMap((table) => foreignKeysSql(table, existing)),
  ];
}

/** The statements that make the triggers of the catalogue that do not exist. Their functions do. */
export function triggersSql(catalogue: Catalogue, existing: Existing): string[] {
  return catalogue.triggers
    .filter(({ table, name }) => !table.includes('.') && !existing.triggers.has(nameOn(table, name)))
    .map(triggerSql);
}

/** The statements that turn row-level security on where the catalogue has it on. */
export function rowSecuritySql(catalogue: Catalogue): string[] {
  return catalogue.tables
    .filter(({ rls }) => rls)
    .map((table) => `alter table ${inPublic(table.name)} enable row level security`);
}

/** Names of types, those of the schema `public` with it. */
class Types {
  private readonly own: ReadonlySet<string>;
  private readonly vectorHasLength: boolean;

  constructor({ enums, composite_types }: Catalogue, existing: Existing) {
    this.own = new Set([...enums, ...composite_types].map((type) => type.name));
    this.vectorHasLength = existing.extensions.has('vector');
  }

  sql(type: string): string {
    if (type.startsWith('vector(')) return this.vectorHasLength ? `public.${type}` : 'public.vector';
    return this.own.has(type) ? `public.${type}` : type;
  }
}

const enumSql = (type: Catalogue['enums'][number]) =>
  `create type ${inPublic(type.name)} as enum (${type.labels.map(literal).join(', ')})`;

function compositeSql(type: Catalogue['composite_types'][number], types: Types): string {
  return `create type ${inPublic(type.name)} as (${type.columns.map((column) => typedSql(column, types)).join(', ')})`;
}

const sequenceSql = ({ name, type, start, increment }: Sequence) =>
  `create sequence ${inPublic(name)} as ${type} increment ${increment} start ${start}`;

function tableSql(table: Parent, types: Types): string {
  const parts = [
    ...table.columns.map((column) => columnSql(column, types)),
    `constraint ${name(`${table.name}_pkey`)} primary key ${list(table.primary_key)}`,
    ...table.checks.map((check) => `constraint ${name(check.name)} check (${checkSql(check)})`),
  ];
  const partitioning =
    table.kind === 'partitioned'
      ? ` partition by ${table.partition_key.method} ${list(table.partition_key.columns)}`
      : '';
  return `create table ${inPublic(table.name)} (\n  ${parts.join(',\n  ')}\n)${partitioning}`;
}

/** A column can only be added behind all others: those that belong behind a missing one are made again. */
function missingColumnsSql(table: Parent, existing: Existing, types: Types): string[] {
  const misplaced = misplacedColumns(table, existing);
  if (misplaced.length === 0) return [];
  const kept = table.columns.findIndex(({ name }, nth) => name !== existing.columns.get(table.name)?.[nth]);
  const actions = [
    ...misplaced.map((column) => `drop column ${name(column)}`),
    ...table.columns.slice(kept).map((column) => `add column ${columnSql(column, types)}`),
  ];
  return [`alter table ${inPublic(table.name)} ${actions.join(', ')}`];
}

/** From the first one on that the catalogue has elsewhere. */
function misplacedColumns(table: Parent, existing: Existing): readonly string[] {
  const columns = existing.columns.get(table.name) ?? [];
  const first = columns.findIndex((column, nth) => column !== table.columns[nth]?.name);
  return first === -1 ? [] : columns.slice(first);
}

const typedSql = (column: TypedColumn, types: Types) => `${name(column.name)} ${types.sql(column.type)}`;

function columnSql(column: Column, types: Types): string {
  const value = defaultSql(column.default);
  return [typedSql(column, types), column.nullable ? '' : ' not null', value === null ? '' : ` default ${value}`].join(
    '',
  );
}

function defaultSql(value: Default): string | null {
  switch (value.kind) {
    case 'none':
      return null;
    case 'now':
      return 'now()';
    case 'utc_now':
      return `timezone('utc', now())`;
    case 'uuid':
      return 'gen_random_uuid()';
    case 'literal':
      return valueSql(value.value);
    case 'sequence':
      return `nextval(${literal(inPublic(value.name))})`;
    case 'function':
      return `${inPublic(value.name)}()`;
  }
}

const valueSql = (value: string | number | boolean) => (typeof value === 'string' ? literal(value) : String(value));

function checkSql(check: Check): string {
  if ('expression' in check) return check.expression;
  if ('at_least_one_not_null' in check) {
    return check.at_least_one_not_null.map((column) => `${name(column)} is not null`).join(' or ');
  }
  const column = name(check.column);
  const orNull = check.nullable === true ? `${column} is null or ` : '';
  if ('in' in check) return `${column} in (${check.in.map(literal).join(', ')})`;
  if ('op' in check) return `${orNull}${column} ${check.op} ${check.value}`;
  if ('between' in check) return `${orNull}${between(column, check.between)}`;
  return `${orNull}${between(`char_length(${column})`, check.length_between)}`;
}

const between = (value: string, [least, most]: readonly [number, number]) =>
  `${value} >= ${least} and ${value} <= ${most}`;

/** Each alone: of two unique constraints that say the same, one statement makes only one. */
function keysSql(table: Parent, existing: Existing): string[] {
  return table.unique
    .filter((key) => !existing.constraints.has(nameOn(table.name, key.name)))
    .map((key) => `alter table ${inPublic(table.name)} add constraint ${name(key.name)} unique ${list(key.columns)}`);
}

function foreignKeysSql(table: Parent, existing: Existing): string[] {
  return table.foreign_keys
    .filter((key) => !existing.constraints.has(nameOn(table.name, key.name)))
    .map((key) => `alter table ${inPublic(table.name)} add constraint ${foreignKeySql(key)}`);
}

function foreignKeySql(key: ForeignKey): string {
  const onDelete = key.on_delete === 'no action' ? '' : ` on delete ${key.on_delete}`;
  return `${name(key.name)} foreign key ${list(key.columns)} references ${key.references} ${list(key.ref_columns)}${onDelete}`;
}

function indexesSql(table: Parent, existing: Existing): string[] {
  // Dropping a column drops its indexes.
  const dropped = new Set(misplacedColumns(table, existing));
  return table.indexes
    .filter((index) => !index.from_constraint)
    .filter((index) => !existing.indexes.has(index.name) || index.columns.some((column) => dropped.has(column)))
    .map((index) => indexSql(table, index));
}

function indexSql(table: Parent, index: Index): string {
  const unique = index.unique ? 'unique ' : '';
  const columns = index.columns.map((column, nth) => {
    const indexed = table.columns.some((known) => known.name === column) ? name(column) : `(${column})`;
    return index.directions[nth] === 'desc' ? `${indexed} desc` : indexed;
  });
  const where = index.predicate === null ? '' : ` where ${index.predicate.map(conditionSql).join(' and ')}`;
  return `create ${unique}index ${name(index.name)} on ${inPublic(table.name)} using ${index.method} (${columns.join(', ')})${where}`;
}

function conditionSql(condition: Condition): string {
  const column = name(condition.column);
  if ('is_null' in condition) return `${column} is ${condition.is_null ? '' : 'not '}null`;
  if ('in' in condition) return `${column} in (${condition.in.map(literal).join(', ')})`;
  return condition.value === true ? column : `${column} ${condition.op} ${valueSql(condition.value)}`;
}

function partitionSql({ name: partition, partition_of, bounds }: Partition): string {
  const utc = (day: string) => literal(`${day} 00:00:00+00`);
  const values = bounds === 'default' ? 'default' : `for values from (${utc(bounds.from)}) to (${utc(bounds.to)})`;
  return `create table ${inPublic(partition)} partition of ${inPublic(partition_of)} ${values}`;
}

function triggerSql(trigger: Trigger): string {
  const events = trigger.events.join(' or ');
  return `create trigger ${name(trigger.name)} ${trigger.timing} ${events} on ${inPublic(trigger.table)}
    for each ${trigger.level} execute function ${inPublic(trigger.function)}()`;
}
