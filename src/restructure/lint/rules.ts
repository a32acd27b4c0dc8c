import type { Rule } from './rule.ts';
import { definerWithoutSearchPath } from './rules/functions.ts';
import {
  lockTimeoutTooLong,
  lockWithoutTimeout,
  moreThanOneHotTable,
  notInATransaction,
  rowsChangedUnderLock,
} from './rules/locks.ts';
import {
  movedViewWithoutGrants,
  nextvalOfMovedSequence,
  partitionChildrenLeft,
  renameWithoutView,
  schemaPublication,
  setSchemaWithoutView,
} from './rules/moves.ts';
import { attachWithDefaultPartition, partitionCreatedInPlace } from './rules/partitions.ts';
import {
  policyPerRowSubquery,
  rlsEnabledWithoutPolicy,
  rlsNotOnPartitions,
  tenantColumnWithoutIndex,
  unwrappedFunctionInPolicy,
} from './rules/policies.ts';
import {
  foreignKeyToView,
  insteadOfTrigger,
  materializedPastPolicies,
  selectStarView,
  throughView,
  viewWithoutSecurityInvoker,
} from './rules/views.ts';

/** Ours: what nobody else looks for. docs/lint.md explains each one; a test keeps it complete. */
export const RULES: readonly Rule[] = [
  setSchemaWithoutView,
  renameWithoutView,
  movedViewWithoutGrants,
  partitionChildrenLeft,
  nextvalOfMovedSequence,
  schemaPublication,
  viewWithoutSecurityInvoker,
  materializedPastPolicies,
  selectStarView,
  insteadOfTrigger,
  foreignKeyToView,
  throughView,
  moreThanOneHotTable,
  lockWithoutTimeout,
  lockTimeoutTooLong,
  rowsChangedUnderLock,
  notInATransaction,
  attachWithDefaultPartition,
  partitionCreatedInPlace,
  unwrappedFunctionInPolicy,
  policyPerRowSubquery,
  tenantColumnWithoutIndex,
  rlsEnabledWithoutPolicy,
  rlsNotOnPartitions,
  definerWithoutSearchPath,
];

/** Of the linter itself: they say that something was not looked at, or not as it was asked for, and are never disabled. */
export const OWN_RULES = ['syntax', 'psql-command', 'allow', 'baseline'] as const;
