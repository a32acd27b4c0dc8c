import { describe, expect, it } from 'vitest';
import { assignmentsOf, LIVENTIX_MAPPING, parseMapping, readMapping } from '../../src/restructure/mapping.ts';
import { extendedPath } from '../../src/restructure/search-paths.ts';

const mapping = (changes: object): string =>
  JSON.stringify({ name: 'shop', from: 'public', schemas: [{ name: 'sales', tables: ['orders'] }], ...changes });
/** The mapping of a shop that keeps its tenants apart. */
const tenancy = (...tables: readonly object[]): string =>
  mapping({
    tenancy: {
      caller: 'auth.uid()',
      claims: 'auth.jwt()',
      current: { claim: 'org_id', function: 'current_org_id' },
      organizations: { table: 'members', user: 'user_id', group: 'org_id', function: 'caller_org_ids' },
      tables,
      views: {},
      functions: {},
    },
  });
const forced = { table: 'orders', kind: 'organization', organization: { column: 'org_id' }, force: true };
const schema = (name: string) => ({ name, tables: [] });

describe('a mapping', () => {
  it('that comes with the package is one', async () => {
    expect(assignmentsOf(await readMapping(LIVENTIX_MAPPING)).length).toBeGreaterThan(90);
  });

  it.each<[what: string, text: string, says: RegExp]>([
    ['no JSON', '{', /shop\.json: is no JSON: /],
    ['nothing', '', /is no JSON/],
    ['another thing', '[]', /the file: /],
    ['no schemas', mapping({ schemas: undefined }), /schemas: /],
    ['an unknown key', mapping({ tabels: [] }), /tabels/],
    ['an unknown key within', mapping({ schemas: [{ ...schema('a'), table: 'x' }] }), /schemas\.0: .*table/],
    ['a schema twice', mapping({ schemas: [schema('a'), schema('b'), schema('a')] }), /names the schema a twice/],
    ['the schema that tables leave', mapping({ schemas: [schema('public')] }), /moves tables of public to public/],
    [
      'a schema of the server',
      mapping({ schemas: [schema('pg_sales')] }),
      /names the schema pg_sales, which is not for/,
    ],
    [
      'the journal',
      mapping({ from: 'restructure' }),
      /names the schema restructure, which is not for tables of others/,
    ],
    ['the outbox', mapping({ schemas: [schema('outbox')] }), /names the schema outbox, which is not/],
    ['a table that stays and goes', mapping({ stay: ['orders'] }), /has orders under stay and in a schema/],
    [
      'a name of 64 bytes',
      mapping({ schemas: [schema('x'.repeat(64))] }),
      /schemas\.0\.name: is no name of PostgreSQL/,
    ],
    ['a name of 64 bytes in fewer letters', mapping({ from: 'ü'.repeat(32) }), /from: is no name/],
    ['a name of none', mapping({ schemas: [{ name: 'a', tables: [''] }] }), /schemas\.0\.tables\.0/],
    ['a name with a null', mapping({ from: 'a\0b' }), /from: is no name/],
    ['two faults, both said', mapping({ from: '', stay: [1] }), /from: .*; stay\.0: /],
    [
      'a reason of none',
      mapping({ accept: [{ table: 'a', finding: 'calls-copy', because: '' }] }),
      /accept\.0\.because/,
    ],
    [
      'force on what is filled by the owner',
      tenancy({ ...forced, organization: { of: 'carts', by: 'cart_id' } }, { ...forced, table: 'carts', force: false }),
      /orders cannot force/,
    ],
    [
      'force on what says whose the rows of another table are',
      tenancy(forced, { table: 'lines', kind: 'user', parent: { of: 'orders', by: 'order_id' } }),
      /orders cannot force/,
    ],
    [
      'a parent that rows need and have not',
      tenancy({ ...forced, force: false, needs: ['parent'] }),
      /orders has no parent/,
    ],
    [
      'what rows need of a table of which nothing is said',
      tenancy({ ...forced, force: false, needs: [{ of: 'carts', by: 'cart_id', user: 'user_id' }] }),
      /of which nothing is said/,
    ],
    ['force on the members of organizations', tenancy({ ...forced, table: 'members' }), /members cannot force/],
  ])('with %s is refused', (_what, text, says) => {
    expect(() => parseMapping(text, 'shop.json')).toThrow(says);
    expect(() => parseMapping(text, 'shop.json')).toThrow(
      expect.objectContaining({ code: 'RESTRUCTURE_MAPPING_INVALID' }),
    );
  });

  it('may force row security on an owner who is asked nothing', () => {
    expect(parseMapping(tenancy(forced), 'shop.json').tenancy?.tables).toMatchObject([
      { table: 'orders', force: true },
    ]);
  });

  it('may have names of 63 bytes, and says of a file that is not there', async () => {
    expect(parseMapping(mapping({ from: 'x'.repeat(63) }), 'shop.json').from).toHaveLength(63);
    await expect(readMapping('/nowhere/shop.json')).rejects.toMatchObject({
      code: 'RESTRUCTURE_MAPPING_INVALID',
      message: expect.stringMatching(/cannot be read/),
    });
  });
});

describe('a search path', () => {
  const extended = (path: string) => extendedPath(path, { from: 'public', targets: ['sales', 'Goods'] });
  it.each<[path: string, becomes: string | undefined]>([
    ['"$user", public', '"$user", "public", "sales", "Goods"'],
    ['public, extensions', '"public", "sales", "Goods", "extensions"'],
    ['"Public", PUBLIC', '"Public", "public", "sales", "Goods"'],
    ['sales, public', '"sales", "public", "Goods"'],
    ['"a""b, c",public', '"a""b, c", "public", "sales", "Goods"'],
    ['public, "Goods", sales', undefined],
    ['app', undefined],
    ['""', undefined],
    ['', undefined],
  ])('%s becomes %s', (path, becomes) => {
    expect(extended(path)).toBe(becomes);
  });
});
