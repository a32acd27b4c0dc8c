import { readFile } from 'node:fs/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { expectNothingLost, type LossDrill, startLossDrill } from '../support/loss.ts';
import { announceMany, BACKENDS_IN_SHORT } from '../support/outbox.ts';
import { answer } from '../support/receiver.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

const ENDPOINTS = 2;
const LEVELS = 1_500;
/** With what is around it, what the table takes at most. */
const MOST = 1_048_576 - '{"big": ""}'.length;
const LARGE_ONES = 40;
const MOST_MEMORY_MB = 700;
const PATIENCE_MS = 60_000;

/** As a program writes them into its INSERT. */
const PAYLOADS: Readonly<Record<string, string>> = {
  nothing: '{}',
  'deep nesting': `${'{"a":['.repeat(LEVELS)}1${']}'.repeat(LEVELS)}`,
  'numbers of any size': '{"big": 1e400, "small": 1e-400, "long": 9007199254740993.000000000000000001, "zero": -0}',
  'names that mean something to JavaScript':
    '{"__proto__": {"isAdmin": true}, "constructor": {"prototype": {"x": 1}}, "toJSON": 1, "then": 1, "length": -1}',
  'one name twice': '{"a": 1, "a": 2}',
  'what looks like headers': '{"webhook-id": "msg_1\\r\\nwebhook-signature: v1,AAAA\\r\\n\\r\\nGET / HTTP/1.1"}',
  'characters of any kind': '{"\\u0001": "\\u2028\\ud83d\\ude00\\uffff\\u202e", "": "\\\\\\"</script>"}',
};

const REFUSED: Readonly<Record<string, readonly [payload: string, sqlState: string]>> = {
  'a character that its text cannot hold': ['{"a": "\\u0000"}', '22P05'],
  'half of a character': ['{"a": "\\ud800"}', '22P02'],
  'nesting without end': [`${'['.repeat(1_000_000)}`, '54001'],
  'what is too large': [JSON.stringify({ big: 'x'.repeat(MOST + 1) }), '23514'],
  'what is no object': ['[1, 2]', '23514'],
};

/** Headers that nobody could send, written by whoever announces. */
const HEADERS: Readonly<Record<string, string>> = {
  'no object': '[1, 2]',
  'of ours': '{"host": "evil", "content-length": "0", "webhook-id": "x", "transfer-encoding": "chunked"}',
  'with line breaks': '{"x": "a\\r\\nwebhook-signature: v1,AAAA", "a b": "c", "__proto__": "y"}',
  many: JSON.stringify(Object.fromEntries(Array.from({ length: 5_000 }, (_, n) => [`x-${n}`, 'y']))),
  long: JSON.stringify({ x: 'y'.repeat(5_000_000) }),
};

/** What nobody can make a webhook of, by its column. */
const UNUSABLE: readonly string[] = [`'infinity'`, `'294276-01-01'`];

let database: TestDatabase;
let redis: TestRedis | undefined;
let drill: LossDrill;

afterEach(async () => {
  await drill.close();
  await redis?.stop();
  redis = undefined;
  await database.drop();
});

