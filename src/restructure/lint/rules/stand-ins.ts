import { nameOfParts, stringsOf } from '../ast.ts';
import { replayBody } from '../replay.ts';
import type { Statement } from '../statement.ts';
import type { Move, World } from '../world.ts';

/** Moves of what somebody uses: those of the files, and those of each function, as if it were called by itself. */
export function* movesOf(world: World): Generator<{ readonly move: Move; readonly within: World }> {
  const worlds = [world, ...[...world.routines.values()].map(({ body }) => replayBody(body))];
  for (const within of worlds) {
    for (const move of within.moves) if (!move.isNew && !move.isBack) yield { move, within };
  }
}

/** What takes the name before anybody can miss it, is there when the transaction ends, and answers for what has moved. */
export function standInOf(move: Move, world: World): Statement | undefined {
  const { statement, what, from, creationsBefore } = move;
  return world
    .creationsOf(what, from)
    .slice(creationsBefore)
    .filter(({ statement: by }) => by.transaction === statement.transaction)
    .filter(({ droppedBy }) => droppedBy?.transaction !== statement.transaction)
    .find(({ statement: by }) => answersFor(move, by, world))?.statement;
}

function answersFor(move: Move, by: Statement, world: World): boolean {
  const { node } = by;
  if ('ViewStmt' in node) return reads(move, node.ViewStmt.query, world);
  if ('CreateTableAsStmt' in node) return reads(move, node.CreateTableAsStmt.query, world);
  if ('SelectStmt' in node) return reads(move, node, world);
  if ('CreateStmt' in node) {
    const fills = world.fills.filter(({ into, transaction }) => into === move.from && transaction === by.transaction);
    return fills.some(({ query }) => reads(move, query, world));
  }
  if ('CreateDomainStmt' in node) return nameOfParts(stringsOf(node.CreateDomainStmt.typeName?.names)) === move.to;
  // A function that is written there again, or what was moved into the place.
  return move.what !== 'type';
}

/** It selects from what moved, where that is now, be it through other views. Of names that a variable gives, nobody knows. */
function reads({ from, to, table }: Move, query: unknown, world: World): boolean {
  if (from.includes('%')) return true;
  const names = world.namesBelow(query);
  return names.has(to) || (table !== undefined && names.has(table.name));
}
