import { describe, expect, it } from 'vitest';
import { type Access, isCall, type TableAccess } from '../../src/restructure/accesses/access.ts';
import type { ApiRelation, ApiSchema, ForeignKey, UniqueKey } from '../../src/restructure/accesses/api-schema.ts';
import { compareAccesses } from '../../src/restructure/accesses/compare.ts';
import { outcomeOf, type RawOutcome } from '../../src/restructure/accesses/outcome.ts';
import { isRefusal, type PreparedAccess } from '../../src/restructure/accesses/prepared.ts';
import { parseSelect } from '../../src/restructure/accesses/selection.ts';
import { apiOf, translate } from '../../src/restructure/accesses/translate.ts';
import { originsIn } from '../../src/restructure/accesses/view-origins.ts';

const COLUMNS = {
  events: ['id uuid', 'title text', 'host uuid'],
  orders: ['id uuid', 'event_id uuid', 'total integer'],
  tickets: ['id uuid', 'event_id uuid', 'order_id uuid'],
  hosts: ['id uuid', 'name text'],
  tags: ['name text'],
  event_tags: ['event_id uuid', 'tag text'],
  profiles: ['host_id uuid', 'bio text'],
} as const;
type Name = keyof typeof COLUMNS;
const NAMES = Object.keys(COLUMNS) as Name[];
const oidOf = (name: Name): number => NAMES.indexOf(name) + 1;

const key = (name: string, from: Name, column: string, to: Name, toColumn = 'id'): ForeignKey => ({
  name,
  from: oidOf(from),
  to: oidOf(to),
  columns: [column],
  toColumns: [toColumn],
});

const FOREIGN_KEYS = [
  key('events_host_fkey', 'events', 'host', 'hosts'),
  key('orders_event_id_fkey', 'orders', 'event_id', 'events'),
  // The same once more, as in the old database.
  key('tickets_event_id_fkey', 'tickets', 'event_id', 'events'),
  key('fk_tickets_event_id', 'tickets', 'event_id', 'events'),
  key('tickets_order_id_fkey', 'tickets', 'order_id', 'orders'),
  key('event_tags_event_id_fkey', 'event_tags', 'event_id', 'events'),
  key('event_tags_tag_fkey', 'event_tags', 'tag', 'tags', 'name'),
  key('profiles_host_id_fkey', 'profiles', 'host_id', 'hosts'),
];

const PRIMARY: Readonly<Partial<Record<Name, readonly string[]>>> = {
  tags: ['name'],
  event_tags: ['event_id', 'tag'],
  profiles: ['host_id'],
};
const UNIQUE_KEYS: readonly UniqueKey[] = NAMES.map((name) => ({
  relation: oidOf(name),
  columns: PRIMARY[name] ?? ['id'],
  isPrimary: true,
  isConstraint: true,
}));

/** The schema as it is before a move, or with every table elsewhere and a view in its place. */
function schemaOf({ isMoved }: { isMoved: boolean }): ApiSchema {
  const relation = (name: Name, place: { schema: string; isView: boolean; oid: number }): ApiRelation => {
    const columns = COLUMNS[name].map((column) => {
      const [called = '', type = ''] = column.split(' ');
      return { name: called, type, isGenerated: false };
    });
    const origins = columns.map((column) => [column.name, { relation: oidOf(name), column: column.name }] as const);
    return { ...place, name, columns, origins: new Map(origins) };
  };
  const tables = NAMES.map((name) =>
    relation(name, { schema: isMoved ? 'sales' : 'public', isView: false, oid: oidOf(name) }),
  );
  const views = NAMES.map((name) => relation(name, { schema: 'public', isView: true, oid: oidOf(name) + 100 }));
  const exposed = isMoved ? views : tables;
  return {
    relations: new Map([...tables, ...exposed].map((each) => [each.oid, each])),
    exposed: new Map(exposed.map((each) => [each.name, each])),
    foreignKeys: FOREIGN_KEYS,
    uniqueKeys: UNIQUE_KEYS,
    functions: [
      {
        name: 'feed',
        arguments: [
          { name: 'p_user', type: 'uuid' },
          { name: 'p_limit', type: 'integer' },
        ],
        defaults: 1,
        returns: 'record',
      },
      { name: 'touch', arguments: [], defaults: 0, returns: 'void' },
      { name: 'twice', arguments: [{ name: 'a', type: 'text' }], defaults: 0, returns: 'text' },
      { name: 'twice', arguments: [{ name: 'a', type: 'uuid' }], defaults: 0, returns: 'text' },
    ],
  };
}

