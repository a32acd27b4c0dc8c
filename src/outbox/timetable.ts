/** Whether it is time again for something that is done every so often; the first time comes when that has passed once. */
export function createTimetable() {
  const doneAt = new Map<string, number>();
  const beganAt = performance.now();
  const isTime = (what: string, everyMs: number): boolean => {
    const now = performance.now();
    if (now - (doneAt.get(what) ?? beganAt) < everyMs) return false;
    doneAt.set(what, now);
    return true;
  };
  return Object.assign(isTime, {
    /** At the next opportunity. */
    again: (what: string): void => {
      doneAt.set(what, Number.NEGATIVE_INFINITY);
    },
  });
}
