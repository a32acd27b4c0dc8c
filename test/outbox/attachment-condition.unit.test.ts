import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Condition, conditionText, parseColumns, parseCondition } from '../../src/outbox/attachments/condition.ts';

describe('a condition', () => {
  it.each<[string, Condition]>([
    ['insert', { kind: 'insert' }],
    [' DELETE ', { kind: 'delete' }],
    ['status: pending -> paid', { kind: 'change', column: 'status', from: ['pending'], to: ['paid'] }],
    ['status:pending->paid', { kind: 'change', column: 'status', from: ['pending'], to: ['paid'] }],
    [
      'status: draft|sent -> won | lost',
      { kind: 'change', column: 'status', from: ['draft', 'sent'], to: ['won', 'lost'] },
    ],
    ['status: * -> paid', { kind: 'change', column: 'status', from: null, to: ['paid'] }],
    ['status: paid -> *', { kind: 'change', column: 'status', from: ['paid'], to: null }],
    ['status: * -> *', { kind: 'change', column: 'status', from: null, to: null }],
    ['status: -> paid', { kind: 'becomes', column: 'status', to: ['paid'] }],
    ['paid_at: null -> *', { kind: 'change', column: 'paid_at', from: [null], to: null }],
    ["note: NULL|'null' -> ''", { kind: 'change', column: 'note', from: [null, 'null'], to: [''] }],
    ["note: 'it''s|a -> b' -> 'so: *'", { kind: 'change', column: 'note', from: ["it's|a -> b"], to: ['so: *'] }],
    ['"we""ird: column": -> 1', { kind: 'becomes', column: 'we"ird: column', to: ['1'] }],
    ['status: in-review -> no', { kind: 'change', column: 'status', from: ['in-review'], to: ['no'] }],
    ['Status: -> Paid', { kind: 'becomes', column: 'Status', to: ['Paid'] }],
  ])('is read: %s', (text, condition) => {
    expect(parseCondition(text)).toEqual(condition);
  });

  it.each([
    '',
    'status',
    'update',
    'status: paid',
    'status: ->',
    'status: paid ->',
    'status: a -> b -> c',
    'status: a: b -> c',
    ': a -> b',
    '"": a -> b',
    'a b: a -> b',
    'status: a| -> b',
    'status: a|* -> b',
    "status: 'a -> b",
    "status: it's -> b",
    "status: 'a'b' -> b",
    'status: "a" -> b',
    'status: two words -> b',
  ])('is refused, with examples: %s', (text) => {
    expect(() => parseCondition(text)).toThrow(
      expect.objectContaining({
        code: 'OUTBOX_ATTACHMENT_INVALID',
        message: expect.stringContaining('pending -> paid'),
      }),
    );
  });

  it('is written as it is read, whatever it names', () => {
    const text = fc.oneof(fc.string(), fc.constantFrom('null', 'NULL', '*', '->', "'", '"', 'a|b', ' ', '-'));
    const values = fc.option(fc.array(fc.option(text), { minLength: 1 }));
    const column = text.filter((name) => name !== '');
    const condition: fc.Arbitrary<Condition> = fc.oneof(
      fc.record({ kind: fc.constantFrom('insert', 'delete') }),
      fc.record({ kind: fc.constant('change'), column, from: values, to: values }),
      fc.record({ kind: fc.constant('becomes'), column, to: values }),
    );
    fc.assert(
      fc.property(condition, (each) => {
        expect(parseCondition(conditionText(each))).toEqual(each);
      }),
    );
  });
});

describe('columns of a payload', () => {
  it.each([
    ['id', ['id']],
    ['id, total_cents ,eventId', ['id', 'total_cents', 'eventId']],
    ['"we""ird","a,b"', ['we"ird', 'a,b']],
  ])('are read: %s', (text, columns) => {
    expect(parseColumns(text)).toEqual(columns);
  });

  it.each(['', 'id,', ',id', 'two words', '"open', "'id'"])('are refused: %s', (text) => {
    expect(() => parseColumns(text)).toThrow(expect.objectContaining({ code: 'OUTBOX_ATTACHMENT_INVALID' }));
  });
});
