import type { Tx } from '../../../src/db/pool.ts';
import type { Tenancy } from '../../../src/restructure/tenancy/declaration.ts';
import { become } from '../callers.ts';
import { attempt, type Belongings, type Breach, own, Refusal } from './attacks.ts';
import { factsOf } from './facts.ts';
import type { Person } from './people.ts';
import { allowed, type Legacy, newName, oldName } from './rows.ts';

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

const isOfNobody = (table: Legacy, row: Record<string, unknown>): boolean => {
  const column = OF_NOBODY[rootOf(table)];
  return column !== undefined && row[column] === null;
};

const literal = (value: unknown): string => `'${JSON.stringify(value).replaceAll("'", "''")}'`;

/** A statement that inserts a row by a name, by columns of it. */
const insertion = (
  on: string,
  table: Legacy,
  row: Record<string, unknown>,
  columns: readonly string[] = table.columns,
): string => {
  const list = columns.join(', ');
  return `insert into ${on} (${list}) select ${list} from jsonb_populate_record(null::${oldName(table)}, ${literal(row)})`;
};

interface Givable {
  readonly column: string;
  readonly hasDefault: boolean;
}

/** The columns that a person may give to a row; all, where he may give none: then that is why he is refused. */
async function givableColumns(tx: Tx, on: string, table: Legacy, { role }: Person): Promise<readonly Givable[]> {
  const { rows } = await tx.query<Givable>(
    `select c.name as column, n.atthasdef as "hasDefault"
     from unnest($4::text[]) with ordinality c (name, at)
     join pg_attribute n on n.attrelid = $3::regclass and quote_ident(n.attname) = c.name and not n.attisdropped
     join pg_attribute a on a.attrelid = $2::regclass and a.attname = n.attname
     where n.attgenerated = '' and has_column_privilege($1, a.attrelid, a.attnum, 'insert') order by c.at`,
    [role, on, newName(table), table.columns],
  );
  return rows.length > 0 ? rows : table.columns.map((column) => ({ column, hasDefault: false }));
}

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
const isPartition = (table: Legacy) => rootOf(table) !== table.name;
/** Refused by a policy, or for want of a privilege. What keys and checks refuse, policies have let through. */
const REFUSED = '42501';
/** So that a policy is asked, and no trigger before it. */
export const WITHOUT_GUARDS = `
  alter table ticketing.tickets disable trigger trg_reserve_capacity;
  alter table ticketing.ticket_tiers disable trigger block_price_change_after_sale`;
/** What anybody may add to. */
const OF_ALL: ReadonlySet<string> = new Set(['hashtags']);

/**
 * What somebody may say of himself though it is about what is another's: that he looked, that he follows, that he buys, that he would sponsor.
 * It is told to the other side, and binds nobody.
 */
const OF_ONESELF: ReadonlySet<string> = new Set([
  'analytics_events',
  'checkout_sessions',
  'event_impressions',
  'event_impressions_p',
  'follows',
  'orders',
  'post_clicks',
  'post_impressions',
  'post_views',
  'sponsors',
  'sponsorship_orders',
  'ticket_analytics',
  'ticket_analytics_p',
  'user_event_interactions',
]);

/** A row of others with one's own name, and one's sponsor's, where theirs was; null where it says no name. */
async function inOnesOwnName(
  tx: Tx,
  { name }: Legacy,
  row: Record<string, unknown>,
  { userId }: Person,
): Promise<Record<string, unknown> | null> {
  const { users = [], sponsor, organization } = factsOf(name);
  const named = users.flatMap((user) => /^(?:t\.(\w+)|case .* then t\.(\w+) end)$/u.exec(user)?.slice(1) ?? []);
  const columns = named.filter((column) => column !== undefined && row[column] !== undefined);
  const bySponsor = sponsor === 't.sponsor_id';
  // What is a user's alone is his own by then.
  if ((organization ?? sponsor) === undefined || (columns.length === 0 && !bySponsor)) return null;
  const { rows } = await tx.query<{ sponsor: string }>(
    'select min(sponsor_id::text) as sponsor from sponsor_members where user_id = $1',
    [userId ?? null],
  );
  const mine = rows[0]?.sponsor ?? null;
  return {
    ...row,
    ...Object.fromEntries(columns.map((column) => [column, userId ?? null])),
    ...(bySponsor && mine !== null ? { sponsor_id: mine } : {}),
  };
}

const rootOf = ({ name }: Legacy) => name.replace(/_(?:\d{6}|default)$/u, '');

/** That nobody inserts a row of others: copies of theirs with their key and with one of its own, as an upsert. */
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
    const columns = (await givableColumns(tx, on, table, person)).map(({ column }) => column);
    for (const row of others) {
      const [first = ''] = key;
      const last = columns.findLast((column) => !key.includes(column)) ?? first;
      for (const statement of [
        insertion(on, table, withNewKey(row, key), columns),
        ...(key.length === 0
          ? []
          : [
              `${insertion(on, table, row, columns)} on conflict (${key.join(', ')}) do nothing returning *`,
              `${insertion(on, table, row, columns)} on conflict (${key.join(', ')}) do update set ${last} = excluded.${last} returning *`,
            ]),
      ]) {
        breaches.push(...(await refused(tx, table, person, statement)));
      }
    }
  }
  return breaches;
}

/**
 * That nobody writes of what he may not see with his own name where another's was, but for what anybody may say of himself. What has a
 * default is left to it, so that nothing but whose row it is can be refused.
 */
