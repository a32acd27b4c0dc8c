import { nameOf } from '../ast.ts';
import { MODES, namesTables, refusedInTransaction } from '../locks.ts';
import type { Rule } from '../rule.ts';
import type { Statement } from '../statement.ts';

const LONGEST_LOCK_TIMEOUT_MS = 1_000;

export const moreThanOneHotTable: Rule = {
  id: 'more-than-one-hot-table-a-transaction',
  *each(statement, world) {
    if (statement.runs !== 'with-file' || world.held.isOverSeveral) return;
    const locks = world.hotTableLocks(statement);
    const trees = new Map(world.held.trees);
    const [first] = locks;
    // Of a foreign key it cannot be helped that it locks both.
    if (trees.size === 0 && first !== undefined && namesTables(statement.node))
      trees.set(world.treeOf(first.table), first);
    const another = trees.size === 0 ? undefined : locks.find(({ table }) => !trees.has(world.treeOf(table)));
    const looped = locks.find(({ table }) => statement.isLooped && table.includes('%'));
    if (another === undefined && looped === undefined) return;
    world.held.isOverSeveral = true;
    const held = [...trees.values()].map(({ table }) => table).join(', ');
    const what =
      another === undefined
        ? `This locks ${looped?.table ?? ''} again and again`
        : `This locks ${another.table} while ${held} is locked`;
    yield {
      statement,
      message: `${what}, all until the end of one transaction: readers and writers of each wait for the slowest, and whoever takes them the other way round deadlocks. One table a transaction.`,
    };
  },
};

export const lockWithoutTimeout: Rule = {
  id: 'lock-without-timeout',
  *each(statement, world) {
    const [lock] = statement.runs === 'with-file' ? world.hotLocks(statement) : [];
    if (lock === undefined || world.held.isWithoutTimeout || world.lockTimeout.ms !== undefined) return;
    world.held.isWithoutTimeout = true;
    yield {
      statement,
      message: `This waits without end for ${lock.mode} on ${lock.table}, and everybody else queues behind it. Before it: set local lock_timeout = '50ms', and run it again, after a pause of random length, when that ends it.`,
    };
  },
};

export const lockTimeoutTooLong: Rule = {
  id: 'lock-timeout-too-long',
  *each(statement, world) {
    const [lock] = statement.runs === 'with-file' ? world.hotLocks(statement) : [];
    const { ms } = world.lockTimeout;
    if (lock === undefined || ms === undefined || ms <= LONGEST_LOCK_TIMEOUT_MS || world.held.trees.size > 0) return;
    yield {
      statement,
      message: `With a lock_timeout of ${ms} ms everybody who uses ${lock.table} may stand for that long. At most ${LONGEST_LOCK_TIMEOUT_MS} ms; rather short and often: '50ms', with pauses of random length.`,
    };
  },
};

export const rowsChangedUnderLock: Rule = {
  id: 'rows-changed-under-lock',
  *each(statement, world) {
    const target = statement.runs === 'with-file' ? changedTable(statement) : undefined;
    if (target === undefined || world.held.hasChangedRows || !world.isHot(target, statement)) return;
    const lock = [...world.held.trees.values()].find(({ mode }) => MODES[mode] >= MODES['SHARE ROW EXCLUSIVE']);
    if (lock === undefined) return;
    world.held.hasChangedRows = true;
    yield {
      statement,
      message: `Rows of ${target} change while this transaction holds ${lock.mode} on ${lock.table}: it is locked for as long as that takes. Change the schema in one transaction, rows in others, in batches.`,
    };
  },
};

export const notInATransaction: Rule = {
  id: 'not-in-a-transaction',
  *each(statement) {
    const refused = statement.isAlone ? undefined : refusedInTransaction(statement.node);
    if (refused === undefined) return;
    yield {
      statement,
      message: `PostgreSQL refuses ${refused} inside of a transaction, and a migration is one. Put it into a file by itself that runs without, and say so in it: -- lint: no-transaction.`,
    };
  },
};

/** What an UPDATE, a DELETE or an INSERT from a query changes: as many rows as there are. */
function changedTable({ node }: Statement): string | undefined {
  if ('UpdateStmt' in node) return nameOf(node.UpdateStmt.relation);
  if ('DeleteStmt' in node) return nameOf(node.DeleteStmt.relation);
  if (!('InsertStmt' in node)) return undefined;
  const { relation, selectStmt } = node.InsertStmt;
  const isQuery =
    selectStmt !== undefined && 'SelectStmt' in selectStmt && selectStmt.SelectStmt.fromClause !== undefined;
  return isQuery ? nameOf(relation) : undefined;
}
