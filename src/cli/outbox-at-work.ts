import type { Backlog } from '../outbox/backlog.ts';
import { formatCount } from './output.ts';

/** Who leads, and how many workers there are. */
export function atWorkLine({ relay, workers }: Pick<Backlog, 'relay' | 'workers'>): string {
  const address = relay?.address == null ? '' : ` from ${relay.address}`;
  const leader = relay === null ? 'NOBODY LEADS' : `session ${relay.pid}${address} leads`;
  return `relay       ${leader}; workers: ${formatCount(workers)}`;
}

/** Of what was just let be sent. */
export const unsentNotice = (workers: number): string =>
  workers > 0 ? '' : 'No worker runs: they are sent when one does (liventix worker).\n';
