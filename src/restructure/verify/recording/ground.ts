import type { Queryable } from '../../../db/pool.ts';
import { AppError } from '../../../errors.ts';
import type { RecordedRelation, Recording } from './file.ts';
import { type Found, fault, together } from './findings.ts';
import { oldName, type Place, readPlaces, shownName } from './places.ts';
import type { Here } from './snapshot.ts';

/** A relation of a recording, and where it is now. */
export interface Pair {
  readonly was: RecordedRelation;
  /** Where it stands in the recording. */
  readonly at: number;
  readonly place: Place;
}

/** What there is of what was recorded. */
export interface Ground {
  readonly pairs: readonly Pair[];
  /** Of relations and columns that are not there any more, or are of other types. */
  readonly missing: Found;
  /** Relations with policies that are there to narrow what is seen, by oid. */
  readonly isolated: ReadonlySet<number>;
  /** By relation, those that its policies read. */
  readonly readByPolicies: ReadonlyMap<number, readonly number[]>;
}

/** @throws AppError RESTRUCTURE_OTHER_DATABASE, RESTRUCTURE_OTHER_VERSION */
export function assertComparable(recording: Recording, here: Here): void {
  const isSame = recording.database === here.database && recording.databaseOid === here.databaseOid;
  if (!isSame || BigInt(recording.snapshot.xmax) > here.xmax) {
    const what = isSame
      ? `as it was after what this one has seen: it was put back to an earlier state`
      : `${recording.database} (oid ${recording.databaseOid}), and this is ${here.database} (oid ${here.databaseOid})`;
    throw new AppError(
      'RESTRUCTURE_OTHER_DATABASE',
      `The recording is of the database ${what}. Record anew: liventix restructure verify --record`,
    );
  }
  if (recording.postgres === here.postgres) return;
  throw new AppError(
    'RESTRUCTURE_OTHER_VERSION',
    `The recording was made by PostgreSQL ${recording.postgres}, and this is ${here.postgres}: their hashes need not be the same. Record anew: liventix restructure verify --record`,
  );
}

export async function readGround(db: Queryable, recording: Recording): Promise<Ground> {
  const tables = [...new Set(recording.relations.map(({ table }) => table))];
  const places = new Map((await readPlaces(db, recording.from, tables)).map((place) => [oldName(place), place]));
  const found = recording.relations.map((was, at) => matched(was, at, places.get(oldName(was))));
  const pairs = found.flatMap(({ pair }) => pair ?? []);
  return { pairs, missing: together(found), ...(await readPolicies(db)) };
}

function matched(was: RecordedRelation, at: number, place: Place | undefined): Found & { readonly pair?: Pair } {
  const name = shownName(was);
  if (place === undefined || place.isLeaf !== was.isLeaf)
    return fault(`${name}: there is no such table any more, and no step that stands has moved it`);
  const types = new Map(place.columns.map((column) => [column.name, column.type]));
  const changed = was.columns.filter((column) => types.get(column.name) !== column.type);
  if (changed.length === 0) return { faults: [], notes: [], pair: { was, at, place } };
  return together(
    changed.map((column) =>
      fault(`${name}: the column ${column.name} was ${column.type}, and is ${types.get(column.name) ?? 'gone'}`),
    ),
  );
}

async function readPolicies(db: Queryable): Promise<Pick<Ground, 'isolated' | 'readByPolicies'>> {
  const { rows } = await db.query<{ relation: number; reads: number[]; isIsolated: boolean }>(
    `select c.oid as relation,
       array(
         select distinct d.refobjid from pg_policy p join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
         where p.polrelid = c.oid and d.refclassid = 'pg_class'::regclass and d.refobjid <> c.oid) as reads,
       exists (select from restructure.steps s where s.kind = 'policies' and s.undone_at is null and c.oid = any (s.relations)) as "isIsolated"
     from pg_class c where c.relkind in ('r', 'p')`,
  );
  return {
    isolated: new Set(rows.filter(({ isIsolated }) => isIsolated).map(({ relation }) => relation)),
    readByPolicies: new Map(rows.map(({ relation, reads }) => [relation, reads])),
  };
}