const BEFORE = apiOf(schemaOf({ isMoved: false }));
const AFTER = apiOf(schemaOf({ isMoved: true }));

const access = (of: Partial<TableAccess> & { table: string }): TableAccess => ({
  op: 'select',
  filters: [],
  ignore_duplicates: false,
  returning: false,
  head: false,
  ...of,
});

const prepared = (of: Access, rest: Partial<PreparedAccess> = {}): PreparedAccess => ({
  number: 0,
  access: of,
  values: isCall(of) ? [] : of.filters.map(() => ['v']),
  ...rest,
});

/** The SQL of an access, on one line, with its parameters; or what the API says by itself. */
function sqlOf(of: PreparedAccess, api = BEFORE): string {
  const statement = translate(api, of);
  if (isRefusal(statement)) return `${statement.code}: ${statement.message}`;
  return [statement.rows, statement.count]
    .flatMap((sql) => (sql === undefined ? [] : [`${sql.text} ${JSON.stringify(sql.parameters)}`]))
    .join('; ');
}

const E = '"public"."events"';
const rowsOf = (query: string, parameters = '[]') => `select to_jsonb(r)::text as row from (${query}) r ${parameters}`;
const array = (query: string) =>
  `select jsonb_agg(e.row order by e.row::text) as rows from (select to_jsonb(i) as row from (${query}) i) e`;

const READS: readonly (readonly [what: string, access: PreparedAccess, sql: string])[] = [
  ['everything', prepared(access({ table: 'events' })), rowsOf(`select ${E}.* from ${E}`)],
  [
    'an alias and a cast',
    prepared(access({ table: 'events', select: 'id, called:title, host::text' })),
    rowsOf(`select ${E}."id", ${E}."title" as "called", cast(${E}."host" as text) as "host" from ${E}`),
  ],
  [
    'each filter',
    prepared(
      access({
        table: 'events',
        filters: ['eq:id', 'neq:id', 'gt:id', 'gte:id', 'lt:id', 'lte:id', 'like:title', 'ilike:title'],
      }),
    ),
    rowsOf(
      `select ${E}.* from ${E} where ${E}."id" = $1 and ${E}."id" <> $2 and ${E}."id" > $3 and ${E}."id" >= $4 and ${E}."id" < $5 and ${E}."id" <= $6 and ${E}."title" like $7 and ${E}."title" ilike $8`,
      '["v","v","v","v","v","v","v","v"]',
    ),
  ],
  [
    'in, is and or',
    prepared(access({ table: 'events', filters: ['in:id', 'is:host', 'or:host.eq.1,title.eq.2'] }), {
      values: [[['a', 'b']], [null], ['c', 'd']],
    }),
    rowsOf(
      `select ${E}.* from ${E} where ${E}."id" = any ($1) and ${E}."host" is null and (${E}."host" = $2 or ${E}."title" = $3)`,
      '[["a","b"],"c","d"]',
    ),
  ],
  [
    'an order, made to decide by the key',
    prepared(access({ table: 'events', select: 'id', filters: ['order:title', 'range'] }), { limit: 5, offset: 2 }),
    rowsOf(`select ${E}."id" from ${E} order by ${E}."title", ${E}."id" limit 5 offset 2`),
  ],
  [
    'a count alone',
    prepared(access({ table: 'events', filters: ['eq:id'], count: 'exact', head: true })),
    `select count(*) as count from (select ${E}.* from ${E} where ${E}."id" = $1) counted ["v"]`,
  ],
  [
    'one related row',
    prepared(access({ table: 'orders', select: 'id, event:events!inner(title)', filters: ['eq:event.title'] })),
    rowsOf(
      `select "public"."orders"."id", row_to_json(embed_1.*)::jsonb as "event" from "public"."orders" inner join lateral (select "events_1"."title" from ${E} as "events_1" where "public"."orders"."event_id" = "events_1"."id" and "events_1"."title" = $1) as embed_1 on true`,
      '["v"]',
    ),
  ],
  [
    'many related rows, and those related to them',
    prepared(access({ table: 'events', select: 'orders(tickets(id))' })),
    rowsOf(
      `select coalesce(embed_1.rows, '[]') as "orders" from ${E} left join lateral (${array(
        `select coalesce(embed_2.rows, '[]') as "tickets" from "public"."orders" as "orders_1" left join lateral (${array(
          'select "tickets_2"."id" from "public"."tickets" as "tickets_2" where "orders_1"."id" = "tickets_2"."order_id"',
        )}) as embed_2 on true where ${E}."id" = "orders_1"."event_id"`,
      )}) as embed_1 on true`,
    ),
  ],
  [
    'many to many',
    prepared(access({ table: 'events', select: 'tags!inner(name)' })),
    rowsOf(
      `select coalesce(embed_1.rows, '[]') as "tags" from ${E} inner join lateral (${array(
        `select "tags_1"."name" from "public"."tags" as "tags_1", "public"."event_tags" as "junction_1" where ${E}."id" = "junction_1"."event_id" and "junction_1"."tag" = "tags_1"."name"`,
      )}) as embed_1 on embed_1.rows is not null`,
    ),
  ],
  [
    'one to one, against its foreign key',
    prepared(access({ table: 'hosts', select: 'profiles(bio)' })),
    rowsOf(
      'select row_to_json(embed_1.*)::jsonb as "profiles" from "public"."hosts" left join lateral (select "profiles_1"."bio" from "public"."profiles" as "profiles_1" where "public"."hosts"."id" = "profiles_1"."host_id") as embed_1 on true',
    ),
  ],
];

