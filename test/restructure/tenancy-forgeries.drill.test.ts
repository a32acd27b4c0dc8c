import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ATTACKERS, type Besieged, besiegedPlatform } from '../support/tenancy/every-table.ts';
import { insertAttacks, moveAttacks } from '../support/tenancy/forgeries.ts';

let platform: Besieged;
beforeAll(async () => {
  platform = await besiegedPlatform();
});
afterAll(() => platform.close());

describe.each(ATTACKERS)('rows of others: %s', (name) => {
  it('inserts none, as an upsert neither', async () => {
    expect(await platform.onEveryTable(platform.people[name], insertAttacks)).toEqual([]);
  });

  it('makes none of his own', async () => {
    expect(await platform.onEveryTable(platform.people[name], moveAttacks)).toEqual([]);
  });
});
