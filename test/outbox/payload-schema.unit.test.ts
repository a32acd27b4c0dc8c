import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { acceptedSchema, checkOf, type PayloadCheck, type PayloadSchema } from '../../src/outbox/payload-schema.ts';

function check(schema: PayloadSchema): PayloadCheck {
  const made = checkOf(JSON.stringify(acceptedSchema(schema)));
  if (made instanceof Error) throw made;
  return made;
}

const tree = z.object({
  n: z.int(),
  get kids() {
    return z.array(tree).optional();
  },
});

describe('a schema that is taken', () => {
  it.each<readonly [string, PayloadSchema, unknown, unknown, { path: string; expected: string }]>([
    [
      'of zod, with formats and names of its own',
      z.object({ id: z.cuid2().meta({ id: 'Ticket', example: 'x' }), at: z.iso.datetime() }),
      { id: 'abc', at: '2026-03-01T08:00:00Z' },
      { id: '-', at: '2026-03-01T08:00:00Z' },
      { path: '/id', expected: 'must match pattern "^[0-9a-z]+$"' },
    ],
    [
      'of zod, as what goes in: further fields, and without what has a default',
      z.object({ n: z.int().default(1) }),
      { more: true },
      { n: 1.5 },
      { path: '/n', expected: 'must be integer' },
    ],
    [
      'of zod, strict',
      z.strictObject({ n: z.int() }),
      { n: 1 },
      { n: 1, more: 1 },
      { path: '', expected: 'must NOT have additional properties' },
    ],
    [
      'that refers to itself',
      tree,
      { n: 1, kids: [{ n: 2 }] },
      { n: 1, kids: [{ n: 2 }, { n: 'x' }] },
      { path: '/kids/1/n', expected: 'must be integer' },
    ],
    [
      'that refers to a part of it by $anchor',
      {
        type: 'object',
        properties: { a: { $ref: '#cents' } },
        $defs: { cents: { $anchor: 'cents', type: 'integer' } },
      },
      { a: 1 },
      { a: 'x' },
      { path: '/a', expected: 'must be integer' },
    ],
    [
      'with a format',
      { properties: { at: { type: 'string', format: 'date-time' } } },
      { at: '2026-03-01T08:00:00Z' },
      { at: 'soon' },
      { path: '/at', expected: 'must match format "date-time"' },
    ],
    [
      'of alternatives',
      { anyOf: [{ required: ['a'] }, { required: ['b'] }] },
      { b: 1 },
      {},
      { path: '', expected: 'must match a schema in anyOf' },
    ],
    [
      'with what was added in 2020-12',
      { properties: { pair: { type: 'array', prefixItems: [{ type: 'integer' }, { type: 'string' }] } } },
      { pair: [1, 'x'] },
      { pair: [1, 2] },
      { path: '/pair/1', expected: 'must be string' },
    ],
  ])('%s', (_what, schema, fits, doesNot, misfit) => {
    const judge = check(schema);
    expect(judge(fits)).toBeUndefined();
    expect(judge(doesNot)).toEqual(misfit);
  });

  it('may have the $id of another', () => {
    const $id = 'https://example.com/ticket';
    expect(check({ $id, properties: { a: { type: 'string' } } })({ a: 1 })).toBeDefined();
    expect(check({ $id, properties: { a: { type: 'integer' } } })({ a: 1 })).toBeUndefined();
  });

  it('says nothing of a payload: neither its values nor keys that it does not name itself', () => {
    const judge = check({
      properties: {
        'a/b': { additionalProperties: { type: 'object', properties: { age: { type: 'integer', maximum: 120 } } } },
      },
    });
    expect(judge({ 'a/b': { 'anna@example.com': { age: 'forty' } } })).toEqual({
      path: '/a~1b/*/age',
      expected: 'must be integer',
    });
    expect(judge({ 'a/b': { '0171234567': { age: 400 } } })).toEqual({
      path: '/a~1b/*/age',
      expected: 'must be <= 120',
    });
  });

  it('refuses a payload that is nested deeper than a call stack', () => {
    let deep: object = { n: 1 };
    for (let level = 0; level < 20_000; level += 1) deep = { n: 1, kids: [deep] };
    expect(check(tree)(deep)).toEqual({ path: '', expected: 'must be nested less deeply' });
  });
});

