import type { RecordedRelation } from './file.ts';
import { type Found, fault, NOTHING, note, together } from './findings.ts';
import type { Chunk } from './record.ts';
import type { Since } from './snapshot.ts';

/** Whether the rows of a table are those that were recorded: `same`, or by what they are not. */
export type RowsState = 'same' | 'written' | 'other';

/** A table's rows, as they were recorded and as they are. */
export interface RowsThenAndNow {
  readonly name: string;
  readonly was: RecordedRelation;
  readonly now: readonly Chunk[];
  readonly since: Since;
}

/** What the rows of one table come to: chunks that differ are explained where rows of theirs were written since. */
export function compareRows(rows: RowsThenAndNow): Found & { readonly state: RowsState } {
  const { name, was, now, since } = rows;
  const before = new Map(was.chunks.map((each) => [each[0], each]));
  const after = new Map(now.map((each) => [each.chunk, each]));
  const chunks = [...new Set([...before.keys(), ...after.keys()])].toSorted((one, other) => one - other);
  const differing = chunks.filter((chunk) => {
    const [old, recent] = [before.get(chunk), after.get(chunk)];
    return old?.[1] !== (recent === undefined ? undefined : Number(recent.rows)) || old?.[2] !== recent?.hash;
  });
  if (differing.length === 0) return { ...NOTHING, state: 'same' };
  if (since.window > BigInt(was.clearance)) {
    const text = `${name}: ${differing.length} chunks differ, and since so many transactions nobody can tell which rows are newer`;
    return { ...fault(text), state: 'other' };
  }
  const verdicts = differing.map((chunk) => chunkVerdict(before.get(chunk), after.get(chunk)));
  const found = together([
    ...verdicts.flatMap(({ broken }, at) =>
      broken === null ? [] : [fault(`${name}, chunk ${differing[at]}: ${broken}`)],
    ),
    ...notesOf(rows, verdicts),
  ]);
  return { ...found, state: found.faults.length > 0 ? 'other' : 'written' };
}

interface ChunkVerdict {
  readonly broken: string | null;
  readonly written: bigint;
  readonly went: bigint;
}

function chunkVerdict(was: RecordedRelation['chunks'][number] | undefined, is: Chunk | undefined): ChunkVerdict {
  const [, rowsThen = 0, , openThen = 0] = was ?? [];
  const { rows = 0n, newer = 0n, open = 0n } = is ?? {};
  // Of those that were possibly under way, what came since is what was not seen was.
  const written = newer + (open > BigInt(openThen) ? open - BigInt(openThen) : 0n);
  if (written > 0n) return { broken: null, written, went: 0n };
  const went = BigInt(rowsThen) - rows;
  if (went > 0n) return { broken: null, written, went };
  const text =
    went < 0n
      ? `${-went} more rows than the ${rowsThen} recorded, and none of them was written since`
      : `${rows} rows as recorded, but not the same, and none of them was written since`;
  return { broken: text, written, went: 0n };
}

function notesOf({ name, was, now }: RowsThenAndNow, verdicts: readonly ChunkVerdict[]): readonly Found[] {
  const sum = (pick: (verdict: ChunkVerdict) => bigint) => verdicts.reduce((total, each) => total + pick(each), 0n);
  const [written, went] = [sum((each) => each.written), sum((each) => each.went)];
  const rowsThen = was.chunks.reduce((total, [, rows]) => total + rows, 0);
  const rowsNow = now.reduce((total, { rows }) => total + rows, 0n);
  const counts = `${rowsThen} rows then, ${rowsNow} now`;
  const chunks = (of: (verdict: ChunkVerdict) => bigint) => verdicts.filter((each) => of(each) > 0n).length;
  return [
    ...(written > 0n
      ? [
          note(
            'rows written',
            `${name}: ${written} rows were written since, in ${chunks((each) => each.written)} chunks; ${counts}`,
          ),
        ]
      : []),
    ...(went > 0n
      ? [note('rows went', `${name}: ${went} rows went, of chunks that nobody wrote to since; ${counts}`)]
      : []),
  ];
}

/** That a table shows by its old name what it has. */
export function compareNames(name: string, byOldName: readonly Chunk[], byNewName: readonly Chunk[]): Found {
  const text = (chunks: readonly Chunk[]) =>
    new Map(chunks.map(({ chunk, rows, hash }) => [chunk, `${rows} rows (${hash})`]));
  const [old, recent] = [text(byOldName), text(byNewName)];
  const chunks = [...new Set([...old.keys(), ...recent.keys()])].filter(
    (chunk) => old.get(chunk) !== recent.get(chunk),
  );
  return together(
    chunks.map((chunk) =>
      fault(
        `${name}, chunk ${chunk}: ${old.get(chunk) ?? 'no rows'} by the old name, ${recent.get(chunk) ?? 'no rows'} by the new`,
      ),
    ),
  );
}
