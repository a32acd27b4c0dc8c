import type { Mapping } from './mapping.ts';
import type { Finding } from './readiness.ts';
import type { TriggerFunction } from './trigger-functions.ts';

type Readiness = 'ready' | 'warned' | 'blocked' | 'moved';

/** What is to become of a table, and all that is known about it. */
export interface PlannedTable {
  readonly table: string;
  readonly target: string;
  readonly readiness: Readiness;
  readonly findings: readonly Finding[];
  readonly sizeBytes: number;
  readonly rowsEstimated: number | null;
  /** It and what goes with it, itself first; empty where it is not there. */
  readonly relations: readonly { readonly oid: number; readonly name: string }[];
  readonly fingerprint: string | null;
  readonly locks: readonly string[];
  readonly changes: PlannedChanges | null;
}

/** What changes with a table: in its transaction where SQL says so, by itself where things are bound by oid. */
export interface PlannedChanges {
  readonly readers: readonly string[];
  readonly policies: readonly string[];
  readonly triggers: readonly string[];
  readonly defaults: readonly string[];
  readonly sequences: readonly string[];
  readonly types: readonly string[];
  readonly publications: readonly string[];
  readonly grantees: readonly string[];
  /** Functions and jobs whose text names it. */
  readonly functions: readonly string[];
  readonly foreignKeysFrom: number;
  readonly foreignKeysTo: number;
}

export interface Plan {
  readonly version: 2;
  readonly mapping: Mapping;
  readonly database: string;
  readonly serverVersion: number;
  readonly madeAt: string;
  readonly tables: readonly PlannedTable[];
  /** What goes once all tables of it have gone. */
  readonly functions: readonly TriggerFunction[];
  /** Of each function that the mapping replaces, a digest of the body that it has. */
  readonly replaced: Readonly<Record<string, string>>;
  /** Tables of the schema that the mapping says nothing of. */
  readonly unmapped: readonly string[];
  /** What the mapping says of something that is not there, and what could not be looked at. */
  readonly notes: readonly string[];
  readonly digest: string;
}
