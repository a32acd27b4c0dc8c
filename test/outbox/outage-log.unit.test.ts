import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createOutageLog, type OutageLog } from '../../src/outbox/outage-log.ts';

const MINUTE = 60_000;
/** It has worked for so long when it is over. */
const HOLDS = 2_000;
let lines: { msg: string; failures?: number; lastedMs?: number }[];
let outage: OutageLog;

beforeEach(() => {
  vi.useFakeTimers();
  lines = [];
  const log = pino({ base: null }, { write: (line: string) => lines.push(JSON.parse(line)) });
  outage = createOutageLog({ log, server: 'Redis' });
});
afterEach(() => {
  vi.useRealTimers();
});

const fails = (times: number) => {
  for (let n = 0; n < times; n += 1) outage.failed('relay', new Error('connect ECONNREFUSED'));
};
const pass = (ms: number) => vi.advanceTimersByTime(ms);
const said = () => lines.map(({ msg }) => msg.replace(/;.*/, ''));

describe('the log of an outage', () => {
  it('says that it begins, once', () => {
    fails(1_000);
    expect(said()).toEqual(['Redis fails']);
    expect(lines[0]).toMatchObject({ err: { message: 'connect ECONNREFUSED' } });
  });

  it('says that it lasts at most once a minute, and how often it was met', () => {
    fails(10);
    pass(MINUTE - 1);
    fails(10);
    expect(said()).toEqual(['Redis fails']);
    pass(1);
    fails(10);
    expect(said()).toEqual(['Redis fails', 'Redis still fails']);
    expect(lines[1]).toMatchObject({ failures: 21, lastedMs: MINUTE });
  });

  it('says that it is over, once, and begins anew afterwards', () => {
    outage.works('relay');
    fails(3);
    pass(5_000);
    outage.works('relay');
    outage.works('relay');
    pass(HOLDS);
    fails(1);
    expect(said()).toEqual(['Redis fails', 'Redis works again', 'Redis fails']);
    expect(lines[1]).toMatchObject({ failures: 3, lastedMs: 5_000 });
  });

  it('is over when everybody who met it has found out', () => {
    outage.failed('listener', new Error('lost'));
    fails(1);
    outage.works('relay');
    pass(HOLDS);
    expect(said()).toEqual(['Redis fails']);
    outage.works('listener');
    pass(HOLDS);
    expect(said()).toEqual(['Redis fails', 'Redis works again']);
  });

  it('is one outage, and lasts, while a server comes and goes', () => {
    for (let n = 0; n < 10; n += 1) {
      fails(1);
      pass(1_000);
      outage.works('relay');
      pass(HOLDS - 1);
    }
    expect(said()).toEqual(['Redis fails']);
    pass(1);
    expect(said()).toEqual(['Redis fails', 'Redis works again']);
    expect(lines[1]).toMatchObject({ failures: 10, lastedMs: 10 * 1_000 + 9 * (HOLDS - 1) });
  });
});
