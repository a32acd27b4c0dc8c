import {
  createHmac,
  createPrivateKey,
  createPublicKey,
  createSecretKey,
  type KeyObject,
  randomBytes,
  sign,
} from 'node:crypto';
import { AppError } from '../errors.ts';

/** v1: HMAC-SHA256, its secret shared; v1a: ed25519, whose receiver knows the public key alone. */
export type SecretKind = 'v1' | 'v1a';
export const SECRET_KINDS: readonly SecretKind[] = ['v1', 'v1a'];

/** What an endpoint's requests are signed with, in the notation of https://www.standardwebhooks.com. */
export interface SigningSecret {
  readonly kind: SecretKind;
  /** The shared key; of v1a seed and public key, one after the other. */
  readonly bytes: Buffer;
  /** `whpk_` and base64; null where there is none. */
  readonly publicKey: string | null;
}

/** Standard Webhooks asks for 24 to 64 bytes. */
const MIN_BYTES = 24;
const MAX_BYTES = 64;
const NEW_BYTES = 32;
const SEED_BYTES = 32;
const V1_PREFIX = 'whsec_';
const V1A_PREFIX = 'whsk_';
/** What comes before the seed in PKCS #8, RFC 8410. */
const PKCS8_OF_ED25519 = Buffer.from('302e020100300506032b657004220420', 'hex');
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

export function newSecret(kind: SecretKind): SigningSecret {
  const bytes = randomBytes(NEW_BYTES);
  return kind === 'v1' ? { kind, bytes, publicKey: null } : secretOfSeed(bytes);
}

/**
 * Reads `whsec_…` or `whsk_…` (a seed, or seed and public key).
 * @throws AppError OUTBOX_SECRET_INVALID, which repeats nothing of it
 */
export function parseSecret(text: string): SigningSecret {
  const prefix = [V1_PREFIX, V1A_PREFIX].find((each) => text.startsWith(each));
  if (prefix === undefined) throw invalid(`begins with neither ${V1_PREFIX} nor ${V1A_PREFIX}`);
  const encoded = text.slice(prefix.length);
  if (!BASE64.test(encoded)) throw invalid(`is not base64 after ${prefix}`);
  const bytes = Buffer.from(encoded, 'base64');
  if (prefix === V1A_PREFIX) return parseSeed(bytes);
  if (bytes.length < MIN_BYTES || bytes.length > MAX_BYTES) {
    throw invalid(`has ${bytes.length} bytes, not ${MIN_BYTES} to ${MAX_BYTES}`);
  }
  return { kind: 'v1', bytes, publicKey: null };
}

/** As the receiver is given it: the shared secret, or the public key. */
export function receiversPart({ kind, bytes, publicKey }: SigningSecret): string {
  return kind === 'v1' ? `${V1_PREFIX}${bytes.toString('base64')}` : (publicKey ?? '');
}

/** Made once, because signing is done for every request. */
export function signingKey({ kind, bytes }: Pick<SigningSecret, 'kind' | 'bytes'>): KeyObject {
  return kind === 'v1' ? createSecretKey(bytes) : privateKeyOf(bytes.subarray(0, SEED_BYTES));
}

/** One signature as `webhook-signature` has it. */
export function signatureBy({ kind, key }: { kind: SecretKind; key: KeyObject }, content: Buffer): string {
  const signature = kind === 'v1' ? createHmac('sha256', key).update(content).digest() : sign(null, content, key);
  return `${kind},${signature.toString('base64')}`;
}

function parseSeed(bytes: Buffer): SigningSecret {
  if (bytes.length !== SEED_BYTES && bytes.length !== 2 * SEED_BYTES) {
    throw invalid(
      `has ${bytes.length} bytes; an ed25519 key has ${SEED_BYTES}, or ${2 * SEED_BYTES} with its public key`,
    );
  }
  const secret = secretOfSeed(bytes.subarray(0, SEED_BYTES));
  if (bytes.length > SEED_BYTES && !secret.bytes.equals(bytes)) throw invalid('holds a public key that is not its own');
  return secret;
}

function secretOfSeed(seed: Buffer): SigningSecret {
  const { x = '' } = createPublicKey(privateKeyOf(seed)).export({ format: 'jwk' });
  const publicKey = Buffer.from(x, 'base64url');
  return { kind: 'v1a', bytes: Buffer.concat([seed, publicKey]), publicKey: `whpk_${publicKey.toString('base64')}` };
}

function privateKeyOf(seed: Buffer): KeyObject {
  return createPrivateKey({ key: Buffer.concat([PKCS8_OF_ED25519, seed]), format: 'der', type: 'pkcs8' });
}

function invalid(why: string): AppError {
  return new AppError(
    'OUTBOX_SECRET_INVALID',
    `The secret ${why}. Give ${V1_PREFIX} and ${MIN_BYTES} to ${MAX_BYTES} bytes in base64, or ${V1A_PREFIX} and an ed25519 key; or leave it out, and one is made.`,
  );
}
