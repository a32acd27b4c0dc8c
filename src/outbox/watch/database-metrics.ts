import { Gauge, type Registry } from 'prom-client';
import type { HorizonHolder } from '../../db/horizon.ts';
import type { Pool } from '../../db/pool.ts';
import { type Backlog, countByState, type EndpointBacklog, horizonHolders, readBacklog } from '../backlog.ts';
import { inTime } from '../deadline.ts';
import { byLabel } from './metrics.ts';

/** Many may scrape: within this time they share what was read. */
const FRESH_MS = 3_000;
/** A scrape answers after this with what was read before, however long the database takes. */
const PATIENCE_MS = 1_500;
/** Each open breaker is a series of its own. */
const MAX_BREAKERS = 50;
const MS = 1_000;

interface Read {
  readonly backlog: Backlog;
  readonly horizonSeconds: number;
  readonly at: number;
}

export interface DatabaseReader {
  /** Waits until what is known is fresh, or for `PATIENCE_MS`. Never throws. */
  refresh(): Promise<void>;
  latest(): Read | undefined;
  /** Whether the last try to read succeeded. */
  isUp(): boolean;
}

export function createDatabaseReader(pool: Pool, closing: AbortSignal): DatabaseReader {
  let latest: Read | undefined;
  let isUp = false;
  let underWay: Promise<void> | undefined;

  async function read(): Promise<void> {
    try {
      const backlog = await readBacklog(pool);
      const horizonSeconds = oldest(await horizonHolders(pool));
      latest = { backlog, horizonSeconds, at: performance.now() };
      isUp = true;
    } catch {
      // Why, /readyz says, which asks by itself.
      isUp = false;
    } finally {
      underWay = undefined;
    }
  }

  return {
    refresh: async () => {
      if (latest !== undefined && performance.now() - latest.at < FRESH_MS) return;
      underWay ??= read();
      await inTime(underWay, { ms: PATIENCE_MS, signal: closing }).catch(() => {
        isUp = false;
      });
    },
    latest: () => latest,
    isUp: () => isUp,
  };
}

// A slot's age is in transactions, and doctor tells it.
function oldest(holders: readonly HorizonHolder[]): number {
  return Math.max(0, ...holders.map((holder) => (holder.kind === 'slot' ? 0 : holder.ageSeconds)));
}

interface DatabaseGauge {
  readonly name: string;
  readonly help: string;
  readonly read: (read: Read) => number;
}

const GAUGES: readonly DatabaseGauge[] = [
  {
    name: 'liventix_database_read_age_seconds',
    help: 'How long ago what the database says was read.',
    read: ({ at }) => (performance.now() - at) / MS,
  },
  {
    name: 'liventix_messages_unprocessed',
    help: 'Messages that are not yet turned into deliveries.',
    read: ({ backlog }) => backlog.unprocessed,
  },
  {
    name: 'liventix_oldest_undelivered_seconds',
    help: 'Since the announcement of the message that has waited longest for an enabled endpoint; 0: none waits.',
    read: ({ backlog }) => backlog.oldestUndeliveredSeconds ?? 0,
  },
  {
    name: 'liventix_overdue_seconds',
    help: 'For how long something has been due that nobody attempts, endpoints with an open breaker left out; 0: nothing is.',
    read: ({ backlog }) => backlog.overdueSeconds,
  },
  {
    name: 'liventix_horizon_age_seconds',
    help: 'Age of the oldest transaction that holds back the snapshot horizon; 0: none does.',
    read: ({ horizonSeconds }) => horizonSeconds,
  },
  {
    name: 'liventix_partition_days_ahead',
    help: 'Whole days from today, today included, that have partitions of their own.',
    read: ({ backlog }) => backlog.daysAhead,
  },
  {
    name: 'liventix_workers',
    help: 'Workers that are present, of all processes.',
    read: ({ backlog }) => backlog.workers,
  },
  {
    name: 'liventix_relay_leaders',
    help: '1 when the relay of some process leads.',
    read: ({ backlog }) => Number(backlog.relay !== null),
  },
];

interface EndpointGauge {
  readonly name: string;
  readonly help: string;
  readonly label: string;
  readonly read: (backlog: Backlog) => Readonly<Record<string, number>>;
}

// Neither a URL, which may hold a token, nor whose an endpoint is.
const ENDPOINT_GAUGES: readonly EndpointGauge[] = [
  {
    name: 'liventix_deliveries',
    help: 'Deliveries by state, delivered ones left out, those of deleted endpoints among them; paused: pending at a disabled endpoint.',
    label: 'state',
    read: countByState,
  },
  {
    name: 'liventix_endpoints',
    help: 'Endpoints, enabled and disabled.',
    label: 'state',
    read: ({ endpoints }) =>
      countBy(['enabled', 'disabled'], endpoints, ({ enabled }) => (enabled ? 'enabled' : 'disabled')),
  },
  {
    name: 'liventix_endpoints_by_breaker',
    help: 'Enabled endpoints by the state of their breaker.',
    label: 'breaker',
    read: ({ endpoints }) =>
      countBy(['closed', 'open', 'half_open'], endpoints.filter(isEnabled), ({ breaker }) => breaker),
  },
  {
    name: 'liventix_endpoint_breaker_open',
    help: `1 for each enabled endpoint whose breaker is not closed, at most ${MAX_BREAKERS} of them.`,
    label: 'endpoint_id',
    read: ({ endpoints }) => {
      const open = endpoints.filter((endpoint) => isEnabled(endpoint) && endpoint.breaker !== 'closed');
      return Object.fromEntries(open.slice(0, MAX_BREAKERS).map(({ id }) => [id, 1]));
    },
  },
];

const isEnabled = ({ enabled }: EndpointBacklog): boolean => enabled;

function countBy<T>(
  names: readonly string[],
  items: readonly T[],
  nameOf: (item: T) => string,
): Record<string, number> {
  const counts = Object.fromEntries(names.map((name) => [name, 0]));
  for (const item of items) counts[nameOf(item)] = (counts[nameOf(item)] ?? 0) + 1;
  return counts;
}

/** What the database knows: each worker says the same of it. Before anything was read, nothing is said. */
export function gaugeDatabase(register: Registry, reader: DatabaseReader): void {
  new Gauge({
    name: 'liventix_database_read',
    help: '1 when what the database says was read for this scrape or moments before; 0: it did not answer in time.',
    registers: [register],
    collect() {
      this.set(Number(reader.isUp()));
    },
  });
  for (const { name, help, read } of GAUGES) {
    new Gauge({
      name,
      help,
      registers: [register],
      collect() {
        const latest = reader.latest();
        if (latest === undefined) this.remove();
        else this.set(read(latest));
      },
    });
  }
  for (const { read, ...gauge } of ENDPOINT_GAUGES) {
    byLabel(register, {
      ...gauge,
      read: () => {
        const latest = reader.latest();
        return latest === undefined ? {} : read(latest.backlog);
      },
    });
  }
}
