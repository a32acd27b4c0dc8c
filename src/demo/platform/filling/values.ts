import { AppError } from '../../../errors.ts';
import { MICROS_PER_DAY, MICROS_PER_SECOND, timestamp } from '../../economy/calendar.ts';
import type { Field } from '../../economy/rows.ts';
import type { Catalogue, Check, Column, Table } from '../catalogue.ts';
import { json, list, type Row } from './recipe.ts';
import { CATEGORIES, FIRST_NAMES, INDUSTRIES, LAST_NAMES, REMARKS } from './words.ts';
import { itemOf } from './world.ts';

/** What a column holds in a row whose recipe does not say. */
export type Draw = (row: Row) => Field;
export type WholeTable = Exclude<Table, { kind: 'partition' }>;

const NULL_IN = 3;
const OTHER_THAN_DEFAULT_IN = 5;
const MOST_DAYS_AHEAD = 60;
const DEFAULT_INTEGERS: readonly [number, number] = [0, 100];
const CENTS: readonly [number, number] = [500, 20_000];

/** How the columns of a table are drawn, by name. */
export function drawsOf(table: WholeTable, catalogue: Pick<Catalogue, 'enums'>): ReadonlyMap<string, Draw> {
  return new Map(table.columns.map((column) => [column.name, drawOf(table, column, catalogue)]));
}

function drawOf(table: WholeTable, column: Column, catalogue: Pick<Catalogue, 'enums'>): Draw {
  if (column.name === 'id' && column.type === 'uuid') return (row) => row.id;
  if (column.default.kind === 'now' || column.default.kind === 'utc_now') return (row) => timestamp(row.at);
  const draw = byReference(table, column) ?? byLabels(table, column, catalogue) ?? byType(table, column);
  if (column.default.kind === 'literal') return mostlyDefault(column.default.value, draw);
  return column.nullable ? sometimesNull(draw) : draw;
}

const sometimesNull =
  (draw: Draw): Draw =>
  (row) =>
    row.random.oneIn(NULL_IN) ? null : draw(row);

const mostlyDefault =
  (value: Field, draw: Draw): Draw =>
  (row) =>
    row.random.oneIn(OTHER_THAN_DEFAULT_IN) ? draw(row) : value;

function byReference(table: WholeTable, column: Column): Draw | undefined {
  const key = table.foreign_keys.find((one) => one.columns.length === 1 && one.columns[0] === column.name);
  const isPerson = /(^|_)user_id$|_by$/.test(column.name);
  if (key === undefined)
    return isPerson && column.type === 'uuid' ? ({ world, random }) => world.person(random) : undefined;
  const target = key.references.slice('public.'.length);
  switch (key.references) {
    case 'auth.users':
    case 'public.user_profiles':
      return ({ world, random }) => world.person(random);
    case 'public.organizations':
      return ({ world, random }) =>
        itemOf(world.given.organizations, random.below(world.given.organizations.length)).id;
    default:
      return ({ world, random }) => world.idOf(target, random.below(world.count(target)));
  }
}

function byLabels(table: WholeTable, column: Column, catalogue: Pick<Catalogue, 'enums'>): Draw | undefined {
  const listed = checksOf(table, column).find((check) => 'in' in check);
  const labels = listed?.in ?? catalogue.enums.find(({ name }) => name === column.type)?.labels;
  return labels === undefined ? undefined : ({ random }) => itemOf(labels, random.below(labels.length));
}

type ColumnCheck = Extract<Check, { column: string }>;

function checksOf(table: WholeTable, column: Column): ColumnCheck[] {
  return table.checks.filter((check): check is ColumnCheck => 'column' in check && check.column === column.name);
}