const body = (columns: string) => `json_to_recordset($1::json) as body (${columns})`;
const written = (change: string, answer: string, parameters: string) =>
  `with written as (${change}) select to_jsonb(r)::text as row from (${answer}) r ${parameters}`;
const COUNTED = 'select 1 as written from written';
const T = '"public"."tags"';

const WRITES: readonly (readonly [what: string, access: PreparedAccess, sql: string])[] = [
  [
    'an insert',
    prepared(access({ table: 'tags', op: 'insert', columns: ['name'] }), { payload: [{ name: 'x' }] }),
    written(
      `insert into ${T} ("name") select body."name" from ${body('"name" text')} returning 1`,
      COUNTED,
      '["[{\\"name\\":\\"x\\"}]"]',
    ),
  ],
  [
    'an insert that gives related rows',
    prepared(
      access({ table: 'orders', op: 'insert', columns: ['total'], returning: true, select: 'id, events(title)' }),
      {
        payload: [{ total: 1 }],
      },
    ),
    written(
      `insert into "public"."orders" ("total") select body."total" from ${body('"total" integer')} returning "public"."orders"."id", "public"."orders"."event_id"`,
      `select "orders"."id", row_to_json(embed_1.*)::jsonb as "events" from written as "orders" left join lateral (select "events_1"."title" from ${E} as "events_1" where "orders"."event_id" = "events_1"."id") as embed_1 on true`,
      '["[{\\"total\\":1}]"]',
    ),
  ],
  [
    'an upsert by the key',
    prepared(access({ table: 'event_tags', op: 'upsert', on_conflict: '(primary key)' }), {
      payload: [{ event_id: 'e', tag: 't' }],
    }),
    written(
      `insert into "public"."event_tags" ("event_id", "tag") select body."event_id", body."tag" from ${body('"event_id" uuid, "tag" text')} on conflict ("event_id", "tag") do update set "event_id" = excluded."event_id", "tag" = excluded."tag" returning 1`,
      COUNTED,
      '["[{\\"event_id\\":\\"e\\",\\"tag\\":\\"t\\"}]"]',
    ),
  ],
  [
    'an upsert that leaves what is there',
    prepared(access({ table: 'tags', op: 'upsert', on_conflict: 'name', ignore_duplicates: true }), {
      payload: [{ name: 'x' }],
    }),
    written(
      `insert into ${T} ("name") select body."name" from ${body('"name" text')} on conflict ("name") do nothing returning 1`,
      COUNTED,
      '["[{\\"name\\":\\"x\\"}]"]',
    ),
  ],
  [
    'an update',
    prepared(access({ table: 'events', op: 'update', filters: ['eq:id'], returning: true, select: '*' }), {
      payload: [{ title: 'x' }],
    }),
    written(
      `update ${E} set "title" = body."title" from ${body('"title" text')} where ${E}."id" = $2 returning ${E}.*`,
      'select "events".* from written as "events"',
      '["[{\\"title\\":\\"x\\"}]","v"]',
    ),
  ],
  [
    'a delete',
    prepared(access({ table: 'events', op: 'delete', filters: ['eq:id'] })),
    written(`delete from ${E} where ${E}."id" = $1 returning 1`, COUNTED, '["v"]'),
  ],
  [
    'a call, with an argument left out',
    prepared({ rpc: 'feed', args: ['p_user'] }, { arguments: { p_user: 'u' } }),
    'select to_jsonb(result)::text as row from json_to_record($1::json) as body ("p_user" uuid), lateral "public"."feed"("p_user" := body."p_user") as result ["{\\"p_user\\":\\"u\\"}"]',
  ],
  [
    'a call of what returns nothing',
    prepared({ rpc: 'touch', args: [] }),
    'select null::jsonb::text as row from "public"."touch"() as result []',
  ],
];

