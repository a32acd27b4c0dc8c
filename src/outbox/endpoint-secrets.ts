import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { assertHasKey, type KeyRing } from './key-ring.ts';
import { parseSecret, type SecretKind, type SigningSecret } from './signing-secret.ts';
import { openSecret, type StoredSecret, sealSecret } from './stored-secret.ts';

/** A secret as anybody may see it. */
export interface SecretInfo {
  readonly kind: SecretKind;
  /** Of v1a, with which its receiver verifies. */
  readonly publicKey: string | null;
  readonly createdAt: Date;
  /** null: until it is rotated. */
  readonly expiresAt: Date | null;
}

/** Newest first, without those that have ended. */
export async function listSecrets(db: Queryable, endpointId: string): Promise<readonly SecretInfo[]> {
  const { rows } = await db.query<SecretInfo>(
    `select kind, public_key as "publicKey", created_at as "createdAt", expires_at as "expiresAt"
     from outbox.endpoint_secrets
     where endpoint_id = $1 and (expires_at is null or expires_at > statement_timestamp())
     order by expires_at is null desc`,
    [endpointId],
  );
  return rows;
}

export const INSERT_SECRET = `
  insert into outbox.endpoint_secrets (endpoint_id, kind, encrypted, key_id, public_key) values ($1, $2, $3, $4, $5)`;

/**
 * Encrypts what is still in plain text, as before 0042, and anew what another key than the first encrypted. Any number may do so at once;
 * what is nothing that could sign stays where it is.
 */
export function settleSecrets(pool: Pool, keyRing: KeyRing): Promise<{ moved: number; encryptedAnew: number }> {
  return withTransaction(pool, async (tx) => ({
    moved: await movePlain(tx, keyRing),
    encryptedAnew: await encryptAnew(tx, keyRing),
  }));
}

/** @param endpointId that one alone; all when left out */
export async function movePlain(tx: Tx, keyRing: KeyRing, endpointId: string | null = null): Promise<number> {
  // In id order, and before their secrets, as whoever rotates one locks them.
  const { rows } = await tx.query<{ id: string; secret: string }>(
    `select id, secret from outbox.endpoints
     where secret is not null and ($1::uuid is null or id = $1)
     order by id for update`,
    [endpointId],
  );
  let moved = 0;
  for (const { id, secret } of rows) {
    const parsed = parsePlain(secret);
    if (parsed === undefined) continue;
    await tx.query(`${INSERT_SECRET} on conflict do nothing`, [id, ...sealSecret(keyRing, id, parsed)]);
    await tx.query('update outbox.endpoints set secret = null where id = $1', [id]);
    moved += 1;
  }
  return moved;
}

/** What was kept in plain text; undefined: it is nothing that could sign. */
export function parsePlain(secret: string): SigningSecret | undefined {
  try {
    return parseSecret(secret);
  } catch (error) {
    if (error instanceof AppError && error.code === 'OUTBOX_SECRET_INVALID') return undefined;
    throw error;
  }
}

async function encryptAnew(tx: Tx, keyRing: KeyRing): Promise<number> {
  const { rows } = await tx.query<StoredSecret & { id: string; publicKey: string | null }>(
    `select secrets.id, endpoint_id as "endpointId", kind, encrypted, key_id as "keyId", public_key as "publicKey"
     from outbox.endpoints join outbox.endpoint_secrets as secrets on secrets.endpoint_id = endpoints.id
     where key_id <> $1
     order by endpoints.id for update`,
    [keyRing.keyId],
  );
  let done = 0;
  for (const row of rows) {
    const bytes = openSecret(keyRing, row);
    if (bytes === undefined) continue;
    const [, encrypted, keyId] = sealSecret(keyRing, row.endpointId, { ...row, bytes });
    await tx.query('update outbox.endpoint_secrets set encrypted = $2, key_id = $3 where id = $1', [
      row.id,
      encrypted,
      keyId,
    ]);
    done += 1;
  }
  return done;
}

/** The endpoints, but deleted ones, by whether their requests can be signed. */
export interface Signability {
  readonly signable: number;
  /** Some secret of theirs that is valid cannot be decrypted. */
  readonly undecryptable: readonly string[];
  /** They have none, or one in plain text that is no secret. */
  readonly without: readonly string[];
}

export async function judgeSecrets(db: Queryable, keyRing: KeyRing): Promise<Signability> {
  const { rows } = await db.query<StoredSecret & { kind: SecretKind | null }>(
    `select endpoints.id as "endpointId", kind, encrypted, key_id as "keyId"
     from outbox.endpoints
     left join outbox.endpoint_secrets as secrets on secrets.endpoint_id = endpoints.id
       and (expires_at is null or expires_at > statement_timestamp())
     where deleted_at is null
     order by endpoints.created_at, endpoints.id`,
  );
  const without = rows.filter(({ kind }) => kind === null).map(({ endpointId }) => endpointId);
  const stored = rows.filter(({ kind }) => kind !== null);
  const undecryptable = new Set(
    stored.filter((row) => openSecret(keyRing, row) === undefined).map(({ endpointId }) => endpointId),
  );
  const all = new Set(stored.map(({ endpointId }) => endpointId));
  return { signable: all.size - undecryptable.size, undecryptable: [...undecryptable], without };
}

/** Where it decrypts nothing that there is, it is another's. */
export function keyFits({ signable, undecryptable }: Signability): boolean {
  return undecryptable.length === 0 || signable > 0;
}

const NAMED = 5;

/** The first few of them, for a message. */
export function someOf(ids: readonly string[]): string {
  return `${ids.slice(0, NAMED).join(', ')}${ids.length > NAMED ? ` and ${ids.length - NAMED} more` : ''}`;
}

/**
 * Whether these are the keys of this database: where nothing can be decrypted, they are not, and what was encrypted by them now would
 * be lost to everybody else.
 * @throws AppError OUTBOX_KEY_MISSING, OUTBOX_KEY_WRONG
 */
export async function assertKeyFits(db: Queryable, keyRing: KeyRing): Promise<Signability> {
  assertHasKey(keyRing);
  const judged = await judgeSecrets(db, keyRing);
  if (keyFits(judged)) return judged;
  throw new AppError(
    'OUTBOX_KEY_WRONG',
    `OUTBOX_ENCRYPTION_KEY decrypts the secret of no endpoint: ${someOf(judged.undecryptable)}. Set the key that they were encrypted with, if need be beside this one; if it is lost, liventix outbox endpoint rotate-secret --lost-key gives each a new one.`,
    { details: { endpoints: judged.undecryptable } },
  );
}