const bodies = new Map<string, string>();
const begin = async (backend: 'PostgreSQL' | 'Redis') => {
  database = await createDatabase();
  redis = backend === 'Redis' ? await startRedis() : undefined;
  bodies.clear();
  drill = await startLossDrill({
    databaseUrl: database.url,
    redisUrl: redis?.url,
    endpoint: { topics: ['drill.*'] },
    respond: (response, webhook) => {
      const type = /^\{"type":"drill\.poison"/;
      if (webhook.path === '/first' && type.test(webhook.body))
        bodies.set(`${webhook.headers['webhook-id']}`, webhook.body);
      answer(204)(response, webhook);
    },
  });
};
const announce = (columns: string, values: string, parameters: readonly unknown[] = []) =>
  database.pool.query(`insert into public.outbox (${columns}) values (${values})`, [...parameters]);

async function announcePoison(): Promise<void> {
  // Instants that no longer pass were taken before there was a constraint, and may still wait.
  await database.pool.query(
    'alter table public.outbox drop constraint outbox_deliver_after_reachable, drop constraint outbox_created_at_reachable',
  );
  for (const payload of Object.values(PAYLOADS)) await announce('topic, payload', `'drill.poison', $1`, [payload]);
  for (const headers of Object.values(HEADERS)) {
    await announce('topic, payload, headers', `'drill.poison', '{}', $1`, [headers]);
  }
  await database.pool.query(
    `insert into public.outbox (topic, payload)
     select 'drill.poison', jsonb_build_object('big', repeat('x', $1)) from generate_series(1, $2)`,
    [MOST, LARGE_ONES],
  );
  await announce('topic, payload', `'nobody.listens', '{}'`);
  for (const instant of UNUSABLE) await announce('topic, payload, created_at', `'drill.unusable', '{}', ${instant}`);
  await announce('topic, payload, created_at', `'drill.of_old', '{}', '-infinity'`);
  await announce('topic, payload, deliver_after', `'drill.never', '{}', 'infinity'`);
}

/** How much memory a worker has had at most. */
async function peakOf(pid: number): Promise<number> {
  const [, kB] = /^VmHWM:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Math.round(Number(kB) / 1_024);
}

describe.each(BACKENDS_IN_SHORT)(
  'poison among other messages, with jobs through %s',
  { timeout: 120_000 },
  (backend) => {
    it('arrives as PostgreSQL has it or is a dead letter that says why, stops nobody, and ends no worker', async () => {
      await begin(backend);
      const worker = drill.startWorker();
      await announceMany(database.pool, 200, 'drill.before');
      await announcePoison();
      await announceMany(database.pool, 200, 'drill.after');
      const isOver = async () => {
        const { rows } = await database.pool.query(
          `select topic, deliveries.state, count(*)::integer as n
         from outbox.deliveries join public.outbox on outbox.id = message_id where topic ~ '^drill.(unusable|never|before|after|poison)'
         group by 1, 2`,
        );
        const states = Object.fromEntries(rows.map(({ topic, state, n }) => [`${topic} ${state}`, n]));
        return (
          states['drill.unusable dead'] === ENDPOINTS * UNUSABLE.length &&
          states['drill.never pending'] === ENDPOINTS &&
          states['drill.before delivered'] === ENDPOINTS * 200 &&
          states['drill.after delivered'] === ENDPOINTS * 200
        );
      };
      await eventually('all that can be delivered is, and the rest is dead', isOver, PATIENCE_MS);
      const dead = await database.pool.query(
        `select distinct last_error, attempt from outbox.deliveries where state = 'dead'`,
      );
      expect(dead.rows).toEqual([{ last_error: 'no webhook can be made of it: Invalid time value', attempt: 1 }]);
      const poison = await database.pool.query<{ id: string; payload: string }>(
        `select 'msg_' || id as id, payload::text as payload from public.outbox where topic = 'drill.poison'`,
      );
      await eventually('all poison has arrived', () => bodies.size === poison.rows.length);
      for (const { id, payload } of poison.rows) {
        const body = bodies.get(id) ?? '';
        expect(body.slice(body.indexOf('"data":'))).toBe(`"data":${payload}}`);
      }
      await database.pool.query(
        `delete from outbox.deliveries using public.outbox where outbox.id = message_id and topic = 'drill.never'`,
      );
      await database.pool.query(`delete from public.outbox where topic !~ '^drill.(happened|before|after|poison)$'`);
      expectNothingLost(`poison, ${backend}`, await drill.finish());
      const peak = await peakOf(worker.pid);
      process.stdout.write(`drill: poison, ${backend}: the worker had ${peak} MB at most\n`);
      expect(peak).toBeLessThan(MOST_MEMORY_MB);
      expect(worker.log().filter(({ msg }) => msg.includes('fails'))).toEqual([]);
    });
  },
);

describe('the database', () => {
  it.each(Object.entries(REFUSED))('takes no message with %s', async (_what, [payload, code]) => {
    await begin('PostgreSQL');
    await expect(announce('topic, payload', `'drill.poison', $1`, [payload])).rejects.toMatchObject({ code });
  });
});
