import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppError, type ErrorCode } from '../../src/errors.ts';
import { callByHalves } from '../../src/ledger/halving.ts';

const serverSaid = (sqlstate: string) => new AppError('DB_FAILED', 'refused', { details: { sqlstate } });

/** Calls in which each of the bad ones brings the call down with the failure. */
async function sent(items: readonly number[], isBad: (item: number) => boolean, failure: AppError) {
  const [passed, refused]: [number[], number[]] = [[], []];
  let calls = 0;
  const call = async (some: readonly number[]) => {
    calls += 1;
    if (some.some(isBad)) throw failure;
    passed.push(...some);
  };
  const thrown = await callByHalves(items, call, (item, why) => {
    expect(why).toBe(failure);
    refused.push(item);
  }).catch((error: unknown) => error);
  return { passed, refused, calls, thrown };
}

describe('a call by halves', () => {
  it('finds exactly those who bring it down, and lets the others pass, in their order', () =>
    fc.assert(
      fc.asyncProperty(fc.array(fc.boolean(), { maxLength: 40 }), async (bad) => {
        const items = bad.map((_, nth) => nth);
        const { passed, refused, thrown } = await sent(items, (nth) => bad[nth] === true, serverSaid('P0001'));
        expect(thrown).toBeUndefined();
        expect(passed).toEqual(items.filter((nth) => !bad[nth]));
        expect(refused).toEqual(items.filter((nth) => bad[nth]));
      }),
    ));

  it.each(['22P02', '22021', '54001', 'P0001', '23514', '44000', 'MY001'])(
    'is halved where SQLSTATE is %s',
    async (state) => {
      expect(await sent([1, 2, 3, 4], (item) => item === 2, serverSaid(state))).toMatchObject({
        passed: [1, 3, 4],
        refused: [2],
      });
    },
  );

  it.each(['57014', '55P03', '53100', '53200', '25006', '25P02', '42883', '08006', '58030', 'XX000'])(
    'is not made again where SQLSTATE is %s, which says nothing of what is in it',
    async (state) => {
      const failure = serverSaid(state);
      expect(await sent([1, 2, 3, 4], () => true, failure)).toEqual({
        passed: [],
        refused: [],
        calls: 1,
        thrown: failure,
      });
    },
  );

  it.each<[ErrorCode, number]>([
    ['LEDGER_INVALID', 7],
    ['LEDGER_BOOK_UNKNOWN', 1],
    ['LEDGER_BOOK_FORBIDDEN', 1],
    ['DB_UNREACHABLE', 1],
    ['DB_CONFLICT', 1],
    ['DB_PERMISSION_DENIED', 1],
  ])('of %s there are %i calls for four items', async (code, calls) => {
    expect(await sent([1, 2, 3, 4], () => true, new AppError(code, 'refused'))).toMatchObject({ calls });
  });
});
