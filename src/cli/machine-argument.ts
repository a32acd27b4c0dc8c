import { Argument, InvalidArgumentError } from 'commander';
import type { Machine } from '../states/machine.ts';
import { MACHINES } from '../states/machines.ts';
import { known } from './options.ts';

const NAMES: readonly string[] = MACHINES.map(({ name }) => name);

/** `<machine>` */
export const machineArgument = (): Argument => known(new Argument('<machine>', 'which').argParser(machineNamed), NAMES);

/** `<machine...>`, each once. */
export const machinesArgument = (): Argument =>
  known(
    new Argument('<machine...>', 'which').argParser((text: string, former: readonly Machine[] = []) => [
      ...new Set([...former, machineNamed(text)]),
    ]),
    NAMES,
  );

function machineNamed(text: string): Machine {
  const found = MACHINES.find(({ name }) => name === text);
  if (found !== undefined) return found;
  throw new InvalidArgumentError(`Give one of ${NAMES.join(', ')}.`);
}