describe('the SQL of an access', () => {
  it.each(READS)('reads %s', (_, of, sql) => expect(sqlOf(of)).toBe(sql));
  it.each(WRITES)('does %s', (_, of, sql) => expect(sqlOf(of)).toBe(sql));

  it.each([...READS, ...WRITES])('is the same when views stand in for tables: %s', (_, of) =>
    expect(sqlOf(of, AFTER)).toBe(sqlOf(of)),
  );
});

describe('what the API says by itself', () => {
  const REFUSALS: readonly (readonly [access: Access, refusal: string])[] = [
    [
      access({ table: 'tickets', select: 'events(id)' }),
      'ambiguous: tickets and events: fk_tickets_event_id, tickets_event_id_fkey',
    ],
    [access({ table: 'tickets', select: 'events!events_host_fkey(id)' }), 'unrelated: tickets and events'],
    [access({ table: 'tags', select: 'hosts(id)' }), 'unrelated: tags and hosts'],
    [access({ table: 'tickets', filters: ['eq:events.id'] }), 'not-embedded: events is not an embedded resource'],
    [access({ table: 'nobody' }), 'no-table: there is no public.nobody'],
    [
      access({ table: 'tags', select: 'count(*) as n, sum(x) as m' }),
      'unreadable: the select is none of PostgREST: count(*) as n, sum(x) as m',
    ],
    [access({ table: 'tags', filters: ['near:name'] }), 'unreadable: a filter is not known: near:name'],
    [{ rpc: 'feed', args: ['p_limit'] }, 'no-function: there is no public.feed(p_limit)'],
    [{ rpc: 'twice', args: ['a'] }, 'ambiguous: more than one function takes twice(a)'],
  ];
  it.each(REFUSALS)('%j: %s', (of, refusal) => {
    expect(sqlOf(prepared(of))).toBe(refusal);
    expect(sqlOf(prepared(of), AFTER)).toBe(refusal);
  });

  it('knows no column that is not there', () => {
    const of = prepared(access({ table: 'tags', op: 'insert' }), { payload: [{ hue: 'red' }] });
    expect(sqlOf(of)).toBe('no-column: tags has no column hue');
  });

  it.each(['tickets_event_id_fkey', 'fk_tickets_event_id'])('takes the constraint %s as a hint', (hint) => {
    for (const api of [BEFORE, AFTER]) {
      expect(sqlOf(prepared(access({ table: 'tickets', select: `events!${hint}(id)` })), api)).toContain('lateral');
    }
  });

  it('takes a column as a hint, and as the name of a table but not of a view', () => {
    const hinted = prepared(access({ table: 'events', select: 'hosts!host(name)' }));
    const named = prepared(access({ table: 'events', select: 'host(name)' }));
    expect(sqlOf(hinted)).toContain('"hosts_1"');
    expect(sqlOf(hinted, AFTER)).toContain('"hosts_1"');
    expect(sqlOf(named)).toContain('"hosts_1"');
    expect(sqlOf(named, AFTER)).toBe('unrelated: events and host');
  });
});

it('reads selects with blanks, modifiers and depth', () => {
  expect(parseSelect('*, a : b!x!inner ( c, d( * ) )')).toEqual([
    { kind: 'all' },
    {
      kind: 'embed',
      target: 'b',
      alias: 'a',
      hint: 'x',
      isInner: true,
      items: [
        { kind: 'column', column: 'c' },
        { kind: 'embed', target: 'd', isInner: false, items: [{ kind: 'all' }] },
      ],
    },
  ]);
  for (const broken of ['', 'a,', 'a(b', 'a)', 'a!b', `${'a('.repeat(12)}b${')'.repeat(12)}`]) {
    expect(parseSelect(broken)).toBeUndefined();
  }
});

