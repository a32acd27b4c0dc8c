import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import { assertNoDrift, type MigrationStatus, migrate, migrationStatus } from '../db/migrate.ts';
import { openPool } from '../db/pool.ts';
import { type CommandContext, requireDatabaseUrl } from './context.ts';
import { paintOut } from './output.ts';
import { createProgress } from './progress.ts';

export function registerMigrate(program: Command, context: CommandContext): void {
  const command = program
    .command('migrate')
    .description('apply the pending migrations to DATABASE_URL')
    .option('--dry-run', 'say what would be applied, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nExamples:\n  DATABASE_URL=postgresql://localhost/app liventix migrate\n  liventix migrate status --json\n\nSafe to run twice, and by many at once: one works, the others wait.',
    )
    .action(async ({ json, dryRun }: { json?: boolean; dryRun?: boolean }) => {
      const progress = createProgress(context);
      const names = dryRun
        ? await statusOf(context, pendingOf)
        : await migrate(requireDatabaseUrl(context.config), {
            stop: context.stop,
            onBegin: (name, nth, of) => progress.update(`applying ${name}`, nth, of),
          }).finally(progress.clear);
      const [key, verb] = dryRun ? ['wouldApply', 'would apply'] : ['applied', 'applied'];
      if (json) context.out.write(`${toJson({ [key]: names })}\n`);
      else if (names.length === 0) context.out.write('Nothing to apply: the database is up to date.\n');
      else context.out.write(names.map((name) => `${verb} ${name}\n`).join(''));
    });

  command
    .command('status')
    .description('list what is applied and what is pending; exits with 1 when anything is pending')
    .addHelpText('after', '\nExample:\n  liventix migrate status')
    .option('--json', 'print one JSON object')
    .action(async (_options: unknown, self: Command) => {
      const { json } = self.optsWithGlobals<{ json?: boolean }>();
      await statusOf(context, (status) => {
        if (json) context.out.write(`${toJson(status)}\n`);
        else {
          for (const name of status.applied) context.out.write(`applied  ${name}\n`);
          for (const name of status.pending) context.out.write(`${paintOut(context).warn('pending')}  ${name}\n`);
        }
        if (pendingOf(status).length > 0) context.exitWith(1);
      });
    });
}

async function statusOf<T>(context: CommandContext, judge: (status: MigrationStatus) => T): Promise<T> {
  const pool = await openPool({ databaseUrl: requireDatabaseUrl(context.config), max: 1 });
  try {
    return judge(await migrationStatus(pool));
  } finally {
    await pool.end();
  }
}

function pendingOf(status: MigrationStatus): readonly string[] {
  assertNoDrift(status);
  return status.pending;
}
