export interface Alarm {
  ring(): void;
  /** Forgets that it rang. */
  reset(): void;
  /** Until it rings, or has rung since `reset`, or the time is up; answers whether it rang. */
  wait(ms: number): Promise<boolean>;
}

export function createAlarm(): Alarm {
  let hasRung = false;
  let onRing: (() => void) | undefined;
  return {
    ring: () => {
      hasRung = true;
      onRing?.();
    },
    reset: () => {
      hasRung = false;
    },
    wait: (ms) =>
      new Promise<boolean>((resolve) => {
        const finish = () => {
          clearTimeout(timer);
          onRing = undefined;
          resolve(hasRung);
        };
        const timer = setTimeout(finish, ms);
        onRing = finish;
        if (hasRung) finish();
      }),
  };
}
