import type { Act, Turn } from './act.ts';

/** How often what is done, in parts of the whole. */
const WEIGHTS: Readonly<Record<string, number>> = {
  read: 30,
  list: 10,
  join: 12,
  call: 8,
  update: 8,
  'lock and update': 6,
  upsert: 6,
  insert: 8,
  delete: 2,
  'update two': 4,
  count: 4,
  'insert by JSON': 1,
  'sign up': 1,
  cascade: 1,
  'with row-level security': 8,
};

export type Draw = (pick: Turn['pick']) => Act;

/** First what, by its weight, then on which table, each as likely as the other. */
export function draw(acts: readonly Act[]): Draw {
  const kinds = Object.entries(WEIGHTS).flatMap(([kind, weight]) => {
    const own = acts.filter((act) => act.kind === kind);
    if (own.length === 0) throw new Error(`nothing of the kind ${kind} is possible`);
    return Array.from({ length: weight }, () => own);
  });
  return (pick) => {
    const own = kinds[pick(kinds.length)] ?? [];
    const act = own[pick(own.length)];
    if (act === undefined) throw new Error('there is nothing to do');
    return act;
  };
}
