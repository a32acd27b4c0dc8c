import { randomUUID } from 'node:crypto';
import pg from 'pg';
import type { Act, Turn } from './act.ts';
import { type Column, type OldTable, valueIn } from './tables.ts';

const { escapeIdentifier: ident } = pg;
const LIST_ROWS = 20;

type Kind = 'read' | 'list' | 'update' | 'lock and update' | 'upsert' | 'insert' | 'delete';

/** What the old application does with any table, each as far as the table has what it takes. */
export function actsOf(table: OldTable): readonly Act[] {
  if (table.samples.length === 0) return [];
  const act = (kind: Kind, run: Act['run']): Act => ({
    name: `${kind} ${table.name}`,
    kind,
    as: 'owner',
    writes: kind === 'read' || kind === 'list' ? [] : [table.name],
    run,
  });
  const plain = plainOf(table);
  return [
    act('read', (client, turn) => read(client, table, turn)),
    act('list', (client, turn) => list(client, table, turn)),
    ...(plain === undefined
      ? []
      : [
          act('update', (client, turn) => update(client, table, plain, turn)),
          act('lock and update', (client, turn) => lockAndUpdate(client, table, plain, turn)),
        ]),
    act('upsert', (client, turn) => upsert(client, table, plain, turn)),
    ...(canBeCopied(table)
      ? [
          act('insert', (client, turn) => insert(client, table, turn)),
          act('delete', (client, turn) => deleteOwn(client, table, turn)),
        ]
      : []),
  ];
}

/** A column that nothing hangs on. */
const plainOf = ({ columns }: OldTable): Column | undefined =>
  columns.find((each) => !each.isUnique && !each.isReference && !each.isCounted);

const nameOf = ({ name }: OldTable, { isQualified }: Turn): string => (isQualified ? `public.${name}` : name);

/** With the schema it is prepared, under a name that stays. */
const statement = (text: string, values: unknown[], { isQualified }: Turn, name: string): pg.QueryConfig =>
  isQualified ? { name, text, values } : { text, values };

const pickSample = (table: OldTable, turn: Turn): readonly (string | null)[] =>
  table.samples[turn.pick(table.samples.length)] ?? [];

const byKey = (table: OldTable): string => table.key.map(({ name }, at) => `${ident(name)} = $${at + 1}`).join(' and ');

const keyOf = (table: OldTable, sample: readonly (string | null)[]) =>
  table.key.map((column) => valueIn(table, sample, column));

async function read(client: pg.ClientBase, table: OldTable, turn: Turn): Promise<void> {
  const text = `select * from ${nameOf(table, turn)} where ${byKey(table)}`;
  await client.query(statement(text, keyOf(table, pickSample(table, turn)), turn, `read ${table.name}`));
}

async function list(client: pg.ClientBase, table: OldTable, turn: Turn): Promise<void> {
  const reference = table.columns.find(({ isReference }) => isReference);
  const where = reference === undefined ? '' : `where ${ident(reference.name)} = $1`;
  const order = table.key.map(({ name }) => ident(name)).join(', ');
  const values = reference === undefined ? [] : [valueIn(table, pickSample(table, turn), reference)];
  const text = `select * from ${nameOf(table, turn)} ${where} order by ${order} desc limit ${LIST_ROWS}`;
  await client.query(statement(text, values, turn, `list ${table.name}`));
}

async function update(client: pg.ClientBase, table: OldTable, column: Column, turn: Turn): Promise<void> {
  const text = `update ${nameOf(table, turn)} set ${ident(column.name)} = ${ident(column.name)} where ${byKey(table)}`;
  await client.query(statement(text, keyOf(table, pickSample(table, turn)), turn, `update ${table.name}`));
}

async function lockAndUpdate(client: pg.ClientBase, table: OldTable, column: Column, turn: Turn): Promise<void> {
  const key = keyOf(table, pickSample(table, turn));
  const name = nameOf(table, turn);
  await inTransaction(client, async () => {
    await client.query(
      statement(`select * from ${name} where ${byKey(table)} for update`, key, turn, `lock ${table.name}`),
    );
    const text = `update ${name} set ${ident(column.name)} = ${ident(column.name)} where ${byKey(table)} returning *`;
    await client.query(statement(text, key, turn, `update locked ${table.name}`));
  });
}

