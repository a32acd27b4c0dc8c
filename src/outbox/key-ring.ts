import { createCipheriv, createDecipheriv, createHmac, randomBytes } from 'node:crypto';
import { AppError } from '../errors.ts';

/** A text that was encrypted, and by which key. */
export interface Sealed {
  /** Nonce, tag, text. */
  readonly encrypted: Buffer;
  readonly keyId: string;
}

/** The keys of OUTBOX_ENCRYPTION_KEY: the first encrypts, all decrypt. What it gives out can be read where it was bound to, and nowhere else. */
export interface KeyRing {
  /** Of the key that encrypts; undefined when there is none. */
  readonly keyId: string | undefined;
  /** @throws AppError OUTBOX_KEY_MISSING */
  seal(text: Buffer, boundTo: string): Sealed;
  /** undefined: by none of these keys, or not bound to this. */
  open(sealed: Sealed, boundTo: string): Buffer | undefined;
}

const CIPHER = 'aes-256-gcm';
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const KEY_ID_HEX = 16;

export function createKeyRing(keys: readonly Buffer[]): KeyRing {
  const byId = new Map(keys.map((key) => [keyIdOf(key), key]));
  const [first] = keys;
  return {
    keyId: first && keyIdOf(first),
    seal: (text, boundTo) => {
      if (first === undefined) throw keyMissing();
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv(CIPHER, first, nonce, { authTagLength: TAG_BYTES }).setAAD(Buffer.from(boundTo));
      const encrypted = Buffer.concat([cipher.update(text), cipher.final()]);
      return { encrypted: Buffer.concat([nonce, cipher.getAuthTag(), encrypted]), keyId: keyIdOf(first) };
    },
    open: ({ encrypted, keyId }, boundTo) => {
      const key = byId.get(keyId);
      if (key === undefined || encrypted.length < NONCE_BYTES + TAG_BYTES) return undefined;
      const decipher = createDecipheriv(CIPHER, key, encrypted.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES })
        .setAAD(Buffer.from(boundTo))
        .setAuthTag(encrypted.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
      const text = decipher.update(encrypted.subarray(NONCE_BYTES + TAG_BYTES));
      try {
        return Buffer.concat([text, decipher.final()]);
      } catch {
        // The tag does not fit, and nothing else can be wrong here.
        return undefined;
      }
    },
  };
}

/** @throws AppError OUTBOX_KEY_MISSING */
export function assertHasKey(keyRing: KeyRing): void {
  if (keyRing.keyId === undefined) throw keyMissing();
}

function keyMissing(): AppError {
  return new AppError(
    'OUTBOX_KEY_MISSING',
    'OUTBOX_ENCRYPTION_KEY is not set, and the secrets of endpoints are kept encrypted. Make one with openssl rand -base64 32, keep it safe, and give it to every worker and command.',
  );
}

// Tells keys apart and tells nothing about them.
function keyIdOf(key: Buffer): string {
  return createHmac('sha256', key).update('liventix outbox key id').digest('hex').slice(0, KEY_ID_HEX);
}
