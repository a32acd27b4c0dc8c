import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LIVENTIX_MAPPING, readMapping } from '../../src/restructure/mapping.ts';
import { ATTACKERS, type Besieged, besiegedPlatform } from '../support/tenancy/every-table.ts';
import {
  insertAttacks,
  moveAttacks,
  nameAttacks,
  WITHOUT_GUARDS,
  wideningAttacks,
} from '../support/tenancy/forgeries.ts';

let platform: Besieged;
beforeAll(async () => {
  platform = await besiegedPlatform();
});
afterAll(() => platform.close());

describe.each(ATTACKERS)('rows of others: %s', (name) => {
  it('inserts none, as an upsert neither', async () => {
    expect(await platform.onEveryTable(platform.people[name], insertAttacks, WITHOUT_GUARDS)).toEqual([]);
  });

  it('writes none in his own name, of what he may not see', async () => {
    expect(await platform.onEveryTable(platform.people[name], nameAttacks, WITHOUT_GUARDS)).toEqual([]);
  });

  it('makes none of his own', async () => {
    expect(await platform.onEveryTable(platform.people[name], moveAttacks, WITHOUT_GUARDS)).toEqual([]);
  });

  it('sees no more of them by what he writes of his own', async () => {
    const { tenancy } = await readMapping(LIVENTIX_MAPPING);
    if (tenancy === undefined) throw new Error('nobody is kept apart');
    const widening = wideningAttacks(platform.tables, tenancy);
    expect(await platform.onEveryTable(platform.people[name], widening, WITHOUT_GUARDS)).toEqual([]);
  });
});