function byType(table: WholeTable, column: Column): Draw {
  switch (column.type.replace(/\(.*/, '')) {
    case 'timestamp with time zone':
      return ({ at, random }) => timestamp(at + drawSpan(random.fraction()));
    case 'date':
      return ({ at, random }) => timestamp(at + drawSpan(random.fraction())).slice(0, 10);
    case 'boolean':
      return ({ random }) => random.oneIn(2);
    case 'integer':
    case 'bigint':
      return integers(table, column);
    case 'numeric':
      return ({ random }) => random.below(100) / 100;
    case 'double precision':
      return ({ random }) => random.below(9_000) / 100;
    case 'text':
      return texts(table, column);
    case 'jsonb':
      return ({ random }) =>
        json({ source: itemOf(['web', 'ios', 'android'], random.below(3)), score: random.below(100) });
    case 'text[]':
      return ({ random }) => list([random.pick(CATEGORIES)]);
    case 'uuid[]':
      return () => '{}';
    case 'inet':
      return ({ random }) => `198.51.100.${random.below(256)}`;
    case 'uuid':
      return ({ random }) => random.uuid();
    // What models make of texts: no model is here.
    case 'vector':
      return () => null;
    default:
      throw new AppError('INTERNAL', `No value is known for ${table.name}.${column.name}, of type ${column.type}.`);
  }
}

const drawSpan = (fraction: number) =>
  Math.floor(fraction * MOST_DAYS_AHEAD) * MICROS_PER_DAY + MICROS_PER_SECOND * Math.floor(fraction * 86_400);

function integers(table: WholeTable, column: Column): Draw {
  let [least, most] = column.name.endsWith('_cents') ? CENTS : DEFAULT_INTEGERS;
  for (const check of checksOf(table, column)) {
    if ('between' in check) [least, most] = check.between;
    if ('op' in check && check.op === '>') least = Math.max(least, check.value + 1);
  }
  return ({ random }) => random.between(least, most);
}

type Text = (random: Row['random']) => string;

/** By the first that the column's name matches. */
const TEXTS: readonly (readonly [RegExp, Text])[] = [
  [/email|contact$/, (random) => `${random.pick(FIRST_NAMES).toLowerCase()}.${random.below(10_000)}@mail.example.test`],
  [/phone/, (random) => `+1 555 01${String(random.below(100)).padStart(2, '0')}`],
  [/url|path$|^referrer/, (random) => `https://media.example.test/${random.token()}`],
  [/session_id|token|code$|hash|_id$|^key$|client_id/, (random) => random.token()],
  [/currency/, () => 'USD'],
  [/timezone/, () => 'UTC'],
  [/industry/, (random) => random.pick(INDUSTRIES)],
  [/company_size/, (random) => random.pick(['1-10', '11-50', '51-200', '201+'])],
  [/user_agent/, (random) => `Mozilla/5.0 (demo ${random.below(40)})`],
  [/ip_address/, (random) => `198.51.100.${random.below(256)}`],
  [/location|city|region/, (random) => random.pick(['Atlanta', 'Berlin', 'London', 'New York', 'Toronto'])],
  [/language/, (random) => random.pick(['en', 'fr', 'de'])],
  [/source|channel|utm/, (random) => random.pick(['web', 'ios', 'android', 'email'])],
  [/venue/, (random) => `Hall ${random.between(1, 40)}`],
  [/address/, (random) => `${random.between(1, 200)} Mill Street`],
  [/label/, (random) => random.pick(['New', 'Popular', 'Last places'])],
  [/reason|error|failure/, (random) => random.pick(['duplicate', 'on request', 'timed out'])],
  [/name/, (random) => `${random.pick(FIRST_NAMES)} ${random.pick(LAST_NAMES)}`],
  [/role/, () => 'viewer'],
  [/status|state/, () => 'active'],
];

function texts(table: WholeTable, column: Column): Draw {
  const text = TEXTS.find(([name]) => name.test(column.name))?.[1] ?? ((random) => random.pick(REMARKS));
  const bounds = checksOf(table, column).find((check) => 'length_between' in check)?.length_between;
  if (bounds === undefined) return ({ random }) => text(random);
  return ({ random }) => text(random).padEnd(bounds[0], '.').slice(0, bounds[1]);
}
