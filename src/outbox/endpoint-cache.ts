import type { KeyObject } from 'node:crypto';
import type { Logger } from 'pino';
import type { Queryable } from '../db/pool.ts';
import type { Headers } from './headers.ts';
import type { KeyRing } from './key-ring.ts';
import { type SecretKind, signingKey } from './signing-secret.ts';
import { openSecret, type StoredSecret } from './stored-secret.ts';
import type { Signer } from './webhook.ts';

/** What an attempt has to know of its endpoint. */
export interface AttemptEndpoint {
  readonly version: bigint;
  readonly url: string;
  readonly headers: Headers;
  /** null: the worker's. */
  readonly retryDelaysMs: readonly number[] | null;
  /** Newest first. */
  readonly secrets: readonly DecryptedSecret[];
}

interface DecryptedSecret {
  readonly kind: SecretKind;
  /** undefined: no key that this worker has decrypts it. */
  readonly key: KeyObject | undefined;
  readonly expiresAt: Date | null;
}

interface Wanted {
  readonly endpointId: string;
  readonly endpointVersion: bigint;
}

/** The endpoints that a worker sends to, each asked for once a version and not for every delivery. */
export interface EndpointCache {
  /** By endpoint, as of the wanted version or a later one. */
  get(wanted: readonly Wanted[]): Promise<ReadonlyMap<string, AttemptEndpoint>>;
}

const MAX_REMEMBERED = 10_000;

export function createEndpointCache(options: { db: Queryable; keyRing: KeyRing; log: Logger }): EndpointCache {
  const remembered = new Map<string, AttemptEndpoint>();
  return {
    get: async (wanted) => {
      const isOld = ({ endpointId, endpointVersion }: Wanted) =>
        (remembered.get(endpointId)?.version ?? 0n) < endpointVersion;
      const missing = [...new Set(wanted.filter(isOld).map(({ endpointId }) => endpointId))];
      const loaded = missing.length === 0 ? new Map<string, AttemptEndpoint>() : await loadEndpoints(missing, options);
      for (const [endpointId, endpoint] of loaded) warnOfUnsignable(endpointId, endpoint, options.log);
      // What is asked for now is kept apart: it may be more than is remembered.
      const answer = new Map<string, AttemptEndpoint>();
      for (const { endpointId } of wanted) {
        const endpoint = loaded.get(endpointId) ?? remembered.get(endpointId);
        if (endpoint !== undefined) answer.set(endpointId, endpoint);
      }
      if (remembered.size + loaded.size > MAX_REMEMBERED) remembered.clear();
      for (const [id, endpoint] of loaded) remembered.set(id, endpoint);
      return answer;
    },
  };
}

/**
 * Who signs at that moment: during a rotation the newer secret, then the older. undefined: nobody may, because a secret that is valid
 * cannot be decrypted, or there is none; a receiver would take the request for forged.
 */
export function signersAt({ secrets }: Pick<AttemptEndpoint, 'secrets'>, now: Date): readonly Signer[] | undefined {
  const valid = secrets.filter(({ expiresAt }) => expiresAt === null || expiresAt > now);
  const signers = valid.flatMap(({ kind, key }) => (key === undefined ? [] : [{ kind, key }]));
  return signers.length > 0 && signers.length === valid.length ? signers : undefined;
}

interface Row extends Omit<AttemptEndpoint, 'secrets'>, StoredSecret {
  readonly kind: SecretKind;
  readonly expiresAt: Date | null;
  readonly hasSecret: boolean;
}

/** By id; what is no endpoint is left out. */
export async function loadEndpoints(
  ids: readonly string[],
  { db, keyRing }: { db: Queryable; keyRing: KeyRing },
): Promise<ReadonlyMap<string, AttemptEndpoint>> {
  const { rows } = await db.query<Row>({
    name: 'endpoints',
    text: `
      select endpoints.id as "endpointId", version, url, headers, retry_delays_ms as "retryDelaysMs",
        secrets.id is not null as "hasSecret", kind, encrypted, key_id as "keyId", expires_at as "expiresAt"
      from outbox.endpoints
      left join outbox.endpoint_secrets as secrets on secrets.endpoint_id = endpoints.id
      where endpoints.id = any ($1::uuid[])
      order by expires_at is null desc`,
    values: [ids],
  });
  const loaded = new Map<string, AttemptEndpoint>();
  for (const { endpointId, version, url, headers, retryDelaysMs, hasSecret, ...secret } of rows) {
    const earlier = loaded.get(endpointId)?.secrets ?? [];
    const secrets = hasSecret ? [...earlier, decrypted({ endpointId, ...secret }, keyRing)] : earlier;
    loaded.set(endpointId, { version, url, headers, retryDelaysMs, secrets });
  }
  return loaded;
}

function decrypted(secret: StoredSecret & { expiresAt: Date | null }, keyRing: KeyRing): DecryptedSecret {
  const { kind, expiresAt } = secret;
  const bytes = openSecret(keyRing, secret);
  return { kind, expiresAt, key: bytes && signingKey({ kind, bytes }) };
}

function warnOfUnsignable(endpointId: string, endpoint: AttemptEndpoint, log: Logger): void {
  if (signersAt(endpoint, new Date()) !== undefined) return;
  log.error(
    { endpointId },
    'worker: deliveries wait, because the secret of their endpoint is missing or cannot be decrypted; liventix doctor says what to do',
  );
}
