import { DAY, DAYS, type Example, type Examples } from './examples.ts';

const TENANTS = 'create table public.notes (id bigint primary key, org_id uuid not null);';

export const POLICIES: Examples = {
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
      [
        'correlated by a column that does not say whose it is',
        'create policy p on notes using (exists (select from org_memberships m where m.org_id = organization_id and m.user_id = auth.uid()));',
        ['1.sql:1:33'],
      ],
      [
        'the other way round, in a join',
        'create policy p on notes using (exists (select from a join b on b.id = a.id where organization_id is not distinct from a.org_id));',
        ['1.sql:1:33'],
      ],
      [
        'by a column that the other table has not',
        'create table m (org uuid, who uuid);\ncreate policy p on notes using (exists (select from m where org = org_id));',
        ['1.sql:2:33'],
      ],
      ['wrapped for nothing', 'create policy p on notes using ((select may_see(org_id)));', ['1.sql:1:33']],
    ],
    good: [
      ['turned round', 'create policy p on notes using (org_id in (select m.org_id from members m where m.who = 1));'],
      ['wrapped', 'create policy p on notes using ((select is_admin()) or true);'],
      ['of a function', 'create policy p on notes using (org_id in (select o from my_orgs() as o));'],
      [
        'of columns that are its own, as an earlier file says',
        [
          'create table m (org uuid, who uuid, other uuid);',
          'create policy p on notes using (exists (select from m where m.org = other and who = (select auth.uid())));',
        ],
      ],
      [
        'of columns that may be its own',
        'create policy p on notes using (exists (select from members where who = (select auth.uid()) and role = kind));',
      ],
      [
        'of a column that was renamed, or added',
        'create table m (a uuid, who uuid); alter table m rename a to org; alter table m add column other uuid; create policy p on notes using (exists (select from m where org = other));',
      ],
      [
        'of a table like another',
        'create table m (like members); create policy p on notes using (exists (select from m where who = (select auth.uid())));',
      ],
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
      ...['organization_id', 'org_id', 'tenant_id', 'owner_context_id'].map(
        (column): Example => [
          `${column} that no policy compares`,
          `create table t (id int, ${column} uuid);`,
          ['1.sql:1:25'],
        ],
      ),
      [
        'with an index on what it was called before',
        'create table t (id int, org uuid);\ncreate index i on t (id);\nalter table t rename org to org_id;',
        ['1.sql:1:25'],
      ],
      ['of a table that was there', 'create policy p on t using (org_id = (select org()));', ['1.sql:1:1']],
      ['of a policy that changes', 'alter policy p on t using (owner_context_id in (select c()));', ['1.sql:1:1']],
      [
        'of a table that is like another',
        'create table t (like u);\ncreate policy p on t using (org_id = (select org()));',
        ['1.sql:2:1'],
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
      ['temporary', 'create temp table t (org_id uuid);'],
      [
        'of a partition',
        'create table t (org_id uuid, id int, primary key (org_id, id)) partition by hash (id); create table u (org_id uuid, id int); alter table t attach partition u for values with (modulus 1, remainder 0);',
      ],
      [
        'of a table that was there, which gets one',
        'create policy p on t using (org_id = (select org())); create index i on t (org_id);',
      ],
      [
        'under its new name',
        'create table t (org uuid); create index i on t (org); alter table t rename org to org_id;',
      ],
      [
        "in another table's column of that name",
        `create policy p on notes using (id in (select m.id from m where m.org_id = (select org())));`,
      ],
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
};
