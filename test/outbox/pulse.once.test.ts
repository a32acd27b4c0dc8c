import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { trackSockets } from '../../src/db/sockets.ts';
import { BREAKER_DEFAULTS } from '../../src/outbox/health.ts';
import { NOBODY } from '../../src/outbox/observer.ts';
import { createOutageLog } from '../../src/outbox/outage-log.ts';
import type { DeliveryQueue } from '../../src/outbox/queue.ts';
import { type Relay, startRelay } from '../../src/outbox/relay.ts';
import { judgeLiveness } from '../../src/outbox/watch/liveness.ts';
import { Pulse } from '../../src/outbox/watch/pulse.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { type WeakLink, weakLink } from './weak-link.ts';

/** The pulse's clock runs so much faster: its limit of 30 s is one and a half of ours. */
const FASTER = 20;
const BEYOND_LIMIT_MS = 2_500;

let database: TestDatabase;
let link: WeakLink;
let relay: Relay;
let pulse: Pulse;
const sockets = trackSockets();

beforeAll(async () => {
  database = await createDatabase();
});
beforeEach(async () => {
  link = await weakLink(database.url);
});
afterEach(async () => {
  void relay.stop();
  await link.close();
});
afterAll(() => database.drop());

function start(queue: Pick<DeliveryQueue, 'wasEmptied'>): void {
  const outage = createOutageLog({ log: pino({ level: 'silent' }), server: 'it' });
  pulse = new Pulse(() => performance.now() * FASTER);
  pulse.enter('running');
  relay = startRelay({
    databaseUrl: link.url,
    sockets,
    queue: { ...queue, answers: () => true, markIntact: async () => undefined } as DeliveryQueue,
    log: pino({ level: 'silent' }),
    outages: { postgres: outage, queue: outage },
    pollMs: 200,
    sweepMs: 200,
    queueLeaseMs: 60_000,
    queryTimeoutMs: 300,
    maxLost: 5,
    breaker: BREAKER_DEFAULTS,
    observer: { ...NOBODY, beat: (part) => part === 'relay' && pulse.beat(part) },
  });
}
/** The presence is another's. */
const isRelayAlive = () => {
  pulse.beat('presence');
  return judgeLiveness(pulse.vitals(0)).length === 0;
};
const staysAlive = async () => {
  const from = performance.now();
  await eventually('more than the limit has passed', () => {
    expect(isRelayAlive()).toBe(true);
    return performance.now() - from > BEYOND_LIMIT_MS;
  });
};

it('a relay that looks and sleeps is alive', async () => {
  start({ wasEmptied: async () => false });
  await eventually('it leads', () => relay.leads());
  await staysAlive();
});

it('a relay that waits for ever for its queue is not alive', async () => {
  start({ wasEmptied: () => new Promise(() => undefined) });
  await eventually('it is not alive', () => !isRelayAlive());
});

it.each<[string, () => void]>([
  ['refuses its connections', () => link.cut()],
  ['went silent on those that are open', () => link.silenceOpen()],
])('a relay whose database %s is alive: it goes on trying', async (_what, goAway) => {
  start({ wasEmptied: async () => false });
  await eventually('it leads', () => relay.leads());
  goAway();
  await staysAlive();
});
