import type { Micros } from '../../economy/calendar.ts';
import type { Random } from '../../economy/random.ts';
import type { Field } from '../../economy/rows.ts';
import type { World } from './world.ts';

type Fields = Readonly<Record<string, Field>>;

/** A row under way: which it is, its own stream of chance, and when it came to be. */
export interface Row {
  readonly world: World;
  readonly id: string;
  /** In its table, from 0 on. */
  readonly index: number;
  /** What it belongs to, by that one's index, and which of that one's rows it is, from 0 on. */
  readonly parent: number;
  readonly nth: number;
  readonly random: Random;
  /** Whatever the recipe leaves out lies by it: created_at, updated_at and the like. */
  at: Micros;
}

/** How many rows a table has, and whose. */
export type Amount =
  /** So many of a hundred thousand rows of the whole, and no fewer than `least`. */
  | { readonly kind: 'part'; readonly parts: number; readonly least: number }
  /** As `part`; a few parents have most, none has more than `most`. */
  | { readonly kind: 'dealt'; readonly parts: number; readonly to: Many; readonly most: Many }
  /** As many as each parent has. */
  | { readonly kind: 'each'; readonly of: Many; readonly many: (world: World, parent: number) => number }
  /** A part, by weight, of what the other tables leave over of the whole. */
  | { readonly kind: 'rest'; readonly weight: number };

type Many = (world: World) => number;

/** How a table is filled: what has a meaning is said here, the rest of its columns is drawn from what the catalogue says of them. */
export interface Recipe {
  readonly amount: Amount;
  /** The table whose rows these are copies of. */
  readonly copyOf?: string;
  readonly fields: (row: Row) => Fields;
}

export type Recipes = Readonly<Record<string, Recipe>>;

type FieldsOf = Recipe['fields'];
const LEAST_ROWS = 3;

export const part = (parts: number, fields: FieldsOf = () => ({}), least = LEAST_ROWS): Recipe => ({
  amount: { kind: 'part', parts, least },
  fields,
});

export const exactly = (rows: number, fields: FieldsOf): Recipe =>
  each(
    () => 1,
    () => rows,
    fields,
  );

export const dealt = (parts: number, to: Many, most: Many, fields: FieldsOf): Recipe => ({
  amount: { kind: 'dealt', parts, to, most },
  fields,
});

export const each = (of: Many, many: (world: World, parent: number) => number, fields: FieldsOf): Recipe => ({
  amount: { kind: 'each', of, many },
  fields,
});

export const rest = (weight: number, fields: FieldsOf, copyOf?: string): Recipe => ({
  amount: { kind: 'rest', weight },
  fields,
  ...(copyOf === undefined ? {} : { copyOf }),
});

/** For the amounts of what belongs to another table's rows. */
export const countOf =
  (table: string): Many =>
  (world) =>
    world.count(table);

export const people: Many = (world) => world.people.length;

export const json = (value: unknown): string => JSON.stringify(value);

/** An array of texts that need no quotes, or of UUIDs. */
export const list = (items: readonly string[]): string => `{${items.map((item) => `"${item}"`).join(',')}}`;
