import { holdsKey, type TableFacts, type UniqueKey } from './facts.ts';
import type { Entry } from './mapping.ts';

export interface Finding {
  readonly severity: 'blocks' | 'changes' | 'note';
  readonly finding: string;
  readonly text: string;
}

/** Whether it tells each row from every other. */
const isIdentity = ({ isPartial, isNotNull }: Pick<UniqueKey, 'isPartial' | 'isNotNull'>): boolean =>
  !isPartial && isNotNull;

/** The columns by which its rows are told apart: those of its primary key, or of the first key of which none may be null. */
export const identityOf = (uniqueKeys: readonly UniqueKey[]): readonly string[] =>
  uniqueKeys.find(isIdentity)?.columns ?? [];

const KEY_TYPES: ReadonlySet<string> = new Set(['timestamp with time zone', 'timestamp without time zone', 'date']);

/** What keeps a table from being converted, and what will be different afterwards. Pure. */
export function findingsOf(facts: TableFacts | undefined, entry: Entry): readonly Finding[] {
  const { table } = entry;
  if (facts === undefined) {
    return [
      blocks(
        'missing',
        `There is no table ${table}: mind its spelling. Where it is to move there: liventix restructure apply, first`,
      ),
    ];
  }
  return [
    ...unsuitable(facts, entry),
    ...(facts.key === null ? [] : [...changes(facts, entry), ...notes(facts, entry)]),
  ];
}

export const blocking = (findings: readonly Finding[]): readonly string[] =>
  findings.filter(({ severity }) => severity === 'blocks').map(({ text }) => text);

export const note = (finding: string, text: string): Finding => ({ severity: 'note', finding, text });

export const blocks = (finding: string, text: string): Finding => ({ severity: 'blocks', finding, text });

function unsuitable(facts: TableFacts, { table, by, uniqueOverAll }: Entry): readonly Finding[] {
  const { key, kind, uniqueKeys, triggers, readers, references, publications } = facts;
  const when = (isSo: boolean, finding: string, text: string) => (isSo ? [blocks(finding, text)] : []);
  return [
    ...when(kind !== 'table', 'no-table', `${table} is a ${kind}`),
    ...when(!facts.isOurs, 'not-ours', `${table} is ${facts.owner}'s: run this as a member of that role`),
    ...when(!facts.isLogged, 'unlogged', `${table} is unlogged or temporary`),
    ...when(facts.heirs > 0 || facts.isHeir, 'heirs', `${table} has heirs or is one`),
    ...when(facts.extension !== null, 'extension', `${table} belongs to the extension ${facts.extension}`),
    ...when(key === null, 'no-key', `${table} has no column ${by}`),
    ...when(
      key !== null && (!KEY_TYPES.has(key.type) || key.isGenerated),
      'key-type',
      `${by} is ${key?.type}${key?.isGenerated === true ? ', generated' : ''}: it has to be a timestamp or a date`,
    ),
    ...when(!uniqueKeys.some(isIdentity), 'no-identity', `${table} has no primary key: its rows cannot be told apart`),
    ...when(
      facts.identityColumns.length > 0,
      'identity',
      `${facts.identityColumns.join(', ')} of ${table} is an identity column: make it a default of a sequence first`,
    ),
    ...when(
      facts.replicaIdentity === 'i',
      'replica-identity',
      `${table} is replicated by an index: alter table … replica identity full, or default`,
    ),
    ...uniqueKeys
      .filter(({ isPartial }) => isPartial)
      .map((each) =>
        blocks(
          'partial-key',
          `${each.name} of ${table} is unique by a condition or an expression, which no partition can hold`,
        ),
      ),
    ...triggers
      .filter(({ isSuitable }) => !isSuitable)
      .map((each) =>
        blocks(
          'trigger',
          `The trigger ${each.name} of ${table} has transition tables for each row, which no partition can have`,
        ),
      ),
    ...readers
      .filter(({ isOurs }) => !isOurs)
      .map((each) => blocks('reader', `${each.name} reads ${table} and is somebody else's`)),
    ...references
      .filter(({ isOurs }) => !isOurs)
      .map((each) => blocks('reference', `${each.table} refers to ${table} and is somebody else's`)),
    ...publications
      .filter(({ isOurs }) => !isOurs)
      .map((each) => blocks('publication', `The publication ${each.name} has ${table} and is somebody else's`)),
    ...facts.unsuitableChecks.map((each) =>
      blocks('check', `The check ${each} of ${table} is not valid, or not for heirs: partitions have it as well`),
    ),
    ...when(
      facts.rowSecurityForced && !facts.bypassesPolicies,
      'forced',
      `Policies of ${table} hold for its owner too: run this as a role that passes by them`,
    ),
    ...references
      .filter(({ isForced }) => isForced && !facts.bypassesPolicies)
      .map((each) =>
        blocks(
          'forced',
          `Policies of ${each.table}, which refers to ${table}, hold for its owner too: run this as a role that passes by them`,
        ),
      ),
    ...facts.foreignKeys
      .filter(({ isValidated }) => !isValidated)
      .map((each) =>
        blocks(
          'not-valid',
          `The foreign key ${each.name} of ${table} is not valid: alter table … validate constraint, first`,
        ),
      ),
    ...[...new Set(uniqueOverAll.flat())]
      .filter((column) => !facts.columns.includes(column))
      .map((column) => blocks('no-column', `${table} has no column ${column}, of "uniqueOverAll" in the mapping`)),
    ...facts.others.map((each) => blocks('depends', `${each} depends on ${table}, and cannot be carried over`)),
  ];
}

