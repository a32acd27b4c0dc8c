import { describe, expect, it } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { judgeLiveness, LIVENESS_LIMITS_MS, type Vitals } from '../../src/outbox/watch/liveness.ts';
import { Pulse } from '../../src/outbox/watch/pulse.ts';
import { createReadiness } from '../../src/outbox/watch/readiness.ts';
import { Standstill } from '../../src/outbox/watch/standstill.ts';

const WELL: Vitals = {
  stage: 'running',
  stageMs: 1_000_000,
  blockedMs: 20,
  silentMs: { relay: 10, presence: 10 },
  jobsLeftMs: 0,
  standstillMs: 0,
};
const partsOf = (vitals: Partial<Vitals>) => judgeLiveness({ ...WELL, ...vitals }).map(({ part }) => part);

describe('a worker is alive', () => {
  it('while all of it gets on, however long it runs', () => {
    expect(partsOf({})).toEqual([]);
  });

  it.each<[string, keyof typeof LIVENESS_LIMITS_MS, (ms: number) => Partial<Vitals>]>([
    ['event-loop', 'blocked', (ms) => ({ blockedMs: ms })],
    ['relay', 'relay', (ms) => ({ silentMs: { relay: ms, presence: 0 } })],
    ['presence', 'presence', (ms) => ({ silentMs: { relay: 0, presence: ms } })],
    ['queue', 'jobsLeft', (ms) => ({ jobsLeftMs: ms })],
    ['deliveries', 'standstill', (ms) => ({ standstillMs: ms })],
    ['start', 'starting', (ms) => ({ stage: 'starting', stageMs: ms })],
  ])('unless %s stands still beyond its limit', (part, limit, vitals) => {
    expect(partsOf(vitals(LIVENESS_LIMITS_MS[limit]))).toEqual([]);
    expect(partsOf(vitals(LIVENESS_LIMITS_MS[limit] + 1))).toEqual([part]);
  });

  it.each(['starting', 'stopping'] as const)('without its loops while it is %s', (stage) => {
    expect(partsOf({ stage, stageMs: 0, silentMs: { relay: 1e9, presence: 1e9 }, standstillMs: 1e9 })).toEqual([]);
  });

  it('is told with what it was without, for how long, and for how long it may be', () => {
    expect(judgeLiveness({ ...WELL, silentMs: { relay: 45_000, presence: 0 } })).toEqual([
      { part: 'relay', found: 'the relay neither looked nor tried to connect', seconds: 45, limitSeconds: 30 },
    ]);
  });
});

describe('a pulse', () => {
  it('counts from the last beat, and from the beginning of a stage', () => {
    let now = 0;
    const pulse = new Pulse(() => now);
    now = 5_000;
    expect(pulse.vitals(0)).toMatchObject({ stage: 'starting', stageMs: 5_000 });
    pulse.enter('running');
    now = 7_000;
    pulse.beat('presence');
    now = 8_000;
    expect(pulse.vitals(3)).toMatchObject({
      stageMs: 3_000,
      blockedMs: 3,
      silentMs: { relay: 3_000, presence: 1_000 },
    });
  });
});

describe('a standstill', () => {
  it('lasts while something waits and nothing moves', () => {
    const standstill = new Standstill();
    standstill.observe(true, 'a', 100);
    standstill.observe(true, 'a', 200);
    expect(standstill.forMs(300)).toBe(200);
    standstill.observe(true, 'b', 300);
    expect(standstill.forMs(350)).toBe(50);
    standstill.observe(false, 'b', 400);
    expect(standstill.forMs(1_000)).toBe(0);
    standstill.observe(true, 'b', 1_000);
    expect(standstill.forMs(1_001)).toBe(1);
  });
});

describe('readiness', () => {
  const works = async () => undefined;
  const all = { postgresql: works, migrations: works, queue: works, listener: works };
  const fails = async () => {
    throw new AppError('QUEUE_UNREACHABLE', 'Redis is away.');
  };
  const never = new AbortController().signal;

  it('names what fails, why, and since when, and counts how often that began', async () => {
    let minute = 0;
    const readiness = createReadiness(() => new Date(Date.UTC(2026, 0, 1, 0, minute)));
    await readiness.ask(all, never);
    expect(readiness.failing()).toEqual([]);
    for (minute of [1, 2]) await readiness.ask({ ...all, queue: fails }, never);
    expect(readiness.failing()).toEqual([
      { part: 'queue', since: new Date('2026-01-01T00:01:00Z'), why: 'QUEUE_UNREACHABLE: Redis is away.' },
    ]);
    await readiness.ask(all, never);
    expect(readiness.failing()).toEqual([]);
    await readiness.ask({ ...all, queue: fails }, never);
    expect([readiness.outages('queue'), readiness.outages('postgresql')]).toEqual([2, 0]);
  });

  it('takes silence for a failure', async () => {
    const readiness = createReadiness();
    await readiness.ask({ ...all, postgresql: () => new Promise(() => undefined) }, never);
    expect(readiness.failing()).toMatchObject([{ part: 'postgresql', why: 'no answer within 1500 ms' }]);
  });
});