it.each<readonly [string, unknown, RegExp]>([
  ['null', null, /no object/],
  ['an array', [], /no object/],
  ['a text', 'x', /no object/],
  ['an unknown type', { type: 'objekt' }, /\/type must be equal to one of/],
  ['a misspelt keyword', { requird: ['a'] }, /unknown keyword: "requird"/],
  ['a misspelt format', { properties: { a: { format: 'date-tme' } } }, /unknown format "date-tme"/],
  ['a pattern that is none', { properties: { a: { pattern: '(' } } }, /Invalid regular expression/],
  ['another draft', { $schema: 'http://json-schema.org/draft-07/schema#' }, /its \$schema is not https/],
  ['what it refers to is not there', { $ref: '#/$defs/x' }, /can't resolve reference #\/\$defs\/x/],
  ['what it refers to is elsewhere', { $ref: 'https://example.com/x' }, /can't resolve reference/],
  ['for what is no object', { type: 'array' }, /always an object/],
  ['of zod, for what is no object', z.string(), /always an object/],
  ['of zod, for what JSON does not have', z.object({ at: z.date() }), /zod says: Date cannot be represented/],
  ['that answers later', { $async: true }, /\$async/],
  ['that holds itself', holdingItself(), /nested without end/],
  ['of more than 64 kB', { title: 'x'.repeat(65_536) }, /bytes, more than 65536/],
])('refuses a schema in one line: %s', (_what, schema, says) => {
  expect(() => acceptedSchema(schema as PayloadSchema)).toThrow(
    expect.objectContaining({ code: 'OUTBOX_SCHEMA_INVALID', message: expect.stringMatching(/^[^\n]+$/) }),
  );
  expect(() => acceptedSchema(schema as PayloadSchema)).toThrow(says);
});

function holdingItself(): Record<string, unknown> {
  const schema: Record<string, unknown> = {};
  schema['not'] = schema;
  return schema;
}

it('tells of a stored schema that cannot be read', () => {
  expect(checkOf('{"type": "objekt"}')).toBeInstanceOf(Error);
});

const INNER = { properties: { a: { $ref: '#/$defs/a' } } };
const TWICE = { anyOf: ['b', 'c'].map((name) => ({ allOf: [INNER, { required: [name] }] })) };
const NESTED = Array.from({ length: 40 }).reduce((inner) => ({ a: inner }), {});

it.each<[string, Record<string, unknown>, unknown]>([
  ['a pattern that tries every way', { properties: { a: { pattern: '^(a+)+$' } } }, { a: `${'a'.repeat(60)}!` }],
  [
    'items that are compared with each other',
    { properties: { a: { uniqueItems: true } } },
    { a: Array.from({ length: 60_000 }, (_, n) => ({ n })) },
  ],
  [
    'items that are compared with each of many values',
    { properties: { a: { items: { enum: Array.from({ length: 10_000 }, (_, n) => n) } } } },
    { a: Array.from({ length: 100_000 }, () => 9_999) },
  ],
  ['a schema that looks twice at what is in it', { $defs: { a: TWICE }, $ref: '#/$defs/a' }, NESTED],
])('breaks off what would take minutes: %s', (_what, schema, payload) => {
  const check = checkOf(JSON.stringify(acceptedSchema(schema)));
  if (check instanceof Error) throw check;
  const startedAt = performance.now();
  expect(check(payload)?.expected).toMatch(/takes more than 100 ms/);
  expect(performance.now() - startedAt).toBeLessThan(5_000);
  expect(check({ a: 'a' })?.expected ?? 'fits').not.toMatch(/takes more than/);
});