async function upsert(client: pg.ClientBase, table: OldTable, column: Column | undefined, turn: Turn): Promise<void> {
  const columns = table.columns.map(({ name }) => ident(name)).join(', ');
  const values = table.columns.map((_, at) => `$${at + 1}`).join(', ');
  const key = table.key.map(({ name }) => ident(name)).join(', ');
  const resolution =
    column === undefined ? 'nothing' : `update set ${ident(column.name)} = excluded.${ident(column.name)} returning *`;
  const text = `insert into ${nameOf(table, turn)} (${columns}) values (${values}) on conflict (${key}) do ${resolution}`;
  await client.query(statement(text, [...pickSample(table, turn)], turn, `upsert ${table.name}`));
}

const OWN_VALUES: Readonly<Record<string, () => string>> = { uuid: randomUUID, text: randomUUID };

/** Whether a row of it can be made of another: something of its key can be anything. */
const canBeCopied = ({ key }: OldTable): boolean => key.some(isOwn);

const isOwn = ({ isUnique, isReference, isCounted, type }: Column): boolean =>
  isUnique && !isReference && (isCounted || type in OWN_VALUES);

async function insert(client: pg.ClientBase, table: OldTable, turn: Turn): Promise<void> {
  const sample = pickSample(table, turn);
  const given = table.columns.filter(({ isCounted }) => !isCounted);
  const values = given.map((column) => (isOwn(column) ? OWN_VALUES[column.type]?.() : valueIn(table, sample, column)));
  const id = ident(idOf(table));
  const text = `insert into ${nameOf(table, turn)} (${given.map(({ name }) => ident(name)).join(', ')})
    values (${given.map((_, at) => `$${at + 1}`).join(', ')}) returning ${id}::text as id`;
  const { rows } = await client.query<{ id: string }>(statement(text, values, turn, `insert ${table.name}`));
  if (rows[0]?.id == null) throw new Error(`an insert into ${table.name} returned no id`);
  turn.written.inserted({ table: table.name, column: idOf(table) }, rows[0].id);
}

/** The column by which a row of our own is known. */
const idOf = (table: OldTable): string => table.key.find(isOwn)?.name ?? '';

/** Of a row that the workload has made: what references it is looked for. */
async function deleteOwn(client: pg.ClientBase, table: OldTable, turn: Turn): Promise<void> {
  const own = turn.written.takeOne(table.name);
  if (own === undefined) return insert(client, table, turn);
  const column = table.key.find(isOwn);
  const text = `delete from ${nameOf(table, turn)} where ${ident(idOf(table))} = $1::text::${column?.type} returning *`;
  const { rowCount } = await client.query(statement(text, [own], turn, `delete ${table.name}`));
  if (rowCount !== 1) throw new Error(`the row ${own} of ${table.name} is gone`);
}

/**
 * Two tables in one transaction, in the order of their names or against it. Each order has rows of its own, and each row its place in that
 * order: they never wait for each other in a circle, so that a deadlock is the move's.
 */
export function pairActs(tables: readonly OldTable[]): readonly Act[] {
  const written = tables.flatMap((table) => {
    const column = plainOf(table);
    return column === undefined || table.samples.length < 2 ? [] : [{ table, column }];
  });
  return written.flatMap((first, at) => {
    // From all over, so that they mostly lie in different schemas.
    const second = written[(at + Math.ceil(written.length / 2)) % written.length];
    if (second === undefined || second === first) return [];
    return [true, false].map((isForward) => pairAct(first, second, isForward));
  });
}

interface WrittenTable {
  readonly table: OldTable;
  readonly column: Column;
}

function pairAct(one: WrittenTable, other: WrittenTable, isForward: boolean): Act {
  const sorted = [one, other].toSorted((a, b) => (a.table.name < b.table.name ? -1 : 1));
  const inOrder = isForward ? sorted : sorted.toReversed();
  return {
    name: `update ${inOrder.map(({ table }) => table.name).join(', then ')}`,
    kind: 'update two',
    as: 'owner',
    writes: inOrder.map(({ table }) => table.name),
    run: (client, turn) =>
      inTransaction(client, async () => {
        for (const { table, column } of inOrder) {
          const rows = table.samples.filter((_, at) => (at % 2 === 0) === isForward);
          await update(client, { ...table, samples: rows }, column, turn);
        }
      }),
  };
}

export async function inTransaction(client: pg.ClientBase, work: () => Promise<void>): Promise<void> {
  await client.query('begin');
  try {
    await work();
    await client.query('commit');
  } catch (error) {
    await client.query('rollback');
    throw error;
  }
}
