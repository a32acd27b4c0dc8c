import type { Finding } from '../db/diagnosis.ts';
import type { Queryable } from '../db/pool.ts';
import { isDenied } from '../db/sqlstate.ts';

/** Whether the old platform's table is told of dead letters, for `liventix doctor`. */
export async function judgeLetters(db: Queryable): Promise<Finding> {
  try {
    return await judge(db);
  } catch (error) {
    if (!isDenied(error)) throw error;
    return { result: 'skipped', found: 'this role may not ask whose table of dead letters it is' };
  }
}

async function judge(db: Queryable): Promise<Finding> {
  const { rows } = await db.query<{ isThere: boolean; canJudge: boolean }>(
    `select to_regclass('public.dead_letter_webhooks') is not null as "isThere",
       to_regprocedure('outbox.letters_stranger()') is not null as "canJudge"`,
  );
  if (!rows[0]?.canJudge) return { result: 'skipped', found: 'the database has no outbox of this version yet' };
  if (!rows[0].isThere) return { result: 'ok', found: 'there is no public.dead_letter_webhooks to tell' };
  const { rows: judged } = await db.query<{ stranger: string | null }>('select outbox.letters_stranger() as stranger');
  const stranger = judged[0]?.stranger;
  if (stranger == null) return { result: 'ok', found: 'public.dead_letter_webhooks is told of each' };
  return {
    result: 'warning',
    found: `public.dead_letter_webhooks is told of none: it is ${stranger}'s, and everybody may make tables in schema public`,
    todo: "Where the table is the old platform's: revoke create on schema public from public. Else drop it.",
  };
}
