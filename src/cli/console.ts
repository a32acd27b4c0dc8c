import { type Command, InvalidArgumentError, Option } from 'commander';
import { CONSOLE_ROLES, type Config, parseHttpAddress, parseOrigin } from '../config.ts';
import { type Auth, isLoopback } from '../console/access/gate.ts';
import { DEFAULT_BOUNDS } from '../console/access/sessions.ts';
import { startConsole } from '../console/console.ts';
import type { Role } from '../console/visitor.ts';
import { assertMigrated } from '../db/migrate.ts';
import { openPool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { registerConsoleUsers } from './console-users.ts';
import { type CommandContext, requireDatabaseUrl } from './context.ts';
import { createLogger } from './log.ts';
import { wholeNumber } from './options.ts';
import { packageVersion } from './version.ts';

interface Options {
  readonly http?: NonNullable<Config['http']>;
  readonly origin?: string;
  readonly auth?: Auth['mode'];
  readonly as?: readonly Role[];
  readonly idleMinutes: number;
}

/** Beside the worker's 9464. */
const DEFAULT_ADDRESS = { host: '127.0.0.1', port: 9465 };
const MAX_IDLE_MINUTES = 720;

const HELP = `
Shows finance and whoever is on call what there is, and lets them act: do the books balance, accounts, transactions, escrow, the
backfill, deliveries. Runs until SIGTERM, SIGHUP or Ctrl-C.

Without more it listens on this machine alone and asks nobody who he is. Beyond it, people sign in with a password (--auth password,
liventix console user), or a proxy that has asked your identity provider says who they are (--auth proxy: LIVENTIX_CONSOLE_PROXY has its
addresses, LIVENTIX_CONSOLE_GROUPS what each group may do); either way behind TLS, named with --origin.

It reads as a role of the database, liventix_reader_…, which it makes when it is not there, on REPLICA_URL when that is set.
Every action is kept: /audit.

Examples:
  liventix console
  liventix console --as viewer --http 127.0.0.1:8080
  liventix console --http 0.0.0.0:9465 --auth password --origin https://console.example.com`;

export function registerConsole(program: Command, context: CommandContext): void {
  const console = program
    .command('console')
    .description('the books, accounts, escrow and deliveries as web pages, for finance and whoever is on call')
    .option('--http <host:port>', 'listen there (LIVENTIX_CONSOLE_HTTP; 127.0.0.1:9465)', httpAddress)
    .option(
      '--origin <url>',
      'how browsers reach it, where a proxy stands before it (LIVENTIX_CONSOLE_ORIGIN)',
      webOrigin,
    )
    .addOption(
      new Option('--auth <how>', 'how people are known (LIVENTIX_CONSOLE_AUTH; none on this machine)').choices([
        'none',
        'password',
        'proxy',
      ]),
    )
    .addOption(
      new Option('--as <role...>', 'with --auth none: what whoever comes may do (all of them)').choices(CONSOLE_ROLES),
    )
    .option(
      '--idle-minutes <n>',
      'after how long nobody is signed in any more who does nothing',
      wholeNumber(1, MAX_IDLE_MINUTES),
      DEFAULT_BOUNDS.idleMinutes,
    )
    .addHelpText('after', HELP)
    .action((options: Options) => runConsole(options, context));
  registerConsoleUsers(console, context);
}

async function runConsole(options: Options, context: CommandContext): Promise<void> {
  const { config, stop } = context;
  const databaseUrl = requireDatabaseUrl(config);
  await assertReady(databaseUrl);
  const address = options.http ?? config.console.http ?? DEFAULT_ADDRESS;
  const place = { ...address, origin: options.origin ?? config.console.origin };
  const running = await startConsole({
    databaseUrl,
    replicaUrl: config.replicaUrl,
    redisUrl: config.redisUrl,
    place,
    proxies: config.console.proxies,
    auth: authOf(options, config.console),
    version: packageVersion(),
    poolMax: config.poolMax,
    log: createLogger(config.logLevel),
  });
  context.out.write(`liventix console ready: ${running.url}\n`);
  if (isLoopback(address.host) && place.origin === undefined)
    context.err.write('Only this machine reaches it. Ctrl-C ends it.\n');
  await new Promise<void>((resolve) => {
    if (stop.aborted) resolve();
    stop.addEventListener('abort', () => resolve(), { once: true });
  });
  context.err.write('liventix console stopping\n');
  await running.stop();
}

async function assertReady(databaseUrl: string): Promise<void> {
  const pool = await openPool({ databaseUrl, max: 1 });
  await assertMigrated(pool).finally(() => pool.end());
}

function authOf({ auth, as, idleMinutes }: Options, { auth: configured, ...proxy }: Config['console']): Auth {
  const mode = auth ?? configured ?? 'none';
  if (as !== undefined && mode !== 'none') {
    throw new AppError(
      'USAGE',
      `--as is for --auth none: with --auth ${mode}, each has his own. See: liventix console --help`,
    );
  }
  switch (mode) {
    case 'none':
      return { mode, roles: as ?? CONSOLE_ROLES };
    case 'password':
      return { mode, bounds: { ...DEFAULT_BOUNDS, idleMinutes } };
    case 'proxy':
      return { mode, proxy: proxyIn(proxy) };
  }
}

function proxyIn({ proxies, userHeader, groupsHeader, groups }: Omit<Config['console'], 'auth'>) {
  if (proxies.length === 0 || groups.size === 0) {
    throw new AppError(
      'USAGE',
      '--auth proxy needs LIVENTIX_CONSOLE_PROXY, the addresses that the proxy comes from, such as 10.0.0.0/8, and LIVENTIX_CONSOLE_GROUPS, what each group may do, such as finance-team=finance. See: liventix console --help',
    );
  }
  return { peers: proxies, userHeader, groupsHeader, rolesOf: groups };
}

function httpAddress(text: string): NonNullable<Config['http']> {
  const address = parseHttpAddress(text);
  if (address === undefined) throw new InvalidArgumentError('Give an address such as 127.0.0.1:9465.');
  return address;
}

function webOrigin(text: string): string {
  const origin = parseOrigin(text);
  if (origin === undefined)
    throw new InvalidArgumentError('Give scheme and host alone, such as https://console.example.com.');
  return origin;
}
