import { type DestinationStream, type Logger, pino } from 'pino';
import type { Config } from '../config.ts';

const STDERR = 2;
const CENSORED = '[redacted]';

/** Whatever has such a name is not logged, wherever it is in a line's first three levels. */
const SECRET_NAMES = [
  'secret',
  'password',
  'token',
  'authorization',
  'cookie',
  'headers',
  'payload',
  'payloadJson',
  'body',
];
/** Of these only what a URL in them bears beyond host and path. */
const TEXT_NAMES = ['url', 'error', 'databaseUrl', 'redisUrl'];
const LEVELS = ['', '*.', '*.*.'];

/** User and password, query and fragment; of several URLs of Redis, of each. */
const URL_PARTS =
  /\b([a-z][a-z0-9+.-]*:\/\/)(?:[^\s/@]*@)?((?:(?!,\s*rediss?:)[^\s?#"'<>])*)(?:[?#](?:(?!,\s*rediss?:)[^\s"'<>])*)?/gi;

/**
 * The log of a command, JSON lines on stderr. Of an error it tells name, code and message and nothing else: drivers hang
 * whole clients on their errors, and commands with their passwords. What may hold a secret is left out by its name, whoever logs it,
 * and of URLs there is no more than host and path.
 */
export function createLogger(
  level: Config['logLevel'],
  destination: DestinationStream = pino.destination({ dest: STDERR, sync: true }),
): Logger {
  return pino(
    {
      name: 'liventix',
      level,
      serializers: { err: describeError },
      redact: {
        paths: LEVELS.flatMap((at) => [...SECRET_NAMES, ...TEXT_NAMES].map((name) => `${at}${name}`)),
        censor: (value: unknown, path: string[]) =>
          TEXT_NAMES.includes(path.at(-1) ?? '') && typeof value === 'string' ? withoutSecrets(value) : CENSORED,
      },
    },
    destination,
  );
}

export function describeError(error: unknown): { type: string; code?: string; message: string } {
  if (!(error instanceof Error)) return { type: typeof error, message: withoutSecrets(String(error)) };
  const { code } = error as { code?: unknown };
  return {
    type: error.name,
    ...(typeof code === 'string' ? { code } : {}),
    message: withoutSecrets(error.message),
  };
}

function withoutSecrets(text: string): string {
  return text.replace(URL_PARTS, '$1$2');
}
