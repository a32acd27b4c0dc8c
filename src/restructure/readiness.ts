import { inShell } from '../db/in-shell.ts';
import { CALLER_FINDINGS, type Caller } from './callers.ts';
import type { Dependents, Relation } from './catalog.ts';
import type { Destination } from './destinations.ts';

/** Something about a table that whoever moves it has to know. `blocks`: it is not moved, and why. */
export interface Finding {
  readonly finding: string;
  readonly severity: 'blocks' | 'warns';
  readonly text: string;
}

export interface Candidate {
  readonly table: string;
  readonly from: string;
  readonly target: string;
  /** How often the mapping names it, and whether it names it for other schemas. */
  readonly timesMapped: number;
  /** What bears the name now, if anything does. */
  readonly relation: Relation | undefined;
  /** The relation, its partitions and heirs, which go with it. */
  readonly group: readonly Relation[];
  readonly parents: readonly Relation[];
  /** Other parents of what goes with it, which do not. */
  readonly otherParents: readonly Relation[];
  readonly dependents: readonly Dependents[];
  readonly callers: readonly Caller[];
  /** Who has held a lock of it for long. */
  readonly heldBy: readonly string[];
  /** By `liventix partitions`, or is to be. */
  readonly isKeptByMonth: boolean;
  /** The schemas that the mapping assigns to other relations of the group. */
  readonly otherTargets: readonly string[];
  /** Where the view is to be made, and where the table goes. */
  readonly home: Destination;
  readonly destination: Destination;
  /** The groups of the mapping. */
  readonly groups: readonly string[];
  /** By finding, why it may stand. */
  readonly accepted: ReadonlyMap<string, string>;
  /** What the trigger functions that use TG_TABLE_SCHEMA are called. */
  readonly schemaAwareTriggers: ReadonlySet<string>;
}

/** What is to be said of a table before it is moved, what blocks first. Pure. */
export function findingsOf(candidate: Candidate): readonly Finding[] {
  const { relation } = candidate;
  if (relation === undefined) {
    return [
      blocks(
        'missing',
        `there is no table ${candidate.from}.${candidate.table}: take it out of the mapping, or correct its name`,
      ),
    ];
  }
  const findings = [
    ...mappingFindings(candidate),
    ...kindFindings(candidate, relation),
    ...targetFindings(candidate),
    ...ownerFindings(candidate),
    ...rightFindings(candidate),
    ...publicationFindings(candidate),
    ...subscriptionFindings(candidate),
    ...viewFindings(candidate),
    ...sizeFindings(candidate),
    ...dependentFindings(candidate),
    ...callerFindings(candidate),
    ...heldFindings(candidate),
  ].map((finding) => accept(finding, candidate.accepted));
  return [...findings.filter(isBlocking), ...findings.filter((finding) => !isBlocking(finding))];
}

/** Of a table that was moved, and is not where the mapping would have it. */
export const elsewhere = ({
  table,
  target,
  schema,
}: {
  table: string;
  target: string;
  schema: string | undefined;
}): Finding =>
  blocks(
    'elsewhere',
    `it was moved before and is ${schema === undefined ? 'gone' : `in ${schema}`}, not in ${target}: liventix restructure rollback --table ${table}`,
  );

export const isBlocking = ({ severity }: Finding): boolean => severity === 'blocks';

const blocks = (finding: string, text: string): Finding => ({ finding, severity: 'blocks', text });
const warns = (finding: string, text: string): Finding => ({ finding, severity: 'warns', text });

/** Only what stored texts do can be accepted: of the rest, the server would refuse the move. */
function accept(finding: Finding, accepted: ReadonlyMap<string, string>): Finding {
  const because = accepted.get(finding.finding);
  if (because === undefined || !(finding.finding in CALLER_FINDINGS)) return finding;
  return warns(finding.finding, `${finding.text}; accepted: ${because}`);
}

function* mappingFindings({ timesMapped, otherTargets, target }: Candidate): Generator<Finding> {
  if (timesMapped > 1) yield blocks('mapped-twice', 'the mapping names it more than once: leave it where it belongs');
  for (const other of new Set(otherTargets)) {
    if (other !== target)
      yield blocks('scattered', `partitions or heirs of it are mapped to ${other}: they go together`);
  }
}

