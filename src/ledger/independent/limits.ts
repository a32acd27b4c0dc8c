import type { Account } from './book-state.ts';

const ZERO = 0n;

/**
 * Which limit of an account a movement passed, in words; undefined where it passed none. Only a movement towards a limit
 * passes it, and what holds reserve is as good as spent.
 * @param moved by how much the balance changed; for a hold, the direction in which it reserves
 */
export function limitPassed(account: Account, moved: bigint): string | undefined {
  const { balance, held, min, max, side } = account;
  const [highest, lowest] = [balance + (held > ZERO ? held : ZERO), balance + (held < ZERO ? held : ZERO)];
  const isAbove = moved > ZERO && max !== null && highest > max;
  const isBelow = moved < ZERO && min !== null && lowest < min;
  if (!isAbove && !isBelow) return undefined;
  const [limit, reached] = isAbove ? [max, highest] : [min, lowest];
  return `account ${account.id} comes to ${reached} (debit positive), beyond its ${isAbove === side > ZERO ? 'ceiling' : 'floor'} of ${limit}`;
}
