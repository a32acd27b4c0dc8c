import { readFile } from 'node:fs/promises';

const CATALOGUE_JSON = new URL('../../../fixtures/legacy/catalogue.json', import.meta.url);

/** What is known of the legacy database's schema `public`, and of the two views of its schema `analytics`. */
export interface Catalogue {
  readonly tables: readonly Table[];
  readonly enums: readonly { readonly name: string; readonly labels: readonly string[] }[];
  readonly composite_types: readonly { readonly name: string; readonly columns: readonly TypedColumn[] }[];
  readonly sequences: readonly Sequence[];
  readonly views: readonly View[];
  readonly functions: readonly CataloguedFunction[];
  readonly triggers: readonly Trigger[];
  readonly policies: readonly Policy[];
}

export type Table = OrdinaryTable | PartitionedTable | Partition;

export interface OrdinaryTable extends TableParts {
  readonly kind: 'table';
}

export interface PartitionedTable extends TableParts {
  readonly kind: 'partitioned';
  readonly partition_key: { readonly method: string; readonly columns: readonly string[] };
}

/** Its columns, checks and foreign keys are those of its parent; its indexes are too, under names of their own. */
export interface Partition {
  readonly name: string;
  readonly kind: 'partition';
  readonly rls: boolean;
  readonly partition_of: string;
  /** Days, in UTC. */
  readonly bounds: 'default' | { readonly from: string; readonly to: string };
  readonly indexes: readonly Index[];
}

interface TableParts {
  readonly name: string;
  readonly rls: boolean;
  readonly columns: readonly Column[];
  readonly primary_key: readonly string[];
  readonly unique: readonly { readonly name: string; readonly columns: readonly string[] }[];
  readonly foreign_keys: readonly ForeignKey[];
  readonly checks: readonly Check[];
  readonly indexes: readonly Index[];
}

export interface TypedColumn {
  readonly name: string;
  readonly type: string;
}

export interface Column extends TypedColumn {
  readonly nullable: boolean;
  readonly default: Default;
}

export type Default =
  | { readonly kind: 'none' | 'now' | 'utc_now' | 'uuid' }
  | { readonly kind: 'literal'; readonly value: string | number | boolean }
  | { readonly kind: 'sequence' | 'function'; readonly name: string };

/** Nothing happens to it on update. */
export interface ForeignKey {
  readonly name: string;
  readonly columns: readonly string[];
  /** With its schema. */
  readonly references: string;
  readonly ref_columns: readonly string[];
  readonly on_delete: string;
}

export type Check = { readonly name: string } & (
  | { readonly expression: string; readonly columns: readonly string[] }
  | { readonly at_least_one_not_null: readonly string[] }
  | OfOneColumn
);

/** Null passes a check; `nullable` where the check says so itself. */
type OfOneColumn = { readonly column: string; readonly nullable?: boolean } & (
  | { readonly in: readonly string[] }
  | { readonly op: string; readonly value: number }
  | { readonly between: readonly [number, number] }
  | { readonly length_between: readonly [number, number] }
);

export interface Index {
  readonly name: string;
  /** Names of columns, or expressions. */
  readonly columns: readonly string[];
  readonly directions: readonly ('asc' | 'desc')[];
  readonly unique: boolean;
  readonly primary: boolean;
  readonly method: string;
  readonly predicate: readonly Condition[] | null;
  /** Whether a primary key or unique constraint has it. */
  readonly from_constraint: boolean;
}

export type Condition = { readonly column: string } & (
  | { readonly is_null: boolean }
  | { readonly in: readonly string[] }
  | { readonly op: string; readonly value: string | number | boolean }
);

export interface Sequence {
  readonly name: string;
  /** table.column */
  readonly owned_by: string;
  readonly type: string;
  readonly start: number;
  readonly increment: number;
}

interface View {
  readonly schema: string;
  readonly name: string;
  readonly kind: 'view' | 'materialized';
  readonly security_invoker: boolean;
  readonly columns: readonly TypedColumn[];
  /** Relations, those outside of `public` with their schema. */
  readonly reads: readonly string[];
}

/** Whoever may connect may call it. */
interface CataloguedFunction {
  readonly name: string;
  readonly args: readonly { readonly name: string; readonly type: string }[];
  /** How many of the last arguments have one. */
  readonly defaults: number;
  readonly returns: string;
  readonly returns_set: boolean;
  readonly language: string;
  readonly volatility: string;
  readonly security_definer: boolean;
  readonly search_path: string | null;
}

export interface Trigger {
  /** With its schema where that is not `public`. */
  readonly table: string;
  readonly name: string;
  readonly timing: string;
  readonly events: readonly string[];
  readonly level: string;
  readonly function: string;
}

export interface Policy {
  readonly table: string;
  readonly name: string;
  readonly command: string;
  readonly roles: readonly string[];
  readonly has_using: boolean;
  readonly has_with_check: boolean;
  readonly decided_by: readonly string[];
  /** Relations and functions that it asks. */
  readonly depends_on: readonly string[];
}

export async function readCatalogue(): Promise<Catalogue> {
  return JSON.parse(await readFile(CATALOGUE_JSON, 'utf8')) as Catalogue;
}
