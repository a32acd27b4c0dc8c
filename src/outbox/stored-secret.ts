import type { KeyRing, Sealed } from './key-ring.ts';
import type { SecretKind, SigningSecret } from './signing-secret.ts';

/** A row of `outbox.endpoint_secrets`. */
export interface StoredSecret extends Sealed {
  readonly endpointId: string;
  readonly kind: SecretKind;
}

/** What the parameters of a secret's row are, after the endpoint's id. */
export function sealSecret(keyRing: KeyRing, endpointId: string, { kind, bytes, publicKey }: SigningSecret): unknown[] {
  const { encrypted, keyId } = keyRing.seal(bytes, boundTo({ endpointId, kind }));
  return [kind, encrypted, keyId, publicKey];
}

/** undefined: no key that is known decrypts it. */
export function openSecret(keyRing: KeyRing, secret: StoredSecret): Buffer | undefined {
  return keyRing.open(secret, boundTo(secret));
}

// A row copied to another endpoint, or under another kind, is worth nothing there.
const boundTo = ({ endpointId, kind }: Pick<StoredSecret, 'endpointId' | 'kind'>) =>
  `liventix.endpoint_secret:${endpointId}:${kind}`;
