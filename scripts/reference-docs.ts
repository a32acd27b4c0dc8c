// The pages of docs/reference/, made from what they are about: the command line, the environment, the metrics, the migrated database.
//
//   npm run manual                                                           writes them, by way of an embedded PostgreSQL
//   node_modules/.bin/node scripts/reference-docs.ts --check    says whether those that need no database are what is committed; of the
//                               others test/docs/reference.once.test.ts says it
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { migrate } from '../src/db/migrate.ts';
import { startLocalServer } from '../src/db/server.ts';
import { cliPage } from './manual/cli-page.ts';
import { configurationPage } from './manual/configuration-page.ts';
import { databasePages } from './manual/database-pages.ts';
import { metricsPage } from './manual/metrics-page.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({ options: { check: { type: 'boolean' } } });

const pages = new Map([
  ['cli', await cliPage()],
  ['configuration', configurationPage()],
  ['metrics', await metricsPage()],
  ...(values.check ? [] : await pagesOfDatabase()),
]);
const pathOf = (name: string) => `docs/reference/${name}.md`;
const different = [...pages].filter(([name, text]) => read(pathOf(name)) !== text);
if (values.check) {
  for (const [name] of different) console.error(`${pathOf(name)} is not what it is made from: npm run manual`);
  console.log(`manual: ${pages.size} pages, ${different.length} differ from what they are made from`);
  process.exitCode = different.length > 0 ? 1 : 0;
} else {
  for (const [name, text] of different) {
    writeFileSync(`${root}${pathOf(name)}`, text);
    console.log(`wrote ${pathOf(name)}`);
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(`${root}${path}`, 'utf8');
  } catch {
    return undefined;
  }
}

/** Those of a database that was just migrated, on a server that lasts as long as this. */
async function pagesOfDatabase(): Promise<[string, string][]> {
  const stateDir = mkdtempSync(join(tmpdir(), 'liventix-manual-'));
  const server = await startLocalServer({ stateDir, settings: ['fsync=off'] });
  try {
    const admin = new pg.Client({ connectionString: server.adminUrl });
    await admin.connect();
    // The roles that Supabase has on every server: some functions are theirs to call.
    await admin.query('create role anon nologin; create role authenticated nologin; create role service_role nologin');
    await admin.end();
    await migrate(server.adminUrl);
    return await databasePages(server.adminUrl, `${root}migrations`);
  } finally {
    await server.stop();
    rmSync(stateDir, { recursive: true, force: true });
  }
}
