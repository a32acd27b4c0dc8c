import type { Pool, Tx } from '../../db/pool.ts';
import { isReadOnly } from '../../db/sqlstate.ts';
import { withTransaction } from '../../db/transaction.ts';
import type { TableFacts } from './facts.ts';
import { blocks, type Finding, note } from './findings.ts';
import type { Entry } from './mapping.ts';
import { literal, qualified, STAGE } from './names.ts';

const PROBE = `${STAGE}.liventix_probe`;

/** What the server does not take of what a mapping says of a table: tried on an empty one of its shape, in a transaction that is undone. @throws AppError DB_* */
export async function probeMapping(pool: Pool, facts: TableFacts, entry: Entry): Promise<readonly Finding[]> {
  const { table, zone, whenNull, indexes } = entry;
  const tries = [
    { what: `"zone": "${zone}"`, sql: `select now() at time zone ${literal(zone)}` },
    ...(whenNull === undefined
      ? []
      : [{ what: `"whenNull": "${whenNull}"`, sql: `select (${whenNull})::${facts.key?.type} from ${PROBE} t` }]),
    ...indexes.map((definition) => ({
      what: `"indexes": "${definition}"`,
      sql: `create index on ${PROBE} using ${definition}`,
    })),
  ];
  const findings: Finding[] = [];
  const undo = new Error('undone');
  await withTransaction(pool, async (tx) => {
    await tx.query(`create table ${PROBE} (like ${qualified(facts.schema, facts.name)})`);
    for (const { what, sql } of tries) {
      const fault = await faultOf(tx, sql);
      if (fault !== undefined) findings.push(blocks('mapping', `${table}: ${what} in the mapping: ${fault}`));
    }
    throw undo;
  }).catch((error: unknown) => {
    const { cause } = error as Error;
    if (cause === undo) return;
    if (!isReadOnly(cause)) throw error;
    findings.push(
      note(
        'not-tried',
        'What the server takes of the mapping was not tried: nothing can be written here, as on a standby',
      ),
    );
  });
  return findings;
}

/** As one statement: what a text of the mapping says beside is no part of it. */
async function faultOf(tx: Tx, text: string): Promise<string | undefined> {
  await tx.query('savepoint probe');
  const statement = { text, queryMode: 'extended' };
  const fault = await tx.query(statement).then(
    () => undefined,
    (error: Error) => error.message,
  );
  await tx.query('rollback to savepoint probe');
  return fault;
}
