import { beforeEach, expect, it } from 'vitest';
import { fairLookups, type ResolveName } from '../../src/outbox/name-lookups.ts';

/** As libuv has them, of the 64 threads that bin/liventix asks for. */
const PLACES = 32;
/** Longer than a name may take that is not slow, and when the system gives up on one whose server is dead. */
const GIVEN_UP_MS = 10_000;
const ADDRESS = { address: '192.0.2.1', family: 4 };

let now: number;
let resolve: ResolveName;
let answered: string[];
let system: ReturnType<typeof systemWithDeadServers>;

beforeEach(() => {
  now = 0;
  answered = [];
  system = systemWithDeadServers();
  resolve = fairLookups(system.resolve, () => now);
});

/** Resolves so many names at a time in the order in which it was asked; those that begin with `dead` until it gives up on them. */
function systemWithDeadServers() {
  const line: (() => void)[] = [];
  const mended = new Set<string>();
  let hanging: (() => void)[] = [];
  const next = () => {
    while (hanging.length < PLACES && line.length > 0) line.shift()?.();
  };
  const askSystem: ResolveName = (name, _options, callback) => {
    line.push(() => {
      if (!name.startsWith('dead') || mended.has(name)) callback(null, [ADDRESS]);
      else hanging.push(() => callback(new Error('EAI_AGAIN'), []));
    });
    next();
  };
  return {
    resolve: askSystem,
    hanging: () => hanging.length,
    mend: (name: string) => mended.add(name),
    giveUp: () => {
      now += GIVEN_UP_MS;
      const given = hanging;
      hanging = [];
      for (const answer of given) answer();
      next();
    },
  };
}

const ask = (name: string) =>
  resolve(name, { all: true }, (error) => answered.push(error === null ? name : `${name} fails`));
const askDead = (count: number, prefix = 'dead') => {
  for (let n = 1; n <= count; n += 1) ask(`${prefix}-${n}`);
};
/** Until the system has given up on all that it was asked. */
const giveUpAll = () => {
  while (system.hanging() > 0) system.giveUp();
};

it('ten names that hang do not delay another, known or not', () => {
  ask('known');
  askDead(10);
  ask('known');
  ask('new');
  expect(answered).toEqual(['known', 'known', 'new']);
});

it('any number of names that hung before do not delay another, known or not', () => {
  askDead(100);
  giveUpAll();
  answered = [];
  askDead(100);
  ask('new');
  expect(answered).toEqual(['new']);
});

it('any number of names that nothing is known of do not delay one that was resolved before', () => {
  ask('known');
  askDead(100);
  ask('known');
  expect(answered).toEqual(['known', 'known']);
});

it('a name that hung and is well again is resolved when it is its turn, and then held up by none', () => {
  askDead(20);
  giveUpAll();
  answered = [];
  system.mend('dead-20');
  askDead(20);
  expect(answered).toEqual([]);
  giveUpAll();
  expect(answered).toContain('dead-20');
  answered = [];
  askDead(20);
  expect(answered).toEqual(['dead-20']);
});

it('every name that was asked for is answered in the end, once to each who asked', () => {
  for (const round of [1, 2]) {
    answered = [];
    askDead(50);
    askDead(50);
    giveUpAll();
    expect([round, answered.length, new Set(answered).size]).toEqual([round, 100, 50]);
  }
});
