import { describe, expect, it } from 'vitest';
import type { TestDatabase } from '../support/database.ts';
import { COMMANDS, type Command, drill, type Strike, undisturbed } from '../support/drill.ts';
import { query } from '../support/query.ts';

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';
const LONG_MS = 1_800_000;
/** How much later each time. */
const GROWTH = 2;
/** Each waits most of the time: for a backend that goes on alone, for a lock that it has. */
const SIDE_BY_SIDE = 4;
/** After how many strikes old code writes: a longer command is in its midst then. */
const MIDST = 5;

const endBackend = (pid: number, { adminUrl }: TestDatabase) => query(adminUrl, `select pg_terminate_backend(${pid})`);
const killed = (nth: number): Strike => ({ at: { nth, when: 'during' } });
const KINDS: readonly (readonly [what: string, strike: (nth: number) => Strike])[] = [
  // The server goes on with the statement that it has, and finds nobody to tell.
  ['its process is killed', killed],
  ['its backend is ended', (nth) => ({ at: { nth, when: 'during' }, by: endBackend })],
  [
    'its backend is ended, and nobody is told that it was done',
    (nth) => ({ at: { nth, when: 'after' }, by: endBackend }),
  ],
];

/** Ever later statements, struck in each of the ways by turns. */
function* spread(): Generator<Strike> {
  let nth = 1;
  for (;;) {
    for (const [, strike] of KINDS) {
      yield strike(nth);
      nth *= GROWTH;
    }
  }
}

/** Drills it, and answers whether it was struck at all. */
async function endsAsUndisturbed(command: Command, strikes: Iterable<Strike>, writesAfter = 1): Promise<boolean> {
  const { struck, isFollowed, history } = await drill(command, strikes, { writesAfter });
  expect(history).toBe(await expectedOf(command, isFollowed));
  return struck > 0;
}

const expectations = new Map<string, Promise<string>>();
const expectedOf = (command: Command, isFollowed: boolean): Promise<string> => {
  const key = `${command.name} ${isFollowed}`;
  const known = expectations.get(key) ?? undisturbed(command, { isFollowed });
  expectations.set(key, known);
  return known;
};

describe.each(COMMANDS)('$name, run again until it comes through', (command) => {
  it('ends as if nothing had happened, however often it was struck before', async () => {
    expect(await endsAsUndisturbed(command, spread(), MIDST)).toBe(true);
  });

  it.each(FULL ? KINDS : [])(
    'ends as if nothing had happened, at whichever statement %s',
    async (_, strike) => {
      let struck = 0;
      for (let next = 1; struck === next - 1; next += SIDE_BY_SIDE) {
        const drills = Array.from({ length: SIDE_BY_SIDE }, (_drill, nth) =>
          endsAsUndisturbed(command, [strike(next + nth)]),
        );
        struck += (await Promise.all(drills)).filter(Boolean).length;
      }
      // Even the shortest asks for the server's version, and does something then.
      expect(struck).toBeGreaterThan(1);
    },
    LONG_MS,
  );
});
