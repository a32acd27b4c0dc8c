import { setTimeout as sleep } from 'node:timers/promises';
import { describeHolder, type HorizonHolder } from '../db/horizon.ts';
import { toJson } from '../db/json-value.ts';
import { assertMigrated } from '../db/migrate.ts';
import { assertSupportedServer, type Pool } from '../db/pool.ts';
import { trackSockets } from '../db/sockets.ts';
import { toAppError } from '../db/sqlstate.ts';
import { type Backlog, countByState, type EndpointBacklog, horizonHolders, readBacklog } from '../outbox/backlog.ts';
import { within } from '../outbox/deadline.ts';
import { currentSeq } from '../outbox/outcomes.ts';
import { type Pace, paceSince } from '../outbox/pace.ts';
import { createWatchPool } from '../outbox/watch/pool.ts';
import { type CommandContext, requireDatabaseUrl } from './context.ts';
import { atWorkLine } from './outbox-at-work.ts';
import { formatCount, paintOut } from './output.ts';
import type { Paint } from './paint.ts';
import { printable } from './printable.ts';

const CLEAR_SCREEN = '\u001b[H\u001b[2J';
const TIMEOUT_MS = 5_000;
const GOODBYE_MS = 500;
const SHOWN_ENDPOINTS = 20;
const SHOWN_HOLDERS = 3;
const MS = 1_000;

interface WatchFlags {
  readonly json?: boolean;
  readonly everyMs: number;
}

interface Tick {
  readonly at: Date;
  readonly seconds: number;
  readonly pace: Pace;
  readonly backlog: Backlog;
  readonly holders: readonly HorizonHolder[];
}

/** Looks again and again until it is stopped. A database that goes away meanwhile is said, and asked again. */
export async function watchOutbox(context: CommandContext, flags: WatchFlags): Promise<void> {
  const sockets = trackSockets();
  const pool = createWatchPool({
    databaseUrl: requireDatabaseUrl(context.config),
    applicationName: 'liventix-status',
    max: 1,
    timeoutMs: TIMEOUT_MS,
    sockets,
  });
  // Whatever it waits for, Ctrl-C ends it.
  context.stop.addEventListener('abort', sockets.destroyAll, { once: true });
  try {
    await assertSupportedServer(pool);
    await assertMigrated(pool);
    await tickUntilStopped(pool, context, flags);
  } catch (error) {
    if (!context.stop.aborted) throw toAppError(error);
  } finally {
    await within(GOODBYE_MS, pool.end());
    sockets.destroyAll();
  }
}

async function tickUntilStopped(pool: Pool, context: CommandContext, flags: WatchFlags): Promise<void> {
  const isScreen = context.err.isTTY === true && flags.json !== true;
  let [seq, askedAt] = [await currentSeq(pool), performance.now()];
  while (!context.stop.aborted) {
    try {
      const pace = await paceSince(pool, seq);
      const seconds = (performance.now() - askedAt) / MS;
      [seq, askedAt] = [pace.seq, performance.now()];
      const tick = {
        at: new Date(),
        seconds,
        pace,
        backlog: await readBacklog(pool),
        holders: await horizonHolders(pool),
      };
      context.out.write(
        flags.json ? tickJson(tick) : isScreen ? `${CLEAR_SCREEN}${tickText(tick, paintOut(context))}` : tickLine(tick),
      );
    } catch (error) {
      if (context.stop.aborted) return;
      const { code, message } = toAppError(error);
      const at = new Date().toISOString();
      if (flags.json) context.out.write(`${toJson({ at, error: { code, message } })}\n`);
      else context.out.write(`${isScreen ? CLEAR_SCREEN : ''}${at}  not answered, asked again: ${code}: ${message}\n`);
    }
    await sleep(flags.everyMs, undefined, { signal: context.stop }).catch(() => undefined);
  }
}

function perSecond(count: number, { seconds }: Tick): number {
  return seconds > 0 ? Math.round((10 * count) / seconds) / 10 : 0;
}

/** Those that something waits for, or that are not sent to; most first. */
function worst({ endpoints }: Backlog): readonly (EndpointBacklog & { readonly waiting: number })[] {
  return endpoints
    .map((endpoint) => ({ ...endpoint, waiting: endpoint.pending + endpoint.queued + endpoint.delivering }))
    .filter(({ waiting, enabled, breaker }) => waiting > 0 || (enabled && breaker !== 'closed'))
    .toSorted((a, b) => b.waiting - a.waiting)
    .slice(0, SHOWN_ENDPOINTS);
}

