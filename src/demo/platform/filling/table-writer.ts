import { finished } from 'node:stream/promises';
import { from as copyFrom } from 'pg-copy-streams';
import type { Tx } from '../../../db/pool.ts';
import type { Micros } from '../../economy/calendar.ts';
import type { Random } from '../../economy/random.ts';
import type { Field } from '../../economy/rows.ts';
import type { Planned } from './plan.ts';
import type { Recipe, Row } from './recipe.ts';
import type { Draw } from './values.ts';
import type { World } from './world.ts';

/** Rows held before they are written: bounds the memory, here and of the server's checks of foreign keys, whatever the size. */
const BATCH_ROWS = 4_000;

/** Writes a table's rows by COPY, in batches. `afterBatch` hears of the rows written and may throw to end it. */
export async function writeTable(
  tx: Tx,
  input: { world: World; planned: Planned; recipe: Recipe; draws: ReadonlyMap<string, Draw> },
  afterBatch: (rows: number) => void,
): Promise<void> {
  const columns = [...input.draws.keys()];
  const copy = `copy public.${input.planned.table.name} (${columns.map((column) => `"${column}"`).join(', ')}) from stdin`;
  let lines: string[] = [];
  const flush = async () => {
    const stream = tx.query(copyFrom(copy));
    stream.end(`${lines.join('\n')}\n`);
    await finished(stream);
    const written = lines.length;
    lines = [];
    afterBatch(written);
  };
  for (const line of linesOf(input)) {
    lines.push(line);
    if (lines.length === BATCH_ROWS) await flush();
  }
  if (lines.length > 0) await flush();
}

function* linesOf(input: Parameters<typeof writeTable>[1]): Generator<string, void, undefined> {
  const { world, planned, recipe, draws } = input;
  const rowsOf = recipe.copyOf ?? planned.table.name;
  const columns = [...draws];
  let index = 0;
  for (let parent = 0; parent < planned.walk.parents; parent += 1) {
    const many = planned.walk.many(parent);
    for (let nth = 0; nth < many; nth += 1) {
      const row = new RowUnderWay(world, rowsOf, { index, parent, nth });
      const fields = recipe.fields(row);
      let line = '';
      for (const [column, draw] of columns) {
        const given = fields[column];
        const text = textOf(given === undefined ? draw(row) : given);
        line = line === '' ? text : `${line}\t${text}`;
      }
      yield line;
      index += 1;
    }
  }
}

class RowUnderWay implements Row {
  readonly world: World;
  readonly index: number;
  readonly parent: number;
  readonly nth: number;
  readonly random: Random;
  at: Micros = 0;
  readonly #table: string;

  constructor(world: World, table: string, place: { index: number; parent: number; nth: number }) {
    this.world = world;
    this.#table = table;
    this.index = place.index;
    this.parent = place.parent;
    this.nth = place.nth;
    this.random = world.random(`${table}, row`, place.index);
  }

  get id(): string {
    return this.world.idOf(this.#table, this.index);
  }
}

const SPECIAL = /[\\\t\n\r]/;
const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\t': '\\t', '\n': '\\n', '\r': '\\r' };

function textOf(field: Field): string {
  if (field === null) return '\\N';
  if (typeof field !== 'string') return String(field);
  return SPECIAL.test(field) ? field.replace(/[\\\t\n\r]/g, (char) => ESCAPES[char] ?? char) : field;
}
