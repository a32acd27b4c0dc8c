import type { Queryable } from '../../../src/db/pool.ts';

const NAME = 'liventix_gateway';
const PASSWORD = 'gateway';

/** Makes the role by which the application's gateway connects, to become whoever a token names. Needs a superuser, and may be there already. */
export async function createGateway(admin: Queryable): Promise<void> {
  await admin.query(
    `do $$ begin create role ${NAME} login noinherit password '${PASSWORD}'; exception when duplicate_object or unique_violation then null; end $$`,
  );
  await admin.query(`grant authenticated to ${NAME}`);
}

/** The same database, by the gateway. */
export const gatewayUrl = (databaseUrl: string): string =>
  Object.assign(new URL(databaseUrl), { username: NAME, password: PASSWORD }).href;
