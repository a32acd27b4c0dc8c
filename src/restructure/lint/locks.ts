import type {
  AlterTableCmd,
  AlterTableStmt,
  AlterTableType,
  Constraint,
  DefElem,
  DropStmt,
  Node,
  RangeVar,
} from 'libpg-query';
import { kindBelow, nameOf, nameOfParts, stringsOf } from './ast.ts';

/** The modes behind which reads or writes wait, weakest first, as PostgreSQL numbers them. */
export const MODES = { SHARE: 5, 'SHARE ROW EXCLUSIVE': 6, EXCLUSIVE: 7, 'ACCESS EXCLUSIVE': 8 } as const;

type Mode = keyof typeof MODES;

/** A lock that others wait behind, and that waits for others itself, so that everybody queues. */
export interface Lock {
  readonly table: string;
  readonly mode: Mode;
  /** It is on a view: its readers queue, and those of the tables below it by their own names do not. */
  readonly isOnView?: boolean;
}

/**
 * The locks on tables that a statement takes, as PostgreSQL's manual has them (13.3, and the page of each command). Those that neither
 * reads nor writes wait for are left out.
 */
export function locksOf(node: Node): readonly Lock[] {
  if ('AlterTableStmt' in node) return ofAlterTable(node.AlterTableStmt);
  if ('CreateStmt' in node)
    return [...ofParent(node), ...foreignKeysOf(node).flatMap((key) => on('SHARE ROW EXCLUSIVE', key.pktable))];
  if ('DropStmt' in node) return ofDrop(node.DropStmt);
  if ('AlterObjectSchemaStmt' in node) {
    const { objectType = '', relation } = node.AlterObjectSchemaStmt;
    if (objectType === 'OBJECT_VIEW') return onView(relation);
    return TABLES.has(objectType) ? on('ACCESS EXCLUSIVE', relation) : [];
  }
  if ('RenameStmt' in node && node.RenameStmt.renameType === 'OBJECT_VIEW') return onView(node.RenameStmt.relation);
  if ('RenameStmt' in node)
    return RENAMED.has(node.RenameStmt.renameType ?? '') ? on('ACCESS EXCLUSIVE', node.RenameStmt.relation) : [];
  if ('TruncateStmt' in node)
    return node.TruncateStmt.relations?.flatMap((each) => ofNode('ACCESS EXCLUSIVE', each)) ?? [];
  if ('CreateTrigStmt' in node)
    return node.CreateTrigStmt.timing === INSTEAD_OF ? [] : on('SHARE ROW EXCLUSIVE', node.CreateTrigStmt.relation);
  if ('CreatePolicyStmt' in node) return on('ACCESS EXCLUSIVE', node.CreatePolicyStmt.table);
  if ('AlterPolicyStmt' in node) return on('ACCESS EXCLUSIVE', node.AlterPolicyStmt.table);
  if ('RuleStmt' in node) return on('ACCESS EXCLUSIVE', node.RuleStmt.relation);
  if ('IndexStmt' in node) return node.IndexStmt.concurrent ? [] : on('SHARE', node.IndexStmt.relation);
  return ofMaintenance(node);
}

export const INSTEAD_OF = 64;
/** What has rows of its own. */
const TABLES: ReadonlySet<string> = new Set(['OBJECT_TABLE', 'OBJECT_MATVIEW', 'OBJECT_FOREIGN_TABLE']);
const RENAMED: ReadonlySet<string> = new Set([
  ...TABLES,
  'OBJECT_COLUMN',
  'OBJECT_TABCONSTRAINT',
  'OBJECT_TRIGGER',
  'OBJECT_POLICY',
]);

function ofMaintenance(node: Node): readonly Lock[] {
  if ('LockStmt' in node) {
    const { mode, nowait, relations = [] } = node.LockStmt;
    const name = (Object.keys(MODES) as Mode[]).find((each) => MODES[each] === mode);
    return name === undefined || nowait ? [] : relations.flatMap((each) => ofNode(name, each));
  }
  // CONCURRENTLY another refresh alone waits for.
  if ('RefreshMatViewStmt' in node)
    return node.RefreshMatViewStmt.concurrent ? [] : on('ACCESS EXCLUSIVE', node.RefreshMatViewStmt.relation);
  if ('ClusterStmt' in node) return on('ACCESS EXCLUSIVE', node.ClusterStmt.relation);
  if ('ReindexStmt' in node) {
    const { kind, params, relation } = node.ReindexStmt;
    return kind === 'REINDEX_OBJECT_TABLE' && !hasOption(params, 'concurrently') ? on('SHARE', relation) : [];
  }
  if ('VacuumStmt' in node && hasOption(node.VacuumStmt.options, 'full')) {
    return (
      node.VacuumStmt.rels?.flatMap((each) =>
        'VacuumRelation' in each ? on('ACCESS EXCLUSIVE', each.VacuumRelation.relation) : [],
      ) ?? []
    );
  }
  return [];
}

function hasOption(options: readonly Node[] | undefined, name: string): boolean {
  return (options ?? []).some((each) => 'DefElem' in each && (each.DefElem as DefElem).defname === name);
}

const on = (mode: Mode, relation: RangeVar | undefined): readonly Lock[] =>
  relation === undefined ? [] : [{ table: nameOf(relation), mode }];
const onView = (relation: RangeVar | undefined): readonly Lock[] =>
  on('ACCESS EXCLUSIVE', relation).map((lock) => ({ ...lock, isOnView: true }));
