import type { Tx } from '../../../src/db/pool.ts';
import { attempt, type Belongings, type Breach, own, Refusal } from './attacks.ts';
import type { Person } from './people.ts';
import { type Legacy, newName, oldName } from './rows.ts';

/** Anonymous rows: whoever wrote them, they say nothing of anybody. */
const OF_NOBODY: Readonly<Record<string, string>> = {
  analytics_events: 'user_id',
  checkout_sessions: 'user_id',
  event_impressions: 'user_id',
  event_impressions_p: 'user_id',
  post_clicks: 'user_id',
  post_impressions: 'user_id',
  post_views: 'user_id',
  reports: 'reported_by',
  share_links: 'created_by',
  ticket_analytics: 'user_id',
  ticket_analytics_p: 'user_id',
};

/** Rows of others, or one's own, as JSON of the old columns. */
async function sampleRows(
  tx: Tx,
  table: Legacy,
  condition: string,
  limit: number,
): Promise<readonly Record<string, unknown>[]> {
  const { rows } = await tx.query<{ row: Record<string, unknown> }>(
    `select to_jsonb(t) as row from ${oldName(table)} t where ${condition} order by md5(t::text) limit ${limit}`,
  );
  return rows.map(({ row }) => row);
}

const isOfNobody = ({ name }: Legacy, row: Record<string, unknown>): boolean => {
  const column = OF_NOBODY[name.replace(/_(?:\d{6}|default)$/u, '')];
  return column !== undefined && row[column] === null;
};

const literal = (value: unknown): string => `'${JSON.stringify(value).replaceAll("'", "''")}'`;

/** A statement that inserts a row by a name. */
const insertion = (on: string, table: Legacy, row: Record<string, unknown>): string => {
  const list = table.columns.join(', ');
  return `insert into ${on} (${list}) select ${list} from jsonb_populate_record(null::${oldName(table)}, ${literal(row)})`;
};

/** A table's primary key, as the server writes its columns. */
async function keyOf(tx: Tx, table: Legacy): Promise<readonly string[]> {
  const { rows } = await tx.query<{ key: string[] }>(
    `select array_agg(quote_ident(a.attname) order by k.at) as key
     from pg_index x cross join unnest(x.indkey::int2[]) with ordinality k (number, at)
     join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k.number
     where x.indrelid = $1::regclass and x.indisprimary`,
    [newName(table)],
  );
  return rows[0]?.key ?? [];
}

/** The columns by which rows refer to others, and those of the facts. */
async function referencesOf(tx: Tx, table: Legacy): Promise<readonly string[]> {
  const { rows } = await tx.query<{ column: string }>(
    `select a.attname as column from pg_attribute a
     where a.attrelid = $1::regclass and a.attnum > 0 and not a.attisdropped and a.atttypid = 'uuid'::regtype
       and a.attname <> 'organization_id' or a.attrelid = $1::regclass and a.attname = any ($2) order by a.attnum`,
    [
      newName(table),
      ['owner_context_type', 'context_type', 'follower_type', 'participant_type', 'sender_type', 'organization_id'],
    ],
  );
  return rows.map(({ column }) => column).filter((column) => table.columns.includes(column));
}

const SAMPLE = 2;
/** Whose policies are those of their table: what they refuse to insert, they refuse to make. */
const isPartition = ({ name }: Legacy) => /_(?:\d{6}|default)$/u.test(name);
/** Refused by a policy, or for want of a privilege; or before that, by the trigger that looks for a free ticket. */
const REFUSED: ReadonlySet<string> = new Set(['42501', 'P0001']);
/** What anybody may add to. */
const OF_ALL: ReadonlySet<string> = new Set(['hashtags']);

/**
 * That nobody inserts a row of others: copies of theirs with their key and with one of its own, as an upsert, and with one's own name where
 * theirs was.
 */
