import { nameOf } from '../ast.ts';
import { commandsOf, parentOfPartition } from '../locks.ts';
import type { Rule } from '../rule.ts';
import type { Statement } from '../statement.ts';

export const attachWithDefaultPartition: Rule = {
  id: 'attach-with-default-partition',
  *each(statement, world) {
    const parent = parentOfNew(statement);
    const table = parent === undefined ? undefined : world.tables.get(parent);
    const fallback = [...(table?.partitions ?? [])].find(({ partitionOf }) => partitionOf?.isDefault);
    if (fallback === undefined || fallback.createdBy?.file === statement.file) return;
    if ([...fallback.checks.values()].includes(true)) return;
    yield {
      statement,
      message: `${fallback.name} is the DEFAULT partition of ${parent ?? ''}: all of it is scanned under ACCESS EXCLUSIVE for rows of the new one. Before it, in transactions of their own: add a CHECK to ${fallback.name} that excludes the new bounds, NOT VALID, and validate it; likewise a CHECK equal to the bounds on what is attached.`,
    };
  },
};

function parentOfNew({ node }: Statement): string | undefined {
  const parent = parentOfPartition(node);
  if (parent !== undefined) return nameOf(parent);
  if (!('AlterTableStmt' in node)) return undefined;
  const attaches = commandsOf(node.AlterTableStmt).some(({ subtype }) => subtype === 'AT_AttachPartition');
  return attaches ? nameOf(node.AlterTableStmt.relation) : undefined;
}

export const partitionCreatedInPlace: Rule = {
  id: 'partition-created-in-place',
  *each(statement, world) {
    const parent = statement.runs === 'with-file' ? parentOfPartition(statement.node) : undefined;
    if (parent === undefined || !world.isHot(nameOf(parent), statement)) return;
    yield {
      statement,
      message: `PARTITION OF takes ACCESS EXCLUSIVE on ${nameOf(parent)}: all of its readers and writers wait. Create the table by itself, (like ${nameOf(parent)} including all), and ATTACH it, for which nobody waits.`,
    };
  },
};
