import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { blindAttacks } from '../support/tenancy/attacks.ts';
import { ATTACKERS, type Besieged, besiegedPlatform } from '../support/tenancy/every-table.ts';
import { factsOf } from '../support/tenancy/facts.ts';
import { newName } from '../support/tenancy/rows.ts';

let platform: Besieged;
beforeAll(async () => {
  platform = await besiegedPlatform();
});
afterAll(() => platform.close());

describe.each(ATTACKERS)('rows of others: %s', (name) => {
  it('changes and deletes none, by any name, whether told of them or not, and empties no table', async () => {
    // Foreign keys would refuse what policies let through.
    const quietly = 'set local session_replication_role = replica';
    expect(await platform.onEveryTable(platform.people[name], blindAttacks, quietly)).toEqual([]);
  });
});

describe('the organization of a row', () => {
  /** Tables with a row whose organization is not what the facts say. */
  const wrong = async (tx: Tx) => {
    const found = [];
    for (const table of platform.tables) {
      const { rows: columns } = await tx.query(
        `select from pg_attribute where attrelid = $1::regclass and attname = 'organization_id' and not attisdropped`,
        [newName(table)],
      );
      const { organization } = factsOf(table.name);
      if (columns.length === 0 || organization === undefined) continue;
      const { rows } = await tx.query<{ n: number }>(
        `select count(*)::integer as n from ${newName(table)} t where t.organization_id is distinct from ${organization}`,
      );
      if (rows[0]?.n !== 0) found.push(`${table.name}: ${rows[0]?.n}`);
    }
    return found;
  };
  const inTransaction = async (work: (tx: Tx) => Promise<unknown>) => {
    const tx = await platform.pool.connect();
    try {
      await tx.query('begin');
      await work(tx);
    } finally {
      await tx.query('rollback');
      tx.release();
    }
  };

  it('is that of what it belongs to, in every row', async () => {
    await inTransaction(async (tx) => expect(await wrong(tx)).toEqual([]));
  });

  it('follows an event that goes to another organization, down to the last of its rows', async () => {
    await inTransaction(async (tx) => {
      const { rowCount } = await tx.query(
        `update public.events set owner_context_id = $2 where owner_context_id = $1 and owner_context_type = 'organization'`,
        [platform.people.organizationA, platform.people.organizationB],
      );
      expect(rowCount).toBeGreaterThan(3);
      expect(await wrong(tx)).toEqual([]);
      await tx.query(`update public.events set owner_context_type = 'individual' where owner_context_id = $1`, [
        platform.people.organizationB,
      ]);
      expect(await wrong(tx)).toEqual([]);
    });
  });

  it('follows what every table says that it is of, so that a table that is declared later follows too', async () => {
    await inTransaction(async (tx) => {
      const { rows } = await tx.query<{ n: number }>(
        `select (count(*) filter (where tgname = 'zz_organization') - count(*) filter (where tgname ~ '^zz_organization_follows'))::integer as n
         from pg_trigger where not tgisinternal and tgparentid = 0`,
      );
      expect(rows).toEqual([{ n: 0 }]);
    });
  });

  it('is what the trigger says, whatever is written there', async () => {
    await inTransaction(async (tx) => {
      for (const table of platform.tables.filter(({ name }) =>
        ['orders', 'event_posts', 'ad_creatives', 'event_impressions_p'].includes(name),
      )) {
        await tx.query(`update ${newName(table)} set organization_id = $1`, [platform.people.organizationB]);
      }
      expect(await wrong(tx)).toEqual([]);
    });
  });
});
