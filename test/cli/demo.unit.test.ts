import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { stateDirOfDemo } from '../../src/cli/demo.ts';
import { printableDatabaseUrl } from '../../src/config.ts';

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));

describe('the folder of the embedded server', () => {
  it('is one in a checkout, whatever the folder it is run in', () => {
    expect(stateDirOfDemo({ root: CHECKOUT, cwd: '/somewhere/else' })).toBe(join(CHECKOUT, '.liventix'));
  });

  it('is below where it is run when it is installed', () => {
    expect(stateDirOfDemo({ root: join(CHECKOUT, 'docs'), cwd: '/somewhere/else' })).toBe('/somewhere/else/.liventix');
  });
});

describe('a database that is shown', () => {
  it.each([
    ['postgresql://me:hunter2@db.example:5432/app', 'postgresql://me:***@db.example:5432/app'],
    ['postgresql://me@db.example/app', 'postgresql://me@db.example/app'],
    ['postgresql://db.example/app?user=me&password=hunter2', 'postgresql://db.example/app?user=me&password=***'],
    // What psql does not know, because it was put in for the driver.
    ['postgresql://db.example/app?sslmode=require&uselibpqcompat=true', 'postgresql://db.example/app?sslmode=require'],
  ])('%s reads %s', (url, shown) => {
    expect(printableDatabaseUrl(url)).toBe(shown);
  });
});
