import { createHash, randomBytes } from 'node:crypto';
import type { Queryable } from '../../db/pool.ts';
import type { Role, Visitor } from '../visitor.ts';
import { isPassword } from './passwords.ts';

export interface SessionBounds {
  /** How long a session lasts that nobody uses. */
  readonly idleMinutes: number;
  /** And however much it is used. */
  readonly longestMinutes: number;
}

export const DEFAULT_BOUNDS: SessionBounds = { idleMinutes: 60, longestMinutes: 720 };
const TOKEN_BYTES = 32;

const hashOf = (token: string): Buffer => createHash('sha256').update(token).digest();

/**
 * Signs somebody in.
 * @returns the token that his browser is to hold; undefined where name and password are none of a user that may sign in
 */
export async function signIn(
  db: Queryable,
  given: { readonly name: string; readonly password: string },
  { longestMinutes }: SessionBounds,
): Promise<string | undefined> {
  const { rows } = await db.query<{ passwordHash: string }>(
    `select password_hash as "passwordHash" from console.users where name = $1 and disabled_at is null`,
    [given.name],
  );
  if (!(await isPassword(given.password, rows[0]?.passwordHash))) return undefined;
  const token = randomBytes(TOKEN_BYTES).toString('base64url');
  // Once more that he is not disabled and his password this one: making sure of it took a while.
  const { rowCount } = await db.query(
    `with expired as (delete from console.sessions where expires_at <= now())
     insert into console.sessions (token_hash, user_name, expires_at)
     select $1, u.name, now() + $3 * interval '1 minute'
     from console.users u where u.name = $2 and u.disabled_at is null and u.password_hash = $4 for share`,
    [hashOf(token), given.name, longestMinutes, rows[0]?.passwordHash],
  );
  return rowCount === 1 ? token : undefined;
}

/** Whose session a token is, as long as it has not expired; asking counts as using it, to the minute, where it is said to. */
export async function visitorOf(
  db: Queryable,
  token: string,
  { idleMinutes, isUse }: SessionBounds & { readonly isUse: boolean },
): Promise<Visitor | undefined> {
  const { rows } = await db.query<{ name: string; roles: Role[]; isStale: boolean }>(
    `select u.name, u.roles, s.seen_at < now() - interval '1 minute' as "isStale"
     from console.sessions s join console.users u on u.name = s.user_name
     where s.token_hash = $1 and s.expires_at > now() and s.seen_at > now() - $2 * interval '1 minute' and u.disabled_at is null`,
    [hashOf(token), idleMinutes],
  );
  const [found] = rows;
  if (found === undefined) return undefined;
  if (found.isStale && isUse)
    await db.query('update console.sessions set seen_at = now() where token_hash = $1', [hashOf(token)]);
  return { name: found.name, roles: found.roles, knownBy: 'password' };
}

export async function signOut(db: Queryable, token: string): Promise<void> {
  await db.query('delete from console.sessions where token_hash = $1', [hashOf(token)]);
}
