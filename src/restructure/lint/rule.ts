import type { Statement } from './statement.ts';
import type { World } from './world.ts';

/** What a rule says of a statement; of the whole of it, unless it says where. */
export interface Hit {
  readonly statement: Statement;
  readonly offset?: number;
  readonly message: string;
}

/**
 * A rule is stateless: it looks at each statement with the world as that finds it, or at the world that all of them leave.
 * Statements in the bodies of functions run some day: `each` sees those too, by `runs`.
 */
export interface Rule {
  readonly id: string;
  readonly each?: (statement: Statement, world: World) => Iterable<Hit>;
  readonly end?: (world: World) => Iterable<Hit>;
}
