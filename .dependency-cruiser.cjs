/** The one direction in which dependencies point; see docs/architecture.md. */
const room = (name) => `^src/${name}/`;
const forbid = (name, comment, from, to) => ({ name, comment, severity: 'error', from, to });

module.exports = {
  forbidden: [
    forbid('no-cycles', 'A cycle has no first file to read.', {}, { circular: true }),
    forbid(
      'no-orphans',
      'A file that nobody imports is dead.',
      { orphan: true, pathNot: '^src/(cli/main|ledger/ledger)\\.ts$|^src/console/browser/' },
      {},
    ),
    forbid(
      'domains-do-not-see-the-top',
      'Domains know nothing of the command line and the demo.',
      { path: '^src/(db|ledger|replay|outbox|states|restructure|analytics)/' },
      { path: '^src/(cli|demo|console|report)/' },
    ),
    forbid(
      'demo-does-not-see-cli',
      'The demo is told by the command line, not the other way round.',
      { path: room('demo') },
      { path: room('cli') },
    ),
    forbid(
      'db-sees-only-config-and-errors',
      'The database layer serves every domain.',
      { path: room('db') },
      { path: '^src/', pathNot: '^src/(db/|config\\.ts|errors\\.ts)' },
    ),
    forbid(
      'ledger-stands-alone',
      'The database joins ledger and outbox, in one transaction; code does not.',
      { path: room('ledger') },
      { path: '^src/', pathNot: '^src/(ledger/|db/|config\\.ts|errors\\.ts)' },
    ),
    forbid(
      'outbox-stands-alone',
      'The database joins ledger and outbox, in one transaction; code does not.',
      { path: room('outbox') },
      { path: '^src/', pathNot: '^src/(outbox/|db/|config\\.ts|errors\\.ts)' },
    ),
    forbid(
      'replay-and-states-see-the-ledger-alone',
      'replay → ledger and states → ledger, nothing else across.',
      { path: '^src/(replay|states)/' },
      { path: '^src/(outbox|restructure|analytics)/' },
    ),
    forbid(
      'restructure-stands-alone',
      'It moves tables of any application, and knows none of ours.',
      { path: room('restructure') },
      { path: '^src/', pathNot: '^src/(restructure/|html/|db/|config\\.ts|errors\\.ts)' },
    ),
    forbid(
      'analytics-stands-alone',
      'It counts rows of any application, and knows none of ours.',
      { path: room('analytics') },
      { path: '^src/', pathNot: '^src/(analytics/|db/|config\\.ts|errors\\.ts)' },
    ),
    forbid(
      'html-is-the-ground-of-pages',
      'How pages and charts are written, whatever is on them.',
      { path: room('html') },
      { path: '^src/', pathNot: '^src/html/' },
    ),
    forbid(
      'report-sees-the-books-alone',
      'What it says is of the ledger, the replay and the states; the command line and the console ask for it.',
      { path: room('report') },
      { path: '^src/', pathNot: '^src/(report/|ledger/|replay/|states/|html/|db/|errors\\.ts)' },
    ),
    forbid(
      'console-is-shown-by-cli',
      'The console is started by the command line, and knows nothing of it or the demo.',
      { path: room('console') },
      { path: '^src/(cli|demo)/' },
    ),
    forbid(
      'config-and-errors-are-the-ground',
      'They import nothing of ours, save config its errors.',
      { path: '^src/(config|errors)\\.ts$' },
      { path: '^src/', pathNot: '^src/errors\\.ts$' },
    ),
    forbid(
      'the-product-needs-no-dev-dependency',
      'An installed package has none.',
      { path: '^src/' },
      { dependencyTypes: ['npm-dev'], dependencyTypesNot: ['type-only'] },
    ),
    forbid('resolvable', 'Every import must resolve.', {}, { couldNotResolve: true }),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default', 'types'] },
  },
};
