import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { CALLER_FINDINGS, type Caller, findCallers, findNaming } from './callers.ts';
import {
  type Dependents,
  type Relation,
  readDependents,
  readRelations,
  readStoredTexts,
  type StoredText,
} from './catalog.ts';
import { type Destination, readDestinations } from './destinations.ts';
import { LONG_HELD_MS, readHeld } from './held.ts';
import { readKeptByMonth } from './held-back.ts';
import { readStanding } from './journal.ts';
import { type Assignment, assignmentsOf, type Mapping } from './mapping.ts';
import { sealPlan } from './plan-file.ts';
import type { Plan, PlannedChanges, PlannedTable } from './planned.ts';
import { elsewhere, findingsOf, isBlocking } from './readiness.ts';
import { findTriggerFunctions, type TriggerFunction } from './trigger-functions.ts';

/**
 * What the mapping means for this database, table by table. Changes nothing, and waits for no table's lock.
 * `longHeldMs`: who holds a table for longer is named.
 * @throws AppError DB_*
 */
export function makePlan(
  pool: Pool,
  mapping: Mapping,
  { now, longHeldMs = LONG_HELD_MS }: { now: Date; longHeldMs?: number },
): Promise<Plan> {
  return withTransaction(pool, (tx) => planIn(tx, mapping, { now, longHeldMs }), ONE_SNAPSHOT);
}

async function planIn(tx: Tx, mapping: Mapping, { now, longHeldMs }: { now: Date; longHeldMs: number }): Promise<Plan> {
  // So that the server writes names with their schemas.
  await tx.query(`set local search_path = ''`);
  const { rows: about } = await tx.query<{ database: string; serverVersion: number }>(
    `select current_database() as database, current_setting('server_version_num')::int as "serverVersion"`,
  );
  const [here] = about;
  if (here === undefined) throw new AppError('INTERNAL', 'The server did not say which database it is.');
  const survey = await surveyOf(tx, mapping, { ...here, longHeldMs });
  const tables = assignmentsOf(mapping).map((assignment) => plannedTable(assignment, survey));
  const mapped = new Set([...assignmentsOf(mapping).map(({ table }) => table), ...mapping.stay]);
  const unmapped = survey.relations
    .filter(
      (each) => each.schema === mapping.from && isTable(each) && each.parents.length === 0 && !mapped.has(each.name),
    )
    .map(({ name }) => name);
  const replaced = await readReplaced(tx, mapping);
  return sealPlan({
    version: 2,
    mapping,
    ...here,
    madeAt: now.toISOString(),
    tables,
    functions: survey.functions,
    replaced,
    unmapped,
    notes: [...notesOf(survey, { tables, replaced }), ...(await roleNotes(tx, mapping))],
  });
}

/** Those that there are, each with a digest of its body. */
async function readReplaced(db: Queryable, { replacements }: Mapping): Promise<Plan['replaced']> {
  if (replacements.length === 0) return {};
  const { rows } = await db.query<{ function: string; body: string }>(
    `select f as function, restructure.body_of(to_regprocedure(f)) as body from unnest($1::text[]) f where to_regprocedure(f) is not null`,
    [replacements.map((each) => each.function)],
  );
  return Object.fromEntries(rows.map((row) => [row.function, row.body]));
}

/** Of roles that are to be put into groups, and are not there; and of groups that cannot be made. */
async function roleNotes(db: Queryable, { roles }: Mapping): Promise<readonly string[]> {
  if (roles === undefined) return [];
  const [groups, members] = [[roles.read, roles.write], [...new Set([...roles.readers, ...roles.writers])]];
  const { rows } = await db.query<{ missing: string[]; createsRoles: boolean }>(
    `select array(select r from unnest($1::text[]) with ordinality r (r, at) where not exists (select from pg_roles where rolname = r) order by at) as missing,
       (select rolcreaterole or rolsuper from pg_roles where rolname = current_user) as "createsRoles"`,
    [[...groups, ...members]],
  );
  const [{ missing, createsRoles } = { missing: [], createsRoles: true }] = rows;
  const toMake = missing.filter((name) => groups.includes(name));
  return [
    ...missing
      .filter((name) => !groups.includes(name))
      .map((name) => `roles: there is no role ${name}, and it gets nothing: correct its name, or make it first`),
    ...(createsRoles || toMake.length === 0
      ? []
      : [
          `roles: ${toMake.join(' and ')} cannot be made: have CREATEROLE given to this role, or have them made; apply would stop there`,
        ]),
  ];
}

