import type { Queryable } from '../db/pool.ts';
import { findMissingTriggers } from './install.ts';
import { findInstallations, findOrphans } from './installations.ts';
import { type Machine, statesOf } from './machine.ts';
import { MACHINES } from './machines.ts';

/** So many rows of a state are counted at most, and of so many it is added up what they keep: a page is not waited for. */
export const MOST_COUNTED = 10_000;
export const MOST_ADDED_UP = 1_000;
/** A table of so many bytes is read whole in no time, whatever indexes it has. */
const SMALL_TABLE_BYTES = 32 * 1024 * 1024;

/** How many rows are in a state. */
export interface StateCount {
  /** Null: rows of before the machine that are not taken in yet. */
  readonly state: string | null;
  readonly rows: bigint;
  /** False where there are more. */
  readonly isAll: boolean;
}

export interface MachineCounts {
  readonly machine: Machine;
  /** The table that it is installed on; null before, and where that is gone. */
  readonly table: string | null;
  /** Its states, in their order; undefined where the table is too large to be counted without an index on `state`. */
  readonly states: readonly StateCount[] | undefined;
}

/**
 * How many rows of every machine are in which state, within bounds. Reads as whoever may not read the tables themselves.
 * @throws AppError DB_PERMISSION_DENIED where policies hide rows of a table from its reader's owner
 */
export async function countMachines(db: Queryable): Promise<readonly MachineCounts[]> {
  const installations = await findInstallations(db);
  const counted: MachineCounts[] = [];
  for (const machine of MACHINES) {
    const table = installations.find((each) => each.machine === machine)?.table ?? null;
    counted.push({ machine, table, states: table === null ? undefined : await countStates(db, machine) });
  }
  return counted;
}

async function countStates(db: Queryable, { name }: Machine): Promise<readonly StateCount[] | undefined> {
  const { isSmall, hasIndex } = await sizeOf(db, name);
  if (!isSmall && !hasIndex) return undefined;
  const most = isSmall ? null : MOST_COUNTED + 1;
  const { rows } = await db.query<Omit<StateCount, 'isAll'>>('select state, rows from console.count_states($1, $2)', [
    name,
    most,
  ]);
  return rows
    .filter(({ state, rows: found }) => state !== null || found > 0n)
    .map(({ state, rows: found }) => {
      const isAll = isSmall || found <= MOST_COUNTED;
      return { state, rows: isAll ? found : BigInt(MOST_COUNTED), isAll };
    });
}

/** Whether rows in a state are found without reading a large table whole. */
async function sizeOf(db: Queryable, machine: string): Promise<{ isSmall: boolean; hasIndex: boolean }> {
  const { rows } = await db.query<{ isSmall: boolean; hasIndex: boolean }>(
    `select pg_relation_size(m.relation) <= $2 as "isSmall", exists (
       select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] and a.attname = 'state'
       where i.indrelid = m.relation and i.indisvalid and i.indpred is null) as "hasIndex"
     from states.machines m where m.name = $1`,
    [machine, SMALL_TABLE_BYTES],
  );
  return rows[0] ?? { isSmall: false, hasIndex: false };
}

/** Of how many rows in a state something is not as their state says. */
export interface Faults {
  /** Their history ends in another. */
  readonly strayed: bigint;
  /** They keep money where they should have none. */
  readonly keeping: bigint;
  /** They keep none where they should have some. */
  readonly empty: bigint;
  /** Their account is frozen where it should be open, or the other way round. */
  readonly misfrozen: bigint;
}

export interface Held {
  readonly currency: string;
  readonly decimalPlaces: number;
  /** What the rows' accounts have, minor units. */
  readonly cents: bigint;
}

/** What the rows of a state come to. */
export interface StateStanding extends Faults {
  readonly state: string | null;
  /** Since when the row that is in it for longest is; null where there is none. */
  readonly oldestAt: Date | null;
  readonly held: readonly Held[];
  /** False where there are more rows than were added up. */
  readonly isAll: boolean;
}

/**
 * What the rows of each state of an installed machine keep by the ledger, since when they are there, and what of them is not as it should be;
 * of the first `MOST_ADDED_UP` rows of each.
 */