it('finds where the columns of a view come from, and looks into no query inside of it', () => {
  const entry = (name: string, origin: string) =>
    `{TARGETENTRY :expr {VAR :varno 1} :resno 1 :resname ${name} :ressortgroupref 0 ${origin} :resjunk false}`;
  const inner = `{RTE :subquery {QUERY :targetList (${entry('hidden', ':resorigtbl 7 :resorigcol 1')})}}`;
  const outer = `${entry('sum', ':resorigtbl 0 :resorigcol 0')} ${entry('a\\ \\{b', ':resorigtbl 8 :resorigcol 2')}`;
  expect(originsIn(`({QUERY :rtable (${inner}) :targetList (${outer})})`)).toEqual([
    { column: 'a {b', relation: 8, attribute: 2 },
  ]);
});

describe('comparing what two times gave', () => {
  const rows = (texts: readonly string[], rest: Partial<Extract<RawOutcome, { status: 'rows' }>> = {}): RawOutcome => ({
    status: 'rows',
    rows: texts,
    isOrdered: false,
    total: null,
    effects: [],
    ...rest,
  });
  const NOW = new Date('2026-05-05T12:00:00Z');
  const differences = (before: RawOutcome, after: RawOutcome, again = before, afterAgain = after) =>
    compareAccesses(
      [{ number: 3, caller: 'owner', outcome: outcomeOf(before, { second: again, now: NOW }) }],
      [{ number: 3, caller: 'owner', outcome: outcomeOf(after, { second: afterAgain, now: NOW }) }],
    ).map(({ what }) => what);

  it('passes over the order where none was asked for', () => {
    expect(differences(rows(['{"a":1}', '{"a":2}']), rows(['{"a":2}', '{"a":1}']))).toEqual([]);
    const ordered = { isOrdered: true };
    expect(differences(rows(['{"a":1}', '{"a":2}'], ordered), rows(['{"a":2}', '{"a":1}'], ordered))).toEqual([
      'has the same values in other rows, or rows in another order',
    ]);
  });

  it('passes over what varies from run to run', () => {
    const at = (id: number, name: string) => rows([`{"id":${id},"name":"${name}"}`]);
    expect(differences(at(1, 'x'), at(3, 'x'), at(2, 'x'), at(4, 'x'))).toEqual([]);
    expect(differences(at(1, 'x'), at(3, 'y'), at(2, 'x'), at(4, 'y'))).toEqual(['differs in name']);
  });

  it('passes over what is of today, and sees what is of another day', () => {
    const at = (instant: string) => rows([`{"at":"${instant}"}`]);
    expect(differences(at('2026-05-05T11:01:00+00:00'), at('2026-05-05T11:02:00+00:00'))).toEqual([]);
    expect(differences(at('2026-05-05'), at('2026-05-06'))).toEqual([]);
    expect(differences(at('2026-05-01'), at('2026-05-02'))).toEqual(['differs in at']);
  });

  it('sees other rows, values, counts, effects and refusals', () => {
    const refused: RawOutcome = { status: 'refused', by: 'database', code: '42501', message: 'no' };
    const effect = { table: 'orders', inserted: 1, updated: 0, deleted: 0, rows: ['{"id":1}'] };
    expect(differences(rows(['{"a":1}']), rows([]))).toEqual(['1 rows became 0']);
    expect(differences(rows(['{"a":1}']), rows(['{"a":2}']))).toEqual(['differs in a']);
    expect(differences(rows(['{"a":1}']), rows(['{"a":1,"b":null}']))).toEqual(['differs in b']);
    expect(differences(rows(['12345678901234567890']), rows(['12345678901234567891']))).toEqual([
      'differs in its value',
    ]);
    expect(differences(rows([], { total: 1 }), rows([], { total: 2 }))).toEqual(['a count of 1 became 2']);
    expect(differences(rows([], { effects: [effect] }), rows([]))).toEqual(['wrote orders +1 ~0 -0 and now nothing']);
    expect(differences(rows([]), refused)).toEqual(['was answered, is refused with 42501: no']);
    expect(differences(refused, rows([]))).toEqual(['was refused with 42501: no, is answered']);
    expect(compareAccesses([], [{ number: 3, caller: 'owner', outcome: outcomeOf(refused) }])).toHaveLength(1);
  });
});
