import ipaddr from 'ipaddr.js';
import { z } from 'zod';
import { AppError } from './errors.ts';

const urlWithProtocol = (protocols: readonly string[]) =>
  z
    .string()
    .refine(
      (value) => URL.canParse(value) && protocols.some((protocol) => new URL(value).href.startsWith(`${protocol}//`)),
      {
        error: `must be a URL that starts with ${protocols.map((protocol) => `${protocol}//`).join(' or ')}`,
      },
    );

const isDecodable = (value: string) => {
  try {
    return decodeURIComponent(value) !== undefined;
  } catch {
    return false;
  }
};

const cidrList = z.string().transform((value, context) =>
  value
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .map((part) => {
      const isCidr = ipaddr.isValidCIDR(part);
      if (!isCidr && !ipaddr.isValid(part)) {
        context.addIssue({ code: 'custom', message: `"${part}" is not a CIDR such as 10.0.0.0/8` });
      }
      return isCidr ? part : `${part}/${part.includes(':') ? 128 : 32}`;
    }),
);

const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, { error: `must be a whole number from ${min} to ${max}` })
    .transform(Number)
    .refine((value) => value >= min && value <= max, { error: `must be a whole number from ${min} to ${max}` });

const LOG_LEVELS = ['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;

const environment = z.object({
  DATABASE_URL: urlWithProtocol(['postgres:', 'postgresql:']).optional(),
  REDIS_URL: urlWithProtocol(['redis:', 'rediss:'])
    .refine(isDecodable, { error: 'must have every % of its user and password written as %25' })
    .optional(),
  OUTBOX_EGRESS_ALLOW: cidrList.optional(),
  LIVENTIX_POOL_MAX: integer(1, 200).optional(),
  LOG_LEVEL: z.enum(LOG_LEVELS, { error: `must be one of ${LOG_LEVELS.join(', ')}` }).optional(),
});

/** What the environment decides, validated and frozen. Flags of the command line win over it. */
export interface Config {
  readonly databaseUrl: string | undefined;
  readonly redisUrl: string | undefined;
  /** CIDRs that webhooks may reach beside the public addresses. */
  readonly egressAllow: readonly string[];
  readonly poolMax: number;
  readonly logLevel: (typeof LOG_LEVELS)[number];
}

const DEFAULT_POOL_MAX = 10;

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
    poolMax: values.LIVENTIX_POOL_MAX ?? DEFAULT_POOL_MAX,
    logLevel: values.LOG_LEVEL ?? 'info',
  });
}