export async function nameAttacks(tx: Tx, table: Legacy, person: Person): Promise<readonly Breach[]> {
  if (OF_ALL.has(table.name) || OF_ONESELF.has(rootOf(table))) return [];
  const hidden = await sampleRows(tx, table, `not coalesce(${allowed(table, person)}, false)`, SAMPLE);
  const key = await keyOf(tx, table);
  const breaches: Breach[] = [];
  for (const on of new Set([oldName(table), newName(table)])) {
    const givable = await givableColumns(tx, on, table, person);
    const columns = givable.filter(({ column, hasDefault }) => !hasDefault || key.includes(column));
    for (const row of hidden) {
      const mine = await inOnesOwnName(tx, table, withNewKey(row, key), person);
      if (mine === null) continue;
      const list = columns.map(({ column }) => column);
      breaches.push(...(await refused(tx, table, person, insertion(on, table, mine, list))));
    }
  }
  return breaches;
}

function withNewKey(row: Record<string, unknown>, key: readonly string[]): Record<string, unknown> {
  const [first = ''] = key;
  return key.length === 1 && row[first] !== undefined ? { ...row, [first]: newKey(row[first]) } : row;
}

/** What came of a statement that has to be refused, unless it was. */
async function refused(tx: Tx, { name }: Legacy, person: Person, statement: string): Promise<readonly Breach[]> {
  const outcome = await attempt(tx, person, statement, async (rows) => `${rows} rows inserted`);
  if (outcome instanceof Refusal && outcome.code === REFUSED) return [];
  const said = outcome instanceof Refusal ? `${outcome.code} ${outcome.text}` : outcome;
  return [{ who: person.name, table: name, attempt: statement, outcome: said }];
}

const newKey = (key: unknown) => (typeof key === 'number' ? 2_000_000_000 : '00000000-0000-4000-8000-0000000000ff');
const SHORTEST_SECRET = 12;

/** A row of one's own that is given the key of another's goes on being one's own: the key is what refuses it. */
const mayRefuse = ({ code }: Refusal, changed: readonly string[], key: readonly string[]): boolean =>
  code === REFUSED || (code === '23505' && changed.some((column) => key.includes(column)));

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
        if (outcome instanceof Refusal && mayRefuse(outcome, changed, key) && tellsNothing(outcome, to)) continue;
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

/** By table, how many rows there are, and how many a person sees. */
async function countsOf(tx: Tx, tables: readonly Legacy[], person: Person) {
  const counting = tables.map(
    (table) => `select '${table.name}' as name, (select count(*) from ${oldName(table)}) as n`,
  );
  const count = async () => {
    const { rows } = await tx.query<{ name: string; n: bigint }>(counting.join(' union all '));
    return new Map(rows.map(({ name, n }) => [name, n]));
  };
  const all = await count();
  await become(tx, person);
  const seen = await count();
  await tx.query('reset role');
  return { all, seen };
}

/**
 * That nobody sees more by what he writes: a row of his own is written once more, or changed, with a reference to what is another's; then
 * he sees what he saw, and what he wrote.
 */
export const wideningAttacks = (
  legacy: readonly Legacy[],
  { tables: declared, organizations, memberships }: Tenancy,
) => {
  // Those by whose rows it is found out who may see the rows of others.
  const asked = new Set([
    ...[organizations, ...memberships].map(({ table }) => table),
    ...declared.flatMap(({ parent, owner, organization }) => [
      parent?.of,
      owner?.of,
      organization !== undefined && 'of' in organization ? organization.of : undefined,
    ]),
  ]);
  const tables = legacy.filter((table) => !isPartition(table));
  // Whatever is tried is undone.
  let standing: Counts | undefined;
  return async (tx: Tx, table: Legacy, person: Person, belongings: Belongings): Promise<readonly Breach[]> => {
    if (!asked.has(table.name)) return [];
    const condition = own(table, belongings);
    const key = await keyOf(tx, table);
    const mine = await sampleRows(tx, table, condition, 1);
    // What is seen already, nothing lets see.
    const others = await sampleRows(tx, table, `not coalesce(${allowed(table, person)}, false)`, SAMPLE);
    standing ??= await countsOf(tx, tables, person);
    const before = standing;
    const columns = (await givableColumns(tx, oldName(table), table, person)).map(({ column }) => column);
    const breaches: Breach[] = [];
    for (const row of mine) {
      const where = key.map((column) => `t.${column}::text = ${textOf(row[column])}`).join(' and ');
      for (const column of await referencesOf(tx, table)) {
        for (const other of others) {
          const value = `(jsonb_populate_record(null::${oldName(table)}, ${literal(other)})).${column}`;
          for (const statement of [
            insertion(oldName(table), table, { ...withNewKey(row, key), [column]: other[column] }, columns),
            `update ${oldName(table)} t set ${column} = ${value} where ${where}`,
          ]) {
            const more = await attempt(tx, person, statement, async () =>
              moreSeen(before, await countsOf(tx, tables, person)),
            );
            if (more instanceof Refusal || more.length === 0) continue;
            breaches.push({ who: person.name, table: table.name, attempt: statement, outcome: more.join(', ') });
          }
        }
      }
    }
    return breaches;
  };
};

type Counts = Awaited<ReturnType<typeof countsOf>>;

const moreSeen = (before: Counts, after: Counts): readonly string[] =>
  [...after.seen].flatMap(([name, seen]) => {
    const written = (after.all.get(name) ?? 0n) - (before.all.get(name) ?? 0n);
    const more = seen - (before.seen.get(name) ?? 0n) - (written > 0n ? written : 0n);
    return more > 0n ? [`sees ${more} more of ${name}`] : [];
  });
