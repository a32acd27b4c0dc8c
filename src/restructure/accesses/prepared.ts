import type { Access } from './access.ts';

/** What a column is compared with, as it stands in a URL. */
export type FilterValue = string | null | readonly string[];

/** An access with everything that it takes to send it: the same each time, whatever has become of the database. Serialisable. */
export interface PreparedAccess {
  /** Its place among the accesses it was read with. */
  readonly number: number;
  readonly access: Access;
  /** By condition of its filters, then by comparison. */
  readonly values: readonly (readonly FilterValue[])[];
  readonly limit?: number;
  readonly offset?: number;
  /** The rows that are written, all of the same columns. */
  readonly payload?: readonly Readonly<Record<string, unknown>>[];
  readonly arguments?: Readonly<Record<string, unknown>>;
}

/** What the API says to an access by itself, without asking the database. */
export interface Refusal {
  readonly code:
    | 'ambiguous'
    | 'unrelated'
    | 'unreadable'
    | 'no-table'
    | 'no-column'
    | 'no-function'
    | 'not-embedded'
    | 'not-single';
  readonly message: string;
}

export const isRefusal = (value: object): value is Refusal => 'code' in value && 'message' in value;

/** SQL and what its parameters stand for. */
export interface Sql {
  readonly text: string;
  readonly parameters: readonly unknown[];
}

/** What PostgREST asks the database for one access. */
export interface Statement {
  /** Gives a column `row`, each the text of a JSON value; undefined where the client wants no rows. */
  readonly rows?: Sql;
  /** Gives a column `count`: of all rows, those beyond the limit too. */
  readonly count?: Sql;
  /** Whether the order of the rows is given, and decides between any two of them. */
  readonly isOrdered: boolean;
  readonly cardinality?: 'single' | 'maybeSingle';
}

/** Collects parameters while SQL is written. */
export class Parameters {
  readonly values: unknown[] = [];

  /** How SQL writes the value. */
  add(value: unknown): string {
    this.values.push(value);
    return `$${this.values.length}`;
  }
}
