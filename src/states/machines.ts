import { AppError } from '../errors.ts';
import type { Machine } from './machine.ts';
import { campaign } from './machines/campaign.ts';
import { escrow } from './machines/escrow.ts';
import { proposal } from './machines/proposal.ts';
import { ticket } from './machines/ticket.ts';

/** Every machine of the platform, by name. */
export const MACHINES: readonly Machine[] = [campaign, escrow, proposal, ticket];

/** @throws AppError STATE_MACHINE_UNKNOWN */
export function machineNamed(name: string): Machine {
  const machine = MACHINES.find((each) => each.name === name);
  if (machine !== undefined) return machine;
  throw new AppError(
    'STATE_MACHINE_UNKNOWN',
    `There is no machine ${JSON.stringify(name.slice(0, 100))}. There are: ${MACHINES.map((each) => each.name).join(', ')}.`,
  );
}
