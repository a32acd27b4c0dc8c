import { styleText } from 'node:util';

type Words = (text: string) => string;

/** Colours by what they say. Whoever sees none reads the same: a colour never stands for a word. */
export interface Paint {
  readonly good: Words;
  readonly bad: Words;
  readonly warn: Words;
  readonly strong: Words;
}

const same: Words = (text) => text;
const PLAIN: Paint = { good: same, bad: same, warn: same, strong: same };

// Whether there is to be any was decided before.
const ALWAYS = { validateStream: false };
const COLOURED: Paint = {
  good: (text) => styleText('green', text, ALWAYS),
  bad: (text) => styleText(['bold', 'red'], text, ALWAYS),
  warn: (text) => styleText('yellow', text, ALWAYS),
  strong: (text) => styleText('bold', text, ALWAYS),
};

export const paintOf = (coloured: boolean | undefined): Paint => (coloured === true ? COLOURED : PLAIN);

/**
 * Whether a stream is to be coloured. A terminal is, unless NO_COLOR says no (https://no-color.org: whatever is in it) or TERM is dumb;
 * FORCE_COLOR colours what is none, and with 0 or false does not colour what is one. NO_COLOR is asked first, as commander asks.
 */
export function isColoured(stream: { readonly isTTY?: boolean }, env: Readonly<NodeJS.ProcessEnv>): boolean {
  const force = env['FORCE_COLOR'];
  if (env['NO_COLOR'] || force === '0' || force === 'false') return false;
  if (force !== undefined) return true;
  return stream.isTTY === true && env['TERM'] !== 'dumb';
}
