import { pino } from 'pino';
import { CONSOLE_ROLES } from '../../src/config.ts';
import { type Console, startConsole } from '../../src/console/console.ts';
import type { Role } from '../../src/console/visitor.ts';
import type { TestDatabase } from './database.ts';

export const TEST_POOL_MAX = 4;

/** The console over a test's database, on a port of its own. */
export function startTestConsole(
  database: Pick<TestDatabase, 'url'>,
  options: Partial<Parameters<typeof startConsole>[0]> & { readonly roles?: readonly Role[] } = {},
): Promise<Console> {
  const { roles = CONSOLE_ROLES, ...others } = options;
  return startConsole({
    databaseUrl: database.url,
    place: { host: '127.0.0.1', port: 0, origin: undefined },
    auth: { mode: 'none', roles },
    version: 'of the test',
    poolMax: TEST_POOL_MAX,
    log: pino({ level: 'silent' }),
    ...others,
  });
}
