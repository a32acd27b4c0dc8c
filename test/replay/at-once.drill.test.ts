import { expect, it } from 'vitest';
import { COMMANDS, drillAtOnce, undisturbed } from '../support/drill.ts';

/** What the others may be told; else they wait, or find it done. */
const OTHERS_MAY_SAY: Readonly<Record<string, string>> = { run: 'BACKFILL_RUNNING' };

it.each(COMMANDS)('three of $name at once come to what one does, and none fails for another', async (command) => {
  const { outcomes, history } = await drillAtOnce(command);
  const refusals = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []));
  for (const refusal of refusals) expect(refusal).toMatchObject({ code: OTHERS_MAY_SAY[command.name] ?? 'none' });
  expect(refusals.length).toBeLessThan(outcomes.length);
  expect(history).toBe(await undisturbed(command, { isFollowed: true }));
});
