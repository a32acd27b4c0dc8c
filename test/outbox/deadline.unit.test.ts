import { expect, it } from 'vitest';
import { inTime } from '../../src/outbox/deadline.ts';

it('does not wait for the time limit when the signal was aborted before', async () => {
  const never = new Promise<never>(() => undefined);
  const startedAt = performance.now();
  await expect(inTime(never, { ms: 2_000, signal: AbortSignal.abort() })).rejects.toThrow('closed meanwhile');
  expect(performance.now() - startedAt).toBeLessThan(1_000);
});
