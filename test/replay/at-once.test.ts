import { expect, it } from 'vitest';
import { COMMANDS, drillAtOnce, undisturbed } from '../support/drill.ts';

/** What the second may be told; by itself it would have waited, or found it done. */
const SECOND_MAY_SAY: Readonly<Record<string, string>> = { run: 'BACKFILL_RUNNING' };

it.each(COMMANDS)('two of $name at once come to what one does, and none fails for the other', async (command) => {
  const { outcomes, history } = await drillAtOnce(command);
  const refusals = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []));
  for (const refusal of refusals) expect(refusal).toMatchObject({ code: SECOND_MAY_SAY[command.name] ?? 'none' });
  expect(refusals.length).toBeLessThan(2);
  expect(history).toBe(await undisturbed(command, { isFollowed: true }));
});
