import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { catalogOf } from '../support/catalog.ts';
import { moveAll, putBack } from '../support/moves.ts';
import { query } from '../support/query.ts';
import { cloneShop, createShop, type Shop, shopMapping } from '../support/shop.ts';

let original: Shop;
beforeAll(async () => {
  original = await createShop();
  await original.pool.end();
});
afterAll(() => original.drop());

/** A right of a role by a name: `web select public.orders`, and `+` where it may hand it on. */
type Rights = ReadonlySet<string>;

const TARGETS = ['people', 'Goods & "Wares"', 'sales', 'log.book'];
const listed = (names: readonly string[]): string => names.map(pg.escapeLiteral).join(', ');

/**
 * What every role may do by every name of the schemas, as the server decides it: on the relation, or a column of it, and on what a view with
 * the rights of whoever asks shows. By names that are not there, nobody may do anything.
 */
async function rightsBy(shop: Shop, schemas: readonly string[]): Promise<Rights> {
  const { read, write, ...roles } = shop.roles;
  const rows = await query<{ right: string }>(
    shop.adminUrl,
    `with relation as (
       select c.oid, c.relname, n.oid as schema, n.nspname, (
         select t.oid from pg_class t join pg_namespace tn on tn.oid = t.relnamespace
         where tn.nspname in (${listed(TARGETS)}) and c.relkind = 'v' and c.reloptions @> '{security_invoker=true}' and t.relname = c.relname
       ) as behind
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where c.relkind in ('r', 'p', 'v') and n.nspname in (${listed(schemas)})
     )
     select concat_ws(' ', replace(role, '${shop.name}_', ''), verb, relname, columns.attname) as right
     from unnest(array[${listed(Object.values(roles))}, 'liventix', 'anon']) role
     cross join unnest(array['select', 'insert', 'update', 'delete', 'select with grant option', 'update with grant option', 'truncate', 'trigger', 'references']) verb
     cross join relation
     cross join lateral (
       select null::name as attname where has_table_privilege(role, relation.oid, verb) and (behind is null or has_table_privilege(role, behind, verb))
       union all
       select a.attname from pg_attribute a
       where a.attrelid = relation.oid and a.attnum > 0 and not a.attisdropped and split_part(verb, ' ', 1) in ('select', 'insert', 'update', 'references')
         and has_column_privilege(role, a.attrelid, a.attname, verb) and (behind is null or has_column_privilege(role, behind, a.attname, verb))
     ) columns
     where has_schema_privilege(role, schema, 'usage')`,
  );
  return new Set(rows.map(({ right }) => right));
}

const minus = (some: Rights, others: Rights): readonly string[] => [...some].filter((right) => !others.has(right));

describe('rights', () => {
  it('are by the old names what they were, and by the new ones no more; a default privilege opens nothing', async () => {
    const shop = await cloneShop(original);
    try {
      const before = await rightsBy(shop, ['public']);
      expect(before.size).toBeGreaterThan(200);
      await moveAll(shop, shopMapping(shop));
      const [old, fresh] = [await rightsBy(shop, ['public']), await rightsBy(shop, TARGETS)];
      expect({ lost: minus(before, old), gained: minus(old, before) }).toEqual({ lost: [], gained: [] });
      expect(minus(fresh, before)).toEqual([]);
      // Whoever could reach a table reaches it under its new name as well.
      const moved = [...before].filter((right) => !/ (?:changes|outbox\w*|open_orders\w*)(?: |$)/.test(right));
      expect(moved.filter((right) => !fresh.has(right))).toEqual([]);
      await putBack(shop);
      expect(minus(await rightsBy(shop, ['public']), before)).toEqual([]);
    } finally {
      await shop.drop();
    }
  });

  it('are granted on the view as they are on the table, to a column, whatever a default privilege says', async () => {
    const shop = await cloneShop(original);
    try {
      const { seller } = shop.roles;
      const granted = async () =>
        (await catalogOf(shop))
          .filter((line) => /^grant (?:relation|column) public\./.test(line) && !/_seq: |_numbers: /.test(line))
          // Who owns a table that is not its view's may hand on what is its own.
          .filter((line) => !line.includes(` to ${seller} by `))
          .map((line) => line.replace(/ by \S+/, ''));
      const before = await granted();
      expect(before.filter((line) => line.includes('customers.'))).toHaveLength(4);
      await moveAll(shop, shopMapping(shop, { roles: undefined }));
      expect(await granted()).toEqual(before);
    } finally {
      await shop.drop();
    }
  });

  it('are not given to a group by whose members somebody would gain', async () => {
    const shop = await cloneShop(original);
    try {
      const { read, web } = shop.roles;
      await shop.pool.query(
        `create role ${read} nologin; grant ${read} to ${web}; grant select on public.products to ${read}`,
      );
      const before = await rightsBy(shop, ['public']);
      await moveAll(shop, shopMapping(shop));
      expect(minus(await rightsBy(shop, ['public', ...TARGETS]), before)).toEqual([]);
      const back = await putBack(shop);
      // What the group had before, it keeps.
      expect(back.steps.filter(({ status }) => status !== 'undone')).toEqual([]);
      const [kept] = await query<{ kept: boolean }>(
        shop.adminUrl,
        `select has_table_privilege('${read}', 'public.products', 'select') as kept`,
      );
      expect(kept).toEqual({ kept: true });
    } finally {
      await shop.drop();
    }
  });
});

/** The rows, or the refusal; undone. */
async function as(shop: Shop, role: string, sql: string): Promise<unknown> {
  const client = new pg.Client({ connectionString: shop.adminUrl });
  await client.connect();
  try {
    await client.query(`begin; set local role ${role}; set local search_path = public`);
    return (await client.query(sql)).rows;
  } catch (error) {
    return (error as Error).message.replace(/ view /, ' table ');
  } finally {
    await client.end();
  }
}

describe('row-level security', () => {
  it('shows and takes by the old name what it did, to everybody', async () => {
    const [stayed, moved] = [await cloneShop(original), await cloneShop(original)];
    try {
      await moveAll(moved, shopMapping(moved));
      const { web, clerk, auditor, stranger } = stayed.roles;
      for (const role of [web, clerk, auditor, stranger, 'liventix']) {
        for (const sql of [
          'select * from secrets order by id',
          `update secrets set said = 'x' returning id`,
          `insert into secrets (id, said) values (5, 'mine') returning owner`,
          `insert into secrets (id, owner) values (5, 'another')`,
          'delete from secrets returning id',
        ]) {
          expect([role, sql, await as(moved, role, sql)]).toEqual([role, sql, await as(stayed, role, sql)]);
        }
      }
    } finally {
      for (const shop of [stayed, moved]) await shop.drop();
    }
  });
});

describe('publications', () => {
  const published = (shop: Shop) =>
    query(
      shop.adminUrl,
      `select pubname, tablename, attnames, rowfilter from pg_publication_tables where schemaname not in ('restructure', 'payments', 'outbox', 'replay', 'states', 'liventix') order by 1, 2`,
    );

  it('publish the same tables, columns and rows', async () => {
    const shop = await cloneShop(original);
    try {
      const before = await published(shop);
      expect(before.length).toBeGreaterThan(30);
      await moveAll(shop, shopMapping(shop));
      expect(await published(shop)).toEqual(before);
      await putBack(shop);
      expect(await published(shop)).toEqual(before);
    } finally {
      await shop.drop();
    }
  });
});