function changes({ uniqueKeys, references, publications }: TableFacts, { table, by }: Entry): readonly Finding[] {
  const change = (finding: string, text: string): Finding => ({ severity: 'changes', finding, text });
  const withoutInstant = uniqueKeys.filter((key) => !key.isPartial && !holdsKey(key, by));
  return [
    ...withoutInstant.map(({ columns, isPrimary, isDeferrable }) => {
      const key = `(${columns.join(', ')})`;
      if (isPrimary)
        return change(
          'primary-key',
          `${key} is the primary key together with ${by}: on conflict ${key} finds none any more${isDeferrable ? ', and it is deferrable no more' : ''}`,
        );
      return isDeferrable
        ? change(
            'deferrable',
            `${key} stays unique by a table of keys, which defers nothing: a second row is refused at once, also where rows swap their values`,
          )
        : change(
            'unique-key',
            `${key} stays unique by a table of keys: on conflict ${key} finds none any more, and on conflict do nothing is refused too`,
          );
    }),
    ...references.map((each) =>
      change('reference', `${each.name} of ${each.table} refers to a table of keys beside ${table}, kept by a trigger`),
    ),
    ...(references.length > 0
      ? [
          change(
            'truncate',
            `TRUNCATE of ${table} does not reach what refers to it by CASCADE: name both in one statement`,
          ),
        ]
      : []),
    ...publications
      .filter(({ viaRoot }) => !viaRoot)
      .map((each) =>
        change(
          'publication',
          `The publication ${each.name} tells of its rows under the names of the months, unless publish_via_partition_root is set`,
        ),
      ),
  ];
}

export const inMegabytes = (bytes: bigint): bigint => bytes / 1_048_576n;

function notes(
  { key, triggers, sizeBytes, walInStoreBytes }: TableFacts,
  { by, whenNull, keepMonths, expired }: Entry,
): readonly Finding[] {
  const needed =
    whenNull === undefined ? '. Where there are such rows, the mapping has to say what they get: "whenNull"' : '';
  return [
    ...(keepMonths === null
      ? []
      : [
          note(
            'retention',
            `What is older than ${keepMonths} months is ${expired === 'drop' ? 'dropped' : 'put into partitions_archive'} by the upkeep, within the hour: "keepMonths"`,
          ),
        ]),
    ...(key?.isNotNull === false ? [note('null-key', `A row without ${by} is refused from now on${needed}`)] : []),
    ...(triggers.length > 0
      ? [note('triggers', `Triggers go along: ${triggers.map(({ name }) => name).join(', ')}`)]
      : []),
    ...(sizeBytes > walInStoreBytes
      ? [
          note(
            'wal',
            `About ${inMegabytes(sizeBytes)} MB of WAL are written, and min_wal_size keeps ${inMegabytes(walInStoreBytes)} MB in store: every commit waits while a file more is made. Raise it some days before, if you can`,
          ),
        ]
      : []),
  ];
}