export async function insertAttacks(
  tx: Tx,
  table: Legacy,
  person: Person,
  belongings: Belongings,
): Promise<readonly Breach[]> {
  if (OF_ALL.has(table.name)) return [];
  const condition = own(table, belongings);
  const sample = isPartition(table) ? 1 : SAMPLE;
  const others = (await sampleRows(tx, table, `not (${condition})`, sample)).filter((row) => !isOfNobody(table, row));
  const key = await keyOf(tx, table);
  const breaches: Breach[] = [];
  for (const on of new Set([oldName(table), newName(table)])) {
    for (const row of others) {
      const [first = ''] = key;
      const fresh = key.length === 1 && row[first] !== undefined ? { ...row, [first]: newKey(row[first]) } : row;
      const last = table.columns.findLast((column) => !key.includes(column)) ?? first;
      for (const statement of [
        insertion(on, table, fresh),
        ...(key.length === 0
          ? []
          : [
              `${insertion(on, table, row)} on conflict (${key.join(', ')}) do nothing returning *`,
              `${insertion(on, table, row)} on conflict (${key.join(', ')}) do update set ${last} = excluded.${last} returning *`,
            ]),
      ]) {
        const outcome = await attempt(tx, person, statement, async (rows) => `${rows} rows inserted`);
        if (outcome instanceof Refusal && REFUSED.has(outcome.code)) continue;
        breaches.push({
          who: person.name,
          table: table.name,
          attempt: statement,
          outcome: outcome instanceof Refusal ? `${outcome.code} ${outcome.text}` : outcome,
        });
      }
    }
  }
  return breaches;
}

const newKey = (key: unknown) => (typeof key === 'number' ? 2_000_000_000 : '00000000-0000-4000-8000-0000000000ff');
const SHORTEST_SECRET = 12;

/** That no value of a row is in a refusal. */
const tellsNothing = ({ text }: Refusal, row: Record<string, unknown>): boolean =>
  !Object.values(row).some(
    (value) => typeof value === 'string' && value.length >= SHORTEST_SECRET && text.includes(value),
  );

/**
 * That whatever of one's own is written stays one's own: each reference of a row is set to that of another's. A row that is one's own by
 * what else it says may be moved, as it might have been written anew.
 */
export async function moveAttacks(
  tx: Tx,
  table: Legacy,
  person: Person,
  belongings: Belongings,
): Promise<readonly Breach[]> {
  const condition = own(table, belongings);
  const [others, mine] = [
    await sampleRows(tx, table, `not (${condition})`, SAMPLE),
    await sampleRows(tx, table, condition, SAMPLE),
  ];
  const key = await keyOf(tx, table);
  if (key.length === 0 || isPartition(table)) return [];
  const columns = await referencesOf(tx, table);
  const count = async () => {
    const { rows } = await tx.query<{ n: number }>(
      `select count(*)::integer as n from ${oldName(table)} t where not (${condition})`,
    );
    return rows[0]?.n ?? -1;
  };
  const before = await count();
  const breaches: Breach[] = [];
  for (const on of new Set([oldName(table), newName(table)])) {
    for (const [at, from] of mine.entries()) {
      const to = others[at] ?? others[0];
      if (to === undefined) continue;
      const where = key.map((column) => `t.${column}::text = ${textOf(from[column])}`).join(' and ');
      for (const changed of [...columns.map((column) => [column]), columns.filter((column) => !key.includes(column))]) {
        if (changed.length === 0) continue;
        const assignments = changed.map(
          (column) => `${column} = (jsonb_populate_record(null::${oldName(table)}, ${literal(to)})).${column}`,
        );
        const statement = `update ${on} t set ${assignments.join(', ')} where ${where}`;
        const outcome = await attempt(tx, person, statement, count);
        if (outcome === before) continue;
        if (outcome instanceof Refusal && tellsNothing(outcome, to)) continue;
        breaches.push({
          who: person.name,
          table: table.name,
          attempt: statement,
          outcome:
            outcome instanceof Refusal ? `${outcome.code} ${outcome.text}` : `${outcome} rows of others, not ${before}`,
        });
      }
    }
  }
  return breaches;
}

const textOf = (value: unknown): string => `'${String(value).replaceAll("'", "''")}'`;
