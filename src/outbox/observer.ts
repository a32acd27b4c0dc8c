/** What of a worker goes round and round, and is not alive when it does not. */
export type Part = 'relay' | 'presence' | 'attempts';

export interface ObservedAttempt {
  /** null: it was delivered. */
  readonly errorClass: string | null;
  readonly durationMs: number;
  /** Between the moment from which its message was to be sent and this request; null when it is not the first of its delivery. */
  readonly lagMs: number | null;
}

/** Is told by a worker what it does, as it does it: often, so whoever listens does little more than count. */
export interface Observer {
  /** A part got on with its work. */
  beat(part: Part): void;
  claimed(deliveries: number): void;
  attempted(attempt: ObservedAttempt): void;
  finished(state: 'delivered' | 'dead'): void;
}

export const NOBODY: Observer = {
  beat: () => undefined,
  claimed: () => undefined,
  attempted: () => undefined,
  finished: () => undefined,
};
