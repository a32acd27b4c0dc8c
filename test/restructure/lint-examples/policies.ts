import { DAY, DAYS, type Examples } from './examples.ts';

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
};
