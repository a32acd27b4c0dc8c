import { randomUUID } from 'node:crypto';
import type { Queryable, Tx } from '../db/pool.ts';
import { isRefusedValue, toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import type { EgressLists } from './egress.ts';
import {
  acceptedSettings,
  assertReason,
  ENDPOINT_DEFAULTS,
  type EndpointSettings,
  SETTING_COLUMNS,
} from './endpoint-settings.ts';
import type { EndpointLimits } from './gate.ts';
import type { KeyRing } from './key-ring.ts';
import { newSecret, receiversPart, type SecretKind, type SigningSecret } from './signing-secret.ts';
import { sealSecret } from './stored-secret.ts';

/** Who receives webhooks, without what is secret: neither secrets nor the values of headers, which may be passwords. */
export interface Endpoint extends Omit<EndpointSettings, 'headers'> {
  readonly id: string;
  readonly headerNames: readonly string[];
  readonly enabled: boolean;
  readonly disabledAt: Date | null;
  readonly disabledReason: string | null;
  readonly createdAt: Date;
  readonly deletedAt: Date | null;
}

export interface NewEndpoint extends EgressLists, Partial<Omit<EndpointSettings, 'url' | 'topics'>> {
  readonly url: string;
  readonly topics: readonly string[];
  /** By which its secret is kept. */
  readonly keyRing: KeyRing;
  /** Made anew when left out: of this kind, v1 unless named. */
  readonly secret?: SigningSecret | undefined;
  readonly kind?: SecretKind | undefined;
}

export interface AddedEndpoint {
  readonly id: string;
  readonly kind: SecretKind;
  /** What its receiver verifies with, shown this once: `whsec_…`; of v1a the public key, `whpk_…`. */
  readonly secret: string;
}

/** For whoever leads the relays: an endpoint is another one now. */
export const NOTIFY_CHANGED = `select pg_notify('liventix_outbox', 'changed')`;

type SettingName = keyof typeof SETTING_COLUMNS;
const SETTING_NAMES = Object.keys(SETTING_COLUMNS) as readonly SettingName[];

/**
 * Subscribes a URL. It receives what is announced from now on.
 * @throws AppError OUTBOX_ENDPOINT_URL_INVALID, OUTBOX_TOPIC_INVALID, OUTBOX_EGRESS_REFUSED, OUTBOX_ENDPOINT_INVALID, OUTBOX_KEY_MISSING
 */
export async function addEndpoint(db: Queryable, endpoint: NewEndpoint): Promise<AddedEndpoint> {
  const { egressAllow, egressDeny = [], keyRing, secret: given, kind = 'v1', ...settings } = endpoint;
  const accepted = acceptedSettings({ ...ENDPOINT_DEFAULTS, ...settings }, { egressAllow, egressDeny });
  const id = randomUUID();
  const secret = given ?? newSecret(kind);
  const parameters = [id, ...SETTING_NAMES.map((name) => accepted[name]), ...sealSecret(keyRing, id, secret)];
  await kindly(() => db.query(INSERT_ENDPOINT, parameters));
  return { id, kind: secret.kind, secret: receiversPart(secret) };
}

const SECRET_TYPES = ['text', 'bytea', 'text', 'text'];
const INSERT_ENDPOINT = `
  with added as (
    insert into outbox.endpoints (id, ${SETTING_NAMES.map((name) => SETTING_COLUMNS[name]).join(', ')})
    values ($1, ${SETTING_NAMES.map((_, index) => `$${index + 2}`).join(', ')})
    returning id
  ), secret as (
    insert into outbox.endpoint_secrets (endpoint_id, kind, encrypted, key_id, public_key)
    select id, ${SECRET_TYPES.map((type, index) => `$${SETTING_NAMES.length + 2 + index}::${type}`).join(', ')} from added
  )
  ${NOTIFY_CHANGED}`;

export interface EndpointChange extends EgressLists {
  readonly settings: Partial<EndpointSettings>;
}

/**
 * Changes what is named, for all requests that begin from now on, those of deliveries that wait too.
 * @returns what was not so already
 * @throws AppError as `addEndpoint`, and OUTBOX_ENDPOINT_UNKNOWN
 */
export function updateEndpoint(db: Queryable, id: string, change: EndpointChange): Promise<readonly SettingName[]> {
  // The id, because something has to be assigned where nothing was named.
  const assignments = ['id = found.id', ...namesOf(change).map((name, at) => `${SETTING_COLUMNS[name]} = $${at + 2}`)];
  return compare(db, id, change, {
    lock: 'for update',
    andThen: `, changed as (
        update outbox.endpoints set ${assignments.join(', ')}
        from found where endpoints.id = found.id and differing <> '{}'
        returning endpoints.id
      ), told as (${NOTIFY_CHANGED} from changed)
      select differing from found left join told on true`,
  });
}

/**
 * Which of these settings the endpoint does not have.
 * @throws AppError as `updateEndpoint`
 */
export function differingSettings(db: Queryable, id: string, change: EndpointChange): Promise<readonly SettingName[]> {
  return compare(db, id, change, { lock: '', andThen: 'select differing from found' });
}

const namesOf = ({ settings }: EndpointChange) => SETTING_NAMES.filter((name) => settings[name] !== undefined);

// By the database: JSON that is written in another way is the same.
async function compare(
  db: Queryable,
  id: string,
  change: EndpointChange,
  statement: { lock: string; andThen: string },
): Promise<readonly SettingName[]> {
  const accepted = acceptedSettings(change.settings, change);
  const names = namesOf(change);
  const differing = names.map(
    (name, index) => `case when ${SETTING_COLUMNS[name]} is distinct from $${index + 2} then '${name}' end`,
  );
  const text = `
    with found as (
      select id, array_remove(array[${differing.join(', ')}]::text[], null) as differing
      from outbox.endpoints where id = $1 and deleted_at is null ${statement.lock}
    ) ${statement.andThen}`;
  const parameters = [id, ...names.map((name) => accepted[name])];
  const { rows } = await kindly(() => db.query<{ differing: SettingName[] }>(text, parameters));
  if (rows[0] === undefined) throw unknownEndpoint(id);
  return rows[0].differing;
}

export interface Disabling {
  readonly at: Date;
  readonly reason: string | null;
}

/**
 * Sends it nothing more, and announces nothing to it: what waits goes on when it is enabled again.
 * @returns when and why it had been disabled before; null where it was not
 * @throws AppError OUTBOX_ENDPOINT_UNKNOWN, OUTBOX_ENDPOINT_INVALID
 */
export async function disableEndpoint(db: Queryable, id: string, reason: string): Promise<Disabling | null> {
  assertReason(reason);
  const { rows } = await db.query<{ at: Date | null; reason: string | null }>(DISABLE, [id, reason]);
  if (rows[0] === undefined) throw unknownEndpoint(id);
  const { at, reason: before } = rows[0];
  return at && { at, reason: before };
}

// Locked before it is read: of two who disable it at once, the second is told what the first said.
const DISABLE = `
  with before as (
    select id, disabled_at, disabled_reason from outbox.endpoints where id = $1 and deleted_at is null for update
  ), changed as (
    update outbox.endpoints
    set enabled = false, disabled_at = coalesce(before.disabled_at, clock_timestamp()), disabled_reason = $2
    from before where endpoints.id = before.id
    returning endpoints.id
  ), told as (${NOTIFY_CHANGED} from changed)
  select disabled_at as at, disabled_reason as reason from before left join told on true`;

/** @returns when, by the database's clock */
export async function enableEndpoint(db: Queryable, id: string): Promise<Date> {
  const { rows } = await db.query<{ at: Date }>(
    `with changed as (
       update outbox.endpoints set enabled = true, disabled_at = null, disabled_reason = null
       where id = $1 and deleted_at is null
       returning id
     )
     ${NOTIFY_CHANGED}, clock_timestamp() as at from changed`,
    [id],
  );
  if (rows[0] === undefined) throw unknownEndpoint(id);
  return rows[0].at;
}

// What the database alone knows to refuse: JSON that is none of PostgreSQL's, a filter that is longer as jsonb.
async function kindly<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isRefusedValue(error)) throw error;
    const { message } = toAppError(error);
    throw new AppError(
      'OUTBOX_ENDPOINT_INVALID',
      `The database refuses the endpoint: ${message} Nothing was changed.`,
      {
        cause: error,
      },
    );
  }
}

