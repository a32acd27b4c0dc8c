import { AppError } from '../../../errors.ts';
import type { Catalogue } from '../catalogue.ts';
import type { Amount, Recipes } from './recipe.ts';
import type { WholeTable } from './values.ts';
import type { World } from './world.ts';

const WHOLE_IN_PARTS = 100_000;

/** Whose rows a table has, and how many each. */
interface Walk {
  readonly parents: number;
  readonly many: (parent: number) => number;
}

export interface Planned {
  readonly table: WholeTable;
  readonly walk: Walk;
  readonly rows: number;
}

/**
 * Decides how many rows each table gets, tells the world, and puts the tables in order, each after those that it refers to.
 * All of them together have as many rows as were asked for, where the smaller ones leave something over.
 */
export function planOf(world: World, recipes: Recipes, catalogue: Pick<Catalogue, 'tables'>): Planned[] {
  const ordered = inOrder(recipes, catalogue);
  const walks = new Map<string, Walk>();
  // Parts first: what is dealt or had by each goes by them.
  for (const kinds of [['part'], ['dealt', 'each'], ['rest']] as const) {
    const chosen = ordered.filter(({ name }) =>
      (kinds as readonly string[]).includes(recipes[name]?.amount.kind ?? ''),
    );
    const left = Math.max(0, world.rows - sum(ordered.map(({ name }) => world.count(name))));
    const weights = sum(chosen.map(({ name }) => weightOf(recipes[name]?.amount)));
    for (const { name } of chosen) {
      const amount = recipes[name]?.amount;
      if (amount === undefined) continue;
      const walk = walkOf(world, amount, { left, weights });
      walks.set(name, walk);
      world.plan(name, rowsOf(walk));
    }
  }
  return ordered.map((table) => {
    const walk = walks.get(table.name);
    if (walk === undefined) throw new AppError('INTERNAL', `No amount of rows was planned for ${table.name}.`);
    return { table, walk, rows: world.count(table.name) };
  });
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, one) => total + one, 0);
const weightOf = (amount: Amount | undefined) => (amount?.kind === 'rest' ? amount.weight : 0);

function walkOf(world: World, amount: Amount, over: { left: number; weights: number }): Walk {
  switch (amount.kind) {
    case 'part':
      return one(Math.max(amount.least, Math.floor((world.rows * amount.parts) / WHOLE_IN_PARTS)));
    case 'rest':
      return one(Math.max(1, Math.round((over.left * amount.weight) / over.weights)));
    case 'each': {
      const parents = amount.of(world);
      return { parents, many: (parent) => amount.many(world, parent) };
    }
    case 'dealt': {
      const rows = Math.max(1, Math.floor((world.rows * amount.parts) / WHOLE_IN_PARTS));
      const shares = world.ranks(amount.to(world)).deal({ rows, most: amount.most(world) });
      return { parents: shares.length, many: (parent) => shares[parent] ?? 0 };
    }
    default:
      return amount satisfies never;
  }
}

const one = (rows: number): Walk => ({ parents: 1, many: () => rows });

function rowsOf({ parents, many }: Walk): number {
  let rows = 0;
  for (let parent = 0; parent < parents; parent += 1) rows += many(parent);
  return rows;
}

function inOrder(recipes: Recipes, catalogue: Pick<Catalogue, 'tables'>): WholeTable[] {
  const tables = new Map(
    catalogue.tables.flatMap((table) =>
      table.kind !== 'partition' && table.name in recipes ? [[table.name, table]] : [],
    ),
  );
  const ordered = new Set<WholeTable>();
  const add = (table: WholeTable, path: readonly string[]) => {
    if (path.includes(table.name))
      throw new AppError('INTERNAL', `Tables refer to each other in a circle: ${path.join(', ')}.`);
    if (ordered.has(table)) return;
    for (const { references } of table.foreign_keys) {
      const other = tables.get(references.slice('public.'.length));
      if (other !== undefined) add(other, [...path, table.name]);
    }
    ordered.add(table);
  };
  for (const table of tables.values()) add(table, []);
  return [...ordered];
}
