import type { Queryable } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import type { Role } from '../visitor.ts';
import { hashPassword, MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH } from './passwords.ts';

export interface ConsoleUser {
  readonly name: string;
  readonly roles: readonly Role[];
  readonly createdAt: Date;
  readonly disabledAt: Date | null;
  /** Sessions that have not expired; one that nobody has used for as long as a console allows is let in by that one no more. */
  readonly sessions: number;
  /** When one of them was used last, to the minute; null where there is none. */
  readonly seenAt: Date | null;
}

/** As `users_name_shape` has it. */
const NAME = /^[a-z0-9][a-z0-9._@+-]{0,99}$/;

/**
 * Adds a user, or gives one that there is new roles, a new password, or both; a disabled one may sign in again. Whoever was signed in
 * under that name is signed out.
 * @throws AppError CONSOLE_USER_INVALID
 */
export async function setUser(
  db: Queryable,
  user: { readonly name: string; readonly roles: readonly Role[]; readonly password: string },
): Promise<'added' | 'changed'> {
  assertName(user.name);
  if (user.password.length < MIN_PASSWORD_LENGTH || user.password.length > MAX_PASSWORD_LENGTH) {
    throw new AppError(
      'CONSOLE_USER_INVALID',
      `The password of ${user.name} has ${user.password.length} characters, and ${MIN_PASSWORD_LENGTH} to ${MAX_PASSWORD_LENGTH} are wanted. Nothing was changed.`,
    );
  }
  const { rows } = await db.query<{ added: boolean }>(
    `insert into console.users (name, roles, password_hash) values ($1, $2, $3)
     on conflict (name) do update set roles = excluded.roles, password_hash = excluded.password_hash, disabled_at = null
     returning xmax = 0 as added`,
    [user.name, user.roles, await hashPassword(user.password)],
  );
  await signOutEverywhere(db, user.name);
  return rows[0]?.added === true ? 'added' : 'changed';
}

/**
 * Keeps a user from signing in, and signs him out. Repeating it changes nothing.
 * @throws AppError CONSOLE_USER_INVALID where there is none of that name
 */
export async function disableUser(db: Queryable, name: string): Promise<void> {
  const { rowCount } = await db.query(
    `update console.users set disabled_at = coalesce(disabled_at, now()) where name = $1`,
    [name],
  );
  if (rowCount === 0) {
    throw new AppError(
      'CONSOLE_USER_INVALID',
      `The console has no user ${JSON.stringify(name)}. See: liventix console user list`,
    );
  }
  await signOutEverywhere(db, name);
}

/** After the user was written: whoever signs in meanwhile waits for that, and is refused or found here. */
async function signOutEverywhere(db: Queryable, name: string): Promise<void> {
  await db.query('delete from console.sessions where user_name = $1', [name]);
}

export async function isUser(db: Queryable, name: string): Promise<boolean> {
  const { rowCount } = await db.query('select from console.users where name = $1', [name]);
  return rowCount === 1;
}

export async function listUsers(db: Queryable): Promise<readonly ConsoleUser[]> {
  const { rows } = await db.query<ConsoleUser>(
    `select name, roles, created_at as "createdAt", disabled_at as "disabledAt",
            (select count(*)::int from console.sessions s where s.user_name = u.name and s.expires_at > now()) as sessions,
            (select max(s.seen_at) from console.sessions s where s.user_name = u.name and s.expires_at > now()) as "seenAt"
     from console.users u order by name`,
  );
  return rows;
}

function assertName(name: string): void {
  if (NAME.test(name)) return;
  throw new AppError(
    'CONSOLE_USER_INVALID',
    `${JSON.stringify(name)} is no name of a user: it has 1 to 100 lowercase letters, digits and . _ @ + -, and begins with a letter or a digit.`,
  );
}
