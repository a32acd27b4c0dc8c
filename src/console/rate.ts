/** How fast something grows that pages look at. */
export interface Rate {
  /** What it has come to now; a second, over the last looks. Undefined until there are two that lie apart. */
  seen(amount: bigint): number | undefined;
}

const WINDOW_MS = 60_000;
const LEAST_MS = 1_000;
const MOST_LOOKS = 200;

/** Remembers the looks of the last minute, whoever looked. */
export function startRate(now: () => number = () => performance.now()): Rate {
  let looks: { readonly at: number; readonly amount: bigint }[] = [];
  return {
    seen: (amount) => {
      const at = now();
      // What has shrunk is another run, or another book: nothing is known of that yet.
      const isOther = looks.some((look) => look.amount > amount);
      looks = isOther ? [] : looks.filter((look) => at - look.at <= WINDOW_MS).slice(-MOST_LOOKS);
      looks.push({ at, amount });
      const [first] = looks;
      if (first === undefined || at - first.at < LEAST_MS) return undefined;
      return (Number(amount - first.amount) * 1_000) / (at - first.at);
    },
  };
}
