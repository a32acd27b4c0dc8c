import { DAY, DAYS, type Example, type Examples, MOVE, MOVED, VIEW } from './examples.ts';

const KEPT = 'create materialized view kept as select id from notes;';

export const VIEWS: Examples = {
  'view-without-security-invoker': {
    bad: [
      ['without options', 'create view v as select id from t;', ['1.sql:1:1']],
      ['with another', 'create view v with (security_barrier) as select id from t;', ['1.sql:1:1']],
      [
        'replaced without',
        'create view v with (security_invoker) as select id from t;\ncreate or replace view v as select id from t;',
        ['1.sql:2:1'],
      ],
      ['taken from one that was there', 'alter view v set (security_invoker = false);', ['1.sql:1:1']],
      ['taken by ALTER TABLE', 'alter table v set (security_invoker = off);', ['1.sql:1:1']],
      ...['reset (security_invoker)', 'set (security_invoker = false)', 'set (security_invoker = 0)'].map(
        (taken): Example => [
          `taken from one of the same file by ${taken}`,
          `create view v with (security_invoker) as select id from t;\nalter view v ${taken};`,
          ['1.sql:2:1'],
        ],
      ),
      ['said not to, where a table was', `${MOVE}\n${VIEW.replace('true', 'false')}`, ['1.sql:2:1']],
    ],
    good: [
      ['with it', 'create view v with (security_invoker = on) as select id from t;'],
      ['said not to', 'create view v with (security_invoker = false) as select id from t;'],
      ['set later', 'create view v as select id from t; alter view v set (security_invoker = true);'],
      ['taken, and given back', 'alter view v reset (security_invoker); alter view v set (security_invoker);'],
      [
        'another option taken',
        'create view v with (security_invoker) as select id from t; alter view v reset (security_barrier);',
      ],
      ['dropped again', 'create view v as select id from t; drop view v;'],
      [
        'said not to where a table was, and set later',
        `${MOVED.replace('true', 'false')} alter view public.orders set (security_invoker = true);`,
      ],
      ['temporary', 'create temp view v as select id from t;'],
    ],
  },
  'materialized-view-past-policies': {
    bad: [
      ['with policies from before', `create policy p on notes using (true);\n${KEPT}`, ['1.sql:2:1']],
      [
        'with row-level security that comes later',
        `${KEPT}\nalter table notes enable row level security;`,
        ['1.sql:1:1'],
      ],
      [
        'through a view',
        [
          'create policy p on notes using (true); create view v with (security_invoker) as select id from notes;',
          KEPT.replace('notes', 'v'),
        ],
        ['2.sql:1:1'],
      ],
      [
        'of a partition, and of what moves',
        [
          DAYS,
          DAY,
          'alter table days enable row level security; alter table days_1 set schema s;',
          'create materialized view kept as select id from s.days_1;',
        ],
        ['4.sql:1:1'],
      ],
      [
        'of what moves later',
        ['create policy p on notes using (true);', KEPT, 'alter table notes set schema s;'],
        ['2.sql:1:1'],
      ],
    ],
    good: [
      ['of a table without', KEPT],
      [
        'a view',
        'create policy p on notes using (true); create view v with (security_invoker) as select id from notes;',
      ],
      ['a table', 'create policy p on notes using (true); create table kept as select id from notes;'],
      ['dropped again', `create policy p on notes using (true); ${KEPT} drop materialized view kept;`],
    ],
  },
  'select-star-view': {
    bad: [
      [
        'of a subquery that has one',
        'create view v with (security_invoker) as select o.* from (select * from orders) o;',
        ['1.sql:1:66'],
      ],
      [
        'of a common table expression that has one',
        'create view v with (security_invoker) as with o as (select * from orders) select id from o;',
        ['1.sql:1:60'],
      ],
      ['of a row', 'create view v with (security_invoker) as select (x).* from orders x;', ['1.sql:1:50']],
      [
        'of a row of a function',
        'create view v with (security_invoker) as select (f(o.id)).* from orders o;',
        ['1.sql:1:52'],
      ],
      [
        'of a table by its name alone',
        'select 1;\n  create view v with (security_invoker) as table s.t;',
        ['1.sql:2:3'],
      ],
      ['in a materialized view', 'create materialized view v as select * from t;', ['1.sql:1:38']],
      ['of a table', 'create view v with (security_invoker) as select * from t;', ['1.sql:1:49']],
      [
        'by its alias',
        'create view v with (security_invoker) as select x.id, y.* from x join s.t y on true;',
        ['1.sql:1:55'],
      ],
      [
        'in a union',
        'create view v with (security_invoker) as select id from t union all select * from u;',
        ['1.sql:1:76'],
      ],
    ],
    good: [
      [
        'of a common table expression',
        'create view v with (security_invoker) as with c as (select id from t) select * from c;',
      ],
      ['of a subquery', 'create view v with (security_invoker) as select * from (select id from t) s;'],
      ['of a row of a subquery', 'create view v with (security_invoker) as select (s).* from (select id from t) s;'],
      [
        'asked for in EXISTS',
        'create view v with (security_invoker) as select id from t where exists (select * from u);',
      ],
      ['counted', 'create view v with (security_invoker) as select count(*) as n from t;'],
      ['outside of a view', 'create function f() returns setof t language sql as $$ select * from t $$;'],
    ],
  },
  'instead-of-trigger': {
    bad: [
      [
        'on a view of one table',
        `${VIEW}\ncreate trigger w instead of insert on public.orders for each row execute function w();`,
        ['1.sql:2:1'],
      ],
    ],
    good: [
      [
        'on a join',
        'create view v with (security_invoker) as select a.id from a join b on true; create trigger w instead of insert on v for each row execute function w();',
      ],
      [
        'on an aggregate',
        'create view v with (security_invoker) as select count(*) as n from a; create trigger w instead of insert on v for each row execute function w();',
      ],
      [
        'on a distinct one',
        'create view v with (security_invoker) as select distinct id from a; create trigger w instead of insert on v for each row execute function w();',
      ],
      ['on one that nobody saw', 'create trigger w instead of insert on v for each row execute function w();'],
      [
        'after, on a table',
        'create table t (id int); create trigger w after insert on t for each row execute function w();',
      ],
    ],
  },
  'foreign-key-to-view': {
    bad: [
      ['of a new table', `${MOVED}\ncreate table lines (order_id int references public.orders);`, ['1.sql:3:34']],
      [
        'added',
        `${MOVED}\nalter table lines add constraint k foreign key (order_id) references orders (id) not valid;`,
        ['1.sql:3:23'],
      ],
    ],
    good: [
      [
        'before the move',
        `alter table lines add constraint k foreign key (order_id) references orders (id) not valid; ${MOVED}`,
      ],
      ['to the table', `${MOVED} create table lines (order_id int references sales.orders);`],
    ],
  },
  'copy-truncate-through-view': {
    bad: [
      ['TRUNCATE', `${MOVED}\ntruncate public.orders;`, ['1.sql:3:1']],
      ['COPY', `${MOVED}\ncopy orders to stdout;`, ['1.sql:3:1']],
      ['MERGE', `${MOVED}\nmerge into orders using x on true when matched then delete;`, ['1.sql:3:1']],
      [
        'ON CONFLICT ON CONSTRAINT',
        `${MOVED}\ninsert into orders values (1) on conflict on constraint k do nothing;`,
        ['1.sql:3:1'],
      ],
      ['ctid', `${MOVED}\ndelete from orders where ctid = '(0,1)';`, ['1.sql:3:1']],
      ['xmin by an alias', `${MOVED}\nselect o.xmin from orders o, x;`, ['1.sql:3:1']],
      [
        'in a function of before',
        `create function f() returns void language plpgsql as $$\nbegin\n  truncate orders;\nend $$;\n${MOVED}`,
        ['1.sql:3:3'],
      ],
      [
        'of a view that moved',
        `${MOVED}\nalter view orders set schema old; alter view old.orders rename to o;\ntruncate old.o;`,
        ['1.sql:4:1'],
      ],
      ['in a string that is run', `${MOVED}\ndo $$ begin execute 'truncate orders'; end $$;`, ['1.sql:3:21']],
    ],
    good: [
      ['ON CONFLICT (column)', `${MOVED} insert into orders values (1) on conflict (id) do nothing;`],
      ['before the move', `truncate orders; ${MOVED}`],
      ['of the table', `${MOVED} truncate sales.orders;`],
      [
        'after the move back',
        `${MOVED}\n-- Down Migration\ndrop view orders; alter table sales.orders set schema public; truncate orders;`,
      ],
      [
        'in a function that is written anew',
        `create function f() returns void language sql as 'truncate orders'; ${MOVED} create or replace function f() returns void language sql as 'truncate sales.orders';`,
      ],
      ['of a view that is elsewhere', `${MOVED} alter view orders set schema old; truncate orders, old.o;`],
      ['a column of its own', `${MOVED} select id from orders;`],
      ['ctid of nobody knows which', `${MOVED} select ctid from orders, x;`],
      ['ctid of another', `${MOVED} select x.ctid from orders o, x;`],
    ],
  },
};
