import { accessSync, constants } from 'node:fs';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { z } from 'zod';
import { AppError } from './errors.ts';

/** A parameter of the driver's own: psql refuses it. */
const LIBPQ_SWITCH = 'uselibpqcompat';
const HIDDEN = '***';

const SSL_MODES = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full', 'no-verify'];
const SSL_FILES = ['sslrootcert', 'sslcert', 'sslkey'];
/** Those that the driver takes for verify-full, with a warning, unless it is told to read them as psql does. */
const DRIVER_READS_OTHERWISE = ['prefer', 'require', 'verify-ca'];

const DATABASE_PROTOCOLS = ['postgres:', 'postgresql:'];
const MAX_PORT = 65_535;

/** A database's URL whose `sslmode` the driver reads as psql does, `prefer` and `allow` without their fallback. */
const databaseUrl = z.string().transform((value, context) => {
  const fault = addressFault(value);
  if (fault !== undefined) context.addIssue({ code: 'custom', message: fault });
  // What was found to be no URL is not looked into.
  if (!URL.canParse(value)) return value;
  const { searchParams } = new URL(value);
  for (const message of sslFaults(searchParams)) context.addIssue({ code: 'custom', message });
  // The driver does not know allow: of the two, it can do only what prefer asks for first.
  const url = value.replace(/([?&]sslmode=)allow(?=&|#|$)/, '$1prefer');
  const mode = new URL(url).searchParams.get('sslmode') ?? '';
  const isTold = searchParams.has(LIBPQ_SWITCH) || !DRIVER_READS_OTHERWISE.includes(mode);
  return isTold ? url : `${url}&${LIBPQ_SWITCH}=true`;
});

/** What is wrong with scheme, host or port. Repeats nothing of them: any part may be one of the password. */
function addressFault(value: string): string | undefined {
  const [, rest] = /^postgres(?:ql)?:\/\/(.*)$/is.exec(value) ?? [];
  if (rest === undefined) {
    return `must be a URL that starts with ${DATABASE_PROTOCOLS.map((protocol) => `${protocol}//`).join(' or ')}`;
  }
  const authority = rest.split(/[/?#]/, 1)[0] ?? '';
  // An @ after the host, but in a parameter's value: the / or ? or # before it belongs to the password.
  if (/^[^=]*@/.test(rest.slice(authority.length))) {
    return 'must have the special characters of its user, password and database percent-encoded: @ as %40, / as %2F, ? as %3F, # as %23';
  }
  const [, port] = /:([^:\]@]*)$/.exec(authority.slice(authority.lastIndexOf('@') + 1)) ?? [];
  if (port !== undefined && port !== '' && !(/^\d+$/.test(port) && Number(port) <= MAX_PORT)) {
    return `must have a port that is a whole number up to ${MAX_PORT}`;
  }
  return URL.canParse(value) ? undefined : 'must be a URL: postgresql://user:password@host:5432/database';
}

function sslFaults(parameters: URLSearchParams): string[] {
  const mode = parameters.get('sslmode');
  const unreadable = SSL_FILES.filter((name) => parameters.has(name) && !isReadable(parameters.get(name) ?? ''));
  return [
    ...(mode === null || SSL_MODES.includes(mode) ? [] : [`must have an sslmode of ${SSL_MODES.join(', ')}`]),
    ...(mode === 'verify-ca' && !parameters.has('sslrootcert')
      ? ["must name the CA's certificate for sslmode=verify-ca: add sslrootcert=/path/to/ca.pem"]
      : []),
    ...unreadable.map((name) => `names a file in ${name} that cannot be read: ${parameters.get(name)}`),
  ];
}

function isReadable(file: string): boolean {
  try {
    accessSync(file, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

/** A database's URL as it may be shown: without its password, and without what `loadConfig` added for the driver. */
export function printableDatabaseUrl(url: string): string {
  const shown = new URL(url);
  if (shown.password !== '') shown.password = HIDDEN;
  if (shown.searchParams.has('password')) shown.searchParams.set('password', HIDDEN);
  if (shown.searchParams.has(LIBPQ_SWITCH)) shown.searchParams.delete(LIBPQ_SWITCH);
  return shown.href;
}

const isDecodable = (value: string) => {
  try {
    return decodeURIComponent(value) !== undefined;
  } catch {
    return false;
  }
};

/** What REDIS_URL names: one server, or several nodes of one Redis Cluster. Any other comma belongs to a password. */
export function redisUrls(value: string): readonly string[] {
  return value.split(/,\s*(?=rediss?:\/\/)/i);
}

const redisUrl = z.string().transform((value, context) => {
  const fault = redisFault(redisUrls(value));
  if (fault !== undefined) context.addIssue({ code: 'custom', message: fault });
  return value;
});

function redisFault(urls: readonly string[]): string | undefined {
  if (!urls.every((url) => URL.canParse(url) && /^rediss?:\/\/[^/?#,]*$/.test(originOf(url)))) {
    return 'must be a URL that starts with redis:// or rediss://, or several, separated by commas, for nodes of one Redis Cluster';
  }
  if (!urls.every(isDecodable)) return 'must have every % of its user and password written as %25';
  const parsed = urls.map((url) => new URL(url));
  if (parsed.some(({ searchParams }) => searchParams.has('keyPrefix'))) {
    return 'must not have the parameter keyPrefix: databases that share a Redis do not meet there';
  }
  if (parsed.length === 1) return undefined;
  if (new Set(parsed.map(({ protocol, username, password }) => `${protocol}//${username}:${password}@`)).size > 1) {
    return 'must have the same scheme, user and password in each of its URLs, which name nodes of one Redis Cluster';
  }
  return parsed.every(({ pathname }) => ['', '/', '/0'].includes(pathname))
    ? undefined
    : 'must have no database in its URLs: a Redis Cluster has no database but 0';
}

function originOf(url: string): string {
  const { protocol, host } = new URL(url);
  return `${protocol}//${host}`;
}

const cidrList = z.string().transform((value, context) =>
  value
    .split(',')
    .map((part) => part.trim())
    .map((part, index) => {
      const isCidr = ipaddr.isValidCIDR(part);
      // By Node's own reading: ipaddr.js takes 10/8 for 0.0.0.10/8, and 010.0.0.0 for an octal.
      const isAddress = isIP(part.split('/')[0] ?? '') !== 0;
      if (part === '') {
        context.addIssue({ code: 'custom', message: `has an empty element, number ${index + 1} of "${value}"` });
      } else if (!isAddress || (part.includes('/') && !isCidr)) {
        context.addIssue({ code: 'custom', message: `"${part}" is not a CIDR such as 10.0.0.0/8` });
      }
      return isCidr ? part : `${part}/${part.includes(':') ? 128 : 32}`;
    }),
);

const KEY_BYTES = 32;
const MAX_KEYS = 10;
const KEY = /^[A-Za-z0-9+/]{43}=$/;

/** Names a faulty key by its number alone: it may be one that is in use elsewhere. */
const encryptionKeys = z.string().transform((value, context) => {
  const parts = value.split(',').map((part) => part.trim());
  for (const [index, part] of parts.entries()) {
    if (KEY.test(part)) continue;
    context.addIssue({
      code: 'custom',
      message: `must be ${KEY_BYTES} bytes in base64, as openssl rand -base64 ${KEY_BYTES} prints them; element ${index + 1} of ${parts.length} is not`,
    });
  }
  if (parts.length > MAX_KEYS) context.addIssue({ code: 'custom', message: `has more than ${MAX_KEYS} keys` });
  return parts.map((part) => Buffer.from(part, 'base64'));
});

const integer = (min: number, max: number) => {
  const form = `a whole number from ${min} to ${max}`;
  const error = `must be ${form}`;
  return z
    .string()
    .regex(/^\d+$/, { error })
    .transform(Number)
    .refine((value) => value >= min && value <= max, { error })
    .meta({ form });
};

/** `127.0.0.1:9464`, `[::1]:9464`; undefined when it is neither. A name stays one: who listens resolves it. */
export function parseHttpAddress(text: string): { readonly host: string; readonly port: number } | undefined {
  const [, inBrackets, plain, digits] = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/@[\]]+)):(\d{1,5})$/.exec(text) ?? [];
  const [host, port] = [inBrackets ?? plain, Number(digits)];
  return host !== undefined && port >= 1 && port <= MAX_PORT ? { host, port } : undefined;
}

const httpAddress = z.string().transform((value, context) => {
  const address = parseHttpAddress(value);
  if (address === undefined) context.addIssue({ code: 'custom', message: 'must be an address such as 127.0.0.1:9464' });
  return address;
});

/** `https://console.example.com`, as browsers send it; undefined when it is none. */
export function parseOrigin(text: string): string | undefined {
  if (!/^https?:\/\//i.test(text) || !URL.canParse(text)) return undefined;
  const { origin, href } = new URL(text);
  return href === `${origin}/` ? origin : undefined;
}

const webOrigin = z.string().transform((value, context) => {
  const origin = parseOrigin(value);
  if (origin === undefined) {
    context.addIssue({ code: 'custom', message: 'must be scheme and host alone, such as https://console.example.com' });
  }
  return origin;
});

const headerName = z
  .string()
  .regex(/^[A-Za-z0-9-]{1,100}$/, { error: 'must be the name of a header such as X-Auth-Request-Email' })
  .transform((name) => name.toLowerCase());

const CONSOLE_AUTHS = ['none', 'password', 'proxy'] as const;
/** What somebody may be in the console. */
export const CONSOLE_ROLES = ['viewer', 'operator', 'finance'] as const;

/** `finance-team=finance,on-call=operator`: what a group of the identity provider may do. */
const groupRoles = z.string().transform((value, context) => {
  const pairs = value.split(',').map((part) => /^\s*([^=]+?)\s*=\s*(\w+)\s*$/.exec(part));
  const isKnown = (role: string | undefined) => CONSOLE_ROLES.some((each) => each === role);
  if (!pairs.every((pair) => pair !== null && isKnown(pair[2]))) {
    context.addIssue({
      code: 'custom',
      message: `must be groups and their roles (${CONSOLE_ROLES.join(', ')}), such as finance-team=finance,on-call=operator`,
    });
  }
  return new Map(pairs.map((pair) => [pair?.[1] ?? '', (pair?.[2] ?? '') as (typeof CONSOLE_ROLES)[number]]));
});

const LOG_LEVELS = ['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;

const oneOf = (values: readonly string[]): string => `one of ${values.map((value) => `\`${value}\``).join(', ')}`;

/** What each says of itself is docs/reference/configuration.md. */
export const environment = z.object({
  DATABASE_URL: databaseUrl.optional().meta({
    description:
      'The database. `sslmode` and `sslrootcert` are read as psql reads them, `allow` and `prefer` without the fallback. Without it `liventix demo` starts an embedded server; every other command refuses',
    form: '`postgresql://user:password@host:5432/database`, special characters percent-encoded',
  }),
  REDIS_URL: redisUrl.optional().meta({
    description: 'Where BullMQ keeps its jobs: a Redis, or nodes of a Redis Cluster. Without it they are in PostgreSQL',
    form: '`redis://` or `rediss://` URLs, several of one cluster separated by commas',
  }),
  OUTBOX_EGRESS_ALLOW: cidrList.optional().meta({
    description: 'Networks that webhooks may reach beside public addresses',
    form: 'CIDRs separated by commas, such as `10.1.0.0/16`',
  }),
  OUTBOX_KEEP_DAYS: integer(1, 3_650).default(30).meta({
    description: 'For how many days messages are kept; what is still to be delivered is kept always',
  }),
  OUTBOX_KEEP_DEAD_DAYS: integer(1, 3_650).default(90).meta({
    description: 'For how many days a day with dead letters is kept',
  }),
  OUTBOX_EGRESS_DENY: cidrList.optional().meta({
    description: 'Networks that they may not reach, public or allowed as they may be',
    form: 'CIDRs separated by commas',
  }),
  OUTBOX_ENCRYPTION_KEY: encryptionKeys.optional().meta({
    description:
      "What the endpoints' secrets are encrypted with, the same for every worker and command: the first key encrypts, all decrypt. Without it nothing can be signed",
    form: `${KEY_BYTES} bytes in base64, as \`openssl rand -base64 ${KEY_BYTES}\` prints them; up to ${MAX_KEYS}, separated by commas`,
  }),
  LIVENTIX_POOL_MAX: integer(1, 200).default(10).meta({
    description: 'How many connections a command opens to PostgreSQL; those of a worker are counted otherwise',
  }),
  LIVENTIX_HTTP: httpAddress.optional().meta({
    description: 'Where a worker answers `/livez`, `/readyz` and `/metrics`; without it nowhere',
    form: 'an address such as `127.0.0.1:9464`',
  }),
  LIVENTIX_SEAL_INTERVAL_S: integer(0, 86_400).default(60).meta({
    description: 'Every so many seconds a worker seals the books and writes down which holds have expired; 0: never',
  }),
  // What is committed is to be seen within 5 s.
  LIVENTIX_ROLLUP_INTERVAL_S: integer(0, 86_400).default(2).meta({
    description:
      'Every so many seconds a worker counts what came to rollups, and looks whether views are due; 0: never',
  }),
  REPLICA_URL: databaseUrl.optional().meta({
    description: 'Where pages of the console read; without it where everything else is',
    form: 'as `DATABASE_URL`',
  }),
  LIVENTIX_CONSOLE_HTTP: httpAddress.optional().meta({
    description: 'Where the console listens; without it on this machine alone',
    form: 'an address such as `127.0.0.1:9465`',
  }),
  LIVENTIX_CONSOLE_ORIGIN: webOrigin.optional().meta({
    description: 'How browsers reach the console, where a proxy stands before it',
    form: 'scheme and host alone, such as `https://console.example.com`',
  }),
  LIVENTIX_CONSOLE_AUTH: z
    .enum(CONSOLE_AUTHS, { error: `must be one of ${CONSOLE_AUTHS.join(', ')}` })
    .optional()
    .meta({ description: 'By what the console knows who asks', form: oneOf(CONSOLE_AUTHS) }),
  LIVENTIX_CONSOLE_PROXY: cidrList.optional().meta({
    description: 'Networks of the proxies that may say who asks',
    form: 'CIDRs separated by commas',
  }),
  // As oauth2-proxy sends them with --set-xauthrequest.
  LIVENTIX_CONSOLE_USER_HEADER: headerName.default('x-auth-request-email').meta({
    description: 'In which header such a proxy says who asks',
    form: 'the name of a header',
  }),
  LIVENTIX_CONSOLE_GROUPS_HEADER: headerName.default('x-auth-request-groups').meta({
    description: 'In which header it says of which groups they are',
    form: 'the name of a header',
  }),
  LIVENTIX_CONSOLE_GROUPS: groupRoles.optional().meta({
    description: 'What a group of the identity provider may do in the console',
    form: `groups and their roles (${CONSOLE_ROLES.join(', ')}), such as \`finance-team=finance,on-call=operator\``,
  }),
  PATH: z.string().default('').meta({
    description: 'Where programs of others are looked for, such as the browser that makes a PDF',
    form: 'folders, separated as the system has it',
  }),
  LOG_LEVEL: z
    .enum(LOG_LEVELS, { error: `must be one of ${LOG_LEVELS.join(', ')}` })
    .default('info')
    .meta({
      description: 'How much a worker logs, as JSON on stderr; with `debug` a defect is told with its stack',
      form: oneOf(LOG_LEVELS),
    }),
});

/** What the environment decides, validated and frozen. Flags of the command line win over it. */
export interface Config {
  readonly databaseUrl: string | undefined;
  readonly redisUrl: string | undefined;
  /** CIDRs that webhooks may reach beside the public addresses. */
  readonly egressAllow: readonly string[];
  /** How many days what was delivered is kept, and what was given up. */
  readonly retention: { readonly keepDays: number; readonly keepDeadDays: number };
  /** CIDRs that they may not reach, whatever else is said of them. */
  readonly egressDeny: readonly string[];
  /** What the endpoints' secrets are encrypted with: the first encrypts, all decrypt. None: nothing can be signed. */
  readonly encryptionKeys: readonly Buffer[];
  readonly poolMax: number;
  /** Where the worker answers probes and scrapes; undefined: nowhere. */
  readonly http: { readonly host: string; readonly port: number } | undefined;
  /** How often the worker seals the books and writes down which holds have expired; 0: neither at all. */
  readonly sealIntervalS: number;
  /** How often the worker counts what came to rollups, and looks whether views are due; 0: never. */
  readonly rollupIntervalS: number;
  /** Where pages of the console read; undefined: where everything else is. */
  readonly replicaUrl: string | undefined;
  readonly console: {
    /** Where it listens; undefined: on this machine alone. */
    readonly http: { readonly host: string; readonly port: number } | undefined;
    /** How browsers reach it, where a proxy stands before it. */
    readonly origin: string | undefined;
    readonly auth: (typeof CONSOLE_AUTHS)[number] | undefined;
    /** CIDRs of the proxies that say who asks, the headers that say so, and what each group may do. */
    readonly proxies: readonly string[];
    readonly userHeader: string;
    readonly groupsHeader: string;
    readonly groups: ReadonlyMap<string, (typeof CONSOLE_ROLES)[number]>;
  };
  /** Where programs of others are looked for. */
  readonly searchPath: string;
  readonly logLevel: (typeof LOG_LEVELS)[number];
}

/**
 * Reads the environment. Reports all faults at once; an empty variable counts as not set.
 * @throws AppError CONFIG_INVALID
 */
export function loadConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const parsed = environment.safeParse(
    Object.fromEntries(Object.keys(environment.shape).map((name) => [name, env[name] === '' ? undefined : env[name]])),
  );
  if (!parsed.success) {
    const faults = parsed.error.issues.map((issue) => `${issue.path.join('.')} ${issue.message}`);
    throw new AppError('CONFIG_INVALID', `${faults.join('; ')}. Correct the environment and run again.`);
  }
  const values = parsed.data;
  return Object.freeze({
    databaseUrl: values.DATABASE_URL,
    redisUrl: values.REDIS_URL,
    egressAllow: Object.freeze(values.OUTBOX_EGRESS_ALLOW ?? []),
    retention: Object.freeze({
      keepDays: values.OUTBOX_KEEP_DAYS,
      keepDeadDays: values.OUTBOX_KEEP_DEAD_DAYS,
    }),
    egressDeny: Object.freeze(values.OUTBOX_EGRESS_DENY ?? []),
    encryptionKeys: Object.freeze(values.OUTBOX_ENCRYPTION_KEY ?? []),
    poolMax: values.LIVENTIX_POOL_MAX,
    http: values.LIVENTIX_HTTP,
    sealIntervalS: values.LIVENTIX_SEAL_INTERVAL_S,
    rollupIntervalS: values.LIVENTIX_ROLLUP_INTERVAL_S,
    replicaUrl: values.REPLICA_URL,
    console: Object.freeze({
      http: values.LIVENTIX_CONSOLE_HTTP,
      origin: values.LIVENTIX_CONSOLE_ORIGIN,
      auth: values.LIVENTIX_CONSOLE_AUTH,
      proxies: Object.freeze(values.LIVENTIX_CONSOLE_PROXY ?? []),
      userHeader: values.LIVENTIX_CONSOLE_USER_HEADER,
      groupsHeader: values.LIVENTIX_CONSOLE_GROUPS_HEADER,
      groups: values.LIVENTIX_CONSOLE_GROUPS ?? new Map(),
    }),
    searchPath: values.PATH,
    logLevel: values.LOG_LEVEL,
  });
}
