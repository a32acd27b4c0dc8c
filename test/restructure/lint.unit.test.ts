import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parseBaseline } from '../../src/restructure/lint/baseline.ts';
import { type LintOptions, lint, type Report } from '../../src/restructure/lint/lint.ts';
import { OWN_RULES, RULES } from '../../src/restructure/lint/rules.ts';
import { findSquawk, LEFT_OUT } from '../../src/restructure/lint/squawk.ts';

// What each rule finds, where, and what it leaves alone. Files of a set are `1.sql`, `2.sql`, … in this order.

const linted = (sql: string | readonly string[], options: LintOptions = {}): Promise<Report> =>
  lint(
    [sql].flat().map((each, index) => ({ path: `${index + 1}.sql`, sql: each })),
    options,
  );

/** As `1.sql:line:column rule`. */
async function found(sql: string | readonly string[], options: LintOptions = {}): Promise<string[]> {
  const { findings } = await linted(sql, options);
  return findings.map(({ path, line, column, rule }) => `${path}:${line}:${column} ${rule}`);
}

/** Rules that nearly every bad example breaks too are left out of the others. */
const LOCKS = ['lock-without-timeout', 'more-than-one-hot-table-a-transaction'];
const but = (rule: string): LintOptions => ({ disabled: LOCKS.filter((each) => each !== rule) });

type Case = readonly [what: string, sql: string | readonly string[], where?: readonly string[]];

const VIEW = 'create view public.orders with (security_invoker = true) as select id, total from sales.orders;';
const MOVE = 'alter table public.orders set schema sales;';
const MOVED = `${MOVE}\n${VIEW}`;
const DAYS = 'create table public.days (id bigint, day date) partition by range (day);';
const DAY = "create table public.days_1 partition of public.days for values from ('2026-01-01') to ('2026-01-02');";
const TENANTS = 'create table public.notes (id bigint primary key, org_id uuid not null);';

