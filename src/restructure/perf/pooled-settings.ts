import { randomUUID } from 'node:crypto';
import pg from 'pg';
import type { Load } from './recording.ts';

type Check = Load['checks'][number];
type Finding = Pick<Check, 'holds' | 'detail'>;

/** So many clients come one after another: more than a pooler keeps connections for a quiet user. */
const CLIENTS = 8;

const CLAIMS = '{"role":"authenticated","sub":"00000000-0000-4000-8000-000000000000"}';

async function withClient<T>(config: pg.ClientConfig, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client(config);
  client.on('error', () => undefined);
  try {
    await client.connect();
    return await work(client);
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** One client sets them, as the API does; then several others, and it once more, look at what they have. */
async function settingsEnd(url: string): Promise<Finding> {
  return withClient({ connectionString: url }, async (first) => {
    const before = await settingsOf(first);
    await first.query(
      `begin; set local search_path = pg_catalog; set local statement_timeout = 12345;
       select set_config('request.jwt.claims', '${CLAIMS}', true); commit`,
    );
    for (let place = 0; place < CLIENTS; place += 1) {
      const seen = await withClient({ connectionString: url }, settingsOf);
      if (seen !== before) return { holds: false, detail: `somebody else found ${seen}` };
    }
    const after = await settingsOf(first);
    return {
      holds: after === before,
      detail: after === before ? `${CLIENTS} others found nothing of them` : `found ${after}`,
    };
  });
}

async function settingsOf(client: pg.Client): Promise<string> {
  const { rows } = await client.query<{ settings: string }>(
    `select concat_ws(', ', current_user, current_setting('search_path'), current_setting('statement_timeout'),
       coalesce(nullif(current_setting('request.jwt.claims', true), ''), 'no claims')) as settings`,
  );
  return rows[0]?.settings ?? '';
}

const parametersWork = (url: string): Promise<Finding> =>
  withClient({ connectionString: url }, async (client) => {
    const { rows } = await client.query<{ sum: number }>('select $1::int4 + $2::int4 as sum', [1, 2]);
    return { holds: rows[0]?.sum === 3, detail: 'unnamed statements, as our API sends them' };
  });

/** Twice, the second time while somebody else has the connection that it was prepared on. */
const namedStatementsWork = (url: string): Promise<Finding> =>
  withClient({ connectionString: url }, async (client) => {
    const name = `liventix_${randomUUID()}`;
    const ask = () => client.query({ name, text: 'select $1::int4 as one', values: [1] });
    await ask();
    await withClient({ connectionString: url }, async (other) => {
      await other.query('begin');
      await ask();
    });
    return { holds: true, detail: 'the pooler keeps them' };
  });

/** What our own commands and PostgREST send; a pooler that refuses it has to be told to ignore it, and then the settings are not made. */
const optionsAreTaken = (url: string): Promise<Finding> =>
  withClient({ connectionString: url, options: '-c lock_timeout=12345' }, async (client) => {
    const { rows } = await client.query<{ value: string }>(`select current_setting('lock_timeout') as value`);
    const value = rows[0]?.value;
    return value === '12345ms'
      ? { holds: true, detail: 'they are made' }
      : {
          holds: false,
          detail: `they are let through and not made: lock_timeout is ${value}. Commands of liventix want the server itself`,
        };
  });

const CHECKS: readonly (readonly [string, (url: string) => Promise<Finding>])[] = [
  ['settings of a request end with it: claims, search_path, statement_timeout', settingsEnd],
  ['what a request is asked with comes as parameters', parametersWork],
  ['a statement that is prepared by name is found again', namedStatementsWork],
  ['settings of a session may be sent when it begins (options)', optionsAreTaken],
];

/**
 * Whether what the API sets for one request stays with that request when connections are shared by transaction, and what of a session does
 * not work there.
 */
export async function checkTransactionPooling(poolerUrl: string): Promise<readonly Check[]> {
  const checks: Check[] = [];
  for (const [what, check] of CHECKS) {
    checks.push({
      what,
      ...(await check(poolerUrl).catch((error: Error) => ({ holds: false, detail: error.message }))),
    });
  }
  return checks;
}
