// What is generated from the packages of reference data and from our own lists: a migration with the rows of schema ref. `--check` says
// whether what is committed is that, and writes nothing.
//
//   npm run reference            writes the next migration for what changed since the last one: after a package was updated, or a list
//   npm run reference -- --amend writes the last migration anew, while nobody has applied it
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { declaredReference } from './reference/declared.ts';
import { findFaults } from './reference/faults.ts';
import { type Landed, landedText, nextMigration } from './reference/landed.ts';
import { migrationSql } from './reference/migration-sql.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const LANDED = 'scripts/reference/landed.json';
const SCHEMA = 'scripts/reference/schema.sql';

const { values } = parseArgs({ options: { check: { type: 'boolean' }, amend: { type: 'boolean' } } });
const read = (path: string) => {
  try {
    return readFileSync(`${root}${path}`, 'utf8');
  } catch {
    return undefined;
  }
};
const nothing: Landed = { migration: '', before: null, after: null };
const landed = JSON.parse(read(LANDED) ?? JSON.stringify(nothing)) as Landed;
const today = new Date().toISOString().slice(0, 'yyyy-mm-dd'.length);
const { snapshot: declared, faults } = declaredReference(landed.after, today);
const next = nextMigration({
  landed,
  declared,
  amend: values.amend === true,
  migrations: readdirSync(`${root}migrations`),
});

faults.push(...findFaults(next.before, declared));
for (const fault of faults) console.error(`reference: ${fault}`);
if (faults.length > 0) process.exit(2);

const wanted = new Map([
  [`migrations/${next.migration}.sql`, migrationSql(next.before, declared, read(SCHEMA) ?? '')],
  [LANDED, landedText(next)],
]);
const different = [...wanted].filter(([file, text]) => read(file) !== text);
if (values.check) {
  for (const [file] of different) console.error(`${file} is not what the packages and lists say: npm run reference`);
  const rows = Object.values(declared).reduce((sum, { length }) => sum + length, 0);
  console.log(`reference: ${rows} rows, ${different.length} files differ from packages and lists`);
  process.exitCode = different.length > 0 ? 1 : 0;
} else {
  for (const [file, text] of different) {
    writeFileSync(`${root}${file}`, text);
    console.log(`wrote ${file}`);
  }
}
