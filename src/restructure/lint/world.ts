import type { Node } from 'libpg-query';
import { nameOf, relationsBelow } from './ast.ts';
import { type Lock, locksOf } from './locks.ts';
import type { Statement } from './statement.ts';

/** What the statements so far have made of a table. One that they did not create is known by what they say of it. */
export interface Table {
  name: string;
  createdBy: Statement | undefined;
  /** The columns that the statements brought, with where they stand. */
  readonly columns: Map<string, { readonly statement: Statement; readonly offset: number }>;
  /** The first column of each index, primary key and unique constraint, by its name. */
  readonly leadingColumns: Map<string, string>;
  /** The CHECK constraints, and whether they are known to hold of every row. */
  readonly checks: Map<string, boolean>;
  readonly policies: Statement[];
  /** What a materialized view has its rows from. */
  readonly sources: readonly Table[];
  rowSecurity: boolean;
  rowSecurityBy: Statement | undefined;
  isPartitioned: boolean;
  readonly partitions: Set<Table>;
  partitionOf: { readonly parent: Table; readonly by: Statement; readonly isDefault: boolean } | undefined;
}

export interface View {
  readonly name: string;
  /** Which creates it, or is the first to speak of it. */
  readonly statement: Statement;
  readonly query: Node | undefined;
  /** Undefined where nobody says. */
  invoker: boolean | undefined;
  /** Which takes security_invoker away from it. */
  takenBy: Statement | undefined;
}

/** What has a name of its own; a materialized view and a foreign table are taken for tables. */
export type Named = 'table' | 'view' | 'function' | 'type';

/** Something that was given another name, or another schema. */
export interface Move {
  readonly statement: Statement;
  readonly kind: 'schema' | 'name';
  readonly what: Named;
  readonly from: string;
  readonly to: string;
  readonly table: Table | undefined;
  /** As they were at that time. */
  readonly partitions: readonly Table[];
  /** How often something had taken its old name. */
  readonly creationsBefore: number;
  /** How many grants there had been. */
  readonly grantsBefore: number;
  /** It was created by the same file: nobody knows it yet. */
  readonly isNew: boolean;
  readonly isBack: boolean;
}

interface Creation {
  readonly statement: Statement;
  droppedBy: Statement | undefined;
}

/** INSERT … SELECT. */
interface Fill {
  readonly into: string;
  readonly query: Node;
  readonly transaction: number;
}

export interface Routine {
  readonly name: string;
  statement: Statement;
  isDefiner: boolean;
  /** The schemas of its own search_path; undefined where it has none, or that of the session which created it. */
  searchPath: readonly string[] | undefined;
  readonly body: Statement[];
}

/** The schema as the statements that were replayed leave it, and what happened on the way. */
export class World {
  readonly tables = new Map<string, Table>();
  readonly views = new Map<string, View>();
  readonly routines = new Map<string, Routine>();
  /** Whose body comes next. */
  lastRoutine: Routine | undefined;
  /** Of tables that are elsewhere now, by the names that they had. */
  readonly movedAway = new Map<string, string>();
  readonly movedSequences = new Map<string, string>();
  readonly sequences = new Set<string>();
  readonly moves: Move[] = [];
  /** Of what was moved, by what it is and where: the names that it had. */
  readonly formerNames = new Map<string, readonly string[]>();
  readonly fills: Fill[] = [];
  readonly grants: { readonly statement: Statement; readonly covers: (name: string) => boolean }[] = [];
  /** How long a lock is waited for, by `set` and by `set local`; of which the latter wins while its transaction lasts. */
  readonly lockTimeout = new LockTimeout();
  readonly held = new Held();
  readonly #creations = new Map<string, Creation[]>();

  /** Something takes a name: it is created, or moved there. */
  create(what: Named, name: string, statement: Statement): void {
    const key = nameSpace(what, name);
    const creations = this.#creations.get(key);
    if (creations === undefined) this.#creations.set(key, [{ statement, droppedBy: undefined }]);
    else creations.push({ statement, droppedBy: undefined });
  }

  /** Whatever took a name, in order. */
  creationsOf(what: Named, name: string): readonly Creation[] {
    return this.#creations.get(nameSpace(what, name)) ?? [];
  }

  table(name: string): Table {
    const known = this.tables.get(name);
    if (known !== undefined) return known;
    const table = newTable(name);
    this.tables.set(name, table);
    return table;
  }

  /** Every relation that a query names, and what the views among them name. */
  namesBelow(query: unknown): ReadonlySet<string> {
    const names = new Set([...relationsBelow(query)].map(nameOf));
    // Those that are added are looked at in their turn.
    for (const name of names) for (const each of relationsBelow(this.views.get(name)?.query)) names.add(nameOf(each));
    return names;
  }

  /** Others use it: it was there before this file. */
  isHot(name: string, { file }: Statement): boolean {
    if (this.views.has(name)) return false;
    return this.tables.get(name)?.createdBy?.file !== file;
  }

  /** The locks of a statement that others queue behind: those on tables and views that this file did not create. */
  hotLocks(statement: Statement): readonly Lock[] {
    return locksOf(statement.node).filter(({ table, isOnView }) =>
      isOnView
        ? this.creationsOf('view', table).at(-1)?.statement.file !== statement.file
        : this.isHot(table, statement),
    );
  }

  hotTableLocks(statement: Statement): readonly Lock[] {
    return this.hotLocks(statement).filter(({ isOnView }) => !isOnView);
  }

  /** A partition is locked with its table: whoever uses one uses the other. */
  treeOf(name: string): Table {
    return rootOf(this.table(name));
  }
}

/** Tables and views share their names. */
function nameSpace(what: Named, name: string): string {
  return `${what === 'view' ? 'table' : what} ${name}`;
}

export function rootOf(table: Table): Table {
  let root = table;
  while (root.partitionOf !== undefined) root = root.partitionOf.parent;
  return root;
}

export function newTable(name: string, createdBy?: Statement, sources: readonly Table[] = []): Table {
  return {
    name,
    createdBy,
    columns: new Map(),
    leadingColumns: new Map(),
    checks: new Map(),
    policies: [],
    sources,
    rowSecurity: false,
    rowSecurityBy: undefined,
    isPartitioned: false,
    partitions: new Set(),
    partitionOf: undefined,
  };
}

class LockTimeout {
  #ofSession: number | undefined;
  #ofTransaction: number | undefined;
  #session = 0;
  #transaction = 0;

  enter({ session, transaction }: Statement): void {
    if (transaction !== this.#transaction) this.#ofTransaction = undefined;
    if (session !== this.#session) this.#ofSession = undefined;
    this.#transaction = transaction;
    this.#session = session;
  }

  set(ms: number | undefined, isLocal: boolean): void {
    this.#ofTransaction = isLocal ? (ms ?? 0) : undefined;
    if (!isLocal) this.#ofSession = ms;
  }

  /** In milliseconds; undefined where locks are waited for without end. */
  get ms(): number | undefined {
    const ms = this.#ofTransaction ?? this.#ofSession;
    return ms === 0 ? undefined : ms;
  }
}

/** The locks on hot tables that the transaction under way holds until its end. */
class Held {
  /** By the table, or the table that it is a partition of. */
  readonly trees = new Map<Table, Lock>();
  isOverSeveral = false;
  isWithoutTimeout = false;
  hasChangedRows = false;
  #transaction = 0;

  enter({ transaction }: Statement): void {
    if (transaction === this.#transaction) return;
    this.#transaction = transaction;
    this.trees.clear();
    this.isOverSeveral = false;
    this.isWithoutTimeout = false;
    this.hasChangedRows = false;
  }
}