export async function standingOf(db: Queryable, machine: Machine): Promise<readonly StateStanding[]> {
  const states = [...statesOf(machine), null];
  const { kept } = machine.money ?? {};
  const among = (some: readonly string[] = []) => states.map((state) => state !== null && some.includes(state));
  const { rows } = await db.query<Omit<StateStanding, 'held' | 'isAll'> & { rows: bigint; held: HeldText[] | null }>(
    `with seen as materialized (
       select s.nth, s.state, s.keeps, s.freezes, r.last_state, r.changed_at, r.currency, coalesce(r.cents, 0) as cents, r.account_status
       from unnest($3::text[], $4::boolean[], $5::boolean[]) with ordinality as s (state, keeps, freezes, nth)
       cross join lateral console.standing_rows($1, $2, s.state, null, $6) r
     ), by_currency as (
       select s.nth, s.currency, sum(s.cents) as cents from seen s where s.cents <> 0 group by s.nth, s.currency
     )
     select s.state, count(*) as rows, min(s.changed_at) as "oldestAt",
            count(*) filter (where s.last_state is distinct from s.state) as strayed,
            count(*) filter (where not s.keeps and s.cents <> 0) as keeping,
            count(*) filter (where s.keeps and s.cents = 0) as empty,
            count(*) filter (where s.account_status is not null and (s.account_status = 'frozen') <> s.freezes) as misfrozen,
            (select jsonb_agg(jsonb_build_object('currency', c.currency, 'cents', c.cents::text, 'decimalPlaces', u.decimal_places) order by c.currency)
             from by_currency c join ref.currencies u on u.code = c.currency where c.nth = s.nth) as held
     from seen s
     group by s.nth, s.state
     order by s.nth`,
    [machine.name, keptType(machine), states, among(kept?.inStates), among(kept?.frozenIn), MOST_ADDED_UP + 1],
  );
  return rows.map(({ rows: found, held, ...standing }) => ({
    ...standing,
    held: (held ?? []).map((each) => ({ ...each, cents: BigInt(each.cents) })),
    isAll: found <= MOST_ADDED_UP,
  }));
}

/** The type of the accounts that a machine keeps; null where it keeps none. */
function keptType({ money }: Machine): string | null {
  return (money?.kept && money.accounts[money.kept.account]?.type) ?? null;
}

type HeldText = Omit<Held, 'cents'> & { readonly cents: string };

/** What of the machines themselves is not as it was installed, in words. */
export async function findMachineFaults(db: Queryable): Promise<readonly string[]> {
  const orphans = (await findOrphans(db)).map(({ name }) => name);
  const faults = orphans.map(
    (name) => `The table of ${name} is gone, and what its accounts keep is posted to by nobody. Bring it back.`,
  );
  for (const { machine, table } of await findInstallations(db)) {
    const missing = await findMissingTriggers(db, machine, table);
    if (missing.length > 0) {
      faults.push(
        `${machine.name} on ${table} lacks ${missing.join(', ')}, or it is not enabled always, or of another declaration. Run: liventix states install ${machine.name}`,
      );
    }
  }
  return faults;
}

/** One row in a state, and what it keeps. */
export interface RowInState {
  readonly id: string;
  readonly changedAt: Date | null;
  readonly changedBy: string | null;
  readonly event: string | null;
  /** The account that is kept for it; null where it has none. */
  readonly accountId: string | null;
  readonly currency: string | null;
  readonly decimalPlaces: number | null;
  /** What that has, minor units. */
  readonly cents: bigint | null;
}

/** The rows of a machine in one state, by id. @param range.state null: not taken in yet. @param range.after only higher ids */
export async function listRowsIn(
  db: Queryable,
  machine: Machine,
  {
    state,
    after,
    limit,
  }: { readonly state: string | null; readonly after?: string | undefined; readonly limit: number },
): Promise<readonly RowInState[]> {
  const { rows } = await db.query<RowInState>(
    `select r.id, r.changed_at as "changedAt", r.changed_by as "changedBy", r.event, r.account_id as "accountId", r.currency,
            (select u.decimal_places from ref.currencies u where u.code = r.currency) as "decimalPlaces", r.cents
     from console.standing_rows($1, $2, $3, $4, $5) r
     order by r.id`,
    [machine.name, keptType(machine), state, after ?? null, limit],
  );
  return rows;
}
