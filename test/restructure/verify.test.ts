import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import { readChangedSince } from '../../src/restructure/verify/changed-since.ts';
import { checkRestructuring } from '../../src/restructure/verify/checks.ts';
import { callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { isolateTenants, moveTables, shop, shopMapping } from '../support/tenanted-shop.ts';

/** What is noted, and no check. */
const SINCE = 'changed since';
const MADE = 'every function that was moved or replaced, and every search_path that was set, is as the step left it';
const IN_PLACE = 'nothing was copied: rows lay after each move where they lay before';
const VIEWS = 'every moved table has a view under its old name that asks for the rights of whoever reads it';
const COLUMNS = 'every view has the columns that its table had, in their order, with their types and defaults';
const PRIVILEGES = 'every role may do by the old name what it may by the new, and reaches the new';
const COLUMN_PRIVILEGES = 'every role may do with single columns by the old name what it may by the new';
const ROWS = 'every row is the same by the old name and by the new';
const REFERENCES = 'every row that a foreign key refers to is there';
const VALIDATED = 'every foreign key is validated';
const POLICIES = 'every table of a tenancy, and every partition, has row security and the policies of its tenants';
const LATER = 'every partition that came later shows nothing by its own name';

/** The view of orders as it is, but for what is said of it; grants as they were. */
const viewOfOrders = (columns: string, options = 'with (security_invoker = true)') =>
  `drop view public.orders; create view public.orders ${options} as select ${columns} from sales.orders;
   select restructure.copy_defaults('sales.orders', 'public.orders'); select restructure.copy_grants('sales.orders', 'public.orders');
   alter view public.orders owner to liventix`;

const says = (text: string): string =>
  `create or replace function public.says() returns text language sql as $$ select '${text}' $$`;

interface Break {
  readonly what: string;
  readonly sql: string;
  /** By the check that fails, what it says first. */
  readonly found: Readonly<Record<string, RegExp>>;
}

const BREAKS: readonly Break[] = [
  {
    what: 'another body of a function that was replaced',
    sql: says('mended'),
    found: { [MADE]: /^public\.says\(\), since step \d+: its body is another$/ },
  },
  {
    what: 'another default of a table',
    sql: `alter table sales.orders alter column status set default 'other'`,
    found: { [SINCE]: /column status default/, [COLUMNS]: /column status of orders has the default 'other'/ },
  },
  {
    what: 'another default of a view',
    sql: `alter view public.orders alter column status set default 'other'`,
    found: {
      [SINCE]: /column status default/,
      [COLUMNS]: /column status of orders has the default 'new'::text, and in the view 'other'::text/,
    },
  },
  {
    what: 'a default that a view has not',
    sql: 'alter view public.orders alter column cents drop default',
    found: {
      [SINCE]: /column cents default/,
      [COLUMNS]: /column cents of orders has the default 0, and in the view none/,
    },
  },
  {
    what: 'an index that was dropped',
    sql: 'drop index sales.orders_status',
    found: { [SINCE]: /public\.orders, since step \d+: index orders_status is gone/ },
  },
  {
    what: 'an index that was added',
    sql: 'create index of_somebody on sales.orders (cents)',
    found: { [SINCE]: /index of_somebody was added/ },
  },
  {
    what: 'a constraint that is not validated',
    sql: 'alter table sales.orders add constraint doubtful check (cents < 1000) not valid',
    found: { [SINCE]: /constraint doubtful/ },
  },
  {
    what: 'a foreign key that is not validated',
    sql: `alter table sales.order_lines drop constraint order_lines_order_id_fkey;
          alter table sales.order_lines add constraint order_lines_order_id_fkey foreign key (order_id) references sales.orders not valid`,
    found: {
      [SINCE]: /public\.order(?:s|_lines)/,
      [VALIDATED]: /order_lines_order_id_fkey of sales\.order_lines is not validated/,
    },
  },
  {
    what: 'a trigger that is off',
    sql: 'alter table sales.orders disable trigger touched',
    found: { [SINCE]: /trigger touched enabled was "O" and is "D"/ },
  },
  {
    what: 'a policy that says something else',
    sql: 'alter policy tenant_reads on sales.orders using (true)',
    found: { [SINCE]: /policy tenant_reads using changed/ },
  },
  {
    what: 'a policy of old that is gone',
    sql: 'drop policy theirs on sales.orders',
    found: { [SINCE]: /policy theirs/ },
  },
  {
    what: 'a policy of its tenants that is gone',
    sql: 'drop policy tenant_reads on sales.visits_2025',
    found: {
      [SINCE]: /policy tenant_reads/,
      [POLICIES]: /public\.visits: the policy tenant_reads is missing of sales\.visits_2025/,
    },
  },
  {
    what: 'row security that is off, of a partition',
    sql: 'alter table sales.visits_2025 disable row level security',
    found: {
      [SINCE]: /relation visits_2025 row security was true and is false/,
      [POLICIES]: /row security is off of sales\.visits_2025/,
      [LATER]: /sales\.visits_2025 has no row security/,
    },
  },
  {
    what: 'a partition that came later, without row security',
    sql: `create table sales.visits_2020 partition of sales.visits for values from ('2020-01-01') to ('2021-01-01')`,
    found: { [LATER]: /sales\.visits_2020 has no row security/ },
  },
  {
    what: 'a right on a view that was taken',
    sql: 'revoke insert on public.orders from authenticated',
    found: {
      [SINCE]: /relation orders grants/,
      [PRIVILEGES]: /public\.orders: authenticated may insert by the new name, and may not by the old/,
    },
  },
  {
    what: 'a right on a view that was given',
    sql: 'grant delete on public.orders to anon',
    found: {
      [SINCE]: /relation orders grants/,
      [PRIVILEGES]: /public\.orders: anon may not delete by the new name, and may by the old/,
    },
  },
  {
    what: 'a right on a table that was given',
    sql: 'grant delete on sales.orders to anon',
    found: {
      [SINCE]: /relation orders grants/,
      [PRIVILEGES]: /anon may delete by the new name, and may not by the old/,
    },
  },
  {
    what: 'a right on a single column of a view',
    sql: 'grant update (cents) on public.orders to anon',
    found: {
      [SINCE]: /column cents grants/,
      [COLUMN_PRIVILEGES]: /public\.orders: anon may not update cents by the new name, and may by the old/,
    },
  },
  {
    what: 'the use of a schema that was taken',
    sql: 'revoke usage on schema sales from anon, authenticated, verify_read',
    found: { [PRIVILEGES]: /anon may select by the new name, and may by the old, without USAGE of the schema/ },
  },
  {
    what: 'a view that shows what its owner may see',
    sql: 'alter view public.orders reset (security_invoker)',
    found: {
      [SINCE]: /relation orders options/,
      [VIEWS]: /public\.orders: its view public\.orders runs with the rights of its owner/,
    },
  },
  {
    what: 'a view that is gone',
    sql: 'drop view public.orders',
    found: {
      [SINCE]: /public\.orders, since step/,
      [VIEWS]: /public\.orders: nothing bears the old name of orders/,
      [ROWS]: /./,
    },
  },
  {
    what: 'a view whose columns are in another order',
    sql: viewOfOrders('id, status, org_id, cents, placed_at'),
    found: {
      [SINCE]: /public\.orders, since step/,
      [COLUMNS]: /column org_id of orders comes 2\., and in the view 3\./,
    },
  },
  {
    what: 'a view that lacks a column',
    sql: viewOfOrders('id, org_id, status, cents').replaceAll(/select restructure.copy_defaults[^;]*;/g, ''),
    found: {
      [SINCE]: /public\.orders, since step/,
      [COLUMNS]: /column placed_at of orders is not in the view/,
      [ROWS]: /./,
    },
  },
  {
    what: 'a view that shows some rows',
    sql: viewOfOrders('id, org_id, status, cents, placed_at').replace(
      'from sales.orders;',
      'from sales.orders where cents > 1;',
    ),
    found: {
      [SINCE]: /public\.orders, since step/,
      [ROWS]: /public\.orders, chunk \d+: \d rows by the old name, \d by the new/,
    },
  },
  {
    what: 'a view that shows other values',
    sql: viewOfOrders('id, org_id, upper(status) as status, cents, placed_at'),
    found: { [SINCE]: /public\.orders, since step/, [ROWS]: /public\.orders, chunk 0: \d+ rows by the old name/ },
  },
  {
    what: 'a table that somebody moved back',
    sql: 'drop view public.order_lines; alter table sales.order_lines set schema public',
    found: {
      [SINCE]: /relation order_lines schema was "sales" and is "public"/,
      [VIEWS]: /public\.order_lines: what bears the old name of order_lines is no view/,
    },
  },
  {
    what: 'a table that was written anew',
    sql: `update restructure.steps set before = jsonb_set(before, array[relations[1] || ' storage order_lines', 'file'], '1') where object = 'public.order_lines'`,
    found: { [IN_PLACE]: /public\.order_lines: \d+ storage order_lines: file was 1 and became/ },
  },
  {
    what: 'a row that refers to none',
    sql: `set local session_replication_role = replica; insert into sales.order_lines values (9999, 1, 'orphan')`,
    found: {
      [REFERENCES]:
        /order_lines_order_id_fkey: a row of sales\.order_lines refers by order_id to no row of sales\.orders/,
    },
  },
];

describe('verifying moved tables', () => {
  let database: TestDatabase;
  let admin: Pool;

  beforeAll(async () => {
    database = await createDatabase({ template: await shop() });
    admin = callersPool(database);
    await database.pool.query(says('as planned'));
    const mapping = {
      ...shopMapping('verify'),
      replacements: [{ function: 'public.says()', definition: [says('as replaced')] }],
    };
    await moveTables(database.pool, mapping);
    await isolateTenants(database.pool, mapping);
    await database.pool.query('create table sales.later (); alter table sales.later enable row level security');
  });
  afterAll(async () => {
    await admin.end();
    await database.drop();
  });

  /** What fails once this was done, which is undone again. */
  const failing = async (sql: string) => {
    const tx = await admin.connect();
    try {
      await tx.query(`begin; ${sql}`);
      const checks = await checkRestructuring(tx, {});
      const changed = await readChangedSince(tx);
      return [
        ...checks.filter(({ holds }) => !holds).map(({ check, first }) => [check, first] as const),
        ...(changed.length > 0 ? [[SINCE, changed] as const] : []),
      ];
    } finally {
      await tx.query('rollback');
      tx.release();
    }
  };

  it('holds, and has looked at something by every check', async () => {
    const checks = await withTransaction(database.pool, (tx) => checkRestructuring(tx, {}), ONE_SNAPSHOT);
    expect(checks.filter(({ holds }) => !holds)).toEqual([]);
    expect(checks.filter(({ examined }) => examined === 0n).map(({ check }) => check)).toEqual([]);
  });

  it.each(BREAKS)('finds $what, and nothing else', async ({ sql, found }) => {
    const failed = new Map(await failing(sql));
    expect([...failed.keys()].toSorted()).toEqual(Object.keys(found).toSorted());
    for (const [check, text] of Object.entries(found)) expect(failed.get(check)?.join('\n')).toMatch(text);
  });
});
