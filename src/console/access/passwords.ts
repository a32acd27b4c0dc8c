import { randomBytes, type ScryptOptions, scrypt, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';

/** As OWASP's Password Storage Cheat Sheet asks of scrypt: 128 MB and a third of a second for each try. */
const COST = { N: 2 ** 17, r: 8, p: 1 } as const;
const [SALT_BYTES, HASH_BYTES] = [16, 32];
const MAX_MEMORY_BYTES = 256 * 1024 * 1024;

export const MIN_PASSWORD_LENGTH = 12;
export const MAX_PASSWORD_LENGTH = 256;

const derive = promisify<string, Buffer, number, ScryptOptions, Buffer>(scrypt);

const hashOf = (password: string, salt: Buffer, cost: typeof COST | { N: number; r: number; p: number }) =>
  // One letter can be written in two ways: the keyboard decides, not the person.
  derive(password.normalize('NFKC'), salt, HASH_BYTES, { ...cost, maxmem: MAX_MEMORY_BYTES });

/** `scrypt:131072:8:1:salt:hash`, both in base64url. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(SALT_BYTES);
  const hash = await hashOf(password, salt, COST);
  return ['scrypt', COST.N, COST.r, COST.p, salt.toString('base64url'), hash.toString('base64url')].join(':');
}

/**
 * Whether it is the password that a hash was made of. Without a hash, as of a user that there is not, it takes as long and is not.
 */
export async function isPassword(password: string, stored: string | undefined): Promise<boolean> {
  const [, N = '', r = '', p = '', salt = '', hash = ''] =
    /^scrypt:(\d+):(\d+):(\d+):([\w-]+):([\w-]+)$/.exec(stored ?? '') ?? [];
  if (hash === '') {
    await hashOf(password, randomBytes(SALT_BYTES), COST);
    return false;
  }
  const wanted = Buffer.from(hash, 'base64url');
  const given = await hashOf(password, Buffer.from(salt, 'base64url'), { N: Number(N), r: Number(r), p: Number(p) });
  return wanted.length === given.length && timingSafeEqual(wanted, given);
}
