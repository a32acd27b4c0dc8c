import type { CheckResult, VerificationWatch } from '../../../db/checks.ts';
import type { Tx } from '../../../db/pool.ts';
import type { Recording } from './file.ts';
import { type Found, NOTHING, type Note, note, together, verdictOf } from './findings.ts';
import { assertComparable, type Ground, type Pair, readGround } from './ground.ts';
import { nameNow, oldName, shownName } from './places.ts';
import { beginReading, type OnProgress, readChunks } from './record.ts';
import { compareNames, compareRows, type RowsState } from './rows.ts';
import { comparePrivileges, compareSight, compareSightNames, compareWrites, type SightThenAndNow } from './sights.ts';
import { readHere, readSince, type Since } from './snapshot.ts';
import {
  existingRoles,
  lookAs,
  mayBecome,
  PATIENCE_MS,
  type Patience,
  readPrivileges,
  type Sighting,
  SLOW,
  type Viewer,
  viewerName,
} from './viewers.ts';

export interface Comparison {
  readonly checks: readonly CheckResult[];
  readonly notes: readonly Note[];
}

interface Work {
  readonly tx: Tx;
  readonly recording: Recording;
  readonly since: Since;
  readonly ground: Ground;
  /** That of whoever runs it. */
  readonly searchPath: string;
  readonly patience: Patience;
  readonly onProgress: OnProgress | undefined;
}

/**
 * What a database shows now beside what a recording says that it showed, in the caller's snapshot. Changes nothing; reads every row by each
 * name, and for each viewer.
 * @throws AppError RESTRUCTURE_OTHER_DATABASE, RESTRUCTURE_OTHER_VERSION, RESTRUCTURE_ROWS_HIDDEN, DB_*
 */
export async function compareWithRecording(
  tx: Tx,
  recording: Recording,
  watch: Pick<VerificationWatch, 'onBegin' | 'onEnd'> & {
    readonly onProgress?: OnProgress;
    readonly patienceMs?: number | undefined;
  },
): Promise<Comparison> {
  const searchPath = await beginReading(tx);
  const here = await readHere(tx);
  assertComparable(recording, here);
  const was = { xmin: BigInt(recording.snapshot.xmin), xmax: BigInt(recording.snapshot.xmax) };
  const since = await readSince(tx, was, here);
  const ground = await readGround(tx, recording);
  const { onProgress, patienceMs = PATIENCE_MS } = watch;
  const work: Work = {
    tx,
    recording,
    since,
    ground,
    searchPath,
    patience: patienceFor(ground, patienceMs),
    onProgress,
  };
  const [checks, notes]: [CheckResult[], Note[]] = [[], []];
  const conclude = (verdict: Verdict, startedAt: number) => {
    const seconds = (performance.now() - startedAt) / 1_000;
    const result = verdictOf({ ...verdict, examined: BigInt(verdict.examined), seconds }, verdict.found.faults);
    checks.push(result);
    notes.push(...verdict.found.notes);
    watch.onEnd?.(result);
  };
  const startedAt = performance.now();
  conclude(presence(work), startedAt);
  const rows = await rowsOf(work, watch.onBegin);
  conclude(rows.sinceThen, startedAt);
  conclude(rows.byBothNames, performance.now());
  const lookedFrom = performance.now();
  const sights = await sightsOf(work, rows.states, watch.onBegin);
  conclude(sights.sinceThen, lookedFrom);
  conclude(sights.writes, performance.now());
  conclude(sights.byBothNames, performance.now());
  const asked = performance.now();
  conclude(await privilegesOf(work), asked);
  return { checks, notes };
}

/** What was too slow for somebody then need not be waited for again. */
const patienceFor = ({ pairs }: Ground, ms: number): Patience => ({
  ms,
  slow: new Set(pairs.filter(({ was }) => was.seen.includes(SLOW)).map(({ place }) => place.oid)),
});

