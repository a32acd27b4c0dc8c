import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { assertKeyFits, INSERT_SECRET, movePlain, parsePlain } from './endpoint-secrets.ts';
import { lockEndpoint, NOTIFY_CHANGED } from './endpoints.ts';
import { assertHasKey, type KeyRing } from './key-ring.ts';
import type { SigningSecret } from './signing-secret.ts';
import { openSecret, type StoredSecret, sealSecret } from './stored-secret.ts';

/** What a rotation is asked for. */
export interface RotationRequest {
  readonly endpointId: string;
  readonly secret: SigningSecret;
  readonly overlapMs: number;
  /** Nobody has the key any more that the secret before was encrypted with: it may be given up. */
  readonly isKeyLost?: boolean;
}

export interface Rotation {
  /** Until when the secret before signs too; null: it has ended, or there was none. */
  readonly previousUntil: Date | null;
  /** Whether the secret before could not be decrypted, and so ends at once. */
  readonly previousWasLost: boolean;
}

/**
 * Makes a secret current. The one before stays valid for the overlap, and requests carry both signatures, unless the overlap is 0: then
 * whatever was valid ends at once.
 * @throws AppError OUTBOX_ENDPOINT_UNKNOWN, OUTBOX_ROTATION_UNDER_WAY, OUTBOX_KEY_MISSING, OUTBOX_KEY_WRONG,
 *   OUTBOX_SECRET_INVALID
 */
export function rotateSecret(pool: Pool, keyRing: KeyRing, request: RotationRequest): Promise<Rotation> {
  const { endpointId, secret, overlapMs } = request;
  assertHasKey(keyRing);
  return withTransaction(pool, async (tx) => {
    await lockEndpoint(tx, endpointId);
    const current = await assertRotatable(tx, keyRing, request);
    // What is in plain text needs no key to be read: it has its overlap as well.
    await movePlain(tx, keyRing, endpointId);
    const previousUntil = await endCurrent(tx, endpointId, current === 'readable' ? overlapMs : 0);
    await tx.query(INSERT_SECRET, [endpointId, ...sealSecret(keyRing, endpointId, secret)]);
    await tx.query('update outbox.endpoints set secret = null where id = $1 and secret is not null', [endpointId]);
    await tx.query(NOTIFY_CHANGED);
    return { previousUntil, previousWasLost: current === 'undecryptable' };
  });
}

const END_LATER = `
  update outbox.endpoint_secrets set expires_at = clock_timestamp() + $2 * interval '1 millisecond'
  where endpoint_id = $1 and expires_at is null
  returning expires_at as "expiresAt"`;

/** Whatever else was valid ends now. */
async function endCurrent(tx: Tx, endpointId: string, overlapMs: number): Promise<Date | null> {
  const which = overlapMs > 0 ? 'and expires_at is not null' : '';
  await tx.query(`delete from outbox.endpoint_secrets where endpoint_id = $1 ${which}`, [endpointId]);
  if (overlapMs === 0) return null;
  const { rows } = await tx.query<{ expiresAt: Date }>(END_LATER, [endpointId, overlapMs]);
  return rows[0]?.expiresAt ?? null;
}

/** What is valid now. */
interface Held {
  readonly endsAt: Date | null;
  /** undefined: no key that is known decrypts it. */
  readonly bytes: Buffer | undefined;
}

/**
 * Whether a secret may follow the current one now; answers what the current one is.
 * @throws AppError OUTBOX_ROTATION_UNDER_WAY, OUTBOX_SECRET_INVALID, OUTBOX_KEY_WRONG
 */
export async function assertRotatable(
  db: Queryable,
  keyRing: KeyRing,
  { endpointId, secret, overlapMs, isKeyLost = false }: RotationRequest,
): Promise<'readable' | 'undecryptable' | 'missing'> {
  const held = await heldSecrets(db, keyRing, endpointId);
  if (held.some(({ bytes }) => bytes?.equals(secret.bytes) === true)) throw isNoOther(endpointId);
  if (!isKeyLost) {
    if (held.some(({ bytes }) => bytes === undefined)) throw notDecrypted(endpointId);
    // Where this one has none that is encrypted, the others tell whether anybody else could read what these keys encrypt.
    await assertKeyFits(db, keyRing);
  }
  const ending = held.find(({ endsAt, bytes }) => endsAt !== null && bytes !== undefined);
  if (ending !== undefined && overlapMs > 0) throw underWay(endpointId, ending);
  const current = held.find(({ endsAt }) => endsAt === null);
  if (current === undefined) return 'missing';
  return current.bytes === undefined ? 'undecryptable' : 'readable';
}

async function heldSecrets(db: Queryable, keyRing: KeyRing, endpointId: string): Promise<readonly Held[]> {
  const { rows } = await db.query<StoredSecret & { endsAt: Date | null }>(
    `select endpoint_id as "endpointId", kind, encrypted, key_id as "keyId", expires_at as "endsAt"
     from outbox.endpoint_secrets
     where endpoint_id = $1 and (expires_at is null or expires_at > clock_timestamp())`,
    [endpointId],
  );
  const held = rows.map((row) => ({ endsAt: row.endsAt, bytes: openSecret(keyRing, row) }));
  return held.some(({ endsAt }) => endsAt === null) ? held : [...held, ...(await plainSecret(db, endpointId))];
}

async function plainSecret(db: Queryable, endpointId: string): Promise<readonly Held[]> {
  const { rows } = await db.query<{ secret: string }>(
    'select secret from outbox.endpoints where id = $1 and secret is not null',
    [endpointId],
  );
  return rows.flatMap(({ secret }) => {
    const parsed = parsePlain(secret);
    return parsed === undefined ? [] : [{ ...parsed, endsAt: null }];
  });
}

// Who rotates because it became known would be told that it signs nothing any more.
function isNoOther(endpointId: string): AppError {
  return new AppError(
    'OUTBOX_SECRET_INVALID',
    `The secret is one that endpoint ${endpointId} signs with already: it would go on, whoever knows it. Give another, or leave it out, and one is made. Nothing was changed.`,
  );
}

function underWay(endpointId: string, { endsAt }: Held): AppError {
  return new AppError(
    'OUTBOX_ROTATION_UNDER_WAY',
    `Endpoint ${endpointId} has two valid secrets until ${endsAt?.toISOString()}, and a third would end the first before its time. Wait until then, or end both at once with --overlap 0s.`,
  );
}

function notDecrypted(endpointId: string): AppError {
  return new AppError(
    'OUTBOX_KEY_WRONG',
    `OUTBOX_ENCRYPTION_KEY does not decrypt the secret of endpoint ${endpointId}, which would be lost, and workers that have its key could not read the new one. Set the key that it was encrypted with, if need be beside this one. If nobody has that key any more, add --lost-key: the old secret then ends at once, and the receiver has to be given the new one. Nothing was changed.`,
    { details: { endpoints: [endpointId] } },
  );
}
