import type { Tx } from '../db/pool.ts';

export interface CheckResult {
  readonly check: string;
  readonly holds: boolean;
  /** How many things were looked at. */
  readonly examined: bigint;
  readonly unit: string;
  /** How many of them are at fault. */
  readonly faults: bigint;
  /** The first of them, each with its id and both values. */
  readonly first: readonly string[];
  readonly seconds: number;
}

/** Who wants to know while a verification goes on. */
export interface VerificationWatch {
  readonly onBegin?: (check: string) => void;
  readonly onEnd?: (result: CheckResult) => void;
  /** Of the check that began last: how many events are done, of how many. Only where that is known. */
  readonly onProgress?: (done: number, total: bigint) => void;
}

interface CheckHead {
  readonly name: string;
  readonly unit: string;
  /** SELECT of how many things there are. */
  readonly examined: string;
  /** How many faults are named; NAMED_FAULTS when left out. */
  readonly named?: number;
}

export interface Check extends CheckHead {
  /** SELECT of one text per fault. */
  readonly faults: string;
  /** Asked first: where it answers true, nothing is at fault, and nobody need look row by row. */
  readonly isCleared?: () => Promise<boolean>;
}

/** Checks that one pass over the rows answers. */
export interface Pass {
  readonly checks: readonly (CheckHead & { readonly kind: string })[];
  /** SELECT of a check's kind and one text, per fault. */
  readonly faults: string;
}

const NAMED_FAULTS = 5;

/** One result a check, in order. */
export async function runEach(
  tx: Tx,
  checks: readonly (Check | Pass)[],
  watch: VerificationWatch,
): Promise<CheckResult[]> {
  const results: CheckResult[] = [];
  const counts = new Map<string, bigint>();
  for (const step of checks) {
    const pass = 'checks' in step ? step : passOf(step);
    const startedAt = performance.now();
    for (const { name } of pass.checks.slice(0, 1)) watch.onBegin?.(name);
    const isCleared = 'isCleared' in step && (await step.isCleared?.());
    const faults = isCleared ? [] : await faultsOf(tx, pass);
    for (const [nth, { kind, name, unit, examined }] of pass.checks.entries()) {
      const found = faults.find((row) => row.kind === kind) ?? { count: 0n, first: [] };
      const result: CheckResult = {
        check: name,
        holds: found.count === 0n,
        examined: await countOnce(tx, counts, examined),
        unit,
        faults: found.count,
        first: found.first,
        // What one pass took is its first check's.
        seconds: nth === 0 ? (performance.now() - startedAt) / 1_000 : 0,
      };
      watch.onEnd?.(result);
      results.push(result);
    }
  }
  return results;
}

const passOf = ({ faults, ...check }: Check): Pass => ({
  checks: [{ ...check, kind: '' }],
  faults: `select '' as kind, f.message from (${faults}) as f (message)`,
});

interface Faults {
  readonly kind: string;
  readonly count: bigint;
  readonly first: string[];
}

async function faultsOf(tx: Tx, { checks, faults }: Pass): Promise<Faults[]> {
  const named = checks.map((check) => `('${check.kind}', ${check.named ?? NAMED_FAULTS})`);
  const { rows } = await tx.query<Faults>(
    `with fault as materialized (
       select f.kind, f.message, row_number() over (partition by f.kind order by f.nth) as nth
       from (select row_number() over () as nth, f.* from (${faults}) as f (kind, message)) f
     )
     select f.kind, count(*) as count, array_agg(f.message order by f.nth) filter (where f.nth <= c.named) as first
     from fault f
     join (values ${named.join(', ')}) as c (kind, named) using (kind)
     group by f.kind`,
  );
  return rows;
}

/** Several checks look at the same rows, and counting them takes a while. */
async function countOnce(tx: Tx, counts: Map<string, bigint>, sql: string): Promise<bigint> {
  const known = counts.get(sql);
  if (known !== undefined) return known;
  const { rows } = await tx.query<{ count: bigint }>(`select (${sql})::bigint as count`);
  const count = rows[0]?.count ?? 0n;
  counts.set(sql, count);
  return count;
}
