import type { Command } from 'commander';
import { MAX_TRIES } from '../db/try-until-free.ts';
import { LOCKED_FOR_AT_MOST_MS } from '../db/under-lock.ts';
import { wholeNumber } from './options.ts';

/** How much a command leaves to others who use the tables: as its flags are called, in tries and ms. */
export interface Patience {
  readonly tries: number;
  readonly longest: number;
}

export const USUAL_PATIENCE: Patience = { tries: MAX_TRIES, longest: LOCKED_FOR_AT_MOST_MS };

export const withTries = (command: Command): Command =>
  command.option(
    '--tries <n>',
    'how often a table that is in use is tried, for 50 ms each time',
    wholeNumber(1, 10_000),
    USUAL_PATIENCE.tries,
  );

export const withPatience = (command: Command): Command =>
  withTries(command).option(
    '--longest <ms>',
    'for how long a table may be locked at most; what takes longer is undone',
    wholeNumber(10, 3_600_000),
    USUAL_PATIENCE.longest,
  );

/** @param as what a step is, as `a table was locked` */
export const withRest = (command: Command, as: string, factor: number): Command =>
  command.option('--rest <n>', `leave others alone for n times as long as ${as}`, wholeNumber(0, 1_000), factor);
