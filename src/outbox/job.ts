/** What a job of the queue names: a delivery, and which of its attempts. Everything else is read from the database. */
export interface DeliveryJob {
  readonly deliveryId: string;
  /** Of its message, `2026-11-29`: the partition. */
  readonly day: string;
  readonly attempt: number;
}

/** One statement serves the jobs of one day: nearly always there is one. */
export function byDay<T extends { readonly day: string }>(jobs: readonly T[]): ReadonlyMap<string, readonly T[]> {
  const days = new Map<string, T[]>();
  for (const job of jobs) {
    const ofDay = days.get(job.day);
    if (ofDay === undefined) days.set(job.day, [job]);
    else ofDay.push(job);
  }
  return days;
}
