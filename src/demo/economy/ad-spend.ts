import type { Random } from './random.ts';

/** What was shown or clicked, and what it costs: ⌈quantity / 1000 × rate⌉ or quantity × rate. */
export interface Charge {
  readonly rateModel: 'cpm' | 'cpc';
  readonly quantity: number;
  readonly rateCents: number;
  readonly credits: number;
}

/** A day's charge of a campaign, at most `limitCredits`; undefined when not even one view or click fits. */
export function dailyCharge(random: Random, limitCredits: number): Charge | undefined {
  const perThousand = random.below(3) > 0;
  const rateCents = perThousand ? random.between(6, 14) * 50 : random.between(2, 12) * 5;
  const wanted = perThousand ? random.between(100, 3_000) : random.between(1, 40);
  const affordable = Math.floor(perThousand ? (limitCredits * 1_000) / rateCents : limitCredits / rateCents);
  const quantity = Math.min(wanted, affordable);
  if (quantity < 1) return undefined;
  const credits = perThousand ? Math.ceil((quantity * rateCents) / 1_000) : quantity * rateCents;
  return { rateModel: perThousand ? 'cpm' : 'cpc', quantity, rateCents, credits };
}
