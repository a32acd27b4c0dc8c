import { setImmediate as afterOthers } from 'node:timers/promises';
import vm from 'node:vm';

/** What `withinTime` answers of work that it broke off. */
export const BROKEN_OFF = Symbol('broken off');

const IDLE = () => undefined;
/** So often a process that got too little of its processor is given more time, twice as much each. */
const TRIES = 5;
const MICROSECONDS_A_MS = 1_000;

let work: () => unknown = IDLE;
// A script is what the engine breaks off, with all that it calls: a pattern that backtracks, too.
const script = new vm.Script('work()');
const realm = vm.createContext({ work: () => work() });

/**
 * Does work that nobody can wait for, and breaks it off when it has used so much of a processor; costs a quarter of a millisecond. Within
 * work that is limited already the limit is that one's.
 * @param given does the same when it is done again, and leaves nothing half done that others see
 */
export function withinTime<T>(limitMs: number, given: () => T): T | typeof BROKEN_OFF {
  if (work !== IDLE) return given();
  work = given;
  try {
    for (let tries = 0; tries < TRIES; tries += 1) {
      const before = process.cpuUsage();
      const done = run<T>(limitMs * 2 ** tries);
      // A process that stood still, or had to share its processor, is not the work's fault.
      if (done !== BROKEN_OFF || usedMs(before) >= limitMs) return done;
    }
    return BROKEN_OFF;
  } finally {
    work = IDLE;
  }
}

function run<T>(timeoutMs: number): T | typeof BROKEN_OFF {
  try {
    return script.runInContext(realm, { timeout: timeoutMs }) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') return BROKEN_OFF;
    throw error;
  }
}

function usedMs(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before);
  return (user + system) / MICROSECONDS_A_MS;
}

/** Work that may be one of many, and says whether it is never broken off. */
interface Piece<T> {
  readonly isQuick: boolean;
  readonly does: () => T;
}

const AT_ONCE = 32;

/**
 * Does many at once in the time of one piece, where that is enough, which costs no more than that; else one after the other, each of which
 * sees to its own limit, and whatever else the process has to do goes on in between.
 */
export async function eachWithinTime<T>(limitMs: number, pieces: readonly Piece<T>[]): Promise<readonly T[]> {
  const done: T[] = [];
  for (let at = 0; at < pieces.length; at += AT_ONCE) {
    done.push(...(await fewWithinTime(limitMs, pieces.slice(at, at + AT_ONCE))));
  }
  return done;
}

async function fewWithinTime<T>(limitMs: number, pieces: readonly Piece<T>[]): Promise<readonly T[]> {
  if (pieces.filter(({ isQuick }) => !isQuick).length > 1) {
    const all = withinTime(limitMs, () => pieces.map(({ does }) => does()));
    if (all !== BROKEN_OFF) return all;
  }
  const done: T[] = [];
  for (const { isQuick, does } of pieces) {
    if (!isQuick) await afterOthers();
    done.push(does());
  }
  return done;
}