function* kindFindings(
  { group, parents, otherParents, isKeptByMonth, from }: Candidate,
  relation: Relation,
): Generator<Finding> {
  if (relation.kind === 'foreign table')
    yield blocks('foreign-table', 'its rows are on another server: move it by hand');
  else if (relation.kind !== 'table' && relation.kind !== 'partitioned table') {
    yield blocks('not-a-table', `it is a ${relation.kind}`);
  }
  if (isKeptByMonth) {
    yield blocks(
      'by-month',
      `it is kept by month under this name: liventix partitions rollback --table ${inShell(nameOf(relation))}, first, and apply when it has moved`,
    );
  }
  for (const parent of parents) {
    yield blocks(
      relation.isPartition ? 'partition' : 'heir',
      `it ${relation.isPartition ? 'is a partition of' : 'inherits from'} ${parent.schema}.${parent.name}, with which it goes: map that one, and not this`,
    );
  }
  for (const parent of otherParents) {
    yield blocks(
      'scattered',
      `what goes with it also inherits from ${nameOf(parent)}, which does not: move them by hand`,
    );
  }
  for (const member of group) {
    if (member.extension !== null) {
      yield blocks(
        'of-an-extension',
        `${nameOf(member)} is a part of the extension ${member.extension}, which would not find it again`,
      );
    }
    if (member.kind === 'foreign table' && member !== relation) {
      yield blocks('foreign-table', `its partition ${nameOf(member)} is on another server`);
    }
    if (member !== relation && member.schema !== from) {
      yield blocks('scattered', `${nameOf(member)}, which goes with it, is not in ${from}`);
    }
  }
  if (!relation.hasPrimaryKey) {
    yield warns(
      'no-primary-key',
      'without a primary key its rows are compared as one chunk, and no replica can follow updates of it',
    );
  }
}

function* targetFindings({ group, dependents, target, destination }: Candidate): Generator<Finding> {
  const going = {
    relations: [
      ...group.map(({ name }) => name),
      ...dependents.flatMap(({ indexes, sequences }) => [...indexes, ...sequences]),
    ],
    types: group.flatMap(({ rowTypes }) => rowTypes),
    statistics: dependents.flatMap(({ statistics }) => statistics),
  };
  const taken = (['relations', 'types', 'statistics'] as const).flatMap((kind) =>
    going[kind].filter((name) => destination[kind].includes(name)),
  );
  // The type of an array is called as its element, behind an underscore.
  for (const name of new Set(taken.filter((each) => !(each.startsWith('_') && taken.includes(each.slice(1)))))) {
    yield blocks('target-taken', `${target}.${name} is there already: rename one of the two`);
  }
}

function* ownerFindings({ group, dependents, target, from }: Candidate): Generator<Finding> {
  for (const name of new Set(dependents.flatMap(({ othersStatistics }) => othersStatistics))) {
    yield blocks('not-ours', `its statistics ${from}.${name} belong to somebody else: have them given to its owner`);
  }
  for (const member of group.filter(({ isOurs }) => !isOurs)) {
    yield blocks(
      'not-ours',
      `${nameOf(member)} belongs to ${member.owner}: run as that role, or as a member of it, to move it from ${from} to ${target}`,
    );
  }
}

function* subscriptionFindings({ dependents }: Candidate): Generator<Finding> {
  for (const name of new Set(dependents.flatMap(({ subscriptions }) => subscriptions))) {
    yield blocks(
      'subscribed',
      `the subscription ${name} brings it rows of another server, which knows it by this schema and would stop: move it there first, or end that`,
    );
  }
}

/** What its view cannot have as the table has it. */
function* viewFindings({ dependents }: Candidate): Generator<Finding> {
  const grantees = [...new Set(dependents.flatMap(({ grantedByOthers }) => grantedByOthers))];
  if (grantees.length > 0) {
    yield warns(
      'granted-by-another',
      `${grantees.join(', ')} has rights of it from another than its owner, who gives them for the view: what that other takes back by the old name stays`,
    );
  }
  if (dependents.some(({ isLabelled }) => isLabelled))
    yield warns('labelled', 'it has a security label, and its view will have none');
}

const MANY_RELATIONS = 40;
const MS_PER_RELATION = 5;

function* sizeFindings({ group }: Candidate): Generator<Finding> {
  if (group.length < MANY_RELATIONS) return;
  yield warns(
    'many-partitions',
    `it and what goes with it are ${group.length} relations, which are locked together for about ${group.length * MS_PER_RELATION} ms: off-peak, and with --longest where that is not allowed`,
  );
}