function tickJson(tick: Tick): string {
  const { at, pace, backlog, holders } = tick;
  const { endpoints, ...rest } = backlog;
  return `${toJson({
    at: at.toISOString(),
    deliveredPerSecond: perSecond(pace.delivered, tick),
    failedPerSecond: perSecond(pace.failed, tick),
    lagSeconds: pace.lagSeconds,
    ...rest,
    deliveries: countByState(backlog),
    endpoints: worst(backlog),
    horizon: holders.slice(0, SHOWN_HOLDERS),
  })}\n`;
}

function tickLine(tick: Tick): string {
  const { at, pace, backlog } = tick;
  const { pending, queued, delivering, dead } = countByState(backlog);
  const open = backlog.endpoints.filter(({ enabled, breaker }) => enabled && breaker !== 'closed').length;
  return `${[
    at.toISOString(),
    `delivered ${perSecond(pace.delivered, tick)}/s`,
    `failed ${perSecond(pace.failed, tick)}/s`,
    `lag ${pace.lagSeconds === null ? '-' : `${pace.lagSeconds.toFixed(3)} s`}`,
    `unprocessed ${backlog.unprocessed}`,
    `waiting ${pending + queued + delivering}${backlog.isCut ? '+' : ''}`,
    `oldest ${(backlog.oldestUndeliveredSeconds ?? 0).toFixed(1)} s`,
    `dead ${dead}`,
    `breakers ${open}`,
    `relay ${backlog.relay?.pid ?? 'none'}`,
    `workers ${backlog.workers}`,
    `horizon ${horizonText(tick)}`,
  ].join('  ')}\n`;
}

function horizonText({ holders: [oldest] }: Tick): string {
  if (oldest === undefined) return '0 s';
  return oldest.kind === 'slot' ? `slot ${oldest.name}` : `${Math.floor(oldest.ageSeconds)} s`;
}

function tickText(tick: Tick, paint: Paint): string {
  const { at, pace, backlog, holders } = tick;
  const states = Object.entries(countByState(backlog)).map(([state, count]) => `${formatCount(count)} ${state}`);
  const { oldestUndeliveredSeconds: oldest } = backlog;
  const lag = pace.lagSeconds === null ? '' : `, ${pace.lagSeconds.toFixed(3)} s after the announcement`;
  return `${[
    `${at.toISOString()}  delivered ${perSecond(pace.delivered, tick)}/s, failed ${perSecond(pace.failed, tick)}/s${lag}`,
    `messages    ${formatCount(backlog.unprocessed)} are not yet turned into deliveries`,
    `deliveries  ${states.join(', ')}${backlog.isCut ? ', at least' : ''}`,
    `oldest      ${oldest === null ? 'no enabled endpoint waits for anything' : `waiting for ${oldest.toFixed(1)} s`}`,
    atWorkLine(backlog),
    ...(holders.length === 0 ? ['horizon     nothing holds it back'] : []),
    ...holders.slice(0, SHOWN_HOLDERS).map((holder) => `horizon     ${describeHolder(holder)}`),
    ...worst(backlog).map(
      (endpoint) => `endpoint    ${endpoint.id}  ${printable(endpoint.url)}  ${endpointText(endpoint, at, paint)}`,
    ),
  ].join('\n')}\n`;
}

function endpointText(
  endpoint: EndpointBacklog & { readonly waiting: number },
  at: Date,
  { bad, warn }: Paint,
): string {
  const { waiting, dead, enabled, breaker, probeAt } = endpoint;
  const letters = `${formatCount(dead)} dead`;
  const counts = `${formatCount(waiting)} waiting, ${dead === 0 ? letters : bad(letters)}`;
  if (!enabled) return `${counts}, ${warn('disabled')}`;
  if (breaker === 'closed' || probeAt === null) return counts;
  const inSeconds = Math.max(0, Math.ceil((probeAt.getTime() - at.getTime()) / MS));
  const probe = inSeconds === 0 ? 'by the next that is due' : `in ${inSeconds} s at the earliest`;
  return `${counts}, ${bad(`breaker ${breaker}`)}: probed ${probe}`;
}