/** What the mapping says in vain: it may be meant for a database that has more. */
function* notesOf(
  { mapping, relations, byName, hiddenStatements }: Survey,
  { tables, replaced }: Pick<Plan, 'tables' | 'replaced'>,
): Generator<string> {
  if (hiddenStatements > 0) {
    yield `pg_stat_statements has ${hiddenStatements} statements whose text this role may not read: grant it pg_read_all_stats, or look through them as another`;
  }
  for (const table of mapping.stay.filter((name) => !byName.has(name)))
    yield `stay: there is no table ${mapping.from}.${table}: take it out of the mapping, or correct its name`;
  for (const { table, finding } of mapping.accept) {
    if (!(finding in CALLER_FINDINGS)) {
      yield `accept: ${finding} of ${table} cannot be accepted, only what stored texts do (calls-…)`;
    } else if (!relations.some(({ name }) => name === table)) {
      yield `accept: there is no table ${mapping.from}.${table}: take it out of the mapping, or correct its name`;
    } else if (
      tables.some(
        (planned) =>
          planned.relations.some(({ name }) => name === table) &&
          !planned.findings.some((each) => each.finding === finding),
      )
    ) {
      yield `accept: ${finding} of ${table} was not found: take it out of the mapping`;
    }
  }
  for (const { function: name } of mapping.replacements.filter((each) => !(each.function in replaced)))
    yield `replacements: there is no function ${name}: take it out of the mapping, or correct its name and types`;
}

const isTable = ({ kind }: Relation): boolean => kind === 'table' || kind === 'partitioned table';

/** Everything that was read, by what it is looked up by. */
interface Survey {
  readonly mapping: Mapping;
  readonly relations: readonly Relation[];
  readonly byOid: ReadonlyMap<number, Relation>;
  readonly byName: ReadonlyMap<string, Relation>;
  readonly dependents: ReadonlyMap<number, Dependents>;
  readonly fingerprints: ReadonlyMap<number, string>;
  readonly callers: readonly Caller[];
  /** By table, whose text names it. */
  readonly naming: ReadonlyMap<string, readonly string[]>;
  /** By the first of each group, who has held a lock of it for long. */
  readonly held: ReadonlyMap<number, readonly string[]>;
  readonly keptByMonth: ReadonlySet<number>;
  /** Remembered statements that may not be read. */
  readonly hiddenStatements: number;
  readonly functions: readonly TriggerFunction[];
  readonly schemaAwareTriggers: ReadonlySet<string>;
  readonly destinations: ReadonlyMap<string, Destination>;
  /** By `public.orders`, the schema that it was moved to; partitions and heirs of it, too. */
  readonly moved: ReadonlyMap<string, string | undefined>;
}

async function surveyOf(
  tx: Tx,
  mapping: Mapping,
  { serverVersion, longHeldMs }: { serverVersion: number; longHeldMs: number },
): Promise<Survey> {
  const relations = await readRelations(tx);
  const byOid = new Map(relations.map((each) => [each.oid, each]));
  const byName = new Map(relations.filter(({ schema }) => schema === mapping.from).map((each) => [each.name, each]));
  const roots = assignmentsOf(mapping).flatMap(({ table }) => byName.get(table) ?? []);
  const groups = new Map(roots.map((root) => [root.oid, groupOf(root, byOid)]));
  const members = [...groups.values()].flat();
  const dependents = await readDependents(
    tx,
    members.map(({ oid }) => oid),
  );
  const replaced = new Set(mapping.replacements.map((each) => `function ${each.function}`));
  const oids = [...groups.values()].map((group) => group.map(({ oid }) => oid));
  const stored = await readStoredTexts(tx);
  const texts = stored.texts.filter(({ where }) => !replaced.has(where));
  return {
    mapping,
    relations,
    byOid,
    byName,
    dependents,
    fingerprints: await readFingerprints(tx, oids),
    held: await readHeld(tx, oids, longHeldMs),
    keptByMonth: await readKeptByMonth(tx),
    hiddenStatements: stored.hidden,
    naming: findNaming(stored.texts, { from: mapping.from, tables: new Set(members.map(({ name }) => name)) }),
    callers: callersOf(texts, { mapping, groups, dependents, serverVersion }),
    functions: mapping.moveTriggerFunctions
      ? await findTriggerFunctions(tx, {
          from: mapping.from,
          targets: targetsOf(mapping),
          texts: [...texts, ...replacementTexts(mapping)],
        })
      : [],
    schemaAwareTriggers: new Set(
      texts
        .filter(({ text }) => /\btg_table_schema\b/iu.test(text))
        .map(({ where }) => where.replace(/^function /u, '')),
    ),
    destinations: await readDestinations(tx, [mapping.from, ...mapping.schemas.map(({ name }) => name)]),
    moved: new Map(
      (await readStanding(tx))
        .filter(({ kind }) => kind === 'table')
        .flatMap(({ object, relations: [root = 0, ...others] }) => [
          [object, byOid.get(root)?.schema] as const,
          ...others.map((oid) => [`${mapping.from}.${byOid.get(oid)?.name}`, byOid.get(oid)?.schema] as const),
        ]),
    ),
  };
}

