/**
 * What a declaration of a state machine is made of. From it come, by generation, the SQL of a migration (`src/states/sql/`), the diagram in
 * `docs/states/` and, by inference, the types; the mirror reads it as it is.
 *
 * SQL in a declaration speaks of the row as `row`: `row.amount_cents`.
 */
export interface Machine<State extends string = string, Event extends string = string, Role extends string = string> {
  /** Also the first part of its topics, and of the names of its objects in the database. */
  readonly name: string;
  /** What goes through it, in a sentence. */
  readonly about: string;
  /** The table that it is for. It has a column `id`, a uuid, and is given a column `state`. */
  readonly table: string;
  /** Every state, and what it means, in the order of its enum. */
  readonly states: Readonly<Record<State, string>>;
  readonly initial: readonly State[];
  /** Every event, and what it says happened. */
  readonly events: Readonly<Record<Event, string>>;
  /** Who but the platform takes part, and SQL of whether a signed-in user (`caller`) does in a row. */
  readonly roles: Readonly<Record<Role, string>>;
  readonly guards: readonly Guard[];
  readonly edges: readonly Edge<State, Event, Role>[];
  /** Why the edges are these, where nobody had written them down. */
  readonly why: string;
  /** The column that says which organization its messages are about: its id, or that of an event, whose organization it is. */
  readonly organization?: { readonly column: string; readonly ofEvent?: true };
  readonly old?: OldLabels<State>;
  readonly money?: Money<State, Event>;
}

export interface Edge<State extends string = string, Event extends string = string, Role extends string = string> {
  readonly from: State;
  readonly event: Event;
  readonly to: State;
  /** Who may take it beside the platform, which may take every edge: it acts for whoever asked it. */
  readonly by?: readonly Role[];
  /** Names of guards, of which all must hold. */
  readonly guards?: readonly string[];
}

/** What must hold of a row for an edge to be taken. The mirror judges it too, where it is given the row. */
export interface Guard {
  readonly name: string;
  /** As the refusal ends: `pay of escrow … needs that …`. */
  readonly says: string;
  readonly column: string;
  readonly is: '>' | '>=' | '<=' | '<';
  /** A number, or another column of the row. */
  readonly than: number | { readonly column: string };
}

/** A column of the old platform that old code goes on to read and to write, beside `state`. */
export interface OldLabels<State extends string = string> {
  readonly column: string;
  /** What each label may stand for, the first being what it says by itself. */
  readonly labels: Readonly<Record<string, readonly State[]>>;
  /** SQL of the state of an old row whose label is null. */
  readonly withoutLabel?: string;
  /** Checks of the table that allow less than the machine, by name: taken off, and put back when it is uninstalled. */
  readonly colliding?: readonly string[];
  /** What old labels mean, and why. */
  readonly why: string;
}

interface Money<State extends string = string, Event extends string = string> {
  readonly accounts: Readonly<Record<string, Account>>;
  readonly bookings: Readonly<Partial<Record<Event, Booking<Event>>>>;
  readonly kept?: KeptAccount<State, Event>;
}

export interface Account {
  /** Of the chart of accounts. */
  readonly type: string;
  /** SQL of its name. */
  readonly name: string;
  /** SQL of its currency, an ISO code. */
  readonly currency: string;
  /** SQL of its owner as jsonb, `{"organization_id": …}` or `{"user_id": …}`; the platform's, when left out. */
  readonly owner?: string;
  /** Whether it can be overdrawn: it cannot, where this is said. */
  readonly neverBelowZero?: true;
}

/** What an event posts: lines whose debits equal their credits, or the reversal of what another event posted. */
type Booking<Event extends string = string> =
  | (Reference & { readonly lines: readonly Line[] })
  | (Reference & { readonly reverses: Event });

interface Reference {
  /** What its postings refer to by type, and SQL of the id; the row's own, when left out. */
  readonly reference: string;
  readonly referenceId?: string;
}

interface Line {
  readonly side: 'debit' | 'credit';
  readonly account: string;
  /** SQL of the amount in minor units; what the other lines come to, when left out. Nothing is booked for zero. */
  readonly cents?: string;
}

/** An account that each row has for itself, of which the row's state says what is in it. */
interface KeptAccount<State extends string = string, Event extends string = string> {
  readonly account: string;
  /** SQL of what is in it in these states; in others it is empty. */
  readonly cents: string;
  readonly inStates: readonly State[];
  /** Where it is frozen, and what is on hold in it with it. */
  readonly frozenIn: readonly State[];
  /** The event whose booking fills it. */
  readonly filledBy: Event;
  /** Columns that cannot change while it has something. */
  readonly fixed: readonly string[];
}

export type StateOf<M> = M extends Machine<infer State, string, string> ? State : never;
export type EventOf<M> = M extends Machine<string, infer Event, string> ? Event : never;
export type RoleOf<M> = M extends Machine<string, string, infer Role> ? Role : never;

/** Keeps the names of a declaration as types, and refuses at compile time an edge between states that it does not have. */
export function defineMachine<const State extends string, const Event extends string, const Role extends string>(
  machine: Machine<State, Event, Role>,
): Machine<State, Event, Role> {
  return machine;
}

export const statesOf = <State extends string>({ states }: Pick<Machine<State>, 'states'>): readonly State[] =>
  Object.keys(states) as State[];

/** The roles that may take an edge. */
export const takersOf = ({ by = [] }: Pick<Edge, 'by'>): readonly string[] => ['platform', ...by];

/** The guards that must hold for an edge. */
export const guardsOf = ({ guards }: Pick<Machine, 'guards'>, edge: Pick<Edge, 'guards'>): readonly Guard[] =>
  guards.filter(({ name }) => edge.guards?.includes(name));

/** What a change is announced under: `escrow.funded`. */
export const topicOf = ({ name }: Pick<Machine, 'name'>, { to }: Pick<Edge, 'to'>): string => `${name}.${to}`;

/** States that no edge leaves. */
export const terminalStates = ({ states, edges }: Machine): readonly string[] =>
  Object.keys(states).filter((state) => edges.every(({ from }) => from !== state));
