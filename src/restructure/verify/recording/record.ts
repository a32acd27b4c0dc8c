import type { Pool, Tx } from '../../../db/pool.ts';
import { ONE_SNAPSHOT, withSavepoint, withTransaction } from '../../../db/transaction.ts';
import { assignmentsOf, type Mapping } from '../../mapping.ts';
import { type Content, contentSql, readingWhole, readWholeRows } from '../content.ts';
import { FORMAT, type RecordedRelation, type Recording } from './file.ts';
import { nameNow, oldName, type Place, readPlaces } from './places.ts';
import { readHere, readSince, type Since } from './snapshot.ts';
import {
  type Disguise,
  findViewers,
  lookAs,
  PATIENCE_MS,
  readPrivileges,
  type Sights,
  type Viewers,
  viewerName,
} from './viewers.ts';

/** Names of the tables of members, on which it depends to whom rows belong. */
const membershipTables = ({ tenancy, from }: Mapping): string[] =>
  tenancy === undefined ? [] : [tenancy.organizations, ...tenancy.memberships].map(({ table }) => `${from}.${table}`);

export type OnProgress = (what: string, done: number, total: number) => void;

/** Reading waits for a lock no longer than that: whoever waits for ours has waited as long. */
const LOCK_TIMEOUT_MS = 2_000;

export interface RecordingOptions {
  readonly now: Date;
  readonly program: string;
  /** For how long one look of a viewer at one table may take. */
  readonly patienceMs?: number | undefined;
  readonly onProgress?: OnProgress;
}

/**
 * What every table of a mapping has and who sees what of it, by its old name, in one snapshot. Changes nothing; reads every row once, and once
 * more for each viewer.
 * @throws AppError RESTRUCTURE_ROWS_HIDDEN, DB_*
 */
export function takeRecording(
  pool: Pool,
  mapping: Mapping,
  { now, program, patienceMs = PATIENCE_MS, onProgress }: RecordingOptions,
): Promise<Recording> {
  return withTransaction(
    pool,
    async (tx) => {
      const searchPath = await beginReading(tx);
      const here = await readHere(tx);
      const tables = [...new Set([...assignmentsOf(mapping).map(({ table }) => table), ...mapping.stay])];
      const places = await readPlaces(tx, mapping.from, tables);
      const since = await readSince(tx, here, here);
      const contents = await readContents(tx, places, since, onProgress);
      const found = await findViewers(tx, mapping, places);
      const claimsSetting = mapping.tenancy?.claimsSetting ?? 'request.jwt.claims';
      const sights = await lookAround(tx, places, found, {
        claimsSetting,
        searchPath,
        patience: { ms: patienceMs, slow: new Set() },
        onProgress,
      });
      const privileges = await readPrivileges(tx, found.roles, places.map(oldName));
      return {
        format: FORMAT,
        program,
        database: here.database,
        databaseOid: here.databaseOid,
        postgres: here.postgres,
        recordedAt: now.toISOString(),
        snapshot: { xmin: here.xmin.toString(), xmax: here.xmax.toString() },
        from: mapping.from,
        claimsSetting,
        memberships: membershipTables(mapping),
        roles: [...found.roles],
        viewers: [...found.viewers],
        leftOut: [...found.leftOut],
        relations: places.map((place, at) => ({
          ...recordedContent(place, contents.get(place.oid)),
          seen: sights.flatMap((ofViewer) => ofViewer.slice(at, at + 1).map(({ now }) => now.seen)),
          writes: sights.flatMap((ofViewer) =>
            ofViewer.slice(at, at + 1).map(({ now, byNewName }) => (byNewName ?? now).writes),
          ),
          privileges: [...(privileges[at] ?? [])],
        })),
      };
    },
    ONE_SNAPSHOT,
  );
}

/** What all reading of recordings begins with. Returns the search path of whoever runs it, which is set aside. */
export async function beginReading(tx: Tx): Promise<string> {
  const { rows } = await tx.query<{ path: string }>(`select current_setting('search_path') as path`);
  await tx.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
  await readWholeRows(tx);
  return rows[0]?.path ?? '';
}

/** By viewer, what each place shows. */
async function lookAround(
  tx: Tx,
  places: readonly Place[],
  { viewers }: Viewers,
  { onProgress, ...disguise }: Disguise & { onProgress: OnProgress | undefined },
): Promise<readonly (readonly Sights[])[]> {
  const sightings = places.map((place) => ({ place, content: place }));
  const sights: (readonly Sights[])[] = [];
  for (const viewer of viewers) {
    onProgress?.(`what ${viewerName(viewer)} sees`, sights.length, viewers.length);
    sights.push(await lookAs(tx, viewer, disguise, sightings));
  }
  return sights;
}

/** Of one chunk: rows, the sum of their hashes, and of how many it is known, or possible, that they are newer than a snapshot. */
export interface Chunk {
  readonly chunk: number;
  readonly rows: bigint;
  readonly hash: string;
  readonly newer: bigint;
  readonly open: bigint;
  readonly clearance: bigint;
}

/** The rows of each table that has some itself, where they are, by its oid. */
async function readContents(
  tx: Tx,
  places: readonly Place[],
  since: Since,
  onProgress: OnProgress | undefined,
): Promise<ReadonlyMap<number, readonly Chunk[]>> {
  const leaves = places.filter(({ isLeaf }) => isLeaf);
  const contents = new Map<number, readonly Chunk[]>();
  for (const place of leaves) {
    onProgress?.(`rows of ${place.name}`, contents.size, leaves.length);
    contents.set(place.oid, await readChunks(tx, nameNow(place), place, since));
  }
  return contents;
}

/** @throws AppError RESTRUCTURE_ROWS_HIDDEN where row security would hide rows from whoever asks */
export async function readChunks(tx: Tx, name: string, content: Content, since?: Since): Promise<readonly Chunk[]> {
  const more =
    since === undefined
      ? []
      : [
          `count(*) filter (where ${since.newer}) as newer`,
          `count(*) filter (where ${since.open}) as open`,
          `${since.clearance} as clearance`,
        ];
  const { rows } = await readingWhole(() => withSavepoint(tx, () => tx.query<Chunk>(contentSql(name, content, more))));
  return rows.toSorted((one, other) => one.chunk - other.chunk);
}

function recordedContent(place: Place, chunks: readonly Chunk[] = []) {
  const clearances = chunks.map(({ clearance }) => clearance);
  return {
    schema: place.schema,
    name: place.name,
    table: place.table,
    isLeaf: place.isLeaf,
    columns: place.columns.map(({ name, type, hashedAs }) => ({ name, type, hashedAs })),
    key: [...place.key],
    clearance: (clearances.toSorted((one, other) => Number(one - other))[0] ?? 2n ** 32n).toString(),
    chunks: chunks.map(({ chunk, rows, hash, open }): RecordedRelation['chunks'][number] => [
      chunk,
      Number(rows),
      hash,
      Number(open),
    ]),
  };
}
