import type { Pool } from '../../db/pool.ts';
import { readFacts, type TableFacts } from './facts.ts';
import { blocking, blocks, type Finding, findingsOf } from './findings.ts';
import type { Entry } from './mapping.ts';
import { addMonths, endOfPast, type Month, monthOf, monthsBetween } from './months.ts';
import { probeMapping } from './probe.ts';
import { findTable, type KeptTable, ofLost } from './tables.ts';

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
  if (kept?.isLost === true)
    return { ...size, status: 'blocked', months: [], findings: [blocks('lost', ofLost(entry.table))] };
  if (kept !== undefined && kept.state !== 'preparing') {
    return {
      ...size,
      status: kept.state === 'partitioned' ? 'done' : 'begun',
      months: [],
      findings: otherPolicy(kept, entry),
    };
  }
  const findings = await judgeTable(pool, facts, entry);
  const months: readonly Month[] = monthsBetween(endOfPast(now), addMonths(monthOf(now), entry.monthsAhead + 1));
  return {
    ...size,
    status: blocking(findings).length > 0 ? 'blocked' : kept === undefined ? 'ready' : 'begun',
    months: blocking(findings).length > 0 ? [] : months.map((month) => month.slice(0, 7)),
    findings,
  };
}

/** What keeps a table from being converted, by the catalog first, and then by what the server takes of the mapping. @throws AppError DB_* */
export async function judgeTable(pool: Pool, facts: TableFacts | undefined, entry: Entry): Promise<readonly Finding[]> {
  const findings = findingsOf(facts, entry);
  if (facts === undefined || facts.key === null || !facts.isOurs) return findings;
  return [...(await probeMapping(pool, facts, entry)), ...findings];
}

/** What apply changes of a table that has its months. Pure. */
function otherPolicy(kept: KeptTable, { keepMonths, expired, monthsAhead }: Entry): readonly Finding[] {
  const change = (what: string, from: unknown, to: unknown): readonly Finding[] =>
    from === to
      ? []
      : [{ severity: 'changes', finding: 'policy', text: `${what}: ${to} from then on, ${from} by now` }];
  return [
    ...change('keepMonths', kept.keepMonths ?? 'for ever', keepMonths ?? 'for ever'),
    ...change('expired', kept.expired, expired),
    ...change('monthsAhead', kept.monthsAhead, monthsAhead),
  ];
}