/** What the mapping replaces it names where it was. */
const replacementTexts = ({ replacements, tenancy }: Mapping): readonly StoredText[] =>
  [...replacements, ...(tenancy?.functions.replacements ?? [])].map(({ definition }) => ({
    kind: 'function',
    where: 'the mapping',
    text: definition.join('\n'),
  }));

const targetsOf = (mapping: Mapping): ReadonlyMap<string, string> =>
  new Map(assignmentsOf(mapping).map(({ table, target }) => [table, target]));

/** The relation, then its partitions and heirs, and theirs. */
function groupOf(root: Relation, byOid: ReadonlyMap<number, Relation>): readonly Relation[] {
  const group = new Set([root]);
  for (const member of group) for (const child of member.children) group.add(byOid.get(child) ?? root);
  return [...group];
}

const MERGE_INTO_VIEWS = 170_000;

function callersOf(
  texts: readonly StoredText[],
  about: {
    mapping: Mapping;
    groups: ReadonlyMap<number, readonly Relation[]>;
    dependents: ReadonlyMap<number, Dependents>;
    serverVersion: number;
  },
): readonly Caller[] {
  const members = [...about.groups.values()].flat();
  const tablesOfParts = (pick: (each: Dependents) => readonly string[]): ReadonlyMap<string, string> =>
    new Map(
      members.flatMap(({ oid, name }) => {
        const dependents = about.dependents.get(oid);
        return dependents === undefined ? [] : pick(dependents).map((part) => [part, name] as const);
      }),
    );
  const callers = findCallers(texts, {
    from: about.mapping.from,
    constraints: members.flatMap(({ oid, name: table }) =>
      (about.dependents.get(oid)?.deferrable ?? []).map((name) => ({ name, table })),
    ),
    keys: new Map(
      members.flatMap(({ oid, name }) => {
        const key = about.dependents.get(oid)?.keyColumn;
        return key === null || key === undefined ? [] : [[name, key] as const];
      }),
    ),
    tables: new Set(members.map(({ name }) => name)),
    sequences: tablesOfParts(({ sequences }) => sequences),
    indexes: tablesOfParts(({ indexes }) => indexes),
  });
  const parents = new Set(members.filter(({ children }) => children.length > 0).map(({ name }) => name));
  return callers.filter(
    ({ finding, table }) =>
      (finding !== 'calls-merge' || about.serverVersion < MERGE_INTO_VIEWS) &&
      (finding !== 'calls-only' || parents.has(table)),
  );
}

/** Of each group, by its first relation, what restructure.take_step compares with what is there when it is about to move. */
async function readFingerprints(
  db: Queryable,
  groups: readonly (readonly number[])[],
): Promise<ReadonlyMap<number, string>> {
  const asked = groups.map((oids) => ({ root: oids[0], oids }));
  const { rows } = await db.query<{ root: number; fingerprint: string }>(
    `select (g ->> 'root')::int8::oid as root,
       restructure.fingerprint(restructure.facts_of(array(select jsonb_array_elements_text(g -> 'oids')::int8::oid))) as fingerprint
     from jsonb_array_elements($1) g`,
    [JSON.stringify(asked)],
  );
  return new Map(rows.map(({ root, fingerprint }) => [root, fingerprint]));
}

function destinationOf(schema: string, { destinations }: Survey): Destination {
  const destination = destinations.get(schema);
  if (destination === undefined) throw new AppError('INTERNAL', `Nothing was read about the schema ${schema}.`);
  return destination;
}