/** What the server would refuse, or, of a grant, pass over without a word. */
function* rightFindings({
  relation,
  home,
  destination,
  dependents,
  groups,
  target,
  from,
}: Candidate): Generator<Finding> {
  if (relation?.isOurs === true && !relation.mayLock) {
    yield blocks(
      'may-not-lock',
      `its owner has taken the right to write from itself, and without it nobody may lock the table: grant it UPDATE`,
    );
  }
  if (!home.mayCreate) {
    yield blocks('may-not-create', `its view cannot be made in ${from}: have CREATE granted on that schema`);
  }
  if (!destination.mayCreate) {
    yield blocks(
      'may-not-create',
      destination.isThere
        ? `it cannot come to ${target}: have CREATE granted on that schema`
        : `there is no schema ${target}, and it cannot be made: have CREATE granted on the database`,
    );
  }
  if (destination.mayGrantUsage) return;
  const lacking = [...groups, ...dependents.flatMap(({ grantees }) => grantees)].filter(
    (role) => !destination.users.includes(role),
  );
  for (const role of new Set(lacking)) {
    yield blocks('may-not-grant', `${role} may not use ${target}: whoever owns that schema has to grant USAGE on it`);
  }
}

function* publicationFindings({ dependents, destination, target }: Candidate): Generator<Finding> {
  for (const { name, how, isOurs } of uniqueBy(dependents.flatMap(({ publications }) => publications))) {
    if (how === 'schema' && !isOurs) {
      yield blocks(
        'publication-not-ours',
        `the publication ${name} has it by its schema, and whoever owns the publication has to add it by name`,
      );
    } else {
      yield warns(
        'published',
        `subscribers of ${name} see it as a table of ${target}${how === 'schema' ? ', to which it is added by name' : ''}`,
      );
    }
  }
  const already = new Set(dependents.flatMap(({ publications }) => publications.map(({ name }) => name)));
  for (const name of destination.publications.filter((each) => !already.has(each))) {
    yield blocks(
      'would-be-published',
      `the publication ${name} has all tables of ${target}: it would be published there`,
    );
  }
}

function* dependentFindings({ dependents, schemaAwareTriggers, target }: Candidate): Generator<Finding> {
  const readers = uniqueBy(dependents.flatMap((each) => each.readers));
  const passing = readers.filter(({ kind, isInvoker }) => kind === 'view' && !isInvoker);
  if (passing.length > 0) {
    yield warns(
      'read-with-owners-rights',
      `${someOf(passing.map(nameOf))} read it with their owners' rights, and made anew over the old name with those of whoever reads them: name ${target} there`,
    );
  }
  for (const reader of readers) {
    const whose = reader.extension === null ? reader.owner : `the extension ${reader.extension}`;
    if (reader.isOurs && reader.extension === null) continue;
    yield warns(
      'read-by-others',
      `${nameOf(reader)} of ${whose} reads it, and goes on doing so; whoever makes that ${reader.kind} anew from text has to be told`,
    );
  }
  for (const name of new Set(dependents.flatMap(({ rowTypeOf }) => rowTypeOf))) {
    yield warns('row-type', `${name} takes or gives rows of the table: rows of the view have a type of their own`);
  }
  for (const { trigger, function: name } of dependents.flatMap(({ triggers }) => triggers)) {
    if (!schemaAwareTriggers.has(name)) continue;
    yield warns(
      'calls-schema-of-trigger',
      `${name} of trigger ${trigger}: ${CALLER_FINDINGS['calls-schema-of-trigger'].because}`,
    );
  }
}

function* heldFindings({ heldBy }: Candidate): Generator<Finding> {
  if (heldBy.length === 0) return;
  yield warns(
    'held-now',
    `held by ${heldBy.join('; and by ')}: for as long as that lasts, apply leaves the table where it is`,
  );
}

function* callerFindings({ callers }: Candidate): Generator<Finding> {
  for (const { finding, where, severity } of callers) {
    const text = `${where}: ${CALLER_FINDINGS[finding].because}`;
    yield severity === 'breaks' ? blocks(finding, text) : warns(finding, text);
  }
}

const MOST_NAMED = 3;
const someOf = (names: readonly string[]): string =>
  names.length <= MOST_NAMED
    ? names.join(', ')
    : `${names.slice(0, MOST_NAMED).join(', ')} and ${names.length - MOST_NAMED} more`;

const nameOf = ({ schema, name }: { schema: string; name: string }): string => `${schema}.${name}`;

const uniqueBy = <T extends object>(objects: readonly T[]): readonly T[] => [
  ...new Map(objects.map((each) => [JSON.stringify(each), each])).values(),
];