interface Verdict {
  readonly check: string;
  readonly unit: string;
  readonly examined: number | bigint;
  readonly found: Found;
}

const presence = ({ recording, ground }: Work): Verdict => ({
  check: 'every table of the recording is there, with the columns that it had',
  unit: 'relations',
  examined: recording.relations.length,
  found: ground.missing,
});

/** What became of the rows of each relation that has some itself, and of the table that it belongs to. */
interface States {
  readonly byOid: ReadonlyMap<number, RowsState>;
  readonly byTable: ReadonlyMap<string, RowsState>;
}

async function rowsOf(work: Work, onBegin: VerificationWatch['onBegin']) {
  const check = 'every row that nobody wrote since is what it was';
  onBegin?.(check);
  const { tx, ground, since } = work;
  const leaves = ground.pairs.filter(({ place }) => place.isLeaf);
  const byOid = new Map<number, RowsState>();
  const [sinceThen, byBothNames]: [Found[], Found[]] = [[], []];
  let [read, moved] = [0n, 0];
  for (const [at, { was, place }] of leaves.entries()) {
    work.onProgress?.(`rows of ${place.name}`, at, leaves.length);
    const now = await readChunks(tx, nameNow(place), was, since);
    const { state, ...found } = compareRows({ name: shownName(place), was, now, since });
    byOid.set(place.oid, state);
    sinceThen.push(found);
    read += now.reduce((sum, { rows }) => sum + rows, 0n);
    if (!place.isMoved) continue;
    moved += 1;
    byBothNames.push(compareNames(shownName(place), await readChunks(tx, oldName(place), was), now));
  }
  return {
    states: { byOid, byTable: worstOf(leaves, byOid) },
    sinceThen: { check, unit: 'rows', examined: read, found: together(sinceThen) },
    byBothNames: {
      check: 'every moved table shows by its old name what it has',
      unit: 'moved relations',
      examined: moved,
      found: together(byBothNames),
    },
  };
}

const WORST: readonly RowsState[] = ['same', 'written', 'other'];

function worstOf(leaves: readonly Pair[], byOid: ReadonlyMap<number, RowsState>): ReadonlyMap<string, RowsState> {
  const worst = new Map<string, RowsState>();
  for (const { was, place } of leaves) {
    const states = [worst.get(was.table), byOid.get(place.oid)].map((state) => WORST.indexOf(state ?? 'same'));
    worst.set(was.table, WORST[Math.max(...states)] ?? 'other');
  }
  return worst;
}

async function sightsOf(work: Work, states: States, onBegin: VerificationWatch['onBegin']) {
  const check = 'every role and tenant sees the rows that it saw';
  onBegin?.(check);
  const { recording, ground } = work;
  const roles = [...new Set(recording.viewers.map(({ role }) => role))];
  const gone = await rolesLeftOut(work, roles);
  const [sinceThen, writes, byBothNames]: [Found[], Found[], Found[]] = [[...gone.values()], [], []];
  const viewers = recording.viewers.flatMap((viewer, at) => (gone.has(viewer.role) ? [] : [{ viewer, at }]));
  for (const [nth, { viewer, at }] of viewers.entries()) {
    work.onProgress?.(`what ${viewerName(viewer)} sees`, nth, viewers.length);
    const sights = await look(work, { viewer, at, states });
    sinceThen.push(...sights.map(compareSight));
    writes.push(...sights.map(compareWrites));
    byBothNames.push(...sights.map(compareSightNames));
  }
  const left = recording.leftOut.map((role) =>
    note('left out', `${role}: whoever recorded might not become it, and nobody looked with its rights`),
  );
  return {
    sinceThen: {
      check,
      unit: 'views of relations',
      examined: viewers.length * ground.pairs.length,
      found: together([...left, ...sinceThen]),
    },
    writes: {
      check: 'every role and tenant may write the rows that it might',
      unit: 'views of relations',
      examined: viewers.length * ground.pairs.length,
      found: together(recording.relations.some(hasWrites) ? writes : [WITHOUT_WRITES]),
    },
    byBothNames: {
      check: 'every role and tenant sees by the old name what it sees by the new',
      unit: 'views of relations',
      examined: viewers.length * ground.pairs.filter(({ place }) => place.isMoved).length,
      found: together(byBothNames),
    },
  };
}

