import type { Command } from 'commander';
import { judgeEmbeddings } from '../analytics/embeddings/diagnosis.ts';
import { judgePartitions } from '../analytics/partitions/diagnosis.ts';
import { judgeRollups } from '../analytics/rollups/status.ts';
import { type Check, diagnoseDatabase, skipped } from '../db/diagnosis.ts';
import { toJson } from '../db/json-value.ts';
import type { Queryable } from '../db/pool.ts';
import { judgeGuards } from '../ledger/guards.ts';
import { judgeAttachments } from '../outbox/attachments/diagnosis.ts';
import { diagnoseListening } from '../outbox/diagnosis.ts';
import { judgeEndpoints } from '../outbox/endpoint-diagnosis.ts';
import { createKeyRing } from '../outbox/key-ring.ts';
import { judgeLetters } from '../outbox/letters-diagnosis.ts';
import { diagnoseRedis } from '../outbox/redis-diagnosis.ts';
import { judgeReplay } from '../replay/diagnosis.ts';
import { judgeRestructuring } from '../restructure/diagnosis.ts';
import { judgeMachines } from '../states/diagnosis.ts';
import { type CommandContext, requireDatabaseUrl } from './context.ts';
import { wholeNumber } from './options.ts';
import { paintOut } from './output.ts';
import type { Paint } from './paint.ts';
import { createProgress } from './progress.ts';

interface Options {
  readonly maxTransactionSeconds: number;
  readonly json?: boolean;
}

const DEFAULT_MAX_TRANSACTION_SECONDS = 60;
const ONE_DAY_SECONDS = 86_400;

export function registerDoctor(program: Command, context: CommandContext): void {
  program
    .command('doctor')
    .description(
      "check what Liventix stands on: database, connection, clock, the ledger's guards, the capture and the mirror, attachments, endpoints, dead letters, state machines, moved tables, months, rollups, embeddings, Redis; and say what to do",
    )
    .option(
      '--max-transaction-seconds <n>',
      'warn of transactions that have been open for so long',
      wholeNumber(0, ONE_DAY_SECONDS),
      DEFAULT_MAX_TRANSACTION_SECONDS,
    )
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nChanges nothing. Exits with 0 when all is well or worth a warning, 1 when something does not hold, 3 when the\ndatabase or Redis could not be asked.\n\nExample:\n  DATABASE_URL=postgresql://localhost/app REDIS_URL=redis://localhost liventix doctor',
    )
    .action(async (options: Options) => {
      const checks = await diagnose(options, context);
      const exitCode = exitCodeOf(checks);
      const healthy = exitCode === 0;
      context.out.write(options.json ? `${toJson({ healthy, checks })}\n` : reportText(checks, paintOut(context)));
      if (exitCode !== 0) context.exitWith(exitCode);
    });
}

async function diagnose(options: Options, context: CommandContext): Promise<readonly Check[]> {
  const databaseUrl = requireDatabaseUrl(context.config);
  const { maxTransactionSeconds } = options;
  const further = [
    { name: 'guards', look: judgeGuards },
    { name: 'replay', look: judgeReplay },
    { name: 'attachments', look: judgeAttachments },
    {
      name: 'endpoints',
      look: (db: Queryable) => judgeEndpoints(db, createKeyRing(context.config.encryptionKeys), context.config),
    },
    { name: 'letters', look: judgeLetters },
    { name: 'machines', look: judgeMachines },
    { name: 'restructuring', look: judgeRestructuring },
    { name: 'partitions', look: judgePartitions },
    { name: 'rollups', look: judgeRollups },
    { name: 'embeddings', look: judgeEmbeddings },
  ];
  const progress = createProgress(context);
  const onBegin = (name: string, nth: number, of: number) => progress.update(`looking at ${name}`, nth, of);
  const database = await diagnoseDatabase({
    databaseUrl,
    maxTransactionSeconds,
    now: Date.now,
    further,
    onBegin,
  }).finally(progress.clear);
  const wasReached = database[0]?.code === undefined;
  return [
    ...database,
    wasReached ? await diagnoseListening(databaseUrl) : skipped('notifications', 'the database was not reached'),
    ...(await diagnoseRedis(context.config.redisUrl)),
  ];
}

function exitCodeOf(checks: readonly Check[]): 0 | 1 | 3 {
  if (checks.some(({ code }) => code !== undefined)) return 3;
  return checks.some(({ result }) => result === 'failed') ? 1 : 0;
}

const MARKS = { ok: 'ok', warning: 'WARNING', failed: 'FAILED', skipped: 'skipped' } as const;
const MARK_WIDTH = 8;

function reportText(checks: readonly Check[], paint: Paint): string {
  const nameWidth = Math.max(...checks.map(({ name }) => name.length)) + 2;
  const paints = { ok: paint.good, warning: paint.warn, failed: paint.bad, skipped: (text: string) => text };
  const lines = checks.flatMap(({ name, result, found, todo }) => [
    `${paints[result](MARKS[result])}${' '.repeat(MARK_WIDTH - MARKS[result].length)}${name.padEnd(nameWidth)}${found}`,
    ...(todo === null ? [] : [`${' '.repeat(MARK_WIDTH + nameWidth)}→ ${todo}`]),
  ]);
  return `${lines.join('\n')}\n\n${summary(checks, paint)}\n`;
}

function summary(checks: readonly Check[], paint: Paint): string {
  const count = (result: Check['result']) => checks.filter((candidate) => candidate.result === result).length;
  const plural = (n: number, noun: string) => `${n} ${noun}${n === 1 ? '' : 's'}`;
  const [failed, warnings] = [count('failed'), count('warning')];
  const warned = warnings === 0 ? '' : `, with ${plural(warnings, 'warning')}`;
  return failed === 0
    ? paint.good(`Healthy${warned}.`)
    : paint.bad(`Not healthy: ${plural(failed, 'check')} failed${warned}.`);
}
