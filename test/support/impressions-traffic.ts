import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { createPool } from '../../src/db/pool.ts';
import type { TestDatabase } from './database.ts';

interface Row {
  dwell: number;
  seenAt: string;
}

export interface Traffic {
  /** Stops, and says what there should be: by id, dwell and instant. */
  stop(): Promise<ReadonlyMap<string, string>>;
  readonly errors: readonly string[];
  /** How often something was done. */
  readonly done: { writes: number; reads: number };
}

const MONTHS = ['2025-11', '2026-01', '2026-03', '2026-05'];

/** Old code and new at work on `stats.impressions`, by its name and by its view's: rows come, change, move to other months and go. */
export function startTraffic(database: TestDatabase, { fixedRows }: { readonly fixedRows: number }): Traffic {
  const pool = createPool({ databaseUrl: database.url, max: 6 });
  const rows = new Map<string, Row>();
  const errors: string[] = [];
  const done = { writes: 0, reads: 0 };
  let isOver = false;
  const loop = (work: (nth: number) => Promise<void>) =>
    (async () => {
      for (let nth = 0; !isOver; nth += 1) {
        await work(nth).catch((error: Error) => errors.push(error.message));
        await sleep(1);
      }
    })();
  const write = (mine: string[]) => async (nth: number) => {
    const name = nth % 2 === 0 ? 'stats.impressions' : 'public.impressions';
    const id = mine[nth % Math.max(1, mine.length)];
    const row = id === undefined ? undefined : rows.get(id);
    const seenAt = `${MONTHS[nth % MONTHS.length]}-${String(1 + (nth % 27)).padStart(2, '0')}T12:00:00.000Z`;
    if (id === undefined || row === undefined || nth % 5 < 2) {
      const made = randomUUID();
      await pool.query(`insert into ${name} (id, show_id, dwell_ms, seen_at) values ($1, 1, $2, $3)`, [
        made,
        nth % 1000,
        seenAt,
      ]);
      rows.set(made, { dwell: nth % 1000, seenAt });
      mine.push(made);
    } else if (nth % 5 === 2) {
      await pool.query(`update ${name} set dwell_ms = $2 where id = $1`, [id, (nth * 7) % 1000]);
      row.dwell = (nth * 7) % 1000;
    } else if (nth % 5 === 3) {
      await pool.query(`update ${name} set seen_at = $2 where id = $1`, [id, seenAt]);
      row.seenAt = seenAt;
    } else {
      await pool.query(`delete from ${name} where id = $1`, [id]);
      rows.delete(id);
    }
    done.writes += 1;
  };
  const read = async () => {
    const { rows: counted } = await pool.query<{ n: number }>(
      `select count(*)::int as n from public.impressions where note = 'fixed'`,
    );
    if (counted[0]?.n !== fixedRows) errors.push(`${counted[0]?.n} of ${fixedRows} rows were seen`);
    done.reads += 1;
  };
  const loops = [loop(write([])), loop(write([])), loop(write([])), loop(read), loop(read)];
  return {
    errors,
    done,
    stop: async () => {
      isOver = true;
      await Promise.all(loops);
      await pool.end();
      return new Map([...rows].map(([id, { dwell, seenAt }]) => [id, `${dwell} ${seenAt}`]));
    },
  };
}
