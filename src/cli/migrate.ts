import type { Command } from 'commander';
import { assertNoDrift, migrate, migrationStatus } from '../db/migrate.ts';
import { openPool } from '../db/pool.ts';
import { type CommandContext, requireDatabaseUrl } from './context.ts';
import { toJson } from './output.ts';

export function registerMigrate(program: Command, context: CommandContext): void {
  const command = program
    .command('migrate')
    .description('apply the pending migrations to DATABASE_URL')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nExamples:\n  DATABASE_URL=postgresql://localhost/app liventix migrate\n  liventix migrate status --json\n\nSafe to run twice, and by many at once: one works, the others wait.',
    )
    .action(async (options: { json?: boolean }) => {
      const applied = await migrate(requireDatabaseUrl(context.config), { stop: context.stop });
      if (options.json) context.out.write(`${toJson({ applied })}\n`);
      else if (applied.length === 0) context.out.write('Nothing to apply: the database is up to date.\n');
      else context.out.write(applied.map((name) => `applied ${name}\n`).join(''));
    });

  command
    .command('status')
    .description('list what is applied and what is pending; exits with 1 when anything is pending')
    .option('--json', 'print one JSON object')
    .action(async (_options: unknown, self: Command) => {
      const { json } = self.optsWithGlobals<{ json?: boolean }>();
      const pool = await openPool({ databaseUrl: requireDatabaseUrl(context.config), max: 1 });
      try {
        const status = await migrationStatus(pool);
        if (json) context.out.write(`${toJson(status)}\n`);
        else {
          for (const name of status.applied) context.out.write(`applied  ${name}\n`);
          for (const name of status.pending) context.out.write(`pending  ${name}\n`);
        }
        assertNoDrift(status);
        if (status.pending.length > 0) context.exitWith(1);
      } finally {
        await pool.end();
      }
    });
}