const hasWrites = ({ writes }: Recording['relations'][number]): boolean => writes !== undefined;
const WITHOUT_WRITES = note('left out', 'what each role and tenant may write: an older version made the recording');

async function rolesLeftOut({ tx }: Work, roles: readonly string[]): Promise<ReadonlyMap<string, Found>> {
  const existing = await existingRoles(tx, roles);
  const left = new Map<string, Found>();
  for (const role of roles) {
    // Of one that is not there any more, the privileges say so.
    if (!existing.includes(role)) left.set(role, NOTHING);
    else if (!(await mayBecome(tx, role)))
      left.set(role, note('left out', `${role}: you may not become it, and what it sees was not compared`));
  }
  return left;
}

/** What one viewer sees of every relation, by its old name, and by the new where it has one. */
async function look(
  { tx, recording, since, ground, searchPath, patience }: Work,
  { viewer, at, states }: { viewer: Viewer; at: number; states: States },
): Promise<readonly SightThenAndNow[]> {
  const older = `not (${since.newer}) and not (${since.open})`;
  const stateOf = ({ was, place }: Pair): RowsState =>
    (place.isLeaf ? states.byOid.get(place.oid) : states.byTable.get(was.table)) ?? 'same';
  const sightings = ground.pairs.map((pair): Sighting => {
    const sighting = { place: pair.place, content: pair.was };
    return stateOf(pair) === 'same' ? sighting : { ...sighting, older };
  });
  const sights = await lookAs(tx, viewer, { claimsSetting: recording.claimsSetting, searchPath, patience }, sightings);
  const written = writtenTables(ground, stateOf);
  return ground.pairs.flatMap((pair, nth) => {
    const [sight, was] = [sights[nth], pair.was.seen[at]];
    if (sight === undefined || was === undefined) return [];
    const reads = new Set(ground.readByPolicies.get(pair.place.oid) ?? []);
    return {
      what: `${shownName(pair.place)}: ${viewerName(viewer)}`,
      was,
      ...sight,
      wrote: pair.was.writes?.[at] ?? null,
      rows: stateOf(pair),
      isIsolated: ground.isolated.has(pair.place.oid),
      writtenElsewhere: [...written]
        .filter(([oid, name]) => oid !== pair.place.oid && (reads.has(oid) || recording.memberships.includes(name)))
        .map(([, name]) => name),
    };
  });
}

const writtenTables = ({ pairs }: Ground, stateOf: (pair: Pair) => RowsState): ReadonlyMap<number, string> =>
  new Map(pairs.filter((pair) => stateOf(pair) !== 'same').map(({ place }) => [place.oid, shownName(place)] as const));

async function privilegesOf({ tx, recording, ground }: Work): Promise<Verdict> {
  const existing = await existingRoles(tx, recording.roles);
  const privileges = await readPrivileges(
    tx,
    existing,
    ground.pairs.map(({ place }) => oldName(place)),
  );
  const found = recording.roles.map((role, nth) => {
    const at = existing.indexOf(role);
    if (at === -1) return { faults: [`the role ${role} is not there any more`], notes: [] };
    return together(
      ground.pairs.map(({ was, place }, pair) =>
        comparePrivileges(`${shownName(place)}: ${role}`, {
          was: was.privileges[nth] ?? '',
          now: privileges[pair]?.[at] ?? '',
          isIsolated: ground.isolated.has(place.oid),
        }),
      ),
    );
  });
  return {
    check: 'every role may do by the old name what it might',
    unit: 'roles by relation',
    examined: recording.roles.length * ground.pairs.length,
    found: together(found),
  };
}
