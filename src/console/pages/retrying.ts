import { z } from 'zod';
import type { Pool } from '../../db/pool.ts';
import type { Markup } from '../../html/markup.ts';
import { formatInstant, type View } from '../../html/view.ts';
import { countWorkers } from '../../outbox/backlog.ts';
import { planRetryOf, type RetryPlan, retryPlanned, type WaitingDelivery } from '../../outbox/dead-letters.ts';
import { assertEnabled } from '../../outbox/delivery-filter.ts';
import { getMessageStory } from '../../outbox/message-story.ts';
import { type Ask, defineAction } from '../page.ts';
import { button } from '../parts.ts';
import { rowNumber } from '../query.ts';
import { deliveryPath } from './outbox-parts.ts';

interface DeadLetter {
  readonly id: bigint;
  /** Those that were made when the page was. */
  readonly attempts: number;
  /** Where to go on. */
  readonly back: string;
}

/** Lets one dead letter be attempted again: the one that is shown, not one that it has become since. */
export const retryButton = (ask: Ask, { id, attempts, back }: DeadLetter): Markup =>
  button(ask, {
    action: `${deliveryPath(id)}/retry`,
    needs: 'retry deliveries',
    label: 'Retry',
    fields: { attempts: attempts.toString(), back },
  });

export const retryOneAction = defineAction({
  path: '/outbox/deliveries/:delivery/retry',
  name: 'retry a delivery',
  needs: 'retry deliveries',
  input: z.object({
    delivery: rowNumber,
    attempts: z.string().regex(/^\d{1,9}$/, { error: 'a whole number' }),
    back: z
      .string()
      .max(4_000)
      .regex(/^\/outbox(\/|\?|$)/, { error: 'a page of the outbox' })
      .optional(),
  }),
  subject: ({ delivery }) => deliveryPath(BigInt(delivery)),
  act: async ({ owner, view }, { delivery, attempts, back }) => {
    const message = await retryOne(owner, { id: BigInt(delivery), attempts: Number(attempts) }, view);
    return { message, to: back ?? deliveryPath(BigInt(delivery)) };
  },
});

async function retryOne(
  owner: Pool,
  { id, attempts }: Pick<DeadLetter, 'id' | 'attempts'>,
  view: View,
): Promise<string> {
  const plan = await planRetryOf(owner, [id]);
  assertEnabled(plan.endpoints);
  const made = (await getMessageStory(owner, { deliveryId: id })).deliveries[0]?.attemptsMade ?? 0;
  if (plan.deliveries === 0) return untouched(id, plan, view);
  if (made !== attempts) {
    return `Delivery ${id} was retried meanwhile: ${made} attempts were made by now, not ${attempts} as the page said. It was left alone: look at the last, and press again if it is to be sent once more.`;
  }
  const { retried } = await runToEnd(owner, plan, AbortSignal.timeout(MAX_RUN_MS));
  if (retried === 0) return `Somebody else retried delivery ${id} at this moment: nothing was done twice.`;
  return `Delivery ${id} is attempted again.${await unsentNotice(owner)}`;
}

function untouched(id: bigint, { leftAlone, waiting }: RetryPlan, view: View): string {
  const [state = 'gone'] = Object.keys(leftAlone);
  const [why] = waiting;
  return `Delivery ${id} is ${state}, so it was left alone and nothing was done.${why === undefined ? '' : waitingText(why, view)}`;
}

const waitingText = ({ behind, notBefore }: WaitingDelivery, view: View): string =>
  behind === null
    ? ` Its message is not to be sent before ${notBefore === null ? 'an instant' : formatInstant(notBefore, view)}.`
    : ` It waits behind delivery ${behind}, which is sent first.`;

/** So long one press works: then the page says what is left. */
export const MAX_RUN_MS = 10_000;

/** Does a plan, or as much as there is time for. */
export async function runToEnd(
  owner: Pool,
  plan: RetryPlan,
  stop: AbortSignal,
): Promise<{ readonly done: number; readonly retried: number }> {
  let reached = { done: 0, retried: 0 };
  for await (reached of retryPlanned(owner, plan, { stop }));
  return reached;
}

/** Of what was just let be sent. */
export const unsentNotice = async (owner: Pool): Promise<string> =>
  (await countWorkers(owner)) > 0 ? '' : ' No worker runs: it is sent when one does (liventix worker).';