/** What admission has to know of the endpoints that may be sent to. */
export async function listLimits(db: Queryable): Promise<readonly EndpointLimits[]> {
  const { rows } = await db.query<EndpointLimits>({
    name: 'limits',
    text: 'select id, max_in_flight as "maxInFlight", rate_per_second as "ratePerSecond", ordered from outbox.endpoints where enabled',
  });
  return rows;
}

const SELECT_ENDPOINTS = `
  select id, url, topics, description, organization_id as "organizationId", timeout_ms as "timeoutMs",
    max_in_flight as "maxInFlight", rate_per_second as "ratePerSecond", ordered, filter::text, retry_delays_ms as "retryDelaysMs",
    outbox.header_names(id) as "headerNames",
    enabled, disabled_at as "disabledAt", disabled_reason as "disabledReason", created_at as "createdAt", deleted_at as "deletedAt"
  from outbox.endpoints`;

export async function listEndpoints(db: Queryable, { deleted = false } = {}): Promise<readonly Endpoint[]> {
  const which = deleted ? '' : 'where deleted_at is null';
  const { rows } = await db.query<Endpoint>(`${SELECT_ENDPOINTS} ${which} order by created_at, id`);
  return rows;
}

/** The endpoints that messages for this very URL go to already, but deleted ones. */
export async function findByUrl(db: Queryable, url: string): Promise<readonly string[]> {
  const { rows } = await db.query<{ id: string }>(
    'select id from outbox.endpoints where url = $1 and deleted_at is null order by created_at, id',
    [url],
  );
  return rows.map(({ id }) => id);
}

