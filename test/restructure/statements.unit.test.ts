import { describe, expect, it } from 'vitest';
import { lockStatement, type Movable, moveStep, qualified } from '../../src/restructure/statements.ts';

const movable = (changes: Partial<Movable>): Movable => ({
  oid: 1,
  name: 'orders',
  owner: 'me',
  columns: [{ name: 'id', comment: null }],
  comment: null,
  hasStatistics: false,
  sequences: 0,
  publishedBySchema: [],
  readGrants: [],
  writeGrants: [],
  mayOwnView: true,
  ...changes,
});
const step = (...relations: readonly Movable[]) =>
  moveStep({ from: 'public', target: 'sales', currentUser: 'me', groups: { read: 'r', write: 'w' }, relations });

describe('the SQL of a move', () => {
  it('moves the table, makes a view of the rights of whoever asks, and is undone the other way round', () => {
    expect(step(movable({}))).toEqual({
      statements: [
        'alter table "public"."orders" set schema "sales"',
        'create view "public"."orders" with (security_invoker = true) as select "id" from "sales"."orders"',
        `select restructure.copy_defaults('"sales"."orders"', '"public"."orders"')`,
        `select restructure.copy_grants('"sales"."orders"', '"public"."orders"')`,
      ],
      inverse: [
        `select restructure.set_aside('"public"."orders"')`,
        'alter table "sales"."orders" set schema "public"',
        `select restructure.take_statistics_along('"public"."orders"', 'sales')`,
      ],
      mayChange: ['relation.schema', 'sequence.schema', 'statistics.schema', '+reader', 'relation.grants'],
    });
  });

  it('has what else goes along, and takes back what it gave', () => {
    const { statements, inverse } = step(
      movable({
        hasStatistics: true,
        publishedBySchema: ['all'],
        readGrants: ['select'],
        writeGrants: ['insert', 'delete'],
      }),
    );
    expect(statements).toEqual(
      expect.arrayContaining([
        `select restructure.take_statistics_along('"sales"."orders"', 'public')`,
        'grant select on "sales"."orders" to "r"',
        'grant insert, delete on "sales"."orders" to "w"',
        'alter publication "all" add table only "sales"."orders"',
      ]),
    );
    expect(inverse).toEqual(
      expect.arrayContaining([
        'revoke select on "sales"."orders" from "r"',
        'revoke insert, delete on "sales"."orders" from "w"',
        `select restructure.take_out_of_publication('all', '"sales"."orders"')`,
      ]),
    );
  });

  it('gives the view to the owner of the table, where that may own it, before anything is granted', () => {
    const statements = step(movable({ owner: 'another' })).statements;
    const owner = statements.indexOf('alter view "public"."orders" owner to "another"');
    expect(owner).toBeGreaterThan(0);
    expect(statements.findIndex((each) => each.includes('copy_grants'))).toBeGreaterThan(owner);
    expect(step(movable({ owner: 'another', mayOwnView: false })).statements.join()).not.toContain('owner to');
  });

  it('takes partitions after their parent, and back before it', () => {
    const { statements, inverse } = step(movable({}), movable({ oid: 2, name: 'orders_2026' }));
    const ofParent = (all: readonly string[]) =>
      all.findIndex((each) => each.startsWith('alter table') && each.includes('."orders" '));
    const ofChild = (all: readonly string[]) =>
      all.findIndex((each) => each.startsWith('alter table') && each.includes('"orders_2026" '));
    expect(ofParent(statements)).toBeLessThan(ofChild(statements));
    expect(ofParent(inverse)).toBeGreaterThan(ofChild(inverse));
  });

  it('quotes whatever a name or a comment has', () => {
    const [, view, , comment, ofColumn] = step(
      movable({ name: 'a"b.c', comment: `it's \\ "x"`, columns: [{ name: "ü's", comment: 'x' }] }),
    ).statements;
    expect(view).toBe(
      `create view "public"."a""b.c" with (security_invoker = true) as select "ü's" from "sales"."a""b.c"`,
    );
    expect(comment).toBe(`comment on view "public"."a""b.c" is  E'it''s \\\\ "x"'`);
    expect(ofColumn).toBe(`comment on column "public"."a""b.c"."ü's" is 'x'`);
    expect(lockStatement('a.b', 'c"')).toBe('lock table "a.b"."c""" in access exclusive mode');
    expect(qualified('A', 'b')).toBe('"A"."b"');
  });
});
