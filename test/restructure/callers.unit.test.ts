import { describe, expect, it } from 'vitest';
import { CALLER_FINDINGS, type CallerFinding, findCallers, findNaming } from '../../src/restructure/callers.ts';

const MOVABLES = {
  from: 'public',
  tables: new Set(['orders', 'Order Lines', 'items', 'größen']),
  sequences: new Map([
    ['orders_id_seq', 'orders'],
    ['Line Numbers', 'Order Lines'],
  ]),
  indexes: new Map([['orders_number', 'orders']]),
  keys: new Map([
    ['orders', 'id'],
    ['items', 'number'],
  ]),
  constraints: [
    { name: 'orders_customer', table: 'orders' },
    { name: 'items_order', table: 'items' },
  ],
};

const found = (text: string): readonly string[] =>
  findCallers([{ kind: 'function', where: 'function public.f()', text }], MOVABLES).map(
    ({ table, finding }) => `${finding} ${table}`,
  );

describe('what a text does that a view does not take', () => {
  it.each<[text: string, finding: CallerFinding, ...tables: string[]]>([
    ['copy orders from stdin', 'calls-copy', 'orders'],
    [`COPY public."Order Lines" (a, b)\n  TO '/tmp/x'`, 'calls-copy', 'Order Lines'],
    ['truncate orders', 'calls-truncate', 'orders'],
    [
      'TRUNCATE TABLE ONLY public.orders, only "Order Lines", größen RESTART IDENTITY',
      'calls-truncate',
      'orders',
      'Order Lines',
      'größen',
    ],
    ['truncate orders *, items', 'calls-truncate', 'orders', 'items'],
    [
      'insert into orders (a) values (1) on conflict on constraint orders_key do nothing',
      'calls-on-constraint',
      'orders',
    ],
    [
      'with x as (select 1) insert into public.orders as o select * from x\non conflict on\nconstraint k do update set a = 1',
      'calls-on-constraint',
      'orders',
    ],
    ['merge into orders o using items i on true when matched then delete', 'calls-merge', 'orders'],
    ['alter table if exists only orders add column x int', 'calls-ddl', 'orders'],
    ['drop table items, public.orders cascade', 'calls-ddl', 'items', 'orders'],
    ['create table x partition of orders for values in (1)', 'calls-ddl', 'orders'],
    ['alter table y attach partition public.orders default', 'calls-ddl', 'orders'],
    ['create temp table x (id int references public."Order Lines" (id))', 'calls-ddl', 'Order Lines'],
    ['create unique index concurrently if not exists x on only orders (id)', 'calls-ddl', 'orders'],
    ['create or replace trigger t before insert on public.orders execute function f()', 'calls-ddl', 'orders'],
    ['create policy p on orders using (true)', 'calls-ddl', 'orders'],
    [`comment on table orders is 'x'`, 'calls-ddl', 'orders'],
    ['create statistics s on a, b from orders', 'calls-ddl', 'orders'],
    ['select * from orders o tablesample system (1)', 'calls-sample', 'orders'],
    ['update orders set a = 1 where current of c', 'calls-current-of', 'orders'],
    ['delete from only public.orders where current of c', 'calls-current-of', 'orders'],
    ['select * from only orders', 'calls-only', 'orders'],
    ['update only (orders) set a = 1', 'calls-only', 'orders'],
    [`select 'public.orders'::regclass`, 'calls-regclass', 'orders'],
    [
      `select pg_total_relation_size('"Order Lines"'), to_regclass( 'public.items' )`,
      'calls-regclass',
      'Order Lines',
      'items',
    ],
    [`select nextval('orders_id_seq')`, 'calls-sequence', 'orders'],
    [`select setval('public."Line Numbers"'::regclass, 5)`, 'calls-sequence', 'Order Lines'],
    ['set constraints public.orders_customer, items_order deferred', 'calls-set-constraints', 'orders', 'items'],
    [`execute format('truncate %I', t); t := 'orders';`, 'calls-dynamic', 'orders'],
    [`execute 'create table x partition of public.' || quote_ident(p); p := 'items'`, 'calls-dynamic', 'items'],
    [
      'select o.id, o.state, count(*) from orders o join items i on i.o = o.id group by o.id',
      'calls-group-by-key',
      'orders',
    ],
    ['select last_value from public.orders_id_seq', 'calls-sequence', 'orders'],
    ['alter sequence public.orders_id_seq restart', 'calls-sequence', 'orders'],
    ['grant usage on sequence orders_id_seq to web', 'calls-sequence', 'orders'],
    [`select cast('public.orders_id_seq' as regclass)`, 'calls-sequence', 'orders'],
    [`select cast('public.orders' as pg_catalog.regclass)`, 'calls-regclass', 'orders'],
    [`select 'public.orders'::text::regclass, regclass 'items'`, 'calls-regclass', 'orders', 'items'],
    [`execute 'select nextval(''public.orders_id_seq'')'`, 'calls-sequence', 'orders'],
    [`select * from pg_sequences where schemaname = 'public'`, 'calls-catalog', 'orders', 'Order Lines'],
    [`select 'public.orders_number'::regclass`, 'calls-index', 'orders'],
    ['reindex index concurrently public.orders_number', 'calls-index', 'orders'],
    ['reindex (verbose) index orders_number', 'calls-index', 'orders'],
    ['alter index orders_number rename to x', 'calls-index', 'orders'],
    ['drop index if exists public.orders_number', 'calls-index', 'orders'],
    ['cluster public.orders using orders_number', 'calls-ddl', 'orders'],
    [`raise notice '--'; truncate public.orders;`, 'calls-truncate', 'orders'],
    [`raise notice e'it\\'s --'; truncate public.orders;`, 'calls-truncate', 'orders'],
    ['execute $q$truncate public.orders$q$', 'calls-truncate', 'orders'],
    ['execute $q$truncate /* all */ $q$ || $t$public.orders$t$', 'calls-dynamic', 'orders'],
    [`execute concat('truncate ', 'public.orders')`, 'calls-dynamic', 'orders'],
    ['create table x (like public.orders including all)', 'calls-ddl', 'orders'],
    ['create table x (a int, like orders)', 'calls-ddl', 'orders'],
    ['drop trigger if exists t on public.orders', 'calls-ddl', 'orders'],
    ['drop policy if exists p on orders', 'calls-ddl', 'orders'],
    ['alter policy p on orders using (true)', 'calls-ddl', 'orders'],
    ['create rule r as on insert to orders do nothing', 'calls-ddl', 'orders'],
    ['revoke all on table public.orders from web', 'calls-grant', 'orders'],
    ['grant select, update (a) on orders, public.items to web', 'calls-grant', 'orders', 'items'],
    ['select ctid from orders', 'calls-system-column', 'orders'],
    ['insert into public.orders default values returning (xmax = 0)', 'calls-system-column', 'orders'],
  ])('%s', (text, finding, ...tables) => {
    expect(found(text).filter((each) => each.startsWith(`${finding} `))).toEqual(
      tables.map((table) => `${finding} ${table}`),
    );
  });

  it.each<[text: string]>([
    ['select * from orders where id = 1 for update'],
    ['insert into orders (id) values (1) on conflict (id) do nothing'],
    ['insert into orders values (1); insert into elsewhere values (1) on conflict on constraint k do nothing'],
    ['copy (select * from orders) to stdout'],
    ['truncate other.orders, ordersx, "Orders"'],
    ['-- truncate orders\n/* copy orders from stdin */ select 1'],
    [`select nextval('other.orders_id_seq'), nextval('orders_id_seqx')`],
    ['set constraints all deferred'],
    ['select state, count(*) from orders group by state having min(id) > 1'],
    ['alter table other.orders add column x int'],
    ['create table x (like other.orders)'],
    [`select a from orders where (a like b) and (orders.a, b) is not null`],
    ['grant execute on function orders() to web; grant usage on schema public to web'],
    [`raise notice 'truncated '; perform f('orders')`],
    [`-- it's\nselect 1 -- truncate orders`],
    [`select last_value from other.orders_id_seq; select 'other.orders_number'::regclass`],
    [`select * from pg_sequences where schemaname = 'other'`],
    ['update orders set a = 1; update elsewhere set a = 2 where current of c'],
  ])('not: %s', (text) => {
    expect(found(text)).toEqual([]);
  });

  it('is said once of a table and a text, with where it stands', () => {
    const text = 'truncate orders; TRUNCATE orders';
    expect(findCallers([{ kind: 'job', where: 'cron job 7', text }], MOVABLES)).toEqual([
      { table: 'orders', finding: 'calls-truncate', where: 'cron job 7', severity: 'breaks' },
    ]);
  });

  it('of what somebody ran once breaks nothing for certain', () => {
    expect(findCallers([{ kind: 'statement', where: 'a statement', text: 'truncate orders' }], MOVABLES)).toEqual([
      { table: 'orders', finding: 'calls-truncate', where: 'a statement', severity: 'may break' },
    ]);
  });

  it('is found in who calls a function that puts statements together', () => {
    const helper = {
      kind: 'function',
      where: 'function public.empty_out(regclass)',
      text: `begin execute format('truncate %s', $1); end`,
    } as const;
    const calling = {
      kind: 'function',
      where: 'function public.f()',
      text: `perform empty_out('public.orders')`,
    } as const;
    expect(findCallers([calling, helper], MOVABLES)).toEqual([
      { table: 'orders', finding: 'calls-dynamic', where: 'function public.f()', severity: 'breaks' },
    ]);
    expect(findCallers([calling], MOVABLES)).toEqual([]);
  });

  it('is not needed to name a table', () => {
    const naming = (text: string) => findNaming([{ kind: 'function', where: 'f', text }], MOVABLES).get('orders') ?? [];
    expect(naming('select 1 from public.orders o')).toEqual(['f']);
    expect(naming(`execute 'select 1 from ' || 'orders'`)).toEqual(['f']);
    expect(naming('-- orders\nselect 1 from other.orders')).toEqual([]);
  });

  it('has words for each', () => {
    for (const { severity, because } of Object.values(CALLER_FINDINGS)) {
      expect(severity).toMatch(/^breaks$|^may break$/);
      expect(because.length).toBeGreaterThan(10);
    }
  });
});
