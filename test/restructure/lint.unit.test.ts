import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parseBaseline } from '../../src/restructure/lint/baseline.ts';
import { type LintOptions, lint, type Report } from '../../src/restructure/lint/lint.ts';
import { OWN_RULES, RULES } from '../../src/restructure/lint/rules.ts';
import { findSquawk, LEFT_OUT } from '../../src/restructure/lint/squawk.ts';
import type { Example, Examples } from './lint-examples/examples.ts';
import { FUNCTIONS } from './lint-examples/functions.ts';
import { LOCKS } from './lint-examples/locks.ts';
import { MOVES } from './lint-examples/moves.ts';
import { PARTITIONS } from './lint-examples/partitions.ts';
import { POLICIES } from './lint-examples/policies.ts';
import { VIEWS } from './lint-examples/views.ts';

// What each rule finds, where, and what it leaves alone. Files of a set are `1.sql`, `2.sql`, … in this order.

const linted = (sql: string | readonly string[], options: LintOptions = {}): Promise<Report> =>
  lint(
    [sql].flat().map((each, index) => ({ path: `${index + 1}.sql`, sql: each })),
    options,
  );

/** As `1.sql:line:column rule`. */
async function found(sql: string | readonly string[], options: LintOptions = {}): Promise<string[]> {
  const { findings } = await linted(sql, options);
  return findings.map(({ path, line, column, rule }) => `${path}:${line}:${column} ${rule}`);
}

/** Rules that nearly every bad example breaks too are left out of the others. */
const OF_LOCKS = ['lock-without-timeout', 'more-than-one-hot-table-a-transaction'];
const but = (rule: string): LintOptions => ({ disabled: OF_LOCKS.filter((each) => each !== rule) });

const CASES: Examples = { ...MOVES, ...VIEWS, ...LOCKS, ...PARTITIONS, ...POLICIES, ...FUNCTIONS };

const named = (cases: readonly Example[]) => cases.map(([what, sql, where = []]) => ({ what, sql, where }));

describe.each(Object.entries(CASES))('%s', (rule, { bad, good }) => {
  const ofRule = async (sql: Example[1]) =>
    (await found(sql, but(rule))).filter((each) => each.endsWith(` ${rule}`)).map((each) => each.replace(/ .*/, ''));

  it.each(named(bad))('is found: $what', async ({ sql, where }) => {
    expect(await ofRule(sql)).toEqual(where);
  });

  it.each(named(good))('is not found: $what', async ({ sql }) => {
    expect(await ofRule(sql)).toEqual([]);
    // A good example is SQL.
    expect((await linted(sql)).findings.filter((each) => each.rule === 'syntax')).toEqual([]);
  });

  it('is disabled', async () => {
    for (const [, sql] of bad)
      expect((await found(sql, { disabled: [rule] })).filter((each) => each.endsWith(` ${rule}`))).toEqual([]);
  });
});

it('has examples of every rule', () => {
  expect(Object.keys(CASES).toSorted()).toEqual(RULES.map(({ id }) => id).toSorted());
  for (const [rule, { bad, good }] of Object.entries(CASES))
    expect([rule, bad.length > 0, good.length > 0]).toEqual([rule, true, true]);
});