/** By rule: what breaks it, with where; and what resembles that and does not. */
const CASES: Readonly<Record<string, { readonly bad: readonly Case[]; readonly good: readonly Case[] }>> = {
  'set-schema-without-view': {
    bad: [
      ['a bare move', `select 1;\n  ${MOVE}`, ['1.sql:2:3']],
      [
        'with the view before it',
        'create view public.orders with (security_invoker) as select 1 as one;\nalter table public.orders set schema sales;',
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
      ['of a view, and of a sequence', 'alter view v set schema sales; alter sequence s set schema sales;'],
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
        'create view a with (security_invoker) as select 1 as x; alter table a rename to b; alter view c rename to d;',
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
  'view-without-security-invoker': {
    bad: [
      ['without options', 'create view v as select id from t;', ['1.sql:1:1']],
      ['with another', 'create view v with (security_barrier) as select id from t;', ['1.sql:1:1']],
      [
        'replaced without',
        'create view v with (security_invoker) as select id from t;\ncreate or replace view v as select id from t;',
        ['1.sql:2:1'],
      ],
    ],
    good: [
      ['with it', 'create view v with (security_invoker = on) as select id from t;'],
      ['said not to', 'create view v with (security_invoker = false) as select id from t;'],
      ['set later', 'create view v as select id from t; alter view v set (security_invoker = true);'],
      ['dropped again', 'create view v as select id from t; drop view v;'],
      ['temporary', 'create temp view v as select id from t;'],
    ],
  },
  'select-star-view': {
    bad: [
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
  'more-than-one-hot-table-a-transaction': {
    bad: [
      [
        'two tables',
        'alter table a add column x int;\nalter table b add column x int;\nalter table c add column x int;',
        ['1.sql:2:1'],
      ],
      [
        'between begin and commit',
        'begin; create trigger t after insert on a for each row execute function f();\ndrop table b; commit;',
        ['1.sql:2:1'],
      ],
      ['an index, and a foreign key', 'create index i on a (x);\ncreate table c (id int references b);', ['1.sql:2:1']],
      [
        'in a loop over names',
        `do $$ declare r record; begin\n for r in select 1 as t loop execute format('alter table %I add column x int', r.t); end loop; end $$;`,
        ['1.sql:2:38'],
      ],
    ],
    good: [
      ['one table, twice', 'alter table a add column x int; alter table a add column y int;'],
      [
        'a transaction each',
        'begin; alter table a add column x int; commit; begin; alter table b add column x int; commit;',
      ],
      [
        'each statement by itself',
        '-- lint: no-transaction\nalter table a add column x int; alter table b add column x int;',
      ],
      [
        'tables of its own',
        'create table b (id int); alter table a add column x int; alter table b add column x int; create table c (id int references b);',
      ],
      ['a foreign key, which needs both', 'alter table a add constraint k foreign key (x) references b not valid;'],
      [
        'a table with its partitions',
        [`${DAYS} ${DAY}`, 'alter table days add column x int; alter table days_1 alter column x set default 1;'],
      ],
      [
        'what nobody waits for',
        'alter table a validate constraint k; alter table b alter column x set statistics 7; alter table c set (fillfactor = 70); alter table d attach partition e for values in (1);',
        [],
      ],
      [
        'in a loop over rows',
        `do $$ begin for i in 1..2 loop execute 'alter table a add column x int'; end loop; end $$;`,
      ],
      ['named by a variable, once', `do $$ begin execute format('alter table %I add column x int', y); end $$;`],
      ['a table, by both of its names', `${MOVED} alter table sales.orders add column x int;`],
      [
        'in functions',
        `create function f() returns void language sql as 'truncate a'; create function g() returns void language sql as 'truncate b';`,
      ],
    ],
  },
  'lock-without-timeout': {
    bad: [
      ['none', 'select 1; alter table a add column x int; alter table a add column y int;', ['1.sql:1:11']],
      ['set too late', "alter table a add column x int; set lock_timeout = '50ms';", ['1.sql:1:1']],
      ['set to nothing', 'set lock_timeout = 0; alter table a add column x int;', ['1.sql:1:23']],
      ['reset with all', "set lock_timeout = '50ms'; reset all; alter table a add column x int;", ['1.sql:1:39']],
      ['discarded', "set lock_timeout = '50ms'; discard all; alter table a add column x int;", ['1.sql:1:41']],
      [
        'another',
        "set statement_timeout = '50ms'; select set_config('idle_timeout', '50ms', false), pg_sleep('lock_timeout'); alter table a add column x int;",
        ['1.sql:1:109'],
      ],
      [
        'of the transaction before, by a function',
        "begin; select set_config('lock_timeout', '50ms', true); commit; begin; alter table a add column x int; commit;",
        ['1.sql:1:72'],
      ],
      ['reset', "set lock_timeout = '50ms'; reset lock_timeout; alter table a add column x int;", ['1.sql:1:48']],
      [
        'of the transaction before',
        "begin; set local lock_timeout = '50ms'; commit; begin; alter table a add column x int; commit;",
        ['1.sql:1:56'],
      ],
      ['of the file before', ["set lock_timeout = '50ms';", 'alter table a add column x int;'], ['2.sql:1:1']],
      ['once a transaction', 'begin; drop table a; commit; begin; truncate b; commit;', ['1.sql:1:8', '1.sql:1:37']],
      ['in a DO block', 'do $$ begin\n  alter table a add column x int;\nend $$;', ['1.sql:2:3']],
      ...[
        'alter table a rename column x to y',
        'alter table a set schema b; create view a with (security_invoker) as select x from b.a',
        'alter table a disable trigger all',
        'alter table a enable row level security; create policy p on a using (true)',
        'alter table d attach partition a for values in (1)',
        'create policy p on a using (true)',
        'alter policy p on a using (true)',
        'alter table a detach partition b',
        'drop trigger t on a',
        'drop policy p on a',
        'create index i on a (x)',
        'reindex table a',
        'vacuum full a',
        'cluster a using i',
        'lock table a in exclusive mode',
        'create table b (id int references a)',
        'alter table a add column b int references c',
      ].map((sql): Case => [sql, `${sql};`, ['1.sql:1:1']]),
    ],
    good: [
      [
        'of a view that an earlier file makes',
        [
          MOVED.replace('alter', "set lock_timeout = '50ms'; alter"),
          'drop trigger t on public.orders; alter table public.orders alter column total set default 1;',
        ],
      ],
      ['set for the transaction', "set local lock_timeout = '50ms'; alter table a add column x int;"],
      [
        'set for the session',
        "set lock_timeout = '50ms'; begin; alter table a add column x int; commit; begin; drop table a; commit;",
      ],
      ['set by a function', "select set_config('lock_timeout', '50ms', true); alter table a add column x int;"],
      [
        'set by a DO block',
        "do $$ begin perform set_config('lock_timeout', '50ms', true); end $$; alter table a add column x int;",
      ],
      ['a table of its own', 'create table a (id int); alter table a add column x int; create index i on a (x);'],
      ['a temporary one', 'create temp table a as select 1; truncate a;'],
      [
        'concurrently',
        '-- lint: no-transaction\ncreate index concurrently i on a (x); reindex (concurrently) table a; alter table a detach partition b concurrently;',
      ],
      ['VACUUM without FULL', '-- lint: no-transaction\nvacuum (analyze) a; reindex (verbose) index i;'],
      [
        'of what is no table',
        'alter view v alter column x set default 1; alter sequence s owned by none; alter index i set (fillfactor = 50);',
      ],
      [
        'a function between',
        "set lock_timeout = '50ms'; create function f() returns void language sql as 'select 1'; alter table a add column x int;",
      ],
      ['nowait', 'lock table a in access exclusive mode nowait; lock table b in row exclusive mode;'],
      [
        'what nobody waits for',
        'alter table a validate constraint k; alter index i rename to j; comment on table a is $$x$$;',
      ],
    ],
  },
  'lock-timeout-too-long': {
    bad: [['ten seconds', "set lock_timeout = '10s';\nalter table a add column x int;", ['1.sql:2:1']]],
    good: [
      ['a second', 'set lock_timeout = 1000; alter table a add column x int;'],
      ['of nothing', "set lock_timeout = '10s'; select 1;"],
      [
        'by a variable',
        'do $$ declare v text; begin perform set_config($q$lock_timeout$q$, v, true); alter table a add column x int; end $$;',
      ],
    ],
  },
  'rows-changed-under-lock': {
    bad: [
      ['of the table', 'alter table a add column x int;\nupdate a set x = 1;', ['1.sql:2:1']],
      ['of another', 'drop trigger t on a;\ninsert into b select * from c;', ['1.sql:2:1']],
      ['deleted', 'alter table a add column x int;\ndelete from a; delete from a;', ['1.sql:2:1']],
    ],
    good: [
      ['before', 'update a set x = 1; alter table a add column x int;'],
      ['in another transaction', 'begin; alter table a add column x int; commit; update a set x = 1;'],
      ['a row', 'alter table a add column x int; insert into a values (1);'],
      [
        'of a table of its own',
        'create table b (id int); alter table a add column x int; insert into b select 1 from c;',
      ],
    ],
  },
  'not-in-a-transaction': {
    bad: [
      ['an index', 'create index concurrently i on a (x);', ['1.sql:1:1']],
      [
        'the others',
        'drop index concurrently i; reindex (concurrently) table a; vacuum a; alter table a detach partition b concurrently;',
        ['1.sql:1:1', '1.sql:1:28', '1.sql:1:60', '1.sql:1:70'],
      ],
      [
        'between begin and commit',
        '-- lint: no-transaction\nbegin; create index concurrently i on a (x); commit;',
        ['1.sql:2:8'],
      ],
      ['in a block', 'do $$ begin create index concurrently i on a (x); end $$;', ['1.sql:1:13']],
    ],
    good: [
      [
        'each statement by itself',
        '-- lint: no-transaction\nset lock_timeout = 0; create index concurrently i on a (x);',
      ],
      ['after the transaction', 'select 1; commit; create index concurrently i on a (x);'],
      [
        'in one that may',
        'analyze a; create index i on a (x); refresh materialized view concurrently m; alter table a detach partition b;',
      ],
    ],
  },
  'attach-with-default-partition': {
    bad: [
      [
        'attached',
        [
          `${DAYS} create table days_rest partition of days default;`,
          'alter table days attach partition d for values in (1);',
        ],
        ['2.sql:1:1'],
      ],
      ['created', [`${DAYS} create table days_rest partition of days default;`, DAY], ['2.sql:1:1']],
      [
        'with a check that nobody validated',
        [
          `${DAYS} create table days_rest partition of days default;`,
          'alter table days_rest add constraint k check (id > 1) not valid;\nalter table days attach partition d for values in (1);',
        ],
        ['2.sql:2:1'],
      ],
    ],
    good: [
      [
        'with a check that is valid from the start',
        [
          `${DAYS} create table days_rest partition of days default;`,
          'alter table days_rest add check (id > 1);',
          'alter table days attach partition d for values in (1);',
        ],
      ],
      [
        'with a validated check',
        [
          `${DAYS} create table days_rest partition of days default;`,
          'alter table days_rest add constraint k check (id > 1) not valid;',
          'alter table days_rest validate constraint k;',
          'alter table days attach partition d for values in (1);',
        ],
      ],
      ['without a default partition', [DAYS, 'alter table days attach partition d for values in (1);']],
      [
        'one that is new',
        `${DAYS} create table days_rest partition of days default; alter table days attach partition d for values in (1);`,
      ],
      [
        'one that was dropped',
        [
          `${DAYS} create table days_rest partition of days default;`,
          'drop table days_rest; alter table days attach partition d for values in (1);',
        ],
      ],
    ],
  },
  'partition-created-in-place': {
    bad: [['of a table in use', [DAYS, DAY], ['2.sql:1:1']]],
    good: [
      ['of one of its own', `${DAYS} ${DAY}`],
      [
        'attached',
        [
          DAYS,
          'create table days_1 (like days including all); alter table days attach partition days_1 for values in (1);',
        ],
      ],
      ['inherited', [DAYS, 'create table d () inherits (a);']],
    ],
  },
  'unwrapped-function-in-policy': {
    bad: [
      ['bare', 'create policy p on t using (owner = auth.uid());', ['1.sql:1:37']],
      ['in its check', 'create policy p on t for insert with check (org = current_org_id());', ['1.sql:1:51']],
      ['cast', "create policy p on t using (org = current_setting('app.org')::uuid);", ['1.sql:1:35']],
      ['of a column', 'alter policy p on t using (may_see(org));', ['1.sql:1:28']],
      ['inside another', 'create policy p on t using (lower(x) = lower(who()) and y);', ['1.sql:1:46']],
    ],
    good: [
      [
        'asked once',
        "create policy p on t using (owner = (select auth.uid()) and org = (select current_setting('app.org')::uuid));",
      ],
      ['in a set', 'create policy p on t using (org in (select org from members where who = (select auth.uid())));'],
      [
        'immutable ones',
        "create policy p on t using (lower(trim(x)) = 'a' and extract(year from y) > 2000 and y < now() and current_user = z);",
      ],
      ['outside of a policy', 'select auth.uid();'],
    ],
  },
  'policy-per-row-subquery': {
    bad: [
      [
        'correlated',
        'create policy p on notes using (exists (select 1 from members m where m.org_id = notes.org_id));',
        ['1.sql:1:33'],
      ],
      ['wrapped for nothing', 'create policy p on notes using ((select may_see(org_id)));', ['1.sql:1:33']],
    ],
    good: [
      ['turned round', 'create policy p on notes using (org_id in (select m.org_id from members m where m.who = 1));'],
      ['wrapped', 'create policy p on notes using ((select is_admin()) or true);'],
      ['of a function', 'create policy p on notes using (org_id in (select o from my_orgs() as o));'],
      ['of itself', 'create policy p on notes using (id in (select notes.parent from notes where notes.id > 1));'],
    ],
  },
  'tenant-column-without-index': {
    bad: [
      ['of a new table', `${TENANTS}\ncreate policy p on notes using (org_id = (select org()));`, ['1.sql:1:51']],
      [
        'added',
        'alter table t add column tenant_id uuid;\ncreate policy p on t using (tenant_id = (select org()));',
        ['1.sql:1:26'],
      ],
      [
        'with an index that begins otherwise',
        `${TENANTS}\ncreate index i on notes (id, org_id); create index j on notes (org_id) where id > 1; create index k on notes using gin (org_id);\ncreate policy p on notes using (org_id = (select org()));`,
        ['1.sql:1:51'],
      ],
      [
        'with an index that is dropped',
        `${TENANTS}\ncreate index i on notes (org_id); drop index i;\ncreate policy p on notes using (org_id = (select org()));`,
        ['1.sql:1:51'],
      ],
    ],
    good: [
      [
        'with an index',
        [
          `${TENANTS} create policy p on notes using (org_id = (select org()));`,
          'create index concurrently i on notes (org_id, id);',
        ],
      ],
      [
        'as a key',
        'create table t (org_id uuid, id int, primary key (org_id, id)); create policy p on t using (org_id = (select org()));',
      ],
      ['in no policy', TENANTS],
      [
        "in another table's column of that name",
        `${TENANTS} create policy p on notes using (id in (select m.id from m where m.org_id = (select org())));`,
      ],
      ['of a table that was there', 'create policy p on t using (org_id = (select org()));'],
    ],
  },
  'rls-enabled-without-policy': {
    bad: [
      ['of a new table', 'create table t (id int); alter table t enable row level security;', ['1.sql:1:26']],
      [
        'with a policy on another',
        'create table t (id int); alter table t enable row level security; create policy p on u using (true);',
        ['1.sql:1:26'],
      ],
    ],
    good: [
      [
        'with one',
        'create table t (id int); alter table t enable row level security; create policy p on t using (true);',
      ],
      [
        'with one of an earlier file',
        ['create policy p on t using (true);', 'alter table t enable row level security;'],
      ],
      ['disabled again', 'alter table t enable row level security; alter table t disable row level security;'],
      ['dropped again', 'alter table t enable row level security; drop table t;'],
    ],
  },
  'rls-not-on-partitions': {
    bad: [
      [
        'created',
        `${DAYS} alter table days enable row level security; create policy p on days using (true);\n${DAY}`,
        ['1.sql:2:1'],
      ],
      [
        'attached, and enabled later',
        `${DAYS}\nalter table days attach partition d for values in (1);\nalter table days enable row level security; create policy p on days using (true);`,
        ['1.sql:2:1'],
      ],
    ],
    good: [
      [
        'enabled on both',
        `${DAYS} ${DAY} alter table days enable row level security; create policy p on days using (true); alter table days_1 enable row level security;`,
      ],
      ['on neither', `${DAYS} ${DAY}`],
    ],
  },
  'definer-without-search-path': {
    bad: [
      ['created', 'create function f() returns int language sql security definer as $$ select 1 $$;', ['1.sql:1:1']],
      [
        'with another setting',
        "create function f() returns int language sql security definer set lock_timeout = '1s' as $$ select 1 $$;",
        ['1.sql:1:1'],
      ],
      [
        'altered',
        'create function f() returns int language sql as $$ select 1 $$;\nalter function f() security definer;',
        ['1.sql:2:1'],
      ],
      [
        'written anew',
        "create function f() returns int language sql security definer set search_path = '' as $$ select 1 $$;\ncreate or replace function f() returns int language sql security definer as $$ select 2 $$;",
        ['1.sql:2:1'],
      ],
      [
        'set on an overload',
        "create function f(int) returns int language sql security definer as $$ select 1 $$; alter function f(text) set search_path = '';",
        ['1.sql:1:1'],
      ],
    ],
    good: [
      [
        'pinned',
        'create function f() returns int language sql security definer set search_path = pg_catalog, pg_temp as $$ select 1 $$;',
      ],
      [
        'pinned later',
        "create function f(a int, out b int) language sql security definer as $$ select 1 $$; alter function f(int) set search_path = '';",
      ],
      [
        'pinned later, by its name alone',
        "create function f(a int) returns int language sql security definer as $$ select 1 $$; alter function f set search_path = '';",
      ],
      ['as the caller, said so', 'create function f() returns int language sql security invoker as $$ select 1 $$;'],
      [
        'as the caller again',
        'create function f() returns int language sql security definer as $$ select 1 $$; alter function f() security invoker;',
      ],
      ['as the caller', 'create function f() returns int language sql as $$ select 1 $$;'],
      [
        'dropped again',
        'create function f() returns int language sql security definer as $$ select 1 $$; drop function f();',
      ],
    ],
  },
};

const named = (cases: readonly Case[]) => cases.map(([what, sql, where = []]) => ({ what, sql, where }));

describe.each(Object.entries(CASES))('%s', (rule, { bad, good }) => {
  const ofRule = async (sql: Case[1]) =>
    (await found(sql, but(rule))).filter((each) => each.endsWith(` ${rule}`)).map((each) => each.replace(/ .*/, ''));

  it.each(named(bad))('is found: $what', async ({ sql, where }) => {
    expect(await ofRule(sql)).toEqual(where);
  });

  it.each(named(good))('is not found: $what', async ({ sql }) => {
    expect(await ofRule(sql)).toEqual([]);
    // A good example is SQL.
    expect((await linted(sql)).findings.filter((each) => each.rule === 'syntax')).toEqual([]);
  });

  it('is disabled', async () => {
    for (const [, sql] of bad)
      expect((await found(sql, { disabled: [rule] })).filter((each) => each.endsWith(` ${rule}`))).toEqual([]);
  });
});

it('has examples of every rule', () => {
  expect(Object.keys(CASES).toSorted()).toEqual(RULES.map(({ id }) => id).toSorted());
  for (const [rule, { bad, good }] of Object.entries(CASES))
    expect([rule, bad.length > 0, good.length > 0]).toEqual([rule, true, true]);
});

describe('docs/lint.md', () => {
  const page = readFileSync(new URL('../../docs/lint.md', import.meta.url), 'utf8');
  const headings = [...page.matchAll(/^### `([\w/-]+)`$/gm)].map(([, id = '']) => id);
  const sections = page.split(/^### /m).slice(1);

  it('explains every rule once, and none that does not exist', () => {
    expect(headings.toSorted()).toEqual([...RULES.map(({ id }) => id), ...OWN_RULES].toSorted());
  });

  it.each(sections.map((section) => [section.split('\n')[0] ?? '', section] as const))(
    '%s says why, and what instead',
    (_title, section) => {
      expect(section).toMatch(/\n\*\*Why\.\*\* .{20,}/);
      expect(section).toMatch(/\n\*\*Instead\.\*\* .{10,}/);
    },
  );

  it("names what of squawk's is left out, with the reason", () => {
    for (const [rule, reason] of Object.entries(LEFT_OUT)) expect(page).toContain(`| \`${rule}\` | ${reason} |`);
    expect([...page.matchAll(/^\| `/gm)]).toHaveLength(Object.keys(LEFT_OUT).length);
  });
});

describe('messages', () => {
  it.each(Object.entries(CASES))('%s: one line that says what to do', async (rule, { bad }) => {
    for (const [, sql] of bad) {
      const { findings } = await linted(sql, but(rule));
      for (const { message } of findings.filter((each) => each.rule === rule)) {
        expect(message).toMatch(/^[^\n]{40,600}\.$/);
        expect(message).not.toMatch(/undefined|\[object|null\b/);
      }
    }
  });

  it('name the tables', async () => {
    const { findings } = await linted('alter table sales.a add column x int; drop table b;', {
      disabled: ['lock-without-timeout'],
    });
    expect(findings[0]?.message).toMatch(/^This locks public\.b while sales\.a is locked, /);
  });
});

describe('locks', () => {
  it.each([
    ['alter table a disable trigger t', 'SHARE ROW EXCLUSIVE on public.a'],
    ['alter table a add foreign key (x) references b', 'SHARE ROW EXCLUSIVE on public.a'],
    ['create table c (x int references b)', 'SHARE ROW EXCLUSIVE on public.b'],
    ['create index on s.a (x)', 'SHARE on s.a'],
    ['lock table a in exclusive mode', 'EXCLUSIVE on public.a'],
    ['alter table a replica identity full', 'ACCESS EXCLUSIVE on public.a'],
    ['alter table d attach partition a default', 'ACCESS EXCLUSIVE on public.a'],
    ['drop table s.a, b', 'ACCESS EXCLUSIVE on s.a'],
    ['drop trigger t on s.a', 'ACCESS EXCLUSIVE on s.a'],
  ])('%s: %s', async (sql, lock) => {
    const { findings } = await linted(sql);
    expect(findings[0]?.message).toContain(`waits without end for ${lock}, `);
  });
});

describe('places', () => {
  it('count characters, whatever their bytes, and lines of either ending', async () => {
    expect(await found('select $$é𝄞$$;\r\n/* é𝄞 */ drop table a;\r\n')).toEqual(['1.sql:2:10 lock-without-timeout']);
  });

  it('are those of the statement in a body in quotes', async () => {
    const body = "create function f() returns void language plpgsql as ' begin alter table a set schema b; end ';";
    expect(await found(body)).toEqual(['1.sql:1:62 set-schema-without-view']);
    // With quotes inside, a place in the text is no place in the file.
    expect(await found(body.replace('begin ', "begin raise notice ''x''; "))).toEqual([
      '1.sql:1:1 set-schema-without-view',
    ]);
  });

  it('are those of each of two bodies that are the same', async () => {
    const block = 'do $$ begin alter table a set schema b; end $$;';
    expect(await found(`${block}\n${block}`, { disabled: LOCKS })).toEqual([
      '1.sql:1:13 set-schema-without-view',
      '1.sql:2:13 set-schema-without-view',
    ]);
  });

  it('follow a body down, past what its parser takes out', async () => {
    const sql = `-- é\ncreate function f() returns void language plpgsql as $b$
declare v int;
begin
  select x into v from t where 'é' = 'é' and nextval('s') > 1;
  perform 1, setval('s', 2);
  if v > 1 then
    v := currval('s');
  end if;
end $b$;
alter sequence s set schema x;`;
    expect(await found(sql)).toEqual([
      '1.sql:5:46 nextval-of-moved-sequence',
      '1.sql:6:14 nextval-of-moved-sequence',
      '1.sql:8:10 nextval-of-moved-sequence',
    ]);
  });
});

describe('transactions', () => {
  const two = 'alter table a add column x int; alter table b add column x int;';
  const isOne = async (sql: string, options: LintOptions = {}) =>
    (await found(sql, options)).some((each) => each.endsWith('more-than-one-hot-table-a-transaction'));

  it('are files, unless something divides them', async () => {
    expect(await isOne(two)).toBe(true);
    expect(await isOne(two, { alone: true })).toBe(false);
    expect(await isOne(`begin; ${two} commit;`, { alone: true })).toBe(true);
    expect(
      await isOne(
        'alter table a add column x int; commit; alter table b add column x int; alter table c add column x int;',
      ),
    ).toBe(false);
    expect(
      await isOne(
        'begin; alter table a add column x int; commit and chain; alter table b add column x int; alter table c add column x int;',
      ),
    ).toBe(true);
    expect(
      await isOne(
        'begin; savepoint s; alter table a add column x int; release s; alter table b add column x int; commit;',
      ),
    ).toBe(true);
  });

  it('end, also of partitions of each other, which PostgreSQL refuses', async () => {
    const circle =
      'alter table a attach partition b default; alter table b attach partition a default; alter table a attach partition a default;';
    expect(await found(circle, { disabled: [...LOCKS, 'attach-with-default-partition'] })).toEqual([]);
  });

  it('are halves of a file that says how to undo it', async () => {
    expect(
      await isOne(
        '-- Up Migration\nalter table a add column x int;\n-- Down Migration\nalter table b add column x int;',
      ),
    ).toBe(false);
  });
});

describe('allow', () => {
  const rule = 'lock-without-timeout';
  it.each([
    ['above the statement', `-- lint: allow ${rule} because nobody reads it\ndrop table a;`],
    ['in it', `drop table -- lint: allow ${rule} because nobody reads it\n a;`],
    ['at its end', `drop table a; -- lint: allow ${rule} because nobody reads it\nselect 1;`],
    [
      'of several rules',
      `-- lint: allow ${rule}, more-than-one-hot-table-a-transaction because nobody reads it\ndrop table a, b; drop table c;`,
    ],
    ['in the last, without a semicolon', `select 1; drop table a -- lint: allow ${rule} because nobody reads it`],
    ['on a block', `-- lint: allow ${rule} because nobody reads it\ndo $$ begin drop table a; end $$;`],
  ])('%s', async (what, sql) => {
    const { findings, allowed } = await linted(sql);
    expect(allowed).toBe(1);
    expect(findings.map((each) => each.rule)).toEqual(
      what === 'of several rules' ? ['allow', 'more-than-one-hot-table-a-transaction'] : [],
    );
  });

  it.each([
    [
      'without a reason',
      `-- lint: allow ${rule}\ndrop table a;`,
      /^This allows nothing\. Write: -- lint: allow RULE because REASON/,
    ],
    ['with an empty one', `-- lint: allow ${rule} because \ndrop table a;`, /^This allows nothing/],
    [
      'of a rule that there is not',
      '-- lint: allow everything because I say so\ndrop table a;',
      /^There is no rule everything/,
    ],
    ["of one of the linter's own", '-- lint: allow syntax because I say so\ndrop table a;', /^There is no rule syntax/],
    [
      'on another statement',
      `-- lint: allow ${rule} because nobody reads it\nselect 1;\ndrop table a;`,
      /^There is no lock-without-timeout to allow here/,
    ],
    ['on nothing', `drop table a;\n-- lint: allow ${rule} because nobody reads it`, /^There is no statement/],
    ['misspelt', `-- lint: ignore ${rule}\ndrop table a;`, /^This allows nothing/],
  ])('is reported %s, and allows nothing', async (_what, sql, says) => {
    const { findings, allowed } = await linted(sql);
    expect(allowed).toBe(0);
    expect(findings.map((each) => each.rule).toSorted()).toEqual(['allow', rule]);
    expect(findings.find((each) => each.rule === 'allow')?.message).toMatch(says);
  });

  it('of a rule that was not asked is no fault', async () => {
    const sql = `-- lint: allow ${rule}, squawk/ban-drop-table because nobody reads it\ndrop table a;`;
    expect(await found(sql, { disabled: [rule] })).toEqual([]);
  });

  it('is a comment and no string', async () => {
    expect(await found(`select '-- lint: allow ${rule} because x'; drop table a;`)).toEqual([
      '1.sql:1:57 lock-without-timeout',
    ]);
  });
});

describe('what is no SQL', () => {
  it.each<[string, string, string[], RegExp]>([
    [
      'a mistake',
      'select 1;\nselect é fro m x;',
      ['1.sql:2:14 syntax'],
      /^PostgreSQL does not parse it: syntax error at or near "m"\. Nothing else in this file/,
    ],
    ['a string without end', "select 'x", ['1.sql:1:8 syntax'], /unterminated quoted string/],
    ['a variable of psql', 'select :x;', ['1.sql:1:8 syntax'], /a variable of psql is no SQL/],
    [
      'a command of psql',
      'select 1;\n\\i other.sql\ndrop table a;',
      ['1.sql:2:1 psql-command', '1.sql:3:1 lock-without-timeout'],
      /^\\i is a command of psql/,
    ],
    [
      'commands of psql',
      "\\set x 1\n\\copy a from 'x'\nselect 1 \\g\n",
      ['1.sql:1:1 psql-command', '1.sql:2:1 psql-command', '1.sql:3:10 psql-command'],
      /^\\set is/,
    ],
    [
      'rows',
      'copy a (x) from stdin;\n1\té\n2\t\\N\n\\.\ndrop table a;',
      ['1.sql:2:1 psql-command', '1.sql:5:1 lock-without-timeout'],
      /^Rows behind COPY/,
    ],
    [
      'a policy that is deep',
      `create policy p on t using (${'not '.repeat(3_000)} f());`,
      ['1.sql:1:1 lock-without-timeout', '1.sql:1:12030 unwrapped-function-in-policy'],
      /^This waits/,
    ],
    ['too deep', `select ${'1 + '.repeat(100_000)} 1;`, ['1.sql:1:1 syntax'], /nested too deeply/],
  ])('%s', async (_what, sql, where, says) => {
    expect(await found(sql)).toEqual(where);
    expect((await linted(sql)).findings[0]?.message).toMatch(says);
  });

  it.each([
    ['nothing', ''],
    ['blanks', ' \n\t\n'],
    ['a comment', '-- nothing'],
    ['a backslash in a string', "select E'\\n', '\n\\i x';"],
  ])('and what is: %s', async (_what, sql) => {
    expect(await found(sql)).toEqual([]);
  });

  it('is told apart from what could not be looked into', async () => {
    const sql = `create function f() returns int language plpython3u as $$ return 1 $$;
do $$ begin execute 'drop table ' || x; end $$;
create function g() returns int language plpgsql as $$ begin this is none; end $$;
do $$ declare x t%rowtype; begin perform 1; end $$;`;
    const { findings, unread } = await linted(sql);
    expect(findings).toEqual([]);
    expect(unread.map(({ line, why }) => `${line} ${why}`)).toEqual([
      '1 a body in plpython3u',
      '2 SQL that is put together as it runs',
      expect.stringMatching(/^3 a body that is not parsed without the catalog: syntax error/),
    ]);
  });
});

describe('a baseline', () => {
  const sql = 'begin; drop table a; commit; begin; drop table a; commit;';
  const applied = (text: string, options: LintOptions = {}) =>
    linted(sql, { ...options, baseline: parseBaseline('base.txt', text) });

  it('leaves out so many findings of a rule in a file', async () => {
    const { findings, baselined } = await applied('# known\n\n1.sql lock-without-timeout 2 because it landed\n');
    expect({ findings, baselined }).toEqual({ findings: [], baselined: 2 });
  });

  it.each([
    ['less than there are', '1', ['1.sql lock-without-timeout', '1.sql lock-without-timeout', 'base.txt baseline']],
    ['more than there are', '3', ['1.sql lock-without-timeout', '1.sql lock-without-timeout', 'base.txt baseline']],
  ])('with %s is reported, and leaves out none', async (_what, count, expected) => {
    const { findings, baselined } = await applied(`1.sql lock-without-timeout ${count} because it landed`);
    expect(baselined).toBe(0);
    expect(findings.map(({ path, rule }) => `${path} ${rule}`)).toEqual(expected);
    expect(findings[2]?.message).toBe(
      `1.sql has 2 findings of lock-without-timeout, not ${count}. Correct the entry, or take it away.`,
    );
  });

  it('is stale where nothing is found any more, and not where nobody looked', async () => {
    const stale = '1.sql lock-without-timeout 2 because it landed\n1.sql select-star-view 1 because it landed\n';
    expect((await applied(stale)).findings).toMatchObject([{ rule: 'baseline', path: 'base.txt', line: 2, column: 1 }]);
    expect((await applied(stale, { disabled: ['select-star-view'] })).findings).toEqual([]);
    expect((await applied(`${stale.split('\n')[0]}\n2.sql select-star-view 1 because it landed`)).findings).toEqual([]);
  });

  it.each([
    '1.sql lock-without-timeout 2',
    '1.sql lock-without-timeout 0 because x',
    '1.sql lock-without-timeout because x',
    '1.sql x 1 because ',
  ])('refuses %s', (line) => {
    expect(() => parseBaseline('base.txt', `# x\n${line}\n`)).toThrow(/^base\.txt:2 is no entry of a baseline/);
  });
});

it('stops when it is told to', async () => {
  await expect(linted('select 1', { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'STOPPED' });
});

describe("squawk's findings", () => {
  const squawk = findSquawk();
  it.skipIf(squawk === undefined)('stand beside ours, in the same places', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'lint-[x]-'));
    try {
      const write = (name: string, sql: string) => {
        writeFileSync(join(folder, name), sql);
        return { path: join(folder, name), sql };
      };
      const sources = [
        write('1.sql', '/* é */ alter table a add column é int not null; alter table a rename to b;'),
        write('2.sql', '-- lint: allow squawk/ban-drop-column because nobody reads it\nalter table a drop column x;'),
        write('3.sql', '-- lint: no-transaction\ncreate index concurrently i on a (x);'),
        write('4.sql', 'create index concurrently i on a (x);'),
        write('5.sql', '-- lint: allow squawk/ban-drop-column because nobody reads it\nselect 1;'),
      ];
      const { findings } = await lint(sources, { squawk, disabled: ['lock-without-timeout'] });
      expect(findings.map(({ path, line, column, rule }) => `${basename(path)}:${line}:${column} ${rule}`)).toEqual([
        '1.sql:1:23 squawk/adding-required-field',
        '1.sql:1:50 rename-without-view',
        '4.sql:1:1 not-in-a-transaction',
        '5.sql:1:1 allow',
      ]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it.skipIf(squawk === undefined)('are asked for by names that it knows', async () => {
    await expect(
      lint([{ path: fileURLToPath(new URL('../../migrations/0005_replay.sql', import.meta.url)), sql: 'select 1' }], {
        squawk,
      }),
    ).resolves.toBeDefined();
  });

  it('fail in one line', async () => {
    const broken = { binary: process.execPath, version: '0' };
    await expect(lint([{ path: '1.sql', sql: 'select 1' }], { squawk: broken })).rejects.toMatchObject({
      code: 'SYSTEM_FAILED',
      message: expect.stringMatching(
        /^The rules of squawk were not asked: squawk failed: [^\n]+\. Remove the cause, or go without: --no-squawk\.$/,
      ),
    });
  });
});
