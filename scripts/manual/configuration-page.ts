import { z } from 'zod';
import { environment } from '../../src/config.ts';
import { code, opening, page, table } from './markdown.ts';

const INTRO = [
  'What the environment decides. It is read and checked as a whole before any command does anything: all that is wrong is said at once, in one',
  'line ([`CONFIG_INVALID`](../errors.md#usage-and-configuration)), and without secrets. An empty variable counts as one that is not set; a flag of the command line wins',
  'over it. How the key of secrets is changed: [rotate a secret](../how-to/rotate-a-secret.md#the-key-that-secrets-are-encrypted-with); what Redis must be set to:',
  '[operations](../operations.md#redis-and-a-redis-cluster).',
];

const OF_OTHERS = [
  ['`NO_COLOR`, `FORCE_COLOR`', 'Whether output has colours, where Node and its libraries ask'],
  ['`NODE_EXTRA_CA_CERTS`', "Your own certificate authority, for Redis, PostgreSQL and webhook receivers: Node's"],
  [
    '`UV_THREADPOOL_SIZE`',
    "Node's threads, 64 where it is not set; half of them resolve names, and with fewer, endpoints whose name server is dead hold up others",
  ],
  ['`PGSSLMODE`, `PGPASSFILE`, …', 'What DATABASE_URL does not say, as the driver `pg` reads them'],
];

/** docs/reference/configuration.md */
export function configurationPage(): string {
  const rows = Object.entries(environment.shape)
    .map(([name, variable]) => [
      code(name),
      described(name, 'description', variable),
      described(name, 'form', variable),
      defaultOf(variable),
    ])
    .toSorted(([one = ''], [other = '']) => (one < other ? -1 : 1));
  return page([
    ...opening('Configuration', INTRO),
    ...table(['variable', 'what it decides', 'what it must be', 'default'], rows),
    '## Of Node and its libraries',
    '',
    ...table(['variable', 'what it decides'], OF_OTHERS),
  ]);
}

/** What is said of a variable, or of what it wraps. */
function described(name: string, what: 'description' | 'form', variable: z.ZodType): string {
  const said = z.globalRegistry.get(variable)?.[what];
  if (typeof said === 'string') return said;
  const inner = innerOf(variable);
  if (inner === undefined) throw new Error(`${name} of src/config.ts has no ${what}`);
  return described(name, what, inner);
}

function innerOf(variable: z.ZodType): z.ZodType | undefined {
  const isWrapped = variable instanceof z.ZodDefault || variable instanceof z.ZodOptional;
  return isWrapped ? (variable.unwrap() as z.ZodType) : undefined;
}

const defaultOf = (variable: z.ZodType): string =>
  variable instanceof z.ZodDefault ? code(String(variable.def.defaultValue)) : 'not set';
