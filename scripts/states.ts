// What is generated from the declarations of the state machines: a migration, and the pages in docs/states/. `--check` says whether what is
// committed is that, and writes nothing.
//
//   npm run states            writes the next migration for what changed since the last one, and the pages
//   npm run states -- --amend writes the last migration anew, while nobody has applied it
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual, parseArgs } from 'node:util';
import { findDeclarationFaults } from '../src/states/declaration-faults.ts';
import { diagramPage } from '../src/states/diagram.ts';
import type { Machine } from '../src/states/machine.ts';
import { MACHINES } from '../src/states/machines.ts';
import { migrationSql } from '../src/states/sql/machine-sql.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const RECORD = 'src/states/migrated.json';

/** Which migration brought the machines to what they are, and from what. */
interface Record {
  readonly migration: string;
  readonly before: readonly Machine[];
  readonly after: readonly Machine[];
}

const { values } = parseArgs({ options: { check: { type: 'boolean' }, amend: { type: 'boolean' } } });
const read = (path: string) => {
  try {
    return readFileSync(`${root}${path}`, 'utf8');
  } catch {
    return undefined;
  }
};
const nothing: Record = { migration: '', before: [], after: [] };
const recorded = JSON.parse(read(RECORD) ?? JSON.stringify(nothing)) as Record;
// As JSON has them, which knows no undefined.
const declared = JSON.parse(JSON.stringify(MACHINES)) as readonly Machine[];

const faults = findDeclarationFaults(declared);
for (const fault of faults) console.error(`liventix: STATE_DECLARATION_INVALID: ${fault}`);
if (faults.length > 0) process.exit(2);

const { path, record } = nextMigration();
const wanted = new Map([
  [path, migrationSql(record.before, record.after)],
  [RECORD, `${JSON.stringify(record, null, 2)}\n`],
  ...MACHINES.map((machine): [string, string] => [`docs/states/${machine.name}.md`, diagramPage(machine)]),
]);
const different = [...wanted].filter(([file, text]) => read(file) !== text);
if (values.check) {
  for (const [file] of different) console.error(`${file} is not what the declarations generate: npm run states`);
  console.log(`states: ${MACHINES.length} machines, ${different.length} files differ from their declarations`);
  process.exitCode = different.length > 0 ? 1 : 0;
} else {
  for (const [file, text] of different) {
    writeFileSync(`${root}${file}`, text);
    console.log(`wrote ${file}`);
  }
}

/** The last migration where nothing changed since, or where it is amended; else one of the next number. */
function nextMigration(): { path: string; record: Record } {
  const isLast = recorded.migration !== '' && (values.amend || isDeepStrictEqual(recorded.after, declared));
  if (isLast) return { path: `migrations/${recorded.migration}.sql`, record: { ...recorded, after: declared } };
  const last = Math.max(...readdirSync(`${root}migrations`).map((name) => Number.parseInt(name, 10)));
  const migration = `${String(last + 1).padStart(4, '0')}_machines`;
  return { path: `migrations/${migration}.sql`, record: { migration, before: recorded.after, after: declared } };
}