describe('docs/lint.md', () => {
  const page = readFileSync(new URL('../../docs/lint.md', import.meta.url), 'utf8');
  const headings = [...page.matchAll(/^### `([\w/-]+)`$/gm)].map(([, id = '']) => id);
  const sections = page.split(/^### /m).slice(1);

  it('explains every rule once, and none that does not exist', () => {
    expect(headings.toSorted()).toEqual([...RULES.map(({ id }) => id), ...OWN_RULES].toSorted());
  });

  it.each(sections.map((section) => [section.split('\n')[0] ?? '', section] as const))(
    '%s says why, and what instead',
    (_title, section) => {
      expect(section).toMatch(/\n\*\*Why\.\*\* .{20,}/);
      expect(section).toMatch(/\n\*\*Instead\.\*\* .{10,}/);
    },
  );

  it("names what of squawk's is left out, with the reason", () => {
    for (const [rule, reason] of Object.entries(LEFT_OUT)) expect(page).toContain(`| \`${rule}\` | ${reason} |`);
    expect([...page.matchAll(/^\| `/gm)]).toHaveLength(Object.keys(LEFT_OUT).length);
  });
});

describe('messages', () => {
  it.each(Object.entries(CASES))('%s: one line that says what to do', async (rule, { bad }) => {
    for (const [, sql] of bad) {
      const { findings } = await linted(sql, but(rule));
      for (const { message } of findings.filter((each) => each.rule === rule)) {
        expect(message).toMatch(/^[^\n]{40,600}\.$/);
        expect(message).not.toMatch(/undefined|\[object|null\b/);
      }
    }
  });

  it('say of a name that format makes that it is one', async () => {
    const { findings } = await linted(`do $$ begin execute format('alter table %I.%I set schema s', x, y); end $$;`, {
      disabled: OF_LOCKS,
    });
    expect(findings[0]?.message).toMatch(/^<name>\.<name> moves to s\.<name> and nothing /);
  });

  it('name the tables', async () => {
    const { findings } = await linted('alter table sales.a add column x int; drop table b;', {
      disabled: ['lock-without-timeout'],
    });
    expect(findings[0]?.message).toMatch(/^This locks public\.b while sales\.a is locked, /);
  });
});

describe('locks', () => {
  it.each([
    ['alter table a disable trigger t', 'SHARE ROW EXCLUSIVE on public.a'],
    ['alter table a add foreign key (x) references b', 'SHARE ROW EXCLUSIVE on public.a'],
    ['create table c (x int references b)', 'SHARE ROW EXCLUSIVE on public.b'],
    ['create index on s.a (x)', 'SHARE on s.a'],
    ['lock table a in exclusive mode', 'EXCLUSIVE on public.a'],
    ['alter table a replica identity full', 'ACCESS EXCLUSIVE on public.a'],
    ['alter table d attach partition a default', 'ACCESS EXCLUSIVE on public.a'],
    ['drop table s.a, b', 'ACCESS EXCLUSIVE on s.a'],
    ['drop trigger t on s.a', 'ACCESS EXCLUSIVE on s.a'],
  ])('%s: %s', async (sql, lock) => {
    const { findings } = await linted(sql);
    expect(findings[0]?.message).toContain(`waits without end for ${lock}, `);
  });
});

describe('places', () => {
  it('count characters, whatever their bytes, and lines of either ending', async () => {
    expect(await found('select $$é𝄞$$;\r\n/* é𝄞 */ drop table a;\r\n')).toEqual(['1.sql:2:10 lock-without-timeout']);
  });

  it('are those of the statement in a body in quotes', async () => {
    const body = "create function f() returns void language plpgsql as ' begin alter table a set schema b; end ';";
    expect(await found(body)).toEqual(['1.sql:1:62 set-schema-without-view']);
    // With quotes inside, a place in the text is no place in the file.
    expect(await found(body.replace('begin ', "begin raise notice ''x''; "))).toEqual([
      '1.sql:1:1 set-schema-without-view',
    ]);
  });

  it('are those of each of two bodies that are the same', async () => {
    const block = 'do $$ begin alter table a set schema b; end $$;';
    expect(await found(`${block}\n${block}`, { disabled: OF_LOCKS })).toEqual([
      '1.sql:1:13 set-schema-without-view',
      '1.sql:2:13 set-schema-without-view',
    ]);
  });

  it('follow a body down, past what its parser takes out', async () => {
    const sql = `-- é\ncreate function f() returns void language plpgsql as $b$
declare v int;
begin
  select x into v from t where 'é' = 'é' and nextval('s') > 1;
  perform 1, setval('s', 2);
  if v > 1 then
    v := currval('s');
  end if;
end $b$;
alter sequence s set schema x;`;
    expect(await found(sql)).toEqual([
      '1.sql:5:46 nextval-of-moved-sequence',
      '1.sql:6:14 nextval-of-moved-sequence',
      '1.sql:8:10 nextval-of-moved-sequence',
    ]);
  });
});

it('allows what is found in a place that is not written out', async () => {
  const sql = `select 1;
-- lint: allow select-star-view because all of it is meant
create view v with (security_invoker) as table s.t;
-- lint: allow select-star-view because all of it is meant
do $$ begin
  create view w with (security_invoker) as table s.t;
end $$;`;
  expect(await linted(sql)).toMatchObject({ findings: [], allowed: 2 });
});

describe('transactions', () => {
  const two = 'alter table a add column x int; alter table b add column x int;';
  const isOne = async (sql: string, options: LintOptions = {}) =>
    (await found(sql, options)).some((each) => each.endsWith('more-than-one-hot-table-a-transaction'));

  it('are files, unless something divides them', async () => {
    expect(await isOne(two)).toBe(true);
    expect(await isOne(two, { alone: true })).toBe(false);
    expect(await isOne(`begin; ${two} commit;`, { alone: true })).toBe(true);
    expect(
      await isOne(
        'alter table a add column x int; commit; alter table b add column x int; alter table c add column x int;',
      ),
    ).toBe(false);
    expect(
      await isOne(
        'begin; alter table a add column x int; commit and chain; alter table b add column x int; alter table c add column x int;',
      ),
    ).toBe(true);
    expect(
      await isOne(
        'begin; savepoint s; alter table a add column x int; release s; alter table b add column x int; commit;',
      ),
    ).toBe(true);
  });

  it('end, also of partitions of each other, which PostgreSQL refuses', async () => {
    const circle =
      'alter table a attach partition b default; alter table b attach partition a default; alter table a attach partition a default;';
    expect(await found(circle, { disabled: [...OF_LOCKS, 'attach-with-default-partition'] })).toEqual([]);
  });

  it('are halves of a file that says how to undo it', async () => {
    expect(
      await isOne(
        '-- Up Migration\nalter table a add column x int;\n-- Down Migration\nalter table b add column x int;',
      ),
    ).toBe(false);
  });
});

describe('allow', () => {
  const rule = 'lock-without-timeout';
  it.each([
    ['above the statement', `-- lint: allow ${rule} because nobody reads it\ndrop table a;`],
    ['in it', `drop table -- lint: allow ${rule} because nobody reads it\n a;`],
    ['at its end', `drop table a; -- lint: allow ${rule} because nobody reads it\nselect 1;`],
    [
      'of several rules',
      `-- lint: allow ${rule}, more-than-one-hot-table-a-transaction because nobody reads it\ndrop table a; drop table c;`,
    ],
    ['in the last, without a semicolon', `select 1; drop table a -- lint: allow ${rule} because nobody reads it`],
    ['on a block', `-- lint: allow ${rule} because nobody reads it\ndo $$ begin drop table a; end $$;`],
  ])('%s', async (what, sql) => {
    const { findings, allowed } = await linted(sql);
    expect(allowed).toBe(1);
    expect(findings.map((each) => each.rule)).toEqual(
      what === 'of several rules' ? ['allow', 'more-than-one-hot-table-a-transaction'] : [],
    );
  });

  it.each([
    [
      'without a reason',
      `-- lint: allow ${rule}\ndrop table a;`,
      /^This allows nothing\. Write: -- lint: allow RULE because REASON/,
    ],
    ['with an empty one', `-- lint: allow ${rule} because \ndrop table a;`, /^This allows nothing/],
    [
      'of a rule that there is not',
      '-- lint: allow everything because I say so\ndrop table a;',
      /^There is no rule everything/,
    ],
    ["of one of the linter's own", '-- lint: allow syntax because I say so\ndrop table a;', /^There is no rule syntax/],
    [
      'on another statement',
      `-- lint: allow ${rule} because nobody reads it\nselect 1;\ndrop table a;`,
      /^There is no lock-without-timeout to allow here/,
    ],
    ['on nothing', `drop table a;\n-- lint: allow ${rule} because nobody reads it`, /^There is no statement/],
    ['misspelt', `-- lint: ignore ${rule}\ndrop table a;`, /^This allows nothing/],
  ])('is reported %s, and allows nothing', async (_what, sql, says) => {
    const { findings, allowed } = await linted(sql);
    expect(allowed).toBe(0);
    expect(findings.map((each) => each.rule).toSorted()).toEqual(['allow', rule]);
    expect(findings.find((each) => each.rule === 'allow')?.message).toMatch(says);
  });

  it('of a rule that was not asked is no fault', async () => {
    const sql = `-- lint: allow ${rule}, squawk/ban-drop-table because nobody reads it\ndrop table a;`;
    expect(await found(sql, { disabled: [rule] })).toEqual([]);
  });

  it('is a comment and no string', async () => {
    expect(await found(`select '-- lint: allow ${rule} because x'; drop table a;`)).toEqual([
      '1.sql:1:57 lock-without-timeout',
    ]);
  });
});

describe('what is no SQL', () => {
  it.each<[string, string, string[], RegExp]>([
    [
      'a mistake',
      'select 1;\nselect é fro m x;',
      ['1.sql:2:14 syntax'],
      /^PostgreSQL does not parse it: syntax error at or near "m"\. Nothing else in this file/,
    ],
    ['a string without end', "select 'x", ['1.sql:1:8 syntax'], /unterminated quoted string/],
    [
      'a variable of psql',
      "select :x;\nselect a[1:x], 'b'::x from :\"s\".t where c = :'d' and e = :x;\ndrop table a;",
      [
        '1.sql:1:8 psql-command',
        '1.sql:2:28 psql-command',
        '1.sql:2:45 psql-command',
        '1.sql:3:1 lock-without-timeout',
      ],
      /^:x is a variable of psql: .* Write the value, /,
    ],
    [
      'a variable of psql that is no name',
      'drop table a;\n:x;',
      ['1.sql:2:1 psql-command', '1.sql:2:2 syntax'],
      /^:x is a variable of psql/,
    ],
    [
      'a command of psql',
      'select 1;\n\\i other.sql\ndrop table a;',
      ['1.sql:2:1 psql-command', '1.sql:3:1 lock-without-timeout'],
      /^\\i is a command of psql/,
    ],
    [
      'commands of psql',
      "\\set x 1\n\\copy a from 'x'\nselect 1 \\g\n",
      ['1.sql:1:1 psql-command', '1.sql:2:1 psql-command', '1.sql:3:10 psql-command'],
      /^\\set is/,
    ],
    [
      'rows',
      'copy a (x) from stdin;\n1\té\n2\t\\N\n\\.\ndrop table a;',
      ['1.sql:2:1 psql-command', '1.sql:5:1 lock-without-timeout'],
      /^Rows behind COPY/,
    ],
    [
      'a policy that is deep',
      `create policy p on t using (${'not '.repeat(3_000)} f());`,
      ['1.sql:1:1 lock-without-timeout', '1.sql:1:12030 unwrapped-function-in-policy'],
      /^This waits/,
    ],
    ['too deep', `select ${'1 + '.repeat(100_000)} 1;`, ['1.sql:1:1 syntax'], /nested too deeply/],
  ])('%s', async (_what, sql, where, says) => {
    expect(await found(sql)).toEqual(where);
    expect((await linted(sql)).findings[0]?.message).toMatch(says);
  });

  it.each([
    ['nothing', ''],
    ['blanks', ' \n\t\n'],
    ['a comment', '-- nothing'],
    ['a backslash in a string', "select E'\\n', '\n\\i x';"],
  ])('and what is: %s', async (_what, sql) => {
    expect(await found(sql)).toEqual([]);
  });

  it('is told apart from what could not be looked into', async () => {
    const sql = `create function f() returns int language plpython3u as $$ return 1 $$;
do $$ begin execute 'drop table ' || x; end $$;
create function g() returns int language plpgsql as $$ begin this is none; end $$;
do $$ declare x t%rowtype; begin perform 1; end $$;`;
    const { findings, unread } = await linted(sql);
    expect(findings).toEqual([]);
    expect(unread.map(({ line, why }) => `${line} ${why}`)).toEqual([
      '1 a body in plpython3u',
      '2 SQL that is put together as it runs',
      expect.stringMatching(/^3 a body that is not parsed without the catalog: syntax error/),
    ]);
  });
});

describe('a baseline', () => {
  const sql = 'begin; drop table a; commit; begin; drop table a; commit;';
  const applied = (text: string, options: LintOptions = {}) =>
    linted(sql, { ...options, baseline: parseBaseline('base.txt', text) });

  it('leaves out so many findings of a rule in a file', async () => {
    const { findings, baselined } = await applied('# known\n\n1.sql lock-without-timeout 2 because it landed\n');
    expect({ findings, baselined }).toEqual({ findings: [], baselined: 2 });
  });

  it.each([
    ['less than there are', '1', ['1.sql lock-without-timeout', '1.sql lock-without-timeout', 'base.txt baseline']],
    ['more than there are', '3', ['1.sql lock-without-timeout', '1.sql lock-without-timeout', 'base.txt baseline']],
  ])('with %s is reported, and leaves out none', async (_what, count, expected) => {
    const { findings, baselined } = await applied(`1.sql lock-without-timeout ${count} because it landed`);
    expect(baselined).toBe(0);
    expect(findings.map(({ path, rule }) => `${path} ${rule}`)).toEqual(expected);
    expect(findings[2]?.message).toBe(
      `1.sql has 2 findings of lock-without-timeout, not ${count}. Correct the entry, or take it away.`,
    );
  });

  it('is stale where nothing is found any more, and not where nobody looked', async () => {
    const stale = '1.sql lock-without-timeout 2 because it landed\n1.sql select-star-view 1 because it landed\n';
    expect((await applied(stale)).findings).toMatchObject([{ rule: 'baseline', path: 'base.txt', line: 2, column: 1 }]);
    expect((await applied(stale, { disabled: ['select-star-view'] })).findings).toEqual([]);
    expect((await applied(`${stale.split('\n')[0]}\n2.sql select-star-view 1 because it landed`)).findings).toEqual([]);
  });

  it.each([
    '1.sql lock-without-timeout 2',
    '1.sql lock-without-timeout 0 because x',
    '1.sql lock-without-timeout because x',
    '1.sql x 1 because ',
  ])('refuses %s', (line) => {
    expect(() => parseBaseline('base.txt', `# x\n${line}\n`)).toThrow(/^base\.txt:2 is no entry of a baseline/);
  });
});

it('stops when it is told to', async () => {
  await expect(linted('select 1', { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'STOPPED' });
});

it('says how far it is, and is stopped between two statements', async () => {
  const said: string[] = [];
  const stop = new AbortController();
  const onProgress = (label: string, done: number, total: number) => {
    said.push(`${label} ${done} of ${total}`);
    if (done === 1_000) stop.abort();
  };
  const sql = 'select 1;'.repeat(1_500);
  await expect(linted([sql, sql], { signal: stop.signal, onProgress })).rejects.toMatchObject({ code: 'STOPPED' });
  expect(said).toEqual([
    'reading files 0 of 2',
    'reading files 1 of 2',
    'looking at statements 0 of 3000',
    'looking at statements 1000 of 3000',
  ]);
});

describe("squawk's findings", () => {
  const squawk = findSquawk();
  it.skipIf(squawk === undefined)('stand beside ours, in the same places', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'lint-[x]-'));
    try {
      const write = (name: string, sql: string) => {
        writeFileSync(join(folder, name), sql);
        return { path: join(folder, name), sql };
      };
      const sources = [
        write('1.sql', '/* é */ alter table a add column é int not null; alter table a rename to b;'),
        write('2.sql', '-- lint: allow squawk/ban-drop-column because nobody reads it\nalter table a drop column x;'),
        write('3.sql', '-- lint: no-transaction\ncreate index concurrently i on a (x);'),
        write('4.sql', 'create index concurrently i on a (x);'),
        write('5.sql', '-- lint: allow squawk/ban-drop-column because nobody reads it\nselect 1;'),
      ];
      const { findings } = await lint(sources, { squawk, disabled: ['lock-without-timeout'] });
      expect(findings.map(({ path, line, column, rule }) => `${basename(path)}:${line}:${column} ${rule}`)).toEqual([
        '1.sql:1:23 squawk/adding-required-field',
        '1.sql:1:50 rename-without-view',
        '4.sql:1:1 not-in-a-transaction',
        '5.sql:1:1 allow',
      ]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it.skipIf(squawk === undefined)('are asked for by names that it knows', async () => {
    await expect(
      lint([{ path: fileURLToPath(new URL('../../migrations/0005_replay.sql', import.meta.url)), sql: 'select 1' }], {
        squawk,
      }),
    ).resolves.toBeDefined();
  });

  it('fail in one line', async () => {
    const broken = { binary: process.execPath, version: '0' };
    await expect(lint([{ path: '1.sql', sql: 'select 1' }], { squawk: broken })).rejects.toMatchObject({
      code: 'SYSTEM_FAILED',
      message: expect.stringMatching(
        /^The rules of squawk were not asked: squawk failed: [^\n]+\. Remove the cause, or go without: --no-squawk\.$/,
      ),
    });
  });
});
