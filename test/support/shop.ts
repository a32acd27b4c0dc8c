import { readFile } from 'node:fs/promises';
import { type Mapping, type MappingFile, parseMapping } from '../../src/restructure/mapping.ts';
import { asSuperuser, createDatabase, type TestDatabase } from './database.ts';
import { query } from './query.ts';

/** Roles are the whole server's, so that each database has its own. */
interface ShopRoles {
  /** Owns two of the tables. */
  readonly seller: string;
  readonly clerk: string;
  readonly auditor: string;
  readonly web: string;
  /** May do nothing but by default privileges. */
  readonly stranger: string;
  /** The groups that a mapping makes. */
  readonly read: string;
  readonly write: string;
}

export interface Shop extends TestDatabase {
  readonly roles: ShopRoles;
}

const SQL = new URL('shop.sql', import.meta.url);

/** A database with a shop in it; dropping it drops its roles too, those that a mapping of it makes among them. */
export async function createShop(): Promise<Shop> {
  const database = await createDatabase();
  const role = (name: string) => `${database.name}_${name}`;
  const roles: ShopRoles = {
    seller: role('seller'),
    clerk: role('clerk'),
    auditor: role('auditor'),
    web: role('web'),
    stranger: role('stranger'),
    read: role('read'),
    write: role('write'),
  };
  const { pool } = database;
  const { read: _read, write: _write, ...made } = roles;
  for (const name of Object.values(made)) await pool.query(`create role ${name} nologin`);
  await pool.query(`grant ${roles.seller} to current_user`);
  const sql = await readFile(SQL, 'utf8');
  await pool.query(sql.replaceAll(/\{(\w+)\}/g, (text, name: string) => roles[name as keyof ShopRoles] ?? text));
  await asSuperuser(database, OF_THE_SUPERUSER);
  return { ...database, roles, drop: () => dropWithRoles(database) };
}

/** A copy of a shop, whose own pool is ended for it, with the same roles but for the groups, which are its own. */
export async function cloneShop(shop: Shop): Promise<Shop> {
  if (!shop.pool.ended) await shop.pool.end();
  const database = await createDatabase({ template: shop.name });
  const roles = { ...shop.roles, read: `${database.name}_read`, write: `${database.name}_write` };
  return { ...database, roles, drop: () => dropWithRoles(database) };
}

/** Lets a test have a copy of its own. */
export async function inClone(shop: Shop, work: (clone: Shop) => Promise<void>): Promise<void> {
  const clone = await cloneShop(shop);
  try {
    await work(clone);
  } finally {
    await clone.drop();
  }
}

const OF_THE_SUPERUSER = `
  create publication of_the_schema for tables in schema public;
  alter publication of_the_schema owner to liventix;
  create publication of_everything for all tables`;

async function dropWithRoles(database: TestDatabase): Promise<void> {
  await database.drop();
  const server = Object.assign(new URL(database.adminUrl), { pathname: '/postgres' });
  const roles = await query<{ name: string }>(
    server.href,
    `select quote_ident(rolname) as name from pg_roles where starts_with(rolname, '${database.name}_')`,
  );
  for (const { name } of roles) await query(server.href, `drop role ${name}`);
}

/** Where the shop's tables go, with whatever a test wants otherwise. */
export function shopMapping({ roles }: Shop, changes: Partial<MappingFile> = {}): Mapping {
  const mapping: MappingFile = {
    name: 'shop',
    from: 'public',
    schemas: [
      { name: 'people', tables: ['customers', 'sellers', 'payouts'] },
      {
        name: 'Goods & "Wares"',
        tables: [
          'products',
          'products.archive',
          'select',
          'ÜberGrößen „größer“',
          'a_name_of_sixty_three_bytes_that_is_as_long_as_a_name_may_be_ab',
          'keyless',
          'columnless',
        ],
      },
      { name: 'sales', tables: ['orders', 'secrets', 'carts'] },
      { name: 'log.book', tables: ['events', 'animals'], laterTables: 'read' },
    ],
    stay: ['changes'],
    roles: { read: roles.read, write: roles.write, readers: [roles.auditor, roles.clerk], writers: [roles.clerk] },
    ...changes,
  };
  return parseMapping(JSON.stringify(mapping), 'shop.json');
}
