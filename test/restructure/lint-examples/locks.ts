import { DAY, DAYS, type Example, type Examples, MOVED } from './examples.ts';

export const LOCKS: Examples = {
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
      ...['truncate a, b', 'drop table a, b', 'lock table a, b', 'drop materialized view a, b'].map(
        (sql): Example => [sql, `${sql};`, ['1.sql:1:1']],
      ),
      ['an index, and a foreign key', 'create index i on a (x);\ncreate table c (id int references b);', ['1.sql:2:1']],
      [
        'in a loop over names',
        `do $$ declare r record; begin\n for r in select 1 as t loop execute format('alter table %I add column x int', r.t); end loop; end $$;`,
        ['1.sql:2:38'],
      ],
    ],
    good: [
      ['one table, and one of its own', 'create table b (id int); drop table a, b;'],
      ['a table with its partitions at once', [`${DAYS} ${DAY}`, 'truncate days, days_1;']],
      ['views, below which tables stay in use', 'drop view v, w; alter table a add column x int;'],
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
        'create rule r as on insert to a do instead nothing',
        'refresh materialized view a',
        'drop materialized view a',
        'drop view a',
        'alter view a rename to b',
        'alter view a set schema b',
        'alter materialized view a set schema b',
        'alter foreign table a add column x int',
      ].map((sql): Example => [sql, `${sql};`, ['1.sql:1:1']]),
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
      [
        'of a view of its own, and a refresh beside which others read',
        'create view v with (security_invoker) as select 1 as x; alter view v rename to w; drop view w; refresh materialized view concurrently m;',
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
};
