/** So many requests may be on their way at once. */
export interface Permits {
  /** As many as are wanted, or as there are: at least one, and waits for that. None when it was closed. */
  take(wanted: number): Promise<number>;
  give(count: number): void;
  /** Nobody gets any more, and who waits is told so. */
  close(): void;
}

export function createPermits(total: number): Permits {
  let free = total;
  let isClosed = false;
  let waiting: (() => void)[] = [];
  const wakeAll = () => {
    const woken = waiting;
    waiting = [];
    for (const wake of woken) wake();
  };
  return {
    take: async (wanted) => {
      while (free === 0 && !isClosed) {
        await new Promise<void>((resolve) => {
          waiting.push(resolve);
        });
      }
      if (isClosed) return 0;
      const taken = Math.min(wanted, free);
      free -= taken;
      return taken;
    },
    give: (count) => {
      free += count;
      if (free > 0) wakeAll();
    },
    close: () => {
      isClosed = true;
      wakeAll();
    },
  };
}
