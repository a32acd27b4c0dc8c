import { describe, expect, it } from 'vitest';
import type { AttemptRecord } from '../../src/outbox/attempts.ts';
import { createRecentRecords } from '../../src/outbox/recent-records.ts';

/** As much as is kept of a response. */
const LONGEST_ANSWER = 'x'.repeat(8 * 1024);
const BATCH = 500;
const MEGABYTE = 1024 * 1024;

let deliveries = 0;
function recorded(response: string | null): AttemptRecord {
  deliveries += 1;
  return {
    deliveryId: `${deliveries}`,
    day: '2026-11-29',
    attempt: 1,
    messageId: '00000000-0000-0000-0000-000000000001',
    endpointId: '00000000-0000-0000-0000-000000000002',
    endpointVersion: 1n,
    startedAt: new Date(),
    durationMs: 1,
    statusCode: 204,
    errorClass: null,
    error: null,
    response,
    address: '127.0.0.1',
    next: { state: 'delivered' },
  };
}
const batch = (response: string | null) => Array.from({ length: BATCH }, () => recorded(response));
const keptBytes = (records: readonly AttemptRecord[]) =>
  records.reduce((sum, { response }) => sum + 2 * (response?.length ?? 0), 0);

describe('what was recorded a moment ago', () => {
  it('is kept, each attempt once, until ten seconds have passed', () => {
    let now = 0;
    const recent = createRecentRecords(() => now);
    const [first, second] = [batch('ok'), batch('ok')];
    recent.add(first);
    now = 6_000;
    recent.add(second);
    recent.add(second);
    expect(recent.all()).toEqual([...first, ...second]);
    now = 10_001;
    expect(recent.all()).toEqual(second);
  });

  it('is kept in as little memory however much the endpoints answer, and of it the last', () => {
    const recent = createRecentRecords(() => 0);
    const last = batch(LONGEST_ANSWER);
    for (let batches = 1; batches < 20; batches += 1) recent.add(batch(LONGEST_ANSWER));
    recent.add(last);
    expect(keptBytes(recent.all())).toBeLessThanOrEqual(32 * MEGABYTE);
    expect(recent.all().slice(-BATCH)).toEqual(last);
    // What they answered before takes nobody's place once it is forgotten.
    for (let batches = 0; batches < 30; batches += 1) recent.add(batch(null));
    expect(
      recent
        .all()
        .slice(-30 * BATCH)
        .every(({ response }) => response === null),
    ).toBe(true);
  });
});
