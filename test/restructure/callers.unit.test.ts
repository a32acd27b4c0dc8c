import { describe, expect, it } from 'vitest';
import { CALLER_FINDINGS, type CallerFinding, findCallers } from '../../src/restructure/callers.ts';

const MOVABLES = {
  from: 'public',
  tables: new Set(['orders', 'Order Lines', 'items', 'größen']),
  sequences: new Map([
    ['orders_id_seq', 'orders'],
    ['Line Numbers', 'Order Lines'],
  ]),
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
  findCallers([{ where: 'function public.f()', text }], MOVABLES).map(({ table, finding }) => `${finding} ${table}`);

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
    ['update orders set a = 1; update elsewhere set a = 2 where current of c'],
  ])('not: %s', (text) => {
    expect(found(text)).toEqual([]);
  });

  it('is said once of a table and a text, with where it stands', () => {
    expect(findCallers([{ where: 'statement 7', text: 'truncate orders; TRUNCATE orders' }], MOVABLES)).toEqual([
      { table: 'orders', finding: 'calls-truncate', where: 'statement 7' },
    ]);
  });

  it('has words for each', () => {
    for (const { severity, because } of Object.values(CALLER_FINDINGS)) {
      expect(severity).toMatch(/^breaks$|^may break$/);
      expect(because.length).toBeGreaterThan(10);
    }
  });
});
