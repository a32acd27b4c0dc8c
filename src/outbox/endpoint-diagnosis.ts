import type { Finding } from '../db/diagnosis.ts';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { type EgressLists, egressPolicy, literalAddress } from './egress.ts';
import { judgeSecrets, parsePlain, someOf } from './endpoint-secrets.ts';
import type { KeyRing } from './key-ring.ts';

/** Whether requests to every endpoint can be signed, for `liventix doctor`. */
export async function judgeEndpoints(
  db: Queryable,
  keyRing: KeyRing,
  /** Of this environment; left out: whatever they say. */
  lists?: EgressLists,
): Promise<Finding> {
  const { rowCount } = await db.query(
    `select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'outbox' and c.relname = 'endpoint_secrets'`,
  );
  if (rowCount === 0) return { result: 'skipped', found: 'the database has no secrets of endpoints yet' };
  try {
    return await judge(db, keyRing, lists);
  } catch (error) {
    if (toAppError(error).code !== 'DB_PERMISSION_DENIED') throw error;
    return { result: 'skipped', found: 'this role may not read what endpoints there are' };
  }
}

async function judge(db: Queryable, keyRing: KeyRing, lists?: EgressLists): Promise<Finding> {
  const { signable, undecryptable, without } = await judgeSecrets(db, keyRing);
  if (keyRing.keyId === undefined) {
    return {
      // Who only keeps books here needs none.
      result: undecryptable.length + without.length > 0 ? 'failed' : 'warning',
      found: 'OUTBOX_ENCRYPTION_KEY is not set: no worker starts, and no endpoint can be added',
      todo: 'Set the key that the others have; the first is made by openssl rand -base64 32.',
    };
  }
  const waiting = await findPlain(db);
  const unmoved = without.filter((id) => !waiting.includes(id));
  if (undecryptable.length > 0) {
    return {
      result: 'failed',
      found: `OUTBOX_ENCRYPTION_KEY does not decrypt the secrets of ${someOf(undecryptable)}: their deliveries wait`,
      todo: 'Add the key that they were encrypted with, after a comma; if it is lost: liventix outbox endpoint rotate-secret --lost-key, which ends them at once.',
    };
  }
  if (unmoved.length > 0) {
    return {
      result: 'failed',
      found: `no secret, or none that can sign, have ${someOf(unmoved)}: their deliveries wait`,
      todo: 'liventix outbox endpoint rotate-secret gives each one.',
    };
  }
  if (waiting.length > 0) {
    return {
      result: 'warning',
      found: `in plain text are the secrets of ${someOf(waiting)}`,
      todo: 'Start a worker of this version: it encrypts them.',
    };
  }
  const halfDeleted = await findHalfDeleted(db);
  if (halfDeleted.length > 0) {
    return {
      result: 'warning',
      found: `deleted, while deliveries wait that nobody will make, are ${someOf(halfDeleted)}`,
      todo: 'liventix outbox endpoint delete once more makes dead letters of them.',
    };
  }
  const inside = lists === undefined ? [] : await findRefused(db, lists);
  if (inside.length > 0) {
    return {
      result: 'warning',
      found: `at an address that webhooks may not reach from this environment are ${someOf(inside)}`,
      todo: 'Name their network in OUTBOX_EGRESS_ALLOW, such as 10.1.0.0/16, and take it out of OUTBOX_EGRESS_DENY, for every worker: else each attempt fails.',
    };
  }
  return { result: 'ok', found: `${signable} endpoints, whose requests can be signed` };
}

/** The endpoints whose deletion was struck before it had come to its end. */
async function findHalfDeleted(db: Queryable): Promise<readonly string[]> {
  const { rows } = await db.query<{ id: string }>(
    `select id from outbox.endpoints
     where deleted_at is not null
       and exists (select from outbox.deliveries where endpoint_id = endpoints.id and state = 'pending')
     order by created_at, id`,
  );
  return rows.map(({ id }) => id);
}

/** The endpoints whose secret the next worker encrypts. */
async function findPlain(db: Queryable): Promise<readonly string[]> {
  const { rows } = await db.query<{ id: string; secret: string }>(
    'select id, secret from outbox.endpoints where secret is not null and deleted_at is null order by created_at, id',
  );
  return rows.filter(({ secret }) => parsePlain(secret) !== undefined).map(({ id }) => id);
}

const LOOPBACK_ADDRESSES = ['127.0.0.1', '::1'];

/** Enabled endpoints whose host says without a name server where it is, and where that is refused. */
async function findRefused(db: Queryable, lists: EgressLists): Promise<readonly string[]> {
  const policy = egressPolicy(lists.egressAllow, lists.egressDeny);
  const { rows } = await db.query<{ id: string; url: string }>(
    'select id, url from outbox.endpoints where enabled and deleted_at is null order by created_at, id',
  );
  return rows
    .filter(({ url }) => {
      const addresses = URL.canParse(url) ? addressesOf(new URL(url)) : [];
      return addresses.length > 0 && addresses.every((address) => !policy.permits(address));
    })
    .map(({ id }) => id);
}

// RFC 6761, section 6.3: whatever ends in localhost is this machine. Of any other name nothing is known here.
function addressesOf(url: URL): readonly string[] {
  const literal = literalAddress(url);
  if (literal !== undefined) return [literal];
  return /(^|\.)localhost\.?$/.test(url.hostname) ? LOOPBACK_ADDRESSES : [];
}
