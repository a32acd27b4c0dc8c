import { InvalidArgumentError } from 'commander';
import type { Machine } from '../states/machine.ts';
import { MACHINES } from '../states/machines.ts';

export const MACHINE_NAMES = MACHINES.map(({ name }) => name).join(', ');

/** Reads the name of a machine; anything else is a usage error that names them. */
export function machineArgument(text: string): Machine {
  const found = MACHINES.find(({ name }) => name === text);
  if (found !== undefined) return found;
  throw new InvalidArgumentError(`Give one of ${MACHINE_NAMES}.`);
}
