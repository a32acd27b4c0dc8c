import { type Backlog, countByState } from './backlog.ts';

/** Something that is not as it should be, and what to do about it. */
export interface Trouble {
  /** Whether something is not delivered because of it, and goes on not to be. */
  readonly isUrgent: boolean;
  readonly found: string;
  readonly todo: string;
}

/** What is due waits at most for a look of the relay, and for attempts that are under way. */
const OVERDUE_SECONDS = 60;
const FEW_DAYS = 2;

/**
 * What is wrong with the outbox, the worst first; as far as the backlog tells.
 * @param backlog without who is at work, where that could not be asked: on a replica nobody is
 */
export function findTroubles(
  backlog: Omit<Backlog, 'relay' | 'workers'>,
  atWork: Pick<Backlog, 'relay' | 'workers'> | undefined,
): readonly Trouble[] {
  const all = [
    ...troublesOfWorkers(backlog, atWork),
    ...overdueTrouble(backlog, atWork),
    ...troublesOfEndpoints(backlog),
    ...deadLetters(backlog),
  ];
  return all.toSorted((one, other) => Number(other.isUrgent) - Number(one.isUrgent));
}

function troublesOfWorkers(
  backlog: Omit<Backlog, 'relay' | 'workers'>,
  atWork: Pick<Backlog, 'relay' | 'workers'> | undefined,
): readonly Trouble[] {
  const waiting = waitingOf(backlog);
  if (atWork?.workers === 0) {
    return waiting > 0
      ? [
          {
            isUrgent: true,
            found: `No worker runs, and ${count(waiting, 'message or delivery', 'messages and deliveries')} wait: nothing is sent.`,
            todo: 'Start one: liventix worker',
          },
        ]
      : [
          {
            isUrgent: false,
            found: 'No worker runs. Nothing waits, and what is announced from now on will.',
            todo: 'Start one: liventix worker',
          },
        ];
  }
  const few = backlog.daysAhead < FEW_DAYS;
  return [
    ...(atWork !== undefined && atWork.relay === null && waiting > 0
      ? [
          {
            isUrgent: true,
            found: `${count(atWork.workers, 'worker runs', 'workers run')}, and none of them leads: nobody hands out what waits.`,
            todo: 'One takes the lead within seconds; where none does, their logs say why: whether the queue answers, and LISTEN arrives. See: liventix doctor',
          },
        ]
      : []),
    ...(few
      ? [
          {
            isUrgent: false,
            found: `Only ${count(backlog.daysAhead, 'day has', 'days have')} a partition of their own, today included: what is announced later goes into the one of other days.`,
            todo: 'A worker makes them every hour: its log says what is in the way.',
          },
        ]
      : []),
  ];
}

function overdueTrouble(
  { overdueSeconds }: Pick<Backlog, 'overdueSeconds'>,
  atWork: Pick<Backlog, 'workers'> | undefined,
): readonly Trouble[] {
  if (overdueSeconds < OVERDUE_SECONDS || atWork?.workers === 0) return [];
  return [
    {
      isUrgent: true,
      found: `Something has been due for ${Math.floor(overdueSeconds / 60)} min, and is not attempted, at an endpoint that takes what it is sent.`,
      todo: 'Where throughput goes on, start more workers; where it stands still, look at the logs of those there are. See: liventix doctor',
    },
  ];
}

function troublesOfEndpoints({ endpoints }: Pick<Backlog, 'endpoints'>): readonly Trouble[] {
  const open = endpoints.filter(({ enabled, breaker }) => enabled && breaker !== 'closed');
  const paused = endpoints.filter(({ enabled, pending }) => !enabled && pending > 0);
  return [
    ...(open.length === 0
      ? []
      : [
          {
            isUrgent: true,
            found: `${count(open.length, 'endpoint fails', 'endpoints fail')} whatever it is sent: ${named(open)}. What is for it waits, and one delivery tries from time to time.`,
            todo: 'Its page says how it answers. Tell whoever runs it; when it takes one again, the rest follows by itself.',
          },
        ]),
    ...(paused.length === 0
      ? []
      : [
          {
            isUrgent: false,
            found: `${count(sumOf(paused, 'pending'), 'delivery waits', 'deliveries wait')} for what is disabled: ${named(paused)}.`,
            todo: 'When it may be sent to again: liventix outbox endpoint enable',
          },
        ]),
  ];
}

function deadLetters(backlog: Pick<Backlog, 'endpoints' | 'deletedEndpoints'>): readonly Trouble[] {
  // Those of deleted endpoints are nobody's to retry.
  const dead = sumOf(backlog.endpoints, 'dead');
  if (dead === 0) return [];
  return [
    {
      isUrgent: false,
      found: `${count(dead, 'delivery was', 'deliveries were')} given up: no further attempt is made by itself.`,
      todo: 'Look at why, and when that is over, retry them: Dead letters.',
    },
  ];
}

/** Messages that are no deliveries yet, and deliveries that are to be attempted; without those of disabled endpoints. */
function waitingOf(backlog: Omit<Backlog, 'relay' | 'workers'>): number {
  const { pending, queued, delivering } = countByState(backlog);
  return backlog.unprocessed + pending + queued + delivering;
}

const NAMED = 3;

const named = (endpoints: readonly { readonly url: string }[]): string => {
  const rest = endpoints.length - NAMED;
  const urls = endpoints.slice(0, NAMED).map(({ url }) => url);
  return `${urls.join(', ')}${rest > 0 ? ` and ${rest} more` : ''}`;
};

const sumOf = <Name extends string>(rows: readonly Readonly<Record<Name, number>>[], name: Name): number =>
  rows.reduce((sum, row) => sum + row[name], 0);

const count = (n: number, one: string, many: string): string => `${n.toLocaleString('en')} ${n === 1 ? one : many}`;
