import { randomBytes } from 'node:crypto';
import { text } from 'node:stream/consumers';
import { type Command, Option } from 'commander';
import { CONSOLE_ROLES } from '../config.ts';
import { type ConsoleUser, disableUser, listUsers, setUser } from '../console/access/users.ts';
import type { Role } from '../console/visitor.ts';
import { toJson } from '../db/json-value.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { tryOut } from './dry-run.ts';
import { printable } from './printable.ts';

interface SetOptions {
  readonly role: readonly Role[];
  readonly passwordStdin?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

const GENERATED_BYTES = 18;

export function registerConsoleUsers(console: Command, context: CommandContext): void {
  const user = console
    .command('user')
    .description('who signs in to the console with a password')
    .addHelpText('after', '\nExample:\n  liventix console user list');
  user
    .command('set')
    .description(
      'add a user, or give one that there is other roles and another password; who was signed in is signed out',
    )
    .argument('<name>', 'by which he signs in')
    .addOption(
      new Option(
        '--role <role...>',
        'what he may do: look (viewer), act on deliveries and the backfill (operator), or on the books (finance)',
      )
        .choices(CONSOLE_ROLES)
        .makeOptionMandatory(),
    )
    .option('--password-stdin', 'read the password from standard input; without it, one is made and shown once')
    .option('--dry-run', 'say whether he would be added or changed, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nExamples:\n  liventix console user set ada --role finance\n  liventix console user set bob --role operator finance --password-stdin < password.txt',
    )
    .action((name: string, options: SetOptions) => runSet(name, options, context));
  user
    .command('disable')
    .description('keep a user from signing in, and sign him out; user set lets him in again')
    .argument('<name>', 'by which he signs in')
    .option('--dry-run', 'say whether there is such a user, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  liventix console user disable bob')
    .action((name: string, options: { dryRun?: boolean; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        if (options.dryRun) {
          await tryOut(pool, (tx) => disableUser(tx, name));
          context.out.write(options.json ? `${toJson({ wouldDisable: name })}\n` : `${name} would be signed out.\n`);
          context.err.write('Nothing was changed.\n');
          return;
        }
        await disableUser(pool, name);
        context.out.write(
          options.json
            ? `${toJson({ name, disabled: true })}\n`
            : `${name} cannot sign in any more, and is signed out.\n`,
        );
      }),
    );
  user
    .command('list')
    .description('every user, what he may do, and whether he is signed in')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  liventix console user list')
    .action((options: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const users = await listUsers(pool);
        context.out.write(
          options.json
            ? `${toJson({ users })}\n`
            : users.map(userLine).join('') || 'No users yet. See: liventix console user set --help\n',
        );
      }),
    );
}

async function runSet(
  name: string,
  { role, passwordStdin, dryRun, json }: SetOptions,
  context: CommandContext,
): Promise<void> {
  // The line break that echo and files end with is none of the password.
  const password = passwordStdin
    ? (await text(process.stdin)).replace(/\r?\n$/, '')
    : randomBytes(GENERATED_BYTES).toString('base64url');
  await withDatabase(context, async (pool) => {
    const user = { name, roles: role, password };
    if (dryRun) {
      const would = await tryOut(pool, (tx) => setUser(tx, user));
      context.out.write(
        json ? `${toJson({ name, roles: role, would })}\n` : `${name} would be ${would}: ${role.join(', ')}.\n`,
      );
      context.err.write('Nothing was changed.\n');
      return;
    }
    const done = await setUser(pool, user);
    const shown = passwordStdin ? {} : { password };
    if (json) context.out.write(`${toJson({ name, roles: role, [done]: true, ...shown })}\n`);
    else
      context.out.write(
        `${name} is ${done}: ${role.join(', ')}.${passwordStdin ? '' : ` Password, shown once: ${password}`}\n`,
      );
  });
}

const userLine = ({ name, roles, ...user }: ConsoleUser): string =>
  `${printable(name)}  ${roles.join(', ')}  ${standingOf(user)}\n`;

function standingOf({ disabledAt, sessions, seenAt }: Pick<ConsoleUser, 'disabledAt' | 'sessions' | 'seenAt'>): string {
  if (disabledAt !== null) return `disabled ${disabledAt.toISOString()}`;
  return seenAt === null ? 'not signed in' : `${sessions} signed in, last seen ${seenAt.toISOString()}`;
}
