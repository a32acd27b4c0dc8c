import { DAY, DAYS, type Example, type Examples, MOVE, MOVED, VIEW } from './examples.ts';

const THROUGH =
  'create view sales.shown with (security_invoker) as select id from sales.orders; create view public.orders with (security_invoker) as select id from sales.shown;';

export const MOVES: Examples = {
  'set-schema-without-view': {
    bad: [
      ['a bare move', `select 1;\n  ${MOVE}`, ['1.sql:2:3']],
      [
        'with the view before it',
        'create or replace view public.orders with (security_invoker) as select 1 as one;\nalter table public.orders set schema sales;',
        ['1.sql:2:1'],
      ],
      ['with the view in another transaction', `begin; ${MOVE} commit;\nbegin; ${VIEW} commit;`, ['1.sql:1:8']],
      ['in a DO block', `do $$\nbegin\n  ${MOVE}\nend $$;`, ['1.sql:3:3']],
      [
        'in a function',
        `create function f() returns void language plpgsql as $$\nbegin\n  ${MOVE}\nend $$;`,
        ['1.sql:3:3'],
      ],
      [
        'in a string that is run',
        `do $$ begin\n execute 'alter table public.orders set schema sales'; end $$;`,
        ['1.sql:2:10'],
      ],
      ['each statement by itself', `-- lint: no-transaction\n${MOVED}`, ['1.sql:2:1']],
      [
        'a view of another schema',
        `${MOVE} create view orders.orders with (security_invoker) as select id from sales.orders;`,
        ['1.sql:1:1'],
      ],
      ['with a view of another table', `${MOVE} ${VIEW.replace('sales.orders', 'sales.lines')}`, ['1.sql:1:1']],
      ['with an empty table', `${MOVE} create table public.orders (id int);`, ['1.sql:1:1']],
      [
        'with a table of other rows',
        `${MOVE} create table public.orders (id int); insert into public.orders select id from sales.lines;`,
        ['1.sql:1:1'],
      ],
      ['with a table from another', `${MOVE} select id into public.orders from sales.lines;`, ['1.sql:1:1']],
      ['with a view that is dropped again', `${MOVED} drop view public.orders;`, ['1.sql:1:1']],
      ...['materialized view', 'view', 'foreign table', 'function', 'procedure', 'type', 'domain'].map(
        (what): Example => [`of a ${what}`, `alter ${what} v set schema s;`, ['1.sql:1:1']],
      ),
      ['of a type, with another', 'alter type y set schema s; create domain y as s.z;', ['1.sql:1:1']],
    ],
    good: [
      ['with a view under the old name', MOVED],
      [
        'of a table that the file creates',
        'create table public.orders (id int); alter table public.orders set schema sales;',
      ],
      [
        'a partition with its parent',
        [
          `${DAYS} ${DAY}`,
          `alter table public.days set schema sales; create view public.days with (security_invoker) as select id from sales.days; alter table public.days_1 set schema sales;`,
        ],
      ],
      [
        'back to where it was',
        `${MOVED}\n-- Down Migration\ndrop view public.orders; alter table sales.orders set schema public;`,
      ],
      [
        'of a view, a function and a type of its own, and of a sequence',
        'create view v with (security_invoker) as select 1 as x; alter view v set schema sales; alter sequence s set schema sales; create function f() returns int language sql as $$ select 1 $$; alter function f set schema sales; create type y as enum (); alter type y set schema sales; create type z as (a int); alter type z set schema sales; create domain w as int; alter domain w set schema sales;',
      ],
      [
        'of a materialized view, a foreign table and a view, each with a view that reads it',
        ['materialized view', 'foreign table', 'view']
          .map(
            (what, at) =>
              `alter ${what} t${at} set schema s; create view t${at} with (security_invoker) as select id from s.t${at};`,
          )
          .join(' '),
      ],
      ['with a view that reads it through another', `${MOVE} ${THROUGH}`],
      ['with a view that is made anew', `${MOVED} drop view public.orders; ${VIEW}`],
      ['with a view that a later transaction drops', [MOVED, 'drop view public.orders;']],
      [
        'moved on, with a view that reads it where it ends',
        `${MOVE} alter table sales.orders set schema shop; ${VIEW.replace('sales.', 'shop.')}`,
      ],
      [
        'with a table that has its rows',
        `${MOVE} create table public.orders (id int); insert into public.orders select id from sales.orders;`,
      ],
      ['with a table that is created from it', `${MOVE} create table public.orders as select id from sales.orders;`],
      [
        'with another table that comes in its place',
        `${MOVE} alter table old.orders set schema public; create view old.orders with (security_invoker) as select id from public.orders;`,
      ],
      [
        'of a function, with one that calls it',
        'alter function f(int) set schema s; create function f(int) returns int language sql as $$ select s.f($1) $$;',
      ],
      ['of a type, with a domain over it', 'alter type y set schema s; create domain y as s.y;'],
      [
        'in a function that makes the view too',
        `create function f() returns void language plpgsql as $$ begin ${MOVED} end $$;`,
      ],
      [
        'in a loop that makes each view too',
        `do $$ declare r record; begin for r in select 1 as t loop
        execute format('alter table public.%I set schema sales', r.t);
        execute format('create view public.%I with (security_invoker) as select id from sales.%1$I', r.t); end loop; end $$;`,
      ],
    ],
  },
  'rename-without-view': {
    bad: [
      ['a bare rename', 'alter table a rename to b;', ['1.sql:1:1']],
      [
        'with a view under another name',
        'alter table a rename to b; create view c with (security_invoker) as select id from b;',
        ['1.sql:1:1'],
      ],
      ...['materialized view', 'view', 'foreign table', 'function', 'type', 'domain'].map(
        (what): Example => [`of a ${what}`, `alter ${what} v rename to w;`, ['1.sql:1:1']],
      ),
    ],
    good: [
      [
        'with a view under the old name',
        'alter table a rename to b; create view a with (security_invoker) as select id from b;',
      ],
      ['a swap', 'alter table a rename to a_old; alter table a_new rename to a;'],
      ['of a column, which squawk looks at', 'alter table a rename column b to c;'],
      ['of a table that the file creates', 'create table a (id int); alter table a rename to b;'],
      [
        'of a view',
        'create view a with (security_invoker) as select 1 as x; alter table a rename to b; alter view b rename to c;',
      ],
    ],
  },
  'moved-view-without-grants': {
    bad: [
      ['granted in the same file', `grant select on public.orders to web;\n${MOVED}`, ['1.sql:3:1']],
      ['granted in an earlier file', ['grant select on all tables in schema public to web;', MOVED], ['2.sql:2:1']],
      [
        'granted, with another view granted after',
        `grant select on public.orders to web;\n${MOVED}\ngrant select on public.other to web;`,
        ['1.sql:3:1'],
      ],
    ],
    good: [
      ['granted again', `grant select on public.orders to web; ${MOVED} grant select on public.orders to web;`],
      [
        'granted again with all of the schema',
        `grant select on public.orders to web; ${MOVED} grant select on all tables in schema public to web;`,
      ],
      ['never granted', MOVED],
      ['granted before in another place', `grant select on public.others to web; ${MOVED}`],
      ['whose name a table takes', `grant select on orders to web; ${MOVE} create table orders (id int);`],
      ['revoked', `revoke all on public.orders from web; ${MOVED}`],
    ],
  },
  'partition-children-left': {
    bad: [
      [
        'of a table that an earlier file partitions',
        [
          `${DAYS} ${DAY}`,
          `alter table public.days set schema sales; create view public.days with (security_invoker) as select id from sales.days;`,
        ],
        ['2.sql:1:1'],
      ],
      [
        'with an attached partition',
        `alter table public.days attach partition public.d1 for values in (1);\nalter table public.days set schema sales; create view public.days with (security_invoker) as select id from sales.days;`,
        ['1.sql:2:1'],
      ],
      [
        'whose partitions are made by others',
        [
          DAYS,
          `alter table public.days set schema sales; create view public.days with (security_invoker) as select id from sales.days;`,
        ],
        ['2.sql:1:1'],
      ],
    ],
    good: [
      [
        'with its partitions',
        [
          `${DAYS} ${DAY}`,
          `alter table public.days set schema sales; create view public.days with (security_invoker) as select id from sales.days; alter table public.days_1 set schema sales;`,
        ],
      ],
      [
        'with partitions that a loop moves',
        [
          `${DAYS} ${DAY}`,
          `alter table public.days set schema sales; create view public.days with (security_invoker) as select id from sales.days;
        do $$ declare r record; begin for r in select 1 as t loop execute format('alter table public.%I set schema sales', r.t); execute format('create view public.%I with (security_invoker) as select id from sales.x', r.t); end loop; end $$;`,
        ],
      ],
      [
        'whose partition was detached',
        [
          `${DAYS} ${DAY}`,
          `alter table public.days detach partition public.days_1; alter table public.days_1 set schema sales; create view public.days_1 with (security_invoker) as select id from sales.days_1;`,
        ],
      ],
    ],
  },
  'nextval-of-moved-sequence': {
    bad: [
      [
        'of a serial column',
        `${MOVED}\ninsert into public.orders (id) values (nextval('public.orders_id_seq'));`,
        ['1.sql:3:40'],
      ],
      ['as regclass', `${MOVED}\nselect setval('orders_id_seq'::regclass, 1);`, ['1.sql:3:8']],
      ['moved by itself', `alter sequence public.s set schema sales;\nselect nextval('s');`, ['1.sql:2:8']],
      [
        'in a function, whenever it was written',
        `create function f() returns bigint language plpgsql as $$\nbegin\n  return nextval('public.orders_id_seq');\nend $$;\n${MOVED}`,
        ['1.sql:3:10'],
      ],
      ['asked of the view', `${MOVED}\nselect pg_get_serial_sequence('public.orders', 'id');`, ['1.sql:3:8']],
      [
        'in a body of SQL',
        `${MOVED}\ncreate function f() returns bigint language sql as 'select nextval(''public.orders_id_seq'')';`,
        ['1.sql:3:1'],
      ],
      [
        'in a body that is parsed when it is written',
        `${MOVED}\ncreate function f() returns bigint language sql begin atomic select nextval('orders_id_seq'); end;`,
        ['1.sql:3:69'],
      ],
    ],
    good: [
      ['before the move', `select nextval('public.orders_id_seq'); ${MOVED}`],
      ['where it is', `${MOVED} select nextval('sales.orders_id_seq');`],
      ['another', `${MOVED} select nextval('public.others_id_seq');`],
      ['made anew', `${MOVED} create sequence public.orders_no_seq; select nextval('public.orders_no_seq');`],
      [
        'of a table that was renamed in its schema',
        `alter table orders rename to o2; create view orders with (security_invoker) as select id from o2; select nextval('orders_id_seq');`,
      ],
    ],
  },
  'schema-publication': {
    bad: [
      ['created', 'create publication p for tables in schema public;', ['1.sql:1:43']],
      ['of the current schema', 'create publication p for tables in schema current_schema;', ['1.sql:1:43']],
      ['added', 'alter publication p add tables in schema public;', ['1.sql:1:42']],
    ],
    good: [
      ['of tables', 'create publication p for table a, b; create publication q for all tables;'],
      ['taken off', 'alter publication p drop tables in schema public;'],
    ],
  },
};
