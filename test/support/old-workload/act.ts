import type pg from 'pg';

/** Something that the old application does in one go: a statement, or a transaction of some. */
export interface Act {
  /** What is done, for whoever reads of its failure: `upsert campaigns`. */
  readonly name: string;
  readonly kind: string;
  /** Who does it: the owner, or a person by the application's gateway, with row-level security. */
  readonly as: 'owner' | 'authenticated';
  /** Tables that it writes, by their bare names. */
  readonly writes: readonly string[];
  run(client: pg.ClientBase, turn: Turn): Promise<void>;
}

/** One time that it is done. */
export interface Turn {
  /** At random, from 0 up to but not including `below`. */
  readonly pick: (below: number) => number;
  readonly written: Written;
  /** The other half of the turns write the schema with the name, and prepare what they run. */
  readonly isQualified: boolean;
}

/** A table, and the column by which a row of the workload's own is known. */
export interface Place {
  readonly table: string;
  readonly column: string;
}

/** What was committed, so that it can be looked for afterwards. */
export class Written {
  private readonly rows = new Map<string, { readonly place: Place; readonly ids: Set<string> }>();
  private readonly counts = new Map<string, number>();

  inserted(place: Place, id: string): void {
    const rows = this.rows.get(place.table) ?? { place, ids: new Set() };
    rows.ids.add(id);
    this.rows.set(place.table, rows);
  }

  /** Takes a row that may be deleted: nobody else gets it. */
  takeOne(table: string): string | undefined {
    const ids = this.rows.get(table)?.ids;
    const [id] = ids ?? [];
    if (id !== undefined) ids?.delete(id);
    return id;
  }

  counted(counter: string): void {
    this.counts.set(counter, this.countOf(counter) + 1);
  }

  /** The rows that must be there. */
  get present(): readonly { readonly place: Place; readonly ids: ReadonlySet<string> }[] {
    return [...this.rows.values()];
  }

  countOf(counter: string): number {
    return this.counts.get(counter) ?? 0;
  }
}
