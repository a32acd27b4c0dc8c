import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { AppError } from '../errors.ts';
import type { Plan } from './planned.ts';

/** Where `plan` writes and `apply` reads, unless told otherwise. */
export const PLAN_FILE = 'restructure-plan.json';

const digestOf = (plan: Omit<Plan, 'digest'>): string =>
  createHash('sha256').update(JSON.stringify(plan)).digest('hex');

/** The plan with the digest by which a file of it is known to be unchanged. */
export const sealPlan = (plan: Omit<Plan, 'digest'>): Plan => ({ ...plan, digest: digestOf(plan) });

/**
 * Writes a plan where `apply` reads it, one table a line.
 * @throws AppError RESTRUCTURE_PLAN_INVALID where the file cannot be written
 */
export async function writePlan(file: string, { tables, digest, ...about }: Plan): Promise<void> {
  const head = JSON.stringify(about).slice(0, -1);
  const lines = tables.map((table) => JSON.stringify(table)).join(',\n');
  await writeFile(file, `${head},"tables":[\n${lines}\n],"digest":"${digest}"}\n`).catch((error: Error) => {
    throw new AppError('RESTRUCTURE_PLAN_INVALID', `The plan cannot be written to ${file}: ${error.message}.`);
  });
}

/** @throws AppError RESTRUCTURE_PLAN_INVALID for a file that is none, or was changed since it was written */
export async function readPlan(file: string): Promise<Plan> {
  const invalid = (fault: string): AppError =>
    new AppError(
      'RESTRUCTURE_PLAN_INVALID',
      `The plan ${file} ${fault}. Make one: liventix restructure plan --output ${file}`,
    );
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw invalid(error.code === 'ENOENT' ? 'is not there' : `cannot be read: ${error.message}`);
  });
  const plan = parsed(text);
  if (plan?.digest === undefined) throw invalid('is no plan');
  const { version, mapping, database, serverVersion, madeAt, tables, functions, replaced, unmapped, notes, digest } =
    plan;
  // In the order in which it was sealed: the digest is of the text.
  const sealed = sealPlan({
    version,
    mapping,
    database,
    serverVersion,
    madeAt,
    tables,
    functions,
    replaced,
    unmapped,
    notes,
  });
  if (version !== 2 || digest !== sealed.digest)
    throw invalid('was changed since it was made, or is of another version');
  return plan;
}

function parsed(text: string): Plan | undefined {
  try {
    const plan: unknown = JSON.parse(text);
    return typeof plan === 'object' && plan !== null ? (plan as Plan) : undefined;
  } catch {
    return undefined;
  }
}
