import vm from 'node:vm';

/** What `withinTime` answers of work that it broke off. */
export const BROKEN_OFF = Symbol('broken off');

let work: () => unknown = () => undefined;
let isUnderWay = false;
// A script is what the engine breaks off, with all that it calls: a pattern that backtracks, too.
const script = new vm.Script('work()');
const realm = vm.createContext({ work: () => work() });

/**
 * Does work that nobody can wait for, and breaks it off when it takes too long; costs a quarter of a millisecond. Within work that is
 * limited already the limit is that one's.
 * @param given must leave nothing half done that others see
 */
export function withinTime<T>(limitMs: number, given: () => T): T | typeof BROKEN_OFF {
  if (isUnderWay) return given();
  work = given;
  isUnderWay = true;
  try {
    return script.runInContext(realm, { timeout: limitMs }) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') return BROKEN_OFF;
    throw error;
  } finally {
    isUnderWay = false;
  }
}
