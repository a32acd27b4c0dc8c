import type { Example, Examples } from './examples.ts';

const PINNED = 'set search_path = pg_catalog, pg_temp';

export const FUNCTIONS: Examples = {
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
        'create function f() returns int language sql security definer set search_path = pg_temp as $$ select 1 $$;\ncreate or replace function f() returns int language sql security definer as $$ select 2 $$;',
        ['1.sql:2:1'],
      ],
      [
        'set on an overload',
        'create function f(int) returns int language sql security definer as $$ select 1 $$; alter function f(text) set search_path = pg_temp;',
        ['1.sql:1:1'],
      ],
      ...[
        '= public',
        '= pg_temp, public',
        "= ''",
        '= "$user", public',
        '= pg_temp, public, pg_temp',
        "= 'pg_catalog, pg_temp'",
        'from current',
        'to default',
      ].map(
        (path): Example => [
          `set ${path}`,
          `create function f() returns int language sql security definer set search_path ${path} as $$ select 1 $$;`,
          ['1.sql:1:1'],
        ],
      ),
      [
        'set to another later',
        `create function f() returns int language sql security definer ${PINNED} as $$ select 1 $$;\nalter function f() set search_path = public;`,
        ['1.sql:2:1'],
      ],
      ...['search_path', 'all'].map(
        (what): Example => [
          `reset ${what}`,
          `create function f() returns int language sql security definer ${PINNED} as $$ select 1 $$;\nalter function f() reset ${what};`,
          ['1.sql:2:1'],
        ],
      ),
    ],
    good: [
      [
        'pinned',
        'create function f() returns int language sql security definer set search_path = pg_catalog, pg_temp as $$ select 1 $$;',
      ],
      [
        'pinned later',
        "create function f(a int, out b int) language sql security definer as $$ select 1 $$; alter function f(int) set search_path = '', pg_temp;",
      ],
      [
        'pinned later, by its name alone',
        'create function f(a int) returns int language sql security definer as $$ select 1 $$; alter function f set search_path = public, pg_temp;',
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