const ofNode = (mode: Mode, node: Node): readonly Lock[] => ('RangeVar' in node ? on(mode, node.RangeVar) : []);

/** It takes several tables at once because it was told to. */
export function namesTables(node: Node): boolean {
  return 'TruncateStmt' in node || 'LockStmt' in node || 'DropStmt' in node;
}

/** What PostgreSQL refuses inside of a transaction, by the words that make it so. */
export function refusedInTransaction(node: Node): string | undefined {
  if ('IndexStmt' in node && node.IndexStmt.concurrent) return 'CREATE INDEX CONCURRENTLY';
  if ('DropStmt' in node && node.DropStmt.concurrent) return 'DROP INDEX CONCURRENTLY';
  if ('ReindexStmt' in node && hasOption(node.ReindexStmt.params, 'concurrently')) return 'REINDEX CONCURRENTLY';
  if ('VacuumStmt' in node && node.VacuumStmt.is_vacuumcmd) return 'VACUUM';
  if (!('AlterTableStmt' in node)) return undefined;
  const detaches = commandsOf(node.AlterTableStmt).some(
    ({ def }) => def !== undefined && 'PartitionCmd' in def && def.PartitionCmd.concurrent,
  );
  return detaches ? 'DETACH PARTITION … CONCURRENTLY' : undefined;
}

/** A partition that is created in place locks its parent like a change of it. */
function ofParent(node: Node): readonly Lock[] {
  const parent = parentOfPartition(node);
  return parent === undefined ? [] : on('ACCESS EXCLUSIVE', parent);
}

/** What CREATE TABLE … PARTITION OF is a partition of. */
export function parentOfPartition(node: Node): RangeVar | undefined {
  if (!('CreateStmt' in node) || node.CreateStmt.partbound === undefined) return undefined;
  const [parent] = node.CreateStmt.inhRelations ?? [];
  return parent !== undefined && 'RangeVar' in parent ? parent.RangeVar : undefined;
}

export function foreignKeysOf(node: Node): readonly Constraint[] {
  if (!('CreateStmt' in node) && !('AlterTableStmt' in node)) return [];
  return [...kindBelow<Constraint>(node, 'Constraint')].filter(({ contype }) => contype === 'CONSTR_FOREIGN');
}

export function commandsOf({ cmds = [] }: AlterTableStmt): readonly AlterTableCmd[] {
  return cmds.flatMap((each) => ('AlterTableCmd' in each ? each.AlterTableCmd : []));
}

/** Those that take SHARE UPDATE EXCLUSIVE, for which neither reads nor writes wait. */
const GENTLE: ReadonlySet<AlterTableType> = new Set<AlterTableType>([
  'AT_ValidateConstraint',
  'AT_SetStatistics',
  'AT_SetOptions',
  'AT_ResetOptions',
  'AT_SetRelOptions',
  'AT_ResetRelOptions',
  'AT_ClusterOn',
  'AT_DropCluster',
  'AT_DetachPartitionFinalize',
]);

function ofAlterTable(statement: AlterTableStmt): readonly Lock[] {
  if (!TABLES.has(statement.objtype ?? '')) return [];
  return commandsOf(statement).flatMap((command) => ofCommand(command, statement.relation));
}

function ofCommand({ subtype, def }: AlterTableCmd, relation: RangeVar | undefined): readonly Lock[] {
  if (subtype === undefined || GENTLE.has(subtype)) return [];
  if (def !== undefined && 'PartitionCmd' in def) {
    const { name, concurrent } = def.PartitionCmd;
    const parent = subtype === 'AT_DetachPartition' ? on('ACCESS EXCLUSIVE', relation) : [];
    return concurrent ? [] : [...parent, ...on('ACCESS EXCLUSIVE', name)];
  }
  if (/^AT_(?:Enable|Disable)(?:Always|Replica)?Trig/.test(subtype)) return on('SHARE ROW EXCLUSIVE', relation);
  if (def !== undefined && 'Constraint' in def && def.Constraint.contype === 'CONSTR_FOREIGN') {
    return [...on('SHARE ROW EXCLUSIVE', relation), ...on('SHARE ROW EXCLUSIVE', def.Constraint.pktable)];
  }
  const referenced = [...kindBelow<Constraint>(def, 'Constraint')].flatMap(({ pktable }) =>
    on('SHARE ROW EXCLUSIVE', pktable),
  );
  return [...on('ACCESS EXCLUSIVE', relation), ...referenced];
}

/** DROP INDEX is left to squawk: it names no table. */
function ofDrop({ removeType = 'OBJECT_TABLE', objects = [] }: DropStmt): readonly Lock[] {
  const names = objects.map((each) => ('List' in each ? stringsOf(each.List.items) : []));
  const isOnView = removeType === 'OBJECT_VIEW';
  if (isOnView || TABLES.has(removeType))
    return names.map((parts) => ({ table: nameOfParts(parts), mode: 'ACCESS EXCLUSIVE', isOnView }));
  const isPartOfTable =
    removeType === 'OBJECT_TRIGGER' || removeType === 'OBJECT_POLICY' || removeType === 'OBJECT_RULE';
  return isPartOfTable
    ? names.map((parts) => ({ table: nameOfParts(parts.slice(0, -1)), mode: 'ACCESS EXCLUSIVE' }))
    : [];
}
