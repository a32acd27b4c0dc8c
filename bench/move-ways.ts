import { setTimeout as sleep } from 'node:timers/promises';
import { REST_FACTOR } from '../src/cli/restructure-apply.ts';
import type { Pool, Tx } from '../src/db/pool.ts';
import { applyPlan } from '../src/restructure/apply.ts';
import { dryRun } from '../src/restructure/dry-run.ts';
import type { Plan } from '../src/restructure/planned.ts';
import { rollBack } from '../src/restructure/rollback.ts';

/** Apply is run again while tables are left, as its message says; and so would whoever moves them by hand. */
const MOST_RUNS = 5;
const ALL = { schemas: [], tables: [] } as const;

/** One way to move the tables of a plan: its parts follow each other on the same database. */
export interface MoveWay {
  readonly name: string;
  readonly parts: readonly MovePart[];
}

export interface MovePart {
  readonly name: string;
  /** Answers how many tables it has not moved, and what it tried in vain. */
  run(pool: Pool, plan: Plan, ms: number): Promise<Moved>;
}

export interface Moved {
  readonly left: number;
  /** Whole runs of ours, transactions of the others, that moved nothing or not everything, each with its reason. */
  readonly inVain: readonly string[];
}

export const WAYS: readonly MoveWay[] = [
  { name: 'no move', parts: [{ name: 'no move', run: (_, __, ms) => sleep(ms, { left: 0, inVain: [] }) }] },
  {
    name: 'ours',
    parts: [
      { name: 'ours', run: moveWithUs },
      { name: 'ours, back again', run: moveBackWithUs },
    ],
  },
  { name: 'one transaction', parts: [{ name: 'one transaction', run: moveInOneTransaction }] },
  { name: 'without lock_timeout', parts: [{ name: 'without lock_timeout', run: moveOneByOne }] },
];

async function moveWithUs(pool: Pool, plan: Plan): Promise<Moved> {
  const inVain: string[] = [];
  for (let run = 1; ; run += 1) {
    const { outcomes } = await applyPlan(pool, plan, { ...ALL, restFactor: REST_FACTOR });
    const skipped = outcomes.flatMap((outcome) => (outcome.status === 'skipped' ? [outcome] : []));
    if (skipped.length === 0 || run === MOST_RUNS) return { left: skipped.length, inVain };
    inVain.push(...skipped.map(({ table, reasons }) => `${table}: ${reasons.join('; ')}`));
  }
}

async function moveBackWithUs(pool: Pool): Promise<Moved> {
  const inVain: string[] = [];
  for (let run = 1; ; run += 1) {
    const { steps } = await rollBack(pool, { tables: [], restFactor: REST_FACTOR });
    const skipped = steps.filter(({ status, kind }) => status === 'skipped' && kind === 'table');
    if (skipped.length === 0 || run === MOST_RUNS) return { left: skipped.length, inVain };
    inVain.push(...skipped.map(({ object, reason }) => `${object}: ${reason}`));
  }
}

/** The same statements, without what proves them. */
async function moveInOneTransaction(pool: Pool, plan: Plan): Promise<Moved> {
  const statements = (await dryRun(pool, plan, ALL)).flatMap((step) => step.statements);
  const inVain = await tryToRun(pool, statements);
  return { left: inVain.length === MOST_RUNS ? plan.tables.length : 0, inVain };
}

async function moveOneByOne(pool: Pool, plan: Plan): Promise<Moved> {
  const inVain: string[] = [];
  let left = 0;
  for (const { statements } of await dryRun(pool, plan, ALL)) {
    const tries = await tryToRun(pool, statements);
    inVain.push(...tries);
    if (tries.length === MOST_RUNS) left += 1;
  }
  return { left, inVain };
}

/** In one transaction, again where it failed. Answers why it did. */
async function tryToRun(pool: Pool, statements: readonly string[]): Promise<readonly string[]> {
  const inVain: string[] = [];
  const tx = await pool.connect();
  try {
    while (inVain.length < MOST_RUNS) {
      try {
        await runAll(tx, statements);
        return inVain;
      } catch (error) {
        await tx.query('rollback');
        inVain.push((error as Error).message);
      }
    }
    return inVain;
  } finally {
    tx.release();
  }
}

async function runAll(tx: Tx, statements: readonly string[]): Promise<void> {
  await tx.query('begin');
  for (const statement of statements) await tx.query(statement);
  await tx.query('commit');
}
