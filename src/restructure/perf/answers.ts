import type { Tx } from '../../db/pool.ts';
import { type Outcome, outcomeOf, type RawOutcome } from '../accesses/outcome.ts';
import { failureOf, reading } from './session.ts';
import { MOST_ROWS, type Subject } from './subjects.ts';

/** What a subject answered, by its sets of values; or why it does not answer. */
export type Answered =
  | {
      readonly status: 'answered';
      readonly answers: readonly Outcome[];
      readonly rows: number;
      /** How long the first asking took. */
      readonly tookMs: number;
    }
  | { readonly status: 'failed'; readonly code: string; readonly message: string }
  /** It would write, and nothing is to be written. */
  | { readonly status: 'writes' };

/** What a statement is refused with that would write where nothing may be written. */
const READ_ONLY = '25006';

/**
 * Asks twice: what is another value each time, such as now(), is left out of the answer, and the second time finds everything in memory.
 * What takes longer than `budgetMs` is asked once.
 * @throws AppError DB_* where the connection is gone
 */
export async function readAnswers(
  client: Tx,
  subject: Subject,
  { timeoutMs, budgetMs }: { readonly timeoutMs: number; readonly budgetMs: number },
): Promise<Answered> {
  try {
    const from = performance.now();
    const first = await askEach(client, subject, timeoutMs);
    const tookMs = performance.now() - from;
    const second = tookMs > budgetMs ? first : await askEach(client, subject, timeoutMs);
    const now = subject.kind === 'access' ? { now: new Date() } : {};
    return {
      status: 'answered',
      answers: first.map((each, at) => outcomeOf(each, { second: second[at] ?? each, ...now })),
      rows: first.reduce((sum, each) => sum + (each.status === 'rows' ? each.rows.length : 0), 0),
      tookMs,
    };
  } catch (error) {
    const failure = failureOf(error);
    return failure.code === READ_ONLY ? { status: 'writes' } : { status: 'failed', ...failure };
  }
}

async function askEach(client: Tx, subject: Subject, timeoutMs: number): Promise<readonly RawOutcome[]> {
  const outcomes: RawOutcome[] = [];
  for (const answer of subject.answers) {
    outcomes.push(await reading(client, { ...subject, timeoutMs }, () => ask(client, answer, subject.isOrdered)));
  }
  return outcomes;
}

async function ask(client: Tx, { rows, count }: Subject['answers'][number], isOrdered: boolean): Promise<RawOutcome> {
  const read = rows && (await client.query<{ row: string }>(rows.text, [...rows.parameters])).rows;
  const counted = count && (await client.query<{ count: bigint }>(count.text, [...count.parameters])).rows[0]?.count;
  if (read !== null && read.length > MOST_ROWS)
    return { status: 'refused', by: 'api', code: 'too-long', message: `more than ${MOST_ROWS} rows` };
  const total = counted == null ? null : Number(counted);
  return { status: 'rows', rows: (read ?? []).map(({ row }) => row), isOrdered, total, effects: [] };
}