/**
 * One that is deleted is there still, to be looked at.
 * @throws AppError OUTBOX_ENDPOINT_UNKNOWN
 */
export async function getEndpoint(db: Queryable, id: string): Promise<Endpoint> {
  // Whatever was typed: what is no UUID is no endpoint either.
  const { rows } = await db.query<Endpoint>(`${SELECT_ENDPOINTS} where id::text = lower($1)`, [id]);
  if (rows[0] === undefined) throw unknownEndpoint(id);
  return rows[0];
}

/**
 * One that can still be changed.
 * @throws AppError OUTBOX_ENDPOINT_UNKNOWN
 */
export async function getLivingEndpoint(db: Queryable, id: string): Promise<Endpoint> {
  const endpoint = await getEndpoint(db, id);
  if (endpoint.deletedAt !== null) throw deletedEndpoint(endpoint.id, endpoint.deletedAt);
  return endpoint;
}

/**
 * Until the transaction ends, nobody else changes it.
 * @throws AppError OUTBOX_ENDPOINT_UNKNOWN
 */
export async function lockEndpoint(tx: Tx, id: string): Promise<void> {
  const { rowCount } = await tx.query('select from outbox.endpoints where id = $1 and deleted_at is null for update', [
    id,
  ]);
  if (rowCount === 0) throw unknownEndpoint(id);
}

const MAX_SHOWN_ID = 100;

function unknownEndpoint(id: string): AppError {
  return new AppError(
    'OUTBOX_ENDPOINT_UNKNOWN',
    `There is no endpoint ${JSON.stringify(id.slice(0, MAX_SHOWN_ID))}. liventix outbox endpoint list has their ids.`,
  );
}

function deletedEndpoint(id: string, at: Date): AppError {
  return new AppError(
    'OUTBOX_ENDPOINT_UNKNOWN',
    `Endpoint ${id} was deleted at ${at.toISOString()}. Add its URL anew: liventix outbox endpoint add`,
  );
}
