import { createHash } from 'node:crypto';
import type { Effect } from './effects.ts';

/** What an access gave, before anything is left out that changes from run to run. */
export type RawOutcome =
  | { readonly status: 'refused'; readonly by: 'api' | 'database'; readonly code: string; readonly message: string }
  | {
      readonly status: 'rows';
      /** Each the text of a JSON value. */
      readonly rows: readonly string[];
      readonly isOrdered: boolean;
      /** Of all rows, where it was asked for. */
      readonly total: number | null;
      readonly effects: readonly Effect[];
    };

/** What an access gave, as far as it gives the same each time; the values themselves are not kept. */
export type Outcome =
  | Extract<RawOutcome, { status: 'refused' }>
  | {
      readonly status: 'rows';
      readonly count: number | null;
      readonly total: number | null;
      /** What it did to which table: `orders +1 ~0 -0`. */
      readonly effects: readonly string[];
      /** Of the rows and of those that were written, but for what is `varying`. */
      readonly digest: string;
      /** Of what is in each place of the rows, by path, such as `orders[].id`; null where it varies. */
      readonly places: Readonly<Record<string, string | null>>;
    };

const VARYING = '(varies)';

/**
 * What two runs of the same access have in common: what now(), random numbers and sequences gave is in the same places of both, and is
 * not the same. What is made of the day or of the minute is, and is known by being of today: it is left out where `now` is given.
 */
export function outcomeOf(first: RawOutcome, again?: { readonly second: RawOutcome; readonly now?: Date }): Outcome {
  const { second, now } = again ?? { second: first };
  if (first.status === 'refused') {
    const isSame = second.status === 'refused' && second.message === first.message;
    return isSame ? first : { ...first, message: VARYING };
  }
  if (second.status === 'refused') return { status: 'refused', by: second.by, code: VARYING, message: VARYING };
  const documents = documentsOf(first);
  const places = placesOf(documents);
  const others = second === first ? places : placesOf(documentsOf(second));
  const paths = [...new Set([...places.keys(), ...others.keys()])].toSorted();
  const isVarying = (path: string) =>
    textOf(places.get(path)) !== textOf(others.get(path)) ||
    (now !== undefined && places.get(path)?.some((value) => isAbout(value, now)));
  const varying = new Set(paths.filter(isVarying));
  const masked = documents.map((each) => `${each.of} ${JSON.stringify(mask(each.document, each.of, varying))}`);
  return {
    status: 'rows',
    count: first.rows.length === second.rows.length ? first.rows.length : null,
    total: first.total,
    effects: first.effects.map((each) => `${each.table} +${each.inserted} ~${each.updated} -${each.deleted}`),
    digest: digestOf(JSON.stringify(first.isOrdered ? masked : masked.toSorted())),
    places: Object.fromEntries(
      paths.map((path) => [path, varying.has(path) ? null : digestOf(textOf(places.get(path)))]),
    ),
  };
}

const DAY_MS = 86_400_000;

const isAbout = (value: string, now: Date): boolean =>
  /^\d{4}-\d{2}-\d{2}(?:T|$)/u.test(value) && Math.abs(Date.parse(value) - now.getTime()) <= DAY_MS;

const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 16);
const textOf = (values: readonly string[] | undefined): string => JSON.stringify((values ?? []).toSorted());

/** A row, and what it is a row of. */
interface Document {
  readonly of: string;
  readonly document: unknown;
}

const documentsOf = ({ rows, effects }: Extract<RawOutcome, { status: 'rows' }>): readonly Document[] => [
  ...rows.map((row) => ({ of: '', document: parse(row) })),
  ...effects.flatMap(({ table, rows: written }) =>
    written.map((row) => ({ of: `written ${table}`, document: parse(row) })),
  ),
];

/** Numbers stay as they are written: some have more digits than a number of JavaScript. */
const parse = (text: string): unknown =>
  JSON.parse(text ?? 'null', (_key, value: unknown, context?: { source?: string }) =>
    typeof value === 'number' ? `${context?.source ?? value}` : value,
  );

function placesOf(documents: readonly Document[]): ReadonlyMap<string, readonly string[]> {
  const places = new Map<string, string[]>();
  const visit = (value: unknown, path: string): void => {
    if (Array.isArray(value)) for (const each of value) visit(each, `${path}[]`);
    else if (typeof value === 'object' && value !== null) {
      for (const [key, inner] of Object.entries(value)) visit(inner, inside(path, key));
    } else {
      const values = places.get(path) ?? [];
      values.push(String(value));
      places.set(path, values);
    }
  };
  for (const { of, document } of documents) visit(document, of);
  return places;
}

function mask(value: unknown, path: string, varying: ReadonlySet<string>): unknown {
  if (Array.isArray(value)) return value.map((each) => mask(each, `${path}[]`, varying));
  if (typeof value !== 'object' || value === null) return varying.has(path) ? VARYING : value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, mask(inner, inside(path, key), varying)] as const),
  );
}

const inside = (path: string, key: string): string => (path === '' ? key : `${path}.${key}`);
