import type { FuncCall, PublicationObjSpec } from 'libpg-query';
import { calledName, constantText, kindBelow, nameOfText } from '../ast.ts';
import type { Hit, Rule } from '../rule.ts';
import type { Statement } from '../statement.ts';
import type { Move, World } from '../world.ts';
import { movesOf, standInOf } from './stand-ins.ts';

const goesWithParent = ({ table, statement }: Move, { moves }: World) =>
  table?.partitionOf !== undefined &&
  moves.some((other) => other.table === table.partitionOf?.parent && other.statement.file === statement.file);

function missed({ what, from, to }: Move, becomes: string): string {
  const instead = {
    table: `create view ${from} with (security_invoker = true) as select (every column) from ${to}`,
    view: `create view ${from} with (security_invoker = true) as select (every column) from ${to}`,
    function: `create a function ${from} that calls ${to}`,
    type: `create domain ${from} as ${to}`,
  };
  return `${from} ${becomes} ${to} and nothing that answers for it stays under the old name: every statement that still says it fails. In the same transaction: ${instead[what]}.`;
}

export const setSchemaWithoutView: Rule = {
  id: 'set-schema-without-view',
  *end(world) {
    for (const { move, within } of movesOf(world)) {
      if (move.kind !== 'schema' || standInOf(move, within) !== undefined || goesWithParent(move, within)) continue;
      yield {
        statement: move.statement,
        message: missed(move, 'moves to'),
      };
    }
  },
};

/** Two names that are swapped: who comes had a name that nobody was told. */
const takesPlace = ({ statement, to }: Move, { moves }: World) =>
  moves.some(({ from, statement: other }) => from === to && other.transaction === statement.transaction);

export const renameWithoutView: Rule = {
  id: 'rename-without-view',
  *end(world) {
    for (const { move, within } of movesOf(world)) {
      if (move.kind !== 'name' || standInOf(move, within) !== undefined || takesPlace(move, within)) continue;
      yield {
        statement: move.statement,
        message: missed(move, 'becomes'),
      };
    }
  },
};

export const movedViewWithoutGrants: Rule = {
  id: 'moved-view-without-grants',
  *end(world) {
    for (const { move, within } of movesOf(world)) {
      const view = standInOf(move, within);
      if (view === undefined || !('ViewStmt' in view.node)) continue;
      const grants = within.grants.filter(({ covers }) => covers(move.from));
      const before = grants.filter((each) => within.grants.indexOf(each) < move.grantsBefore);
      const after = grants.filter((each) => !before.includes(each) && each.statement.transaction === view.transaction);
      if (before.length === 0 || after.length > 0) continue;
      yield {
        statement: view,
        message: `The grants on ${move.from} go with the table to ${move.to}, and the view under the old name has none: roles that were granted the table are refused. Grant the view in the same transaction what the table had, and usage on the new schema.`,
      };
    }
  },
};

export const partitionChildrenLeft: Rule = {
  id: 'partition-children-left',
  *end(world) {
    for (const { move, within } of movesOf(world)) {
      if (move.kind !== 'schema' || !move.table?.isPartitioned) continue;
      const together = within.moves.filter(({ statement }) => statement.file === move.statement.file);
      // One that is named by a variable stands for all of them.
      if (together.some(({ from }) => from.includes('%'))) continue;
      const left = move.partitions
        .filter((each) => !together.some(({ table }) => table === each))
        .map(({ name }) => name);
      if (move.partitions.length > 0 && left.length === 0) continue;
      yield {
        statement: move.statement,
        message: `${move.from} is partitioned, and SET SCHEMA moves the parent alone: ${left.length === 0 ? 'its partitions stay' : `${left.join(', ')} stay${left.length === 1 ? 's' : ''}`} in the old schema. Move each partition too, in the same file.`,
      };
    }
  },
};

export const schemaPublication: Rule = {
  id: 'schema-publication',
  *each(statement) {
    const { node } = statement;
    const isCreated = 'CreatePublicationStmt' in node;
    if (!isCreated && !('AlterPublicationStmt' in node && node.AlterPublicationStmt.action !== 'AP_DropObjects'))
      return;
    for (const object of kindBelow<PublicationObjSpec>(node, 'PublicationObjSpec')) {
      if (!/^PUBLICATIONOBJ_TABLES_IN_(?:CUR_)?SCHEMA$/.test(object.pubobjtype ?? '')) continue;
      yield {
        statement,
        offset: statement.locate(object.location),
        message:
          'TABLES IN SCHEMA publishes what is in the schema today: a table that moves out of it is silently replicated no more. Name the tables: FOR TABLE …; a publication of tables follows them.',
      };
    }
  },
};

const SEQUENCE_CALLS: ReadonlySet<string> = new Set(['nextval', 'currval', 'setval', 'pg_get_serial_sequence']);

export const nextvalOfMovedSequence: Rule = {
  id: 'nextval-of-moved-sequence',
  *each(statement, world) {
    if (statement.runs === 'with-file') yield* sequenceCalls(statement, world);
  },
  *end(world) {
    for (const { body } of world.routines.values())
      for (const statement of body) yield* sequenceCalls(statement, world);
  },
};

function* sequenceCalls(statement: Statement, world: World): Generator<Hit> {
  for (const call of kindBelow<FuncCall>(statement.node, 'FuncCall')) {
    const called = calledName(call);
    const named = SEQUENCE_CALLS.has(called) ? constantText(call.args?.[0]) : undefined;
    if (named === undefined) continue;
    const offset = statement.locate(call.location);
    const name = nameOfText(named);
    if (called === 'pg_get_serial_sequence') {
      const to = world.movedAway.get(name);
      if (to !== undefined)
        yield {
          statement,
          offset,
          message: `${name} is ${to} by now, and a view has no sequence: pg_get_serial_sequence answers NULL, silently. Ask it of ${to}.`,
        };
      continue;
    }
    const to = movedSequence(name, world);
    if (to !== undefined)
      yield { statement, offset, message: `${name} went with its table: ${called} finds no such sequence. Say ${to}.` };
  }
}

/** A sequence that a column owns goes where its table goes; by the name that PostgreSQL gives it, it is known whose it is. */
function movedSequence(name: string, { movedSequences, movedAway, sequences }: World): string | undefined {
  const moved = movedSequences.get(name);
  if (moved !== undefined || sequences.has(name)) return moved;
  for (const [from, to] of movedAway) {
    const [schema = ''] = to.split('.');
    const isElsewhere = schema !== from.split('.')[0];
    if (isElsewhere && name.startsWith(`${from}_`) && name.endsWith('_seq'))
      return `${schema}.${name.split('.')[1] ?? ''}`;
  }
  return undefined;
}
