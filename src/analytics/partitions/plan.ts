import type { Pool } from '../../db/pool.ts';
import { readFacts } from './facts.ts';
import { blocking, type Finding, findingsOf } from './findings.ts';
import type { Entry } from './mapping.ts';
import { addMonths, endOfPast, type Month, monthOf, monthsBetween } from './months.ts';
import { findTable } from './tables.ts';

export interface PlannedTable {
  readonly table: string;
  readonly status: 'ready' | 'blocked' | 'begun' | 'done';
  readonly rowsEstimated: number | null;
  readonly sizeBytes: bigint | null;
  /** Those that are made beside the past. */
  readonly months: readonly string[];
  readonly findings: readonly Finding[];
}

/** What becomes of each table. Reads no row. @throws AppError DB_* */
export async function makePlan(pool: Pool, entries: readonly Entry[], now: Date): Promise<readonly PlannedTable[]> {
  const plan: PlannedTable[] = [];
  for (const entry of entries) plan.push(await planTable(pool, entry, now));
  return plan;
}

async function planTable(pool: Pool, entry: Entry, now: Date): Promise<PlannedTable> {
  const kept = await findTable(pool, entry.table);
  const facts = await readFacts(pool, entry.table, entry.by);
  const size = { table: entry.table, rowsEstimated: facts?.rowsEstimated ?? null, sizeBytes: facts?.sizeBytes ?? null };
  if (kept !== undefined && kept.state !== 'preparing') {
    return { ...size, status: kept.state === 'partitioned' ? 'done' : 'begun', months: [], findings: [] };
  }
  const findings = findingsOf(facts, entry);
  const months: readonly Month[] = monthsBetween(endOfPast(now), addMonths(monthOf(now), entry.monthsAhead + 1));
  return {
    ...size,
    status: blocking(findings).length > 0 ? 'blocked' : kept === undefined ? 'ready' : 'begun',
    months: blocking(findings).length > 0 ? [] : months.map((month) => month.slice(0, 7)),
    findings,
  };
}