function plannedTable({ table, target }: Assignment, survey: Survey): PlannedTable {
  const { mapping } = survey;
  const name = `${mapping.from}.${table}`;
  if (survey.moved.has(name)) return movedTable({ table, target }, survey.moved.get(name));
  const relation = survey.byName.get(table);
  const group = relation === undefined ? [] : groupOf(relation, survey.byOid);
  const dependents = group.flatMap(({ oid }) => survey.dependents.get(oid) ?? []);
  const names = new Set(group.map(({ name }) => name));
  const assignments = assignmentsOf(mapping);
  const findings = findingsOf({
    table,
    from: mapping.from,
    target,
    timesMapped: assignments.filter((each) => each.table === table).length,
    relation,
    group,
    parents: (relation?.parents ?? []).flatMap((oid) => survey.byOid.get(oid) ?? []),
    otherParents: group
      .flatMap((member) => (member === relation ? [] : member.parents))
      .flatMap((oid) => survey.byOid.get(oid) ?? [])
      .filter((parent) => !group.includes(parent)),
    dependents,
    callers: survey.callers.filter((caller) => names.has(caller.table)),
    isKeptByMonth: relation !== undefined && survey.keptByMonth.has(relation.oid),
    heldBy: (relation === undefined ? undefined : survey.held.get(relation.oid)) ?? [],
    otherTargets: assignments
      .filter((each) => each.table !== table && names.has(each.table))
      .map((each) => each.target),
    home: destinationOf(mapping.from, survey),
    destination: destinationOf(target, survey),
    groups: mapping.roles === undefined ? [] : [mapping.roles.read, mapping.roles.write],
    accepted: new Map(
      mapping.accept.filter((each) => names.has(each.table)).map((each) => [each.finding, each.because]),
    ),
    schemaAwareTriggers: survey.schemaAwareTriggers,
  });
  if (relation === undefined) return { ...nothing(table, target), findings };
  return {
    table,
    target,
    readiness: findings.some(isBlocking) ? 'blocked' : findings.length > 0 ? 'warned' : 'ready',
    findings,
    sizeBytes: Number(group.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0n)),
    rowsEstimated: sumOf(group.filter(({ kind }) => kind === 'table').map(({ rowsEstimated }) => rowsEstimated)),
    relations: group.map(({ oid, name }) => ({ oid, name })),
    fingerprint: survey.fingerprints.get(relation.oid) ?? null,
    locks: locksOf(group, dependents, mapping.from),
    changes: changesOf(
      dependents,
      group.flatMap(({ name }) => survey.naming.get(name) ?? []),
    ),
  };
}

function movedTable({ table, target }: Assignment, schema: string | undefined): PlannedTable {
  if (schema === target) return { ...nothing(table, target), readiness: 'moved' };
  const findings = [elsewhere({ table, target, schema })];
  return { ...nothing(table, target), findings };
}

const nothing = (table: string, target: string): PlannedTable => ({
  table,
  target,
  readiness: 'blocked',
  findings: [],
  sizeBytes: 0,
  rowsEstimated: null,
  relations: [],
  fingerprint: null,
  locks: [],
  changes: null,
});

/** Null where one of them is not known. */
const sumOf = (counts: readonly (number | null)[]): number | null =>
  counts.reduce<number | null>((sum, count) => (sum === null || count === null ? null : sum + count), 0);

const locksOf = (group: readonly Relation[], dependents: readonly Dependents[], from: string): readonly string[] => [
  ...group.map(({ schema, name }) => `ACCESS EXCLUSIVE on ${schema}.${name}`),
  ...dependents.flatMap(({ sequences }) => sequences).map((name) => `ACCESS EXCLUSIVE on the sequence ${from}.${name}`),
];

const changesOf = (dependents: readonly Dependents[], naming: readonly string[]): PlannedChanges => {
  const all = <T>(pick: (each: Dependents) => readonly T[], text: (each: T) => string): readonly string[] => [
    ...new Set(dependents.flatMap(pick).map(text)),
  ];
  const named = ({ schema, name }: { schema: string; name: string }) => `${schema}.${name}`;
  return {
    readers: all(({ readers }) => readers, named),
    policies: all(({ policies }) => policies, String),
    triggers: all(
      ({ triggers }) => triggers,
      ({ trigger }) => trigger,
    ),
    defaults: all(({ defaults }) => defaults, String),
    sequences: all(({ sequences }) => sequences, String),
    types: all(({ types }) => types, named),
    publications: all(
      ({ publications }) => publications,
      ({ name, how }) => `${name} (by ${how})`,
    ),
    grantees: all(({ grantees }) => grantees, String),
    functions: [...new Set(naming)],
    foreignKeysFrom: dependents.reduce((sum, { foreignKeys }) => sum + foreignKeys.from, 0),
    foreignKeysTo: dependents.reduce((sum, { foreignKeys }) => sum + foreignKeys.to, 0),
  };
};
