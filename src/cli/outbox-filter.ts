import { type Command, InvalidArgumentError } from 'commander';
import { AppError } from '../errors.ts';
import type { DeliveryFilter } from '../outbox/delivery-filter.ts';
import { afterEndOf, beginningOf } from './instants.ts';
import { uuid } from './options.ts';

const MAX_DELIVERY_ID = 9_223_372_036_854_775_807n;

/** The options by which commands say which deliveries are meant. */
export interface FilterOptions {
  readonly topic?: string;
  readonly endpoint?: string;
  readonly from?: string;
  readonly to?: string;
}

export const withFilter = (command: Command): Command =>
  command
    .option('--topic <topic>', 'of this topic: ticket.purchased, ticket.* or *')
    .option('--endpoint <id>', 'to this endpoint', uuid)
    .option('--from <instant>', 'announced at this instant or later; of a date, from its beginning', beginningOf)
    .option('--to <instant>', 'announced before this instant; of a date, until its end', afterEndOf);

/** @throws AppError USAGE where the range is the wrong way round */
export function filterOf({ topic, endpoint, from, to }: FilterOptions): DeliveryFilter {
  if (from !== undefined && to !== undefined && Date.parse(from) > Date.parse(to)) {
    throw new AppError('USAGE', `--from ${from} is after --to ${to}: nothing is between them.`);
  }
  return { topic, endpointId: endpoint, from, to };
}

/** Reads the id of a delivery. */
export function deliveryId(text: string): bigint {
  if (/^\d{1,19}$/.test(text) && BigInt(text) >= 1n && BigInt(text) <= MAX_DELIVERY_ID) return BigInt(text);
  throw new InvalidArgumentError('Give the id of a delivery, a whole number: liventix outbox deliveries');
}
