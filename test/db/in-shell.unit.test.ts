import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';
import { ofLost } from '../../src/analytics/partitions/tables.ts';
import { inShell } from '../../src/db/in-shell.ts';

it.each([
  'stats.impressions',
  'My App.Besuche täglich',
  `it's.a "name"`,
  '$(echo no).`no` \\ ; * & | > ~ ! #',
  'two\nlines.x',
  '',
])('%j is the word that a shell takes it for', (word) => {
  expect(execFileSync('sh', ['-c', `printf %s ${inShell(word)}`], { encoding: 'utf8' })).toBe(word);
});

it('what is advised about a table can be pasted, whatever it is called', () => {
  expect(ofLost('My App.Besuche täglich')).toMatch(/ --table 'My App\.Besuche täglich'$/);
});

it('a name that needs no quotes has none', () => {
  expect(inShell('statistik.besuche_täglich')).toBe('statistik.besuche_täglich');
});
